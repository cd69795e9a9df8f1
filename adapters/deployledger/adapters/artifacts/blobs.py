"""The files of all stored models, each once, by the sha256 of its contents."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deployledger.adapters.artifacts.source import SourceFile, read_chunks
from deployledger.domain.logs import logger
from deployledger.service.files.disk_space import check_room
from deployledger.service.files.listing import FileEntry
from deployledger.service.files.locks import locked
from deployledger.service.files.private import open_file
from deployledger.service.files.reading import exists, file_status, has_sha256
from deployledger.service.files.stopping import write_sparse
from deployledger.service.files.writing import make_durable, move_aside, put, sync

LOGGER = logger("artifacts")


class Blobs:
    """One folder of immutable files, named by the sha256 of their contents in hexadecimal.

    Args:
        damaged: the folder that damaged files are moved to.
        lock: the lock file that is held while a file is moved there, or put in its place.
    """

    def __init__(self, folder: Path, *, damaged: Path, lock: Path) -> None:
        self.folder = folder
        self._damaged = damaged
        self._lock = lock
        self._root = lock.parent

    def path(self, sha256: str) -> Path:
        """Return where the file is, if it is there."""
        return self.folder / sha256

    def size(self, sha256: str) -> int | None:
        """Return how many bytes are stored under this name, or None if there is no such file."""
        status = file_status(self.path(sha256))
        return None if status is None else status.st_size

    def stage(
        self, files: Sequence[SourceFile], staging: Path, *, take: bool = False
    ) -> tuple[list[FileEntry], dict[str, Path]]:
        """Read the files, and copy those that are not here yet, or are damaged here, into ``staging``.

        Args:
            take: whether the files are nobody else's: they are linked then, where they can be, not copied.

        Returns:
            What the files are, and the copies by the sha256 of their contents, durable and read-only.

        Raises:
            InsufficientStorageError: there is no room for the copies.
        """
        entries = []
        staged: dict[str, Path] = {}
        known_sizes = {self.size(path.name) for path in self.folder.iterdir()}
        if not take:
            check_room(self._root, sum(file.size for file in files if file.size not in known_sizes))
        for number, file in enumerate(files):
            if file.size in known_sizes:
                # Probably here already. Reading it twice if not is better than needing the space twice if so.
                sha256 = _sha256_of(file)
                if sha256 in staged or self.is_undamaged(sha256):
                    entries.append(FileEntry(file.name, file.size, sha256))
                    continue
            copy = staging / str(number)
            sha256 = (_link(file, copy) if take else None) or self._copy(file, copy)
            make_durable(copy)
            staged[sha256] = copy
            known_sizes.add(file.size)
            entries.append(FileEntry(file.name, file.size, sha256))
        return entries, staged

    def _copy(self, file: SourceFile, copy: Path) -> str:
        check_room(self._root, file.size)
        return _sha256_of(file, copy_to=copy)

    def publish(self, staged: Mapping[str, Path]) -> None:
        """Make staged copies part of this folder, durably. Call it only while holding the lock."""
        for sha256, copy in staged.items():
            put(copy, self.path(sha256), aside=self._damaged / sha256)
        sync(self.folder)

    def is_undamaged(self, sha256: str) -> bool:
        """Read the file and return whether its contents are what its name says."""
        return has_sha256(self.path(sha256), sha256)

    def set_aside_if_damaged(self, sha256: str) -> Path | None:
        """Move a damaged file out of the way, and return where it is now; None if there is none.

        Raises:
            OSError: it cannot be moved.
        """
        if not exists(self.path(sha256)) or self.is_undamaged(sha256):
            return None
        with locked(self._lock):
            # Another process may have repaired it meanwhile: only a file that is still damaged is moved.
            if not exists(self.path(sha256)) or self.is_undamaged(sha256):
                return None
            target = move_aside(self.path(sha256), self._damaged / sha256)
            sync(self.folder)
        LOGGER.warning(
            "The stored file %s was damaged (its sha256 did not match its name) and was moved to %s.",
            self.path(sha256),
            target,
        )
        return target


def _sha256_of(file: SourceFile, copy_to: Path | None = None) -> str:
    """Return the sha256 of the file's contents; copy them in the same pass if asked to."""
    hasher = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in read_chunks(file):
            hasher.update(chunk)
            yield chunk

    if copy_to is None:
        for _ in hashed():
            pass
    else:
        with open(copy_to, "xb", opener=open_file) as copy:
            write_sparse(copy, hashed())
    return hasher.hexdigest()


def _link(file: SourceFile, copy: Path) -> str | None:
    """Link a file that is nobody else's as ``copy``; return its sha256, or None if it must be copied."""
    try:
        os.link(file.path, copy, follow_symlinks=False)
        status = copy.lstat()
        if status.st_nlink == 2 and status.st_uid == os.geteuid():  # its own name, and ours
            return _sha256_of(file)
        copy.unlink()
    except OSError:
        return None
    return None
