"""Work in threads that can be stopped: a thread that reads or copies looks after each chunk whether it is."""

import asyncio
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import BinaryIO, ParamSpec, TypeVar

CHUNK_BYTES = 1024 * 1024

_ZEROS = bytes(CHUNK_BYTES)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_stopped: ContextVar[threading.Event | None] = ContextVar("stopped", default=None)


class StoppedError(Exception):
    """The work was called off; nobody waits for its result."""


async def stoppable(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call something that blocks in a thread; being cancelled stops it, and takes effect when it has ended.

    So its locks are held, and its temporary files removed, for as long as anybody waits for it.
    """
    stopped = threading.Event()
    token = _stopped.set(stopped)
    work = asyncio.create_task(asyncio.to_thread(call, *args, **kwargs))
    _stopped.reset(token)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # which nobody asks for
        raise


def check_not_stopped() -> None:
    """Return unless the work of this thread was called off; called between two chunks.

    Raises:
        StoppedError: if it was.
    """
    stopped = _stopped.get()
    if stopped is not None and stopped.is_set():
        raise StoppedError


def write_sparse(file: BinaryIO, chunk: bytes) -> None:
    """Write the next bytes of a file; a chunk of zeros becomes a hole. `end_sparse` ends the file.

    Raises:
        OSError: it cannot be written.
        StoppedError: the work of this thread was called off.
    """
    check_not_stopped()
    if chunk == _ZEROS or chunk == _ZEROS[: len(chunk)]:
        file.seek(len(chunk), 1)
    else:
        file.write(chunk)


def end_sparse(file: BinaryIO) -> None:
    """Give a file its whole length, which may end in a hole."""
    file.truncate(file.tell())
