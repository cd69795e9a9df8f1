"""What the event logs of all databases share: everything but the connections, the schema and the locks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial, wraps
from threading import Condition, Lock, local
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from eventsourcing.persistence import (
    ApplicationRecorder,
    MapperDeserialisationError,
    PersistenceError,
    StoredEvent,
)

from deployledger.adapters.event_log import clock
from deployledger.adapters.event_log.clock import ClockWatch
from deployledger.adapters.event_log.commands import Command, Conflict, EventRow, Outcome, Repeated
from deployledger.adapters.event_log.damage import damaged
from deployledger.adapters.event_log.deferred import decode_deferring
from deployledger.adapters.event_log.following import LogFollower, Tail, TailWatch
from deployledger.adapters.event_log.group_commit import BatchWriter, GroupCommit
from deployledger.adapters.event_log.mapper import EventMapper, decode, known_topics, timestamp_of
from deployledger.domain.clock_corrections import ClockCorrected
from deployledger.domain.event_log import (
    NOTHING_READ,
    CommandKey,
    EventBatch,
    EventRecord,
    KeyedEvent,
    KeyRecord,
    LogStatistics,
    Mark,
    RawEvent,
    RawRecord,
    RecordedEvent,
    RepeatedCommandError,
    SchemaState,
    mark_of,
    marker,
)
from deployledger.domain.events import Event
from deployledger.domain.exceptions import (
    ConcurrencyError,
    ConfigurationError,
    DatabaseUnavailableError,
    EventLogError,
    LogDivergedError,
    UndecodableEventError,
)
from deployledger.domain.findings import Finding
from deployledger.domain.forks import HINT as FORK_HINT
from deployledger.domain.forks import OpeningProcess, opened_before
from deployledger.domain.moments import check_time
from deployledger.domain.times import CLOCK_STREAM, TOLERANCE, Correction, LogTimes, WrongTimes, wrong_times
from deployledger.projections.patience import Patience

if TYPE_CHECKING:
    from deployledger.adapters.event_log.import_transaction import ImportTransaction
    from deployledger.audit.ledger_store import LedgerStore
    from deployledger.projections.store import ReadModelStore

SCHEMA_VERSION = 2
"""The version of the database schema that this version of the software reads and writes."""

EVENTS_TABLE = "events"
KEYS_TABLE = "idempotency_keys"

_UNDECODABLE_HINT = "Upgrade deployledger, or restore the database from a backup."
_FOLLOWED_AT_ONCE = 1000
_SETTLED_AFTER = timedelta(seconds=60)
_MOST_AHEAD = timedelta(seconds=2)

_P = ParamSpec("_P")
_T = TypeVar("_T")
_R = TypeVar("_R")
_Log = TypeVar("_Log", bound="DatabaseEventLog")
_Place = TypeVar("_Place", int, str)


def _patient(
    method: Callable[Concatenate[_Log, _P], _T],
) -> Callable[Concatenate[_Log, _P], _T]:
    """Make a method that reads, or may be repeated, wait for an unavailable database."""

    @wraps(method)
    def call(log: _Log, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return log.patience.call(lambda: method(log, *args, **kwargs))

    return call


@dataclass(frozen=True)
class StoredRow:
    """An event as the database has it."""

    position: int
    recorded_at: datetime
    stored: StoredEvent

    @property
    def mark(self) -> Mark:
        """The mark of whoever has read the log up to here."""
        stream_id, version, topic, state = (
            self.stored.originator_id,
            self.stored.originator_version,
            self.stored.topic,
            self.stored.state,
        )
        if type(state) is not bytes or type(version) is not int or type(topic) is not str:
            raw = damaged((self.position, str(stream_id), version, topic, state))
            return mark_of(raw)
        return Mark(self.position, marker(stream_id, version, state))


class DatabaseEventLog(ABC):
    """An event log in a database. The database is opened, and its schema checked, by the first use.

    Args:
        url: the database's URL, as it was given.
        described_as: the database, for messages; without credentials.
        patience: how long commands and queries wait for an unavailable database.
    """

    def __init__(self, url: str, described_as: str, *, patience: Patience) -> None:
        self.url = url
        self.patience = patience
        self._described_as = described_as
        self._mapper = EventMapper()
        self._recorder_or_none: ApplicationRecorder | None = None
        self._opening = Lock()
        self._sharing = Condition()
        self._users = 1
        self._uses = 0
        self._uses_of_thread = local()
        self._process = OpeningProcess()
        self._checks: tuple[Callable[[], None], ...] = ()
        self._clock = ClockWatch(described_as)
        self._tail = self._make_tail()
        self._commits = GroupCommit(
            self._make_writer(), self._tail.announce, patience=patience, described_as=described_as
        )

    @property
    def described_as(self) -> str:
        """The database, for messages; without credentials."""
        return self._described_as

    # What each database does in its own way ---------------------------------------------------------

    @abstractmethod
    def _make_writer(self) -> BatchWriter:
        """Return what stores batches."""

    @abstractmethod
    def _make_tail(self) -> Tail:
        """Return what says when something was added."""

    @abstractmethod
    def _unusable(self, error: BaseException) -> EventLogError:
        """Return what to tell the user about an error of the database's driver."""

    @abstractmethod
    def _connect(self) -> ApplicationRecorder:
        """Open the database and return a recorder on it; create no tables."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close every connection."""

    @abstractmethod
    def _found_schema(self) -> int:
        """Return the version of the schema that the database has; 0 if none."""

    @abstractmethod
    def _create_schema(self) -> None:
        """Create the schema, in one transaction, unless somebody else did meanwhile."""

    @abstractmethod
    def _upgrade_schema(self) -> None:
        """Bring the schema from the version before to this one, in one transaction."""

    @abstractmethod
    def _restore_triggers(self) -> None:
        """Create what refuses changes to events again, if it is missing or was changed."""

    @property
    @abstractmethod
    def _creates_schema(self) -> bool:
        """Whether the schema is created on first use."""

    @abstractmethod
    def _rows(
        self,
        *,
        after: int,
        until: int | None,
        limit: int,
        topics: Sequence[str],
        stream_id: UUID | None,
        with_last: bool = False,
    ) -> Iterable[StoredRow]:
        """Return the rows behind a position, in the order of the log.

        Args:
            with_last: also the row at that position, before the others, whatever is selected.
        """

    @abstractmethod
    def _end(self) -> Mark:
        """Return the position of the last event, and which event it is."""

    @abstractmethod
    def _recorded_by(self, moment: datetime, first: int, last: int) -> int:
        """Return the last of some positions that was recorded by a time, or the one before them.

        It is found by halving: between two corrections of the clock, times never fall.
        """

    @abstractmethod
    def _clocks(self) -> tuple[int, int | None, int | None]:
        """Return the last position, when it was recorded, and what the server's clock says.

        Times are in microseconds since 1970. None: there is no event, or its time is none; and there is no
        server, so that this machine's clock counts.
        """

    @abstractmethod
    def _wait_for_appends(self, moment: datetime) -> None:
        """Return once those that may still be recorded at a time, which is past, are visible."""

    @abstractmethod
    def _raw_events(self, after: int, limit: int) -> list[RawEvent]:
        """Return the next events behind a position."""

    @abstractmethod
    def _events_of_streams(self, stream_ids: Sequence[UUID], until: int) -> list[RawEvent]:
        """Return the events of some streams up to a position, in the order of the log."""

    @abstractmethod
    def _stream_records(self, stream_id: UUID, until: int | None, limit: int | None) -> list[RawRecord]:
        """Return the events of one stream in order, as they are stored."""

    @abstractmethod
    def _scan(
        self, after: int, until: int, streams: tuple[UUID, UUID] | None
    ) -> Iterator[Sequence[RawEvent]]:
        """Yield pages of events, read on a connection of its own."""

    @abstractmethod
    def _records(self, after: int, until: int) -> Iterator[Sequence[EventRecord]]:
        """Yield pages of events with their metadata, read on a connection of its own."""

    @abstractmethod
    def _keys(self, until: int, after: str) -> Iterator[Sequence[KeyRecord]]:
        """Yield pages of idempotency keys, in the order of their bytes."""

    @abstractmethod
    def _keyed_events(self, until: int) -> Iterator[Sequence[KeyedEvent]]:
        """Yield pages of idempotency keys with the events that they name."""

    @abstractmethod
    def import_transaction(self) -> "AbstractContextManager[ImportTransaction]":
        """Enter with the transaction that fills this log, which has no events, with all of another one.

        Raises:
            ConflictError: if it has events.
        """

    @abstractmethod
    def _find_command(self, key: str) -> CommandKey | None:
        """Return what was stored with an idempotency key."""

    @abstractmethod
    def _count(self) -> tuple[int, dict[str, int], int]:
        """Return the numbers of streams, of events by topic, and of bytes."""

    @abstractmethod
    def _findings(self, *, whole: bool) -> Iterator[Finding]:
        """Yield what checks of the database found."""

    @abstractmethod
    def open_read_model_store(self) -> "ReadModelStore":
        """Return the store of read models that belongs to this database."""

    @abstractmethod
    def open_ledger_store(self) -> "LedgerStore":
        """Return the store of the ledger that belongs to this database."""

    @abstractmethod
    def ownership(self, stream_id: UUID) -> AbstractContextManager[bool]:
        """Try to become the one that works on a stream; see the port."""

    # The schema -------------------------------------------------------------------------------------

    @_patient
    def schema_state(self) -> SchemaState:
        """Return which schema the database has."""
        with self._use():
            return SchemaState(self._described_as, self._found_schema(), SCHEMA_VERSION)

    @_patient
    def create_schema(self) -> SchemaState:
        """Create what the database needs, if it has nothing of ours; see the port."""
        with self._use(), self._opening:
            state = self.schema_state()
            if state.found == 0:
                self._create_schema()
            else:
                self._check(state)
                self._restore_triggers()
        return self.schema_state()

    @_patient
    def upgrade_schema(self) -> SchemaState:
        """Bring an older schema to the one that is needed; every event is kept."""
        with self._use(), self._opening:
            state = self.schema_state()
            if 0 < state.found < state.needed:
                self._upgrade_schema()
            else:
                self._check(state)
        return self.schema_state()

    @property
    def _how_to_create(self) -> str:
        """What to do about a database without our schema."""
        return "Run `deployledger db init`, or set DEPLOYLEDGER_CREATE_SCHEMA=true."

    def _check(self, state: SchemaState) -> None:
        if state.found > state.needed:
            raise EventLogError(
                f"The event log in {state.database} has schema version {state.found}; "
                f"this version of deployledger knows version {state.needed}.",
                hint="Upgrade deployledger.",
            )
        if state.found == 0:
            raise EventLogError(
                f"The database {state.database} has no deployledger schema.",
                hint=self._how_to_create,
            )
        if state.found < state.needed:
            raise EventLogError(
                f"The event log in {state.database} has schema version {state.found}; "
                f"this version of deployledger needs version {state.needed}.",
                hint="Make a backup, stop what uses the database, and run `deployledger db upgrade`.",
            )

    @property
    def _recorder(self) -> ApplicationRecorder:
        if self._recorder_or_none is None:
            with self._opening:
                if self._recorder_or_none is None:
                    state = self.schema_state()
                    if state.found == 0 and self._creates_schema:
                        self._create_schema()
                    else:
                        self._check(state)
                    self._recorder_or_none = self._connect()
                    with suppress(PersistenceError, EventLogError):  # reading the damaged row reports it
                        _, last, server = self._clocks()
                        self._clock.opened(last, server)
        return self._recorder_or_none

    @contextmanager
    def _use(self) -> Iterator[None]:
        """Enter while the database is used: errors become ours, and closing waits until it is not used."""
        self._check_process()
        depth = getattr(self._uses_of_thread, "depth", 0)
        if depth == 0:
            self._begin_use()
        self._uses_of_thread.depth = depth + 1
        try:
            with self._translated_errors():
                if depth == 0:
                    self._check_usable()
                yield
        finally:
            self._uses_of_thread.depth = depth
            if depth == 0:
                with self._sharing:
                    self._uses -= 1
                    self._sharing.notify_all()

    def _check_process(self) -> None:
        if self._process.is_another:
            raise EventLogError(opened_before("The event log"), hint=FORK_HINT)

    def _begin_use(self) -> None:
        with self._sharing:
            if not self._users:
                raise EventLogError("The event log is closed.", hint="Open it again.")
            self._uses += 1

    def _check_usable(self) -> None:
        """Raise what keeps an open database from being used, if that can be told without asking it."""
        return

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except MapperDeserialisationError as error:
            raise UndecodableEventError(f"{error}.", hint=_UNDECODABLE_HINT) from error
        except PersistenceError as error:
            raise self._unusable(error.__cause__ or error) from error

    # Appending --------------------------------------------------------------------------------------

    def append(self, events: Sequence[Event], key: CommandKey | None = None) -> None:
        """Store all of the events, and the idempotency key, or none of them; see the port."""
        self._open_to_append()
        if events:
            _raise_if_refused(self._commits.store(self._command_of(events, key)))

    async def append_async(self, events: Sequence[Event], key: CommandKey | None = None) -> None:
        """Do the same without blocking the event loop, once the log was opened."""
        if self._recorder_or_none is None or self._checks or self._process.is_another:
            import asyncio

            await asyncio.get_running_loop().run_in_executor(None, self._open_to_append)
        if events:
            _raise_if_refused(await self._commits.store_async(self._command_of(events, key)))

    def check_before_appending(self, check: Callable[[], None]) -> None:
        """Have something checked before the next command is accepted; what it raises refuses that."""
        self._checks = (*self._checks, check)

    def _open_to_append(self) -> None:
        self._open()
        for check in self._checks:
            check()
        self._checks = ()

    @_patient
    def _open(self) -> None:
        with self._use():
            _ = self._recorder

    def _command_of(self, events: Sequence[Event], key: CommandKey | None) -> Command:
        if any("\0" in event.actor for event in events):
            raise ConfigurationError("An actor has a NUL character, which no database stores.")
        return Command([self._row(event) for event in events], key)

    def _row(self, event: Event) -> EventRow:
        return EventRow(
            event.originator_id,
            event.originator_version,
            event.TOPIC,
            self._mapper.encode(event),
            event.event_id,
            event.actor,
            event.correlation_id,
            event.causation_id,
        )

    @_patient
    def command(self, key: str) -> CommandKey | None:
        """Return what command came with an idempotency key, if one did."""
        with self._use():
            _ = self._recorder
            return self._find_command(key)

    # Reading ----------------------------------------------------------------------------------------

    @_patient
    def stream(self, stream_id: UUID) -> list[Event]:
        """Return the events of one stream in order."""
        with self._use():
            return [
                self._mapper.to_domain_event(stored) for stored in self._recorder.select_events(stream_id)
            ]

    @_patient
    def stream_records(
        self, stream_id: UUID, *, until: datetime | int | None = None, limit: int | None = None
    ) -> list[RawRecord]:
        """Return the events of one stream in order, as they are stored; see the port."""
        with self._use():
            _ = self._recorder
            if isinstance(until, datetime):
                until = self.position_at(until)
            return self._stream_records(stream_id, until, limit)

    @_patient
    def version(self, stream_id: UUID) -> int:
        """Return the version of the stream's last event; 0 if there is no such stream."""
        with self._use():
            last = self._recorder.select_events(stream_id, desc=True, limit=1)
            return last[0].originator_version if last else 0

    @_patient
    def position(self) -> int:
        """Return the position of the last event; 0 if there is none."""
        with self._use():
            return self._recorder.max_notification_id() or 0

    @_patient
    def end(self) -> Mark:
        """Return the position of the last event, and which event it is."""
        with self._use():
            _ = self._recorder
            return self._end()

    @_patient
    def read(
        self, *, after: int, limit: int, topics: Sequence[str] = (), stream_id: UUID | None = None
    ) -> EventBatch:
        """Return the next events behind a position, in the order of the log."""
        return self._read_on(Mark(after, ""), limit=limit, topics=topics, stream_id=stream_id)[0]

    def _read_on(
        self,
        last: Mark,
        *,
        limit: int = _FOLLOWED_AT_ONCE,
        topics: Sequence[str] = (),
        stream_id: UUID | None = None,
    ) -> tuple[EventBatch, Mark]:
        """Return the next events behind the last one that was read, and the mark that they lead to.

        Args:
            last: up to where the log was read; without a marker, it is not looked which event is there.

        Raises:
            LogDivergedError: if another event is there, or none.
        """
        with self._use():
            _ = self._recorder
            is_filtered = bool(topics) or stream_id is not None
            # Events that the filter leaves out count as read up to here, and not further: positions
            # become visible in order, so nothing can turn up at or before it.
            end = self._end() if is_filtered else None
            rows = iter(
                self._rows(
                    after=last.position,
                    until=end.position if end is not None else None,
                    limit=limit + bool(last.marker),
                    topics=topics,
                    stream_id=stream_id,
                    with_last=bool(last.marker),
                )
            )
            if last.marker:
                first = next(rows, None)
                if first is None or first.mark != last:
                    raise LogDivergedError(self._described_as, position=last.position)
            events: list[RecordedEvent] = []
            read: StoredRow | None = None
            is_whole = True
            try:
                for row in rows:
                    events.append(self._recorded(row))
                    read = row
            except UndecodableEventError:  # who reads on is told
                if not events:
                    raise
                is_whole = False
        mark = last if read is None else read.mark
        if is_whole and end is not None and len(events) < limit and end.position > mark.position:
            mark = end
        return EventBatch(events, mark.position), mark

    def _recorded(self, row: StoredRow) -> RecordedEvent:
        try:
            return RecordedEvent(row.position, row.recorded_at, self._mapper.to_domain_event(row.stored))
        except MapperDeserialisationError as error:
            raise UndecodableEventError(
                f"The event at position {row.position} cannot be read: {error}.", hint=_UNDECODABLE_HINT
            ) from error

    @_patient
    def read_raw(self, *, after: int, limit: int) -> list[RawEvent]:
        """Return the next events behind a position, in the order of the log, as they are stored."""
        with self._use():
            _ = self._recorder
            return self._raw_events(after, limit)

    def scan(
        self, *, after: int, until: int, streams: tuple[UUID, UUID] | None = None
    ) -> Iterator[Sequence[RawEvent]]:
        """Yield all events behind ``after`` and up to ``until``, a page at a time; see the port."""
        self._open()
        return self._paged(lambda position: self._scan(position, until, streams), after, _position)

    @_patient
    def read_streams(self, stream_ids: Sequence[UUID], *, until: int) -> list[RawEvent]:
        """Return the events of some streams up to a position, in the order of the log; see the port."""
        with self._use():
            _ = self._recorder
            return self._events_of_streams(stream_ids, until)

    def records(self, *, after: int, until: int) -> Iterator[Sequence[EventRecord]]:
        """Yield all events behind ``after`` and up to ``until`` with their metadata; see the port."""
        self._open()
        return self._paged(lambda position: self._records(position, until), after, _position)

    def keys(self, *, until: int, after: str = "") -> Iterator[Sequence[KeyRecord]]:
        """Yield the idempotency keys of commands up to a position; see the port."""
        self._open()
        return self._paged(lambda key: self._keys(until, key), after, lambda record: record.key)

    def keyed_events(self, *, until: int) -> Iterator[Sequence[KeyedEvent]]:
        """Yield the idempotency keys of commands, each with the event it names; see the port."""
        self._open()
        return self._keyed_events(until)

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
            if page:
                after = place(page[-1])

    def decode(self, raw: RawEvent) -> Event:
        """Return a stored event, upcast to the current version of its class; see the port."""
        return decode_deferring(raw)

    def decode_whole(self, raw: RawEvent) -> Event:
        """Return a stored event with every field decoded; see the port."""
        return decode(raw)

    def in_workers(
        self,
        function: Callable[["DatabaseEventLog", _T, Callable[[int], None]], _R],
        tasks: Sequence[_T],
        progress: Callable[[int], None],
    ) -> list[_R]:
        """Do each task in a process of its own, which has opened this log; see the port."""
        from deployledger.adapters.parallel import run_in_workers

        if self.is_in_memory:
            return [function(self, task, progress) for task in tasks]
        return run_in_workers(partial(function, self), tasks, progress)

    @property
    def is_in_memory(self) -> bool:
        """Whether no other process can open it."""
        return self.url == "sqlite://"

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process, to which this is pickled, opens the log itself."""
        from deployledger.adapters.event_log import open_event_log

        return partial(open_event_log, patience=self.patience.seconds), (self.url,)

    @contextmanager
    def watch(self) -> Iterator[TailWatch]:
        """Enter with what tells when events are added, by this process or another."""
        self._check_process()
        self._tail.join()
        try:
            yield TailWatch(self._tail)
        finally:
            self._tail.leave()

    @_patient
    def recorded_at(self, position: int) -> datetime | None:
        """Return when the event at a position was recorded (UTC); None if there is none."""
        with self._use():
            _ = self._recorder
            rows = self._rows(after=position - 1, until=position, limit=1, topics=(), stream_id=None)
            return next((row.recorded_at for row in rows), None)

    @_patient
    def position_at(self, moment: datetime) -> int:
        """Return the position of the last event that had happened at a time; see the port."""
        return self.times(settled=moment).position_at(check_time(moment))

    @_patient
    def times(self, *, settled: datetime | None = None) -> LogTimes:
        """Return how the recorded times are to be read; see the port."""
        with self._use():
            _ = self._recorder
            if settled is not None:
                self._settle(check_time(settled))
            end, last, server = self._clocks()
            now = clock.now() if server is None else clock.as_datetime(server)
            corrections = [
                Correction(
                    record.raw.position,
                    record.recorded_at,
                    event.first_position,
                    event.not_before,
                    event.recorded_until,
                )
                for record in self._stream_records(CLOCK_STREAM, end, None)
                if isinstance(event := decode(record.raw), ClockCorrected)
            ]
            wrong = wrong_times(corrections)
            if last is not None and clock.as_datetime(last) - now > TOLERANCE:
                wrong = self._with_ahead(wrong, now, end, clock.as_datetime(last))
        return LogTimes(now, end, wrong, self._search, self._timestamps)

    def _with_ahead(
        self, wrong: tuple[WrongTimes, ...], now: datetime, end: int, recorded_until: datetime
    ) -> tuple[WrongTimes, ...]:
        """Return the wrong times with the last ones, which have not come yet.

        A correction that was itself recorded at such a time, by a clock that was still ahead, does not count.
        """
        corrected, last = list(wrong), end
        while True:
            after = corrected[-1].last if corrected else 0
            first = self._search(now, after + 1, last) + 1
            if first > after + 1 or not corrected:
                break
            span = corrected.pop()
            last, recorded_until = span.first - 1, max(recorded_until, span.recorded_until)
        not_before = self.recorded_at(first - 1) if first > 1 else None
        return (*corrected, WrongTimes(first, end, not_before, now, recorded_until))

    def _search(self, moment: datetime, first: int, last: int) -> int:
        with self._use():
            return self._recorded_by(moment, first, last) if first <= last else first - 1

    def _timestamps(self, first: int, last: int) -> Iterator[datetime | None]:
        with self._use():
            for page in self._scan(first - 1, last, None):
                yield from map(timestamp_of, page)

    def _settle(self, moment: datetime) -> None:
        """Wait until no event can be recorded at a time any more, so that what is read of it stays true.

        An append takes its time before others see it; of times long ago nobody is at it any more. The log's
        clock may be a little ahead of ours. A time far ahead is not waited for: if a clock was set back, what
        is appended until then is recorded at the last time that the log has.
        """
        if -_MOST_AHEAD <= clock.now() - moment < _SETTLED_AFTER:
            self._wait_for_appends(moment)

    def follow(
        self, after: int = 0, *, topics: Sequence[str] = (), stream_id: UUID | None = None
    ) -> LogFollower:
        """Return an iterator over the events behind a position; see the port."""
        unknown = sorted(set(topics) - known_topics())
        if unknown:
            raise ConfigurationError(
                f"There is no topic {unknown[0]!r}.", hint=f"Topics are {', '.join(sorted(known_topics()))}."
            )
        end = self.end()
        if not 0 <= after <= end.position:
            raise ConfigurationError(
                f"There is no position {after} in the event log.", hint=f"Positions are 0 to {end.position}."
            )
        return LogFollower(
            partial(self._read_on, topics=topics, stream_id=stream_id),
            self._tail,
            end if after == end.position else self._mark_at(after),
            self.patience,
        )

    @_patient
    def _mark_at(self, position: int) -> Mark:
        """Return the mark of whoever has read the log up to a position that there is."""
        if position == 0:
            return NOTHING_READ
        with self._use():
            return mark_of(self._raw_events(position - 1, 1)[0])

    @_patient
    def statistics(self) -> LogStatistics:
        """Return what is in the log."""
        with self._use():
            end = self.position()
            streams, topics, size = self._count()
            ends = [
                row.recorded_at
                for after in ((0, end - 1) if end else ())
                for row in self._rows(after=after, until=None, limit=1, topics=(), stream_id=None)
            ]
        return LogStatistics(
            database=self._described_as,
            schema_version=SCHEMA_VERSION,
            events=end,
            streams=streams,
            first_recorded_at=ends[0] if ends else None,
            last_recorded_at=ends[-1] if ends else None,
            topics=topics,
            size_bytes=size,
        )

    @_patient
    def findings(self, *, whole: bool = True) -> list[Finding]:
        """Check the database itself; see the port."""
        with self._use():
            with suppress(EventLogError):  # opening reads events, which may be what is damaged
                _ = self._recorder
            return list(self._findings(whole=whole))

    # Sharing and closing ----------------------------------------------------------------------------

    def share(self) -> bool:
        """Count one more user, each of whom closes the log; False if it is closed already."""
        with self._sharing:
            if self._users:
                self._users += 1
                self.patience.share()
            return self._users > 0

    def close(self) -> None:
        """Store what waits, close every connection and end every thread, if no other user is left."""
        if self._process.is_another:  # what is open belongs to the other one
            return
        with self._sharing:
            if self._users == 0:
                return
            self._users -= 1
            if self._users:
                return
        self._commits.close()
        self.patience.end()
        self._tail.end()
        with self._sharing:  # a connection that is closed while it is read takes the process with it
            self._sharing.wait_for(lambda: self._uses == 0)
        with self._opening:
            self._recorder_or_none = None
            self._disconnect()


def _position(read: RawEvent | EventRecord) -> int:
    return read.position


def _raise_if_refused(outcome: Outcome) -> None:
    if isinstance(outcome, Conflict):
        raise ConcurrencyError(
            f"Stream {outcome.stream_id} is at version {outcome.found}, not {outcome.expected}: "
            "it was modified concurrently.",
            hint="Read it again, and decide again.",
        )
    if isinstance(outcome, Repeated):
        raise RepeatedCommandError(outcome.first)
