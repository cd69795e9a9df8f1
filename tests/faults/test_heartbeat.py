"""The event loop goes on while many commands are stored."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log.postgres.writer import PostgresBatchWriter
from deployledger.adapters.event_log.sqlite.writer import SQLiteBatchWriter
from tests.domain.given import request

BEATS = 100


class SlowDisk:
    """Stores nothing until the event loop has beaten so many times meanwhile.

    Attributes:
        is_blocked: whether the event loop did not.
    """

    def __init__(self) -> None:
        self._beaten = threading.Event()
        self._beats = 0
        self._is_storing = False
        self.is_blocked = False

    def beat(self) -> None:
        self._beats += self._is_storing
        if self._beats >= BEATS:
            self._beaten.set()

    def slowly(self, write: Any) -> Any:
        def write_slowly(writer: Any, commands: Sequence[Any]) -> Any:
            self._is_storing = True
            self.is_blocked = not self._beaten.wait(60) or self.is_blocked
            return write(writer, commands)

        return write_slowly


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    disk = SlowDisk()
    for writer in (SQLiteBatchWriter, PostgresBatchWriter):
        monkeypatch.setattr(writer, "write", disk.slowly(writer.write))
    return disk


async def test_many_commands_at_once_do_not_block_the_event_loop(disk: SlowDisk, database_url: str) -> None:
    over = asyncio.Event()

    async def beat() -> None:
        while not over.is_set():
            disk.beat()
            await asyncio.sleep(0.001)

    async with MLModelDeploymentService(database_url=database_url, run_jobs=False) as service:
        await service.list_deployments()
        beating = asyncio.create_task(beat())
        deployed = await asyncio.gather(
            *(service.deploy_model(request(deployment_name=f"iris-{number}")) for number in range(256))
        )
        over.set()
        await beating
    assert len({it.deployment_id for it in deployed}) == 256
    assert not disk.is_blocked
