"""Work in threads that can be stopped: a thread that reads or copies checks for it after each chunk."""

import asyncio
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import BinaryIO, ParamSpec, TypeVar

CHUNK_BYTES = 1024 * 1024

_ZEROS = bytes(CHUNK_BYTES)
_SMALLEST_HOLE_BYTES = 4096

_P = ParamSpec("_P")
_T = TypeVar("_T")

_stopped: ContextVar[threading.Event | None] = ContextVar("stopped", default=None)


class StoppedError(Exception):
    """The work was cancelled; nobody waits for its result."""


async def stoppable(call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a blocking function in a thread; cancelling stops it, and takes effect when it has ended.

    So its locks are released, and its temporary files removed, before the caller goes on.
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
    """Return unless the work of this thread was cancelled; called between two chunks.

    Raises:
        StoppedError: if it was.
    """
    stopped = _stopped.get()
    if stopped is not None and stopped.is_set():
        raise StoppedError


def chunks_of(file: BinaryIO | io.FileIO) -> Iterator[bytes]:
    """Yield the rest of a file in pieces of at most `CHUNK_BYTES`.

    Raises:
        OSError: it cannot be read.
        StoppedError: the work of this thread was cancelled.
    """
    while chunk := file.read(CHUNK_BYTES):
        check_not_stopped()
        yield chunk


def sha256_of(file: BinaryIO | io.FileIO) -> str:
    """Return the sha256 of the rest of a file in hexadecimal; raises as `chunks_of` does."""
    hasher = hashlib.sha256()
    for chunk in chunks_of(file):
        hasher.update(chunk)
    return hasher.hexdigest()


def write_sparse(file: BinaryIO, chunks: Iterable[bytes]) -> None:
    """Write a new file, in which pieces that are all zeros become holes.

    Raises:
        OSError: it cannot be written.
        StoppedError: the work of this thread was cancelled.
    """
    for chunk in chunks:
        check_not_stopped()
        if len(chunk) >= _SMALLEST_HOLE_BYTES and chunk == _ZEROS[: len(chunk)]:
            file.seek(len(chunk), os.SEEK_CUR)
        else:
            file.write(chunk)
    file.truncate(file.tell())  # it may end in a hole
