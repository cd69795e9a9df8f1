"""Checks that there is room for what is about to be written."""

import asyncio
import errno
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from deployledger.domain.exceptions import InsufficientStorageError
from deployledger.service.files.reading import walk

MARGIN_BYTES = 16 * 1024 * 1024
"""What is left free: the event log, which may be on the same disk, must still record that a step failed."""

_LOOK_SECONDS = 0.5
_T = TypeVar("_T")


def free_bytes(folder: Path) -> int:
    """Return how many bytes may be written below a folder, which need not exist.

    Raises:
        OSError: if the disk cannot be asked.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_room(folder: Path, needed: int) -> None:
    """Return if ``needed`` bytes fit on the disk of a folder, with a margin.

    Raises:
        InsufficientStorageError: if they do not.
        OSError: if the disk cannot be asked.
    """
    free = free_bytes(folder)
    if needed and needed + MARGIN_BYTES > free:
        raise InsufficientStorageError(
            f"{needed:,} bytes are needed in {folder}, whose disk has {free:,} bytes free, "
            f"{MARGIN_BYTES:,} of them reserved for the event log"
        )


def check_size(size: int, limit: int | None) -> None:
    """Return if a model is not larger than the limit that is set.

    Raises:
        InsufficientStorageError: if it is.
    """
    if limit is not None and size > limit:
        raise InsufficientStorageError(
            f"the model has {size:,} bytes, and the limit is {limit:,} bytes",
            hint="Deploy a smaller model, or raise DEPLOYLEDGER_LARGEST_MODEL_BYTES.",
        )


def is_full(error: OSError) -> bool:
    """Return whether an error says that a disk, or a quota of it, is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(folder: Path, error: OSError) -> InsufficientStorageError:
    """Return the error for a disk that filled up while something was written below a folder."""
    return InsufficientStorageError(f"the disk of {folder} filled up while it was written: {error.strerror}")


async def within_limits(work: Coroutine[Any, Any, _T], folder: Path, limit: int | None) -> _T:
    """Await a download of unknown size into a folder; cancel it when it gets too large or fills the disk.

    Raises:
        InsufficientStorageError: if it was cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=_LOOK_SECONDS)
            if done:
                return task.result()
            size = await asyncio.to_thread(lambda: sum(status.st_size for _, status in walk(folder)))
            check_size(size, limit)
            await asyncio.to_thread(check_room, folder, 1)
    finally:
        task.cancel()
        await asyncio.wait({task})
