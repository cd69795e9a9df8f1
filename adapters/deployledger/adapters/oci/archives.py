"""Writes and reads tar archives whose bytes depend on the files' names and contents alone."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from deployledger.adapters.oci.failures import file_damaged, model_unreadable
from deployledger.adapters.oci.layers import MODELS, ModelFile
from deployledger.service.files.listing import FileEntry
from deployledger.service.files.private import make_folder, open_file
from deployledger.service.files.reading import open_stored
from deployledger.service.files.stopping import CHUNK_BYTES, check_not_stopped, write_sparse

_BLOCK_BYTES = 512
_END_OF_ARCHIVE = bytes(2 * _BLOCK_BYTES)


def archive_chunks(files: Iterable[ModelFile], packed: list[FileEntry]) -> Iterator[bytes]:
    """Yield an uncompressed tar archive of the files, in pieces of at most `CHUNK_BYTES`.

    What each file was, as it was read for the archive, is added to ``packed``.

    The folders that a file is in come before it. Everything is owned by user and group 0 without names,
    dated 1970-01-01T00:00:00Z, with mode 0755 for folders and 0644 for files; long and non-ASCII names are
    in pax headers (POSIX.1-2001).

    Raises:
        ExternalServiceError: a file cannot be read, or is not as long as it was.
    """
    made: set[PurePosixPath] = set()
    for file in files:
        for folder in reversed(PurePosixPath(file.name).parents[:-1]):
            if folder not in made:
                made.add(folder)
                yield _header(str(folder), tarfile.DIRTYPE, 0o755)
        yield _header(file.name, tarfile.REGTYPE, 0o644, file.size)
        yield from _contents(file, packed)
        yield bytes(-file.size % _BLOCK_BYTES)
    yield _END_OF_ARCHIVE


def unpack(stream: BinaryIO, folder: Path) -> list[FileEntry]:
    """Unpack an archive made of `archive_chunks` into ``folder``: what is in ``models/`` goes straight there.

    Return what each file is, as it was written.

    Whatever the archive says, nothing is written outside of ``folder``, no file is written twice, and no
    links, devices or modes are made: members are only ever new plain files and folders.

    Raises:
        ValueError: the archive holds anything else.
        tarfile.TarError: it is not a tar archive.
        OSError: the folder cannot be written.
    """
    entries = []
    with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8") as archive:
        for member in archive:
            parts = _parts_below_models(member.name)
            if member.isdir():
                continue  # a folder is made with the first file in it
            contents = archive.extractfile(member) if member.isreg() and member.sparse is None else None
            if contents is None:
                raise ValueError(f"{member.name!r} is neither a plain file nor a folder")
            hasher = hashlib.sha256()
            with _create(folder.joinpath(*parts), member.name) as file:
                write_sparse(file, _hashed(contents, hasher))
                file.flush()
                os.fsync(file.fileno())
            entries.append(FileEntry("/".join(parts), member.size, hasher.hexdigest()))
    return entries


def _hashed(contents: IO[bytes], hasher: "hashlib._Hash") -> Iterator[bytes]:
    while chunk := contents.read(CHUNK_BYTES):
        hasher.update(chunk)
        yield chunk


def _create(target: Path, name: str) -> BinaryIO:
    try:
        make_folder(target.parent)
        return open(target, "xb", opener=open_file)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{name!r} is in the archive twice, or is below a file") from error


def _header(name: str, kind: bytes, mode: int, size: int = 0) -> bytes:
    member = tarfile.TarInfo(name)  # which starts with owner 0, no owner's name, and time 0
    member.type = kind
    member.mode = mode
    member.size = size
    return member.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8")


def _contents(file: ModelFile, packed: list[FileEntry]) -> Iterator[bytes]:
    hasher = hashlib.sha256()
    try:
        with open_stored(file.source) as stream:
            left = file.size
            while chunk := stream.read(min(CHUNK_BYTES, left + 1)):
                check_not_stopped()
                left -= len(chunk)
                if left < 0:
                    break
                hasher.update(chunk)
                yield chunk
    except OSError as error:
        raise model_unreadable(file.source, error) from error
    if left:
        raise file_damaged(f"{str(file.source)!r} changed while it was being packaged.")
    packed.append(FileEntry("/".join(_parts_below_models(file.name)), file.size, hasher.hexdigest()))


def _parts_below_models(name: str) -> tuple[str, ...]:
    first, *parts = name.rstrip("/").split("/")
    if first != MODELS or any(part in ("", ".", "..") or "\\" in part for part in parts):
        raise ValueError(f"{name!r} is not a path below {MODELS!r}")
    return tuple(parts)
