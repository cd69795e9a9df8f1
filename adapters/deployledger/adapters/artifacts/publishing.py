"""Atomic publishing: files are completed and made durable first, then given their name."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployledger.service.private_files import make_read_only, open_file


def make_durable(staged: Path) -> None:
    """Make a staged file read-only, and let its contents survive a power failure."""
    make_read_only(staged)
    _sync(staged)


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
