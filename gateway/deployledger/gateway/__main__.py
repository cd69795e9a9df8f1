"""The gateway process."""

import argparse
import asyncio
import os
import resource
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deployledger.gateway.control import ControlServer
from deployledger.gateway.files import PROGRAMS, GatewayFiles
from deployledger.gateway.gateway import Gateway
from deployledger.service.files.writing import read_json, write_json
from deployledger.serving import keep_freed_memory

_WATCH_SECONDS = 1.0


async def serve(files: GatewayFiles, host: str, lock: int) -> None:
    """Run a gateway until it is shut down, gets SIGTERM or SIGINT, or its folder is gone."""
    gateway = Gateway(host)
    token = secrets.token_hex(32)
    control = ControlServer(gateway, token)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    state: dict[str, object] = {
        "pid": os.getpid(),
        "port": await control.open(),
        "token": token,
        "programs": PROGRAMS,
    }
    await asyncio.to_thread(write_json, files.state, state)

    while not (gateway.closed.is_set() or stopped.is_set() or _is_abandoned(files.lock, lock)):
        waiters = [loop.create_task(event.wait()) for event in (gateway.closed, stopped)]
        await asyncio.wait(waiters, timeout=_WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.to_thread(_mend, files, lock, state)
    if not gateway.closed.is_set():
        await gateway.shut_down(only_if_idle=False)


def _mend(files: GatewayFiles, lock: int, state: dict[str, object]) -> None:
    """Write the file by which this gateway is found again if something else wrote or removed it."""
    if read_json(files.state) != state and not _is_abandoned(files.lock, lock):
        with suppress(OSError):  # the disk is full, or the folder is being removed: there is a next time
            write_json(files.state, state)


def _is_abandoned(path: Path, lock: int) -> bool:
    """Say whether the lock file that this process holds is still the one in the deployment's folder."""
    try:
        return path.stat().st_ino != os.fstat(lock).st_ino
    except OSError:
        return True


def _allow_as_many_files_as_possible() -> None:
    """Raise the soft limit of open files, of which each request on its way takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop's where it is installed, which halves the time per request."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> int:
    """Run ``python -m deployledger.gateway``."""
    parser = argparse.ArgumentParser(prog="deployledger.gateway")
    parser.add_argument("--folder", type=Path, required=True, help="the deployment's folder")
    parser.add_argument("--host", required=True, help="the address of the public ports")
    parser.add_argument("--lock-fd", type=int, required=True, help="the descriptor that holds gateway.lock")
    arguments = parser.parse_args()
    # It came through an exec, so it is inheritable; no replica may hold it on.
    os.set_inheritable(arguments.lock_fd, False)
    _allow_as_many_files_as_possible()
    keep_freed_memory()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(GatewayFiles(arguments.folder), arguments.host, arguments.lock_fd))
    return 0


if __name__ == "__main__":
    sys.exit(main())
