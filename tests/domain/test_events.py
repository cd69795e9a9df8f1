"""Events are stored for ever: their topics, their JSON, and how old ones are read."""

import json
from collections.abc import Iterator
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from eventsourcing import utils as eventsourcing_topics
from eventsourcing.domain import OriginatorIDError, OriginatorVersionError
from eventsourcing.persistence import MapperDeserialisationError, StoredEvent
from eventsourcing.utils import clear_topic_cache, resolve_topic
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deployledger.adapters.event_log.mapper import EventMapper
from deployledger.domain import clock_corrections, events, names
from deployledger.domain.deployment import Deployment
from deployledger.domain.events import DeploymentEvent, Event
from deployledger.domain.exceptions import IllegalTransitionError
from deployledger.domain.lifecycle import Trigger
from deployledger.domain.reasons import FailureReason
from deployledger.domain.values import Step
from tests.domain.arbitrary import FIELDS, NAME_EVENTS, of_class
from tests.domain.given import SERVING, deletion_requested, history

# Stored in users' databases: an entry may be added, never changed or removed.
TOPICS: dict[str, type[Event]] = {
    "deployment.requested": events.Requested,
    "deployment.artifacts_fetched": events.ArtifactsFetched,
    "deployment.packaged": events.Packaged,
    "deployment.provisioned": events.Provisioned,
    "deployment.completed": events.Completed,
    "deployment.failed": events.Failed,
    "deployment.update_requested": events.UpdateRequested,
    "deployment.retry_requested": events.RetryRequested,
    "deployment.cancelled": events.Cancelled,
    "deployment.deletion_requested": events.DeletionRequested,
    "deployment.deletion_failed": events.DeletionFailed,
    "deployment.deleted": events.Deleted,
    "deployment_name.reserved": names.NameReserved,
    "deployment_name.released": names.NameReleased,
    "event_log.clock_corrected": clock_corrections.ClockCorrected,
}

REASONS = [
    "invalid_configuration",
    "model_not_found",
    "model_empty",
    "model_unreadable",
    "model_unsafe",
    "model_invalid",
    "model_changed",
    "artifact_damaged",
    "unsupported_format",
    "runtime_missing",
    "registry_unavailable",
    "packaging_failed",
    "port_in_use",
    "server_exited",
    "server_not_ready",
    "batch_input_invalid",
    "batch_failed",
    "deadline_exceeded",
    "storage_failed",
    "external_service_failed",
    "internal_error",
    "not_found",
    "conflict",
    "credential_in_request",
]

EVENT_CLASSES: list[type[Event]] = [*FIELDS, *NAME_EVENTS]


def concrete_classes(base: type[Event]) -> set[type[Event]]:
    found = {base} if "TOPIC" in base.__dict__ else set()
    return found.union(*(concrete_classes(below) for below in base.__subclasses__()))


@pytest.fixture
def own_topics() -> Iterator[None]:
    """Forget, after the test, the topics that its own event classes registered."""
    before = dict(eventsourcing_topics._topic_cache)
    types_before = dict(eventsourcing_topics._type_cache)
    yield
    clear_topic_cache()
    eventsourcing_topics._topic_cache.update(before)
    eventsourcing_topics._type_cache.update(types_before)


# Topics and names -----------------------------------------------------------------------------------


def test_the_topics_are_those_that_are_stored() -> None:
    ours = {it for it in concrete_classes(Event) if it.__module__.startswith("deployledger.")}
    assert {it.TOPIC: it for it in ours} == TOPICS
    for topic, event_class in TOPICS.items():
        assert resolve_topic(topic) is event_class


def test_the_names_of_reasons_and_steps_are_those_that_are_stored() -> None:
    assert {reason.value for reason in FailureReason} == set(REASONS)
    assert [step.value for step in Step] == ["fetch", "package", "provision", "run", "delete"]


def test_every_event_but_the_first_has_a_trigger() -> None:
    for event_class in FIELDS:
        assert event_class is events.Requested or hasattr(event_class, "trigger")


# Round trip -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_class", EVENT_CLASSES)
@settings(max_examples=25, deadline=None)
@for_all(data=st.data())
def test_what_is_stored_is_what_is_read(event_class: type[Event], data: st.DataObject) -> None:
    event = data.draw(of_class(event_class))
    stored = EventMapper().to_stored_event(event)
    assert (stored.topic, stored.originator_id) == (event_class.TOPIC, event.originator_id)
    assert stored.originator_version == event.originator_version
    again = EventMapper().to_domain_event(stored)
    assert type(again) is event_class
    assert again == event


def test_the_json_has_the_fields_and_neither_stream_nor_version() -> None:
    event = history(*SERVING)[0]
    state = json.loads(EventMapper().to_stored_event(event).state)
    assert set(state) == {
        "timestamp",
        "event_id",
        "actor",
        "correlation_id",
        "causation_id",
        "revision",
        "name",
        "model_uri",
        "target",
        "resources",
        "tags",
        "orchestrator",
    }
    assert state["timestamp"] == "2026-03-03T12:00:01Z"


# Immutability and order -----------------------------------------------------------------------------


def test_events_and_their_values_cannot_be_changed() -> None:
    event = history(*SERVING)[1]
    assert isinstance(event, events.ArtifactsFetched)
    with pytest.raises(ValidationError, match="frozen"):
        event.actor = "eve"
    with pytest.raises(ValidationError, match="frozen"):
        event.artifact.digest = "sha256:0"


def test_events_refuse_fields_that_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="extra"):
        events.Cancelled.model_validate({**_fields(), "colour": "red"})


@pytest.mark.parametrize(("stream", "version"), [("same", 1), ("same", 3), ("other", 2)])
def test_events_apply_only_in_their_place(stream: str, version: int) -> None:
    first, second = history(*SERVING)[:2]
    deployment = Deployment.replay([first])
    event = second.model_copy(
        update={
            "originator_id": first.originator_id if stream == "same" else uuid4(),
            "originator_version": version,
        }
    )
    with pytest.raises((OriginatorIDError, OriginatorVersionError)):
        deployment.apply(event)
    assert deployment.version == 1


def test_a_history_begins_with_requested_and_has_it_once() -> None:
    first, second = history(*SERVING)[:2]
    with pytest.raises(IllegalTransitionError, match=r"begins with deployment\.artifacts_fetched"):
        Deployment.replay([second])
    with pytest.raises(IllegalTransitionError, match="begins with nothing"):
        Deployment.replay([])
    with pytest.raises(OriginatorVersionError):
        Deployment.replay([first, first])
    again = first.model_copy(update={"originator_version": 2})
    with pytest.raises(IllegalTransitionError, match="was requested already"):
        Deployment.replay([first, again])


# Reading what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"state": b'{"class_version":2,'}, "version 2 of it was written by newer software"),
        ({"topic": "deployment.renamed_by_a_newer_version"}, "deployment.renamed_by_a_newer_version"),
        ({"topic": "os:system"}, "os:system"),
        ({"state": b"not JSON"}, "does not decode"),
        ({"state": b"[]"}, "does not decode"),
        ({"state": b"{}"}, "does not decode"),
        ({"state": b""}, "does not decode"),
        ({"state": b"\xff\xfe"}, "does not decode"),
    ],
    ids=lambda it: str(it)[:40],
)
def test_what_does_not_decode_is_a_clear_error(changes: dict[str, Any], says: str) -> None:
    event = history(*SERVING, deletion_requested())[-1]
    stored = EventMapper().to_stored_event(event)
    if changes.get("state", b"").startswith(b'{"class_version"'):
        changes = {"state": changes["state"] + stored.state[1:]}
    broken = StoredEvent(
        **{
            "originator_id": stored.originator_id,
            "originator_version": stored.originator_version,
            "topic": stored.topic,
            "state": stored.state,
            **changes,
        }
    )
    with pytest.raises(MapperDeserialisationError) as refusal:
        EventMapper().to_domain_event(broken)
    assert says in str(refusal.value)
    assert f"Event 5 of stream {event.originator_id}" in str(refusal.value)


# Upcasting ------------------------------------------------------------------------------------------


def test_an_event_of_an_older_version_is_upcast(own_topics: None) -> None:
    class Tasted(DeploymentEvent):
        """Version 1 called ``verdict`` ``opinion``; version 3 counts the tasters."""

        TOPIC: ClassVar[str] = "test.tasted"
        trigger: ClassVar[Trigger] = Trigger.FAIL  # the class outlives the test, and every event has one
        class_version: ClassVar[int] = 3

        verdict: str
        tasters: int

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["verdict"] = state.pop("opinion")

        @staticmethod
        def upcast_v2_v3(state: dict[str, Any]) -> None:
            state["tasters"] = 1

    common = _fields()
    stream, version = common.pop("originator_id"), common.pop("originator_version")
    of_version_1 = StoredEvent(
        stream, version, "test.tasted", json.dumps({**common, "opinion": "ripe"}).encode()
    )
    of_version_2 = StoredEvent(
        stream,
        version,
        "test.tasted",
        json.dumps({"class_version": 2, **common, "verdict": "ripe"}).encode(),
    )
    for stored in (of_version_1, of_version_2):
        event = EventMapper().to_domain_event(stored)
        assert isinstance(event, Tasted)
        assert (event.verdict, event.tasters) == ("ripe", 1)
        stored_again = EventMapper().to_stored_event(event)
        assert json.loads(stored_again.state)["class_version"] == 3
        assert EventMapper().to_domain_event(stored_again) == event


def _fields() -> dict[str, Any]:
    event = history(*SERVING)[0]
    return {
        "originator_id": event.originator_id,
        "originator_version": 1,
        "timestamp": event.timestamp.isoformat(),
        "event_id": str(event.event_id),
        "actor": "ann",
        "correlation_id": str(event.correlation_id),
        "revision": 1,
    }
