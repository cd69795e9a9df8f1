"""Reads a file into a log that has no events, in one transaction."""

import os
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import UUID

from deployledger.adapters.event_log.import_transaction import (
    BadFileError,
    ImportTransaction,
    log_is_filled,
)
from deployledger.adapters.export.lines import (
    BadLineError,
    Header,
    NumberedLines,
    Progress,
    Trailer,
    event_of,
    header_of,
    key_or_trailer_of,
)
from deployledger.adapters.export.root import GrowingRoot
from deployledger.domain.event_log import KeyRecord
from deployledger.domain.event_records import EventRecord
from deployledger.domain.exceptions import ConfigurationError, ConflictError, EventLogError
from deployledger.domain.times import corrects_clock
from deployledger.service.files.paths import expanded

if TYPE_CHECKING:
    from deployledger.adapters.event_log.log import DatabaseEventLog

_TOLD_EVERY = 1_000
_IMPORT = UUID("6d1b7b1e-70c4-4f0e-9f2d-0b0f6a1f2c53")
"""What whoever imports into a log locks, as others lock a deployment."""

_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_WHAT_TO_DO = "Export the log again, or take another copy of the file."
_WHAT_IS_READ = "Name a file that `deployledger log export` wrote, of this version or an older one."


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        database: which database it is in now.
        file: where it came from.
        events: how many events; the position of the last one.
        keys: how many idempotency keys.
        root: the Merkle root of all the events, 32 bytes; that of the log which was exported.
        seconds: how long it took.
    """

    database: str
    file: str
    events: int
    keys: int
    root: bytes
    seconds: float


def import_log(
    log: "DatabaseEventLog", file: str | os.PathLike[str], *, progress: Progress | None = None
) -> Imported:
    """Import an exported log into an empty one, with the same positions, ids and times.

    It is one transaction: nothing is visible until everything is there and has the Merkle root that the file
    states. Commands wait for its end, as long as they wait for an unavailable database.

    Args:
        progress: called with the activity, the number of events done, and the total.

    Raises:
        ConflictError: if the log has events, or another import into it is running.
        ConfigurationError: if the file cannot be imported: it is damaged, incomplete, or of a newer format.
        EventLogError: if the file cannot be read to the end, or the database not be written.
    """
    begin = time.monotonic()
    source = expanded(file).absolute()
    with _opened(source) as opened:
        if events := log.position():
            raise log_is_filled(log.described_as, events)
        with _alone(log), log.import_transaction() as transaction:
            trailer = _Import(source, NumberedLines(opened), transaction, progress).run()
    return Imported(
        log.described_as, str(source), trailer.events, trailer.keys, trailer.root, time.monotonic() - begin
    )


class _Import:
    """One import, within its transaction."""

    def __init__(
        self, source: Path, lines: NumberedLines, transaction: ImportTransaction, progress: Progress | None
    ) -> None:
        self._source = source
        self._lines = lines
        self._transaction = transaction
        self._progress = progress

    def run(self) -> Trailer:
        """Add everything, check it, and return the last line."""
        header = self._header()
        try:
            self._add_events(header.until)
            trailer = self._add_keys(header.until)
        except BadLineError as error:
            raise self._bad_file(f"line {self._lines.number} is wrong: {error}") from error
        except BadFileError as error:
            raise self._bad_file(str(error)) from error
        position = self._transaction.misplaced()
        if position is not None:
            raise self._bad_file(
                f"line {position + 1} is wrong: the event at position {position} does not have "
                "the next version of its stream"
            )
        self._check_root(trailer)
        return trailer

    def _header(self) -> Header:
        try:
            line = next(self._lines, None)
            if line is not None:
                return header_of(line)
        except BadFileError as error:
            raise self._bad_file(str(error), hint=_WHAT_IS_READ) from error
        raise self._incomplete("it is empty")

    def _add_events(self, until: int) -> None:
        last = done = 0

        def events() -> Iterator[EventRecord]:
            nonlocal last, done
            for position, line in enumerate(islice(self._lines, until), start=1):
                event = event_of(line, position)
                if event.recorded_at < last and not corrects_clock(event.topic, event.stream_id):
                    raise BadLineError("the event was recorded before the preceding one")
                last, done = event.recorded_at, position
                yield event
                if self._progress is not None and (position % _TOLD_EVERY == 0 or position == until):
                    self._progress("Importing", position, until)

        self._transaction.add_events(events())
        if done < until:
            raise self._incomplete(f"it ends after event {done:,} of {until:,}")

    def _add_keys(self, until: int) -> Trailer:
        trailer: Trailer | None = None
        done = 0

        def keys() -> Iterator[KeyRecord]:
            nonlocal trailer, done
            for line in self._lines:
                key = key_or_trailer_of(line)
                if isinstance(key, Trailer):
                    trailer = key
                    return
                done += 1
                yield key

        self._transaction.add_keys(keys())
        if trailer is None:
            raise self._incomplete(f"it ends after {done:,} idempotency keys, without its last line")
        if (trailer.events, trailer.keys) != (until, done):
            raise BadLineError(
                f"it counts {trailer.events:,} events and {trailer.keys:,} idempotency keys, "
                f"but the file has {until:,} and {done:,}"
            )
        if next(self._lines, None) is not None:
            raise BadLineError("it follows the last line")
        return trailer

    def _check_root(self, trailer: Trailer) -> None:
        """Check what the database has, not what it was given."""
        growing, done = GrowingRoot(), 0
        for page in self._transaction.records():
            growing.add(page)
            done += len(page)
            if self._progress is not None:
                self._progress("Checking", done, trailer.events)
        root = growing.root()
        if done != trailer.events or root != trailer.root:
            raise self._bad_file(
                f"the root of its events is {b64encode(root).decode()}, and the last line says "
                f"{b64encode(trailer.root).decode()}"
            )

    def _bad_file(self, problem: str, *, hint: str = _WHAT_TO_DO) -> ConfigurationError:
        return ConfigurationError(
            f"{self._source} cannot be imported: {problem}.", hint=f"Nothing was imported. {hint}"
        )

    def _incomplete(self, problem: str) -> ConfigurationError:
        return self._bad_file(f"the file is not complete: {problem}")


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    try:
        file = source.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror}.", hint=_WHAT_IS_READ) from error
    with file:
        try:
            yield file
        except OSError as error:
            raise EventLogError(
                f"The import of {source} was interrupted: {error.strerror}. Nothing was imported.",
                hint="Fix the cause, then import again.",
            ) from error


@contextmanager
def _alone(log: "DatabaseEventLog") -> Iterator[None]:
    """Enter when nobody else imports. One that was killed a moment ago may not have ended everywhere."""
    latest = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with log.ownership(_IMPORT) as is_alone:
            if is_alone:
                yield
                return
        if time.monotonic() > latest:
            raise ConflictError(
                f"Another import into the event log in {log.described_as} is running.",
                hint="Wait until it ends.",
            )
        time.sleep(_PAUSE_SECONDS)
