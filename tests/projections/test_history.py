"""The history of a deployment, entry by entry."""

import json
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from deployledger.adapters.event_log.deferred import decode_deferring
from deployledger.adapters.event_log.mapper import EventMapper
from deployledger.domain import events
from deployledger.domain.event_records import EventRecord, time_of
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.responses import DeploymentHistoryEntry, DeploymentStatusResponse
from deployledger.domain.timestamps import to_microseconds
from deployledger.projections import status
from deployledger.projections.history import apply_all, differences, entries, past_status
from tests.domain.given import (
    ARTIFACT,
    DEPLOYMENT_ID,
    FAILURE,
    IMAGE,
    NOON,
    SERVING,
    cancelled,
    deletion_requested,
    failed,
    fetched,
    happened,
    history,
    packaged,
    requested,
    update_requested,
)

LARGEST = 1 << 20


def records(past: Sequence[DeploymentEvent]) -> list[EventRecord]:
    """Return events as a log has them: every second position, half a second after one another."""
    return [
        EventRecord(
            2 * number + 1,
            event.originator_id.bytes,
            event.originator_version,
            event.TOPIC,
            EventMapper().encode(event),
            event.event_id.bytes,
            to_microseconds(NOON + timedelta(seconds=number / 2)),
            event.actor,
            event.correlation_id.bytes,
            event.causation_id.bytes if event.causation_id else None,
        )
        for number, event in enumerate(past)
    ]


def told(stored: Sequence[EventRecord], largest_row: int = LARGEST) -> list[DeploymentHistoryEntry]:
    return entries(apply_all(stored, decode_deferring, largest_row=largest_row))


def damaged(record: EventRecord, topic: str = "") -> EventRecord:
    return record._replace(state=b"{}", topic=topic or record.topic)


def changes(entry: DeploymentHistoryEntry) -> dict[str, tuple[object, object]]:
    return {it.field: (it.before, it.after) for it in entry.changes}


def test_an_entry_says_what_when_who_and_why() -> None:
    past = history(*SERVING)
    entry = told(records(past))[1]
    assert (entry.version, entry.position) == (2, 3)
    assert (entry.event, entry.topic) == ("ArtifactsFetched", "deployment.artifacts_fetched")
    assert (entry.timestamp, entry.actor, entry.revision) == (past[1].timestamp, "ann", 1)
    assert entry.recorded_at == NOON + timedelta(seconds=0.5)
    assert (entry.event_id, entry.correlation_id) == (past[1].event_id, past[1].correlation_id)
    assert entry.causation_id is None
    assert entry.data == {"artifact": ARTIFACT.model_dump(), "simulated": False}
    assert entry.error == ""


def test_the_data_of_an_entry_is_what_else_the_event_says() -> None:
    found = told(records(history(*SERVING, update_requested(), failed(2))))
    assert [entry.event for entry in found] == [
        "Requested",
        "ArtifactsFetched",
        "Packaged",
        "Provisioned",
        "UpdateRequested",
        "Failed",
    ]
    assert found[0].data["orchestrator"] == "local"
    assert found[0].data["target"]["replicas"] == 2
    assert found[4].data["model_uri"] == "models:/iris/2"
    assert found[5].data["failure"]["reason"] == "server_exited"
    for entry in found:
        assert str(DEPLOYMENT_ID) not in json.dumps(entry.data)
        assert not {"timestamp", "actor", "revision"} & set(entry.data)


def test_entries_survive_json() -> None:
    for entry in told(records(history(*SERVING))):
        assert type(entry).model_validate_json(entry.model_dump_json()) == entry


def test_steps_durations_and_attempts() -> None:
    retried = happened(events.RetryRequested, attempt=2)
    deleted = happened(events.Deleted)
    past = [requested(), fetched(), failed(), retried, fetched(), packaged(), cancelled()]
    again = [update_requested(), deletion_requested(2), deleted]
    found = told(records(history(*past, *again)))
    assert [it.step for it in found] == [
        None,
        "fetch",
        FAILURE.step,
        None,
        "fetch",
        "package",
        None,
        None,
        None,
        "delete",
    ]
    took = [None, 0.5, 0.5, None, 0.5, 0.5, None, None, None, 0.5]
    assert [it.duration for it in found] == took
    assert [it.attempt for it in found] == [1, 1, 1, 2, 2, 2, 2, 1, 1, 1]


def test_causes_are_events_of_the_same_history() -> None:
    past = history(*SERVING)
    past[2] = past[2].model_copy(update={"causation_id": past[0].event_id})
    past[3] = past[3].model_copy(update={"causation_id": past[3].event_id})  # of itself: of none before it
    assert [it.cause for it in told(records(past))] == [None, None, 1, None]


def test_changes_are_between_the_answers_before_and_after() -> None:
    update = update_requested(tags={"team": "fauna", "size": 1})
    first, fetch, package, provision, second = told(records(history(*SERVING, update)))
    assert changes(first)["deployment_name"] == (None, "iris")
    assert changes(first)["tags.team"] == (None, "flora")
    assert changes(first)["deployment_target_config.replicas"] == (None, 2)
    assert "endpoint_url" not in changes(first)
    assert changes(fetch) == {
        "state": ("requested", "artifacts_fetched"),
        "artifact_digest": (None, ARTIFACT.digest),
    }
    assert changes(package)["image_digest"] == (None, IMAGE.digest)
    assert changes(provision)["status"] == ("creating", "active")
    assert changes(second)["revision"] == (1, 2)
    assert changes(second)["tags.team"] == ("flora", "fauna")
    assert changes(second)["tags.size"] == (None, 1)
    always = {"updated_at", "version", "progress", "message", "position"}
    for entry in (first, fetch, package, provision, second):
        assert not always & set(changes(entry))


def test_json_values_that_python_takes_for_equal_differ() -> None:
    def answer(value: object) -> DeploymentStatusResponse:
        return status.respond(status.fold(history(requested(tags={"deep": [{"it": value}]}))))

    assert differences(answer(1), answer(1)) == []
    (change,) = differences(answer(1), answer(True))
    assert (change.field, change.before, change.after) == ("tags.deep", [{"it": 1}], [{"it": True}])


def test_an_undecodable_event_is_shown_as_far_as_the_log_knows_it() -> None:
    stored = records(history(*SERVING, update_requested()))
    stored[2] = damaged(stored[2])
    found = told(stored)
    bad = found[2]
    assert (bad.event, bad.version, bad.position) == ("Packaged", 3, 5)
    assert (bad.timestamp, bad.actor, bad.revision, bad.data) == (time_of(stored[2]), "ann", 1, {})
    assert bad.event_id.bytes == stored[2].event_id
    assert bad.correlation_id.bytes == stored[2].correlation_id
    assert "does not decode" in bad.error
    assert bad.changes == []
    assert [it.error for it in found[3:]] == ["An earlier event could not be applied."] * 2
    assert [it.changes for it in found[3:]] == [[], []]
    assert found[4].data["model_uri"] == "models:/iris/2"


def test_an_event_that_nobody_knows_and_a_beginning_that_is_damaged() -> None:
    stored = records(history(*SERVING))
    stored[0] = damaged(stored[0], "deployment.half_done")
    found = told(stored)
    assert [it.event for it in found] == ["HalfDone", "ArtifactsFetched", "Packaged", "Provisioned"]
    assert all(it.error and not it.changes for it in found)
    assert past_status(list(apply_all(stored, decode_deferring, largest_row=LARGEST)), 7) is None


def test_ids_that_cannot_be_read_are_those_that_the_log_keeps() -> None:
    stored = records(history(*SERVING))
    record = stored[1]
    event_id = str(UUID(bytes=record.event_id)).encode()
    stored[1] = record._replace(state=record.state.replace(event_id, b"?"))
    found = told(stored)[1]
    assert found.event_id.bytes == record.event_id
    assert "does not decode" in found.error


def test_an_illegal_event_and_a_row_that_is_too_large() -> None:
    stored = records(history(*SERVING))
    illegal = [stored[0], stored[2]._replace(stream_version=2)]
    assert "IllegalTransitionError" in told(illegal)[1].error

    stored = records(history(requested(tags={"note": "x" * 530_000}), *SERVING[1:]))
    past = list(apply_all(stored, decode_deferring, largest_row=1024))
    assert [it.is_parked for it in past] == [True] * 4
    assert "bytes as JSON" in past[0].error


def test_a_status_says_what_is_not_in_it() -> None:
    stored = records(history(*SERVING))
    stored[2] = damaged(stored[2])
    found = past_status(list(apply_all(stored, decode_deferring, largest_row=LARGEST)), 7)
    assert found is not None
    assert (found.state, found.version, found.parked_events, found.position) == ("artifacts_fetched", 2, 2, 7)
    assert "2 later events could not be applied, from position 5 on: " in found.message
    assert "does not decode" in found.message
