"""Reads a file into a log that has no events."""

import os
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import UUID

from deployledger.adapters.event_log.moving.gzip_lines import NumberedLines
from deployledger.adapters.event_log.moving.lines import (
    BadFileError,
    BadLineError,
    Header,
    Trailer,
    event_of,
    header_of,
    key_or_trailer_of,
)
from deployledger.adapters.event_log.moving.root import GrowingRoot
from deployledger.adapters.event_log.moving.staging import Staged, Staging, log_is_filled
from deployledger.domain.event_log import EventRecord, Imported, KeyRecord, MovingProgress
from deployledger.domain.exceptions import ConfigurationError, ConflictError, EventLogError
from deployledger.domain.times import corrects_clock
from deployledger.service.local_files import expanded

if TYPE_CHECKING:
    from deployledger.adapters.event_log.log import DatabaseEventLog

_EVENTS_AT_ONCE = 50_000
_BYTES_AT_ONCE = 64 << 20
_KEYS_AT_ONCE = 10_000
_TOLD_EVERY = 1_000
_IMPORT = UUID("6d1b7b1e-70c4-4f0e-9f2d-0b0f6a1f2c53")
"""What whoever imports into a log owns, as others own a deployment."""
_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.05


def import_log(
    log: "DatabaseEventLog", file: str | os.PathLike[str], *, progress: MovingProgress | None = None
) -> Imported:
    """Fill a log, which has no events, with all of another one; see ``EventLog.import_from``."""
    begin = time.monotonic()
    source = expanded(file).absolute()
    with _opened(source) as opened:
        database = log.schema_state().database
        events = log.position()
        if events:
            raise log_is_filled(database, events)
        with _alone(log, database), log.staging() as staging:
            try:
                import_ = _Import(source, opened, staging, progress or _tell_nobody)
                staged, trailer = import_.run()
                staging.publish(staged._replace(events=trailer.events, keys=trailer.keys))
            except (ConfigurationError, ConflictError):
                staging.discard()  # it leads nowhere; what was merely interrupted is kept
                raise
    return Imported(
        database=database,
        file=str(source),
        events=trailer.events,
        keys=trailer.keys,
        root=trailer.root,
        resumed_at=staged.events,
        seconds=time.monotonic() - begin,
    )


_WHAT_TO_DO = "Export the log again, or take another copy of the file."
_WHAT_IS_READ = "Name a file that `deployledger log export` wrote, of this version or an older one."


class _StagedOtherwiseError(Exception):
    """What was left by an import that was interrupted is not what is in the file."""


class _Import:
    """One import, up to the moment when everything is there and was checked."""

    def __init__(self, source: Path, file: BinaryIO, staging: Staging, progress: MovingProgress) -> None:
        self._source = source
        self._file = file
        self._staging = staging
        self._progress = progress

    def run(self) -> tuple[Staged, Trailer]:
        """Add all that is missing, and check all; return what was there already, and the last line."""
        try:
            staged, trailer = self._read()
        except _StagedOtherwiseError:
            self._staging.discard()
            self._file.seek(0)
            staged, trailer = self._read()
        self._check_versions()
        self._staging.complete()
        self._check_root(trailer)
        return staged, trailer

    def _read(self) -> tuple[Staged, Trailer]:
        lines = NumberedLines(self._file)
        try:
            header = self._header(lines)
            staged = self._staging.staged()
            if staged is None or staged.export_id != header.export_id:
                self._staging.begin(header.export_id)
                staged = Staged(header.export_id, 0, 0)
            self._add_events(lines, header, staged)
            return staged, self._add_keys(lines, header, staged)
        except BadLineError as error:
            raise self._bad_file(f"line {lines.number} is wrong: {error}") from error
        except BadFileError as error:
            raise self._bad_file(str(error)) from error
        finally:
            lines.close()

    def _header(self, lines: NumberedLines) -> Header:
        try:
            line = next(lines, None)
            if line is not None:
                return header_of(line)
        except BadFileError as error:
            raise self._bad_file(str(error), hint=_WHAT_IS_READ) from error
        raise self._incomplete("it has no line")

    def _add_events(self, lines: NumberedLines, header: Header, staged: Staged) -> None:
        until = header.until
        last = self._check_last(lines, staged.events).recorded_at if staged.events else 0

        def events() -> Iterator[EventRecord]:
            nonlocal last
            for position, line in enumerate(islice(lines, until - staged.events), start=staged.events + 1):
                event = event_of(line, position)
                if event.recorded_at < last and not corrects_clock(event.topic, event.stream_id):
                    raise BadLineError("the event was recorded before the one that comes before it")
                last = event.recorded_at
                yield event
                if position % _TOLD_EVERY == 0 or position == until:
                    self._progress("Importing", position, until)

        missing, done = events(), staged.events
        while added := self._staging.add_events(_portion(missing)):
            done += added
        if done < until:
            raise self._incomplete(f"it ends behind event {done:,} of {until:,}")

    def _check_last(self, lines: NumberedLines, staged: int) -> EventRecord:
        """Return the last event that is there already; it must be the one that the file has."""
        found = [record for page in self._staging.records(after=staged - 1, until=staged) for record in page]
        line = next(islice(lines, staged - 1, None), None)
        if line is None:
            raise self._incomplete(f"it ends before event {staged:,}, up to which it was imported before")
        expected = event_of(line, staged)
        if found != [expected]:
            raise _StagedOtherwiseError
        return expected

    def _add_keys(self, lines: NumberedLines, header: Header, staged: Staged) -> Trailer:
        trailer: Trailer | None = None

        def keys() -> Iterator[KeyRecord]:
            nonlocal trailer
            for line in lines:
                found = key_or_trailer_of(line)
                if isinstance(found, Trailer):
                    trailer = found
                    return
                yield found

        found = keys()
        done = sum(1 for _ in islice(found, staged.keys))
        while added := self._staging.add_keys(islice(found, _KEYS_AT_ONCE)):
            done += added
        if trailer is None:
            raise self._incomplete(f"it ends behind {done:,} idempotency keys, without its last line")
        if (trailer.events, trailer.keys) != (header.until, done):
            raise BadLineError(
                f"it says that there are {trailer.events:,} events and {trailer.keys:,} idempotency keys, "
                f"and there are {header.until:,} and {done:,}"
            )
        if next(lines, None) is not None:
            raise BadLineError("it comes behind the last line")
        return trailer

    def _check_versions(self) -> None:
        position = self._staging.misplaced()
        if position is not None:
            raise self._bad_file(
                f"line {position + 1} is wrong: the event at position {position} does not have "
                "the next version of its stream"
            )

    def _check_root(self, trailer: Trailer) -> None:
        """Check what the database has, not what it was given."""
        growing, done = GrowingRoot(), 0
        for page in self._staging.records(after=0, until=trailer.events):
            growing.add(page)
            done += len(page)
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


def _portion(events: Iterator[EventRecord]) -> Iterator[EventRecord]:
    """Return as many events as share a transaction."""
    size = 0
    for event in islice(events, _EVENTS_AT_ONCE):
        yield event
        size += len(event.state)
        if size >= _BYTES_AT_ONCE:
            return


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
                f"The import of {source} was interrupted: {error.strerror}.",
                hint="When that is mended, import again: it goes on where it was.",
            ) from error


@contextmanager
def _alone(log: "DatabaseEventLog", database: str) -> Iterator[None]:
    """Enter when nobody else imports. One that was killed a moment ago may not have ended everywhere."""
    latest = time.monotonic() + _PATIENCE_SECONDS
    while True:
        with log.ownership(_IMPORT) as is_alone:
            if is_alone:
                yield
                return
        if time.monotonic() > latest:
            raise ConflictError(
                f"Somebody else imports into the event log in {database}.", hint="Wait for the end of it."
            )
        time.sleep(_PAUSE_SECONDS)


def _tell_nobody(doing: str, done: int, total: int, /) -> None:
    pass
