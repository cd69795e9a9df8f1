"""What an event log promises: the port that services append to and projections read from."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol, Self
from uuid import UUID

from deployledger.domain.events import Event


@dataclass(frozen=True)
class RecordedEvent:
    """An event as it is in the log.

    Attributes:
        position: its place in the one order of the whole log, counted from 1, without gaps.
        recorded_at: when the log stored it (UTC); never falls as positions rise.
    """

    position: int
    recorded_at: datetime
    event: Event


class RawEvent(NamedTuple):
    """An event as it is stored, not yet decoded.

    Attributes:
        position: its place in the order of the whole log.
        stream_id: the id of its stream, as text.
        stream_version: its place in that stream, counted from 1.
        topic: which event it is.
        state: its fields, as JSON.
    """

    position: int
    stream_id: str
    stream_version: int
    topic: str
    state: bytes


class RawRecord(NamedTuple):
    """An event as it is stored, with what the log keeps beside it. Ids are text, with or without dashes.

    Attributes:
        raw: the event, not yet decoded.
        recorded_at: when the log stored it (UTC).
        event_id: unique to the event.
        actor: who caused it.
        correlation_id: shared by everything that one command set off.
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
            until: only those that were recorded at this time or before, or up to this position.
            limit: no more than this many, the first ones.
        """
        ...

    def version(self, stream_id: UUID) -> int:
        """Return the version of the stream's last event; 0 if there is no such stream."""
        ...

    def position(self) -> int:
        """Return the position of the last event; 0 if there is none."""
        ...

    def read(
        self, *, after: int, limit: int, topics: Sequence[str] = (), stream_id: UUID | None = None
    ) -> EventBatch:
        """Return the next events behind a position, in the order of the log."""
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

    def decode(self, raw: RawEvent) -> Event:
        """Return a stored event, upcast to the current version of its class.

        Ids and the actor may be read only when they are asked for.

        Raises:
            UndecodableEventError: if it cannot be read, or newer software wrote it.
        """
        ...

    def watch(self) -> AbstractContextManager[Watch]:
        """Enter with what tells when events are added, by this process or another."""
        ...

    def recorded_at(self, position: int) -> datetime | None:
        """Return when the event at a position was recorded (UTC); None if there is none."""
        ...

    def position_at(self, moment: datetime) -> int:
        """Return the position of the last event that was recorded at a time or before; 0 if there is none.

        Raises:
            ConfigurationError: if the time has no time zone.
        """
        ...

    def follow(
        self, after: int = 0, *, topics: Sequence[str] = (), stream_id: UUID | None = None
    ) -> Follower:
        """Return an iterator over the events behind a position, which goes on as events are added.

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

    def schema_state(self) -> SchemaState:
        """Return which schema the database has."""
        ...

    def create_schema(self) -> SchemaState:
        """Create what the database needs, if it has nothing of ours."""
        ...

    def upgrade_schema(self) -> SchemaState:
        """Bring an older schema to the one that is needed; every event is kept."""
        ...

    def close(self) -> None:
        """Close every connection and end every thread."""
        ...
