"""Applies events to rows: the one place where it is done, for following, rebuilding and verifying alike."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from deployledger.domain.event_log import EventLog, RawEvent
from deployledger.domain.events import Event
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.projections.projection import Projection
from deployledger.projections.store import POSITIONS_PER_BLOCK, Changes, ParkedEvent, StoredRow, Table

LARGEST_ROW_BYTES = 1 << 20
_LONGEST_ERROR = 500
_STREAM = "stream:"

DecodedEvent = tuple[RawEvent, Event | None, str]
"""An event, decoded; or None, and why it does not decode."""


class _Entry:
    """A row while events are applied to it."""

    __slots__ = ("first_position", "is_changed", "parked_from", "position", "row", "stored")

    def __init__(self, first_position: int, stored: StoredRow | None = None) -> None:
        self.row: Any = None
        self.first_position = first_position
        self.position = first_position
        self.parked_from: int | None = None
        self.stored = stored
        self.is_changed = False


def decode_all(
    raws: Iterable[RawEvent], projections: Sequence[Projection[Any]], decode: Callable[[RawEvent], Event]
) -> list[DecodedEvent]:
    """Decode the events that any of the projections reads; those that do not decode come with the reason."""
    decoded: list[DecodedEvent] = []
    is_read: dict[str, bool] = {}
    for raw in raws:
        topic = raw[3]
        if topic not in is_read:
            is_read[topic] = any(it.reads(topic) for it in projections)
        if is_read[topic]:
            try:
                decoded.append((raw, decode(raw), ""))
            except UndecodableEventError as error:
                decoded.append((raw, None, error.message))
    return decoded


def read_by(
    projection: Projection[Any], decoded: list[DecodedEvent], *, after: int = 0
) -> list[DecodedEvent]:
    """Return those of the events that a projection reads, behind a position."""
    return [it for it in decoded if it[0][0] > after and projection.reads(it[0][3])]


class Folding:
    """The rows of one projection that are being changed.

    Args:
        table: where rows are loaded from that are not at hand.
        largest_row: how many bytes a row may take as JSON; an event that makes a larger one is parked.
        is_new: whether the table was empty at first, so that a stream's first event needs no look at it.
    """

    def __init__(
        self,
        projection: Projection[Any],
        table: Table,
        log: EventLog,
        *,
        largest_row: int = LARGEST_ROW_BYTES,
        is_new: bool = False,
    ) -> None:
        self._projection = projection
        self._table = table
        self._log = log
        self._largest_row = largest_row
        self._entries: dict[str, _Entry] = {}
        self._parked: list[ParkedEvent] = []
        self._unparked: list[str] = []
        self._is_new = is_new
        self._blocked_streams = set[str]() if is_new else set(table.parked_streams())

    def __len__(self) -> int:
        return len(self._entries)

    def apply(self, decoded: Sequence[DecodedEvent]) -> None:
        """Apply events, which come in the order of the log."""
        by_key = self._by_key(decoded)
        self._load(by_key)
        entries, apply = self._entries, self._projection.apply
        for key, raw, event, error in by_key:
            entry = entries.get(key)
            if entry is None:
                entry = entries[key] = _Entry(raw[0])
            if entry.parked_from is None and event is not None:
                before = entry.row
                try:
                    entry.row = apply(before, event)
                except Exception as problem:  # a fold raises what it likes; the others go on
                    self._park(key, entry, raw, _described(problem))
                else:
                    if before is None:
                        entry.first_position = raw[0]
                    entry.position = raw[0]
                    entry.is_changed = True
            else:
                self._park(key, entry, raw, error)

    def _by_key(self, decoded: Sequence[DecodedEvent]) -> list[tuple[str, RawEvent, Event | None, str]]:
        projection = self._projection
        key_of = projection.key
        if key_of is None:
            return [(raw[1], raw, event, error) for raw, event, error in decoded]
        found: list[tuple[str, RawEvent, Event | None, str]] = []
        for raw, event, error in decoded:
            stream = f"{_STREAM}{raw[1]}"
            if event is not None and stream not in self._blocked_streams:
                try:
                    key = key_of(event)
                    if not isinstance(key, str) or not 0 < len(key) <= _LONGEST_ERROR or "\0" in key:
                        raise ValueError(f"{key!r} is not a key: a text of 1 to {_LONGEST_ERROR} characters")
                    found.append((key, raw, event, error))
                    continue
                except Exception as problem:  # as above
                    error = _described(problem)
            self._blocked_streams.add(stream)
            found.append((stream, raw, None, error))
        return found

    def _load(self, by_key: list[tuple[str, RawEvent, Event | None, str]]) -> None:
        """Have at hand every row that the events belong to."""
        entries = self._entries
        if self._is_new and self._projection.is_by_stream:
            needed = {it[0] for it in by_key if it[1][2] > 1 and it[0] not in entries}
        else:
            needed = {it[0] for it in by_key if it[0] not in entries}
        if not needed:
            return
        for stored in self._table.load(list(needed)):
            entry = _Entry(stored.first_position, stored)
            entry.position = stored.position
            entry.parked_from = stored.parked_from
            if stored.state is not None:
                entry.row = self._projection.decode(stored.columns, stored.state)
            entries[stored.key] = entry

    def _park(self, key: str, entry: _Entry, raw: RawEvent, error: str) -> None:
        if entry.parked_from is None:
            entry.parked_from = raw.position
            entry.is_changed = True
        self._parked.append(
            ParkedEvent(
                key,
                raw.position,
                raw.stream_id,
                raw.stream_version,
                raw.topic,
                error[:_LONGEST_ERROR].replace("\0", "\ufffd"),
                datetime.now(UTC),
            )
        )

    def refold(self, key: str, until: int) -> None:
        """Make the row of a stream anew, from all its events up to a position."""
        stored = self._table.load([key])
        entry = _Entry(0, stored[0] if stored else None)
        self._entries[key] = entry
        self._unparked.append(key)
        self._parked = [it for it in self._parked if it.key != key]
        self._apply_checked(key, entry, until)
        entry.is_changed = True

    def _apply_checked(self, key: str, entry: _Entry, until: int) -> None:
        """Apply all events of a row up to a position, and look at what each of them makes of it."""
        for raw, event, error in self._events_of(key, until):
            entry.first_position = entry.first_position or raw.position
            if entry.parked_from is None and event is not None:
                try:
                    row = self._projection.apply(entry.row, event)
                    if row is not None:
                        self._encode(row)
                except Exception as problem:  # as above
                    error = _described(problem)
                else:
                    if entry.row is None:
                        entry.first_position = raw.position
                    entry.row, entry.position = row, raw.position
                    continue
            self._park(key, entry, raw, error)

    def _events_of(self, key: str, until: int) -> Iterable[DecodedEvent]:
        projection, decode = self._projection, self._log.decode
        streams = (UUID(key), UUID(key)) if projection.is_by_stream else None
        for page in self._log.scan(after=0, until=until, streams=streams):
            for raw, event, error in decode_all(page, [projection], decode):
                if projection.key is None or (event is not None and _is_of(projection, event, key)):
                    yield raw, event, error

    def _encode(self, row: Any) -> tuple[tuple[Any, ...], bytes]:
        columns, state = self._projection.encode(row)
        if len(state) > self._largest_row:
            raise ValueError(f"the row takes {len(state):,} bytes as JSON; {self._largest_row:,} is the most")
        if columns:
            self._projection.check_columns(columns)
        return columns, state

    def changes(self, *, before: int | None = None) -> Changes:
        """Return what has changed since the last call, and forget the rows.

        Args:
            before: only of rows whose last event came before this position; the others are kept.
        """
        if before is None:
            leaving, self._entries = self._entries, {}
        else:
            leaving = {key: it for key, it in self._entries.items() if it.position < before}
            for key in leaving:
                del self._entries[key]
        changes = Changes()
        counted = self._projection.counted
        counted_at = self._projection.columns.index(counted) if counted else None
        for key, entry in leaving.items():
            if entry.is_changed:
                row = self._stored(key, entry)
                if row is None:
                    if entry.stored is not None:
                        changes.removed.append(key)
                elif entry.stored is None:
                    changes.new.append(row)
                else:
                    changes.changed.append(row)
                if counted_at is not None:
                    _count(changes.counts, entry.stored, counted_at, -1)
                    _count(changes.counts, row, counted_at, 1)
        changes.parked, self._parked = self._parked, []
        changes.unparked, self._unparked = self._unparked, []
        return changes

    def _stored(self, key: str, entry: _Entry) -> StoredRow | None:
        columns: tuple[Any, ...] = ()
        state: bytes | None = None
        if entry.row is not None:
            try:
                columns, state = self._encode(entry.row)
            except Exception:  # a row that cannot be stored: which event made it so?
                last = max(entry.position, *(it.position for it in self._parked if it.key == key), 0)
                stored, entry.stored = entry.stored, None
                entry.row, entry.parked_from, entry.first_position = None, None, 0
                self._parked = [it for it in self._parked if it.key != key]
                self._unparked.append(key)
                self._apply_checked(key, entry, last)
                entry.stored = stored
                if entry.row is not None:
                    columns, state = self._encode(entry.row)
        if state is None:
            if entry.parked_from is None:
                return None
            columns = (None,) * len(self._projection.columns)
        return StoredRow(key, entry.first_position, entry.position, entry.parked_from, columns, state)


def _count(counts: dict[tuple[int, bool], int], row: StoredRow | None, column: int, change: int) -> None:
    if row is not None and row.state is not None:
        place = (row.first_position // POSITIONS_PER_BLOCK, bool(row.columns[column]))
        counts[place] = counts.get(place, 0) + change


def _is_of(projection: Projection[Any], event: Event, key: str) -> bool:
    try:
        return projection.key is not None and projection.key(event) == key
    except Exception:  # such an event is parked by its stream
        return False


def _described(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"
