"""The contents of a folder as `Stored`, and its disk usage."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from deployledger.domain.stored import File, Kind, Stored
from deployledger.service.files.reading import walk

_BLOCK_BYTES = 512
"""The unit of ``st_blocks``, whatever the file system's own blocks are (POSIX.1-2017, sys/stat.h)."""


def allocated(status: os.stat_result) -> tuple[File, int]:
    """Return which file a status is of, and how many bytes it takes."""
    return (status.st_dev, status.st_ino), status.st_blocks * _BLOCK_BYTES


def files_below(path: Path) -> dict[File, int]:
    """Return the file at a path, or the regular files below a folder, and how many bytes each takes."""
    try:
        status = path.lstat()
    except OSError:
        return {}
    if not stat.S_ISDIR(status.st_mode):
        return dict([allocated(status)])
    return dict(allocated(status) for _, status in walk(path) if stat.S_ISREG(status.st_mode))


def entries_of(folder: Path) -> list[Path]:
    """Return what is in a folder, in order; nothing if it does not exist."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []


def stored_at(
    path: Path, kind: Kind, *, damage: tuple[str, ...] = (), users: tuple[str, ...] = ()
) -> Iterator[Stored]:
    """Yield the one file or folder at a path, unless another process moves it just now."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        yield Stored(
            kind,
            str(path),
            status.st_size,
            damage=damage,
            users=users,
            changed_at=datetime.fromtimestamp(status.st_ctime, UTC) if kind is Kind.DAMAGED_FILE else None,
            files=files_below(path),
        )
