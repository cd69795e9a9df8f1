"""What-if rules for a replay: another lifecycle, or a policy."""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from transitions import Machine

from deployledger.domain.deployment import Deployment
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.lifecycle import LIFECYCLE, Lifecycle, State

Policy = Callable[[Deployment | None, DeploymentEvent], str | None]
"""Says why an event would have been refused, or None; the deployment is as it was before the event, and None
before it was requested. It changes nothing of what it is given."""

_GUARDS = ("is_batch_job", "is_in_progress", "is_serving")
_FORMS = (
    "Name a Lifecycle, a transitions.Machine with the states and triggers of docs/lifecycle.md, or a "
    "function (deployment, event) that returns why the event would have been refused, or None."
)


@dataclass(frozen=True)
class RuleDifference:
    """An event after which another rule would have said something else.

    Attributes:
        position: the event's place in the log.
        deployment_id: the deployment.
        deployment_name: its name before the event.
        version: the event's place in the history of the deployment.
        topic: which event it is.
        state: the state before it; None if it is the first one.
        ours: the state that it led to.
        theirs: the state that it would have led to; None if it would have been refused.
        reason: why it would have been refused, in the words of the policy; empty for a lifecycle.
    """

    position: int
    deployment_id: str
    deployment_name: str
    version: int
    topic: str
    state: str | None
    ours: str
    theirs: str | None
    reason: str


class Rule:
    """A rule to compare with ours.

    Args:
        given: a `Lifecycle`, a ``transitions.Machine``, or a `Policy`.

    Raises:
        ConfigurationError: if it is none of them, or a machine of something else.
    """

    def __init__(self, rule: object) -> None:
        if isinstance(rule, Lifecycle):
            self._lifecycle: Lifecycle | None = rule
        elif isinstance(rule, Machine):
            self._lifecycle = _compiled(rule)
        elif callable(rule) and not isinstance(rule, type):
            self._lifecycle = None
            self._policy: Callable[..., Any] = rule
        else:
            raise ConfigurationError(
                f"Expected a Lifecycle, a Machine or a policy, got {type(rule).__name__}.", hint=_FORMS
            )

    def compare(
        self, before: Deployment | None, event: DeploymentEvent, position: int, stream_id: str
    ) -> RuleDifference | None:
        """Return what would have gone differently, if something would; ours allows the event.

        Raises:
            ConfigurationError: if the policy fails, or says something else than it should.
        """
        ours = State.REQUESTED if before is None else LIFECYCLE.next_state(before, event.trigger_for(before))
        if ours is None:
            return None
        theirs: State | None = ours
        reason = ""
        if self._lifecycle is None:
            refusal = self._said(before, event, position)
            if refusal is not None:
                theirs, reason = None, refusal
        elif before is not None:
            theirs = self._lifecycle.next_state(before, event.trigger_for(before))
        if theirs is ours:
            return None
        name = before.name if before is not None else str(getattr(event, "name", ""))
        return RuleDifference(
            position,
            stream_id,
            name,
            event.originator_version,
            event.TOPIC,
            before.state.value if before is not None else None,
            ours.value,
            theirs.value if theirs is not None else None,
            reason,
        )

    def _said(self, before: Deployment | None, event: DeploymentEvent, position: int) -> str | None:
        try:
            answer = self._policy(_copied(before), event)
        except (Exception, SystemExit) as error:  # it is not ours
            raise ConfigurationError(
                f"The policy failed at position {position}: {type(error).__name__}: {error}.",
                hint="Its argument `deployment` is None before the deployment was requested.",
            ) from error
        if answer is not None and not isinstance(answer, str):
            raise ConfigurationError(
                f"The policy returned {answer!r} at position {position}, which is neither a reason nor None.",
                hint="Return a sentence that says why the event would have been refused, or None.",
            )
        return answer


def _copied(deployment: Deployment | None) -> Deployment | None:
    """Return a copy, so that a policy that changes what it is given changes nothing of ours."""
    if deployment is None:
        return None
    copied = copy(deployment)
    copied.revisions = {number: copy(revision) for number, revision in deployment.revisions.items()}
    return copied


def load(reference: str) -> object:
    """Return what ``package.module:attribute`` names; this runs the module.

    Raises:
        ConfigurationError: if it cannot be imported.
    """
    module, mark, name = reference.partition(":")
    if not (module and mark and name):
        raise ConfigurationError(
            f"{reference!r} names nothing that can be imported.", hint="Name it package.module:attribute."
        )
    try:
        value = import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (Exception, SystemExit) as error:  # a module may raise whatever it likes
        raise ConfigurationError(
            f"{reference!r} cannot be imported: {type(error).__name__}: {error}.",
            hint="Name it package.module:attribute, in a package that Python finds.",
        ) from error
    return value


def _compiled(machine: Any) -> Lifecycle:
    try:
        lifecycle = Lifecycle(machine)
    except ValueError as error:
        raise ConfigurationError(
            f"The machine is not a lifecycle of deployments: {error}.", hint=_FORMS
        ) from error
    for transition in lifecycle.transitions:
        for guard, _ in transition.guards:
            if guard not in _GUARDS:
                raise ConfigurationError(
                    f"The machine has a condition {guard!r} that deployments do not know.",
                    hint=f"Conditions are {', '.join(_GUARDS)}; for others write a policy.",
                )
    return lifecycle
