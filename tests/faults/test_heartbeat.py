"""The event loop goes on while many commands are stored."""

import asyncio
import time

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from tests.domain.given import request

LONGEST_BEAT_SECONDS = 0.5


async def test_many_commands_at_once_do_not_block_the_event_loop(database_url: str) -> None:
    longest = 0.0
    over = asyncio.Event()

    async def beat() -> None:
        nonlocal longest
        while not over.is_set():
            begun = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - begun)

    async with MLModelDeploymentService(database_url=database_url, run_jobs=False) as service:
        await service.list_deployments()
        beating = asyncio.create_task(beat())
        begun = time.monotonic()
        deployed = await asyncio.gather(
            *(service.deploy_model(request(deployment_name=f"iris-{number}")) for number in range(256))
        )
        took = time.monotonic() - begun
        over.set()
        await beating
    assert len({it.deployment_id for it in deployed}) == 256
    print(f"longest beat {longest * 1000:.0f} ms, 256 deploys in {took:.2f} s")
    assert longest < LONGEST_BEAT_SECONDS
