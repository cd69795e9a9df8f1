"""What was superseded in a temporal read model on SQLite, and the SQL about it."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from deployledger.adapters.read_models.sqlite.records import PLACE_GUARD, checked, checksum
from deployledger.projections.store import KEY, POSITIONS_PER_BLOCK, PastRow, Selection, StoredRow

if TYPE_CHECKING:
    from deployledger.adapters.read_models.sqlite.tables import RowTable

_OWN_COLUMNS = ("key", "first_position", "position", "until", "was_removed", "state")
_LARGEST = (1 << 63) - 1


class PastTable:
    """The past rows beside one generation of a projection's rows, and how the counts changed.

    A row held at a position if that is from its ``position`` on, and before its ``until``.
    """

    def __init__(self, table: "RowTable") -> None:
        self._table = table
        self.rows = table.beside("_past")
        self.turns = table.beside("_turns")
        self.all_columns = [*_OWN_COLUMNS, *table.columns]

    def create_statements(self) -> list[str]:
        """Return the statements that create the tables, without the indexes that can wait."""
        statements = [
            f"CREATE TABLE {self.rows} (key TEXT NOT NULL, first_position INTEGER NOT NULL, "
            "position INTEGER NOT NULL, until INTEGER NOT NULL, was_removed INTEGER NOT NULL, "
            f"state TEXT NOT NULL{self._table.column_definitions()}, checksum INTEGER NOT NULL DEFAULT 0)"
        ]
        if self._table.projection.counted:
            statements.append(
                f"CREATE TABLE {self.turns} (block INTEGER, value INTEGER, change INTEGER NOT NULL, "
                "guard INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (block, value)) WITHOUT ROWID"
            )
        return statements

    def complete_statements(self) -> list[str]:
        """Return the statements that make the indexes of filled tables."""
        name, past = self._table.beside, self.rows
        return [
            f"CREATE INDEX {name('_position')} ON {self._table.rows} (position)",
            f"CREATE UNIQUE INDEX {name('_past_key')} ON {past} (key, position)",
            f"CREATE INDEX {name('_past_position')} ON {past} (position)",
            f"CREATE INDEX {name('_past_until')} ON {past} (until)",
            f"CREATE INDEX {name('_past_removed')} ON {past} (first_position) WHERE was_removed = 1",
        ]

    @cached_property
    def select_by_key(self) -> str:
        """The statement that selects the past rows with a key."""
        columns = ", ".join([*self.all_columns, "checksum"])
        return f"SELECT {columns} FROM {self.rows} WHERE key = ? ORDER BY position"  # noqa: S608

    @cached_property
    def insert(self) -> str:
        """The statement that stores a past row."""
        names = [*self.all_columns, "checksum"]
        columns, values = ", ".join(names), ", ".join("?" * len(names))
        return f"INSERT INTO {self.rows} ({columns}) VALUES ({values})"  # noqa: S608

    def record(self, row: PastRow) -> list[Any]:
        """Return a past row as it is stored, with its checksum."""
        state = row.state.decode() if isinstance(row.state, bytes) else row.state
        key = self._table.encode(KEY, row.key)
        record = [key, *row[1:4], int(row.was_removed), state, *self._table.encode_all(row.columns)]
        return [*record, checksum(record)]

    def checked_row(self, record: Sequence[Any]) -> PastRow | None:
        """Return the past row in a record of all columns and the checksum.

        Raises:
            DamageError: if it is not the row that was stored.
        """
        values = checked(record, self.rows)
        return None if values is None else self.past_row(values)

    def row_as_of(self, record: Sequence[Any], as_of: int) -> StoredRow | None:
        """Return the row in a record of `page`, as it was at a position.

        Raises:
            DamageError: if it, or the past row that it is, is not the one that was stored.
        """
        key, first_position, position, state, *columns, parked_from, until, was_removed, expected = record
        if was_removed is None:
            told = [key, first_position, position, parked_from, state, *columns, expected]
        else:
            told = [key, first_position, position, until, was_removed, state, *columns, expected]
        if checked(told, self.rows) is None:
            return None
        parked = parked_from if parked_from is not None and parked_from <= as_of else None
        return StoredRow(key, first_position, position, parked, self._table.decode_all(columns), state)

    def past_row(self, record: Sequence[Any]) -> PastRow | None:
        """Return the past row in a record of all columns; None if it is an empty one of a join."""
        if record[0] is None:
            return None
        columns = self._table.decode_all(record[6:])
        return PastRow(record[0], record[1], record[2], record[3], bool(record[4]), columns, record[5])

    def returned(self) -> str:
        """Return the query that makes the changes of the counts from the rows, by block and value."""
        value, size = self._table.counted_column, POSITIONS_PER_BLOCK
        return (
            "SELECT block, value, sum(change) AS change FROM ("  # noqa: S608
            f"SELECT position / {size} AS block, {value} AS value, 1 AS change FROM {self._table.rows} "
            "WHERE state IS NOT NULL "
            f"UNION ALL SELECT position / {size}, {value}, 1 FROM {self.rows} "
            f"UNION ALL SELECT until / {size}, {value}, -1 FROM {self.rows}"
            ") GROUP BY 1, 2"
        )

    # Selecting --------------------------------------------------------------------------------------

    def total(self, selection: Selection, as_of: int) -> tuple[str, list[Any]]:
        """Return the statement that tells how many rows there were in all, and its values."""
        where, values = self._table.where(selection)
        rows, past = self._table.rows, self.rows
        if selection.conditions or not self._table.projection.counted:
            return (
                f"SELECT (SELECT count(*) FROM {rows} WHERE position <= {as_of} AND {where}) + "  # noqa: S608
                f"(SELECT count(*) FROM {past} WHERE position <= {as_of} AND until > {as_of} AND {where}), 0",
                values * 2,
            )
        # Whole blocks were added up; of the block of the position, the rows are that begin or end in it.
        block = as_of // POSITIONS_PER_BLOCK
        within = f"BETWEEN {block * POSITIONS_PER_BLOCK} AND {as_of} AND {where}"
        value = "" if selection.counted is None else "AND value = ?"
        return (
            f"SELECT (SELECT coalesce(sum(change), 0) FROM {self.turns} WHERE block < {block} {value}) + "  # noqa: S608
            f"(SELECT count(*) FROM {rows} WHERE position {within}) + "
            f"(SELECT count(*) FROM {past} WHERE position {within}) - "
            f"(SELECT count(*) FROM {past} WHERE until {within}), "
            f"(SELECT coalesce(sum(change + {PLACE_GUARD} IS NOT guard), 0) FROM {self.turns})",
            values * 4,
        )

    def page(self, selection: Selection, as_of: int) -> tuple[str, list[Any]]:
        """Return the statement that selects rows as they were at a position, and its values."""
        is_plain = selection.sort is None and not selection.conditions
        parts = (self._lives if is_plain else self._held)(as_of)
        where, values = self._table.where(selection)
        if selection.after is not None:
            after, of_after = self._table.after(selection)
            where, values = f"{where} AND {after}", [*values, *of_after]
        order = self._table.order(selection)
        # Each part is in order by itself, by an index where there is one, and no longer than it need be.
        query = " UNION ALL ".join(
            f"SELECT * FROM (SELECT {self._table.sorting(selection)} AS sorted_by, * FROM ({part}) "  # noqa: S608
            f"WHERE {where} ORDER BY {order} LIMIT ?)"
            for part in parts
        )
        of_part = [*values, min(selection.limit + selection.offset, _LARGEST)]
        return (
            f"SELECT * FROM ({query}) ORDER BY {order} LIMIT ? OFFSET ?",  # noqa: S608
            [*of_part * 2, selection.limit, selection.offset],
        )

    def _held(self, as_of: int) -> list[str]:
        """Return the rows that held: those that still do, and those that no longer do."""
        names = ", ".join(["key, first_position, position, state", *self._table.columns])
        return [
            f"SELECT {names}, parked_from, NULL AS until, NULL AS was_removed, checksum "  # noqa: S608
            f"FROM {self._table.rows} WHERE position <= {as_of}",
            f"SELECT {names}, NULL AS parked_from, until, was_removed, checksum "  # noqa: S608
            f"FROM {self.rows} WHERE position <= {as_of} AND until > {as_of}",
        ]

    def _lives(self, as_of: int) -> list[str]:
        """Return the same, by looking up for one row after the other which one held in its place.

        They come by their first positions, so that a page is found without looking at all rows that held.
        The second part has those that were removed later.
        """
        names = ["state", *self._table.columns]

        def either(name: str, live: str = "r.{}", past: str = "p.{}") -> str:
            live, past = live.format(name), past.format(name)
            return f"CASE WHEN r.position <= {as_of} THEN {live} ELSE {past} END AS {name}"

        before = (
            f"(SELECT rowid FROM {self.rows} WHERE key = r.key AND position <= {as_of} "  # noqa: S608
            f"AND until > {as_of} ORDER BY position DESC LIMIT 1)"
        )
        return [
            f"SELECT r.key, r.first_position, {either('position')}, "  # noqa: S608
            f"{', '.join(map(either, names))}, {either('parked_from', past='NULL')}, "
            f"{either('until', live='NULL')}, {either('was_removed', live='NULL')}, {either('checksum')} "
            f"FROM {self._table.rows} r LEFT JOIN {self.rows} p "
            f"ON p.rowid = CASE WHEN r.position > {as_of} THEN {before} END "
            f"WHERE r.first_position <= {as_of}",
            "SELECT r.key, r.first_position, p.position AS position, "  # noqa: S608
            f"{', '.join(f'p.{name} AS {name}' for name in names)}, NULL AS parked_from, p.until AS until, "
            "p.was_removed AS was_removed, p.checksum AS checksum "
            f"FROM {self.rows} r JOIN {self.rows} p ON p.rowid = {before} "
            f"WHERE r.was_removed = 1 AND r.first_position <= {as_of} AND r.until > {as_of}",
        ]
