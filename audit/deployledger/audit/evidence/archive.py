"""Untrusted ZIP files: read in pieces, in place, and never unpacked."""

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

_LARGEST = (1 << 32) - 1
_DENSE_FROM = 10 << 20
_PIECE = 1 << 20
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s4B4H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_ZIP_2, _UNIX = 20, 3
_REGULAR_FILE = (stat.S_IFREG | 0o644) << 16
_ENCRYPTED = 0x1

_OLDEST = (1980, 1, 1, 0, 0, 0)
_DOS_TIME, _DOS_DATE = 0, 0x21  # the same
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
        self._raw = raw
        infos = file.infolist()
        self.problems = [(info.filename, problem) for info in infos for problem in _problems(info)]
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.filename in self._infos:
                self.problems.append((info.filename, "occurs more than once"))
            self._infos[info.filename] = info
        self.names = tuple(self._infos)

    def check_bytes(self) -> None:
        """Add a problem for every byte of the file that is not as `member_info` and `zipfile` write it.

        ZIP files have room for more than the files in them: programs may see other names, dates, or contents
        in it. What compressing made of a file is not compared, it differs between versions of zlib, but
        it has to end where the file ends.
        """
        infos = self._file.infolist()
        if len({info.compress_type for info in infos}) > 1:
            self.problems.append(("", "only some of the files are compressed"))
        self._raw.seek(0)
        for info in infos:
            offset = self._raw.tell()
            header = _local_header(info)
            stored = self._raw.read(len(header))
            if stored[:4] != header[:4] or info.header_offset != offset:
                self.problems.append((info.filename, "is preceded by data that is not listed"))
                return
            if stored != header:
                self.problems.append((info.filename, "is listed with other values than it is stored with"))
            if not self._is_whole(info):
                self.problems.append((info.filename, "is followed by data that is not listed"))
            self._raw.seek(offset + len(header) + info.compress_size)
        directory = self._raw.tell()
        for info in infos:
            entry = _central_entry(info)
            if self._raw.read(len(entry)) != entry:
                self.problems.append((info.filename, "is not listed the way evidence lists its files"))
                return
        size = self._raw.tell() - directory
        end = _END.pack(b"PK\5\6", 0, 0, len(infos), len(infos), size, directory, 0)
        if self._raw.read() != end:
            self.problems.append(("", "the file contains data that is not listed"))

    def _is_whole(self, info: zipfile.ZipInfo) -> bool:
        """Return whether the content of a file takes up all the bytes that are there for it."""
        if info.compress_type != zipfile.ZIP_DEFLATED:
            return info.compress_size == info.file_size
        stream, left = zlib.decompressobj(-zlib.MAX_WBITS), info.compress_size
        while left and not stream.eof:
            piece = stream.unconsumed_tail or self._raw.read(min(_PIECE, left))
            if not piece:
                return False
            try:
                stream.decompress(piece, _PIECE)
            except zlib.error:
                return True  # reading it tells
            left -= len(piece) - len(stream.unconsumed_tail) - len(stream.unused_data)
        while not stream.eof and stream.decompress(b"", _PIECE):
            pass  # what was read is not all that comes out
        return stream.eof and not left

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
        total = sum(info.file_size for info in infos)
        if total > most_bytes:
            raise UnreadableEvidenceError(
                f"{self._path} was not opened: unpacked it has {total:,} bytes, "
                f"and {most_bytes:,} are allowed.",
                hint="If you trust it, raise the limit with --most-bytes.",
            )
        for info in infos:
            if info.flag_bits & _ENCRYPTED:
                raise _unreadable(self._path, f"{info.filename!r} in it is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _unreadable(
                    self._path, f"{info.filename!r} in it is compressed with an unsupported method"
                )
            if max(info.file_size, info.compress_size, info.header_offset) > _LARGEST:
                raise _unreadable(self._path, f"{info.filename!r} in it is larger than 4 GiB")
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
            raise _unreadable(path, f"it is not a ZIP file, or it is truncated ({error})") from error
        with file:
            archive.check_limits(most_bytes)
            archive.check_bytes()
            yield archive


def _unreadable(path: Path, why: str) -> UnreadableEvidenceError:
    return UnreadableEvidenceError(f"{path} cannot be read as evidence: {why}.")


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise DamagedMemberError(f"it is damaged ({error})") from error


def member_info(name: str, compression: int) -> zipfile.ZipInfo:
    """Return the entry of a file in evidence, to be written with `zipfile`."""
    info = zipfile.ZipInfo(name, _OLDEST)
    info.create_system, info.external_attr, info.compress_type = _UNIX, _REGULAR_FILE, compression
    return info


def _problems(info: zipfile.ZipInfo) -> Iterator[str]:
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in info.filename:
        yield "would be unpacked outside of the folder"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG) or info.filename.endswith("/"):
        yield "is a link" if kind == stat.S_IFLNK else "is no file"
    if info.orig_filename != info.filename:
        yield "has a name with a null byte"


def _local_header(info: zipfile.ZipInfo) -> bytes:
    """Return what evidence has in front of a file, by what the list says of the file."""
    name = info.filename.encode()
    sizes = (info.CRC, info.compress_size, info.file_size, len(name), 0)
    return _LOCAL.pack(b"PK\3\4", _ZIP_2, 0, info.compress_type, _DOS_TIME, _DOS_DATE, *sizes) + name


def _central_entry(info: zipfile.ZipInfo) -> bytes:
    """Return what the list at the end of evidence has of a file."""
    name = info.filename.encode()
    versions = (_ZIP_2, _UNIX, _ZIP_2, 0)
    sizes = (info.CRC, info.compress_size, info.file_size, len(name), 0, 0)
    rest = (0, 0, _REGULAR_FILE, info.header_offset)
    head = _CENTRAL.pack(b"PK\1\2", *versions, 0, info.compress_type, _DOS_TIME, _DOS_DATE, *sizes, *rest)
    return head + name
