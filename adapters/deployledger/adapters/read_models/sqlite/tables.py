"""The tables of one read model on SQLite, and the SQL about them."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from types import NoneType
from typing import Any, get_args
from uuid import UUID

from deployledger.adapters.read_models.sqlite.past import PastTable
from deployledger.adapters.read_models.sqlite.records import (
    IS_INTACT,
    PLACE_GUARD,
    DamageError,
    checked,
    checksum,
)
from deployledger.projections.projection import Projection
from deployledger.projections.store import (
    KEY,
    POSITIONS_PER_BLOCK,
    Changes,
    ParkedEvent,
    PastRow,
    Selection,
    StoredRow,
)

MODELS = "read_models"
TABLES = "read_model_tables"
PARKED = "read_model_parked"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_OWN_COLUMNS = ("key", "first_position", "position", "parked_from", "state")


def microseconds(moment: datetime) -> int:
    """Return a moment as it is stored: microseconds since 1970, UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(stored: int) -> datetime:
    """Return a stored moment (UTC)."""
    return _EPOCH + timedelta(0, 0, stored)


def _float(value: float) -> float | str:
    # SQLite would make NULL of what is not a number. As text it comes after all numbers, as on PostgreSQL.
    # It stores -0.0 as 0.
    return float(value) + 0.0 if value == value else "NaN"


def _text(value: str) -> str:
    return value if type(value) is str else str.__str__(value)  # as the driver stores a member of an enum


_TYPES = {str: "TEXT", int: "INTEGER", float: "REAL", bool: "INTEGER", datetime: "INTEGER", UUID: "TEXT"}
_ENCODE: dict[type, Callable[[Any], Any]] = {
    str: _text,
    int: int,
    bool: int,
    datetime: microseconds,
    UUID: str,
    float: _float,
}
_DECODE: dict[type, Callable[[Any], Any]] = {
    bool: {0: False, 1: True}.__getitem__,
    datetime: moment,
    UUID: UUID,
    float: float,
}


class RowTable:
    """One generation of a projection's rows. Its statements are text, made once."""

    def __init__(self, projection: Projection[Any], generation: int) -> None:
        self.projection = projection
        self.generation = generation
        label = table_label(projection.name, projection.version, generation)
        self.rows = quoted(label)
        self.counts = quoted(f"{label}_counts")
        self._label = label
        # Names of columns of ours and of the projection are kept apart by a prefix.
        self.columns = [column_name(name) for name in projection.columns]
        self.all_columns = [*_OWN_COLUMNS, *self.columns]
        kinds = list(enumerate(projection.column_types.values()))
        self._encoders = [(at, _ENCODE[kind]) for at, kind in kinds if kind in _ENCODE]
        self._decoders = [(at, _DECODE[kind]) for at, kind in kinds if kind in _DECODE]
        self.past = PastTable(self) if projection.temporal else None

    def beside(self, suffix: str) -> str:
        """Return the name of what belongs to the table of rows."""
        return quoted(f"{self._label}{suffix}")

    # Values -----------------------------------------------------------------------------------------

    def encode(self, column: str, value: Any) -> Any:
        """Return a value of a column, or a key, as it is stored."""
        kind = self.projection.column_types.get(column, str)
        return _ENCODE[kind](value) if value is not None and kind in _ENCODE else value

    def decode(self, column: str, stored: Any) -> Any:
        """Return a stored value of a column, or a key."""
        kind = self.projection.column_types.get(column, str)
        return _DECODE[kind](stored) if stored is not None and kind in _DECODE else stored

    def record(self, row: StoredRow) -> list[Any]:
        """Return a row as it is stored, with its checksum."""
        state = row.state.decode() if isinstance(row.state, bytes) else row.state
        columns = self.encode_all(row.columns)
        key = _text(row.key)
        record = [key, row.first_position, row.position, row.parked_from, state, *columns]
        return [*record, checksum(record)]

    def checked_row(self, record: Sequence[Any]) -> StoredRow | None:
        """Return the row in a record of all columns and the checksum; None if it is an empty one of a join.

        Raises:
            DamageError: if it is not the row that was stored.
        """
        values = checked(record, self._label)
        return None if values is None else self.stored_row(values)

    def encode_all(self, values: Sequence[Any]) -> list[Any]:
        """Return the values of all columns as they are stored."""
        columns = list(values)
        for at, encode in self._encoders:
            if columns[at] is not None:
                columns[at] = encode(columns[at])
        return columns

    def stored_row(self, record: Sequence[Any]) -> StoredRow | None:
        """Return the row in a record of all columns; None if it is an empty one of a join."""
        if record[0] is None:
            return None
        columns = self.decode_all(record[5:])
        return StoredRow(record[0], record[1], record[2], record[3], columns, record[4])

    def decode_all(self, stored_values: Sequence[Any]) -> tuple[Any, ...]:
        """Return the stored values of all columns."""
        columns = list(stored_values)
        for at, decode in self._decoders:
            stored = columns[at]
            if stored is not None:
                try:
                    columns[at] = decode(stored)
                except (ValueError, TypeError, LookupError, OverflowError):
                    # What somebody wrote there by hand is given as it is: it is found to be different.
                    columns[at] = stored
        return tuple(columns)

    # Statements -------------------------------------------------------------------------------------

    def column_definitions(self) -> str:
        """Return the definitions of the projection's columns, each with a comma before it."""
        kinds = self.projection.column_types.values()
        return "".join(f", {name} {_TYPES[kind]}" for name, kind in zip(self.columns, kinds, strict=True))

    def create_statements(self) -> list[str]:
        """Return the statements that create the tables, without the indexes that can wait."""
        statements = [
            f"CREATE TABLE {self.rows} (key TEXT PRIMARY KEY NOT NULL, first_position INTEGER NOT NULL, "
            f"position INTEGER NOT NULL, parked_from INTEGER, state TEXT{self.column_definitions()}, "
            "checksum INTEGER NOT NULL DEFAULT 0)"
        ]
        if self.projection.counted:
            statements.append(
                f"CREATE TABLE {self.counts} (block INTEGER, value INTEGER, rows INTEGER NOT NULL, "
                "guard INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (block, value)) WITHOUT ROWID"
            )
        if self.past is not None:
            statements += self.past.create_statements()
        return statements

    def complete_statements(self) -> list[str]:
        """Return the statements that make the indexes of a filled table."""
        groups = [(), *self.projection.indexes]
        of_past = self.past.complete_statements() if self.past is not None else []
        return of_past + [
            f"CREATE INDEX {quoted(f'{self._label}_index_{number}')} ON {self.rows} "
            f"({', '.join([*(column_name(name) for name in names), 'first_position'])})"
            for number, names in enumerate(groups)
        ]

    def check_definition(self, connection: sqlite3.Connection) -> None:
        """Check that the tables and indexes in the database are those that were created.

        Raises:
            DamageError: if they are not: statements would mean something else.
        """
        expected = {*self.create_statements(), *self.complete_statements()}
        names = [f"{self._label}{suffix}" for suffix in ("", "_counts", "_past", "_turns")]
        found = connection.execute(
            "SELECT sql FROM sqlite_master "
            "WHERE tbl_name IN (SELECT value FROM json_each(?)) AND sql IS NOT NULL",
            (_json(names),),
        )
        if {sql for (sql,) in found} != expected:
            raise DamageError(f"the table {self._label} no longer has the definition it was created with")

    @cached_property
    def select_by_keys(self) -> str:
        """The statement that selects rows by a JSON array of keys."""
        columns = ", ".join([*self.all_columns, "checksum"])
        return f"SELECT {columns} FROM {self.rows} WHERE key IN (SELECT value FROM json_each(?))"  # noqa: S608

    @cached_property
    def upsert(self) -> str:
        """The statement that stores a row."""
        names = [*self.all_columns, "checksum"]
        columns = ", ".join(names)
        changes = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        values = ", ".join("?" * len(names))
        return (
            f"INSERT INTO {self.rows} ({columns}) VALUES ({values}) ON CONFLICT (key) DO UPDATE SET {changes}"  # noqa: S608
        )

    @cached_property
    def get(self) -> str:
        """The statement that gets one row with the state of the read model, by key, name and version."""
        return (
            f"SELECT m.generation, m.position, m.marker, {IS_INTACT}, {self.columns_of('r')} "  # noqa: S608
            f"FROM {MODELS} m "
            f"LEFT JOIN {self.rows} r ON r.key = ? WHERE m.name = ? AND m.version = ?"
        )

    @property
    def counted_column(self) -> str:
        """The name of the counted column, of a projection that has one."""
        return column_name(str(self.projection.counted))

    def recounted(self) -> str:
        """Return the query that counts the rows by block and value."""
        return (
            f"SELECT first_position / {POSITIONS_PER_BLOCK} AS block, "  # noqa: S608
            f"{self.counted_column} AS value, count(*) AS rows "
            f"FROM {self.rows} WHERE state IS NOT NULL GROUP BY 1, 2"
        )

    def columns_of(self, alias: str) -> str:
        """Return the names of all columns of a table with an alias, in the order of `checked_row`."""
        return ", ".join(f"{alias}.{name}" for name in (*self.all_columns, "checksum"))

    def where(self, selection: Selection) -> tuple[str, list[Any]]:
        """Return the condition of a selection, without its place in the order, and its values."""
        conditions, values = ["state IS NOT NULL"], list[Any]()
        if selection.counted is not None and self.projection.counted:
            conditions.append(f"{column_name(self.projection.counted)} = ?")
            values.append(int(selection.counted))
        for it in selection.conditions:
            name, value = column_name(it.column), self.encode(it.column, it.value)
            values.append(value)
            match it.operator:
                case "contains":
                    conditions.append(f"instr(lower({name}), lower(?)) > 0")
                case "has":
                    conditions.append(f"instr({name}, ?) > 0")
                case "begins":
                    conditions.append(f"substr({name}, 1, length(?)) = ?")
                    values.append(value)
                case "=" | ">=" | "<":
                    conditions.append(f"{name} {it.operator} ?")
                case other:
                    raise ValueError(f"There is no operator {other!r}.")
        return " AND ".join(conditions), values

    def total(self, selection: Selection) -> tuple[str, list[Any]]:
        """Return the statement of how many rows are selected in all, and how many counts are damaged."""
        if selection.conditions or not self.projection.counted:
            where, values = self.where(selection)
            return f"SELECT count(*), 0 FROM {self.rows} WHERE {where}", values  # noqa: S608
        where, values = _counted(selection)
        return (
            f"SELECT coalesce(sum(rows), 0), coalesce(sum(rows + {PLACE_GUARD} IS NOT guard), 0) "  # noqa: S608
            f"FROM {self.counts} WHERE {where}",
            values,
        )

    def starts_at_block(self, selection: Selection) -> bool:
        """Return whether the counts tell where the rows after the offset begin."""
        is_plain = not selection.conditions and selection.sort is None and selection.after is None
        return is_plain and selection.offset > 0 and self.projection.counted is not None

    def start(self, selection: Selection) -> tuple[str, list[Any]]:
        """Return the statement of the block with the row after the offset, and how many are before it."""
        direction = "DESC" if selection.descending else "ASC"
        where, values = _counted(selection)
        return (
            "SELECT block, until - rows FROM (SELECT block, rows, "  # noqa: S608
            f"sum(rows) OVER (ORDER BY block {direction}) AS until FROM "
            f"(SELECT block, sum(rows) AS rows FROM {self.counts} WHERE {where} GROUP BY block)) "
            f"WHERE until > ? ORDER BY block {direction} LIMIT 1",
            [*values, selection.offset],
        )

    def page(
        self, selection: Selection, answer: "RowTable", start: tuple[int, int] | None
    ) -> tuple[str, list[Any]]:
        """Return the statement that selects rows, and its values: the rows that answer, then those selected.

        Args:
            start: the block with the row after the offset, and how many are before it, if that is known.
        """
        where, values = self.where(selection)
        offset = selection.offset
        if start is not None:
            block, before = start
            offset -= before
            if selection.descending:
                where += " AND first_position < ?"
                block += 1
            else:
                where += " AND first_position >= ?"
            values.append(block * POSITIONS_PER_BLOCK)
        if selection.after is not None:
            condition, of_condition = self.after(selection)
            where += f" AND {condition}"
            values += of_condition
        way, by_position = _directions(selection)
        sorting, order = self.sorting(selection), self.order(selection)
        return (
            f"SELECT p.sorted_by, p.first_position, {answer.columns_of('a')}, {self.columns_of('s')} FROM "  # noqa: S608
            f"(SELECT {sorting} AS sorted_by, first_position, key FROM {self.rows} WHERE {where} "
            f"ORDER BY {order} LIMIT ? OFFSET ?) AS p CROSS JOIN {answer.rows} a ON a.key = p.key "
            f"CROSS JOIN {self.rows} s ON s.key = p.key "
            f"ORDER BY p.sorted_by {way}, p.first_position {by_position}",
            [*values, selection.limit, offset],
        )

    def sorting(self, selection: Selection) -> str:
        """Return the column that a selection is sorted by."""
        return column_name(selection.sort) if selection.sort else "first_position"

    def order(self, selection: Selection) -> str:
        """Return the order of a selection."""
        way, by_position = _directions(selection)
        if selection.sort is None:
            return f"first_position {by_position}"
        return f"{self.sorting(selection)} {way}, first_position {by_position}"

    def after(self, selection: Selection) -> tuple[str, list[Any]]:
        """Return the condition of the rows behind one, and its values."""
        sort, descending, after = selection.sort, selection.descending, selection.after
        assert after is not None  # noqa: S101  # the caller looked
        compare = "<" if descending else ">"
        if sort is None:
            return f"first_position {compare} ?", [after[1]]
        name = column_name(sort)
        if after[0] is None:
            others = f"OR {name} IS NOT NULL" if descending else ""
            return f"(({name} IS NULL AND first_position {compare} ?) {others})", [after[1]]
        condition = f"({name}, first_position) {compare} (?, ?)"
        field = self.projection.row_type.model_fields.get(sort)
        if not descending and field is not None and NoneType in get_args(field.annotation):
            condition = f"({condition} OR {name} IS NULL)"
        return condition, [self.encode(sort, after[0]), after[1]]


def _counted(selection: Selection) -> tuple[str, list[Any]]:
    """Return the condition of the counts of a selection, and its values."""
    return ("TRUE", []) if selection.counted is None else ("value = ?", [int(selection.counted)])


def _directions(selection: Selection) -> tuple[str, str]:
    # NULL is the largest, as on PostgreSQL; SQLite takes it for the smallest unless it is told.
    if selection.descending:
        return "DESC NULLS FIRST", "DESC"
    return "ASC NULLS LAST", "ASC"


def table_label(name: str, version: int, generation: int) -> str:
    """Return the name of a table of rows, as it is in the database."""
    return f"{name}_v{version}_{generation}"


def column_name(name: str) -> str:
    """Return the column's name for a field, or for the key."""
    return "key" if name == KEY else quoted(f"c_{name}")


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


class ConnectionTable:
    """A table as one connection sees and changes it, in a transaction that somebody else ends."""

    def __init__(self, connection: sqlite3.Connection, table: RowTable) -> None:
        self._connection = connection
        self._table = table

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        """Return the rows that there are among those with these keys."""
        found = self._connection.execute(self._table.select_by_keys, (_json(keys),))
        return [row for record in found if (row := self._table.checked_row(record)) is not None]

    def parked_streams(self) -> list[str]:
        """Return the keys of what is parked by stream, not by row."""
        query = f"SELECT DISTINCT key FROM {PARKED} WHERE generation = ? AND substr(key, 1, 7) = 'stream:'"  # noqa: S608
        return [record[0] for record in self._connection.execute(query, (self._table.generation,))]

    def past(self, key: str) -> list[PastRow]:
        """Return the past rows with a key, in order."""
        past = self._table.past
        assert past is not None  # noqa: S101  # only of a temporal projection
        found = self._connection.execute(past.select_by_key, (key,))
        return [row for record in found if (row := past.checked_row(record)) is not None]

    def recount(self) -> None:
        """Make the counts anew, from the rows."""
        counts, past = self._table.counts, self._table.past
        self._connection.execute(f"DELETE FROM {counts}")  # noqa: S608
        self._connection.execute(
            f"INSERT INTO {counts} SELECT block, value, rows, rows + {PLACE_GUARD} "  # noqa: S608
            f"FROM ({self._table.recounted()})"
        )
        if past is not None:
            self._connection.execute(f"DELETE FROM {past.turns}")  # noqa: S608
            self._connection.execute(
                f"INSERT INTO {past.turns} SELECT block, value, change, change + {PLACE_GUARD} "  # noqa: S608
                f"FROM ({past.returned()})"
            )

    def save(self, changes: Changes) -> None:
        """Make the changes."""
        connection, table = self._connection, self._table
        for rows in (changes.new, changes.changed):
            connection.executemany(table.upsert, map(table.record, rows))
        connection.executemany(
            f"DELETE FROM {table.rows} WHERE key = ?",  # noqa: S608
            [(key,) for key in changes.removed],
        )
        connection.execute(
            f"DELETE FROM {PARKED} WHERE generation = ? AND key IN (SELECT value FROM json_each(?))",  # noqa: S608
            (table.generation, _json(changes.unparked)),
        )
        connection.executemany(
            f"INSERT INTO {PARKED} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            [_parked_record(table.generation, it) for it in changes.parked],
        )
        self._add_up(table.counts, "rows", changes.counts)
        if table.past is not None:
            connection.executemany(
                f"DELETE FROM {table.past.rows} WHERE key = ?",  # noqa: S608
                [(key,) for key in changes.forgotten],
            )
            connection.executemany(table.past.insert, map(table.past.record, changes.past))
            self._add_up(table.past.turns, "change", changes.turns)

    def _add_up(self, table: str, column: str, counts: Mapping[tuple[int, bool], int]) -> None:
        if changed := {place: change for place, change in counts.items() if change}:
            self._connection.executemany(
                f"INSERT INTO {table} (block, value, {column}, guard) VALUES (?, ?, ?, ?) "  # noqa: S608
                f"ON CONFLICT (block, value) DO UPDATE SET {column} = {column} + excluded.{column}, "
                f"guard = guard + excluded.{column}",
                [
                    (block, int(value), change, change + 3 * block + int(value))
                    for (block, value), change in sorted(changed.items())
                ],
            )


def _parked_record(generation: int, parked: ParkedEvent) -> list[Any]:
    texts = (_text(parked.topic), _text(parked.error))
    record = [
        *(generation, _text(parked.key), parked.position, _text(parked.stream_id), parked.stream_version),
        *texts,
        microseconds(parked.parked_at),
    ]
    return [*record, checksum(record)]


def _json(keys: Sequence[str]) -> str:
    return json.dumps(keys, ensure_ascii=False)


class Comparison:
    """Two tables in one snapshot; see the port."""

    def __init__(
        self, connection: sqlite3.Connection, found: RowTable, expected: RowTable, position: int
    ) -> None:
        self._connection = connection
        self._found = found
        self._expected = expected
        self.position = position

    def differences(
        self, keys: tuple[str, str] | None = None
    ) -> Iterator[tuple[StoredRow | None, StoredRow | None]]:
        """Yield the expected and the found row wherever they are not the same."""
        found, expected = self._found, self._expected
        width = len(expected.all_columns)
        for record in self._unequal((expected.rows, found.rows), expected.all_columns, ("key",), keys):
            yield expected.stored_row(record[:width]), found.stored_row(record[width:])

    def _unequal(
        self,
        tables: tuple[str, str],
        columns: Sequence[str],
        identity: Sequence[str],
        keys: tuple[str, str] | None,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the expected and the found columns side by side wherever they are not the same."""
        expected, found = tables
        of_expected, of_found = (", ".join(f"{alias}.{name}" for name in columns) for alias in "ef")
        is_different = " OR ".join(f"e.{name} IS NOT f.{name}" for name in columns)
        is_same = " AND ".join(f"f.{name} = e.{name}" for name in identity)
        where, values = _between("e", keys)
        yield from self._connection.execute(
            f"SELECT {of_expected}, {of_found} FROM {expected} e "  # noqa: S608
            f"LEFT JOIN {found} f ON {is_same} WHERE {where} AND ({is_different})",
            values,
        )
        where, values = _between("f", keys)
        nothing = ", ".join(["NULL"] * len(columns))
        yield from self._connection.execute(
            # A join, for which SQLite makes an index of its own where the table has none yet.
            f"SELECT {nothing}, {of_found} FROM {found} f LEFT JOIN {expected} e ON {is_same} "  # noqa: S608
            f"WHERE {where} AND e.{identity[0]} IS NULL",
            values,
        )

    def miscounted(self) -> list[tuple[int, bool, int, int]]:
        """Return block, value, the expected number of rows, and the one kept at hand, where they differ."""
        if self._found.projection.counted is None:
            return []
        return self._miscounted(self._expected.recounted(), self._found.counts, "rows")

    def _miscounted(self, recounted: str, counts: str, column: str) -> list[tuple[int, bool, int, int]]:
        query = (
            f"SELECT block, value, sum({column}), sum(kept) FROM ("  # noqa: S608
            f"SELECT block, value, {column}, 0 AS kept FROM ({recounted}) "
            f"UNION ALL SELECT block, value, 0, {column} FROM {counts}"
            f") GROUP BY block, value HAVING sum({column}) <> sum(kept) ORDER BY block, value"
        )
        return [
            (block, bool(value), expected, kept)
            for block, value, expected, kept in self._connection.execute(query).fetchall()
        ]

    def past_differences(
        self, keys: tuple[str, str] | None = None
    ) -> Iterator[tuple[PastRow | None, PastRow | None]]:
        """Yield the expected and the found past row wherever they are not the same."""
        found, expected = self._found.past, self._expected.past
        if found is None or expected is None:
            return
        width = len(expected.all_columns)
        for record in self._unequal(
            (expected.rows, found.rows), expected.all_columns, ("key", "position"), keys
        ):
            yield expected.past_row(record[:width]), found.past_row(record[width:])

    def misturned(self) -> list[tuple[int, bool, int, int]]:
        """Return block, value, the expected change of the count, and the one at hand, where they differ."""
        found, expected = self._found.past, self._expected.past
        if found is None or expected is None or self._found.projection.counted is None:
            return []
        return self._miscounted(expected.returned(), found.turns, "change")

    def rows(self, keys: tuple[str, str] | None = None) -> int:
        """Return how many rows the table that is read has."""
        where, values = _between("f", keys)
        query = f"SELECT count(*) FROM {self._found.rows} f WHERE {where}"  # noqa: S608
        return int(self._connection.execute(query, values).fetchone()[0])


def _between(alias: str, keys: tuple[str, str] | None) -> tuple[str, tuple[str, ...]]:
    return ("TRUE", ()) if keys is None else (f"{alias}.key BETWEEN ? AND ?", keys)
