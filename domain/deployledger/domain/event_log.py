"""What an event log promises: the port that services append to and projections read from."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, Self, TypeVar
from uuid import UUID

from deployledger.domain.events import Event
from deployledger.domain.findings import Finding
from deployledger.domain.times import LogTimes

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class RecordedEvent:
    """An event as it is in the log.

    Attributes:
        position: its place in the one order of the whole log, counted from 1, without gaps.
        recorded_at: when the log stored it (UTC); falls only at a correction of
            the clock as positions rise.
    """

    position: int
    recorded_at: datetime
    event: Event


class RawEvent(NamedTuple):
    """An event as it is stored, not yet decoded.

    Attributes:
        position: its place in the order of the whole log.
        stream_id: the id of its stream, as text.
        stream_version: its version in that stream, counted from 1.
        topic: which event it is.
        state: its fields, as JSON.
    """

    position: int
    stream_id: str
    stream_version: int
    topic: str
    state: bytes


class Mark(NamedTuple):
    """How far a log was read, and which event is there: an append-only log with it has all that was read.

    Attributes:
        position: the position of the last event; 0 if there is none.
        marker: what tells that event from one of another log at the same position; empty if there is none.
    """

    position: int
    marker: str


NOTHING_READ = Mark(0, "")
"""The mark of whoever has read nothing yet, which fits every log."""


def marker(stream_id: object, stream_version: int, state: bytes) -> str:
    """Return what tells an event of one log from one of another log at the same position.

    Args:
        stream_id: the id of its stream; a UUID, or its text with dashes.
    """
    return f"{stream_id}:{stream_version}:{hashlib.sha256(state).hexdigest()}"


def mark_of(raw: RawEvent) -> Mark:
    """Return the mark of whoever has read a log up to an event."""
    return Mark(raw.position, marker(raw.stream_id, raw.stream_version, raw.state))


class EventRecord(NamedTuple):
    """An event with everything that the log keeps of it, as it is stored.

    Attributes:
        position: its place in the order of the whole log.
        stream_id: the id of its stream, 16 bytes.
        stream_version: its version in that stream, counted from 1.
        topic: which event it is.
        state: its fields, as JSON.
        event_id: unique to the event, 16 bytes.
        recorded_at: when the log stored it, in microseconds since 1970-01-01 UTC.
        actor: who caused it.
        correlation_id: shared by everything that one command set off, 16 bytes.
        causation_id: the event that caused it, if one did, 16 bytes.
    """

    position: int
    stream_id: bytes
    stream_version: int
    topic: str
    state: bytes
    event_id: bytes
    recorded_at: int
    actor: str | None
    correlation_id: bytes | None
    causation_id: bytes | None


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
        raw: the event at that version of the deployment, not yet decoded; None if there is none.
        recorded_at: when the log stored it, in microseconds since 1970-01-01 UTC; 0 if there is none.
    """

    key: KeyRecord
    raw: RawEvent | None
    recorded_at: int


class RawRecord(NamedTuple):
    """An event as it is stored, with what the log keeps beside it. Ids are text, with or without dashes.

    Attributes:
        raw: the event, not yet decoded.
        recorded_at: when the log stored it (UTC).
        event_id: unique to the event.
        actor: who caused it.
        correlation_id: shared by everything that one command caused.
        causation_id: the event that caused it, if one did.
    """

    raw: RawEvent
    recorded_at: datetime
    event_id: str
    actor: str | None
    correlation_id: str | None
    causation_id: str | None


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
        """How far in the log it has come."""
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


class EventLog(Protocol):
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
        """
        ...

    async def append_async(self, events: Sequence[Event], key: CommandKey | None = None) -> None:
        """Do the same without blocking the event loop."""
        ...

    def command(self, key: str) -> CommandKey | None:
        """Return what command came with an idempotency key, if one did."""
        ...

    def stream(self, stream_id: UUID) -> list[Event]:
        """Return the events of one stream in order; none if there is no such stream."""
        ...

    def stream_records(
        self, stream_id: UUID, *, until: datetime | int | None = None, limit: int | None = None
    ) -> list[RawRecord]:
        """Return the events of one stream in order, as they are stored.

        Args:
            until: only those that had happened at this time, or up to this position.
            limit: no more than this many, the first ones.
        """
        ...

    def version(self, stream_id: UUID) -> int:
        """Return the version of the stream's last event; 0 if there is no such stream."""
        ...

    def position(self) -> int:
        """Return the position of the last event; 0 if there is none."""
        ...

    def end(self) -> Mark:
        """Return the position of the last event, and which event it is."""
        ...

    def read(
        self, *, after: int, limit: int, topics: Sequence[str] = (), stream_id: UUID | None = None
    ) -> EventBatch:
        """Return the next events behind a position, in the order of the log.

        Raises:
            UndecodableEventError: if the first of them cannot be read; a later one ends what is returned.
        """
        ...

    def read_raw(self, *, after: int, limit: int) -> list[RawEvent]:
        """Return the next events behind a position, in the order of the log, as they are stored."""
        ...

    def scan(
        self, *, after: int, until: int, streams: tuple[UUID, UUID] | None = None
    ) -> Iterator[Sequence[RawEvent]]:
        """Yield all events behind ``after`` and up to ``until``, in order, a page at a time.

        It reads on a connection of its own, and holds no more than a page in memory.

        Args:
            streams: only those of streams whose ids are from the first to the second one, both included.
        """
        ...

    def read_streams(self, stream_ids: Sequence[UUID], *, until: int) -> list[RawEvent]:
        """Return the events of some streams up to a position, in the order of the log, as they are stored."""
        ...

    def records(self, *, after: int, until: int) -> Iterator[Sequence[EventRecord]]:
        """Yield all events behind ``after`` and up to ``until`` with their metadata, a page at a time.

        It reads on a connection of its own, and holds no more than a page in memory.
        """
        ...

    def keys(self, *, until: int, after: str = "") -> Iterator[Sequence[KeyRecord]]:
        """Yield the idempotency keys of commands up to a position, by the bytes of the keys, as pages.

        Args:
            after: only keys behind this one.
        """
        ...

    def keyed_events(self, *, until: int) -> Iterator[Sequence[KeyedEvent]]:
        """Yield the idempotency keys of commands up to a position, each with the event it names, as pages.

        A key that names no event is among them.
        """
        ...

    def decode(self, raw: RawEvent) -> Event:
        """Return a stored event, upcast to the current version of its class.

        Ids and the actor may be read only when they are asked for.

        Raises:
            UndecodableEventError: if it cannot be read, or newer software wrote it.
        """
        ...

    def decode_whole(self, raw: RawEvent) -> Event:
        """Return a stored event with every field decoded: whatever is wrong with it is found.

        Raises:
            UndecodableEventError: as `decode`.
        """
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
        """Enter with what tells when events are added, by this process or another."""
        ...

    def recorded_at(self, position: int) -> datetime | None:
        """Return when the event at a position was recorded (UTC), right or wrong; None if there is none."""
        ...

    def position_at(self, moment: datetime) -> int:
        """Return the position of the last event that had happened at a time; 0 if there is none.

        An event happened when it was recorded, unless that time is wrong; `times` says when then.

        Raises:
            ConfigurationError: if the time has no time zone.
        """
        ...

    def times(self, *, settled: datetime | None = None) -> LogTimes:
        """Return how the recorded times are to be read: which of them are wrong, and what counts instead.

        Args:
            settled: a time at which nothing more may be recorded afterwards: if need be, this waits.

        Raises:
            ConfigurationError: if that time has no time zone.
        """
        ...

    def follow(
        self, after: int = 0, *, topics: Sequence[str] = (), stream_id: UUID | None = None
    ) -> Follower:
        """Return an iterator over the events behind a position, which goes on as events are added.

        Iterating raises ``LogDivergedError`` when the log no longer has what was read: each batch is read
        together with the event before it.

        Raises:
            ConfigurationError: if there is no such position or topic.
        """
        ...

    def ownership(self, stream_id: UUID) -> AbstractContextManager[bool]:
        """Try to become the one that works on a stream, over all processes that share the database.

        Enters with True for the one that did, False while another does. A process that dies gives it up.
        """
        ...

    def statistics(self) -> LogStatistics:
        """Return what is in the log."""
        ...

    def findings(self, *, whole: bool = True) -> list[Finding]:
        """Check the database itself: that its tables are those that were created, and are not damaged.

        Args:
            whole: read every page of a database file, too, which takes longer the larger it is. The pages
                of a database server are checked by the server.
        """
        ...

    def schema_state(self) -> SchemaState:
        """Return which schema the database has."""
        ...

    def create_schema(self) -> SchemaState:
        """Create what the database needs, if it has nothing of ours.

        A database that has it gets back what refuses changes to events, if that is missing or was changed.
        """
        ...

    def upgrade_schema(self) -> SchemaState:
        """Bring an older schema to the one that is needed; every event is kept."""
        ...

    def close(self) -> None:
        """Close every connection and end every thread."""
        ...
