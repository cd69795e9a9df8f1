"""A service whose clock was wrong for a while, and what it answers then and afterwards."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.cli.overview import Overview
from deployledger.adapters.cli.status_commands import created_at
from deployledger.adapters.cli.units import Clock as ReadersClock
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.findings import Outcome
from deployledger.service.database_checks import check_database
from tests.contracts.clocks import Clock
from tests.domain.given import request
from tests.service.conftest import OpenService

AHEAD = timedelta(days=400)


@pytest.fixture
def clock(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(database_url, monkeypatch)


@pytest.fixture
def service(
    clock: Clock, open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> MLModelDeploymentService:
    """A service that does nothing by itself, with a clock that can be set."""
    service = open_service(actor="ann", run_jobs=False)
    monkeypatch.setattr(service._commands, "_now", clock.now)
    return service


async def deployed(service: MLModelDeploymentService, name: str) -> Any:
    return await service.deploy_model(request(deployment_name=name))


async def names(service: MLModelDeploymentService, as_of: datetime | None = None) -> list[str]:
    page = await service.list_deployments(as_of=as_of, sort="name")
    return [it.deployment_name for it in page]


async def test_what_serves_now_is_listed_as_of_now_whatever_the_clock_was(
    service: MLModelDeploymentService, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    await deployed(service, "a_before")
    before = datetime.now(UTC)
    clock.set_ahead(AHEAD)
    wrong = await deployed(service, "b_ahead")
    clock.set_ahead()
    again = await deployed(service, "c_again")
    after = datetime.now(UTC)
    everything = ["a_before", "b_ahead", "c_again"]
    caplog.set_level(logging.WARNING, logger="ml_model_deployment_service.clock")
    for _ in range(2):
        assert await names(service) == await names(service, after) == everything
        assert await names(service, before) == ["a_before"]
        assert "The clock was wrong: events 3 to 4 of the log happened between" in caplog.text
        assert "does not include them" in caplog.text
        status = await service.get_deployment_status(wrong.deployment_id, as_of=after)
        assert status.deployment_name == "b_ahead"
        (entry,) = await service.get_deployment_history(again.deployment_id)
        assert entry.happened_at is not None
        assert before <= entry.happened_at <= after < entry.recorded_at
        with pytest.raises(ConfigurationError, match="is in the future"):
            await names(service, after + AHEAD / 2)
        if service.event_log.times().ahead is not None:
            corrected = await service.correct_clock(actor="ops")
            assert corrected.wrong is not None
            assert corrected.wrong.first == 3
    page = await service.list_deployments(as_of=corrected.position)
    assert [it.deployment_name for it in page] == everything
    await deployed(service, "d_later")
    assert await names(service, datetime.now(UTC)) == [*everything, "d_later"]
    assert (await service.correct_clock()).position is None


async def test_what_differs_between_moments_is_by_the_times_that_count(
    service: MLModelDeploymentService, clock: Clock
) -> None:
    iris = await deployed(service, "iris")
    before = datetime.now(UTC)
    clock.set_ahead(AHEAD)
    await service.update_deployment(iris.deployment_id, request(tags={"team": "trees"}))
    clock.set_ahead()
    await service.correct_clock()
    found = await service.diff_deployment(iris.deployment_id, before, datetime.now(UTC))
    assert (found.before.revision, found.after.revision) == (1, 2)
    assert found.before.recorded_at <= before < found.after.recorded_at <= datetime.now(UTC)
    assert (await service.replay(until=before)).events == 2


async def test_checks_report_times_that_have_not_come_yet_and_corrections(
    service: MLModelDeploymentService, clock: Clock
) -> None:
    def findings() -> list[tuple[Outcome, str]]:
        return [(it.outcome, it.message) for it in check_database(service) if it.check == "clock"]

    await deployed(service, "before")
    assert findings() == [(Outcome.OK, "The event log has no uncorrected times in the future.")]
    clock.set_ahead(AHEAD)
    await deployed(service, "ahead")
    clock.set_ahead()
    ((outcome, message),) = findings()
    assert outcome is Outcome.PROBLEM
    assert "The times of events 3 to 4, up to 2" in message
    assert "are in the future" in message
    audited = service.ledger.verify([])
    assert audited.is_in_order
    assert message[:40] in "".join(audited.limits)
    await service.correct_clock()
    corrected, fine = findings()
    assert corrected[0] is Outcome.WARNING
    assert "are wrong, as event 5 says" in corrected[1]
    assert fine[0] is Outcome.OK
    audited = service.ledger.verify([])
    assert audited.is_in_order
    assert corrected[1] in audited.limits


async def test_list_and_status_agree_on_times_of_a_wrong_clock(
    service: MLModelDeploymentService, clock: Clock
) -> None:
    begin = datetime.now(UTC) - timedelta(seconds=1)  # a new database has its first time in milliseconds
    await deployed(service, "before")
    for is_corrected in (False, True):
        clock.set_ahead(AHEAD)
        await deployed(service, f"ahead_{is_corrected}")
        clock.set_ahead()
        await deployed(service, f"again_{is_corrected}")
        if is_corrected:
            await service.correct_clock(dry_run=False)
        page = await service.list_deployments()
        assert any(it.created_at > datetime.now(UTC) for it in page), "as the event says itself"
        created = await created_at(service, page)
        for deployment in page:
            history = await service.get_deployment_history(deployment.deployment_id)
            card = Overview(deployment, history, ReadersClock(datetime.now(UTC)))
            assert card.recorded is not None
            assert card.recorded[0] == created[deployment.deployment_id]
        assert all(begin <= it <= datetime.now(UTC) for it in created.values())
