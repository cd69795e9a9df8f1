"""A status that is not current says so wherever it is shown, at once."""

import asyncio

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import DeploymentStatusResponse
from core_ai_layer.machine_learning_service.ml_service_exceptions import MachineLearningServiceError
from deployledger.domain.findings import Finding, Outcome
from deployledger.service.database_checks import check_database
from tests.domain.given import history, request, requested
from tests.projections.examples import append_undecodable
from tests.service.conftest import OpenService
from tests.service.outside import HeldOrchestrator

WAIT = 60


def parked_findings(service: MLModelDeploymentService) -> list[Finding]:
    return [it for it in check_database(service) if it.check == "parked"]


async def held_up(open_service: OpenService) -> tuple[MLModelDeploymentService, DeploymentStatusResponse]:
    """Return a deployment whose newest event cannot be applied, while its job is in progress."""
    cluster = HeldOrchestrator()
    cluster.provisioning.shut()
    service = open_service(None, None, cluster)
    deployment = await service.deploy_model(request())
    async for current in service.watch_deployment(deployment.deployment_id):
        if current.state == "packaged":
            break
    append_undecodable(service.event_log, current.deployment_id, current.version + 1)
    return service, current


async def test_a_status_that_is_not_current_says_so_and_is_not_waited_for(open_service: OpenService) -> None:
    service, before = await held_up(open_service)
    found = await service.get_deployment_status(before.deployment_id)
    assert (found.state, found.parked_events) == ("packaged", 1)
    assert found.warning.startswith("Not current: 1 later event could not be applied, from position ")
    assert "deployledger projections parked retry deployment_status" in found.warning
    assert before.warning == ""
    with pytest.raises(MachineLearningServiceError, match="Cannot tell whether"):
        await service.wait_for_deployment(before.deployment_id, timeout=WAIT)

    page = await service.list_deployments()
    assert page[0].warning == found.warning
    assert "may be missing or out of place" in page.warning
    past = await service.list_deployments(as_of=await asyncio.to_thread(service.event_log.position))
    assert past[0].warning == found.warning
    assert "deployment_timeline" in past.warning


async def test_a_deployment_that_cannot_be_listed_is_missed_aloud(service: MLModelDeploymentService) -> None:
    assert (await service.list_deployments()).warning == ""
    (event,) = history(requested())
    append_undecodable(service.event_log, event.originator_id, 1)
    page = await service.list_deployments()
    assert (len(page), "may be missing" in page.warning) == (0, True)


async def test_a_check_of_the_database_names_what_is_not_current(open_service: OpenService) -> None:
    service, _ = await held_up(open_service)
    findings = await asyncio.to_thread(parked_findings, service)
    assert [it.outcome for it in findings] == [Outcome.PROBLEM] * 3
    assert [it.message.partition(" is not current: 1 event of 1 row ")[0] for it in findings] == [
        "deployment_status",
        "deployment_list",
        "deployment_timeline",
    ]


async def test_a_check_of_the_database_says_that_everything_is_applied(
    service: MLModelDeploymentService,
) -> None:
    await service.deploy_model(request())
    (finding,) = await asyncio.to_thread(parked_findings, service)
    assert (finding.outcome, finding.message) == (
        Outcome.OK,
        "Every event is applied to the read models.",
    )
