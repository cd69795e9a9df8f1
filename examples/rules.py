"""Rules to compare a history with: ``deployledger replay --against examples.rules:no_unknown_team``."""

from transitions import Machine

from deployledger.domain import MACHINE, Deployment, DeploymentEvent, Requested, State, UpdateRequested

TEAMS = {"fauna", "search"}


def no_unknown_team(deployment: Deployment | None, event: DeploymentEvent) -> str | None:
    """Say why an event would have been refused; ``deployment`` is as before it, None if it is the first."""
    if isinstance(event, Requested | UpdateRequested) and event.tags.get("team") not in TEAMS:
        return f"{event.tags.get('team', 'nobody')} is no team of ours."
    return None


def _retries_only_after_a_cancellation() -> Machine:
    machine = Machine(model=None, states=[state.value for state in State], initial="requested")
    for trigger, event in MACHINE.events.items():
        for source, rows in event.transitions.items():
            for row in rows:
                if (trigger, source) != ("retry", "failed"):
                    checks = row.conditions
                    machine.add_transition(
                        trigger,
                        source,
                        row.dest,
                        conditions=[check.func for check in checks if check.target],
                        unless=[check.func for check in checks if not check.target],
                    )
    return machine


STRICTER = _retries_only_after_a_cancellation()
