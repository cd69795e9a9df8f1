"""Other rules, in a module that other processes can import."""

from typing import Any

from transitions import Machine

from deployledger.domain.deployment import Deployment
from deployledger.domain.events import DeploymentEvent, Requested
from deployledger.domain.lifecycle import MACHINE, Lifecycle, State, Trigger

_ROWS = [(str(it.trigger), str(it.source), str(it.dest), it.guards) for it in Lifecycle(MACHINE).transitions]


def machine(*without: Trigger, **options: Any) -> Machine:
    """Our lifecycle as somebody else may write it, without some triggers."""
    return Machine(
        model=None,
        states=[it.value for it in State],
        initial="requested",
        transitions=[
            {
                "trigger": trigger,
                "source": source,
                "dest": dest,
                "conditions": [name for name, expected in guards if expected],
                "unless": [name for name, expected in guards if not expected],
            }
            for trigger, source, dest, guards in _ROWS
            if trigger not in without
        ],
        **options,
    )


SAME = machine()
NO_RETRY = Lifecycle(machine(Trigger.RETRY))
NO_CANCEL = machine(Trigger.CANCEL, Trigger.CANCEL_UPDATE)
BACK_TO_ARTIFACTS = machine(Trigger.RETRY)
BACK_TO_ARTIFACTS.add_transition("retry", ["failed", "cancelled"], "artifacts_fetched")
TRAFFIC_LIGHT = Machine(model=None, states=["red", "green"], initial="red")
TRAFFIC_LIGHT.add_transition("go", "red", "green")
GUARDED = machine(Trigger.RETRY)
GUARDED.add_transition("retry", "failed", "requested", conditions="is_friday")
NUMBER = 7


def tagged(deployment: Deployment | None, event: DeploymentEvent) -> str | None:
    """A policy: everything has a team, and what failed is not deleted."""
    if isinstance(event, Requested) and "team" not in event.tags:
        return "It has no team."
    if deployment is not None and deployment.state is State.FAILED and event.TOPIC.endswith("requested"):
        return f"{event.actor} left {deployment.name} as it was."
    return None


def stumbles(deployment: Deployment | None, event: DeploymentEvent) -> str | None:
    raise RuntimeError(f"{event.TOPIC}?")


def says_true(deployment: Deployment | None, event: DeploymentEvent) -> Any:
    return True


def meddles(deployment: Any, event: Any) -> None:
    """Change what was given, and print: nothing of ours may change by it."""
    print("meddling")
    if deployment is not None:
        deployment.version += 7
        deployment.revisions.clear()


def ends(deployment: Any, event: Any) -> None:
    """End the program."""
    raise SystemExit(0)
