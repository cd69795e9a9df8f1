"""Staging folders: removed after use, or by the next sweep once their owner is dead."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from deployledger.domain.exceptions import ConfigurationError
from deployledger.service.files.locks import lock_folder
from deployledger.service.files.private import make_folder

_NAME = re.compile(r"[0-9a-f]{32}")

_OURS: set[str] = set()
"""The names of the folders that this process uses, which a sweep need not look at."""


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
        _OURS.discard(folder.name)


@asynccontextmanager
async def staging_folder_async(parent: Path) -> AsyncIterator[Path]:
    """Make such a folder; removing it, which may take long, does not block the event loop."""
    stack = ExitStack()
    try:
        yield stack.enter_context(staging_folder(parent))
    finally:
        await asyncio.shield(asyncio.to_thread(stack.close))


def sweep(parent: Path) -> None:
    """Remove the staging folders below ``parent`` whose owners are dead, and whatever else is there.

    No clock is asked, and a folder whose owner lives is never touched. If ``parent`` is a link, only what has
    the name of a staging folder is removed: the rest may belong to others.
    """
    try:
        is_link = parent.is_symlink()
        others = (path for path in parent.iterdir() if path.name not in _OURS)
        entries = [path for path in others if not is_link or _NAME.fullmatch(path.name)]
    except OSError:
        return
    for path in entries:
        with suppress(FileNotFoundError, PermissionError):  # finished now, not ours
            if path.is_dir() and not path.is_symlink():
                _remove_unlocked(path)
            else:
                remove(path)


def refuse_links(root: Path, folders: Iterable[Path]) -> None:
    """Return if no folder below ``root`` is, or is below, a symbolic link: files there may be others'.

    Raises:
        ConfigurationError: if one is.
    """
    for folder in folders:
        for path in (folder, *folder.parents):
            if path == root:
                break
            if path.is_symlink():
                raise ConfigurationError(
                    f"Nothing in {root} was freed: {path} is a symbolic link to {path.readlink()}, and the "
                    "files there may belong to another program.",
                    hint="Replace the link by the folder itself, then run `deployledger gc` again. "
                    "To keep everything on another disk, set DEPLOYLEDGER_HOME.",
                )


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
        _OURS.add(folder.name)
        make_folder(folder)
        with suppress(FileNotFoundError):  # swept before it was locked
            descriptor = lock_folder(folder, wait=True)
            if descriptor is not None:
                return folder, descriptor


def _remove_unlocked(folder: Path) -> None:
    descriptor = lock_folder(folder, wait=False)
    if descriptor is not None:
        try:
            remove(folder)
        finally:
            os.close(descriptor)
