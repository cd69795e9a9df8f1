"""Which commands of a batch are stored: the decision alone, without a database."""

from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from deployledger.adapters.event_log.commands import Conflict, Known, Repeated, Stored, decide
from deployledger.domain.event_log import CommandKey
from tests.faults.writers import command

ONE, OTHER = UUID(int=1), UUID(int=2)


def test_the_first_event_of_a_new_stream_can_be_stored() -> None:
    assert decide([command((ONE, 1))], Known()) == [None]


def test_commands_follow_one_another_within_a_batch() -> None:
    assert decide([command((ONE, 1), (ONE, 2)), command((ONE, 3))], Known()) == [None, None]


def test_of_two_commands_at_the_same_version_the_first_wins() -> None:
    assert decide([command((ONE, 1)), command((ONE, 1))], Known()) == [None, Conflict(ONE, 0, 1)]


def test_a_version_that_was_not_reached_is_a_conflict() -> None:
    assert decide([command((ONE, 5))], Known({ONE: 2})) == [Conflict(ONE, 4, 2)]


def test_a_gap_within_a_command_is_a_conflict() -> None:
    (outcome,) = decide([command((ONE, 1), (ONE, 3))], Known())
    assert isinstance(outcome, Conflict)


def test_a_conflict_in_its_second_stream_refuses_the_whole_command() -> None:
    outcomes = decide([command((ONE, 1), (OTHER, 1)), command((ONE, 1))], Known({OTHER: 1}))
    assert outcomes == [Conflict(OTHER, 0, 1), None]


def test_a_refused_command_takes_neither_versions_nor_its_key() -> None:
    outcomes = decide([command((ONE, 2), key="a"), command((ONE, 1), key="a")], Known())
    assert outcomes == [Conflict(ONE, 1, 0), None]


def test_a_key_is_used_once_even_within_a_batch() -> None:
    first, second = command((ONE, 1), key="a"), command((OTHER, 1), key="a")
    assert first.key is not None
    assert decide([first, second], Known()) == [None, Repeated(first.key)]


def test_a_repeated_key_is_told_before_a_conflict() -> None:
    taken = CommandKey("a", "fingerprint", ONE, 1)
    assert decide([command((ONE, 1), key="a")], Known({ONE: 1}, keys={"a": taken})) == [Repeated(taken)]


def test_an_event_that_is_stored_already_was_not_acknowledged() -> None:
    it = command((ONE, 1), key="a")
    assert it.key is not None
    known = Known({ONE: 1}, {(ONE, 1): (it.rows[0].event_id, 7)}, {"a": it.key})
    assert decide([it], known) == [Stored(7)]


def test_another_event_at_that_version_is_a_conflict() -> None:
    known = Known({ONE: 1}, {(ONE, 1): (uuid4(), 7)})
    assert decide([command((ONE, 1))], known) == [Conflict(ONE, 0, 1)]


places = st.lists(
    st.tuples(st.sampled_from([ONE, OTHER, UUID(int=3)]), st.integers(1, 4)), min_size=1, max_size=3
)
batches = st.lists(st.tuples(places, st.sampled_from([None, "a", "b"])), max_size=12)


@given(batches)
def test_a_batch_is_decided_as_if_each_command_were_alone(
    batch: list[tuple[list[tuple[UUID, int]], str]],
) -> None:
    commands = [command(*at, key=key) for at, key in batch]
    at_once = decide(commands, Known())
    versions: dict[UUID, int] = {}
    keys: dict[str, CommandKey] = {}
    for one, outcome in zip(commands, at_once, strict=True):
        (alone,) = decide([one], Known(dict(versions), {}, dict(keys)))
        assert alone == outcome
        if alone is None:
            for row in one.rows:
                assert row.originator_version == versions.get(row.originator_id, 0) + 1
                versions[row.originator_id] = row.originator_version
            if one.key is not None:
                assert one.key.key not in keys
                keys[one.key.key] = one.key
