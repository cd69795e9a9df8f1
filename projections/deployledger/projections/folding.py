"""Applies events to rows: the one place where it is done, for following, rebuilding and verifying alike."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import EventRecord, id_text
from deployledger.domain.events import Event
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.domain.redaction import loggable
from deployledger.projections.projection import Projection
from deployledger.projections.rows import Changes, ParkedEvent, PastRow, StoredRow
from deployledger.projections.store import Table

DEFAULT_LARGEST_ROW_BYTES = 1 << 20
"""The default of the setting; no built-in row comes near it (`deployledger.domain.bounds`)."""
LONGEST_ERROR = 500
_LONGEST_KEY = 500
_STREAM = "stream:"

DecodedEvent = tuple[EventRecord, Event | None, str]
"""An event, decoded; or None, and why it does not decode."""


class _Entry:
    """A row while events are applied to it."""

    __slots__ = (
        "encoded",
        "first_position",
        "is_changed",
        "parked_from",
        "position",
        "row",
        "size",
        "stored",
    )

    def __init__(self, first_position: int, stored: StoredRow | None = None) -> None:
        self.row: Any = None
        self.encoded: tuple[tuple[Any, ...], str | bytes] | None = None  # of a temporal projection only
        self.first_position = first_position
        self.position = first_position
        self.parked_from: int | None = None
        self.stored = stored
        self.is_changed = False
        self.size = len(stored.state) if stored is not None and stored.state is not None else 0


def decode_all(
    raws: Sequence[EventRecord],
    projections: Sequence[Projection[Any]],
    decode: Callable[[EventRecord], Event],
) -> list[DecodedEvent]:
    """Decode the events that any of the projections reads; those that do not decode come with the reason."""
    decoded: list[DecodedEvent] = []
    add = decoded.append
    is_read = {
        topic: any(projection.reads(topic) for projection in projections)
        for topic in {raw[3] for raw in raws}
    }
    for raw in raws:
        if is_read[raw[3]]:
            try:
                add((raw, decode(raw), ""))
            except UndecodableEventError as error:
                add((raw, None, error.message))
    return decoded


def read_by(
    projection: Projection[Any], decoded: list[DecodedEvent], *, after: int = 0
) -> list[DecodedEvent]:
    """Return those of the events that a projection reads, after a position."""
    return [entry for entry in decoded if entry[0][0] > after and projection.reads(entry[0][3])]


class Folding:
    """The rows of one projection that are being changed.

    Args:
        table: where rows that are not in memory are loaded from.
        largest_row: how many bytes a row may take as JSON, or what the projection says if that is more; an
            event that makes a larger one is parked.
        is_new: whether the table was empty at first, so that a stream's first event needs no look at it.
    """

    def __init__(
        self,
        projection: Projection[Any],
        table: Table,
        log: EventLog,
        *,
        largest_row: int = DEFAULT_LARGEST_ROW_BYTES,
        is_new: bool = False,
    ) -> None:
        self._projection = projection
        self._table = table
        self._log = log
        self._largest_row = max(largest_row, projection.row_bytes)
        self._entries: dict[str, _Entry] = {}
        self._parked: list[ParkedEvent] = []
        self._unparked: list[str] = []
        self._past: list[PastRow] = []
        self._forgotten: list[str] = []
        counted = projection.counted
        self._counted_at = projection.columns.index(counted) if counted else None
        self._blocked_streams = set[str]() if is_new else set(table.parked_streams())

    def __len__(self) -> int:
        return len(self._entries)

    def apply(self, decoded: Sequence[DecodedEvent]) -> None:
        """Apply events, which come in the order of the log."""
        by_key = self._by_key(decoded)
        self._load(by_key)
        entries, apply = self._entries, self._projection.apply
        suspicious = self._largest_row // 2  # bytes of events; a row seldom takes more than they do
        is_temporal = self._projection.temporal
        for key, events in by_key.items():
            entry = entries.get(key)
            if entry is None:
                entry = entries[key] = _Entry(events[0][0][0])
            row = entry.row
            for raw, event, error in events:
                if event is None or entry.parked_from is not None:
                    self._park(key, entry, raw, error)
                    continue
                entry.size += len(raw[4])
                try:
                    after = apply(row, event)
                    if is_temporal:
                        self._supersede(key, entry, after, raw[0])
                    elif entry.size > suspicious and after is not None:
                        self._encode(after)
                except (Exception, SystemExit) as problem:  # a fold raises what it likes; other rows go on
                    self._park(key, entry, raw, _described(problem))
                    continue
                if row is None:
                    entry.first_position = raw[0]
                row = after
                entry.position = raw[0]
            entry.row = row
            entry.is_changed = True

    def _by_key(self, decoded: Sequence[DecodedEvent]) -> dict[str, list[DecodedEvent]]:
        """Return the events of each row, in order."""
        if self._projection.key is None:
            streams: dict[bytes | str, list[DecodedEvent]] = {}
            for record in decoded:
                # The id as text is made once for each stream; a damaged one has only that.
                stream = record[0].stream_id or record[0].stream
                if stream in streams:
                    streams[stream].append(record)
                else:
                    streams[stream] = [record]
            return {events[0][0].stream: events for events in streams.values()}
        rows: dict[str, list[DecodedEvent]] = {}
        for raw, event, error in decoded:
            key, event, error = self._keyed(raw, event, error)
            rows.setdefault(key, []).append((raw, event, error))
        return rows

    def _keyed(self, raw: EventRecord, event: Event | None, error: str) -> tuple[str, Event | None, str]:
        """Return which row an event belongs to; what belongs to none is parked by its stream."""
        stream = f"{_STREAM}{raw.stream}"
        if event is not None and stream not in self._blocked_streams and self._projection.key is not None:
            try:
                key = self._projection.key(event)
                if not isinstance(key, str) or not 0 < len(key) <= _LONGEST_KEY or "\0" in key:
                    raise ValueError(f"{key!r} is not a key: a text of 1 to {_LONGEST_KEY} characters")
                key.encode()  # half a surrogate pair is no text
                return key, event, error
            except (Exception, SystemExit) as problem:  # as above
                error = _described(problem)
        self._blocked_streams.add(stream)
        return stream, None, error

    def _load(self, by_key: dict[str, list[DecodedEvent]]) -> None:
        """Load every row that the events belong to."""
        entries = self._entries
        needed = [key for key in by_key if key not in entries]
        if self._projection.key is None:  # a stream that begins has no row
            needed = [key for key in needed if by_key[key][0][0][2] > 1]
        if needed:
            self._load_rows(needed)

    def load(self, raws: Sequence[EventRecord]) -> None:
        """Load the rows of all streams that continue in these events, with one query of the table."""
        if self._projection.key is None:
            begun = {raw.stream_id for raw in raws if raw[2] == 1}
            streams = {raw.stream_id for raw in raws if self._projection.reads(raw[3])}
            if needed := {*map(id_text, streams - begun - {b""})} - self._entries.keys():
                self._load_rows(list(needed))

    def _load_rows(self, keys: list[str]) -> None:
        entries = self._entries
        for stored in self._table.load(keys):
            entry = _Entry(stored.first_position, stored)
            entry.position = stored.position
            entry.parked_from = stored.parked_from
            if stored.state is not None:
                if self._projection.temporal:
                    entry.encoded = (stored.columns, stored.state)
                try:
                    entry.row = self._projection.decode(stored.columns, stored.state)
                except ValueError:  # somebody made it unreadable: the log still knows what was in it
                    entry.parked_from = None
                    self._apply_checked(stored.key, entry, stored.position)
                    entry.parked_from = entry.parked_from or stored.parked_from
                    if entry.encoded is not None:
                        entry.encoded = self._encode(entry.row) if entry.row is not None else None
            entries[stored.key] = entry

    def _park(self, key: str, entry: _Entry, raw: EventRecord, error: str) -> None:
        if entry.parked_from is None:
            entry.parked_from = raw.position
        self._parked.append(
            ParkedEvent(
                key,
                raw.position,
                raw.stream,
                raw.stream_version,
                raw.topic,
                loggable(error)[:LONGEST_ERROR].replace("\0", "\ufffd"),
                datetime.now(UTC),
            )
        )

    def _supersede(self, key: str, entry: _Entry, after: Any, position: int) -> None:
        """Keep the row of a temporal projection that an event puts another one in the place of."""
        encoded = self._encode(after) if after is not None else None
        if entry.encoded is not None:
            self._past.append(
                PastRow(key, entry.first_position, entry.position, position, after is None, *entry.encoded)
            )
        entry.encoded = encoded

    def refold(self, key: str, until: int) -> None:
        """Rebuild the row of a stream from all its events up to a position."""
        stored = self._table.load([key])
        entry = _Entry(0, stored[0] if stored else None)
        if self._projection.temporal:
            self._forgotten.append(key)
        self._entries[key] = entry
        self._unparked.append(key)
        self._parked = [event for event in self._parked if event.key != key]
        self._apply_checked(key, entry, until, keeps_past=self._projection.temporal)
        entry.is_changed = True

    def _apply_checked(self, key: str, entry: _Entry, until: int, *, keeps_past: bool = False) -> None:
        """Apply all events of a row up to a position, and look at what each of them makes of it."""
        for raw, event, error in self._events_of(key, until):
            entry.first_position = entry.first_position or raw.position
            if entry.parked_from is None and event is not None:
                try:
                    row = self._projection.apply(entry.row, event)
                    if keeps_past:
                        self._supersede(key, entry, row, raw.position)
                    elif row is not None:
                        self._encode(row)
                except (Exception, SystemExit) as problem:  # as above
                    error = _described(problem)
                else:
                    if entry.row is None:
                        entry.first_position = raw.position
                    entry.row, entry.position = row, raw.position
                    continue
            self._park(key, entry, raw, error)

    def _events_of(self, key: str, until: int) -> Iterable[DecodedEvent]:
        projection, decode = self._projection, self._log.decode
        streams = None
        if projection.is_by_stream:
            stream = _stream_of(key)
            if stream is None:  # somebody else made that row: no event belongs to it
                return
            streams = (stream, stream)
        blocked = set[str]()
        for page in self._log.records(until=until, stream_range=streams):
            for raw, event, error in decode_all(page, [projection], decode):
                if projection.key is None:
                    yield raw, event, error
                elif raw.stream not in blocked:
                    event_key = _key_of(projection, event)
                    if event_key is None:  # it is parked by its stream, and so is what follows there
                        blocked.add(raw.stream)
                    elif event_key == key:
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
            leaving = {key: entry for key, entry in self._entries.items() if entry.position < before}
            for key in leaving:
                del self._entries[key]
        changes = Changes()
        counted_at = self._counted_at
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
                changes.count(entry.stored, -1, counted_at)
                changes.count(row, 1, counted_at)
        # What is parked leaves with its row: a row that is kept may yet turn out not to be storable.
        changes.parked = [event for event in self._parked if event.key not in self._entries]
        self._parked = [event for event in self._parked if event.key in self._entries]
        changes.unparked, self._unparked = self._unparked, []
        changes.past, self._past = self._past, []
        changes.forgotten, self._forgotten = self._forgotten, []
        return changes

    def _stored(self, key: str, entry: _Entry) -> StoredRow | None:
        columns: tuple[Any, ...] = ()
        state: str | bytes | None = None
        if entry.encoded is not None:  # it was looked at when it was made
            columns, state = entry.encoded
        elif entry.row is not None:
            try:
                columns, state = self._encode(entry.row)
            except Exception:  # a row that cannot be stored: which event made it so?
                last = max(entry.position, *(event.position for event in self._parked if event.key == key), 0)
                stored, entry.stored = entry.stored, None
                entry.row, entry.parked_from, entry.first_position = None, None, 0
                self._parked = [event for event in self._parked if event.key != key]
                self._unparked.append(key)
                self._apply_checked(key, entry, last)
                entry.stored = stored
                if entry.row is not None:
                    columns, state = self._encode(entry.row)
        if state is None:
            if entry.parked_from is None:
                return None
            # Whatever was there before it and was removed, there is no row but what is parked.
            entry.first_position = entry.position = entry.parked_from
            columns = (None,) * len(self._projection.columns)
        return StoredRow(key, entry.first_position, entry.position, entry.parked_from, columns, state)


class Folded(NamedTuple):
    """A row that events make, or None, and those of them that were not applied."""

    row: Any
    parked: list[ParkedEvent]


class _NoRows:
    """A table that has nothing."""

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        return []

    def parked_streams(self) -> list[str]:
        return []

    def past(self, key: str) -> list[PastRow]:
        return []

    def save(self, changes: Changes) -> None:
        raise NotImplementedError


def fold_streams(
    projection: Projection[Any], log: EventLog, raws: Sequence[EventRecord], *, largest_row: int
) -> dict[str, Folded]:
    """Return the rows that the events of some streams make, from the first one on, as they are read anywhere.

    Args:
        projection: one in which each stream has a row of its own.
        raws: the events, in the order of the log.
    """
    folding = Folding(projection, _NoRows(), log, largest_row=largest_row, is_new=True)
    folding.apply(read_by(projection, decode_all(raws, [projection], log.decode)))
    parked: dict[str, list[ParkedEvent]] = {}
    for event in folding._parked:
        parked.setdefault(event.key, []).append(event)
    return {key: Folded(entry.row, parked.get(key, [])) for key, entry in folding._entries.items()}


def _key_of(projection: Projection[Any], event: Event | None) -> str | None:
    try:
        return projection.key(event) if projection.key is not None and event is not None else None
    except (Exception, SystemExit):  # as above
        return None


def _stream_of(key: str) -> UUID | None:
    try:
        return UUID(key) if str(UUID(key)) == key else None
    except ValueError:
        return None


def _described(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}"
