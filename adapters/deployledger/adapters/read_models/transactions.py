"""Tables of rows that are changed: in a transaction with others, or while they are built."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from deployledger.adapters.dialect import Statements
from deployledger.adapters.read_models.catalog import Catalog, ModelRecord, gone
from deployledger.adapters.read_models.row_table import RowTable
from deployledger.domain.event_records import Mark
from deployledger.projections.projection import Projection
from deployledger.projections.rows import Changes, PastRow, StoredRow

_SAVED_AT_ONCE = 4_000


class Transaction:
    """A transaction in which nobody else applies events; see the port."""

    def __init__(self, catalog: Catalog, sql: Statements, records: dict[str, ModelRecord]) -> None:
        self._catalog = catalog
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
            return TransactionTable(self._catalog, self._sql, self._catalog.row_table(projection, generation))

        def count(changes: Changes) -> None:
            record = self._records[projection.name]
            if changes.total or changes.counted:
                total, counted = record.total + changes.total, record.counted + changes.counted
                self._change(projection, total=total, counted=counted)

        table = self._catalog.row_table(projection, self._generation(projection))
        return TransactionTable(self._catalog, self._sql, table, count)

    def _generation(self, projection: Projection[Any]) -> int:
        generation = self._records[projection.name].generation
        if generation is None:
            raise gone(projection.label)
        return generation

    def _change(self, projection: Projection[Any], **changes: Any) -> None:
        record = self._records[projection.name]
        self._records[projection.name] = self._catalog.change(self._sql, record, **changes)

    def advance(self, projection: Projection[Any], mark: Mark) -> None:
        """Record up to where the log is applied."""
        self._change(
            projection, position=mark.position, event_marker=mark.marker, updated_at=datetime.now(UTC)
        )

    def recount(self, projection: Projection[Any]) -> None:
        """Count the rows that are read again."""
        table = self._catalog.row_table(projection, self._generation(projection))
        self._change(projection, **table.count(self._sql)._asdict())

    def switch(self, projection: Projection[Any], generation: int, mark: Mark) -> int | None:
        """Make another table the one that is read; return the number of the one before, if there was one."""
        before = self._records[projection.name].generation
        counts = self._catalog.row_table(projection, generation).count(self._sql)
        self._change(
            projection,
            position=mark.position,
            event_marker=mark.marker,
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
        catalog: Catalog,
        sql: Statements,
        table: RowTable,
        count: Callable[[Changes], None] = lambda changes: None,
    ) -> None:
        self._catalog = catalog
        self._sql = sql
        self._table = table
        self._count = count

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        """Return the rows that there are among those with these keys."""
        return list(self._table.load(self._sql, keys))

    def parked_streams(self) -> list[str]:
        """Return the keys of what is parked by stream, not by row."""
        query = (
            f"SELECT DISTINCT key FROM {self._catalog.parked_events.name} "  # noqa: S608
            "WHERE generation = ? AND substr(key, 1, 7) = 'stream:'"
        )
        return [key for (key,) in self._sql.query(query, (self._table.generation,))]

    def past(self, key: str) -> list[PastRow]:
        """Return the past rows with a key, in order."""
        return list(self._table.load_past(self._sql, key))

    def save(self, changes: Changes) -> None:
        """Make the changes."""
        sql, table, parked = self._sql, self._table, self._catalog.parked_events
        if changes.new or changes.changed:
            self._catalog.store_rows(sql, table.rows, changes.new, changes.changed)
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
                self._catalog.insert_past(sql, table.past, changes.past)
        self._count(changes)

    def _delete(self, table: str, keys: list[str]) -> None:
        if keys:
            dialect = self._table.dialect
            self._sql.execute(f"DELETE FROM {table} WHERE {dialect.is_any('key')}", [dialect.array(keys)])  # noqa: S608


class BuildingTable:
    """A table that is being built: nobody reads it, so that much can be saved by parts."""

    def __init__(self, catalog: Catalog, table: RowTable) -> None:
        self._catalog = catalog
        self._table = table

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        """Return the rows that there are among those with these keys."""
        with self._catalog.reading() as sql:
            return self._in(sql).load(keys)

    def parked_streams(self) -> list[str]:
        """Return the keys of what is parked by stream, not by row."""
        with self._catalog.reading() as sql:
            return self._in(sql).parked_streams()

    def past(self, key: str) -> list[PastRow]:
        """Return the past rows with a key, in order."""
        with self._catalog.reading() as sql:
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
        with self._catalog.transaction() as sql:
            self._in(sql).save(changes)

    def _in(self, sql: Statements) -> TransactionTable:
        return TransactionTable(self._catalog, sql, self._table)
