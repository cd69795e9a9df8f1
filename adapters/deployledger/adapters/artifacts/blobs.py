"""The files of all stored models, each once, by the sha256 of its contents."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployledger.adapters.artifacts.listing import FileEntry
from deployledger.adapters.artifacts.source import SourceFile, read_chunks
from deployledger.adapters.artifacts.staging import publish, sync_folder


class Blobs:
    """One folder of immutable files, named by the sha256 of their contents in hexadecimal."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Return where the file is, if it is there."""
        return self.folder / sha256

    def size(self, sha256: str) -> int | None:
        """Return how many bytes are stored under this name, or None if there is no such file."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def stage(self, files: Sequence[SourceFile], staging: Path) -> tuple[list[FileEntry], dict[str, Path]]:
        """Read the files, and copy those that are not here yet into ``staging``.

        Returns:
            What the files are, and the copies by the sha256 of their contents.
        """
        entries = []
        staged: dict[str, Path] = {}
        known_sizes = {path.stat().st_size for path in self.folder.iterdir()}
        for number, file in enumerate(files):
            if file.size in known_sizes:
                # Probably here already. Reading it twice if not is better than needing the space twice if so.
                sha256 = _sha256_of(file)
                if sha256 in staged or self.size(sha256) == file.size:
                    entries.append(FileEntry(file.name, file.size, sha256))
                    continue
            copy = staging / str(number)
            sha256 = _sha256_of(file, copy_to=copy)
            staged[sha256] = copy
            known_sizes.add(file.size)
            entries.append(FileEntry(file.name, file.size, sha256))
        return entries, staged

    def publish(self, staged: Mapping[str, Path]) -> None:
        """Make staged copies part of this folder, durably."""
        for sha256, copy in staged.items():
            publish(copy, self.path(sha256))
        sync_folder(self.folder)


def has_sha256(path: Path, sha256: str) -> bool:
    """Return whether there is a file at ``path`` with these contents."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _sha256_of(file: SourceFile, copy_to: Path | None = None) -> str:
    """Return the sha256 of the file's contents; copy them in the same pass if asked to."""
    hasher = hashlib.sha256()
    if copy_to is None:
        for chunk in read_chunks(file):
            hasher.update(chunk)
    else:
        with copy_to.open("xb") as copy:
            for chunk in read_chunks(file):
                hasher.update(chunk)
                copy.write(chunk)
    return hasher.hexdigest()
