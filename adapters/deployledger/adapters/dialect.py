"""The SQL of SQLite and PostgreSQL: statements are written once, and what differs is named here.

A statement is text with ``?`` for each value, the same for both databases but for what a `Dialect` returns; a
`Statements` executes it on a connection of either.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from deployledger.domain.timestamps import from_microseconds, to_microseconds

if TYPE_CHECKING:
    import sqlite3

    from psycopg import Connection, Cursor

Value = Callable[[Any], Any]
"""Converts one value, which is not None."""

_STREAMED_AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one database writes what the other one writes differently.

    Attributes:
        types: the types of columns, by that of the Python values.
        serial: the definition of a primary key that numbers its rows and never uses a number again.
        schema: what is before the name of a table.
        encoders: how the values of some Python types are stored, where the driver does not do it.
        decoders: the way back.
    """

    types: Mapping[type, str]
    serial: str
    schema: str
    encoders: Mapping[type, Value]
    decoders: Mapping[type, Value]
    _index_of: str
    _differs: str
    _is_any: str
    _array: Value

    def table(self, name: str) -> str:
        """Return the name of a table as it is in a statement."""
        return f"{self.schema}{quoted(name)}"

    def contains(self, column: str, *, ignoring_case: bool = False) -> str:
        """Return the condition that a text contains the next value."""
        if ignoring_case:
            return f"{self._index_of}(lower({column}), lower(?)) > 0"
        return f"{self._index_of}({column}, ?) > 0"

    def begins(self, column: str) -> str:
        """Return the condition that a text begins with the next value."""
        return f"{self._index_of}({column}, ?) = 1"

    def differs(self, one: str, other: str) -> str:
        """Return the condition that two expressions differ; two NULLs do not."""
        return f"{one} {self._differs} {other}"

    def is_any(self, column: str) -> str:
        """Return the condition that a column has one of the values that `array` makes the next value of."""
        return self._is_any.format(column)

    def array(self, values: Sequence[Any]) -> Any:
        """Return several values as one, for `is_any`."""
        return self._array(values)

    def encode(self, kind: type, value: Any) -> Any:
        """Return a value of a Python type as it is stored."""
        encoder = self.encoders.get(kind)
        return value if value is None or encoder is None else encoder(value)

    def decode(self, kind: type, stored: Any) -> Any:
        """Return a stored value as one of a Python type."""
        decoder = self.decoders.get(kind)
        return stored if stored is None or decoder is None else decoder(stored)


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def upsert(table: str, columns: Sequence[str], key: str, values: str = "") -> str:
    """Return the statement that inserts a row, or updates the one with the same key.

    Args:
        key: the column, or several of them with commas between.
        values: where the values come from; one row of them unless given.
    """
    of_key = key.split(", ")
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in of_key)
    source = values or f"VALUES ({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) {source} ON CONFLICT ({key}) DO UPDATE SET {changes}"


def direction(descending: bool) -> str:
    """Return the order of a column in which NULL is the largest value, as an index on PostgreSQL has it."""
    return "DESC NULLS FIRST" if descending else "ASC NULLS LAST"


def _float(value: float) -> float | str:
    # SQLite would make NULL of what is not a number. As text it comes after all numbers, as on PostgreSQL.
    # It stores -0.0 as 0.
    return float(value) + 0.0 if value == value else "NaN"


def _text(value: str) -> str:
    return value if type(value) is str else str.__str__(value)  # as the driver stores a member of an enum


SQLITE = Dialect(
    types=MappingProxyType(
        {
            str: "TEXT",
            int: "INTEGER",
            float: "REAL",
            bool: "INTEGER",
            bytes: "BLOB",
            datetime: "INTEGER",
            UUID: "TEXT",
        }
    ),
    serial="INTEGER PRIMARY KEY AUTOINCREMENT",
    schema="",
    encoders=MappingProxyType(
        {str: _text, int: int, bool: int, datetime: to_microseconds, UUID: str, float: _float}
    ),
    decoders=MappingProxyType(
        {bool: {0: False, 1: True}.__getitem__, datetime: from_microseconds, UUID: UUID, float: float}
    ),
    _index_of="instr",
    _differs="IS NOT",
    _is_any="{} IN (SELECT value FROM json_each(?))",
    _array=partial(json.dumps, ensure_ascii=False),
)

POSTGRES = Dialect(
    types=MappingProxyType(
        {
            str: 'text COLLATE "C"',
            int: "bigint",
            float: "float8",
            bool: "boolean",
            bytes: "bytea",
            datetime: "timestamptz",
            UUID: "uuid",
        }
    ),
    serial="bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    schema="deployledger.",
    encoders=MappingProxyType({}),
    decoders=MappingProxyType({}),
    _index_of="strpos",
    _differs="IS DISTINCT FROM",
    _is_any="{} = ANY(?)",
    _array=list,
)


class Statements(Protocol):
    """Executes statements on a connection."""

    @property
    def dialect(self) -> Dialect:
        """The SQL that the connection's database takes."""
        ...

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement selects or returns."""
        ...

    def stream(self, statement: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield them, without having all of them in memory."""
        ...

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement, and return how many rows it changed."""
        ...

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement with the values of each row."""
        ...


class SQLiteStatements:
    """Executes statements on a connection to SQLite."""

    dialect = SQLITE

    def __init__(self, connection: "sqlite3.Connection") -> None:
        self.connection = connection

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement selects or returns."""
        return self.connection.execute(statement, values).fetchall()

    def stream(self, statement: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield them, without having all of them in memory."""
        return self.connection.execute(statement, values)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement, and return how many rows it changed."""
        return self.connection.execute(statement, values).rowcount

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement with the values of each row."""
        self.connection.executemany(statement, rows)


class PostgresStatements:
    """Executes statements on a session of PostgreSQL; values come back in binary form, which is faster."""

    dialect = POSTGRES

    def __init__(self, session: "Connection[Any]") -> None:
        self.session = session

    def query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows that a statement selects or returns."""
        with self._cursor() as cursor:
            return cursor.execute(in_postgres(statement), values).fetchall()

    def stream(self, statement: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield them, without having all of them in memory."""
        with self._cursor() as cursor:
            yield from cursor.stream(in_postgres(statement), values, size=_STREAMED_AT_ONCE)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Execute a statement, and return how many rows it changed."""
        return self.session.execute(in_postgres(statement), values).rowcount

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement with the values of each row."""
        with self._cursor() as cursor:
            cursor.executemany(in_postgres(statement), rows)

    def _cursor(self) -> "Cursor[tuple[Any, ...]]":
        from psycopg.rows import tuple_row

        return self.session.cursor(binary=True, row_factory=tuple_row)


@lru_cache(maxsize=512)
def in_postgres(statement: str) -> bytes:
    """Return a statement as psycopg takes it."""
    return statement.replace("%", "%%").replace("?", "%s").encode()
