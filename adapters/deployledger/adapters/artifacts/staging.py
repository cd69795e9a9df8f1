"""Writing so that nobody ever sees half of it: build under a temporary name, make it durable, rename."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

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
        remove_tree(folder)


def sweep(parent: Path) -> None:
    """Remove the staging folders of processes that were killed: those nobody wrote to for a day."""
    for folder in parent.glob("*"):
        try:
            written = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except FileNotFoundError:
            continue  # its owner finished just now
        if time.time() - written > ABANDONED_AFTER_SECONDS:
            remove_tree(folder)


def publish(staged: Path, target: Path) -> None:
    """Give a complete staged file its final name, durably and read-only.

    The new name itself is durable after `sync_folder` of its folder.
    """
    make_read_only(staged)
    _sync(staged)
    staged.replace(target)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    _sync(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all it holds, read-only sub-folders included.

    What cannot be removed now is left for a later `sweep`: it must not hide the error that led here.
    """
    for path, _, _ in os.walk(folder):
        with suppress(OSError):
            Path(path).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


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
