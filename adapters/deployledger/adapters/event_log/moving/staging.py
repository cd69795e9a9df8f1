"""Where an import is prepared: beside the log, in the same database, where nobody reads."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

from deployledger.domain.event_log import EventRecord, KeyRecord
from deployledger.domain.exceptions import ConflictError, EventLogError


class Staged(NamedTuple):
    """How much of which export is there."""

    export_id: UUID
    events: int
    keys: int


class Staging(ABC):
    """The tables beside those of the log, and a note of what is in them, which is always true.

    ``add_events`` and ``add_keys`` raise `BadFileError` for what is there already.
    """

    @abstractmethod
    def staged(self) -> Staged | None:
        """Return what an import that was interrupted has left; None if nothing."""

    @abstractmethod
    def begin(self, export_id: UUID) -> None:
        """Remove what is there, and begin with another export."""

    @abstractmethod
    def add_events(self, records: Iterable[EventRecord]) -> int:
        """Add events behind the last one, all or none of them, and return how many they were."""

    @abstractmethod
    def add_keys(self, records: Iterable[KeyRecord]) -> int:
        """Add idempotency keys, all or none of them, and return how many they were."""

    @abstractmethod
    def records(self, *, after: int, until: int) -> Iterator[Sequence[EventRecord]]:
        """Yield events that were added, a page at a time."""

    @abstractmethod
    def misplaced(self) -> int | None:
        """Return the position of the first event whose version is not the next one of its stream."""

    @abstractmethod
    def complete(self) -> None:
        """Make what is still missing to the tables of a log, once all is added."""

    @abstractmethod
    def publish(self, expected: Staged) -> None:
        """Put the tables in the place of those of the log, in one transaction.

        Args:
            expected: what was checked, and must be there still.

        Raises:
            ConflictError: if the log has events.
            EventLogError: if something else is there by now.
        """

    @abstractmethod
    def discard(self) -> None:
        """Remove everything that was added."""


def is_something_else(database: str) -> EventLogError:
    """Return the error for what is not any more what was checked."""
    return EventLogError(
        f"What was to be imported into the event log in {database} was changed by somebody else meanwhile.",
        hint="Nothing was imported. Let nobody else import, and try again.",
    )


def log_is_filled(database: str, events: int) -> ConflictError:
    """Return the error for a log that has events."""
    number = "1 event" if events == 1 else f"{events:,} events"
    return ConflictError(
        f"The event log in {database} has {number}; only a log that has none can be imported into.",
        hint="Set DEPLOYLEDGER_DATABASE_URL to a new database. (An import is there as a whole or not at all: "
        "if one was made here, it is complete.)",
    )
