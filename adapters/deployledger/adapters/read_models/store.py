"""The store of read models: what SQLite and PostgreSQL have in common, which is nearly everything."""

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from deployledger.adapters.dialect import Dialect, Statements, direction
from deployledger.adapters.read_models import selecting
from deployledger.adapters.read_models.comparison import TableComparison
from deployledger.adapters.read_models.records import DamageError, RecordTable
from deployledger.adapters.read_models.row_table import RowTable, labels_of, table_label
from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import ConfigurationError, ReadModelError
from deployledger.projections.projection import Projection
from deployledger.projections.rows import Changes, Counts, ParkedEvent, PastRow, StoredRow
from deployledger.projections.selection import Found, Selected, SelectedRow, Selection
from deployledger.projections.store import MissingReadModelError, ReadModelRecord

MODELS = "read_models"
TABLES = "read_model_tables"
PARKED = "read_model_parked"

_T = TypeVar("_T")
_ATTEMPTS = 5
_SAVED_AT_ONCE = 4_000


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
    marker: str = ""
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
        return Mark(self.position, self.marker)

    def rows(self, counted: bool | None) -> int:
        """Return how many rows have a value of the counted column; None means any."""
        if counted is None:
            return self.total
        return self.counted if counted else self.total - self.counted


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


class DatabaseReadModels(ABC):
    """The store of read models in a database; see the port.

    Attributes:
        described_as: the database, for messages; without credentials.
        unwritable: why what is stored ends with this process; empty if it does not.
        is_in_memory: whether no other process sees the rows.
    """

    described_as: str
    unwritable: str = ""
    is_in_memory: bool = False
    _log_end = "NULL"
    """The expression of the end of the log, if that is in the same database: position, space and marker."""
    _for_update = ""
    """What a statement ends with that selects records for a transaction to change them."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.models = RecordTable(dialect, MODELS, _MODEL_FIELDS, "name, version")
        self.parked_events = RecordTable(dialect, PARKED, _PARKED_FIELDS, "generation, position")
        self._tables = dialect.table(TABLES)
        self._live: dict[tuple[str, int], RowTable] = {}

    # What differs -----------------------------------------------------------------------------------

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Statements]:
        """Enter with a connection on which each statement is by itself."""

    @abstractmethod
    def _snapshot(self) -> AbstractContextManager[Statements]:
        """Enter with a connection that sees what there is at one moment, for statements that take long."""

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[Statements]:
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

    @abstractmethod
    def _is_missing_table(self, error: Exception) -> bool:
        """Return whether an error says that a table does not exist: another process has dropped it."""

    @abstractmethod
    def _check_definition(self, sql: Statements, table: RowTable) -> None:
        """Check that tables and indexes are as they were created, where the server does not."""

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

    # Which tables there are -------------------------------------------------------------------------

    def prepare(self, projections: Iterable[Projection[Any]]) -> list[Projection[Any]]:
        """Create what the database lacks but the tables, and return the projections that have none."""
        wanted = list(projections)
        with self._reading() as sql:
            records = [self.record(sql, projection) for projection in wanted]
        missing = []
        for projection, found in zip(wanted, records, strict=True):
            record = self._register(projection) if found is None else found
            if record.shape != projection.shape:
                raise ConfigurationError(
                    f"The stored rows of projection {projection.label} have other fields than its row type.",
                    hint=f"Give it a new version ({projection.version + 1}): it is then rebuilt.",
                )
            if record.generation is None:
                missing.append(projection)
        return missing

    def _register(self, projection: Projection[Any]) -> ModelRecord:
        new = ModelRecord(projection.name, projection.version, projection.shape)
        with self._transaction() as sql:
            sql.execute(f"{self.models.insert} ON CONFLICT DO NOTHING", self.models.stored(new))
            return self.require(sql, projection)

    def record(self, sql: Statements, projection: Projection[Any], suffix: str = "") -> ModelRecord | None:
        """Return what is stored of a read model itself."""
        query = self.models.select(f"name = ? AND version = ?{suffix}")
        records = sql.query(query, (projection.name, projection.version))
        return ModelRecord(*self.models.values(records[0])) if records else None

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
        with self._reading() as sql:
            return self.require(sql, projection).mark

    def forget(self, projection: Projection[Any], mark: Mark) -> bool:
        """Leave a projection without a table that is read, if it is of this mark; see the port."""
        with self._transaction() as sql:
            record = self.record(sql, projection, self._for_update)
            if record is None or record.generation is None or record.mark != mark:
                return False
            self.change(sql, record, generation=None, position=0, marker="")
            return True

    def begin_empty(self, projections: Sequence[Projection[Any]]) -> None:
        """Give projections that have none an empty table to be read."""
        if not projections:
            return
        with self._transaction() as sql:
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
                        marker="",
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

    # Reading ----------------------------------------------------------------------------------------

    def _read(
        self, read: Callable[[Statements, list[RowTable]], _T | None], *projections: Projection[Any]
    ) -> _T:
        """Return what is read from the tables that are read; again, if others have become that meanwhile.

        Args:
            read: returns None if the tables that it is given are no longer read.
        """
        places = [(projection.name, projection.version) for projection in projections]
        for _ in range(_ATTEMPTS):
            with self._reading() as sql:
                for place, projection in zip(places, projections, strict=True):
                    if place not in self._live:
                        self._look_up(sql, projection)
                try:
                    found = read(sql, [self._live[place] for place in places])
                except Exception as error:  # of whichever driver
                    if not self._is_missing_table(error):
                        raise
                    found = None
                if found is not None:
                    return found
                for projection in projections:
                    self._look_up(sql, projection)
        raise ReadModelError(
            f"The tables of the read models in {self.described_as} are gone, or change all the time.",
            hint="Try again; if they were removed, `deployledger projections rebuild --all` rebuilds them.",
        )

    def _look_up(self, sql: Statements, projection: Projection[Any]) -> RowTable:
        """Find out which table is read."""
        generation = self.require(sql, projection).generation
        if generation is None:
            raise gone(projection.label)
        place = (projection.name, projection.version)
        table = self._live.get(place)
        if table is None or table.generation != generation:
            table = self.row_table(projection, generation)
            self._check_definition(sql, table)
            self._live[place] = table
        return table

    def get(self, projection: Projection[Any], key: str) -> Found:
        """Return one row."""

        def read(sql: Statements, tables: list[RowTable]) -> Found | None:
            (table,) = tables
            found = sql.query(
                f"SELECT {self._log_end}, {self.models.of('m')}, {table.rows.of('r')} "  # noqa: S608
                f"FROM {self.models.name} m LEFT JOIN {table.rows.name} r ON r.key = ? "
                f"WHERE {_is_of(projection, 'm')}",
                (key,),
            )
            record = self._current(found, table, 1)
            if record is None:
                return None
            row = table.stored_row(found[0][1 + self.models.width :])
            return Found(row, record.position, _mark(found[0][0]), record.marker)

        return self._read(read, projection)

    def _current(self, found: list[tuple[Any, ...]], table: RowTable, start: int) -> ModelRecord | None:
        """Return the record of a read model in an answer; None if another table is read now."""
        if not found:
            return None
        record = ModelRecord(*self.models.values(found[0][start : start + self.models.width]))
        return record if record.generation == table.generation else None

    def select(self, projection: Projection[Any], selection: Selection, answer: Projection[Any]) -> Selected:
        """Return rows of one read model that those of another one with the same keys select."""

        def read(sql: Statements, tables: list[RowTable]) -> Selected | None:
            table, other = tables
            is_another = other is not table
            page, of_page = selecting.page(table, selection)
            total, of_total = "0", list[Any]()
            if selection.conditions:
                total, of_total = selecting.total(table, selection)
            selected = f"a.*, {table.rows.of('s')}" if is_another and table.rows.is_checked else "a.*"
            of_selected = f"JOIN {table.rows.name} s ON s.key = p.key" if "s." in selected else ""
            way = direction(selection.descending)
            found = sql.query(
                f"SELECT {self._log_end}, {total}, {self.models.of('m')}, {self.models.of('o')}, q.* "  # noqa: S608
                f"FROM {self.models.name} m JOIN {self.models.name} o ON {_is_of(answer, 'o')} "
                f"LEFT JOIN (SELECT p.sorted_by, p.first_position AS sorted_position, {selected} "
                f"FROM ({page}) p JOIN {other.rows.name} a ON a.key = p.key {of_selected}) q ON TRUE "
                f"WHERE {_is_of(projection, 'm')} "
                f"ORDER BY q.sorted_by {way}, q.sorted_position {way}",
                [*of_total, *of_page],
            )
            record = self._current(found, table, 2)
            of_answer = self._current(found, other, 2 + self.models.width)
            if record is None or of_answer is None:
                return None
            start = 2 + 2 * self.models.width
            rows = [
                SelectedRow(_sorted_by(table, selection, values[start]), values[start + 1], row)
                for values in found
                if (row := other.stored_row(values[start + 2 : start + 2 + other.rows.width])) is not None
            ]
            for values in found if of_selected else ():
                table.stored_row(values[start + 2 + other.rows.width :])
            number = found[0][1] if selection.conditions else record.rows(selection.counted)
            _check_is_whole(table, selection, number, rows)
            position, marker = min(record.mark, of_answer.mark)
            return Selected(rows, number, position, _mark(found[0][0]), marker)

        return self._read(read, projection, answer)

    def select_as_of(self, projection: Projection[Any], selection: Selection, as_of: int) -> Selected:
        """Return rows of a temporal read model as they were at a position."""

        def read(sql: Statements, tables: list[RowTable]) -> Selected | None:
            (table,) = tables
            page, of_page = selecting.page_as_of(table, selection, as_of)
            total, of_total = selecting.total_as_of(table, selection, as_of)
            found = sql.query(
                f"SELECT {total}, {self.models.of('m')}, q.* FROM {self.models.name} m "  # noqa: S608
                f"LEFT JOIN ({page}) q ON TRUE WHERE {_is_of(projection, 'm')} "
                f"ORDER BY {selecting.order(selection)}",
                [*of_total, *of_page],
            )
            record = self._current(found, table, 1)
            if record is None:
                return None
            start = 1 + self.models.width
            rows = [
                SelectedRow(
                    _sorted_by(table, selection, values[start]),
                    values[start + 2],
                    table.row_as_of(values[start + 1 :], as_of),
                )
                for values in found
                if values[start + 1] is not None
            ]
            _check_is_whole(table, selection, found[0][0], rows)
            return Selected(rows, found[0][0], record.position, None, record.marker)

        return self._read(read, projection)

    # Applying ---------------------------------------------------------------------------------------

    @contextmanager
    def applying(self, projections: Sequence[Projection[Any]]) -> Iterator["Transaction"]:
        """Enter a transaction in which nobody else applies events to these read models."""
        with self._transaction() as sql:
            in_order = sorted(projections, key=lambda projection: projection.name)  # none waits for another
            records = {
                projection.name: self.require(sql, projection, self._for_update) for projection in in_order
            }
            yield Transaction(self, sql, records)

    def build(self, projection: Projection[Any]) -> int:
        """Make a new table beside the one that is read, and return its number; drop unfinished ones."""
        with self._reading() as sql:
            left = sql.query(
                f"SELECT t.generation FROM {self._tables} t JOIN {self.models.name} m "  # noqa: S608
                f"ON m.name = t.name AND m.version = t.version WHERE {_is_of(projection, 'm')} "
                f"AND {self._dialect.differs('m.generation', 't.generation')}"
            )
        for (generation,) in left:
            self.drop(projection, generation)
        with self._transaction() as sql:
            return self._create_table(sql, projection).generation

    def building(self, projection: Projection[Any], generation: int) -> "BuildingTable":
        """Return a table that is being built, whose changes are saved in transactions of their own."""
        return BuildingTable(self, self.row_table(projection, generation))

    def complete(self, projection: Projection[Any], generation: int) -> None:
        """Make the indexes of a table that was filled."""
        self._execute_long(self.row_table(projection, generation).index_statements())

    def record_rebuild(self, projection: Projection[Any], seconds: float, events: int) -> None:
        """Record how a rebuild went."""
        with self._transaction() as sql:
            if record := self.record(sql, projection, self._for_update):
                self.change(
                    sql,
                    record,
                    rebuilt_at=datetime.now(UTC),
                    rebuild_seconds=seconds,
                    rebuild_events=events,
                )

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
        with self._transaction() as sql:
            sql.execute(f"DELETE FROM {self.models.name} WHERE name = ? AND version = ?", (name, version))  # noqa: S608
            found = sql.query(
                f"SELECT generation FROM {self._tables} WHERE name = ? AND version = ?",  # noqa: S608
                (name, version),
            )
        for (generation,) in found:
            self._drop(table_label(name, version, generation), generation, is_needed=True)

    # Comparing --------------------------------------------------------------------------------------

    @contextmanager
    def compare(self, projection: Projection[Any], generation: int) -> Iterator[TableComparison]:
        """Enter with what compares the table that is read with another one, both as they are on entering."""
        with self._snapshot() as sql:
            record = self.require(sql, projection)
            if record.generation is None:
                raise gone(projection.label)
            found = self.row_table(projection, record.generation)
            self._check_definition(sql, found)
            yield TableComparison(
                sql,
                found,
                self.row_table(projection, generation),
                record.position,
                Counts(record.total, record.counted),
            )

    # What there is ----------------------------------------------------------------------------------

    def records(self) -> list[ReadModelRecord]:
        """Return what there is, of every version."""
        with self._snapshot() as sql:
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

    def parked(
        self, projection: Projection[Any], key: str | None = None, limit: int = 1000
    ) -> list[ParkedEvent]:
        """Return parked events in the order of the log, of one row or of all."""
        of_key, values = ("", ()) if key is None else ("AND p.key = ? ", (key,))
        query = (
            f"SELECT {self.parked_events.of('p')} FROM {self.parked_events.name} p "  # noqa: S608
            f"JOIN {self.models.name} m ON m.generation = p.generation "
            f"WHERE {_is_of(projection, 'm')} {of_key}ORDER BY p.position LIMIT ?"
        )
        with self._reading() as sql:
            records = sql.query(query, (*values, limit))
            return [ParkedEvent(*self.parked_events.values(record)[1:]) for record in records]

    def follow_as(self, projections: Sequence[Projection[Any]], who: str) -> None:
        """Record who follows."""
        for projection in projections:
            with self._transaction() as sql:
                if record := self.record(sql, projection, self._for_update):
                    self.change(sql, record, follower=who)


class Transaction:
    """A transaction in which nobody else applies events; see the port."""

    def __init__(self, store: DatabaseReadModels, sql: Statements, records: dict[str, ModelRecord]) -> None:
        self._store = store
        self._sql = sql
        self._records = records

    def is_there(self, projection: Projection[Any]) -> bool:
        """Return whether there is a table that is read."""
        return self._records[projection.name].generation is not None

    def mark(self, projection: Projection[Any]) -> Mark:
        """Return up to where the log is applied; position 0 if there is no table."""
        return self._records[projection.name].mark

    def table(self, projection: Projection[Any], generation: int | None = None) -> "TransactionTable":
        """Return the table that is read, or the one with a number."""
        if generation is not None:
            return TransactionTable(self._store, self._sql, self._store.row_table(projection, generation))

        def count(changes: Changes) -> None:
            record = self._records[projection.name]
            if changes.total or changes.counted:
                total, counted = record.total + changes.total, record.counted + changes.counted
                self._change(projection, total=total, counted=counted)

        table = self._store.row_table(projection, self._generation(projection))
        return TransactionTable(self._store, self._sql, table, count)

    def _generation(self, projection: Projection[Any]) -> int:
        generation = self._records[projection.name].generation
        if generation is None:
            raise gone(projection.label)
        return generation

    def _change(self, projection: Projection[Any], **changes: Any) -> None:
        record = self._records[projection.name]
        self._records[projection.name] = self._store.change(self._sql, record, **changes)

    def advance(self, projection: Projection[Any], mark: Mark) -> None:
        """Record up to where the log is applied."""
        self._change(projection, **mark._asdict(), updated_at=datetime.now(UTC))

    def recount(self, projection: Projection[Any]) -> None:
        """Count the rows that are read again."""
        table = self._store.row_table(projection, self._generation(projection))
        self._change(projection, **table.count(self._sql)._asdict())

    def switch(self, projection: Projection[Any], generation: int, mark: Mark) -> int | None:
        """Make another table the one that is read; return the number of the one before, if there was one."""
        before = self._records[projection.name].generation
        counts = self._store.row_table(projection, generation).count(self._sql)
        self._change(
            projection,
            **mark._asdict(),
            **counts._asdict(),
            generation=generation,
            updated_at=datetime.now(UTC),
        )
        return before


class TransactionTable:
    """A table in a transaction that somebody else ends.

    Args:
        count: records how many rows there are more, if the table is the one that is read.
    """

    def __init__(
        self,
        store: DatabaseReadModels,
        sql: Statements,
        table: RowTable,
        count: Callable[[Changes], None] = lambda changes: None,
    ) -> None:
        self._store = store
        self._sql = sql
        self._table = table
        self._count = count

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        """Return the rows that there are among those with these keys."""
        return list(self._table.load(self._sql, keys))

    def parked_streams(self) -> list[str]:
        """Return the keys of what is parked by stream, not by row."""
        query = (
            f"SELECT DISTINCT key FROM {self._store.parked_events.name} "  # noqa: S608
            "WHERE generation = ? AND substr(key, 1, 7) = 'stream:'"
        )
        return [key for (key,) in self._sql.query(query, (self._table.generation,))]

    def past(self, key: str) -> list[PastRow]:
        """Return the past rows with a key, in order."""
        return list(self._table.load_past(self._sql, key))

    def save(self, changes: Changes) -> None:
        """Make the changes."""
        sql, table, parked = self._sql, self._table, self._store.parked_events
        if changes.new or changes.changed:
            self._store.store_rows(sql, table.rows, changes.new, changes.changed)
        self._delete(table.rows.name, changes.removed)
        if changes.unparked:
            sql.execute(
                f"DELETE FROM {parked.name} WHERE generation = ? AND {table.dialect.is_any('key')}",  # noqa: S608
                (table.generation, table.dialect.array(changes.unparked)),
            )
        if changes.parked:
            records = [parked.stored((table.generation, *event)) for event in changes.parked]
            sql.execute_many(parked.insert, records)
        if table.past is not None:
            self._delete(table.past.name, changes.forgotten)
            if changes.past:
                self._store.insert_past(sql, table.past, changes.past)
        self._count(changes)

    def _delete(self, table: str, keys: list[str]) -> None:
        if keys:
            dialect = self._table.dialect
            self._sql.execute(f"DELETE FROM {table} WHERE {dialect.is_any('key')}", [dialect.array(keys)])  # noqa: S608


class BuildingTable:
    """A table that is being built: nobody reads it, so that much can be saved by parts."""

    def __init__(self, store: DatabaseReadModels, table: RowTable) -> None:
        self._store = store
        self._table = table

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        """Return the rows that there are among those with these keys."""
        with self._store._reading() as sql:
            return self._in(sql).load(keys)

    def parked_streams(self) -> list[str]:
        """Return the keys of what is parked by stream, not by row."""
        with self._store._reading() as sql:
            return self._in(sql).parked_streams()

    def past(self, key: str) -> list[PastRow]:
        """Return the past rows with a key, in order."""
        with self._store._reading() as sql:
            return self._in(sql).past(key)

    def save(self, changes: Changes) -> None:
        """Make the changes, in transactions for which nobody waits for long."""
        new, past = changes.new, changes.past
        for start in range(0, max(len(new), len(past)) - _SAVED_AT_ONCE, _SAVED_AT_ONCE):
            part = slice(start, start + _SAVED_AT_ONCE)
            self._save(Changes(new=new[part], past=past[part]))
        rest = max(0, -(-max(len(new), len(past)) // _SAVED_AT_ONCE) - 1) * _SAVED_AT_ONCE
        self._save(replace(changes, new=new[rest:], past=past[rest:]))

    def _save(self, changes: Changes) -> None:
        with self._store._transaction() as sql:
            self._in(sql).save(changes)

    def _in(self, sql: Statements) -> TransactionTable:
        return TransactionTable(self._store, sql, self._table)


def gone(label: str) -> ReadModelError:
    """Return the error of a read model that the database does not have."""
    return MissingReadModelError(
        f"Read model {label} no longer exists.", hint="Reopen the service to rebuild it."
    )


def _is_of(projection: Projection[Any], alias: str) -> str:
    """Return the condition of a read model's record. Names of projections are plain: see `Projection`."""
    return f"{alias}.name = '{projection.name}' AND {alias}.version = {projection.version}"


def _mark(text: str | None) -> Mark | None:
    """Return the end of the log as it is selected."""
    if text is None:
        return None
    position, _, marker = text.partition(" ")
    return Mark(int(position), marker)


def _sorted_by(table: RowTable, selection: Selection, stored: Any) -> Any:
    kind = table.projection.column_types.get(selection.sort or "", str)
    return table.dialect.decode(kind, stored) if selection.sort else stored


def _check_is_whole(table: RowTable, selection: Selection, total: int, rows: Sequence[SelectedRow]) -> None:
    """Check that a page has as many rows as are counted, where the database does not find damage itself."""
    is_counted = table.projection.counted is not None and not selection.conditions
    if not table.rows.is_checked or not is_counted or selection.after is not None:
        return
    if len(rows) != max(0, min(selection.limit, total - selection.offset)):
        raise DamageError(f"a page of {table.projection.label} has {len(rows)} rows, of {total} in all")
