"""Writes a log into a file."""

import fcntl
import gzip
import os
import struct
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, NamedTuple
from uuid import uuid4

from deployledger.adapters.event_log.moving.gzip_lines import blocks
from deployledger.adapters.event_log.moving.lines import (
    BadFileError,
    Header,
    Trailer,
    event_line,
    header_line,
    header_of,
    key_line,
    key_or_trailer_of,
    trailer_line,
)
from deployledger.adapters.event_log.moving.root import GrowingRoot
from deployledger.domain.event_log import EventLog, EventRecord, Exported, KeyRecord, MovingProgress
from deployledger.domain.exceptions import ConfigurationError, ConflictError, EventLogError
from deployledger.service.local_files import expanded
from deployledger.service.private_files import open_file

_LINES_PER_MEMBER = 4_000
_BYTES_PER_MEMBER = 4 << 20
_LEVEL = 1
_BESIDE = ("-wal", "-shm", ".read-models", ".ledger")
"""Of gzip: states are so alike that the next levels take twice the time for a tenth of the size."""


def export_log(
    log: EventLog,
    file: str | os.PathLike[str],
    *,
    replace: bool = False,
    progress: MovingProgress | None = None,
) -> Exported:
    """Write the whole log, as it is when this first begins, into a file; see ``EventLog.export_to``."""
    begin = time.monotonic()
    target = expanded(file).absolute()
    until = log.position()
    _check_is_not_of(log, target)
    _check_is_free(target, replace)
    try:
        with _partial(target) as partial:
            _check_is_free(target, replace)
            export = _Export(log, partial, until)
            trailer = export.write(progress or _tell_nobody)
            os.fsync(partial.fileno())
            size = os.fstat(partial.fileno()).st_size
            _partial_path(target).replace(target)
            _sync_folder(target.parent)
    except OSError as error:
        raise EventLogError(
            f"The export to {target} was interrupted: {error.strerror}.",
            hint="When that is mended, export again: it goes on where it was.",
        ) from error
    return Exported(
        database=log.schema_state().database,
        file=str(target),
        events=trailer.events,
        keys=trailer.keys,
        root=trailer.root,
        resumed_at=export.begun.events,
        size_bytes=size,
        seconds=time.monotonic() - begin,
    )


class _Begun(NamedTuple):
    """What is in a file already, up to the end of its last complete gzip member.

    Attributes:
        events: how many events.
        last_event: the line of the last event; empty if there is none.
        last_key: the last idempotency key; empty if there is none.
        size: how many bytes that takes.
    """

    header: Header
    events: int = 0
    last_event: bytes = b""
    keys: int = 0
    last_key: str = ""
    size: int = 0


class _Export:
    """One export into an open file, which may have a part of it already."""

    def __init__(self, log: EventLog, file: BinaryIO, until: int) -> None:
        self._log = log
        self._file = file
        begun = _begun(file)
        self.begun = begun if begun and self._is_of_log(begun, until) else _Begun(Header(uuid4(), until))

    def _is_of_log(self, begun: _Begun, end: int) -> bool:
        """Return whether the last event of the file is that of the log."""
        if begun.header.until > end:
            return False
        page = next(iter(self._log.records(after=begun.events - 1, until=begun.events)), ())
        return not begun.events or [_line_of(record).encode() for record in page] == [
            begun.last_event + b"\n"
        ]

    def write(self, progress: MovingProgress) -> Trailer:
        """Write what is missing, and return the last line."""
        self._file.truncate(self.begun.size)
        self._file.seek(self.begun.size)
        with ThreadPoolExecutor(1, thread_name_prefix="deployledger-compress") as thread:
            members = _Members(self._file, thread)
            if not self.begun.size:
                software = f"deployledger {version('deployledger')}"
                members.add(header_line(self.begun.header, datetime.now(UTC), software))
                members.end()
            root = self._write_events(members, progress)
            keys = self._write_keys(members)
            trailer = Trailer(self.begun.header.until, keys, root)
            members.add(trailer_line(trailer))
            members.end()
            members.flush()
        self._file.flush()
        return trailer

    def _write_events(self, members: "_Members", progress: MovingProgress) -> bytes:
        """Write the events, and return the root of all, those that are there already among them."""
        growing = GrowingRoot()
        done, until = 0, self.begun.header.until
        for page in self._log.records(after=0, until=until):
            for expected, record in enumerate(page, start=done + 1):
                if record.position != expected:
                    raise _missing(expected)
                if expected > self.begun.events:
                    members.add(_line_of(record))
            try:
                growing.add(page)
            except (ValueError, TypeError, AttributeError, struct.error) as error:
                raise _damaged(page[0], error) from error
            done += len(page)
            progress("Exporting", done, until)
        if done < until:
            raise _missing(done + 1)
        members.end()
        return growing.root()

    def _write_keys(self, members: "_Members") -> int:
        """Write the idempotency keys, and return how many they are with those that are there already."""
        keys = self.begun.keys
        for page in self._log.keys(until=self.begun.header.until, after=self.begun.last_key):
            for record in page:
                members.add(key_line(record))
            keys += len(page)
        return keys


class _Members:
    """Writes lines into a file as gzip members, each of which a thread compresses.

    A member is complete or damaged, and says so: an export that is interrupted goes on behind the last one.
    """

    def __init__(self, file: BinaryIO, thread: ThreadPoolExecutor) -> None:
        self._file = file
        self._thread = thread
        self._lines: list[str] = []
        self._size = 0
        self._compressed: Future[bytes] | None = None

    def add(self, line: str) -> None:
        """Add a line to the member, and end it if it is large enough."""
        self._lines.append(line)
        self._size += len(line)
        if len(self._lines) >= _LINES_PER_MEMBER or self._size >= _BYTES_PER_MEMBER:
            self.end()

    def end(self) -> None:
        """End the member, if anything is in it."""
        if self._lines:
            self.flush()
            data = "".join(self._lines).encode()
            self._compressed = self._thread.submit(gzip.compress, data, _LEVEL, mtime=0)
            self._lines, self._size = [], 0

    def flush(self) -> None:
        """Write the member that was ended last."""
        if self._compressed is not None:
            self._file.write(self._compressed.result())
            self._compressed = None


def _line_of(record: EventRecord) -> str:
    try:
        return event_line(record)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise _damaged(record, error) from error


def _damaged(record: EventRecord, error: Exception) -> EventLogError:
    return EventLogError(
        f"The log cannot be exported: event {record.position} or one right behind it is damaged ({error}).",
        hint="`deployledger audit verify` says what is wrong; restore the log from a backup.",
    )


def _missing(position: int) -> EventLogError:
    return EventLogError(
        f"The log cannot be exported: it has no event at position {position}.",
        hint="`deployledger audit verify` says what is wrong; restore the log from a backup.",
    )


def _begun(file: BinaryIO) -> _Begun | None:
    """Return what an export that was interrupted left in a file; None if it is of no use."""
    begun: _Begun | None = None
    header: Header | None = None
    events, last_event, keys, last_key = 0, b"", 0, ""
    with suppress(BadFileError):  # the end of it was not written any more
        for lines, end in blocks(file):
            for line in lines:
                if header is None:
                    header = header_of(line)
                elif events < header.until:
                    events, last_event = events + 1, line
                else:
                    found = key_or_trailer_of(line)
                    if not isinstance(found, KeyRecord):  # it only was not renamed: the end is made anew
                        return begun
                    keys, last_key = keys + 1, found.key
            if header is not None and end is not None:
                begun = _Begun(header, events, last_event, keys, last_key, end)
    return begun


@contextmanager
def _partial(target: Path) -> Iterator[BinaryIO]:
    """Enter with the file that becomes the export when it is complete; nobody else writes into it."""
    path = _partial_path(target)
    try:
        descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise ConfigurationError(
            f"The file {path} cannot be written: {error.strerror}.", hint="Choose another place."
        ) from error
    with open(descriptor, "r+b") as file:  # noqa: PTH123  # it is open already
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_there = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
        except BlockingIOError:
            is_there = False
        if not is_there:
            raise ConflictError(
                f"Somebody else exports to {target}.", hint="Wait for the end of it, or choose another file."
            )
        yield file


def _partial_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _check_is_not_of(log: EventLog, target: Path) -> None:
    """Check that a file is none of those of the log itself, which are never replaced."""
    database = Path(log.described_as).resolve()
    if target.resolve() in [database, *(database.with_name(database.name + it) for it in _BESIDE)]:
        raise ConfigurationError(
            f"{target} is part of the database being exported.", hint="Choose another file."
        )


def _check_is_free(target: Path, replace: bool) -> None:
    if target.is_dir():
        raise ConfigurationError(f"{target} is a folder.", hint="Name a file in it.")
    if target.exists() and not replace:
        raise ConflictError(
            f"There is a file {target} already.", hint="Choose another name, or write over it with --force."
        )


def _sync_folder(folder: Path) -> None:
    """Make the name of a file last, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tell_nobody(doing: str, done: int, total: int, /) -> None:
    pass
