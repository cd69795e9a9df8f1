"""The event log in a database: everything but the connections, the schema and the locks of each database."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from deployledger.adapters.event_log.commands import Command, Conflict, EventRow, Outcome, Repeated
from deployledger.adapters.event_log.following import LogFollower, Tail, TailWatch
from deployledger.adapters.event_log.group_commit import BatchWriter, GroupCommit
from deployledger.adapters.event_log.log_times import TimedLog
from deployledger.adapters.event_log.mapper import EventMapper, decode, known_topics
from deployledger.adapters.event_log.reading import Selection
from deployledger.domain.event_log import UNDECODABLE_HINT, CommandKey, EventBatch, RepeatedCommandError
from deployledger.domain.event_records import NOTHING_READ, Mark, RecordedEvent, mark_of, time_of
from deployledger.domain.events import Event
from deployledger.domain.exceptions import (
    ConcurrencyError,
    ConfigurationError,
    LogDivergedError,
    UndecodableEventError,
)
from deployledger.projections.patience import Patience

if TYPE_CHECKING:
    from deployledger.adapters.event_log.import_transaction import ImportTransaction
    from deployledger.audit.ledger_store import LedgerStore
    from deployledger.projections.store import ReadModelStore

_FOLLOWED_AT_ONCE = 1000

_T = TypeVar("_T")
_R = TypeVar("_R")


class DatabaseEventLog(TimedLog):
    """An event log in a database. The database is opened, and its schema checked, by the first use.

    Args:
        url: the database's URL, as it was given.
        described_as: the database, for messages; without credentials.
        patience: how long commands and queries wait for an unavailable database.
    """

    def __init__(self, url: str, described_as: str, *, patience: Patience) -> None:
        super().__init__(url, described_as, patience=patience)
        self._mapper = EventMapper()
        self._checks: tuple[Callable[[], None], ...] = ()
        self._tail = self._make_tail()
        self._commits = GroupCommit(
            self._make_writer(), self._tail.announce, patience=patience, described_as=described_as
        )

    # What each database does in its own way ---------------------------------------------------------

    @abstractmethod
    def _make_writer(self) -> BatchWriter:
        """Return what stores batches."""

    @abstractmethod
    def _make_tail(self) -> Tail:
        """Return what says when something was added."""

    @abstractmethod
    def import_transaction(self) -> "AbstractContextManager[ImportTransaction]":
        """Enter with the transaction that fills this log, which has no events, with all of another one.

        Raises:
            ConflictError: if it has events.
        """

    @abstractmethod
    def open_read_model_store(self) -> "ReadModelStore":
        """Return the store of read models that belongs to this database."""

    @abstractmethod
    def open_ledger_store(self) -> "LedgerStore":
        """Return the store of the ledger that belongs to this database."""

    @abstractmethod
    def ownership(self, stream_id: UUID) -> AbstractContextManager[bool]:
        """Try to become the one that works on a stream; see the port."""

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

    def _command_of(self, events: Sequence[Event], key: CommandKey | None) -> Command:
        if any("\0" in event.actor for event in events):
            raise ConfigurationError("An actor has a NUL character, which no database stores.")
        return Command([self._row(event) for event in events], key)

    def _row(self, event: Event) -> EventRow:
        state = self._mapper.encode(event)  # before the topic: it checks that there is one
        return EventRow(
            event.originator_id,
            event.originator_version,
            event.TOPIC,
            state,
            event.event_id,
            event.actor,
            event.correlation_id,
            event.causation_id,
        )

    # Following --------------------------------------------------------------------------------------

    def follow(
        self, after: int = 0, *, topics: Sequence[str] = (), stream_id: UUID | None = None
    ) -> LogFollower:
        """Return an iterator over the events after a position; see the port."""
        unknown = sorted(set(topics) - known_topics())
        if unknown:
            raise ConfigurationError(
                f"Unknown topic {unknown[0]!r}.", hint=f"Topics are {', '.join(sorted(known_topics()))}."
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

    def _mark_at(self, position: int) -> Mark:
        """Return the mark of whoever has read the log up to a position that there is."""
        if position == 0:
            return NOTHING_READ
        return mark_of(self._page(Selection(after=position - 1, limit=1))[0])

    def _read_on(
        self, last: Mark, *, topics: Sequence[str], stream_id: UUID | None
    ) -> tuple[EventBatch, Mark]:
        """Return the next events after the last one that was read, and the mark that they lead to.

        Raises:
            LogDivergedError: if another event is there, or none.
            UndecodableEventError: if the first of them cannot be read; a later one ends what is returned.
        """
        with self._use():
            _ = self._recorder
            # Events that the filter leaves out count as read up to here, and not further: positions
            # become visible in order, so nothing can turn up at or before it.
            end = self._end() if topics or stream_id is not None else None
            has_last = bool(last.marker)
            records = self._page(
                Selection(
                    after=last.position,
                    until=None if end is None else end.position,
                    limit=_FOLLOWED_AT_ONCE + has_last,
                    streams=None if stream_id is None else [stream_id],
                    topics=topics,
                    with_last=has_last,
                    metadata=True,
                )
            )
        if has_last and (not records or mark_of(records.pop(0)) != last):
            raise LogDivergedError(self._described_as, position=last.position)
        events: list[RecordedEvent] = []
        mark, is_whole = last, len(records) < _FOLLOWED_AT_ONCE
        for record in records:
            try:
                events.append(RecordedEvent(record.position, time_of(record), decode(record)))
            except UndecodableEventError as error:
                if events:  # the next read raises the error
                    is_whole = False
                    break
                raise UndecodableEventError(
                    f"The event at position {record.position} cannot be read: {error.message}.",
                    hint=UNDECODABLE_HINT,
                ) from error
        if events:
            mark = mark_of(records[len(events) - 1])
        if is_whole and end is not None and end.position > mark.position:
            mark = end
        return EventBatch(events, mark.position), mark

    @contextmanager
    def watch(self) -> Iterator[TailWatch]:
        """Return a context manager for waiting until events are added, by any process."""
        self._check_process()
        self._tail.join()
        try:
            yield TailWatch(self._tail)
        finally:
            self._tail.leave()

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


def _raise_if_refused(outcome: Outcome) -> None:
    if isinstance(outcome, Conflict):
        raise ConcurrencyError(
            f"Stream {outcome.stream_id} is at version {outcome.found}, not {outcome.expected}: "
            "it was modified concurrently.",
            hint="Read it again, and decide again.",
        )
    if isinstance(outcome, Repeated):
        raise RepeatedCommandError(outcome.first)
