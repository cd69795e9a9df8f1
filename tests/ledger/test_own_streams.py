"""An application may have events of its own in streams of its own, in the log of the deployments."""

from abc import ABC
from collections.abc import Iterator
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest

from deployledger.adapters.event_log import deferred, mapper
from deployledger.adapters.event_log.log import DatabaseEventLog
from deployledger.adapters.event_log.mapper import event_class_of
from deployledger.audit.keys import Signer
from deployledger.audit.ledger import Ledger
from deployledger.audit.replaying import Kind, replay
from deployledger.domain.event_log import events_of
from deployledger.domain.events import EVENT_CLASSES, DeploymentEvent, Event
from tests.domain.given import DEPLOYMENT_ID, SERVING, context, fetched, history, requested

NOTES = UUID(int=77)


class NoteTaken(Event):
    """Somebody took a note."""

    TOPIC: ClassVar[str] = "test_notes.taken"

    text: str


@pytest.fixture(params=["imported", "not imported"])
def imported(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Audit in a process that knows the class of the application's events, and in one that does not."""
    if request.param == "not imported":

        def unless_a_note(topic: str) -> type[Event]:
            return event_class_of("unknown" if topic == NoteTaken.TOPIC else topic)

        for module in (mapper, deferred):
            monkeypatch.setattr(module, "event_class_of", unless_a_note)
            module._decoder.cache_clear()
    yield
    for module in (mapper, deferred):
        module._decoder.cache_clear()


def note(version: int, stream: UUID = NOTES) -> NoteTaken:
    by = context()
    return NoteTaken(
        originator_id=stream,
        originator_version=version,
        timestamp=by.at,
        event_id=uuid4(),
        actor="ann",
        correlation_id=uuid4(),
        text="it is ripe",
    )


def problems(ledger: Ledger, signer: Signer, **options: Any) -> list[tuple[int | None, str]]:
    ledger.checkpoint(signer)
    return [(it.position, it.kind) for it in ledger.verify([signer.verifier], **options).problems]


@pytest.mark.usefixtures("imported")
def test_they_verify_and_replay_as_the_deployments_do(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer
) -> None:
    log.append(history(*SERVING))
    ours = replay(log)
    log.append([note(1)])
    kept = ledger.checkpoint(signer).note
    log.append([note(2), note(3)])
    assert problems(ledger, signer) == []
    assert problems(ledger, signer, since=kept) == []
    replayed = replay(log)
    assert (replayed.problems, replayed.not_replayed, replayed.digest) == ((), 0, ours.digest)
    assert (replayed.events, replayed.streams) == (ours.events + 3, ours.streams)
    two = replay(log, workers=2)
    assert (two.problems, two.digest, two.streams) == ((), replayed.digest, replayed.streams)


@pytest.mark.usefixtures("imported")
def test_an_event_of_another_application_in_a_deployment_is_a_problem(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer
) -> None:
    log.append([requested()(DEPLOYMENT_ID, 1)])
    log.append([note(2, DEPLOYMENT_ID)])
    assert problems(ledger, signer) == [(2, "unknown")]
    (problem,) = replay(log).problems
    assert (problem.position, problem.kind) == (2, Kind.ILLEGAL_TRANSITION)
    assert "does not belong to this kind of stream" in problem.message


@pytest.mark.usefixtures("imported")
def test_a_deployment_event_in_an_application_stream_is_a_problem(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer
) -> None:
    log.append([note(1), fetched()(NOTES, 2)])
    assert problems(ledger, signer) == [(2, "illegal")]
    (problem,) = replay(log).problems
    assert (problem.position, problem.kind) == (2, Kind.ILLEGAL_TRANSITION)


def test_an_event_class_without_a_transition_is_refused() -> None:
    with pytest.raises(TypeError, match="Noted needs a trigger, the transition of the lifecycle"):

        class Noted(DeploymentEvent):
            TOPIC: ClassVar[str] = "test.noted_without_a_transition"


# What cannot be read again is not stored ------------------------------------------------------------


class Note(Event, ABC):
    """A common base of events."""

    text: str


@pytest.mark.parametrize("topic", [{}, {"TOPIC": ""}, {"TOPIC": 7}])
@pytest.mark.parametrize("base", [Event, Note, NoteTaken])
def test_an_event_class_without_its_own_topic_is_refused(base: type[Event], topic: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"Untold needs a TOPIC of its own.* derives from abc\.ABC, too"):
        type(base)("Untold", (base,), {"__module__": __name__, **topic})


@pytest.mark.parametrize("topic", ["deployment.noted", "deployment.requested", "event_log.noted"])
def test_a_reserved_topic_is_refused(topic: str) -> None:
    with pytest.raises(TypeError, match=f"Noted needs another TOPIC than '{topic}': .* are reserved"):

        class Noted(Event):
            TOPIC: ClassVar[str] = topic

    assert EVENT_CLASSES.get(topic, Event).__name__ != "Noted"


def test_a_class_of_a_later_version_needs_every_upcaster() -> None:
    with pytest.raises(TypeError, match="Rated has class_version 3 and needs upcast_v2_v3"):

        class Rated(Event):
            TOPIC: ClassVar[str] = "test_notes.rated"
            class_version: ClassVar[int] = 3

            @staticmethod
            def upcast_v1_v2(state: dict[str, Any]) -> None: ...


def test_an_event_that_would_be_read_as_another_is_not_stored(log: DatabaseEventLog) -> None:
    class Signed(NoteTaken, ABC):
        signature: str

    fields = note(1).__dict__
    with pytest.raises(TypeError, match=r"Signed has the TOPIC of another class, 'test_notes\.taken'"):
        log.append([Signed(**fields, signature="ann")])
    with pytest.raises(TypeError, match="Note has no TOPIC"):
        log.append([Note(**fields)])
    assert events_of(log, NOTES) == []
