"""One server process of a revision."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from deployledger.gateway.backend import Backend
from deployledger.gateway.messages import PARENT_FD, PORT, RevisionSpec
from deployledger.gateway.ports import LOOPBACK, ReservedPort
from deployledger.gateway.revision_log import RevisionLog
from deployledger.serving import DAMAGED_STATUS

_POLL_SECONDS = 0.05
_PROBE_SECONDS = 2.0
_TERM_SECONDS = 5.0
_FIRST_BACKOFF_SECONDS = 0.2
_LAST_BACKOFF_SECONDS = 30.0
_STEADY_SECONDS = 60.0
_LONGEST_LINE = 64 * 1024


class NotReadyError(Exception):
    """A replica did not become ready; ``exit_status`` is None if it still ran when its time was over."""

    def __init__(self, exit_status: int | None) -> None:
        super().__init__(exit_status)
        self.exit_status = exit_status


@dataclass(eq=False)
class _Incarnation:
    """One process of a replica, and the task that copies its output to the log."""

    process: asyncio.subprocess.Process
    output: asyncio.Task[None]
    ended: bool = False


@dataclass(eq=False)
class Replica:
    """A server that is started, watched, started again when it dies, and stopped.

    Attributes:
        index: counted from 0 within its revision.
        spec: how its revision is served.
        log: its revision's log.
        parent_pipe: the read end that it holds, to notice that the gateway is gone.
        changed: called when ``ready`` has changed.
        ready: whether it answers.
        damaged: whether it last ended because the model's files are damaged.
        restarts: how often it was started again.
        backend: what requests are sent to.
    """

    index: int
    spec: RevisionSpec
    log: RevisionLog
    parent_pipe: int
    changed: Callable[[], None]
    ready: bool = False
    damaged: bool = False
    restarts: int = 0

    def __post_init__(self) -> None:
        self._reserved = ReservedPort()
        self.backend = Backend(self._reserved.number)
        self._incarnation: _Incarnation | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()

    async def start(self) -> None:
        """Start the process and wait until it is ready; from then on a process that dies is replaced.

        Raises:
            NotReadyError: it exited, or took longer than the revision allows.
        """
        incarnation = await self._launch()
        await self._wait_until_ready(incarnation)
        self._keeper = asyncio.get_running_loop().create_task(self._keep_running(incarnation))

    def hurry(self) -> None:
        """Start a process that has died again now, not after the pause that would be its turn."""
        self._hurried.set()

    async def stop(self) -> None:
        """End the process: SIGTERM, and after a grace period SIGKILL; afterwards nothing of it is left."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        self._set_ready(False)
        if self._incarnation is not None:
            await self._end(self._incarnation)
        self._reserved.release()

    async def _launch(self) -> _Incarnation:
        values = {PORT: str(self.backend.port), PARENT_FD: str(self.parent_pipe)}
        # A pipe of our own: with asyncio's, waiting for the process means waiting for all that it started.
        read, write = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(values.get(argument, argument) for argument in self.spec.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                cwd=self.spec.folder,
                pass_fds=[self.parent_pipe],
                start_new_session=True,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.log.note(f"replica {self.index} started on port {self.backend.port}, pid {process.pid}")
        output = asyncio.get_running_loop().create_task(self._copy_output(read))
        self._incarnation = self.backend.process = _Incarnation(process, output)
        return self._incarnation

    async def _wait_until_ready(self, incarnation: _Incarnation) -> None:
        process = incarnation.process
        try:
            async with asyncio.timeout(self.spec.ready_timeout):
                while process.returncode is None:
                    if await answers_200(self.backend.port, self.spec.ready_path):
                        self._set_ready(True)
                        return
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            await self._end(incarnation)
            raise NotReadyError(None) from None
        await self._end(incarnation)
        raise NotReadyError(process.returncode)

    async def _keep_running(self, incarnation: _Incarnation) -> None:
        loop = asyncio.get_running_loop()
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            began = loop.time()
            status = await incarnation.process.wait()
            self._hurried.clear()
            self.damaged = status == DAMAGED_STATUS
            self._set_ready(False)
            await self._end(incarnation)
            if loop.time() - began > _STEADY_SECONDS:
                backoff = _FIRST_BACKOFF_SECONDS
            self.log.note(
                f"replica {self.index} ended with {describe_exit(status)}; starting it again in {backoff:g} s"
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff):
                    await self._hurried.wait()
            backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)
            self.restarts += 1
            incarnation = await self._launch()
            # One that does not get ready has ended, and the next turn of the loop sees that.
            with suppress(NotReadyError):
                await self._wait_until_ready(incarnation)

    async def _end(self, incarnation: _Incarnation) -> None:
        if incarnation.ended:
            return  # its process group may be somebody else's by now
        process = incarnation.process
        if process.returncode is None:
            _signal_group(process.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(_TERM_SECONDS):
                    await process.wait()
        # What the server itself started, or the server if it did not heed SIGTERM.
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        await incarnation.output
        incarnation.ended = True

    async def _copy_output(self, descriptor: int) -> None:
        output = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(descriptor, "rb")
        )
        speaker = f"replica {self.index}"
        rest = b""
        while chunk := await output.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self.log.write(speaker, line.decode("utf-8", errors="replace").rstrip("\r"))
        if rest:
            self.log.write(speaker, rest.decode("utf-8", errors="replace"))
        transport.close()

    def _set_ready(self, ready: bool) -> None:
        self.damaged = self.damaged and not ready
        if ready != self.ready:
            self.ready = ready
            self.changed()


async def answers_200(port: int, path: str) -> bool:
    """Say whether ``GET path`` on 127.0.0.1 is answered with status 200."""
    request = f"GET {path} HTTP/1.1\r\nhost: {LOOPBACK}:{port}\r\nconnection: close\r\n\r\n"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(request.encode("ascii"))
            status_line = await reader.readline()
    except (OSError, TimeoutError):
        return False
    finally:
        if writer is not None:
            writer.close()
    return status_line.split(b" ")[1:2] == [b"200"]


def describe_exit(status: int) -> str:
    """Say in words how a process ended, as `subprocess` counts statuses."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
