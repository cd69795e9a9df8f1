"""An application may have events of its own in streams of its own, in the log of the deployments."""

from collections.abc import Iterator
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest

from deployledger.adapters.event_log import mapper
from deployledger.adapters.event_log.log import DatabaseEventLog
from deployledger.audit.keys import Signer
from deployledger.audit.ledger import Ledger
from deployledger.audit.replaying import Kind, replay
from deployledger.domain.events import DeploymentEvent, Event
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
        known = dict(mapper._event_classes())
        del known[NoteTaken.TOPIC]
        monkeypatch.setattr(mapper, "_event_classes", _Classes(known))
        mapper._decoder.cache_clear()
    yield
    mapper._decoder.cache_clear()


class _Classes(dict[str, Any]):
    def __call__(self) -> dict[str, Any]:
        return self

    def cache_clear(self) -> None:
        pass


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
            TOPIC: ClassVar[str] = "deployment.noted_without_a_transition"

    with pytest.raises(TypeError, match="Untold needs a TOPIC"):

        class Untold(Event):
            TOPIC: ClassVar[str] = ""
