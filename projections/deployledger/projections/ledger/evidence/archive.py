"""ZIP files from strangers: what is in them is read where it is, in pieces, and never unpacked."""

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO

from deployledger.domain.exceptions import ConfigurationError

MOST_BYTES = 1 << 30
"""How many bytes all files in one may have together, unless more is allowed."""

MOST_MEMBERS = 100
DENSEST = 200
"""How many bytes may come out of one, in a file of more than 10 MiB."""

LONGEST_LINE = 1 << 26

_DENSE_FROM = 10 << 20
_PIECE = 1 << 20
_LOCAL = struct.Struct("<4s5H3L2H")
_END_BYTES = 22
_CENTRAL_BYTES = 46
_ENCRYPTED = 0x1
_ALLOWED_FLAGS = 0x800 | 0x6  # names in UTF-8, how hard it was compressed
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, OSError, ValueError)


class UnreadableEvidenceError(ConfigurationError):
    """A file is no evidence that can be looked at: it is no ZIP file, too large, or of a newer format."""


class DamagedMemberError(Exception):
    """What is in the ZIP file cannot be read."""


def is_dense(size: int, compressed: int) -> bool:
    """Return whether so many bytes out of so few are more than is allowed."""
    return size > _DENSE_FROM and size > DENSEST * compressed


class Archive:
    """A ZIP file that is read.

    Attributes:
        names: the files in it, in order; each name once.
        problems: what is wrong with the list of files, as pairs of a name and a sentence.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile, raw: IO[bytes]) -> None:
        self._path = path
        self._file = file
        infos = file.infolist()
        self.problems = [(it.filename, problem) for it in infos for problem in _problems(it)]
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.filename in self._infos:
                self.problems.append((info.filename, "is there more than once"))
            self._infos[info.filename] = info
        self.names = tuple(self._infos)
        self.problems += _hidden(file, raw)

    def check_limits(self, most_bytes: int) -> None:
        """Check that it can be read with a clear conscience.

        Raises:
            UnreadableEvidenceError: if it is too large, or encrypted.
        """
        infos = self._file.infolist()
        if len(infos) > MOST_MEMBERS:
            raise _unreadable(
                self._path, f"it has {len(infos):,} files in it, and {MOST_MEMBERS} are the most"
            )
        total = sum(it.file_size for it in infos)
        if total > most_bytes:
            raise UnreadableEvidenceError(
                f"{self._path} is not looked at: unpacked it has {total:,} bytes, "
                f"and {most_bytes:,} are allowed.",
                hint="If you trust it, allow more: --most-bytes.",
            )
        for info in infos:
            if info.flag_bits & _ENCRYPTED:
                raise _unreadable(self._path, f"{info.filename!r} in it is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _unreadable(
                    self._path, f"{info.filename!r} in it is compressed in a way that is not known"
                )
            if is_dense(info.file_size, info.compress_size):
                raise _unreadable(
                    self._path,
                    f"{info.filename!r} in it would grow from {info.compress_size:,} "
                    f"to {info.file_size:,} bytes",
                )

    def open(self, name: str) -> "MemberReader":
        """Return what reads one of the files."""
        with _damage():
            return MemberReader(self._file.open(self._infos[name]))

    def read(self, name: str, most: int) -> bytes:
        """Return one of the files, which may have so many bytes."""
        if self._infos[name].file_size > most:
            raise DamagedMemberError(f"it has more than {most:,} bytes")
        with self.open(name) as reader:
            return reader.rest()


class MemberReader:
    """Reads a file in a ZIP file, and computes its digest on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """The digest of what was read, in hexadecimal digits."""
        return self._digest.hexdigest()

    def line(self) -> bytes | None:
        """Return the next line without its line break; None at the end."""
        with _damage():
            line = self._file.readline(LONGEST_LINE)
        if not line:
            return None
        self._count(line)
        if not line.endswith(b"\n"):
            raise DamagedMemberError("a line is too long, or does not end")
        return line[:-1]

    def drain(self) -> None:
        """Read what is left."""
        for _ in self._pieces():
            pass

    def rest(self) -> bytes:
        """Return what is left."""
        return b"".join(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        while True:
            with _damage():
                piece = self._file.read(_PIECE)
            if not piece:
                return
            self._count(piece)
            yield piece

    def _count(self, piece: bytes) -> None:
        self._digest.update(piece)
        self.size += len(piece)

    def __enter__(self) -> "MemberReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def opened(path: Path, most_bytes: int = MOST_BYTES) -> Iterator[Archive]:
    """Enter with a ZIP file that is read.

    Raises:
        UnreadableEvidenceError: if it is none, or too large, or encrypted.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    with raw:
        try:
            file = zipfile.ZipFile(raw)
            archive = Archive(path, file, raw)
        except _DAMAGED as error:
            raise _unreadable(path, f"it is no ZIP file, or it is cut off ({error})") from error
        with file:
            archive.check_limits(most_bytes)
            yield archive


def _unreadable(path: Path, why: str) -> UnreadableEvidenceError:
    return UnreadableEvidenceError(f"{path} cannot be looked at as evidence: {why}.")


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise DamagedMemberError(f"it is damaged ({error})") from error


def _problems(info: zipfile.ZipInfo) -> Iterator[str]:
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in info.filename:
        yield "would be unpacked outside of the folder"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or info.filename.endswith("/"):
        yield "is a link" if kind == stat.S_IFLNK else "is no file"
    if info.orig_filename != info.filename:
        yield "has a name with a null byte"
    if info.flag_bits & ~(_ALLOWED_FLAGS | _ENCRYPTED):
        yield "is stored in an unusual way"


def _hidden(file: zipfile.ZipFile, raw: IO[bytes]) -> list[tuple[str, str]]:
    """Return what other programs may see otherwise: a ZIP file has room for more than is listed."""
    problems, place, listed = [], 0, 0
    for info in sorted(file.infolist(), key=lambda it: it.header_offset):
        raw.seek(info.header_offset)
        header = _LOCAL.unpack(raw.read(_LOCAL.size))
        name = raw.read(header[9])
        said = (info.flag_bits, info.compress_type, info.CRC, info.compress_size, info.file_size)
        encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
        if (header[2], header[3], *header[6:9]) != said or name != info.orig_filename.encode(encoding):
            problems.append((info.filename, "is listed otherwise than it is stored"))
        if info.header_offset != place:
            problems.append((info.filename, "has something before it that is not listed"))
        place = info.header_offset + _LOCAL.size + header[9] + header[10] + info.compress_size
        listed += (
            _CENTRAL_BYTES + len(info.orig_filename.encode(encoding)) + len(info.extra) + len(info.comment)
        )
    raw.seek(0, 2)
    if place != file.start_dir or raw.tell() != file.start_dir + listed + _END_BYTES:
        problems.append(("", "there is something in the file that is not listed"))
    return problems
