"""The port to the event log, which services append to and projections read from."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import NamedTuple, Protocol, Self, TypeVar
from uuid import UUID

from deployledger.domain.event_records import EventRecord, Mark, RecordedEvent, time_of, undamaged
from deployledger.domain.events import Event
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.domain.findings import Finding
from deployledger.domain.times import LogTimes

UNDECODABLE_HINT = "Upgrade deployledger, or restore the database from a backup."
"""What to do about an event that does not decode, without which nothing can be decided."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class KeyRecord(NamedTuple):
    """An idempotency key with everything that the log keeps of it, as it is stored.

    Attributes:
        key: the caller's name for the command.
        fingerprint: a digest of the command.
        deployment_id: the deployment that it was about, 16 bytes.
        version: the version of that deployment right after it.
        recorded_at: when the log stored it, in microseconds since 1970-01-01 UTC.
    """

    key: str
    fingerprint: str
    deployment_id: bytes
    version: int
    recorded_at: int


class KeyedEvent(NamedTuple):
    """An idempotency key, with the event that it names.

    Attributes:
        key: the key, as it is stored.
        event: the event at that version of the deployment; None if there is none.
    """

    key: KeyRecord
    event: EventRecord | None


class Watch(Protocol):
    """Tells when a log was added to, from its beginning on."""

    def wait(self, timeout: float) -> None:
        """Return once something was added since the last return, or after ``timeout`` seconds."""
        ...


@dataclass(frozen=True)
class EventBatch:
    """The next events for a follower, and how far in the log they reach.

    With a filter, ``position`` moves on past events that the filter leaves out.
    """

    events: Sequence[RecordedEvent]
    position: int


@dataclass(frozen=True)
class CommandKey:
    """An idempotency key, and what the command that came with it was and did.

    Attributes:
        key: the caller's name for the command.
        fingerprint: a digest of the command; the same key with another one is a mistake.
        deployment_id: the deployment that it was about.
        version: the version of that deployment right after it.
    """

    key: str
    fingerprint: str
    deployment_id: UUID
    version: int


class RepeatedCommandError(Exception):
    """A command with the same idempotency key was stored before; nothing was stored again."""

    def __init__(self, first: CommandKey) -> None:
        super().__init__(first.key)
        self.first = first


class Follower(Protocol):
    """An endless iterator over a log's events, past ones first: a batch when behind, then as they come.

    It can be iterated from any thread, or from a coroutine. Closing it ends the iteration.
    """

    @property
    def position(self) -> int:
        """The position that it has reached."""
        ...

    def __iter__(self) -> Iterator[EventBatch]: ...
    def __next__(self) -> EventBatch: ...
    def __aiter__(self) -> AsyncIterator[EventBatch]: ...
    async def __anext__(self) -> EventBatch: ...

    def next_batch(self, timeout: float | None = None) -> EventBatch | None:
        """Return the next batch, or None if there is none within ``timeout`` seconds."""
        ...

    def close(self) -> None:
        """End the iteration."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class LogStatistics:
    """What is in a log.

    Attributes:
        database: which database it is in.
        schema_version: the version of its schema.
        events: how many events; the position of the last one.
        streams: how many streams.
        first_recorded_at: when the first event was recorded (UTC).
        last_recorded_at: when the last event was recorded (UTC).
        topics: how many events there are of each topic.
        size_bytes: how much room the events take.
    """

    database: str
    schema_version: int
    events: int
    streams: int
    first_recorded_at: datetime | None
    last_recorded_at: datetime | None
    topics: dict[str, int]
    size_bytes: int


@dataclass(frozen=True)
class SchemaState:
    """Which schema a database has (0: none), and which one this version of the software needs."""

    database: str
    found: int
    needed: int


class LogDatabase(Protocol):
    """The database of an event log: its schema, its condition, and what is in it."""

    def statistics(self) -> LogStatistics:
        """Return what is in the log."""
        ...

    def findings(self, *, whole: bool = True) -> list[Finding]:
        """Check the database itself: its tables must have their original definitions, and no damage.

        Args:
            whole: read every page of a database file, too, which takes longer the larger it is. The pages
                of a database server are checked by the server.
        """
        ...

    def schema_state(self) -> SchemaState:
        """Return which schema the database has."""
        ...

    def create_schema(self) -> SchemaState:
        """Create the schema, if the database has none.

        In an existing schema, missing or changed triggers that refuse changes to events are restored.
        """
        ...

    def upgrade_schema(self) -> SchemaState:
        """Upgrade an older schema; every event is kept."""
        ...


class EventLog(LogDatabase, Protocol):
    """An append-only log of events, in streams, with one order over all of them.

    Methods block, but for `append_async`; callers with an event loop run them in threads. All may be
    called from any thread. Every method raises ``EventLogError`` when the database cannot be used.
    """

    @property
    def described_as(self) -> str:
        """The database, for messages; without credentials."""
        ...

    def append(self, events: Sequence[Event], key: CommandKey | None = None) -> None:
        """Store all of the events, and the idempotency key, or none of them.

        Raises:
            ConcurrencyError: if a stream is not at the version before its first event.
            RepeatedCommandError: if the key was stored before.
            TypeError: if the topic of an event is not the one of its class.
        """
        ...

    async def append_async(self, events: Sequence[Event], key: CommandKey | None = None) -> None:
        """Do the same without blocking the event loop."""
        ...

    def command(self, key: str) -> CommandKey | None:
        """Return the command that was stored with an idempotency key, if any."""
        ...

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
        """Yield the events after a position in the order of the log, as they are stored, a page at a time.

        Many are read on a connection of their own, and no more than a page is in memory; a few, those with a
        limit, and those of some streams are one page. Damaged events are among them (`undamaged`).

        Args:
            until: only up to this position; None is the end of the log.
            limit: no more than this many, the first ones.
            streams: only those of these streams.
            stream_range: only those of streams whose ids are from the first to the second one, both included.
            metadata: whether to read everything that the log keeps of them, which takes a fifth longer.
        """
        ...

    def keys(self, *, until: int) -> Iterator[Sequence[KeyedEvent]]:
        """Yield the idempotency keys of commands up to a position, by the bytes of the keys, as pages.

        A key that names no event is among them.
        """
        ...

    def decode(self, record: EventRecord, *, whole: bool = False) -> Event:
        """Return a stored event, upcast to the current version of its class.

        Args:
            whole: whether to decode every field, so that whatever is wrong with it is noticed; otherwise ids
                are decoded when they are asked for.

        Raises:
            UndecodableEventError: if it cannot be read, or newer software wrote it.
        """
        ...

    def position(self) -> int:
        """Return the position of the last event; 0 if there is none."""
        ...

    def end(self) -> Mark:
        """Return the position of the last event, and which event it is."""
        ...

    def in_workers(
        self,
        function: Callable[["EventLog", _T, Callable[[int], None]], _R],
        tasks: Sequence[_T],
        progress: Callable[[int], None],
    ) -> list[_R]:
        """Do each task in a process of its own, which has opened this log; return the results in order.

        A log in memory, which no other process sees, does them itself, one after the other.

        Args:
            function: does a task: a function of a module that can be imported. It is called with the log, the
                task and a function that reports how many more events were read.
            tasks: pickled, as are the results.
            progress: called with how many more events were read.

        Raises:
            MachineLearningServiceError: if one failed; the others are ended.
        """
        ...

    def watch(self) -> AbstractContextManager[Watch]:
        """Return a context manager for waiting until events are added, by any process."""
        ...

    def position_at(self, moment: datetime) -> int:
        """Return the position of the last event that had happened at a time; 0 if there is none.

        An event happened when it was recorded, unless that time is wrong; `times` says when then.

        Raises:
            ConfigurationError: if the time has no time zone.
        """
        ...

    def times(self, *, settled: datetime | None = None) -> LogTimes:
        """Return how to interpret the recorded times: which are wrong, and which times count instead.

        Args:
            settled: a time at which nothing more may be recorded afterwards: if need be, this waits.

        Raises:
            ConfigurationError: if that time has no time zone.
        """
        ...

    def follow(
        self, after: int = 0, *, topics: Sequence[str] = (), stream_id: UUID | None = None
    ) -> Follower:
        """Return an endless iterator over the events after a position; it continues as events are added.

        Iterating raises ``LogDivergedError`` when the log no longer has what was read: each batch is read
        together with the event before it.

        Raises:
            ConfigurationError: if there is no such position or topic.
        """
        ...

    def ownership(self, stream_id: UUID) -> AbstractContextManager[bool]:
        """Try to become the only owner of a stream, among all processes that share the database.

        Enters with True for the one that did, False while another does. A process that dies gives it up.
        """
        ...

    def close(self) -> None:
        """Close every connection and end every thread."""
        ...


def events_of(log: EventLog, stream_id: UUID) -> list[Event]:
    """Return the events of one stream in order; none if there is no such stream.

    Raises:
        UndecodableEventError: if one of them cannot be read.
    """
    records = chain.from_iterable(log.records(streams=[stream_id]))
    try:
        return [log.decode(record, whole=True) for record in records]
    except UndecodableEventError as error:
        raise UndecodableEventError(f"{error.message}.", hint=UNDECODABLE_HINT) from error


def version_of(log: EventLog, stream_id: UUID) -> int:
    """Return the version of the stream's last event; 0 if there is no such stream."""
    return max(
        (record.stream_version for record in chain.from_iterable(log.records(streams=[stream_id]))), default=0
    )


def recorded_at(log: EventLog, position: int) -> datetime | None:
    """Return when the event at a position was recorded (UTC), right or wrong; None if there is none.

    Raises:
        UndecodableEventError: if what is stored is no time.
    """
    pages = undamaged(log.records(after=position - 1, until=position, metadata=True))
    record = next(chain.from_iterable(pages), None)
    return None if record is None else time_of(record)
