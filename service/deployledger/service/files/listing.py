"""The canonical listing of a tree of files, and the one digest that names the tree.

A listing has one line for each file, in the order of the paths' UTF-8 bytes, in UTF-8 and with every line
ended by one newline::

    <sha256 of the contents, 64 lower-case hexadecimal digits> <size in bytes, decimal> <path>

A path is relative to the tree's root, its parts are joined by ``/``, and it holds no control characters, so
a listing is unambiguous. Modes, owners, times and empty folders are left out: the same files give the same
listing on any machine. The digest of the tree is the sha256 of its listing.
"""

import hashlib
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from deployledger.service.files.reading import open_stored, walk
from deployledger.service.files.stopping import sha256_of


class FileEntry(NamedTuple):
    """One file of a tree: where it is, how many bytes it has, and the sha256 of them in hexadecimal."""

    path: str
    size: int
    sha256: str


def encode_listing(entries: Iterable[FileEntry]) -> bytes:
    """Return the canonical listing of the files, whatever order they come in."""
    ordered = sorted(entries, key=lambda entry: entry.path.encode())
    return "".join(f"{entry.sha256} {entry.size} {entry.path}\n" for entry in ordered).encode()


def decode_listing(listing: bytes) -> list[FileEntry]:
    """Return the files that a listing made by `encode_listing` names."""
    entries = []
    for line in listing.decode().split("\n")[:-1]:
        sha256, size, path = line.split(" ", 2)
        entries.append(FileEntry(path, int(size), sha256))
    return entries


def tree_digest(listing: bytes) -> str:
    """Return the digest of the tree that the listing describes: ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(listing).hexdigest()}"


def list_files(folder: Path) -> list[FileEntry]:
    """Read every file below a folder, and return what they are.

    Raises:
        OSError: something cannot be read, or is neither a file nor a folder.
    """
    entries = []
    for path, status in walk(folder):
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is neither a file nor a folder")
        with open_stored(path) as file:
            sha256 = sha256_of(file)
        entries.append(FileEntry(path.relative_to(folder).as_posix(), status.st_size, sha256))
    return entries
