"""Which read models a database has: their records, and the tables that belong to them."""

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from deployledger.adapters.dialect import Dialect, Statements
from deployledger.adapters.read_models.records import RecordTable
from deployledger.adapters.read_models.row_table import RowTable, labels_of, table_label
from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import ConfigurationError, ReadModelError
from deployledger.projections.projection import Projection
from deployledger.projections.rows import PastRow, StoredRow
from deployledger.projections.store import MissingReadModelError, ReadModelRecord

MODELS = "read_models"
TABLES = "read_model_tables"
PARKED = "read_model_parked"


class ModelRecord(NamedTuple):
    """What is stored of a read model itself; see `ReadModelRecord`.

    Attributes:
        shape: the digest of the fields of its rows.
        generation: the number of the table that is read; None if there is none.
        total: how many rows that has; the counted ones of them follow.
    """

    name: str
    version: int
    shape: str
    generation: int | None = None
    position: int = 0
    event_marker: str = ""
    total: int = 0
    counted: int = 0
    updated_at: datetime | None = None
    rebuilt_at: datetime | None = None
    rebuild_seconds: float | None = None
    rebuild_events: int | None = None
    follower: str | None = None

    @property
    def mark(self) -> Mark:
        """Up to where the log is applied."""
        return Mark(self.position, self.event_marker)


_MODEL_FIELDS = dict(
    zip(
        ModelRecord._fields,
        (str, int, str, int, int, str, int, int, datetime, datetime, float, int, str),
        strict=True,
    )
)
_PARKED_FIELDS = {
    "generation": int,
    "key": str,
    "position": int,
    "stream_id": str,
    "stream_version": int,
    "topic": str,
    "error": str,
    "parked_at": datetime,
}


class Head(NamedTuple):
    """What every reader needs of a read model's record: which table is read, and how far it is.

    Attributes:
        generation: the number of the table that is read; None if there is none.
        position: up to where the log is applied.
        event_marker: which event the log has there; earlier releases have it in a column of another name,
            so that their processes, which may still run, cannot take these tables for their own.
        total: how many rows the table has.
        counted: how many of them have the counted value.
    """

    generation: int | None
    position: int
    event_marker: str
    total: int
    counted: int

    @property
    def mark(self) -> Mark:
        """Up to where the log is applied."""
        return Mark(self.position, self.event_marker)

    def rows(self, counted: bool | None) -> int:
        """Return how many rows have a value of the counted column; None means any."""
        if counted is None:
            return self.total
        return self.counted if counted else self.total - self.counted


_HEAD = slice(ModelRecord._fields.index(Head._fields[0]), ModelRecord._fields.index(Head._fields[-1]) + 1)
"""Where the values of a head are in a record; the database stores them as they are."""


class Catalog(ABC):
    """The records of read models in a database, and their tables, which it makes and drops.


    Attributes:
        described_as: the database, for messages; without credentials.
        unwritable: why what is stored ends with this process; empty if it does not.
        is_in_memory: whether no other process sees the rows.
    """

    described_as: str
    unwritable: str = ""
    is_in_memory: bool = False
    _for_update = ""
    """What a statement ends with that selects records for a transaction to change them."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.models = RecordTable(dialect, MODELS, _MODEL_FIELDS, "name, version")
        self.parked_events = RecordTable(dialect, PARKED, _PARKED_FIELDS, "generation, position")
        self._tables = dialect.table(TABLES)
        self._select_record = self.models.select("name = ? AND version = ?")

    # What differs -------------------------------------------------------------------------------------

    @abstractmethod
    def reading(self) -> AbstractContextManager[Statements]:
        """Enter with a connection on which each statement is by itself."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Statements]:
        """Enter with a connection that sees what there is at one moment, for statements that take long."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Statements]:
        """Enter a transaction; on SQLite nobody else writes meanwhile."""

    @abstractmethod
    def _execute_long(self, statements: Sequence[str]) -> None:
        """Execute statements that take long, each in a transaction of its own."""

    @abstractmethod
    def _drop(self, label: str, generation: int, *, is_needed: bool = False) -> None:
        """Drop the tables of a generation, unless they are read.

        Args:
            is_needed: whether it is an error if that is not possible now; else the next rebuild tries again.
        """

    @abstractmethod
    def store_rows(
        self, sql: Statements, table: RecordTable, new: list[StoredRow], changed: list[StoredRow]
    ) -> None:
        """Store rows that the table does not have, and rows that it may have."""

    @abstractmethod
    def insert_past(self, sql: Statements, table: RecordTable, rows: list[PastRow]) -> None:
        """Store rows of the past, which the table does not have."""

    def _create_statements(self) -> list[str]:
        """Return the statements that create what a database has before it has any read model."""
        types = self._dialect.types
        return [
            self.models.create(),
            f"CREATE TABLE {self._tables} (generation {self._dialect.serial}, name {types[str]} NOT NULL, "
            f"version {types[int]} NOT NULL, begun_at {types[datetime]} NOT NULL, "
            f"begun_by {types[str]} NOT NULL)",
            self.parked_events.create(),
        ]

    # Which tables there are ---------------------------------------------------------------------------

    def prepare(self, projections: Iterable[Projection[Any]]) -> list[Projection[Any]]:
        """Create what the database lacks but the tables, and return the projections that have none."""
        wanted = list(projections)
        with self.reading() as sql:
            records = [self.record(sql, projection) for projection in wanted]
        missing = []
        for projection, stored in zip(wanted, records, strict=True):
            record = self._register(projection) if stored is None else stored
            if record.shape != projection.shape:
                raise ConfigurationError(
                    f"The stored rows of projection {projection.label} do not match its row type.",
                    hint=f"Give it a new version ({projection.version + 1}): it is then rebuilt.",
                )
            if record.generation is None:
                missing.append(projection)
        return missing

    def _register(self, projection: Projection[Any]) -> ModelRecord:
        new = ModelRecord(projection.name, projection.version, projection.shape)
        with self.transaction() as sql:
            sql.execute(f"{self.models.insert} ON CONFLICT DO NOTHING", self.models.stored(new))
            return self.require(sql, projection)

    def record(self, sql: Statements, projection: Projection[Any], suffix: str = "") -> ModelRecord | None:
        """Return what is stored of a read model itself."""
        records = sql.query(f"{self._select_record}{suffix}", (projection.name, projection.version))
        return ModelRecord(*self.models.values(records[0])) if records else None

    def head(self, sql: Statements, projection: Projection[Any]) -> Head | None:
        """Return what every reader needs of it."""
        records = sql.query(self._select_record, (projection.name, projection.version))
        if not records:
            return None
        self.models.check(records[0])
        return Head(*records[0][_HEAD])

    def require(self, sql: Statements, projection: Projection[Any], suffix: str = "") -> ModelRecord:
        """Return the same.

        Raises:
            MissingReadModelError: if nothing is.
        """
        record = self.record(sql, projection, suffix)
        if record is None:
            raise gone(projection.label)
        return record

    def change(self, sql: Statements, record: ModelRecord, **changes: Any) -> ModelRecord:
        """Change what is stored of a read model, in a transaction in which it was selected for that."""
        changed = record._replace(**changes)
        sql.execute(self.models.upsert, self.models.stored(changed))
        return changed

    def mark(self, projection: Projection[Any]) -> Mark:
        """Return up to where the log is applied to what is read, and which event is there."""
        with self.reading() as sql:
            return self.require(sql, projection).mark

    def forget(self, projection: Projection[Any], mark: Mark) -> bool:
        """Leave a projection without a table that is read, if it is of this mark; see the port."""
        with self.transaction() as sql:
            record = self.record(sql, projection, self._for_update)
            if record is None or record.generation is None or record.mark != mark:
                return False
            self.change(sql, record, generation=None, position=0, event_marker="")
            return True

    def begin_empty(self, projections: Sequence[Projection[Any]]) -> None:
        """Give projections that have none an empty table to be read."""
        if not projections:
            return
        with self.transaction() as sql:
            for projection in projections:
                record = self.require(sql, projection, self._for_update)
                if record.generation is None:
                    table = self._create_table(sql, projection)
                    for statement in table.index_statements():
                        sql.execute(statement)
                    self.change(
                        sql,
                        record,
                        generation=table.generation,
                        position=0,
                        event_marker="",
                        total=0,
                        counted=0,
                        updated_at=datetime.now(UTC),
                    )

    def _create_table(self, sql: Statements, projection: Projection[Any]) -> RowTable:
        now = self._dialect.encode(datetime, datetime.now(UTC))
        by = f"{socket.gethostname()}:{os.getpid()}"
        ((generation,),) = sql.query(
            f"INSERT INTO {self._tables} (name, version, begun_at, begun_by) VALUES (?, ?, ?, ?) "  # noqa: S608
            "RETURNING generation",
            (projection.name, projection.version, now, by),
        )
        table = self.row_table(projection, generation)
        for statement in table.create_statements():
            sql.execute(statement)
        return table

    def row_table(self, projection: Projection[Any], generation: int) -> RowTable:
        """Return a table of rows by its number."""
        return RowTable(projection, generation, self._dialect)

    def build(self, projection: Projection[Any]) -> int:
        """Make a new table beside the one that is read, and return its number; drop unfinished ones."""
        with self.reading() as sql:
            left = sql.query(
                f"SELECT t.generation FROM {self._tables} t JOIN {self.models.name} m "  # noqa: S608
                f"ON m.name = t.name AND m.version = t.version WHERE {is_of(projection, 'm')} "
                f"AND {self._dialect.differs('m.generation', 't.generation')}"
            )
        for (generation,) in left:
            self.drop(projection, generation)
        with self.transaction() as sql:
            return self._create_table(sql, projection).generation

    def complete(self, projection: Projection[Any], generation: int) -> None:
        """Make the indexes of a table that was filled."""
        self._execute_long(self.row_table(projection, generation).index_statements())

    def drop(self, projection: Projection[Any], generation: int) -> None:
        """Drop a table, unless it is read."""
        self._drop(table_label(projection.name, projection.version, generation), generation)

    def _is_read(self, sql: Statements, generation: int) -> bool:
        query = f"SELECT 1 FROM {self.models.name} WHERE generation = ?"  # noqa: S608
        return bool(sql.query(query, (generation,)))

    def _drop_tables(self, sql: Statements, label: str, generation: int) -> None:
        """Drop the tables of a generation, with what is parked."""
        for name in labels_of(label):
            sql.execute(f"DROP TABLE IF EXISTS {self._dialect.table(name)}")
        for name in (self.parked_events.name, self._tables):
            sql.execute(f"DELETE FROM {name} WHERE generation = ?", (generation,))  # noqa: S608

    def remove(self, name: str, version: int) -> None:
        """Remove a read model with everything that belongs to it."""
        with self.transaction() as sql:
            sql.execute(f"DELETE FROM {self.models.name} WHERE name = ? AND version = ?", (name, version))  # noqa: S608
            generations = sql.query(
                f"SELECT generation FROM {self._tables} WHERE name = ? AND version = ?",  # noqa: S608
                (name, version),
            )
        for (generation,) in generations:
            self._drop(table_label(name, version, generation), generation, is_needed=True)

    # What is recorded of them -------------------------------------------------------------------------

    def records(self) -> list[ReadModelRecord]:
        """Return what there is, of every version."""
        with self.snapshot() as sql:
            query = self.models.select("generation IS NOT NULL ORDER BY name, version")
            records = [ModelRecord(*self.models.values(values)) for values in sql.query(query)]
            return [self._described(sql, record) for record in records]

    def _described(self, sql: Statements, record: ModelRecord) -> ReadModelRecord:
        assert record.generation is not None  # noqa: S101  # the caller selected those that have one
        table = self._dialect.table(table_label(record.name, record.version, record.generation))
        ((rows, parked),) = sql.query(
            f"SELECT (SELECT count(*) FROM {table}), "  # noqa: S608
            f"(SELECT count(*) FROM {self.parked_events.name} WHERE generation = ?)",
            (record.generation,),
        )
        return ReadModelRecord(
            name=record.name,
            version=record.version,
            generation=record.generation,
            position=record.position,
            updated_at=record.updated_at,
            rebuilt_at=record.rebuilt_at,
            rebuild_seconds=record.rebuild_seconds,
            rebuild_events=record.rebuild_events,
            follower=record.follower,
            rows=rows,
            parked=parked,
        )

    def record_rebuild(self, projection: Projection[Any], seconds: float, events: int) -> None:
        """Record how a rebuild went."""
        with self.transaction() as sql:
            if record := self.record(sql, projection, self._for_update):
                self.change(
                    sql,
                    record,
                    rebuilt_at=datetime.now(UTC),
                    rebuild_seconds=seconds,
                    rebuild_events=events,
                )

    def follow_as(self, projections: Sequence[Projection[Any]], who: str) -> None:
        """Record who follows."""
        for projection in projections:
            with self.transaction() as sql:
                if record := self.record(sql, projection, self._for_update):
                    self.change(sql, record, follower=who)


def gone(label: str) -> ReadModelError:
    """Return the error of a read model that the database does not have."""
    return MissingReadModelError(
        f"Read model {label} no longer exists.", hint="Reopen the service to rebuild it."
    )


def is_of(projection: Projection[Any], alias: str) -> str:
    """Return the condition of a read model's record. Names of projections are plain: see `Projection`."""
    return f"{alias}.name = '{projection.name}' AND {alias}.version = {projection.version}"
