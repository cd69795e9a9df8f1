"""A service that runs jobs does the work of services that do not."""

import asyncio
import threading

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from tests.domain.given import request


async def test_an_open_service_works_on_what_others_command(database_url: str) -> None:
    async with MLModelDeploymentService(database_url=database_url) as worker:
        await worker.list_deployments()
        async with MLModelDeploymentService(database_url=database_url, run_jobs=False) as front:
            accepted = await front.deploy_model(request())
            status = await front.wait_for_deployment(accepted.deployment_id, timeout=10)
            assert status.status == "active"
            await front.delete_deployment(accepted.deployment_id)
            assert (await front.wait_for_deployment(accepted.deployment_id, timeout=10)).state == "deleted"


async def test_closing_leaves_no_thread(database_url: str) -> None:
    before = set(threading.enumerate())
    async with MLModelDeploymentService(database_url=database_url) as service:
        accepted = await service.deploy_model(request())
        await service.wait_for_deployment(accepted.deployment_id, timeout=10)
    await asyncio.sleep(0.1)
    left = [it.name for it in set(threading.enumerate()) - before if not it.name.startswith("asyncio_")]
    assert left == []
