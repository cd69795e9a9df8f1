"""The tables of one read model: its rows, and, of a temporal one, those that were superseded."""

from collections.abc import Iterator, Sequence
from typing import Any

from deployledger.adapters.dialect import Dialect, Statements, quoted
from deployledger.adapters.read_models.records import RecordTable
from deployledger.projections.projection import Projection
from deployledger.projections.rows import Counts, PastRow, StoredRow
from deployledger.projections.selection import KEY

_OWN = {"key": str, "first_position": int, "position": int, "parked_from": int, "state": str}
_OWN_OF_PAST = {
    "key": str,
    "first_position": int,
    "position": int,
    "until": int,
    "was_removed": bool,
    "state": str,
}
_PAST = "_past"


def table_label(name: str, version: int, generation: int) -> str:
    """Return the name of a table of rows, as it is in the database."""
    return f"{name}_v{version}_{generation}"


def labels_of(label: str) -> tuple[str, str]:
    """Return the names of all tables that belong to a table of rows, itself among them."""
    return f"{label}{_PAST}", label


def column_name(name: str) -> str:
    """Return the column's name for a field, or for the key. Ours and those of a projection are kept apart."""
    return "key" if name == KEY else quoted(f"c_{name}")


class RowTable:
    """One generation of a projection's rows.

    A past row held at a position if that is from its ``position`` on, and before its ``until``.
    """

    def __init__(self, projection: Projection[Any], generation: int, dialect: Dialect) -> None:
        self.projection = projection
        self.generation = generation
        self.dialect = dialect
        self.label = table_label(projection.name, projection.version, generation)
        columns = {column_name(name): kind for name, kind in projection.column_types.items()}
        self.columns = list(columns)
        self.rows = RecordTable(dialect, self.label, {**_OWN, **columns}, "key")
        self.past: RecordTable | None = None
        if projection.temporal:
            fields = {**_OWN_OF_PAST, **columns}
            self.past = RecordTable(dialect, f"{self.label}{_PAST}", fields)

    # Values -----------------------------------------------------------------------------------------

    @staticmethod
    def record(row: StoredRow | PastRow) -> list[Any]:
        """Return the values of a row in the order of the columns."""
        *own, columns, state = row
        return [*own, state.decode() if isinstance(state, bytes) else state, *columns]

    def stored_row(self, record: Sequence[Any]) -> StoredRow:
        """Return the row in a record."""
        return as_stored_row(self.rows.values(record))

    def row_as_of(self, record: Sequence[Any], as_of: int) -> StoredRow:
        """Return the row in a record of the past's columns and ``parked_from``, as it was at a position."""
        assert self.past is not None  # noqa: S101  # only of a temporal projection
        *values, parked_from = record
        if values[4] is not None:  # one that was superseded
            key, first_position, position, _, _, state, *columns = self.past.values(values)
            return StoredRow(key, first_position, position, None, tuple(columns), state)
        row = as_stored_row(self.rows.values([*values[:3], parked_from, *values[5:]]))
        return row if parked_from is None or parked_from <= as_of else row._replace(parked_from=None)

    # Statements -------------------------------------------------------------------------------------

    def create_statements(self) -> list[str]:
        """Return the statements that create the tables, without the indexes that can wait."""
        return [table.create() for table in (self.rows, self.past) if table is not None]

    def index_statements(self) -> list[str]:
        """Return the statements that make the indexes of filled tables."""
        groups = [(), *self.projection.indexes]
        statements = [
            self._index(number, self.rows, ", ".join([*map(column_name, names), "first_position"]))
            for number, names in enumerate(groups)
        ]
        if self.past is not None:
            statements += [
                self._index("position", self.rows, "position"),
                self._index("past_key", self.past, "key, position", unique="UNIQUE "),
                self._index("past_position", self.past, "position"),
                self._index("past_until", self.past, "until"),
                self._index("past_removed", self.past, "first_position", condition=" WHERE was_removed"),
            ]
        return statements

    def _index(
        self, label: object, table: RecordTable, columns: str, *, unique: str = "", condition: str = ""
    ) -> str:
        name = quoted(f"{self.label}_{label}")
        return f"CREATE {unique}INDEX {name} ON {table.name} ({columns}){condition}"

    def count(self, sql: Statements) -> Counts:
        """Return how many rows there are; see `Counts`."""
        counted = self.projection.counted
        of_value = f"sum(CASE WHEN {column_name(counted)} THEN 1 ELSE 0 END)" if counted else "0"
        query = f"SELECT count(*), coalesce({of_value}, 0) FROM {self.rows.name} WHERE state IS NOT NULL"  # noqa: S608
        return Counts(*sql.query(query)[0])

    def load(self, sql: Statements, keys: Sequence[str]) -> Iterator[StoredRow]:
        """Yield the rows that there are among those with these keys."""
        query = self.rows.select(self.dialect.is_any("key"))
        for record in sql.query(query, [self.dialect.array(keys)]):
            yield as_stored_row(self.rows.values(record))

    def load_past(self, sql: Statements, key: str) -> Iterator[PastRow]:
        """Yield the past rows with a key, in order."""
        assert self.past is not None  # noqa: S101  # only of a temporal projection
        for record in sql.query(self.past.select("key = ? ORDER BY position"), [key]):
            yield as_past_row(self.past.values(record))


def as_stored_row(values: Sequence[Any]) -> StoredRow:
    """Return the row that has these values, in the order of the columns."""
    return StoredRow(values[0], values[1], values[2], values[3], tuple(values[5:]), values[4])


def as_past_row(values: Sequence[Any]) -> PastRow:
    """Return the past row that has these values, in the order of the columns."""
    key, first_position, position, until, was_removed, state, *columns = values
    return PastRow(key, first_position, position, until, was_removed, tuple(columns), state)
