"""What fills an empty log with all of another one: one transaction, so that it is there as a whole or not."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from deployledger.domain.event_log import KeyRecord
from deployledger.domain.event_records import EventRecord
from deployledger.domain.exceptions import ConflictError


class BadFileError(ValueError):
    """What is in a file cannot be imported; the message says what, and where it is."""


class ImportTransaction(ABC):
    """A transaction that holds the lock of appends, in a log without events.

    ``add_events`` and ``add_keys`` raise `BadFileError` for what is there already.
    """

    @abstractmethod
    def add_events(self, records: Iterable[EventRecord]) -> None:
        """Add all events, from the first one on."""

    @abstractmethod
    def add_keys(self, records: Iterable[KeyRecord]) -> None:
        """Add all idempotency keys."""

    @abstractmethod
    def misplaced(self) -> int | None:
        """Return the position of the first event whose version is not the next one of its stream."""

    @abstractmethod
    def records(self) -> Iterator[Sequence[EventRecord]]:
        """Yield the events that were added, a page at a time."""


def log_is_filled(database: str, events: int) -> ConflictError:
    """Return the error for a log that has events."""
    number = "1 event" if events == 1 else f"{events:,} events"
    return ConflictError(
        f"The event log in {database} has {number}; only a log that has none can be imported into.",
        hint="Set DEPLOYLEDGER_DATABASE_URL to a new database. (Imports are atomic: if one was made here, "
        "it is complete.)",
    )
