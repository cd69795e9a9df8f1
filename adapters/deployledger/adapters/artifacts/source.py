"""Reads a model's files from where a user or a registry put them, trusting nothing about that place.

Symbolic links that stay inside the model's folder are followed; everything that could leak another file of
this machine, block, or never end is refused.
"""

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deployledger.adapters.artifacts.refusals import changed, refused, unreadable
from deployledger.domain.exceptions import ModelRegistryError
from deployledger.domain.reasons import FailureReason
from deployledger.service.files.stopping import chunks_of

MAX_ENTRIES = 100_000
"""How many files and folders a model may have: folders that link to each other can seem to have billions."""


@dataclass(frozen=True)
class SourceFile:
    """A regular file of a model, as it was when the folder was looked at.

    Two are equal if the file was replaced or written to by nobody in between, as far as its status tells.

    Attributes:
        name: its path relative to the model, with ``/`` between the parts.
        path: where it really is, with no symbolic link left.
        size: bytes.
        device: the device it is on.
        inode: which file of that device it is.
        mtime_ns: when it was last written to, in nanoseconds.
    """

    name: str
    path: str
    size: int
    device: int
    inode: int
    mtime_ns: int


def scan(source: Path) -> list[SourceFile]:
    """Return the files of the model at ``source``, ordered by name.

    A file is a model of one file under the name it was given by. A ``source`` that is a symbolic link stands
    for what it points at.

    Raises:
        ModelRegistryError: it does not exist, is empty, cannot be read, or is not safe to read.
    """
    root, status = _locate(source)
    if stat.S_ISDIR(status.st_mode):
        files = sorted(_walk(root, status), key=lambda file: file.name.encode())
    else:
        _check_name(source.name, str(source))
        files = [_regular_file(source.name, root, status)]
    if not any(file.size for file in files):
        raise refused(
            FailureReason.MODEL_EMPTY,
            f"{str(source)!r} has no files with anything in them.",
            hint="Check that the model was saved, and that the URI names it and not a folder beside it.",
        )
    return files


def read_chunks(file: SourceFile) -> Iterator[bytes]:
    """Yield the file's bytes in pieces of at most `CHUNK_BYTES`.

    Raises:
        ModelRegistryError: the file cannot be read, or is no longer the one that was scanned.
    """
    try:
        # Should a pipe or a link have taken the file's place, these flags neither wait for it nor follow it.
        descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb", buffering=0) as stream:
            if _source_file(file.name, file.path, os.fstat(descriptor)) != file:
                raise changed(file.path)
            done = 0
            for chunk in chunks_of(stream):
                done += len(chunk)
                if done > file.size:
                    break
                yield chunk
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise changed(file.path) from error
        raise unreadable(file.path, error) from error
    if done != file.size:
        raise changed(file.path)


def _locate(source: Path) -> tuple[str, os.stat_result]:
    try:
        root = os.path.realpath(source, strict=True)
        return root, Path(root).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise refused(
            FailureReason.MODEL_NOT_FOUND,
            f"There is no file or folder {str(source)!r}.",
            hint="Check the path; it is one on the machine that fetches the model.",
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _unsafe(str(source), "is a symbolic link that leads back to itself") from error
        raise unreadable(str(source), error) from error


def _walk(root: str, status: os.stat_result) -> Iterator[SourceFile]:
    """Yield every regular file below ``root``, in no particular order."""
    entries = 0
    pending = [(root, "", frozenset({(status.st_dev, status.st_ino)}))]
    while pending:
        folder, prefix, ancestors = pending.pop()
        for entry in _entries(folder):
            entries += 1
            if entries > MAX_ENTRIES:
                raise _unsafe(root, f"has more than {MAX_ENTRIES} files and folders, counting linked ones")
            _check_name(entry.name, entry.path)
            name = prefix + entry.name
            path, status = _follow(entry, root)
            if stat.S_ISDIR(status.st_mode):
                identity = (status.st_dev, status.st_ino)
                if identity in ancestors:
                    raise _unsafe(entry.path, "is a symbolic link to a folder that it is in")
                pending.append((path, f"{name}/", ancestors | {identity}))
            else:
                yield _regular_file(name, path, status)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise unreadable(folder, error) from error


def _follow(entry: os.DirEntry[str], root: str) -> tuple[str, os.stat_result]:
    """Return where the entry really is, and its status, provided that it is inside ``root``."""
    try:
        if not entry.is_symlink():
            return entry.path, entry.stat(follow_symlinks=False)
        path = os.path.realpath(entry.path)
        if not Path(path).is_relative_to(root):
            raise _unsafe(entry.path, "is a symbolic link to something outside of the model")
        return path, Path(path).stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _unsafe(entry.path, "is a symbolic link that leads back to itself") from error
        raise unreadable(entry.path, error) from error


def _check_name(name: str, path: str) -> None:
    """Refuse names that another machine could not hold, or that would read differently there."""
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name):
        raise _unsafe(path, "has a name with control characters")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        raise _unsafe(path, "has a name that is not UTF-8")
    if "\\" in name:
        raise _unsafe(path, "has a name with a backslash")


def _regular_file(name: str, path: str, status: os.stat_result) -> SourceFile:
    if not stat.S_ISREG(status.st_mode):
        raise _unsafe(path, "is a device, pipe or socket and not a file")
    return _source_file(name, path, status)


def _source_file(name: str, path: str, status: os.stat_result) -> SourceFile:
    return SourceFile(name, path, status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns)


def _unsafe(path: str, what: str) -> ModelRegistryError:
    return refused(
        FailureReason.MODEL_UNSAFE,
        f"{path!r} {what}, so it was not read.",
        hint=(
            "Give a folder of the model's own files under plain names; "
            "`cp -rL MODEL COPY` makes one with copies in place of symbolic links."
        ),
    )
