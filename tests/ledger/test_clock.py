"""What is proven of a log whose clock was wrong for a while: its order, its evidence, and its limits."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from deployledger.adapters.event_log import DatabaseEventLog
from deployledger.audit.evidence.export import export_evidence
from deployledger.audit.evidence.verification import verify_evidence
from deployledger.audit.keys import Signer
from deployledger.audit.ledger import Ledger
from deployledger.domain.clock_corrections import ClockCorrected
from deployledger.domain.deployment import Deployment
from deployledger.domain.event_log import events_of
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.names import NameReservation
from deployledger.domain.times import CLOCK_STREAM
from deployledger.service.clock_corrector import ClockCorrector
from tests.contracts.clocks import Clock
from tests.domain.given import context, request
from tests.ledger.evidence import Evidence
from tests.ledger.tampering import Attacker

AHEAD = timedelta(days=400)


@pytest.fixture
def clock(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(database_url, monkeypatch)


def deploy(log: DatabaseEventLog, clock: Clock, name: str) -> UUID:
    """Append the request of a deployment, and the reservation of its name."""
    by, reservation = context(at=clock.now()), NameReservation(name)
    deployment = Deployment.request(uuid4(), request(deployment_name=name), orchestrator="test", by=by)
    reservation.reserve(deployment.id, by=by)
    log.append([*deployment.collect_events(), *reservation.collect_events()])
    return deployment.id


def cancel(log: DatabaseEventLog, clock: Clock, deployment_id: UUID) -> None:
    (requested,) = events_of(log, deployment_id)
    deployment = Deployment(requested)
    deployment.cancel(by=context(at=clock.now()))
    log.append(deployment.collect_events())


def correct(log: DatabaseEventLog, clock: Clock) -> None:
    ClockCorrector(log, clock.now).correct("ops")


@pytest.fixture
def corrected(log: DatabaseEventLog, clock: Clock) -> UUID:
    """A deployment that was requested by a clock that was ahead, and cancelled after the correction."""
    deploy(log, clock, "before")
    clock.set_ahead(AHEAD)
    wrong = deploy(log, clock, "iris")
    clock.set_ahead()
    correct(log, clock)
    cancel(log, clock, wrong)
    return wrong


def test_evidence_of_a_deployment_has_the_corrections_of_its_times(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, corrected: UUID, tmp_path: Path
) -> None:
    path = tmp_path / "iris.zip"
    made = export_evidence(log, ledger, signer, path, deployment_id=corrected)
    assert (made.events, made.selection.first, made.selection.last) == (4, 3, 6)
    report = verify_evidence(path, signer.verifier)
    assert report.is_verified, [problem for check in report.checks for problem in check.problems]
    said = "The times of events 3 to 4, up to "
    assert any(it.startswith(said) and "are wrong, as event 5 says" in it for it in report.limits)
    page = Evidence.read(path, signer).members["report.html"].decode()
    assert said in page
    assert "Clock corrected" in page


def test_evidence_that_lacks_a_correction_is_not_verified(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, corrected: UUID, tmp_path: Path
) -> None:
    path = tmp_path / "iris.zip"
    export_evidence(log, ledger, signer, path, deployment_id=corrected)
    evidence = Evidence.read(path, signer)
    for member in ("events.jsonl", "proofs.jsonl"):
        lines = evidence.lines(member)
        evidence.put(member, [*lines[:2], *lines[3:]])
    evidence.sign_again(signer, events=3)
    report = verify_evidence(evidence.write(path), signer.verifier)
    problems = [problem.message for check in report.checks for problem in check.problems]
    assert problems == ["it was recorded before the preceding event"]


def test_evidence_of_a_range_is_refused_where_its_times_are_wrong(
    log: DatabaseEventLog,
    ledger: Ledger,
    signer: Signer,
    clock: Clock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    deploy(log, clock, "before")
    before = datetime.now(UTC)
    clock.set_ahead(AHEAD)
    deploy(log, clock, "iris")
    clock.set_ahead()
    correct(log, clock)
    after = log.times().now
    deploy(log, clock, "after")

    def export(since: datetime | None, until: datetime | None) -> int:
        path = tmp_path / "range.zip"
        made = export_evidence(log, ledger, signer, path, since=since, until=until, force=True)
        report = verify_evidence(path, signer.verifier)
        assert report.is_verified, [problem for check in report.checks for problem in check.problems]
        return made.events

    begin = datetime(1970, 1, 1, tzinfo=UTC)
    caplog.clear()
    assert export(begin, before) == 2
    (warned,) = [
        it for it in caplog.messages if "The evidence" in it
    ]  # they may have happened before its end
    assert warned.startswith("The clock was wrong: events 3 to 4 of the log happened between")
    assert warned.endswith("The evidence does not include them.")
    caplog.clear()
    assert export(begin, None) == 7
    assert not [it for it in caplog.messages if "The evidence" in it]
    assert export(after, None) == 2
    for since, until in ((begin, after), (before, after)):
        with pytest.raises(ConfigurationError, match=r"within it\. The times of events 3 to 4"):
            export(since, until)


def test_evidence_of_times_that_have_not_come_yet_says_so(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, clock: Clock, tmp_path: Path
) -> None:
    clock.set_ahead(AHEAD)
    wrong = deploy(log, clock, "iris")
    clock.set_ahead()
    path = tmp_path / "iris.zip"
    export_evidence(log, ledger, signer, path, deployment_id=wrong)
    report = verify_evidence(path, signer.verifier)
    assert report.is_verified
    assert any("which is in the future: it is" in it for it in report.limits)


def test_times_that_fall_without_a_correction_are_found(
    log: DatabaseEventLog, ledger: Ledger, clock: Clock, corrected: UUID, database_url: str
) -> None:
    assert ledger.verify([]).is_in_order
    Attacker(database_url, log).execute("UPDATE events SET topic = 'deployment.failed' WHERE position = 5")
    audited = ledger.verify([])
    assert "Event 5 was recorded before the one in front of it." in {it.message for it in audited.problems}


def test_a_correction_in_another_stream_corrects_nothing(
    log: DatabaseEventLog, ledger: Ledger, clock: Clock
) -> None:
    clock.set_ahead(AHEAD)
    deploy(log, clock, "iris")
    clock.set_ahead()
    correct(log, clock)
    (event,) = events_of(log, CLOCK_STREAM)
    assert isinstance(event, ClockCorrected)
    forged = event.model_copy(update={"originator_id": uuid4(), "first_position": 1})
    log.append([forged.model_copy(update={"event_id": uuid4()})])
    assert [it.corrected_at for it in log.times().wrong] == [3]
