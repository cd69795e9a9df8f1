"""How much room files take on the disk."""

import os
import stat
from pathlib import Path

from deployledger.domain.stored import File
from deployledger.serving.model_files.checking import walk

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
