"""Tables of records, and the checksums that tell records as they were stored from damaged ones.

SQLite finds damage of its own structures, and not of what is in them: a flipped bit of a number is another
number. So every record has a checksum there. A PostgreSQL server checks its pages itself.
"""

import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from deployledger.adapters.dialect import SQLITE, Dialect, upsert

CHECKSUM = "checksum"


class DamageError(Exception):
    """A stored record is not the one that was stored."""


def checksum(record: Sequence[Any]) -> int:
    """Return the CRC-32 of the values of a record, each of exactly the type that SQLite gives back."""
    return zlib.crc32(repr(tuple(record)).encode(errors="surrogatepass"))


def check(record: Sequence[Any], table: str) -> None:
    """Check a record, whose last value is its checksum.

    Raises:
        DamageError: if it is not the one that was stored.
    """
    if checksum(record[:-1]) != record[-1]:
        raise DamageError(f"a row of table {table} does not match its checksum (its key reads {record[0]!r})")


class RecordTable:
    """A table of records: its statements, and its values as the database stores them.

    Args:
        name: the name in the database.
        fields: the columns and the types of their values.
        key: the column that tells records apart, or several of them with commas between; empty if an index
            does, which is made when the table is filled.
    """

    def __init__(self, dialect: Dialect, name: str, fields: dict[str, type], key: str = "") -> None:
        self.dialect = dialect
        self.label = name
        self.name = dialect.table(name)
        self.is_checked = dialect is SQLITE
        self.fields = fields
        self.key = key
        self.columns = [*fields, *([CHECKSUM] if self.is_checked else [])]
        self.width = len(self.columns)
        kinds = list(enumerate(fields.values()))
        self._encoders = [(at, dialect.encoders[kind]) for at, kind in kinds if kind in dialect.encoders]
        self._decoders = [(at, dialect.decoders[kind]) for at, kind in kinds if kind in dialect.decoders]

    # Values -----------------------------------------------------------------------------------------

    def stored(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return the values of a record as they are stored, with the checksum."""
        if not self.is_checked:
            return values
        record = list(values)
        for at, encode in self._encoders:
            if record[at] is not None:
                record[at] = encode(record[at])
        record.append(checksum(record))
        return record

    def values(self, record: Sequence[Any]) -> Sequence[Any]:
        """Return the values of a stored record.

        Raises:
            DamageError: if it is not the one that was stored.
        """
        if not self.is_checked:
            return record
        self.check(record)
        return self.decoded(record)

    def check(self, record: Sequence[Any]) -> None:
        """Check a stored record.

        Raises:
            DamageError: if it is not the one that was stored.
        """
        if self.is_checked:
            check(record, self.label)

    def decoded(self, record: Sequence[Any]) -> Sequence[Any]:
        """Return the values of a stored record, which nothing is compared with."""
        values = list(record[: len(self.fields)])
        for at, decode in self._decoders:
            stored = values[at]
            if stored is not None:
                try:
                    values[at] = decode(stored)
                except (ValueError, TypeError, LookupError, OverflowError):
                    # What somebody wrote there by hand is returned as it is: it is no expected value.
                    values[at] = stored
        return values

    # Statements -------------------------------------------------------------------------------------

    def create(self, options: str = "") -> str:
        """Return the statement that creates the table."""
        types = self.dialect.types
        columns = [f"{name} {types[kind]}" for name, kind in self.fields.items()]
        if self.is_checked:
            columns.append(f"{CHECKSUM} {types[int]} NOT NULL DEFAULT 0")
        if self.key:
            columns.append(f"PRIMARY KEY ({self.key})")
        return f"CREATE TABLE {self.name} ({', '.join(columns)}){options}"

    def select(self, condition: str) -> str:
        """Return the statement that selects whole records."""
        return f"SELECT {', '.join(self.columns)} FROM {self.name} WHERE {condition}"  # noqa: S608

    def of(self, alias: str) -> str:
        """Return the columns of the table with an alias in a statement."""
        return ", ".join(f"{alias}.{name}" for name in self.columns)

    @cached_property
    def insert(self) -> str:
        """The statement that inserts a record."""
        values = ", ".join("?" * self.width)
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({values})"  # noqa: S608

    @cached_property
    def upsert(self) -> str:
        """The statement that inserts a record, or takes the place of the one with its key."""
        return upsert(self.name, self.columns, self.key)
