"""Locks between processes, on files (flock(2)): the kernel frees them when their holder dies, in any way."""

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deployledger.service import private_files

_POLL_SECONDS = 0.02

# A probe (`is_held`) holds a lock for some microseconds; within this time a real holder is told from a probe.
_PROBE_SECONDS = 0.1


def try_lock(path: Path) -> int | None:
    """Lock ``path``, made if missing, and return the file descriptor that holds it; None if another does.

    Closing the descriptor, in every process that inherited it, frees the lock.
    """
    deadline = time.monotonic() + _PROBE_SECONDS
    while (descriptor := _lock_once(path)) is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_SECONDS / 4)
    return descriptor


def is_held(path: Path) -> bool:
    """Say whether some process holds the lock; a missing file is not held."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@asynccontextmanager
async def locked(path: Path, *, make_folder: bool) -> AsyncIterator[None]:
    """Hold the lock on ``path`` inside the block; wait for it without blocking the event loop.

    With ``make_folder`` the folder is made, also when another process removes it during the wait.

    Raises:
        FileNotFoundError: the folder is missing, and is not to be made.
    """
    while True:
        if make_folder:
            private_files.make_folder(path.parent)
        try:
            descriptor = _lock_once(path)
        except FileNotFoundError:
            if not make_folder:
                raise
            continue  # the folder was removed between the two lines above
        if descriptor is not None:
            break
        await asyncio.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock_once(path: Path) -> int | None:
    descriptor = private_files.open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Somebody may have removed the file since it was opened: a lock on a removed file guards nothing.
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
