"""Reads an event log, in pages of records."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from uuid import UUID

from deployledger.adapters.event_log.deferred import decode_deferring
from deployledger.adapters.event_log.mapper import decode
from deployledger.adapters.event_log.opening import SCHEMA_VERSION, OpenedLog, patient
from deployledger.adapters.event_log.reading import READ_AT_ONCE, Selection, Statements
from deployledger.domain.event_log import CommandKey, KeyedEvent, KeyRecord, LogStatistics
from deployledger.domain.event_records import NOTHING_READ, EventRecord, Mark, mark_of, time_of
from deployledger.domain.events import Event
from deployledger.domain.exceptions import DatabaseUnavailableError, EventLogError

_T = TypeVar("_T")
_Place = TypeVar("_Place", int, str)
_KEY_COLUMNS = 5


class ReadableLog(OpenedLog):
    """An event log that is read."""

    _last_end: tuple[tuple[Any, ...], Mark] = ((), NOTHING_READ)

    # What each database does in its own way ---------------------------------------------------------

    @property
    @abstractmethod
    def _statements(self) -> Statements:
        """The statements that read the log."""

    @abstractmethod
    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement selects, on a connection that others use, too."""

    @abstractmethod
    def _stream(
        self, statement: str, values: Sequence[Any], *, in_order: bool = False
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        """Yield the rows that a statement selects, a page at a time, on a connection of its own.

        Args:
            in_order: whether they are most of the log, in its order.
        """

    @abstractmethod
    def _events(self, rows: Sequence[tuple[Any, ...]]) -> list[EventRecord]:
        """Return the events of rows, all with metadata or all without; a damaged one is a `DamagedEvent`."""

    @abstractmethod
    def _id(self, stored: Any) -> bytes:
        """Return an id as it is selected.

        Raises:
            ValueError, TypeError: if it is none.
        """

    @abstractmethod
    def _size(self) -> int:
        """Return how many bytes the events take."""

    # Events -----------------------------------------------------------------------------------------

    def records(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        streams: Sequence[UUID] | None = None,
        stream_range: tuple[UUID, UUID] | None = None,
        metadata: bool = False,
    ) -> Iterator[Sequence[EventRecord]]:
        """Yield the events after a position, as they are stored, a page at a time; see the port."""
        selection = Selection(
            after=after,
            until=until,
            limit=limit,
            streams=streams,
            stream_range=stream_range,
            metadata=metadata,
        )
        is_few = until is not None and until - after <= READ_AT_ONCE
        if limit is not None or streams is not None or is_few:
            page = self._page(selection)
            return iter([page] if page else [])
        self._open()
        return self._paged(
            lambda position: self._pages(replace(selection, after=position)),
            after,
            lambda record: record.position,
        )

    @patient
    def _page(self, selection: Selection) -> list[EventRecord]:
        with self._use():
            _ = self._recorder
            return self._events(self._query(*self._statements.select_events(selection)))

    def _pages(self, selection: Selection) -> Iterator[Sequence[EventRecord]]:
        spread = selection.stream_range
        pages = self._stream(
            *self._statements.select_events(selection), in_order=spread is None or spread[0] != spread[1]
        )
        return map(self._events, pages)

    def _paged(
        self, pages: Callable[[_Place], Iterator[Sequence[_T]]], after: _Place, place: Callable[[_T], _Place]
    ) -> Iterator[Sequence[_T]]:
        """Yield pages; one that the database does not give is read again, from where the last one ended."""
        reading = pages(after)

        def read() -> Sequence[_T] | None:
            nonlocal reading
            try:
                return next(reading, None)
            except DatabaseUnavailableError:
                reading = pages(after)
                raise

        while (page := self.patience.call(read)) is not None:
            yield page
            after = place(page[-1])

    def decode(self, record: EventRecord, *, whole: bool = False) -> Event:
        """Return a stored event, upcast to the current version of its class; see the port."""
        return decode(record) if whole else decode_deferring(record)

    @patient
    def position(self) -> int:
        """Return the position of the last event; 0 if there is none."""
        with self._use():
            _ = self._recorder
            return self._query(f"SELECT max(position) FROM {self._statements.events}")[0][0] or 0  # noqa: S608

    @patient
    def end(self) -> Mark:
        """Return the position of the last event, and which event it is."""
        with self._use():
            _ = self._recorder
            return self._end()

    def _end(self) -> Mark:
        rows = self._query(self._statements.select_last)
        if not rows:
            return NOTHING_READ
        last, mark = self._last_end
        if last != rows[0]:  # most questions find the log as it was: no digest is made for them
            mark = mark_of(self._events(rows)[0])
            self._last_end = rows[0], mark
        return mark

    # Idempotency keys -------------------------------------------------------------------------------

    @patient
    def command(self, key: str) -> CommandKey | None:
        """Return the command that was stored with an idempotency key, if any."""
        with self._use():
            _ = self._recorder
            rows = self._query(self._statements.select_key, (key,))
        return CommandKey(key, rows[0][1], UUID(bytes=self._id(rows[0][2])), rows[0][3]) if rows else None

    def keys(self, *, until: int) -> Iterator[Sequence[KeyedEvent]]:
        """Yield the idempotency keys of commands up to a position, each with its event; see the port."""
        self._open()
        statement = self._statements.select_keys
        return self._paged(
            lambda key: map(self._keyed, self._stream(statement, (key, until))),
            "",
            lambda keyed: keyed.key.key,
        )

    def _keyed(self, rows: Sequence[tuple[Any, ...]]) -> Sequence[KeyedEvent]:
        keys = [self._key(*row[:_KEY_COLUMNS]) for row in rows]
        events = [row[_KEY_COLUMNS:] for row in rows]
        records = iter(self._events([event for event in events if event[0] is not None]))
        return [
            KeyedEvent(key, None if event[0] is None else next(records))
            for key, event in zip(keys, events, strict=True)
        ]

    def _key(self, key: Any, fingerprint: Any, deployment: Any, version: Any, recorded_at: Any) -> KeyRecord:
        try:
            if type(version) is not int or type(recorded_at) is not int:
                raise TypeError("its version or its time is no number")
            return KeyRecord(key, fingerprint, self._id(deployment), version, recorded_at)
        except (ValueError, TypeError, AttributeError) as error:
            raise EventLogError(
                f"The idempotency key {key!r} is damaged: {error}.", hint="Restore the log from a backup."
            ) from error

    # The whole --------------------------------------------------------------------------------------

    @patient
    def statistics(self) -> LogStatistics:
        """Return what is in the log."""
        with self._use():
            _ = self._recorder
            end = self.position()
            events = self._statements.events
            (((streams,),),) = self._stream(
                f"SELECT count(DISTINCT originator_id) FROM {events}",  # noqa: S608
                (),
            )
            topics = self._stream(
                f"SELECT CAST(topic AS TEXT), count(*) FROM {events} GROUP BY 1 ORDER BY 1",  # noqa: S608
                (),
            )
            ends = [
                time_of(record)
                for after in ((0, end - 1) if end else ())
                for record in self._page(Selection(after=after, limit=1, metadata=True))
            ]
            return LogStatistics(
                database=self._described_as,
                schema_version=SCHEMA_VERSION,
                events=end,
                streams=streams,
                first_recorded_at=ends[0] if ends else None,
                last_recorded_at=ends[-1] if ends else None,
                topics={topic: count for page in topics for topic, count in page},
                size_bytes=self._size(),
            )
