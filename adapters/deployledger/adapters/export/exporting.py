"""Writes a log into a file."""

import gzip
import os
import struct
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from deployledger.adapters.export.lines import (
    Header,
    Progress,
    Trailer,
    event_line,
    header_line,
    key_line,
    trailer_line,
)
from deployledger.adapters.export.root import GrowingRoot
from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import EventRecord, undamaged
from deployledger.domain.exceptions import ConfigurationError, ConflictError, EventLogError
from deployledger.service.files.locks import try_lock
from deployledger.service.files.paths import expanded

_LINES_PER_MEMBER = 4_000
_BYTES_PER_MEMBER = 4 << 20
_LEVEL = 1
"""Of gzip: states are so alike that the next levels take twice the time for a tenth of the size."""

_BESIDE = ("-wal", "-shm", ".read-models", ".ledger")


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        database: which database the log is in.
        file: where it was exported to.
        events: how many events; the position of the last one.
        keys: how many idempotency keys.
        root: the Merkle root of all the events, 32 bytes.
        size_bytes: how large the file is.
        seconds: how long it took.
    """

    database: str
    file: str
    events: int
    keys: int
    root: bytes
    size_bytes: int
    seconds: float


def export_log(
    log: EventLog, file: str | os.PathLike[str], *, replace: bool = False, progress: Progress | None = None
) -> Exported:
    """Write the whole log, as it is at the start, into a file that `import_log` reads.

    The file appears when it is complete.

    Args:
        replace: replace an existing file.
        progress: called with the activity, the number of events done, and the total.

    Raises:
        ConflictError: if the file exists, or another export into it is running.
        ConfigurationError: if the file cannot be made.
        EventLogError: if the log is damaged, or the file cannot be written to the end.
    """
    begin = time.monotonic()
    target = expanded(file).absolute()
    until = log.position()
    _check_is_not_of(log, target)
    _check_is_free(target, replace)
    try:
        with _partial(target) as partial:
            _check_is_free(target, replace)
            trailer = _write(log, partial, until, progress)
            os.fsync(partial.fileno())
            size = os.fstat(partial.fileno()).st_size
            _partial_path(target).replace(target)
            _sync(target.parent)
    except OSError as error:
        raise EventLogError(
            f"The export to {target} was interrupted: {error.strerror}.",
            hint="Fix the cause, then export again.",
        ) from error
    return Exported(
        log.described_as,
        str(target),
        trailer.events,
        trailer.keys,
        trailer.root,
        size,
        time.monotonic() - begin,
    )


def _write(log: EventLog, file: BinaryIO, until: int, progress: Progress | None) -> Trailer:
    """Write every line, and return what the last one says."""
    with ThreadPoolExecutor(1, thread_name_prefix="deployledger-compress") as thread:
        members = _Members(file, thread)
        software = f"deployledger {version('deployledger')}"
        members.add(header_line(Header(uuid4(), until), datetime.now(UTC), software))
        root = _write_events(log, members, until, progress)
        keys = 0
        for page in log.keys(until=until):
            keys += len(page)
            for keyed in page:
                members.add(key_line(keyed.key))
        trailer = Trailer(until, keys, root)
        members.add(trailer_line(trailer))
        members.end()
        members.flush()
    file.flush()
    return trailer


def _write_events(log: EventLog, members: "_Members", until: int, progress: Progress | None) -> bytes:
    """Write the line of every event, and return the root of all."""
    growing, done = GrowingRoot(), 0
    for page in undamaged(log.records(until=until, metadata=True)):
        for expected, record in enumerate(page, start=done + 1):
            if record.position != expected:
                raise _missing(expected)
            members.add(_line_of(record))
        try:
            growing.add(page)
        except (ValueError, TypeError, AttributeError, struct.error) as error:
            raise _damaged(page[0], error) from error
        done += len(page)
        if progress is not None:
            progress("Exporting", done, until)
    if done < until:
        raise _missing(done + 1)
    return growing.root()


class _Members:
    """Writes lines into a file as gzip members, each of which a thread compresses."""

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
        """End the member, and write the one before it."""
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
        f"The log cannot be exported: event {record.position} or one right after it is damaged ({error}).",
        hint="`deployledger audit verify` says what is wrong; restore the log from a backup.",
    )


def _missing(position: int) -> EventLogError:
    return EventLogError(
        f"The log cannot be exported: it has no event at position {position}.",
        hint="`deployledger audit verify` says what is wrong; restore the log from a backup.",
    )


@contextmanager
def _partial(target: Path) -> Iterator[BinaryIO]:
    """Enter with the file that becomes the export when it is complete, and is removed otherwise.

    It is locked. What a process that was killed left is written over.
    """
    path = _partial_path(target)
    try:
        descriptor = try_lock(path)
    except OSError as error:
        raise ConfigurationError(
            f"The file {path} cannot be written: {error.strerror}.", hint="Choose another place."
        ) from error
    if descriptor is None:
        raise ConflictError(
            f"Another export to {target} is running.", hint="Wait until it ends, or choose another file."
        )
    with open(descriptor, "r+b") as file:  # noqa: PTH123  # it is open already
        try:
            file.truncate()
            yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _partial_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _check_is_not_of(log: EventLog, target: Path) -> None:
    """Check that a file does not belong to the log itself, whose files are never replaced."""
    database = Path(log.described_as).resolve()
    if target.resolve() in [database, *(database.with_name(database.name + end) for end in _BESIDE)]:
        raise ConfigurationError(
            f"{target} is part of the database being exported.", hint="Choose another file."
        )


def _check_is_free(target: Path, replace: bool) -> None:
    if target.is_dir():
        raise ConfigurationError(f"{target} is a folder.", hint="Name a file in it.")
    if target.exists() and not replace:
        raise ConflictError(
            f"The file {target} already exists.", hint="Choose another name, or replace it with --force."
        )


def _sync(folder: Path) -> None:
    """Make the name of a file last, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
