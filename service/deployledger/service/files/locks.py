"""Locks between processes, on files (flock(2)): the kernel frees them when their holder dies, in any way.

Closing a descriptor that holds a lock, in every process that inherited it, frees the lock.
"""

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from deployledger.service.files.private import make_folder, open_file

_POLL_SECONDS = 0.02
_THREADS_LOCKS: dict[Path, threading.Lock] = {}

# A probe (`is_held`) holds a lock for some microseconds; within this time a real holder is told from a probe.
_PROBE_SECONDS = 0.1


def try_lock(path: Path) -> int | None:
    """Lock a file, made if missing, and return the descriptor that holds the lock; None if another has it.

    Raises:
        OSError: if the file cannot be opened or made, or is a symbolic link, which is never followed.
    """
    return _lock(path, wait=False)


def lock_folder(path: Path, *, wait: bool) -> int | None:
    """Lock a folder, and return the descriptor that holds it; None if another does, or it was removed.

    Raises:
        OSError: it is no folder, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if _is_locked(descriptor, path, wait=wait):
        return descriptor
    os.close(descriptor)
    return None


def lock_despite_probes(path: Path) -> int | None:
    """Lock a file as `try_lock` does, but wait for a process that only looks whether the lock is held."""
    deadline = time.monotonic() + _PROBE_SECONDS
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_SECONDS / 4)
    return descriptor


def is_held(path: Path) -> bool:
    """Return whether some process holds the lock; a missing file is not held."""
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on ``path`` inside the block, against every other thread and process."""
    # Freeing a lock of the kernel wakes everyone who waits for it: one thread of each process is enough.
    with _THREADS_LOCKS.setdefault(path, threading.Lock()):
        descriptor = _lock(path, wait=True)
        assert descriptor is not None  # noqa: S101  # it was waited for
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing frees nothing if the process was forked since
            os.close(descriptor)


@asynccontextmanager
async def locked_async(path: Path, *, create_folder: bool) -> AsyncIterator[None]:
    """Hold the lock on ``path`` inside the block; wait for it without blocking the event loop.

    With ``create_folder`` the folder is made, also when another process removes it during the wait.

    Raises:
        FileNotFoundError: the folder is missing, and is not to be made.
    """
    descriptor = None
    while descriptor is None:
        if create_folder:
            make_folder(path.parent)
        try:
            descriptor = try_lock(path)
        except FileNotFoundError:
            if not create_folder:
                raise
            continue  # the folder was removed between the two lines above
        if descriptor is None:
            await asyncio.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, *, wait: bool) -> int | None:
    while True:
        descriptor = open_file(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        if _is_locked(descriptor, path, wait=wait):
            return descriptor
        try:
            # Where the last holder removed the file, it is made again.
            is_removed = not os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            is_removed = True
        os.close(descriptor)
        if not is_removed:
            return None


def _is_locked(descriptor: int, path: Path, *, wait: bool) -> bool:
    """Lock an open file, and return whether that worked and the file is still the one at its path."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        # Somebody may have removed it since it was opened: a lock on a removed file guards nothing.
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except BaseException:
        os.close(descriptor)
        raise
