"""Read-only folders that hold exactly the files of one listing."""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from deployledger.adapters.artifacts.blobs import Blobs
from deployledger.service.files.listing import FileEntry
from deployledger.service.files.private import folder_mode, make_folder, make_read_only
from deployledger.service.files.reading import has_sha256, is_folder
from deployledger.service.files.stopping import chunks_of, write_sparse


def holds_exactly(folder: Path, entries: Sequence[FileEntry], blobs: Blobs) -> bool:
    """Return whether the folder has these files and nothing else, as the blobs are now.

    A file that is a link to its blob is what the blob is; the contents of a copy are read.
    """
    if not is_folder(folder):
        return False
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                return False  # another process is replacing the folder
            size = status.st_size if stat.S_ISREG(status.st_mode) else None
            sizes[path.relative_to(folder).as_posix()] = size
    if sizes != {entry.path: entry.size for entry in entries}:
        return False
    return all(
        _is_link(folder / entry.path, blobs.path(entry.sha256))
        or has_sha256(folder / entry.path, entry.sha256)
        for entry in entries
    )


def fill(folder: Path, entries: Iterable[FileEntry], blobs: Path) -> None:
    """Make ``folder`` with the files of the listing, taken from the folder of blobs.

    The folder itself stays writable, because moving it needs that; what is below it is read-only.
    """
    make_folder(folder)
    mode = folder_mode(folder.parent)
    for entry in entries:
        target = folder / entry.path
        make_folder(target.parent)
        _link_or_copy(blobs / entry.sha256, target)
    for path, _, _ in os.walk(folder):
        Path(path).chmod(mode if path == str(folder) else mode & ~0o222)


def _is_link(path: Path, blob: Path) -> bool:
    try:
        return os.path.samestat(path.lstat(), blob.lstat())
    except OSError:
        return False


def _link_or_copy(blob: Path, target: Path) -> None:
    try:
        target.hardlink_to(blob)
    except OSError:
        # Some file systems have no hard links, and all of them limit how many a file may have.
        with blob.open("rb") as source, target.open("wb") as copy:
            write_sparse(copy, chunks_of(source))
        make_read_only(target)
