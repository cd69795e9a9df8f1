"""Folders for what is being written: gone afterwards, or with the next sweep once their owner is dead."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from deployledger.service.private_files import make_folder


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Make a private folder below ``parent`` that is gone afterwards, whatever happens in between.

    It is locked (flock(2)) for as long: the kernel frees the lock when its owner dies, in any way.

    Raises:
        OSError: if it cannot be made.
    """
    folder, lock = _make(parent)
    try:
        yield folder
    finally:
        remove(folder)
        os.close(lock)


def sweep(parent: Path) -> None:
    """Remove the staging folders below ``parent`` whose owners are dead, and whatever else is there.

    No clock is asked, and a folder whose owner lives is never touched.
    """
    try:
        entries = list(parent.iterdir())
    except OSError:
        return
    for path in entries:
        with suppress(FileNotFoundError, BlockingIOError, PermissionError):  # finished now, alive, not ours
            if path.is_dir() and not path.is_symlink():
                _remove_unlocked(path)
            else:
                remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder and all it holds, if it is there.

    What cannot be removed stays; what links lead to is never touched.
    """
    if path.is_dir() and not path.is_symlink():
        for folder, _, _ in os.walk(path):
            with suppress(OSError):
                Path(folder).chmod(0o700)
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _make(parent: Path) -> tuple[Path, int]:
    while True:
        folder = parent / uuid4().hex
        make_folder(folder)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # swept before it was locked
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                return folder, lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _remove_unlocked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(folder)
    finally:
        os.close(lock)
