"""An orchestrator and a registry that a test holds in its hands."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID

from deployledger.domain import JobResult, ProvisionedTarget, ProvisionRequest, ReportProgress
from deployledger.testing import InMemoryOrchestrator


class Gate:
    """Where a step waits until the test lets it pass; works over event loops and threads."""

    def __init__(self, *, is_open: bool = True) -> None:
        self._open = threading.Event()
        self.arrivals = 0
        if is_open:
            self._open.set()

    def open(self) -> None:
        """Let everyone pass."""
        self._open.set()

    def shut(self) -> None:
        """Let nobody pass."""
        self._open.clear()

    async def wait(self) -> None:
        """Wait until it is open."""
        self.arrivals += 1
        while not self._open.is_set():
            await asyncio.sleep(0.005)


class HeldOrchestrator(InMemoryOrchestrator):
    """A cluster in memory whose steps wait at gates, and which counts what it was asked to do."""

    def __init__(self, name: str = "held") -> None:
        super().__init__(name)
        self.provisioning = Gate()
        self.pruning = Gate()
        self.running_job = Gate()
        self.failure: Exception | None = None
        self.provisions: list[tuple[UUID, int]] = []
        self.provisioned_calls = 0
        self.most_at_once: dict[UUID, int] = {}
        self._now: dict[UUID, int] = {}

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        deployment_id = request.deployment_id
        self.provisions.append((deployment_id, request.revision))
        self._now[deployment_id] = self._now.get(deployment_id, 0) + 1
        self.most_at_once[deployment_id] = max(
            self.most_at_once.get(deployment_id, 0), self._now[deployment_id]
        )
        try:
            report(0, request.target.replicas, "replicas")
            await self.provisioning.wait()
        finally:
            self._now[deployment_id] -= 1
        if self.failure is not None:
            raise self.failure
        return await super().provision(request, lambda *_: None)

    async def prune(self, deployment_id: UUID, keep_revision: int | None) -> None:
        await self.pruning.wait()
        await super().prune(deployment_id, keep_revision)

    async def wait_for_completion(
        self, deployment_id: UUID, revision: int, report: ReportProgress
    ) -> JobResult:
        report(5, 10, "rows")
        await self.running_job.wait()
        return JobResult(output_uri="/out.csv", rows=10)

    async def provisioned(self) -> dict[UUID, set[int]]:
        self.provisioned_calls += 1
        return await super().provisioned()

    async def logs(self, deployment_id: UUID, *, follow: bool) -> AsyncIterator[str]:
        yield f"log of {deployment_id}"


class FileRegistry:
    """A user's own registry client: a plain class with the one method that the port asks for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.calls: list[dict[str, str | None]] = []
        self.failure: BaseException | None = None

    async def download_artifacts(
        self,
        run_id: str | None = None,
        model_uri: str | None = None,
        artifact_path: str | None = None,
        dst_path: str | None = None,
    ) -> str:
        self.calls.append(
            {"run_id": run_id, "model_uri": model_uri, "artifact_path": artifact_path, "dst_path": dst_path}
        )
        if self.failure is not None:
            raise self.failure
        assert dst_path is not None
        folder = Path(dst_path) / "model"
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return str(folder)


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 60) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result if isinstance(result, bool) else await result:
            return
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)
