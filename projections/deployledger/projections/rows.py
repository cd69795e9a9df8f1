"""What a read model stores: rows, those they superseded, parked events; and how events change them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple


class StoredRow(NamedTuple):
    """A row of a read model as it is stored.

    Attributes:
        key: which row it is.
        first_position: the position of its first event, which gives rows their stable order.
        position: the position of the last event that was applied to it.
        parked_from: the position of its first event that could not be applied, if there is one.
        columns: the values of the fields that are columns.
        state: the other fields, as JSON; None if there is no row, because its first event is parked.
    """

    key: str
    first_position: int
    position: int
    parked_from: int | None
    columns: tuple[Any, ...]
    state: str | bytes | None


class PastRow(NamedTuple):
    """A row of a temporal read model that was superseded, or removed.

    Attributes:
        key: which row it was.
        first_position: the position of its first event.
        position: the position of the event that made it so: it held from there on.
        until: the position of the event that superseded or removed it: it did not hold there any more.
        was_removed: whether that event removed it.
        columns: the values of the fields that are columns.
        state: the other fields, as JSON.
    """

    key: str
    first_position: int
    position: int
    until: int
    was_removed: bool
    columns: tuple[Any, ...]
    state: str | bytes


class ParkedEvent(NamedTuple):
    """An event that was not applied: it, or an earlier one of the same row, could not be.

    Attributes:
        key: the row; ``stream:`` and the id of the stream if its row is unknown.
        position: the event's position in the log.
        stream_id: the id of its stream, as text.
        stream_version: its place in that stream.
        topic: which event it is.
        error: why it could not be applied; empty if only an earlier one could not.
        parked_at: when (UTC).
    """

    key: str
    position: int
    stream_id: str
    stream_version: int
    topic: str
    error: str
    parked_at: datetime


class Counts(NamedTuple):
    """How many rows a read model has, or how many more.

    Attributes:
        total: all but those whose first event is parked.
        counted: those of them of which the counted column is true.
    """

    total: int = 0
    counted: int = 0


@dataclass
class Changes:
    """What a number of events change in a read model.

    Attributes:
        new: rows that the table does not have.
        changed: rows that take the place of those with the same keys.
        removed: keys of rows that are removed.
        parked: events that are parked.
        unparked: keys whose parked events are no longer, before others are parked.
        past: rows that were superseded, of a temporal read model.
        forgotten: keys whose past rows are no longer, before others are kept.
        total: how many rows there are more, as `Counts` has them.
        counted: the same of those with the counted value.
    """

    new: list[StoredRow] = field(default_factory=list)
    changed: list[StoredRow] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    parked: list[ParkedEvent] = field(default_factory=list)
    unparked: list[str] = field(default_factory=list)
    past: list[PastRow] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    total: int = 0
    counted: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not any(vars(self).values())

    def add(self, later: "Changes") -> None:
        """Add changes that came later, of other rows."""
        for name, value in vars(later).items():
            setattr(self, name, getattr(self, name) + value)

    def count(self, row: StoredRow | None, change: int, counted_at: int | None) -> None:
        """Count a row more, or less.

        Args:
            change: 1 or -1.
            counted_at: which column is counted, if one is.
        """
        if row is not None and row.state is not None:
            self.total += change
            if counted_at is not None and row.columns[counted_at]:
                self.counted += change
