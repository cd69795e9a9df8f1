"""Read-only folders that hold exactly the files of one listing."""

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from deployledger.adapters.artifacts.listing import FileEntry


def holds_exactly(folder: Path, entries: Iterable[FileEntry]) -> bool:
    """Return whether the folder has these files in these sizes, and nothing else. Contents are not read."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                return False  # another process is replacing the folder
            size = status.st_size if stat.S_ISREG(status.st_mode) else None
            found[path.relative_to(folder).as_posix()] = size
    return found == {entry.path: entry.size for entry in entries}


def fill(folder: Path, entries: Iterable[FileEntry], blobs: Path) -> None:
    """Make ``folder`` with the files of the listing, taken from the folder of blobs.

    The folder itself stays writable, because moving it needs that; what is below it is read-only.
    """
    folder.mkdir()
    for entry in entries:
        target = folder / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(blobs / entry.sha256, target)
    for path, _, _ in os.walk(folder):
        Path(path).chmod(0o755 if path == str(folder) else 0o555)


def _link_or_copy(blob: Path, target: Path) -> None:
    try:
        target.hardlink_to(blob)
    except OSError:
        # Some file systems have no hard links, and all of them limit how many a file may have.
        shutil.copyfile(blob, target)
        target.chmod(0o444)
