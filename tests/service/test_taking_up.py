"""A service that runs jobs does the work of services that do not."""

import asyncio
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.audit.keys import Signer, generate
from deployledger.domain.exceptions import EventLogError
from tests.domain.given import request, requested
from tests.projections.examples import append_some_undecodable


async def test_an_open_service_works_on_what_others_command(database_url: str) -> None:
    async with MLModelDeploymentService(database_url=database_url) as worker:
        await worker.list_deployments()
        async with MLModelDeploymentService(database_url=database_url, run_jobs=False) as front:
            accepted = await front.deploy_model(request())
            status = await front.wait_for_deployment(accepted.deployment_id, timeout=60)
            assert status.status == "active"
            await front.delete_deployment(accepted.deployment_id)
            assert (await front.wait_for_deployment(accepted.deployment_id, timeout=60)).state == "deleted"


async def test_closing_leaves_no_thread(database_url: str) -> None:
    before = set(threading.enumerate())
    async with MLModelDeploymentService(database_url=database_url) as service:
        accepted = await service.deploy_model(request())
        await service.wait_for_deployment(accepted.deployment_id, timeout=60)
    deadline = time.monotonic() + 60
    while left := [
        thread.name
        for thread in set(threading.enumerate()) - before
        if not thread.name.startswith("asyncio_")
    ]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.02)


async def test_a_command_that_does_not_decode_holds_up_no_other(database_url: str) -> None:
    async with MLModelDeploymentService(database_url=database_url) as worker:
        await worker.list_deployments()
        append_some_undecodable(worker.event_log, [newer := requested()(uuid4(), 1)], {newer.event_id})
        async with MLModelDeploymentService(database_url=database_url, run_jobs=False) as front:
            accepted = await front.deploy_model(request())
            status = await front.wait_for_deployment(accepted.deployment_id, timeout=60)
            assert status.status == "active"


async def test_closing_when_signing_fails_leaves_nothing_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def sign(_: bytes) -> bytes:
        raise RuntimeError("the signing machine is away")

    signer = Signer(Signer.parse(generate("example.com/deployments")[0]).verifier, sign)
    url = f"sqlite:///{tmp_path / 'events.db'}"
    before = set(threading.enumerate())
    service = MLModelDeploymentService(database_url=url, signer=signer, resume=False, run_jobs=False)
    await service.deploy_model(request())
    await service.close()
    assert "A checkpoint is delayed: the signing machine is away" in caplog.text
    assert [it.name for it in set(threading.enumerate()) - before if "asyncio" not in it.name] == []
    with pytest.raises(EventLogError, match="closed"):
        service.event_log.position()
