"""The lifecycle of a deployment: the only place that says what may follow what.

It is declared once, as a `transitions` machine, and compiled into a table: a machine per aggregate costs
a thousand times more than looking up a table, and commands, replay and documentation all read the same one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol

from transitions import Machine

from deployledger.domain.exceptions import IllegalTransitionError
from deployledger.domain.values import Step


class State(StrEnum):
    """The states of the lifecycle; ``deleted`` is the only final one."""

    REQUESTED = "requested"
    ARTIFACTS_FETCHED = "artifacts_fetched"
    PACKAGED = "packaged"
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DELETING = "deleting"
    DELETE_FAILED = "delete_failed"
    DELETED = "deleted"


class Trigger(StrEnum):
    """What moves a deployment from one state to another."""

    ARTIFACTS_FETCHED = "artifacts_fetched"
    PACKAGED = "packaged"
    PROVISIONED = "provisioned"
    COMPLETED = "completed"
    FAIL = "fail"
    REQUEST_UPDATE = "request_update"
    RETRY = "retry"
    CANCEL = "cancel"
    CANCEL_UPDATE = "cancel_update"
    REQUEST_DELETION = "request_deletion"
    DELETION_FAILED = "deletion_failed"
    DELETED = "deleted"


class Work(NamedTuple):
    """What the service does in a state.

    Attributes:
        step: the step that it does.
        done: the trigger that records that the step is done.
        deadline: how long the step may take before it fails, unless a setting says otherwise.
    """

    step: Step
    done: Trigger
    deadline: timedelta


_JOB = {
    State.REQUESTED: Work(Step.FETCH, Trigger.ARTIFACTS_FETCHED, timedelta(hours=2)),
    State.ARTIFACTS_FETCHED: Work(Step.PACKAGE, Trigger.PACKAGED, timedelta(hours=1)),
    State.PACKAGED: Work(Step.PROVISION, Trigger.PROVISIONED, timedelta(minutes=15)),
}
_DELETION = {State.DELETING: Work(Step.DELETE, Trigger.DELETED, timedelta(minutes=15))}
_BATCH = {State.ACTIVE: Work(Step.RUN, Trigger.COMPLETED, timedelta(days=7))}

_WORK: Mapping[bool, Mapping[State, Work]] = {False: _JOB | _DELETION, True: _JOB | _BATCH | _DELETION}
"""The work in each state that is in progress, by whether the deployment is a batch job."""

DEADLINES = {work.step: work.deadline for work in _WORK[True].values()}
"""How long a step may take before it fails, unless a setting says otherwise."""

STEP_DONE_BY = {work.done: work.step for work in _WORK[True].values()}
"""The step that each trigger records as done; other triggers record none."""


def step_in(state: State, *, is_batch_job: bool) -> Step | None:
    """Return the step that the service does in a state, or None if nothing is in progress there."""
    work = _WORK[is_batch_job].get(state)
    return work.step if work is not None else None


def is_in_progress(state: State, *, is_batch_job: bool) -> bool:
    """Return whether the service has work to do in a state."""
    return state in _WORK[is_batch_job]


def job_steps(step: Step, *, is_batch_job: bool) -> tuple[Step, ...]:
    """Return the steps of the job that a step belongs to, in order: deleting is a job of one step."""
    if step is Step.DELETE:
        return (step,)
    return tuple(work.step for work in _WORK[is_batch_job].values() if work.step is not Step.DELETE)


_PIPELINE = list(_JOB)

_GUARDS: Mapping[str, Mapping[str, str]] = {
    "": {},
    "batch job": {"conditions": "is_batch_job"},
    "an earlier revision serves": {"conditions": "is_serving"},
    "no earlier revision serves": {"unless": "is_serving"},
}

_TRANSITIONS: list[tuple[Trigger, list[State], State, str]] = [
    (Trigger.ARTIFACTS_FETCHED, [State.REQUESTED], State.ARTIFACTS_FETCHED, ""),
    (Trigger.PACKAGED, [State.ARTIFACTS_FETCHED], State.PACKAGED, ""),
    (Trigger.PROVISIONED, [State.PACKAGED], State.ACTIVE, ""),
    (Trigger.COMPLETED, [State.ACTIVE], State.COMPLETED, "batch job"),
    (Trigger.FAIL, _PIPELINE, State.FAILED, ""),
    (Trigger.FAIL, [State.ACTIVE], State.FAILED, "batch job"),
    (
        Trigger.REQUEST_UPDATE,
        [*_PIPELINE, State.ACTIVE, State.COMPLETED, State.CANCELLED, State.FAILED],
        State.REQUESTED,
        "",
    ),
    (Trigger.RETRY, [State.FAILED, State.CANCELLED], State.REQUESTED, ""),
    (Trigger.CANCEL, _PIPELINE, State.CANCELLED, "no earlier revision serves"),
    (Trigger.CANCEL_UPDATE, _PIPELINE, State.ACTIVE, "an earlier revision serves"),
    (
        Trigger.REQUEST_DELETION,
        [state for state in State if state not in (State.DELETING, State.DELETED)],
        State.DELETING,
        "",
    ),
    (Trigger.DELETION_FAILED, [State.DELETING], State.DELETE_FAILED, ""),
    (Trigger.DELETED, [State.DELETING], State.DELETED, ""),
]

MACHINE = Machine(
    model=None,
    states=[state.value for state in State],
    initial=State.REQUESTED.value,
    auto_transitions=False,
    transitions=[
        {"trigger": trigger.value, "source": source.value, "dest": dest.value, **_GUARDS[guard]}
        for trigger, sources, dest, guard in _TRANSITIONS
        for source in sources
    ],
)
"""The declaration of the lifecycle: the only place that says which state may follow which."""


class Subject(Protocol):
    """What the guards of the lifecycle ask of a deployment."""

    @property
    def state(self) -> State:
        """The state it is in."""
        ...

    @property
    def is_batch_job(self) -> bool:
        """Whether its target is a batch inference job."""
        ...

    @property
    def is_serving(self) -> bool:
        """Whether a revision of it serves."""
        ...


@dataclass(frozen=True)
class Transition:
    """One row of the table.

    Attributes:
        guards: names of attributes of the deployment, and the value that each must have.
    """

    trigger: Trigger
    source: State
    dest: State
    guards: tuple[tuple[str, bool], ...] = ()

    def applies_to(self, subject: Subject) -> bool:
        """Return whether the guards allow this transition."""
        return all(getattr(subject, name) is expected for name, expected in self.guards)


class Lifecycle:
    """A table of transitions, compiled from a `transitions` machine."""

    def __init__(self, machine: Machine) -> None:
        automatic = {f"to_{state}" for state in machine.states} if machine.auto_transitions else set[str]()
        self.transitions: list[Transition] = [
            Transition(
                Trigger(trigger),
                State(source),
                State(str(source if row.dest is None else row.dest)),  # None: it stays where it is
                tuple((str(condition.func), bool(condition.target)) for condition in row.conditions),
            )
            for trigger, event in machine.events.items()
            if trigger not in automatic
            for source, rows in event.transitions.items()
            for row in rows
        ]
        self._table: dict[tuple[State, Trigger], list[Transition]] = {}
        for transition in self.transitions:
            self._table.setdefault((transition.source, transition.trigger), []).append(transition)
        self._unguarded = {place: rows[0].dest for place, rows in self._table.items() if not rows[0].guards}

    def next_state(self, subject: Subject, trigger: Trigger) -> State | None:
        """Return the state that the trigger leads to, or None where it is not allowed."""
        place = (subject.state, trigger)
        unguarded = self._unguarded.get(place)
        if unguarded is not None:
            return unguarded
        for transition in self._table.get(place, ()):
            if transition.applies_to(subject):
                return transition.dest
        return None

    def triggers(self, subject: Subject) -> list[Trigger]:
        """Return what is allowed now."""
        return [trigger for trigger in Trigger if self.next_state(subject, trigger) is not None]

    def require(self, subject: Subject, trigger: Trigger, described_as: object) -> State:
        """Return the state that the trigger leads to.

        Raises:
            IllegalTransitionError: where it is not allowed; the message names what is.
        """
        state = self.next_state(subject, trigger)
        if state is None:
            commands = [_COMMANDS[allowed] for allowed in self.triggers(subject) if allowed in _COMMANDS]
            why = f"{subject.state.replace('_', ' ')}: {_REFUSALS[trigger]}"
            hint = f"Possible now: {', '.join(commands)}." if commands else "Nothing more can happen to it."
            raise IllegalTransitionError(f"{described_as} is {why}.", hint=hint, why=why)
        return state


_COMMANDS = {
    Trigger.REQUEST_UPDATE: "update, rollback to an earlier revision",
    Trigger.RETRY: "retry",
    Trigger.CANCEL: "cancel",
    Trigger.CANCEL_UPDATE: "cancel",
    Trigger.REQUEST_DELETION: "delete",
}

_REFUSALS = {
    Trigger.ARTIFACTS_FETCHED: "its artifacts cannot be recorded as fetched",
    Trigger.PACKAGED: "it cannot be recorded as packaged",
    Trigger.PROVISIONED: "it cannot be recorded as provisioned",
    Trigger.COMPLETED: "it cannot be recorded as completed",
    Trigger.FAIL: "it cannot fail",
    Trigger.REQUEST_UPDATE: "it cannot be updated",
    Trigger.RETRY: "there is nothing to retry",
    Trigger.CANCEL: "there is nothing to cancel",
    Trigger.CANCEL_UPDATE: "there is no update to cancel",
    Trigger.REQUEST_DELETION: "it cannot be deleted again",
    Trigger.DELETION_FAILED: "its deletion cannot fail",
    Trigger.DELETED: "it cannot be recorded as deleted",
}

LIFECYCLE = Lifecycle(MACHINE)
"""The lifecycle of deployments."""
