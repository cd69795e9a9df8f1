"""What was superseded in a temporal read model on PostgreSQL, and the SQL about it."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from deployledger.adapters.postgres import SCHEMA
from deployledger.projections.store import POSITIONS_PER_BLOCK, PastRow, Selection

if TYPE_CHECKING:
    from deployledger.adapters.read_models.postgres.tables import RowTable

_OWN_COLUMNS = ("key", "first_position", "position", "until", "was_removed", "state")
_LARGEST = (1 << 63) - 1


class PastTable:
    """The past rows beside one generation of a projection's rows, and how the counts changed.

    A row held at a position if that is from its ``position`` on, and before its ``until``.
    """

    def __init__(self, table: "RowTable") -> None:
        self._table = table
        self.rows = Identifier(SCHEMA, f"{table.label}_past")
        self.turns = Identifier(SCHEMA, f"{table.label}_turns")
        self.row_columns: list[Composable] = [*map(Identifier, _OWN_COLUMNS), *table.columns]
        self.copy_types = ["text", "int8", "int8", "int8", "bool", "text", *table.copy_types[5:]]

    def create_statements(self) -> list[Composed]:
        """Return the statements that create the tables, without the indexes that can wait."""
        statements = [
            SQL(
                """CREATE TABLE {} (
                    key text COLLATE "C" NOT NULL,
                    first_position bigint NOT NULL,
                    position bigint NOT NULL,
                    until bigint NOT NULL,
                    was_removed boolean NOT NULL,
                    state text NOT NULL{}
                )"""
            ).format(self.rows, self._table.column_definitions())
        ]
        if self._table.projection.counted:
            statements.append(
                SQL(
                    "CREATE TABLE {} (block bigint, value boolean, change bigint NOT NULL, "
                    "PRIMARY KEY (block, value))"
                ).format(self.turns)
            )
        return statements

    def complete_statements(self) -> list[Composed]:
        """Return the statements that make the indexes of filled tables."""
        return [
            SQL("CREATE INDEX ON {} (position)").format(self._table.rows),
            SQL("CREATE UNIQUE INDEX ON {} (key, position)").format(self.rows),
            SQL("CREATE INDEX ON {} (position)").format(self.rows),
            SQL("CREATE INDEX ON {} (until)").format(self.rows),
            SQL("CREATE INDEX ON {} (first_position) WHERE was_removed").format(self.rows),
            SQL("ANALYZE {}").format(self.rows),
        ]

    @cached_property
    def select_by_key(self) -> bytes:
        """The statement that selects the past rows with a key."""
        columns = SQL(", ").join(self.row_columns)
        return SQL("SELECT {} FROM {} WHERE key = %s ORDER BY position").format(columns, self.rows).as_bytes()

    @cached_property
    def copy(self) -> bytes:
        """The statement that loads past rows in bulk."""
        columns = SQL(", ").join(self.row_columns)
        return SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(self.rows, columns).as_bytes()

    def returned(self) -> Composed:
        """Return the query that makes the changes of the counts from the rows, by block and value."""
        value = Identifier(self._table.counted_column)
        return SQL(
            "SELECT block, value, sum(change)::bigint AS change FROM ("
            "SELECT position / {size} AS block, {value} AS value, 1 AS change FROM {rows} "
            "WHERE state IS NOT NULL "
            "UNION ALL SELECT position / {size}, {value}, 1 FROM {past} "
            "UNION ALL SELECT until / {size}, {value}, -1 FROM {past}"
            ") AS turns GROUP BY 1, 2"
        ).format(size=Literal(POSITIONS_PER_BLOCK), value=value, rows=self._table.rows, past=self.rows)

    # Selecting --------------------------------------------------------------------------------------

    def select_statement(self, selection: Selection, as_of: int) -> tuple[bytes, list[Any]]:
        """Return the statement that selects rows as they were at a position, and its values.

        The position is part of its text: no plan would do for early and for late ones.
        """
        total, of_total = self._total(selection, as_of)
        page, of_page = self._page(selection, as_of)
        statement = SQL(
            "SELECT m.generation, m.position, m.marker, {total}, p.* FROM {models} m "
            "LEFT JOIN ({page}) AS p ON TRUE WHERE m.name = {name} AND m.version = {version} ORDER BY {order}"
        ).format(
            total=total,
            models=Identifier(SCHEMA, "read_models"),
            page=page,
            name=Literal(self._table.projection.name),
            version=Literal(self._table.projection.version),
            order=_order(selection),
        )
        return statement.as_bytes(), [*of_total, *of_page]

    def _total(self, selection: Selection, as_of: int) -> tuple[Composable, list[Any]]:
        """Return how many rows there were in all, and the values of that."""
        where, values = self._table.where(selection), self._table.where_values(selection)
        names = {"rows": self._table.rows, "past": self.rows, "where": where, "as_of": Literal(as_of)}
        if selection.conditions or not self._table.projection.counted:
            return SQL(
                "(SELECT count(*) FROM {rows} WHERE position <= {as_of} AND {where}) + "
                "(SELECT count(*) FROM {past} WHERE position <= {as_of} AND until > {as_of} AND {where})"
            ).format(**names), values * 2
        # Whole blocks were added up; of the block of the position, the rows are that begin or end in it.
        block = as_of // POSITIONS_PER_BLOCK
        return SQL(
            "(SELECT coalesce(sum(change), 0)::bigint FROM {turns} WHERE block < {block} {value}) + "
            "(SELECT count(*) FROM {rows} WHERE position BETWEEN {first} AND {as_of} AND {where}) + "
            "(SELECT count(*) FROM {past} WHERE position BETWEEN {first} AND {as_of} AND {where}) - "
            "(SELECT count(*) FROM {past} WHERE until BETWEEN {first} AND {as_of} AND {where})"
        ).format(
            turns=self.turns,
            block=Literal(block),
            first=Literal(block * POSITIONS_PER_BLOCK),
            value=SQL("") if selection.counted is None else SQL("AND value = %s"),
            **names,
        ), values * 4

    def _page(self, selection: Selection, as_of: int) -> tuple[Composable, list[Any]]:
        """Return the query of the rows that are asked for, and its values."""
        is_plain = selection.sort is None and not selection.conditions
        parts = (self._lives if is_plain else self._held)(as_of)
        where = self._table.where(selection)
        values = self._table.where_values(selection)
        if selection.after is not None:
            where = SQL("{} AND {}").format(where, self._table.after(selection))
            values = [*values, *self._table.after_values(selection)]
        # Each part is in order by itself, by an index where there is one, and no longer than it need be.
        query = SQL(" UNION ALL ").join(
            SQL("(SELECT {} AS sorted_by, * FROM {} WHERE {} ORDER BY {} LIMIT %s)").format(
                self._table.sorting(selection), part, where, _order(selection)
            )
            for part in parts
        )
        of_part = [*values, min(selection.limit + selection.offset, _LARGEST)]
        return SQL("SELECT * FROM ({}) AS p ORDER BY {} LIMIT %s OFFSET %s").format(
            query, _order(selection)
        ), [*of_part * 2, selection.limit, selection.offset]

    def _held(self, as_of: int) -> list[Composable]:
        """Return the rows that held: those that still do, and those that no longer do."""
        return [
            SQL("(SELECT key, first_position, {} FROM {} AS r WHERE position <= {}) AS held").format(
                self._others("r", as_of), self._table.rows, Literal(as_of)
            ),
            SQL(
                "(SELECT key, first_position, {} FROM {} AS r WHERE position <= {as_of} AND until > {as_of}) "
                "AS held"
            ).format(self._others("r"), self.rows, as_of=Literal(as_of)),
        ]

    def _lives(self, as_of: int) -> list[Composable]:
        """Return the same, by looking up for one row after the other which one held in its place.

        They come by their first positions, so that a page is found without looking at all rows that held.
        The second part has those that were removed later.
        """
        before = SQL(
            "SELECT {} FROM {} AS p WHERE p.key = r.key AND p.position <= {as_of} AND p.until > {as_of} "
            "ORDER BY p.position DESC LIMIT 1"
        ).format(self._others("p"), self.rows, as_of=Literal(as_of))
        life = SQL(
            "(SELECT r.key, r.first_position, v.* FROM {} AS r CROSS JOIN LATERAL ({}) AS v WHERE {}) AS held"
        )
        return [
            life.format(
                self._table.rows,
                SQL(
                    "SELECT {} WHERE r.position <= {as_of} "
                    "UNION ALL (SELECT * FROM ({}) AS b WHERE r.position > {as_of})"
                ).format(self._others("r", as_of), before, as_of=Literal(as_of)),
                SQL("r.first_position <= {}").format(Literal(as_of)),
            ),
            life.format(
                self.rows,
                before,
                SQL("r.was_removed AND r.first_position <= {0} AND r.until > {0}").format(Literal(as_of)),
            ),
        ]

    def _others(self, alias: LiteralString, as_of: int | None = None) -> Composable:
        """Return the columns behind key and first position, in the order of `stored_row`."""
        parked_from: Composable = SQL("NULL::bigint AS parked_from")  # who is parked is not superseded
        if as_of is not None:
            parked_from = SQL("CASE WHEN parked_from <= {0} THEN parked_from END AS parked_from").format(
                Literal(as_of)
            )
        names = [SQL("{}.{}").format(SQL(alias), it) for it in (SQL("state"), *self._table.columns)]
        return SQL(", ").join([SQL("{}.position").format(SQL(alias)), parked_from, *names])


def _order(selection: Selection) -> Composable:
    direction = SQL("DESC" if selection.descending else "ASC")
    if selection.sort is None:
        return SQL("first_position {}").format(direction)
    return SQL("sorted_by {0}, first_position {0}").format(direction)


def past_row(record: Sequence[Any]) -> PastRow | None:
    """Return the past row in a record of all its columns; None if it is an empty one of a join."""
    if record[0] is None:
        return None
    key, first_position, position, until, was_removed, state, *columns = record
    return PastRow(key, first_position, position, until, was_removed, tuple(columns), state)
