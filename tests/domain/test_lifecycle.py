"""The lifecycle is the table of the design, and nobody can get stuck in it."""

from dataclasses import dataclass
from itertools import product

import pytest
from transitions import MachineError

from deployledger.domain.exceptions import IllegalTransitionError
from deployledger.domain.lifecycle import DEADLINES, LIFECYCLE, MACHINE, State, Trigger, step_in
from deployledger.domain.values import Step

PIPELINE = ("requested", "artifacts_fetched", "packaged")
ALL = (*PIPELINE, "active", "completed", "failed", "cancelled", "deleting", "delete_failed", "deleted")

# Written out once more on purpose: a change of the code must be a decision, not an accident.
DESIGN: list[tuple[str, tuple[str, ...], str, str]] = [
    ("artifacts_fetched", ("requested",), "artifacts_fetched", ""),
    ("packaged", ("artifacts_fetched",), "packaged", ""),
    ("provisioned", ("packaged",), "active", ""),
    ("completed", ("active",), "completed", "batch job"),
    ("fail", PIPELINE, "failed", ""),
    ("fail", ("active",), "failed", "batch job"),
    ("request_update", (*PIPELINE, "active", "completed", "cancelled", "failed"), "requested", ""),
    ("retry", ("failed", "cancelled"), "requested", ""),
    ("cancel", PIPELINE, "cancelled", "nothing serves"),
    ("cancel_update", PIPELINE, "active", "something serves"),
    (
        "request_deletion",
        tuple(state for state in ALL if state not in ("deleting", "deleted")),
        "deleting",
        "",
    ),
    ("deletion_failed", ("deleting",), "delete_failed", ""),
    ("deleted", ("deleting",), "deleted", ""),
]

GUARDS = {
    "": (),
    "batch job": (("is_batch_job", True),),
    "nothing serves": (("is_serving", False),),
    "something serves": (("is_serving", True),),
}


@dataclass
class Subject:
    state: State
    is_batch_job: bool = False
    is_serving: bool = False


EVERY_SUBJECT = [
    Subject(state, is_batch_job, is_serving)
    for state, is_batch_job, is_serving in product(State, (False, True), (False, True))
]


def test_the_states_are_those_of_the_design() -> None:
    assert tuple(State) == ALL


def test_the_transitions_are_those_of_the_design_and_no_others() -> None:
    expected = {
        (trigger, source, dest, GUARDS[guard])
        for trigger, sources, dest, guard in DESIGN
        for source in sources
    }
    rows = [
        (row.trigger.value, row.source.value, row.dest.value, row.guards) for row in LIFECYCLE.transitions
    ]
    assert set(rows) == expected
    assert len(rows) == len(expected)


@pytest.mark.parametrize("subject", EVERY_SUBJECT, ids=str)
def test_the_compiled_table_does_what_the_machine_does(subject: Subject) -> None:
    for trigger in Trigger:
        model = Subject(subject.state, subject.is_batch_job, subject.is_serving)
        MACHINE.add_model(model, initial=subject.state.value)
        try:
            moved = MACHINE.events[trigger.value].trigger(model)
            expected = State(str(model.state)) if moved else None
        except MachineError:
            expected = None
        finally:
            MACHINE.remove_model(model)
        assert LIFECYCLE.next_state(subject, trigger) == expected, trigger


def test_deleted_is_the_only_final_state() -> None:
    final = {state for state in State if not any(row.source is state for row in LIFECYCLE.transitions)}
    assert final == {State.DELETED}


def test_every_state_is_reached() -> None:
    assert {row.dest for row in LIFECYCLE.transitions} | {State.REQUESTED} == set(State)


@pytest.mark.parametrize("subject", EVERY_SUBJECT, ids=str)
def test_every_state_that_is_not_final_has_a_way_out_by_cancel_or_delete(subject: Subject) -> None:
    if subject.state is State.DELETED:
        assert LIFECYCLE.triggers(subject) == []
    elif subject.state is State.DELETING:  # nobody can take it back, so it must end by itself
        assert LIFECYCLE.triggers(subject) == [Trigger.DELETION_FAILED, Trigger.DELETED]
        assert Step.DELETE in DEADLINES
    else:
        ways_out = {Trigger.CANCEL, Trigger.CANCEL_UPDATE, Trigger.REQUEST_DELETION}
        assert ways_out & set(LIFECYCLE.triggers(subject))


@pytest.mark.parametrize("is_batch_job", [False, True])
@pytest.mark.parametrize("state", list(State))
def test_every_step_has_a_deadline_and_can_fail(state: State, is_batch_job: bool) -> None:
    step = step_in(state, is_batch_job=is_batch_job)
    if step is not None:
        assert DEADLINES[step].total_seconds() > 0
        subject = Subject(state, is_batch_job=is_batch_job)
        assert {Trigger.FAIL, Trigger.DELETION_FAILED} & set(LIFECYCLE.triggers(subject))


@pytest.mark.parametrize(
    ("subject", "trigger", "says", "hint"),
    [
        (Subject(State.DELETED), Trigger.REQUEST_UPDATE, "is deleted: it cannot be updated", "Nothing more"),
        (Subject(State.DELETED), Trigger.REQUEST_DELETION, "cannot be deleted again", "Nothing more"),
        (
            Subject(State.ACTIVE),
            Trigger.CANCEL,
            "is active: there is nothing to cancel",
            "rollback to an earlier revision, delete",
        ),
        (
            Subject(State.FAILED),
            Trigger.CANCEL,
            "is failed",
            "rollback to an earlier revision, retry, delete",
        ),
        (Subject(State.DELETE_FAILED), Trigger.RETRY, "is delete failed", "Possible now: delete."),
        (
            Subject(State.REQUESTED),
            Trigger.RETRY,
            "there is nothing to retry",
            "rollback to an earlier revision, cancel, delete",
        ),
    ],
    ids=str,
)
def test_a_refusal_says_what_is_possible(subject: Subject, trigger: Trigger, says: str, hint: str) -> None:
    with pytest.raises(IllegalTransitionError) as refusal:
        LIFECYCLE.require(subject, trigger, "Deployment 'iris'")
    assert refusal.value.status_code == 409
    assert says in refusal.value.message
    assert hint in refusal.value.hint


@pytest.mark.parametrize("trigger", list(Trigger))
def test_every_trigger_has_words_for_its_refusal(trigger: Trigger) -> None:
    with pytest.raises(IllegalTransitionError):
        LIFECYCLE.require(Subject(State.DELETED), trigger, "Deployment 'iris'")
