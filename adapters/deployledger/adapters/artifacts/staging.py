"""Writing so that nobody ever sees half of it: build under a temporary name, make it durable, rename."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from deployledger.adapters.model_files.reading import is_folder
from deployledger.adapters.model_files.replacing import put, remove
from deployledger.service.private_files import make_folder, make_read_only, open_file

ABANDONED_AFTER_SECONDS = 24 * 3600.0


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Make a private folder below ``parent`` that is gone afterwards, whatever happens in between."""
    folder = parent / uuid4().hex
    make_folder(folder)
    try:
        yield folder
    finally:
        remove(folder)


def sweep(parent: Path) -> None:
    """Remove the staging folders of processes that were killed: those nobody wrote to for a day."""
    for folder in parent.glob("*"):
        try:
            inside = folder.iterdir() if is_folder(folder) else ()
            written = max(path.lstat().st_mtime for path in (folder, *inside))
        except FileNotFoundError:
            continue  # its owner finished just now
        if time.time() - written > ABANDONED_AFTER_SECONDS:
            remove(folder)


def publish(staged: Path, target: Path, *, aside: Path) -> None:
    """Give a complete staged file its final name, durably and read-only.

    A folder that is in its place is moved to ``aside``. The new name itself is durable after `sync_folder` of
    its folder.
    """
    make_read_only(staged)
    _sync(staged)
    put(staged, target, aside=aside)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    _sync(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` against every other thread and process; wait for it if need be."""
    with open(path, "ab", opener=open_file) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
