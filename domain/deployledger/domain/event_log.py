"""What an event log promises: the port that services append to and projections read from."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from deployledger.domain.events import Event


@dataclass(frozen=True)
class RecordedEvent:
    """An event and its position: its place in the one order of the whole log, counted from 1."""

    position: int
    event: Event


class EventLog(Protocol):
    """An append-only log of events, in streams, with one order over all of them.

    Methods block; callers with an event loop run them in threads. All may be called from any thread.
    Every method raises ``EventLogError`` when the database cannot be used.
    """

    def append(self, events: Sequence[Event]) -> None:
        """Store all of the events or none of them.

        Raises:
            ConcurrencyError: if a stream already has an event at one of the versions.
        """
        ...

    def stream(self, stream_id: UUID) -> list[Event]:
        """Return the events of one stream in order; none if there is no such stream."""
        ...

    def read(self, *, after: int, limit: int) -> list[RecordedEvent]:
        """Return the next events behind a position, in the order of the log."""
        ...

    def version(self, stream_id: UUID) -> int:
        """Return the version of the stream's last event; 0 if there is no such stream."""
        ...

    def ownership(self, stream_id: UUID) -> AbstractContextManager[bool]:
        """Try to become the one that works on a stream, over all processes that share the database.

        Enters with True for the one that did, False while another does. A process that dies gives it up.
        """
        ...

    def create_schema(self) -> str:
        """Create what the database needs, if it is not there, and return what database that is."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...
