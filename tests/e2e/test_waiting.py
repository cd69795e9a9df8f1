"""The steps that the command line shows while it waits, however seldom it looks."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.cli.session import Output, Session
from deployledger.adapters.cli.waiting import wait
from deployledger.domain.responses import DeploymentStatusResponse
from tests.domain.given import request
from tests.service.outside import HeldOrchestrator

WAIT = 60
ALL = ["✓ Fetched", "✓ Packaged", "✓ Active"]


class SeldomLookedAt(MLModelDeploymentService):
    """A service whose status is seen only once the job is done."""

    async def watch_deployment(self, deployment_id: UUID) -> AsyncIterator[DeploymentStatusResponse]:
        async for status in super().watch_deployment(deployment_id):
            if status.progress is None:
                yield status
                return


def session_on(service: MLModelDeploymentService, output: Output = Output.TABLE) -> Session:
    return Session(lambda: service, output)


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line.partition(" in ")[0] for line in lines]


async def test_steps_that_pass_between_two_looks_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async with SeldomLookedAt(database_url="sqlite://") as service:
        accepted = await service.deploy_model(request())
        done = await wait(session_on(service), service, accepted)
        assert done.status == "active"
        assert shown(capsys) == ALL

        late = await service.get_deployment_status(accepted.deployment_id)  # there is no job any more
        await wait(session_on(service), service, late)
        assert shown(capsys) == []


async def test_a_step_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    async with MLModelDeploymentService(database_url="sqlite://") as service:
        accepted = await service.deploy_model(request())
        await wait(session_on(service), service, accepted)
        assert shown(capsys) == ALL


async def test_a_command_that_is_repeated_shows_its_own_steps(capsys: pytest.CaptureFixture[str]) -> None:
    async with SeldomLookedAt(database_url="sqlite://") as service:
        first = await service.deploy_model(request(), idempotency_key="once")
        await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
        await service.update_deployment(first.deployment_id, request(model_uri="models:/iris/2"))
        await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
        again = await service.deploy_model(request(), idempotency_key="once")
        await wait(session_on(service), service, again)
        assert shown(capsys) == ALL


async def test_json_is_not_accompanied_by_steps(capsys: pytest.CaptureFixture[str]) -> None:
    async with SeldomLookedAt(database_url="sqlite://") as service:
        accepted = await service.deploy_model(request())
        await wait(session_on(service, Output.JSON), service, accepted)
    assert capsys.readouterr() == ("", "")


async def test_a_step_that_failed_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = HeldOrchestrator()
    cluster.failure = RuntimeError("no room")
    async with SeldomLookedAt(None, None, cluster, database_url="sqlite://") as service:
        accepted = await service.deploy_model(request())
        await wait(session_on(service), service, accepted)
    assert shown(capsys) == [*ALL[:2], "✗ Provisioning"]
