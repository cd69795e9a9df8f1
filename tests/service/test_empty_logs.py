"""Why a deployment has no log lines."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from tests.domain.given import BATCH_JOB, request
from tests.service.conftest import OpenService
from tests.service.outside import HeldOrchestrator, eventually


class Silent(HeldOrchestrator):
    """Servers and jobs that log nothing."""

    async def logs(self, deployment_id: UUID, *, follow: bool) -> AsyncIterator[str]:
        while follow:
            yield "a line"
        return


@pytest.fixture
def cluster() -> HeldOrchestrator:
    return Silent()


@pytest.fixture
def silent(open_service: OpenService, cluster: HeldOrchestrator) -> MLModelDeploymentService:
    return open_service(None, None, cluster)


async def reason(service: MLModelDeploymentService, deployment_id: UUID) -> str:
    assert [line async for line in service.deployment_logs(deployment_id)] == []
    empty = await service.empty_logs(deployment_id)
    assert empty.hint.endswith(".")
    return empty.message


async def test_logs_before_the_server_is_started(
    silent: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    cluster.provisioning.shut()
    answer = await silent.deploy_model(request(deployment_name="iris"))
    await eventually(lambda: cluster.provisioning.arrivals > 0)
    said = await reason(silent, answer.deployment_id)
    assert said == "Deployment 'iris' has not started yet: its server is being started."
    await silent.cancel_deployment(answer.deployment_id)
    said = await reason(silent, answer.deployment_id)
    assert said == "Deployment 'iris' was cancelled, and nothing is running."


async def test_logs_of_a_server_that_runs_stopped_and_was_deleted(
    silent: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    answer = await silent.deploy_model(request(deployment_name="iris"))
    await silent.wait_for_deployment(answer.deployment_id)
    said = await reason(silent, answer.deployment_id)
    assert said == "The server of deployment 'iris' has logged nothing yet."
    cluster.runs.clear()
    said = await reason(silent, answer.deployment_id)
    assert said == "Deployment 'iris' is not running, and has left no logs."
    await silent.delete_deployment(answer.deployment_id)
    await silent.wait_for_deployment(answer.deployment_id)
    said = await reason(silent, answer.deployment_id)
    assert said == "Deployment 'iris' was deleted, and its logs with it."
    # and following what is deleted ends
    assert [line async for line in silent.deployment_logs(answer.deployment_id, follow=True)] == []


async def test_logs_of_a_batch_job_that_runs_and_is_complete(
    silent: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    cluster.running_job.shut()
    answer = await silent.deploy_model(request(deployment_name="score", deployment_target_config=BATCH_JOB))
    await eventually(lambda: cluster.running_job.arrivals > 0)
    assert (
        await reason(silent, answer.deployment_id) == "The job of deployment 'score' has logged nothing yet."
    )
    cluster.running_job.open()
    await silent.wait_for_deployment(answer.deployment_id)
    said = await reason(silent, answer.deployment_id)
    assert said == "The batch job 'score' is complete, and its logs were removed when it ended."


async def test_logs_of_what_failed(silent: MLModelDeploymentService, cluster: HeldOrchestrator) -> None:
    cluster.failure = RuntimeError("no room")
    answer = await silent.deploy_model(request(deployment_name="iris"))
    await silent.wait_for_deployment(answer.deployment_id)
    said = await reason(silent, answer.deployment_id)
    assert said == "Deployment 'iris' failed, and nothing is running."


async def test_logs_in_placeholder_mode_have_one_line(service: MLModelDeploymentService) -> None:
    answer = await service.deploy_model(request(deployment_name="iris"))
    await service.wait_for_deployment(answer.deployment_id)
    (line,) = [line async for line in service.deployment_logs(answer.deployment_id)]
    assert line == "This deployment is simulated: no server runs, and there are no logs."
