"""The event loop goes on while many commands are stored."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log.postgres.writer import PostgresBatchWriter
from deployledger.adapters.event_log.sqlite.writer import SQLiteBatchWriter
from tests.domain.given import request

STORING_SECONDS = 2.0


@pytest.fixture(autouse=True)
def a_slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    for writer in (SQLiteBatchWriter, PostgresBatchWriter):
        monkeypatch.setattr(writer, "write", _slowly(writer.write))


def _slowly(write: Any) -> Any:
    def write_slowly(self: Any, commands: Sequence[Any]) -> Any:
        time.sleep(STORING_SECONDS)
        return write(self, commands)

    return write_slowly


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
    assert took > STORING_SECONDS
    assert longest < STORING_SECONDS
