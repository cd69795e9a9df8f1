"""The whole log through the domain again."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as for_all

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.audit import replaying
from deployledger.audit.canonical_state import canonical
from deployledger.audit.replaying import Kind, Replayed, replay
from deployledger.audit.what_if import load
from deployledger.domain import events
from deployledger.domain.deployment import Deployment
from deployledger.domain.events import DeploymentEvent, Event
from deployledger.domain.exceptions import (
    ConfigurationError,
    MachineLearningServiceError,
    ResourceNotFoundError,
)
from deployledger.domain.lifecycle import LIFECYCLE, Trigger
from deployledger.domain.names import NameReleased, NameReservation, NameReserved, reservation_id
from tests.domain import given
from tests.domain.given import (
    BATCH_JOB,
    DEPLOYMENT_ID,
    NOON,
    Happening,
    cancelled,
    context,
    deletion_requested,
    failed,
    fetched,
    happened,
    packaged,
    provisioned,
    requested,
    update_requested,
)
from tests.logs import records_of
from tests.projections import rules
from tests.projections.examples import empty, histories

IDS = [UUID(int=(number << 120) + 7, version=4) for number in (1, 70, 130, 250)]
"""In different quarters of all ids."""

AWKWARD = {"é": [1.5, -0.0, 1e22, 12345678901234567890], "": {"z": None, "a": "\u2028\U0001f600"}, "A": True}
HISTORIES: list[list[Happening]] = [
    [
        requested(name="a", tags=AWKWARD),
        fetched(),
        packaged(),
        provisioned(),
        update_requested(2, name="b", tags={}),
        cancelled(2),
        update_requested(3, name="b", rollback_to=1, resources=None),
    ],
    [requested(target=BATCH_JOB), fetched(), packaged(), provisioned(), failed(), happened(
        events.RetryRequested, revision=1, attempt=2
    )],
    [requested(tags={}), failed(), deletion_requested(), happened(events.Deleted, revision=1)],
    [requested(), cancelled(), deletion_requested(), happened(
        events.DeletionFailed, revision=1, failure=given.FAILURE
    )],
]  # fmt: skip
DIGEST = "sha256:078075ed51ba50d43eecbf1f834f8137c93e8aaf2fcf97a999aa0a4f6e6456ec"
"""What these come to, on whatever machine."""


def past(name: str = "iris") -> list[list[Event]]:
    """Return the streams of all these, and of a name."""
    streams: list[list[Event]] = [
        [happening(stream, version) for version, happening in enumerate(happenings, 1)]
        for stream, happenings in zip(IDS, HISTORIES, strict=True)
    ]
    reservation = NameReservation(name)
    for number in range(2):
        reservation.reserve(IDS[number], by=context())
        reservation.release(IDS[number], by=context())
    reservation.reserve(IDS[2], by=context())
    return [*streams, list(reservation.collect_events())]


def in_turn(streams: Sequence[Sequence[Event]]) -> list[Event]:
    """Return the events of streams, mixed, each in its order."""
    longest = max(map(len, streams))
    return [stream[number] for number in range(longest) for stream in streams if number < len(stream)]


@contextmanager
def opened(url: str, *stored: Event) -> Iterator[DatabaseEventLog]:
    log = open_event_log(url, create=True)
    try:
        if stored:
            log.append(stored)
        yield log
    finally:
        log.close()


def by_hand(url: str, *statements: str) -> None:
    """Change the events past the software."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            for (name,) in triggers.fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                connection.execute(statement.replace("@", ""))
        return
    with psycopg.connect(url) as session:
        session.execute("ALTER TABLE deployledger.events DISABLE TRIGGER ALL")
        for statement in statements:
            session.execute(statement.replace("@", "deployledger.").encode())


def change_state(url: str, position: int, before: str, after: str) -> None:
    """Replace something in the stored state of an event."""
    if url.startswith("sqlite:///"):
        new = f"CAST(replace(CAST(state AS TEXT), '{before}', '{after}') AS BLOB)"
    else:
        new = f"convert_to(replace(convert_from(state, 'UTF8'), '{before}', '{after}'), 'UTF8')"
    by_hand(url, f"UPDATE @events SET state = {new} WHERE position = {position}")


# The digest -----------------------------------------------------------------------------------------


def test_the_digest_is_the_same_everywhere(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(database_url, *in_turn(past())) as log:
        replayed = replay(log)
        assert (replayed.events, replayed.streams, replayed.not_replayed) == (26, 5, 0)
        assert (replayed.problems, replayed.differences, replayed.until) == ((), (), 26)
        assert replayed.digest == DIGEST
        seen: list[tuple[int, int]] = []
        four = replay(log, workers=4, progress=lambda *it: seen.append(it))
        assert (four.digest, four.events, four.streams) == (DIGEST, 26, 5)
        assert (seen[0], seen[-1]) == ((0, 26), (26, 26))
        monkeypatch.setattr(replaying, "_EVENTS_IN_MEMORY", 5)  # one part of the streams after the other
        assert replay(log).digest == DIGEST
    for seed, zone in (("1", "Asia/Kathmandu"), ("2", "America/St_Johns")):
        program = (
            "import sys; from deployledger.adapters.event_log import open_event_log; "
            "from deployledger.audit.replaying import replay; "
            "print(replay(open_event_log(sys.argv[1])).digest); sys.stdout.flush(); import os; os._exit(0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, database_url],
            env={**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed, "TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == DIGEST


def test_the_order_of_streams_does_not_matter_and_all_else_does(database_url: str) -> None:
    with opened(database_url, *(event for stream in past() for event in stream)) as log:
        assert replay(log).digest == DIGEST
        found = {replay(log, until=position).digest for position in range(1, 27)}
        assert len(found) == 26  # each event changes it
    empty(database_url)
    with opened(database_url) as log:
        nothing = hashlib.sha256(b"deployledger states 1\n").hexdigest()
        assert replay(log).digest == f"sha256:{nothing}"


def _plain(state: Deployment | NameReservation) -> dict[str, Any]:
    """Return what the canonical form says, in the plainest way."""
    if isinstance(state, NameReservation):
        holder = state.holder and str(state.holder)
        return {
            "aggregate": "name",
            "holder": holder,
            "id": str(state.id),
            "name": state.name,
            "version": state.version,
        }

    def dumped(value: Any) -> Any:
        return None if value is None else value.model_dump(mode="json")

    def time(moment: datetime) -> str:
        return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06}Z"

    fields = ("name", "orchestrator", "version", "serving_revision", "endpoint_url")
    of_revision = ("number", "model_uri", "tags", "rollback_to", "attempt")
    values = ("target", "resources", "artifact", "image")
    return {
        "aggregate": "deployment",
        "id": str(state.id),
        "state": str(state.state),
        "created_on": time(state.created_on),
        "modified_on": time(state.modified_on),
        "failure": dumped(state.failure),
        "revisions": [
            {name: getattr(it, name) for name in of_revision}
            | {name: dumped(getattr(it, name)) for name in values}
            for it in state.revisions.values()
        ],
        **{name: getattr(state, name) for name in fields},
    }


def _is_canonical(state: Deployment | NameReservation) -> None:
    assert canonical(state) == json.dumps(_plain(state), sort_keys=True, separators=(",", ":"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@for_all(past=histories())
def test_the_canonical_form_has_everything(past: list[DeploymentEvent]) -> None:
    states: dict[UUID, Deployment] = {}
    for event in past:
        stream = event.originator_id
        if stream in states:
            states[stream].apply(event)
        else:
            states[stream] = Deployment.replay([event])
        _is_canonical(states[stream])
    names = set(vars(next(iter(states.values()))))
    told = set(_plain(next(iter(states.values()))))
    # Who did it is no part of what was made; a new field is to be told, or named here.
    assert names - told == {"correlation_id", "last_event_id", "last_actor", "_pending"}


def test_names_and_times_in_canonical_form() -> None:
    reservation = NameReservation("é")
    _is_canonical(reservation)
    reservation.reserve(IDS[0], by=context())
    _is_canonical(reservation)
    noon_elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=45)))
    for moment in (NOON, noon_elsewhere, NOON.replace(tzinfo=None)):
        event = requested()(DEPLOYMENT_ID, 1).model_copy(update={"timestamp": moment})
        assert isinstance(event, events.Requested)
        assert f'"created_on":"{NOON:%Y-%m-%dT%H:%M:%S}.000000Z"' in canonical(Deployment(event))


# Problems -------------------------------------------------------------------------------------------


def _one(replayed: Replayed) -> tuple[int, str, int, str, Kind]:
    (found,) = replayed.problems
    assert found.message.endswith(".")
    return found.position, found.stream_id, found.stream_version, found.topic, found.kind


def test_a_missing_event_is_a_gap_of_versions_and_positions(database_url: str) -> None:
    with opened(database_url, *(event for stream in past() for event in stream)) as log:
        by_hand(database_url, "DELETE FROM @events WHERE position IN (3, 13, 18)")
        for workers in (1, 2):
            replayed = replay(log, workers=workers)
            assert [(it.position, it.stream_version, it.kind) for it in replayed.problems] == [
                (3, 0, Kind.POSITION_GAP),
                (4, 4, Kind.VERSION_GAP),
                (13, 0, Kind.POSITION_GAP),  # the last one of its stream
                (18, 0, Kind.POSITION_GAP),
                (19, 2, Kind.VERSION_GAP),
            ]
            assert replayed.problems[1].message == "Event 3 of the stream is missing before event 4."
            assert replayed.problems[0].message == "Position 3 is missing in the log."
            assert replayed.not_replayed == 4 + 3
            assert (replayed.events, replayed.streams) == (23, 5)


def test_a_gap_at_the_end_is_told_though_nothing_comes_behind_it(database_url: str) -> None:
    with opened(database_url, *(event for stream in past() for event in stream)) as log:
        by_hand(database_url, "DELETE FROM @events WHERE position IN (12, 13)")
        for until, message in ((12, "Position 12 is missing"), (13, "Positions 12 to 13 are missing")):
            (problem,) = replay(log, until=until).problems
            assert (problem.position, problem.kind) == (12, Kind.POSITION_GAP)
            assert problem.message == f"{message} in the log."


def test_events_in_another_order_than_their_versions(database_url: str) -> None:
    with opened(database_url, *(event for stream in past() for event in stream)) as log:
        for old, new in ((3, 1003), (4, 3), (1003, 4)):
            by_hand(database_url, f"UPDATE @events SET position = {new} WHERE position = {old}")
        replayed = replay(log)
        assert _one(replayed) == (3, str(IDS[0]), 4, "deployment.provisioned", Kind.ORDER)
        (problem,) = replayed.problems
        assert problem.message == "Event 4 of the stream comes before event 3, which is at position 4."
        assert replayed.not_replayed == 5


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"event_id":"', '"event_id":"x'),
        ('"actor":"ann"', '"actor":7'),
        ('"artifact":{', '"artifact":{"more":1,'),
        ('{"timestamp"', '{timestamp"'),
        ('{"timestamp"', '{"class_version":9,"timestamp"'),
    ],
)
def test_an_event_that_does_not_decode(before: str, after: str, database_url: str) -> None:
    with opened(database_url, *in_turn(past())) as log:
        change_state(database_url, 6, before, after)
        replayed = replay(log)
        assert _one(replayed) == (6, str(IDS[0]), 2, "deployment.artifacts_fetched", Kind.UNDECODABLE)
        assert replayed.not_replayed == 6
        assert replay(log, until=5).problems == ()


def test_an_event_of_a_topic_that_is_not_known(database_url: str) -> None:
    with opened(database_url, *in_turn(past())) as log:
        by_hand(database_url, "UPDATE @events SET topic = 'deployment.exploded' WHERE position = 6")
        assert _one(replay(log)) == (6, str(IDS[0]), 2, "deployment.exploded", Kind.UNDECODABLE)


@pytest.mark.parametrize(
    ("happenings", "version", "message"),
    [
        ([requested(), packaged()], 2, "is requested: it cannot be recorded as packaged"),
        ([requested(), fetched(), fetched()], 3, "its artifacts cannot be recorded as fetched"),
        ([fetched()], 1, "The history begins with deployment.artifacts_fetched."),
        ([requested(), requested()], 2, "was requested already"),
        ([requested(), fetched(2)], 2, "is at revision 1: deployment.artifacts_fetched of revision 2"),
        ([requested(), update_requested(3)], 2, "deployment.update_requested of revision 3"),
        ([requested(), deletion_requested(), happened(events.Deleted), cancelled()], 4, "is deleted"),
    ],
)
def test_an_illegal_transition(
    happenings: list[Happening], version: int, message: str, database_url: str
) -> None:
    wrong = [it(DEPLOYMENT_ID, number) for number, it in enumerate([*happenings, failed()], 1)]
    with opened(database_url, *in_turn([wrong, *past()])) as log:
        replayed = replay(log)
        position, stream, found, topic, kind = _one(replayed)
        assert (stream, found, topic) == (str(DEPLOYMENT_ID), version, wrong[version - 1].TOPIC)
        assert kind is Kind.ILLEGAL_TRANSITION
        assert message in replayed.problems[0].message
        assert records_of(log, after=position - 1, limit=1)[0].stream == stream
        assert replayed.not_replayed == len(wrong) - version + 1
        alone = replay(log, deployment_id=DEPLOYMENT_ID)
        assert (alone.problems, alone.events, alone.streams) == (replayed.problems, len(wrong), 1)
        assert replay(log, deployment_id=IDS[0]).problems == ()


def _name_event(kind: type[NameReserved | NameReleased], name: str, holder: UUID, version: int) -> Event:
    by = context()
    return kind(
        originator_id=reservation_id("iris"),
        originator_version=version,
        timestamp=by.at,
        event_id=by.new_id(),
        actor=by.actor,
        correlation_id=by.correlation_id,
        name=name,
        deployment_id=holder,
    )


@pytest.mark.parametrize(
    ("kind", "name", "holder", "message"),
    [
        (NameReserved, "iris", IDS[1], "is in use by"),
        (NameReleased, "iris", IDS[1], "which does not hold it"),
        (NameReleased, "rose", IDS[0], "not 'iris'"),
    ],
)
def test_a_name_is_reserved_once(kind: Any, name: str, holder: UUID, message: str, database_url: str) -> None:
    first = _name_event(NameReserved, "iris", IDS[0], 1)
    with opened(database_url, first, _name_event(kind, name, holder, 2)) as log:
        replayed = replay(log)
        assert _one(replayed)[:3] == (2, str(reservation_id("iris")), 2)
        assert (replayed.problems[0].kind, replayed.not_replayed) == (Kind.ILLEGAL_TRANSITION, 1)
        assert message in replayed.problems[0].message


@pytest.mark.parametrize("name", ["rose", "iris"])
def test_a_stream_of_something_else(name: str, database_url: str) -> None:
    wrong = {
        "rose": _name_event(NameReserved, "rose", IDS[0], 1),  # in the stream of iris
        "iris": requested()(reservation_id("iris"), 1),
    }[name]
    second = _name_event(NameReserved, "iris", IDS[0], 2)
    with opened(database_url, wrong, second) as log:
        replayed = replay(log)
        assert _one(replayed)[4] is Kind.ILLEGAL_TRANSITION


def test_what_cannot_be_replayed(database_url: str) -> None:
    with opened(database_url, *in_turn(past())) as log:
        with pytest.raises(ResourceNotFoundError):
            replay(log, deployment_id=DEPLOYMENT_ID)
        for workers in (0, 65):
            with pytest.raises(ConfigurationError, match=f"{workers} workers are out of range"):
                replay(log, workers=workers)


def test_a_log_in_memory_is_replayed_by_one_process() -> None:
    with opened("sqlite://", *in_turn(past())) as log:
        assert replay(log, workers=3).digest == DIGEST


# Under another rule ---------------------------------------------------------------------------------


def _different(replayed: Replayed) -> list[tuple[str, int, str | None, str, str | None]]:
    assert replayed.digest is None
    assert [it.position for it in replayed.differences] == sorted(it.position for it in replayed.differences)
    return [(it.deployment_id[:2], it.version, it.state, it.ours, it.theirs) for it in replayed.differences]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_would_have_gone_differently(workers: int, database_url: str) -> None:
    def against(name: str) -> Replayed:
        reference = f"{rules.__name__}:{name}"
        return replay(log, workers=workers, against=reference if workers > 1 else load(reference))

    with opened(database_url, *in_turn(past())) as log:
        assert _different(against("SAME")) == []
        if workers > 1:  # which are slow to start, and find what one finds
            assert len(_different(against("NO_CANCEL"))) == 2
            return
        assert _different(against("NO_RETRY")) == [("46", 6, "failed", "requested", None)]
        assert _different(against("BACK_TO_ARTIFACTS")) == [
            ("46", 6, "failed", "requested", "artifacts_fetched")
        ]
        # After a difference the history goes on as it did: later ones are found too.
        assert sorted(_different(against("NO_CANCEL"))) == [
            ("01", 6, "requested", "active", None),
            ("fa", 2, "requested", "cancelled", None),
        ]
        said = against("tagged")
        assert sorted((it.version, it.topic, it.state, it.reason) for it in said.differences) == sorted(
            [
                (1, "deployment.requested", None, "It has no team."),
                (1, "deployment.requested", None, "It has no team."),
                (6, "deployment.retry_requested", "failed", "ann left iris as it was."),
                (3, "deployment.deletion_requested", "failed", "ann left iris as it was."),
            ]
        )


def test_a_lifecycle_is_compared_where_ours_allows_the_event(database_url: str) -> None:
    wrong = [it(DEPLOYMENT_ID, number) for number, it in enumerate([requested(), packaged()], 1)]
    with opened(database_url, *wrong) as log:
        replayed = replay(log, against=rules.NO_CANCEL)
        assert (replayed.differences, len(replayed.problems)) == ((), 1)


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("rules", "names nothing that can be imported"),
        ("no.such.module:RULE", "cannot be imported: ModuleNotFoundError"),
        (f"{rules.__name__}:MISSING", "cannot be imported: AttributeError"),
        (f"{rules.__name__}:NUMBER", "Expected a Lifecycle, a Machine or a policy, got int"),
        (f"{rules.__name__}:State", "Expected a Lifecycle, a Machine or a policy"),
        (f"{rules.__name__}:TRAFFIC_LIGHT", "not a lifecycle of deployments: 'go' is not a valid Trigger"),
        (f"{rules.__name__}:GUARDED", "a condition 'is_friday' that deployments do not know"),
        (f"{rules.__name__}:stumbles", "failed at position 1: RuntimeError: deployment.requested?"),
        (f"{rules.__name__}:ends", "failed at position 1: SystemExit"),
        (f"{rules.__name__}:says_true", "returned True at position 1"),
    ],
)
def test_what_is_no_rule(against: str, message: str) -> None:
    with opened("sqlite://", *in_turn(past())) as log:
        with pytest.raises(ConfigurationError) as caught:
            replay(log, against=against)
        assert message in caught.value.message
        assert caught.value.hint


def test_a_policy_that_changes_what_it_is_given_changes_nothing(database_url: str) -> None:
    with opened(database_url, *in_turn(past())) as log:
        replayed = replay(log, against=rules.meddles)
        assert (replayed.problems, replayed.differences) == ((), ())


def test_a_rule_that_fails_in_a_worker_is_as_wrong(database_url: str) -> None:
    with opened(database_url, *in_turn(past())) as log:
        with pytest.raises(MachineLearningServiceError, match="The policy failed at position") as caught:
            replay(log, against=f"{rules.__name__}:stumbles", workers=2)
        assert caught.value.status_code == 400
        with pytest.raises(ConfigurationError, match="cannot be passed to worker processes"):
            replay(log, against=rules.SAME, workers=2)


def test_a_machine_as_somebody_else_writes_it() -> None:
    assert {Trigger(it) for it in rules.SAME.events if not it.startswith("to_")} == set(Trigger)
    assert any(it.startswith("to_") for it in rules.SAME.events), "automatic transitions are part of the test"
    assert len(LIFECYCLE.transitions) == len(rules._ROWS)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("originator_id = 'zz'", "The stream id 'zz' is not a UUID."),
        ("originator_version = 'two'", "Invalid stream version: versions start at 1."),
    ],
)
def test_what_is_not_of_the_columns_types_is_told(
    change: str, says: str, workers: int, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    with opened(url, *in_turn(past())) as log:
        clean = replay(log)
        with closing(sqlite3.connect(tmp_path / "log.db")) as database:
            for (name,) in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                database.execute(f"DROP TRIGGER {name}")
            database.execute(f"UPDATE events SET {change} WHERE position = 2")
            database.commit()
        found = replay(log, workers=workers)
        assert (found.problems[0].position, found.problems[0].message) == (2, says)
        assert found.digest != clean.digest


def test_a_position_that_is_huge_does_not_make_it_endless(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    with opened(url, *in_turn(past())) as log:
        end = log.position()
        with closing(sqlite3.connect(tmp_path / "log.db")) as database:
            for (name,) in database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                database.execute(f"DROP TRIGGER {name}")
            database.execute(f"UPDATE events SET position = {2**40} WHERE position = {end}")
            database.commit()
        [problem] = replay(log).problems
        assert problem.message == f"Positions {end} to {2**40 - 1} are missing in the log."
