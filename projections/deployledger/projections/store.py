"""Where the rows of read models are kept: the port, and what goes through it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from deployledger.domain.event_log import Mark
from deployledger.domain.exceptions import ConfigurationError, ReadModelError
from deployledger.domain.findings import Finding
from deployledger.projections.projection import Projection

KEY = "#key"
"""In the place of a column's name: the key of the row."""

POSITIONS_PER_BLOCK = 1024
"""Rows are counted by blocks: those whose first event is among so many positions of the log.

Changes of these counts are counted by blocks too: those that are made by events at so many positions.
"""


class UnreliableReadModelsError(ReadModelError):
    """The stored read models are damaged or outdated, and must be rebuilt.

    Attributes:
        token: which database it was, for `ReadModelStore.renew`.
    """

    def __init__(self, message: str, *, token: object, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.token = token


class MissingReadModelError(ReadModelError):
    """The database has no such read model, or no longer."""


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
        key: the row; ``stream:`` and the id of the stream where the row could not be told.
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


@dataclass
class Changes:
    """What a number of events change in a read model.

    Attributes:
        new: rows that the table does not have.
        changed: rows that take the place of those with the same keys.
        removed: keys of rows that are removed.
        parked: events that are parked.
        unparked: keys whose parked events are no longer, before others are parked.
        counts: how much the counts change, by block and value of the counted column.
        past: rows that were superseded, of a temporal read model.
        forgotten: keys whose past rows are no longer, before others are kept.
        turns: how many rows more or less have a value of the counted column after the events of a block,
            by block and value, of a temporal read model.
    """

    new: list[StoredRow] = field(default_factory=list)
    changed: list[StoredRow] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    parked: list[ParkedEvent] = field(default_factory=list)
    unparked: list[str] = field(default_factory=list)
    counts: dict[tuple[int, bool], int] = field(default_factory=dict)
    past: list[PastRow] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    turns: dict[tuple[int, bool], int] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return not any(vars(self).values())

    def add(self, later: "Changes") -> None:
        """Add changes that came later, of other rows."""
        self.new += later.new
        self.changed += later.changed
        self.removed += later.removed
        self.parked += later.parked
        self.unparked += later.unparked
        for place, change in later.counts.items():
            self.counts[place] = self.counts.get(place, 0) + change
        self.past += later.past
        self.forgotten += later.forgotten
        for place, change in later.turns.items():
            self.turns[place] = self.turns.get(place, 0) + change


class Found(NamedTuple):
    """A row, and how far the read model and the log were when it was read.

    Attributes:
        row: the row; None if there is none.
        position: up to where the log is applied.
        end: the end of the log at the same moment; None if the rows are not in the database of the log.
        marker: which event the log has at ``position``.
    """

    row: StoredRow | None
    position: int
    end: Mark | None
    marker: str


@dataclass(frozen=True)
class Condition:
    """What a column of a selected row must be.

    Attributes:
        column: the name of a column, or `KEY`.
        operator: ``=``, ``>=``, ``<``, ``contains`` (in any case), ``has`` (as it is) or ``begins``.
    """

    column: str
    operator: str
    value: Any


@dataclass(frozen=True)
class Selection:
    """Which rows, in which order, and which of them.

    Attributes:
        conditions: all of which must hold.
        counted: the value of the counted column, if only rows with one are selected.
        sort: the column to sort by; None sorts by a row's first event. That also decides between equals.
        descending: the other way round.
        after: the sorted column's value and the first position of the row before the first one.
        offset: how many rows to pass over.
        limit: how many rows.
    """

    conditions: tuple[Condition, ...] = ()
    counted: bool | None = None
    sort: str | None = None
    descending: bool = False
    after: tuple[Any, int] | None = None
    offset: int = 0
    limit: int = 100


OPERATORS = ("=", ">=", "<", "contains", "has", "begins")


def check_selection(projection: Projection[Any], selection: Selection) -> None:
    """Check that a selection asks for what there is.

    Raises:
        ConfigurationError: if it does not.
    """
    known = f"Its columns are {', '.join(projection.columns) or 'none'}."
    for name in (*(it.column for it in selection.conditions), *filter(None, [selection.sort])):
        if name != KEY and name not in projection.column_types:
            raise ConfigurationError(f"Projection {projection.name} has no column {name!r}.", hint=known)
    for it in selection.conditions:
        if it.operator not in OPERATORS:
            raise ConfigurationError(
                f"There is no operator {it.operator!r}.", hint=f"It is one of {', '.join(OPERATORS)}."
            )
        kind = str if it.column == KEY else projection.column_types[it.column]
        if it.operator in ("contains", "has", "begins") and kind is not str:
            raise ConfigurationError(f"Column {it.column!r} is not text: nothing {it.operator} in it.")
        is_number = kind is float and isinstance(it.value, int)
        if not isinstance(it.value, kind) and not is_number:
            raise ConfigurationError(
                f"Column {it.column!r} is compared with {it.value!r}, no {kind.__name__}."
            )
    if selection.limit < 1 or selection.offset < 0:
        raise ConfigurationError(
            f"limit={selection.limit}, offset={selection.offset} is out of range: limit is 1 or more, "
            "offset 0 or more."
        )
    if selection.counted is not None and projection.counted is None:
        raise ConfigurationError(f"Projection {projection.name} has no counted column.")


class SelectedRow(NamedTuple):
    """A selected row: where it is in the order, and the row of the read model that answers for it."""

    sorted_by: Any
    first_position: int
    row: StoredRow


class Selected(NamedTuple):
    """The selected rows, how many there are in all, and how far the read models and the log were."""

    rows: list[SelectedRow]
    total: int
    position: int
    end: Mark | None
    marker: str


@dataclass(frozen=True)
class ReadModelRecord:
    """What the database knows of a read model.

    Attributes:
        generation: the number of the table that is read.
        position: up to where the log is applied.
        updated_at: when that was (UTC).
        rebuilt_at: when the table was last rebuilt, if it was (UTC).
        rebuild_seconds: how long that took.
        rebuild_events: how many events it read.
        follower: who follows, or did so last.
    """

    name: str
    version: int
    generation: int
    position: int
    updated_at: datetime | None
    rebuilt_at: datetime | None
    rebuild_seconds: float | None
    rebuild_events: int | None
    follower: str | None
    rows: int
    parked: int


class Rows(Protocol):
    """The rows of one table: of the one that is read, or of one that is being built."""

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        """Return the rows that there are among those with these keys."""
        ...

    def parked_streams(self) -> list[str]:
        """Return the keys of what is parked by stream, not by row."""
        ...

    def past(self, key: str) -> list[PastRow]:
        """Return the past rows with a key, in order; only of a temporal projection."""
        ...

    def save(self, changes: Changes) -> None:
        """Make the changes."""
        ...


class Table(Rows, Protocol):
    """A table in a transaction in which nobody else applies events to it."""

    def recount(self) -> None:
        """Make the counts anew, from the rows; only of a projection that has some."""
        ...


class Applying(Protocol):
    """A transaction in which nobody else applies events to the same read models."""

    def is_there(self, projection: Projection[Any]) -> bool:
        """Return whether there is a table that is read."""
        ...

    def position(self, projection: Projection[Any]) -> int:
        """Return up to where the log is applied; 0 if there is no table."""
        ...

    def mark(self, projection: Projection[Any]) -> Mark:
        """Return the same, and which event is there."""
        ...

    def table(self, projection: Projection[Any], generation: int | None = None) -> Table:
        """Return the table that is read, or the one with a number."""
        ...

    def advance(self, projection: Projection[Any], position: int, marker: str) -> None:
        """Record that the log is applied up to a position, and which event is there."""
        ...

    def switch(self, projection: Projection[Any], generation: int, position: int, marker: str) -> int | None:
        """Make another table the one that is read; return the number of the one before, if there was one."""
        ...


class ReadModelStore(Protocol):
    """A database of read models. Methods block, and may be called from any thread.

    Every method raises ``ReadModelError`` when the database cannot be used: ``MissingReadModelError`` if it
    lacks the read model, and ``UnreliableReadModelsError`` if it is damaged. Nothing damaged is returned.
    """

    @property
    def described_as(self) -> str:
        """The database, for messages; without credentials."""
        ...

    @property
    def unwritable(self) -> str:
        """Why what is stored ends with this process, as in a read-only folder; empty if it does not."""
        ...

    def prepare(self, projections: Iterable[Projection[Any]]) -> list[Projection[Any]]:
        """Create what the database lacks but the tables, and return the projections that have none."""
        ...

    def marker(self, projection: Projection[Any]) -> Mark:
        """Return up to where the log is applied to what is read, and which event is there."""
        ...

    def forget(self, projection: Projection[Any], mark: Mark) -> bool:
        """Leave a projection without a table that is read; the next rebuild drops it.

        Returns:
            Whether that was done: not if the table is no longer of this mark, or there is none.
        """
        ...

    def begin_empty(self, projections: Sequence[Projection[Any]]) -> None:
        """Give projections that have none an empty table to be read."""
        ...

    def get(self, projection: Projection[Any], key: str) -> Found:
        """Return one row."""
        ...

    def select(self, projection: Projection[Any], selection: Selection, answer: Projection[Any]) -> Selected:
        """Return rows of one read model that those of another one with the same keys select."""
        ...

    def select_as_of(self, projection: Projection[Any], selection: Selection, as_of: int) -> Selected:
        """Return rows of a temporal read model as they were at a position, which it has reached."""
        ...

    def applying(self, projections: Sequence[Projection[Any]]) -> AbstractContextManager[Applying]:
        """Enter a transaction in which nobody else applies events to these read models."""
        ...

    def build(self, projection: Projection[Any]) -> int:
        """Make a new table beside the one that is read, and return its number; drop unfinished ones."""
        ...

    def building(self, projection: Projection[Any], generation: int) -> AbstractContextManager[Rows]:
        """Enter with a table that is being built; each `Rows.save` is a transaction."""
        ...

    def complete(self, projection: Projection[Any], generation: int) -> None:
        """Make the indexes of a table that was filled."""
        ...

    def record_rebuild(self, projection: Projection[Any], seconds: float, events: int) -> None:
        """Record how a rebuild went."""
        ...

    def drop(self, projection: Projection[Any], generation: int) -> None:
        """Drop a table that is not read."""
        ...

    def compare(self, projection: Projection[Any], generation: int) -> "AbstractContextManager[Comparison]":
        """Enter with what compares the table that is read with another one, as both are on entering."""
        ...

    def records(self) -> list[ReadModelRecord]:
        """Return what there is, of every version."""
        ...

    def parked(
        self, projection: Projection[Any], key: str | None = None, limit: int = 1000
    ) -> list[ParkedEvent]:
        """Return parked events in the order of the log, of one row or of all."""
        ...

    def follow_as(self, projections: Sequence[Projection[Any]], who: str) -> None:
        """Record who follows."""
        ...

    def remove(self, name: str, version: int) -> None:
        """Remove a read model with everything that belongs to it."""
        ...

    def renew(self, error: UnreliableReadModelsError) -> None:
        """Put an empty database in the place of the one that an error is of, if it is still there."""
        ...

    def findings(self) -> list[Finding]:
        """Check the database of the read models for damage; of a database server, its server does that."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class Comparison(Protocol):
    """Two tables at one moment: the one that is read, and one with what should be in it."""

    @property
    def position(self) -> int:
        """Up to where the log is applied in the one that is read."""
        ...

    def differences(
        self, keys: tuple[str, str] | None = None
    ) -> Iterator[tuple[StoredRow | None, StoredRow | None]]:
        """Yield the expected and the found row wherever they are not the same.

        Args:
            keys: only those with keys from the first to the second one, both included.
        """
        ...

    def rows(self, keys: tuple[str, str] | None = None) -> int:
        """Return how many rows the table that is read has."""
        ...

    def miscounted(self) -> list[tuple[int, bool, int, int]]:
        """Return block, value, the expected number of rows, and the one kept at hand, where they differ."""
        ...

    def past_differences(
        self, keys: tuple[str, str] | None = None
    ) -> Iterator[tuple[PastRow | None, PastRow | None]]:
        """Yield the expected and the found past row wherever they are not the same."""
        ...

    def misturned(self) -> list[tuple[int, bool, int, int]]:
        """Return block, value, the expected change of the count, and the one at hand, where they differ."""
        ...
