"""Compares the table of rows that is read with one in which the log was applied again."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from deployledger.adapters.dialect import Statements
from deployledger.adapters.read_models.records import RecordTable
from deployledger.adapters.read_models.row_table import RowTable, as_past_row, as_stored_row
from deployledger.projections.rows import Counts, PastRow, StoredRow

_Row = TypeVar("_Row", StoredRow, PastRow)
Keys = tuple[str, str] | None


class TableComparison:
    """Two tables in one snapshot; see the port.

    Args:
        found: the table that is read.
        expected: the other one.
        position: up to where the log is applied in the one that is read.
        recorded: how many rows that has, as it is recorded.
    """

    def __init__(
        self, sql: Statements, found: RowTable, expected: RowTable, position: int, recorded: Counts
    ) -> None:
        self._sql = sql
        self._found = found
        self._expected = expected
        self.position = position
        self._recorded = recorded

    def differences(self, keys: Keys = None) -> Iterator[tuple[StoredRow | None, StoredRow | None]]:
        """Yield the expected and the found row wherever they are not the same."""
        for expected, found in self._unequal(self._expected.rows, self._found.rows, ["key"], keys):
            yield _optional(as_stored_row, expected), _optional(as_stored_row, found)

    def past_differences(self, keys: Keys = None) -> Iterator[tuple[PastRow | None, PastRow | None]]:
        """Yield the expected and the found past row wherever they are not the same."""
        if self._found.past is None or self._expected.past is None:
            return
        identity = ["key", "position"]
        for expected, found in self._unequal(self._expected.past, self._found.past, identity, keys):
            yield _optional(as_past_row, expected), _optional(as_past_row, found)

    def _unequal(
        self, expected: RecordTable, found: RecordTable, identity: list[str], keys: Keys
    ) -> Iterator[tuple[Sequence[Any] | None, Sequence[Any] | None]]:
        """Yield the expected and the found values wherever they are not the same."""
        fields = list(expected.fields)
        width = len(fields)
        of_both = ", ".join(f"{alias}.{name}" for alias in "ef" for name in fields)
        is_different = " OR ".join(self._sql.dialect.differs(f"e.{name}", f"f.{name}") for name in fields)
        is_same = " AND ".join(f"f.{name} = e.{name}" for name in identity)
        # Two joins, for which SQLite makes an index of its own where a table has none yet.
        for tables, condition in (
            (f"{expected.name} e LEFT JOIN {found.name} f", f"({is_different})"),
            (f"{found.name} f LEFT JOIN {expected.name} e", f"e.{identity[0]} IS NULL"),
        ):
            where, values = _between(tables.split()[1], keys)
            query = f"SELECT {of_both} FROM {tables} ON {is_same} WHERE {where} AND {condition}"  # noqa: S608
            for record in self._sql.stream(query, values):
                yield (
                    None if record[0] is None else expected.decoded(record[:width]),
                    None if record[width] is None else found.decoded(record[width:]),
                )

    def rows(self, keys: Keys = None) -> int:
        """Return how many rows the table that is read has."""
        where, values = _between("f", keys)
        query = f"SELECT count(*) FROM {self._found.rows.name} f WHERE {where}"  # noqa: S608
        return int(self._sql.query(query, values)[0][0])

    def counts(self) -> tuple[Counts, Counts]:
        """Return how many rows there should be, and what the database has recorded."""
        return self._expected.count(self._sql), self._recorded


def _optional(make: Callable[[Sequence[Any]], _Row], values: Sequence[Any] | None) -> _Row | None:
    return None if values is None else make(values)


def _between(alias: str, keys: Keys) -> tuple[str, tuple[str, ...]]:
    return ("TRUE", ()) if keys is None else (f"{alias}.key BETWEEN ? AND ?", keys)
