"""All replicas of one revision."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from deployledger.gateway.limits import Limits
from deployledger.gateway.messages import GatewayError, RevisionSpec
from deployledger.gateway.replica import NotReadyError, Replica, describe_exit
from deployledger.gateway.revision_log import RevisionLog

DRAIN_SECONDS = 5.0
"""For how long requests that are on their way may go on, when a revision is stopped."""

_POLL_SECONDS = 0.05


class RevisionState(StrEnum):
    """What a revision is doing."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


class Revision:
    """Starts the replicas of a revision, all or none, and drains and stops them."""

    def __init__(self, spec: RevisionSpec, port: int, parent_pipe: int) -> None:
        self.spec = spec
        self.port = port
        self.limits = Limits()
        self.state = RevisionState.STARTING
        self._changed = asyncio.Event()
        self._log = RevisionLog(Path(spec.log))
        self.replicas = [
            Replica(index, spec, self._log, parent_pipe, self._changed.set) for index in range(spec.replicas)
        ]
        self._failure: GatewayError | None = None
        self._starting = asyncio.get_running_loop().create_task(self._start())

    @property
    def number(self) -> int:
        """The revision's number."""
        return self.spec.number

    @property
    def ready_replicas(self) -> list[Replica]:
        """The replicas that answer now."""
        return [replica for replica in self.replicas if replica.ready]

    async def wait_until_ready(self, progress: Callable[[int], None]) -> None:
        """Wait for the start to end; ``progress`` is called with the number of ready replicas.

        Any number of callers may wait, and one that goes away stops nothing.

        Raises:
            GatewayError: a replica exited or was not ready in time, or the revision was stopped meanwhile.
        """
        while not self._starting.done():
            progress(len(self.ready_replicas))
            self._changed.clear()
            changed = asyncio.get_running_loop().create_task(self._changed.wait())
            await asyncio.wait({self._starting, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        if self.state is RevisionState.STOPPED:
            raise GatewayError("server_exited", f"Revision {self.number} was stopped before it was ready.")
        if self._failure is not None:
            raise self._failure
        self._starting.result()
        progress(len(self.ready_replicas))

    async def stop(self) -> None:
        """Let the requests finish that replicas have, and end every replica; it gets no further ones."""
        if self.state is RevisionState.FAILED:
            return  # every replica has been ended
        was_starting = not self._starting.done()
        self.state = RevisionState.STOPPED
        self._starting.cancel()
        await asyncio.wait({self._starting})
        if not was_starting:
            await self._drain()
        await self._end_replicas()
        self._log.note(f"revision {self.number} stopped")
        self._log.close()

    async def _start(self) -> None:
        starts = [asyncio.get_running_loop().create_task(replica.start()) for replica in self.replicas]
        try:
            await asyncio.gather(*starts)
        except (NotReadyError, OSError) as error:
            self._failure = self._describe(error)
            await _cancel(starts)
            await self._end_replicas()
            self._log.close()
            self.state = RevisionState.FAILED
        except asyncio.CancelledError:
            await _cancel(starts)
            raise
        else:
            self.state = RevisionState.READY

    def _describe(self, error: NotReadyError | OSError) -> GatewayError:
        if isinstance(error, OSError):
            return GatewayError("external_service_failed", f"A replica could not be started: {error}.")
        if error.exit_status is None:
            message = f"A replica was not ready within {self.spec.ready_timeout:g} seconds."
            return GatewayError("server_not_ready", message, log=self._log.tail)
        return GatewayError(
            "server_exited",
            f"A replica ended with {describe_exit(error.exit_status)} before it was ready.",
            exit_status=error.exit_status,
            log=self._log.tail,
        )

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_SECONDS
        while any(replica.backend.work for replica in self.replicas):
            if loop.time() > deadline:
                break
            await asyncio.sleep(_POLL_SECONDS)

    async def _end_replicas(self) -> None:
        await asyncio.gather(*(replica.stop() for replica in self.replicas))


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
