"""However much a client says, the deployment records it and goes on, and its status stays true."""

import logging

import pytest

from core_ai_layer.machine_learning_service.ml_models_schemas import FailureReason
from core_ai_layer.machine_learning_service.ml_service_exceptions import DeploymentError
from deployledger.domain.bounds import LONGEST_MESSAGE
from deployledger.domain.ports import ProvisionedTarget, ProvisionRequest, ReportProgress
from tests.domain.given import request
from tests.service.conftest import OpenService
from tests.service.outside import HeldOrchestrator

WAIT = 60
LONG = f"It began.{'x' * 1_250_000}It ended."


@pytest.mark.parametrize("error", [RuntimeError(LONG), DeploymentError("iris", LONG, hint=LONG)])
async def test_a_long_failure_is_cut_in_the_event_and_whole_in_the_log(
    error: Exception, open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = HeldOrchestrator()
    cluster.failure = error
    service = open_service(None, None, cluster)
    deployment_id = (await service.deploy_model(request())).deployment_id
    with caplog.at_level(logging.WARNING, "ml_model_deployment_service"):
        failed = await service.wait_for_deployment(deployment_id, timeout=WAIT)
    assert failed.status == "failed"
    assert failed.failure is not None
    message = failed.failure.message
    assert len(message) <= LONGEST_MESSAGE
    assert "It began." in message
    assert message.endswith("It ended.")
    assert "… [cut: " in message
    assert any(LONG in record.getMessage() for record in caplog.records)

    await service.delete_deployment(deployment_id)
    deleted = await service.wait_for_deployment(deployment_id, timeout=WAIT)
    assert (deleted.state, deleted.parked_events) == ("deleted", 0)
    (listed,) = await service.list_deployments(include_deleted=True)
    assert (listed.state, listed.parked_events) == ("deleted", 0)
    assert service.read_models.parked() == []


async def test_a_long_name_of_a_client_fails_the_step_and_stops_what_it_started(
    open_service: OpenService,
) -> None:
    class Verbose(HeldOrchestrator):
        async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
            await super().provision(request, report)
            return ProvisionedTarget(f"http://{'x' * 5_000}")

    cluster = Verbose()
    service = open_service(None, None, cluster)
    deployment_id = (await service.deploy_model(request())).deployment_id
    failed = await service.wait_for_deployment(deployment_id, timeout=WAIT)
    await service.settled(deployment_id)
    assert failed.failure is not None
    assert failed.failure.reason is FailureReason.EXTERNAL_SERVICE_FAILED
    assert "endpoint_url has 5,007 characters; at most 2,048 are allowed" in failed.message
    assert cluster.runs == {}
