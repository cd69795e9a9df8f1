"""Finding, starting and talking to the gateway of a deployment."""

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployledger.adapters.local.processes import kill_group, last_lines, python_command, start_detached
from deployledger.domain.exceptions import ExternalServiceError
from deployledger.gateway import LOOPBACK, PROGRAMS, GatewayError, GatewayFiles
from deployledger.service.files.locks import is_held, lock_despite_probes
from deployledger.service.files.writing import make_way, read_json

_START_SECONDS = 15.0
_ANSWER_SECONDS = 10.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.02
_MEND_SECONDS = 3.0
"""A gateway looks after its file each second."""
_LONGEST_ANSWER = 1024 * 1024


class GatewayGoneError(Exception):
    """The gateway ended, or was never there."""


class GatewayProcess:
    """The gateway of one deployment, whether it runs or not."""

    def __init__(self, folder: Path, host: str) -> None:
        self._files = GatewayFiles(folder)
        self._host = host

    def is_alive(self) -> bool:
        """Say whether the gateway runs; it may yet be too early for it to answer."""
        return is_held(self._files.lock)

    async def ensure(self) -> None:
        """Return when a gateway runs and answers: start one if none does, replace one that is of no use.

        Call it only while holding the deployment's lock.

        Raises:
            ExternalServiceError: it does not start.
        """
        deadline = time.monotonic() + _START_SECONDS
        process: subprocess.Popen[bytes] | None = None
        while time.monotonic() < deadline:
            try:
                state = await self.ask("state")
            except GatewayGoneError:
                if process is not None and process.poll() is not None:
                    break
                process = await asyncio.to_thread(self._start) or process
                await asyncio.sleep(_POLL_SECONDS)
            except TimeoutError:
                await self.kill()
            else:
                if not await asyncio.to_thread(self._is_stranded, state):
                    return
                await self.end()
        await self.kill()
        log = "\n".join(last_lines(self._files.log))
        raise ExternalServiceError(
            "orchestrator",
            f"The gateway process did not start. The end of {self._files.log} says:\n{log}",
            hint="Fix the cause, then retry.",
        )

    async def ask(
        self,
        command: str,
        *,
        within: float | None = None,
        progress: Callable[[dict[str, Any]], None] = lambda progress: None,
        **arguments: object,
    ) -> dict[str, Any]:
        """Send a command, and return its result; ``within`` a number of seconds, ten by default.

        Raises:
            GatewayGoneError: no gateway runs, or it ended before it answered.
            GatewayError: it answered that it could not do that.
            TimeoutError: no answer came in time.
        """
        async with asyncio.timeout(_ANSWER_SECONDS if within is None else within):
            token, reader, writer = await self._connected()
            try:
                request = {"token": token, "command": command, **arguments}
                writer.write(json.dumps(request).encode() + b"\n")
                return await _answer(reader, progress)
            except ConnectionError:
                raise GatewayGoneError from None
            finally:
                writer.close()

    async def end(self) -> None:
        """Let the gateway stop everything and end; kill it if it does not. Nothing happens if none runs."""
        if not await asyncio.to_thread(self.is_alive):
            return
        with contextlib.suppress(GatewayGoneError, GatewayError, TimeoutError):
            await self.ask("shut_down", only_if_idle=False, within=_STOP_SECONDS)
            if await self._wait_until_dead(_ANSWER_SECONDS):
                return
        await self.kill()

    async def end_if_idle(self) -> None:
        """End the gateway if it serves nothing and starts nothing."""
        with contextlib.suppress(GatewayGoneError, GatewayError, TimeoutError):
            if (await self.ask("shut_down", only_if_idle=True))["ended"]:
                await self._wait_until_dead(_ANSWER_SECONDS)

    async def kill(self) -> None:
        """Kill the gateway at once; its replicas notice, and end too."""
        state = await asyncio.to_thread(self._state)
        if state is not None:
            kill_group(state["pid"])
            await self._wait_until_dead(_ANSWER_SECONDS)

    async def _wait_until_dead(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while await asyncio.to_thread(self.is_alive):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def _connected(self) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the running gateway; wait for one that has yet to write where it is."""
        deadline = time.monotonic() + _MEND_SECONDS
        while True:
            state = await asyncio.to_thread(self._state)
            if state is not None:
                with contextlib.suppress(OSError):
                    port: int = state["port"]
                    return state["token"], *await asyncio.open_connection(
                        LOOPBACK, port, limit=_LONGEST_ANSWER
                    )
            if time.monotonic() > deadline or not await asyncio.to_thread(self.is_alive):
                raise GatewayGoneError
            await asyncio.sleep(_POLL_SECONDS)

    def _is_stranded(self, state: dict[str, Any]) -> bool:
        """Return whether a gateway has lost all replicas, and is of a version that cannot restart them."""
        written = self._state()
        if written is None or written.get("programs") == PROGRAMS:
            return False
        revisions = state["revisions"].values()
        has_replicas = any(revision["ready"] or revision["state"] == "starting" for revision in revisions)
        return not has_replicas and any(revision["state"] == "ready" for revision in revisions)

    def _state(self) -> dict[str, Any] | None:
        """Return what the running gateway wrote of itself; never what a dead one wrote."""
        if not is_held(self._files.lock):
            return None
        state = read_json(self._files.state)
        match state:
            case {"pid": int(pid), "port": int(port), "token": str()} if pid > 1 and 0 < port < 65536:
                return state
        return None  # it is damaged: the gateway notices, and writes it again

    def _start(self) -> subprocess.Popen[bytes] | None:
        """Start a gateway if none runs, and hand it the lock: there is no moment without a holder."""
        lock = lock_despite_probes(self._files.lock)
        if lock is None:
            return None
        try:
            make_way(self._files.state)
            command = python_command(
                "deployledger.gateway",
                *("--folder", str(self._files.folder)),
                *("--host", self._host),
                *("--lock-fd", str(lock)),
            )
            return start_detached(command, log=self._files.log, cwd=Path("/"), keep_open=lock)
        finally:
            os.close(lock)


async def _answer(reader: asyncio.StreamReader, progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    while line := await reader.readline():
        match json.loads(line):
            case {"progress": dict(so_far)}:
                progress(so_far)
            case {"result": dict(result)}:
                return result
            case {"error": dict(error)}:
                raise GatewayError(**error)
    raise GatewayGoneError
