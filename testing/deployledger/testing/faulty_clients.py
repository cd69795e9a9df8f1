"""Clients that misbehave on demand, and a clock that tests control."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID

from deployledger.domain import (
    Image,
    JobResult,
    Observation,
    PackageRequest,
    ProvisionedTarget,
    ProvisionRequest,
    ReportProgress,
)
from deployledger.testing.in_memory_clients import (
    InMemoryContainerRegistry,
    InMemoryModelRegistry,
    InMemoryOrchestrator,
)

_LONG_TEXT_CHARACTERS = 10_000_000

_T = TypeVar("_T")


class ManualClock:
    """A monotonic clock that only `advance` moves."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()
        self._sleeping: dict[asyncio.Future[None], float] = {}

    def sleep(self, seconds: float) -> "asyncio.Future[None]":
        """Return a future that is done when the clock has advanced by so many seconds."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._sleeping[woken] = self._now + seconds
        woken.add_done_callback(self._forget)
        return woken

    def advance(self, seconds: float) -> None:
        """Advance the clock; from any thread."""
        with self._lock:
            self._now += seconds
            for sleeping, until in self._sleeping.items():
                if until <= self._now:
                    with suppress(RuntimeError):  # its event loop was closed
                        sleeping.get_loop().call_soon_threadsafe(_wake, sleeping)

    def _forget(self, sleeping: "asyncio.Future[None]") -> None:
        with self._lock:
            del self._sleeping[sleeping]


def _wake(sleeping: "asyncio.Future[None]") -> None:
    if not sleeping.done():
        sleeping.set_result(None)


class Fault(StrEnum):
    """How a method of a faulty client misbehaves."""

    HANGS = "hangs"
    """It does nothing, and returns only when it is cancelled."""
    IGNORES_CANCELLATION = "ignores cancellation"
    """It does nothing, and returns only when the faults are released."""
    BLOCKS = "blocks"
    """It does nothing, and blocks the event loop until the faults are released."""
    ANSWERS_LATE = "answers late"
    """It ignores cancellation, and does its work when the faults are released."""
    FAILS_AFTERWARDS = "fails afterwards"
    """It does its work, and raises."""
    WORKS_TWICE = "works twice"
    """It does its work twice."""
    ANSWERS_WRONGLY = "answers wrongly"
    """It does its work, and returns a wrong result."""
    RAISES_LONG_TEXT = "raises 10 MB"
    """It raises an exception with a text of 10 million characters."""
    RAISES_WITHOUT_TEXT = "raises without text"
    """It raises an exception whose ``__str__`` fails."""
    EXITS = "exits"
    """It raises `SystemExit`."""
    INTERRUPTS = "interrupts"
    """It raises `KeyboardInterrupt`, from a thread."""
    CLOSES = "closes"
    """It raises `GeneratorExit`."""
    CANCELS_ITSELF = "cancels itself"
    """It raises `asyncio.CancelledError` although nobody cancelled it."""


class Faults:
    """The faults of one client.

    Attributes:
        of: the fault of each method that has one, by the method's name.
        calls: how often each method was called.
    """

    def __init__(self) -> None:
        self.of: dict[str, Fault] = {}
        self.calls: Counter[str] = Counter()
        self._released = threading.Event()

    def release(self) -> None:
        """Let hanging calls continue, and remove all faults."""
        self.of.clear()
        self._released.set()

    async def run(self, method: str, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do the work of a method, with its fault."""
        self.calls[method] += 1
        fault = self.of.get(method)
        match fault:
            case Fault.HANGS:
                await asyncio.get_running_loop().create_future()
            case Fault.IGNORES_CANCELLATION | Fault.ANSWERS_LATE:
                await self._ignore_cancellation()
            case Fault.BLOCKS:
                self._released.wait()
            case Fault.WORKS_TWICE:
                await work()
            case Fault.INTERRUPTS:
                await asyncio.to_thread(_raise, KeyboardInterrupt())
            case Fault.RAISES_LONG_TEXT:
                raise RuntimeError("x" * _LONG_TEXT_CHARACTERS)
            case Fault.RAISES_WITHOUT_TEXT:
                raise _UnprintableError
            case Fault.EXITS:
                raise SystemExit(3)
            case Fault.CLOSES:
                raise GeneratorExit
            case Fault.CANCELS_ITSELF:
                raise asyncio.CancelledError
            case _:
                pass
        if fault in (Fault.IGNORES_CANCELLATION, Fault.BLOCKS):
            raise RuntimeError("it was released")
        result = await work()
        if fault is Fault.FAILS_AFTERWARDS:
            raise RuntimeError("it failed after its work was done")
        wrong: Any = object()
        return wrong if fault is Fault.ANSWERS_WRONGLY else result

    async def _ignore_cancellation(self) -> None:
        released = asyncio.ensure_future(asyncio.to_thread(self._released.wait))
        while not released.done():
            try:
                await asyncio.shield(released)
            except asyncio.CancelledError:
                continue


def _raise(error: BaseException) -> None:
    raise error


class _UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("this exception has no text")


class FaultyModelRegistry(InMemoryModelRegistry):
    """A model registry in memory with faults.

    Attributes:
        faults: what it does wrong; nothing at first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults()

    async def download_artifacts(
        self,
        run_id: str | None = None,
        model_uri: str | None = None,
        artifact_path: str | None = None,
        dst_path: str | None = None,
    ) -> str:
        """Write the files of a model into ``dst_path``."""
        download = super().download_artifacts
        return await self.faults.run(
            "download_artifacts", lambda: download(run_id, model_uri, artifact_path, dst_path)
        )


class FaultyContainerRegistry(InMemoryContainerRegistry):
    """A container registry in memory with faults.

    Attributes:
        faults: what it does wrong; nothing at first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults()

    async def build_and_push(self, request: PackageRequest) -> Image:
        """Archive the model's files."""
        build = super().build_and_push
        return await self.faults.run("build_and_push", lambda: build(request))


class FaultyOrchestrator(InMemoryOrchestrator):
    """A cluster in memory with faults.

    Attributes:
        faults: what it does wrong; nothing at first.
    """

    def __init__(self, name: str = "faulty") -> None:
        super().__init__(name)
        self.faults = Faults()

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        """Note that the revision runs."""
        provision = super().provision
        return await self.faults.run("provision", lambda: provision(request, report))

    async def prune(self, deployment_id: UUID, keep_revision: int | None) -> None:
        """Forget every revision but one, or all."""
        prune = super().prune
        await self.faults.run("prune", lambda: prune(deployment_id, keep_revision))

    async def wait_for_completion(
        self, deployment_id: UUID, revision: int, report: ReportProgress
    ) -> JobResult:
        """Complete at once."""
        wait = super().wait_for_completion
        return await self.faults.run("wait_for_completion", lambda: wait(deployment_id, revision, report))

    async def provisioned(self) -> dict[UUID, set[int]]:
        """Return what runs."""
        return await self.faults.run("provisioned", super().provisioned)

    async def observe(self, deployment_id: UUID) -> Observation:
        """Return whether a deployment runs, and its newest revision."""
        observe = super().observe
        return await self.faults.run("observe", lambda: observe(deployment_id))

    async def logs(self, deployment_id: UUID, *, follow: bool) -> AsyncIterator[str]:
        """Yield one line for each revision that runs."""
        lines = super().logs(deployment_id, follow=follow)

        async def read() -> list[str]:
            return [line async for line in lines]

        for line in await self.faults.run("logs", read):
            yield line
