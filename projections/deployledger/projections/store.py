"""The port to the database in which the rows of read models are kept."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import ReadModelError
from deployledger.domain.findings import Finding
from deployledger.projections.projection import Projection
from deployledger.projections.rows import Changes, Counts, ParkedEvent, PastRow, StoredRow
from deployledger.projections.selection import Found, Selected, Selection


class UnreliableReadModelsError(ReadModelError):
    """The stored read models are damaged or outdated, and must be rebuilt.

    Attributes:
        token: which database it was, for `ReadModelStore.renew`.
        is_outdated: whether they are intact, and were made by an earlier release.
    """

    def __init__(self, message: str, *, token: object, hint: str = "", is_outdated: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.token = token
        self.is_outdated = is_outdated


class MissingReadModelError(ReadModelError):
    """The database has no such read model, or no longer."""


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


class Table(Protocol):
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


class Applying(Protocol):
    """A transaction in which nobody else applies events to the same read models."""

    def is_there(self, projection: Projection[Any]) -> bool:
        """Return whether there is a table that is read."""
        ...

    def mark(self, projection: Projection[Any]) -> Mark:
        """Return up to where the log is applied; position 0 if there is no table."""
        ...

    def table(self, projection: Projection[Any], generation: int | None = None) -> Table:
        """Return the table that is read, or the one with a number."""
        ...

    def advance(self, projection: Projection[Any], mark: Mark) -> None:
        """Record up to where the log is applied."""
        ...

    def recount(self, projection: Projection[Any]) -> None:
        """Count the rows that are read again."""
        ...

    def switch(self, projection: Projection[Any], generation: int, mark: Mark) -> int | None:
        """Make another table the one that is read; return the number of the one before, if there was one."""
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

    def past_differences(
        self, keys: tuple[str, str] | None = None
    ) -> Iterator[tuple[PastRow | None, PastRow | None]]:
        """Yield the expected and the found past row wherever they are not the same."""
        ...

    def rows(self, keys: tuple[str, str] | None = None) -> int:
        """Return how many rows the table that is read has."""
        ...

    def counts(self) -> tuple[Counts, Counts]:
        """Return how many rows there should be, and what the database has recorded."""
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

    @property
    def is_in_memory(self) -> bool:
        """Whether no other process sees the rows."""
        ...

    def prepare(self, projections: Iterable[Projection[Any]]) -> list[Projection[Any]]:
        """Create what the database lacks but the tables, and return the projections that have none."""
        ...

    def mark(self, projection: Projection[Any]) -> Mark:
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

    def building(self, projection: Projection[Any], generation: int) -> Table:
        """Return a table that is being built, whose changes are saved in transactions of their own."""
        ...

    def complete(self, projection: Projection[Any], generation: int) -> None:
        """Make the indexes of a table that was filled."""
        ...

    def record_rebuild(self, projection: Projection[Any], seconds: float, events: int) -> None:
        """Record how a rebuild went."""
        ...

    def drop(self, projection: Projection[Any], generation: int) -> None:
        """Drop a table, unless it is read."""
        ...

    def compare(self, projection: Projection[Any], generation: int) -> AbstractContextManager[Comparison]:
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
