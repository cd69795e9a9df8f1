"""The tables of one read model on PostgreSQL, and the SQL about them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from types import NoneType
from typing import Any, get_args
from uuid import UUID

from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from deployledger.adapters.postgres import SCHEMA, Session
from deployledger.adapters.read_models.postgres.past import PastTable, past_row
from deployledger.projections.projection import Projection
from deployledger.projections.store import (
    KEY,
    POSITIONS_PER_BLOCK,
    Changes,
    PastRow,
    Selection,
    StoredRow,
)

MODELS = Identifier(SCHEMA, "read_models")
TABLES = Identifier(SCHEMA, "read_model_tables")
PARKED = Identifier(SCHEMA, "read_model_parked")

_TYPES = {
    str: SQL("text"),
    int: SQL("bigint"),
    float: SQL("float8"),
    bool: SQL("boolean"),
    datetime: SQL("timestamptz"),
    UUID: SQL("uuid"),
}
_OWN_COLUMNS = 5


class RowTable:
    """One generation of a projection's rows. Its statements are text, made once."""

    def __init__(self, projection: Projection[Any], generation: int) -> None:
        self.projection = projection
        self.generation = generation
        self.label = f"{projection.name}_v{projection.version}_{generation}"
        self.rows = Identifier(SCHEMA, self.label)
        self.counts = Identifier(SCHEMA, f"{self.label}_counts")
        self._statements: dict[tuple[Any, ...], bytes] = {}
        # Names of columns of ours and of the projection are kept apart by a prefix.
        self.columns = [Identifier(column_name(name)) for name in projection.columns]
        own = [SQL(name) for name in ("key", "first_position", "position", "parked_from", "state")]
        self.all_columns = SQL(", ").join([*own, *self.columns])
        self._kinds = [_TYPES[kind] for kind in projection.column_types.values()]
        kinds = [kind.as_string() for kind in self._kinds]
        self.copy_types = ["text", "int8", "int8", "int8", "text", *kinds]
        self.past = PastTable(self) if projection.temporal else None

    def column_definitions(self) -> Composed:
        """Return the definitions of the projection's columns, each with a comma before it."""
        columns = [
            SQL(", {} {}{}").format(name, kind, SQL(' COLLATE "C"') if kind == _TYPES[str] else SQL(""))
            for name, kind in zip(self.columns, self._kinds, strict=True)
        ]
        return SQL("").join(columns)

    def create_statements(self) -> list[Composed | SQL]:
        """Return the statements that create the tables, without the indexes that can wait."""
        statements: list[Composed | SQL] = [
            SQL(
                """CREATE TABLE {} (
                    key text COLLATE "C" PRIMARY KEY,
                    first_position bigint NOT NULL,
                    position bigint NOT NULL,
                    parked_from bigint,
                    state text{}
                )"""
            ).format(self.rows, self.column_definitions())
        ]
        if self.projection.counted:
            statements.append(
                SQL(
                    "CREATE TABLE {} (block bigint, value boolean, rows bigint NOT NULL, "
                    "PRIMARY KEY (block, value))"
                ).format(self.counts)
            )
        if self.past is not None:
            statements += self.past.create_statements()
        return statements

    def complete_statements(self) -> list[Composed | SQL]:
        """Return the statements that make the indexes of a filled table."""
        index = SQL("CREATE INDEX ON {} ({})")
        statements: list[Composed | SQL] = [index.format(self.rows, SQL("first_position"))]
        for names in self.projection.indexes:
            columns = [Identifier(column_name(name)) for name in names]
            statements.append(index.format(self.rows, SQL(", ").join([*columns, SQL("first_position")])))
        if self.past is not None:
            statements += self.past.complete_statements()
        statements.append(SQL("ANALYZE {}").format(self.rows))
        return statements

    def drop_statements(self) -> list[Composed | SQL]:
        """Return the statements that drop the tables, with what is parked."""
        return [
            *drop_statements(self.label),
            SQL("DELETE FROM {} WHERE generation = {}").format(PARKED, Literal(self.generation)),
            SQL("DELETE FROM {} WHERE generation = {}").format(TABLES, Literal(self.generation)),
        ]

    @property
    def counted_column(self) -> str:
        """The name of the counted column, of a projection that has one."""
        assert self.projection.counted is not None  # noqa: S101  # the caller looked
        return column_name(self.projection.counted)

    def recounted(self) -> Composed:
        """Return the query that counts the rows by block and value."""
        return SQL(
            "SELECT first_position / {size} AS block, {value} AS value, count(*) AS rows FROM {rows} "
            "WHERE state IS NOT NULL GROUP BY 1, 2"
        ).format(
            size=Literal(POSITIONS_PER_BLOCK),
            value=Identifier(self.counted_column),
            rows=self.rows,
        )

    @cached_property
    def select_by_key(self) -> bytes:
        """The statement that selects rows by an array of keys."""
        return SQL("SELECT {} FROM {} WHERE key = ANY(%s)").format(self.all_columns, self.rows).as_bytes()

    @cached_property
    def upsert(self) -> bytes:
        """The statement that stores rows, given as one array a column."""
        own = [SQL(kind) for kind in ("text", "bigint", "bigint", "bigint", "text")]
        names = [SQL("first_position"), SQL("position"), SQL("parked_from"), SQL("state"), *self.columns]
        return (
            SQL(
                "INSERT INTO {rows} ({columns}) SELECT * FROM unnest({arrays}) "
                "ON CONFLICT (key) DO UPDATE SET {changes}"
            )
            .format(
                rows=self.rows,
                columns=self.all_columns,
                arrays=SQL(", ").join(SQL("%b::{}[]").format(kind) for kind in [*own, *self._kinds]),
                changes=SQL(", ").join(SQL("{0} = excluded.{0}").format(name) for name in names),
            )
            .as_bytes()
        )

    @cached_property
    def copy(self) -> bytes:
        """The statement that loads rows in bulk."""
        return SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(self.rows, self.all_columns).as_bytes()

    def get_statement(self, end: Composable) -> bytes:
        """Return the statement that gets one row with the state of the read model, by name, version, key."""
        own = SQL(", ").join(SQL("r.{}").format(it) for it in self.row_columns())
        return (
            SQL(
                "SELECT m.generation, m.position, m.marker, {end}, {own} FROM {models} m "
                "LEFT JOIN {rows} r ON r.key = %s WHERE m.name = {name} AND m.version = {version}"
            )
            .format(
                end=end,
                own=own,
                models=MODELS,
                rows=self.rows,
                name=Literal(self.projection.name),
                version=Literal(self.projection.version),
            )
            .as_bytes()
        )

    def row_columns(self) -> list[Composable]:
        """Return the names of the columns, in the order of `stored_row`."""
        own = ("key", "first_position", "position", "parked_from", "state")
        return [*(Identifier(name) for name in own), *self.columns]

    def select_statement(
        self, selection: Selection, answer: "RowTable", end: Composable
    ) -> tuple[bytes, list[Any]]:
        """Return the statement that selects rows with the state of both read models, and its values."""
        shape = (
            answer.generation,
            selection.counted is None,
            tuple((it.column, it.operator) for it in selection.conditions),
            selection.sort,
            selection.descending,
            selection.after is None or selection.after[0] is None,
            selection.after is None,
            self._uses_counts(selection),
        )
        statement = self._statements.get(shape)
        if statement is None:
            statement = self._statements[shape] = self._select(selection, answer, end)
        return statement, self._values(selection)

    def _uses_counts(self, selection: Selection) -> bool:
        """Return whether the counts say where the page begins."""
        is_filtered = bool(selection.conditions) or self.projection.counted is None
        return not is_filtered and selection.offset > 0 and not selection.sort and selection.after is None

    def _select(self, selection: Selection, answer: "RowTable", end: Composable) -> bytes:
        sorting = self.sorting(selection)
        direction = SQL("DESC" if selection.descending else "ASC")
        condition = where = self.where(selection)
        offset: Composable = SQL("%s")
        if selection.after is not None:
            condition = SQL("{} AND {}").format(where, self.after(selection))
        if self._uses_counts(selection):
            edge = SQL("(start.block + 1)" if selection.descending else "start.block")
            compare = SQL("<" if selection.descending else ">=")
            condition = SQL("{} AND first_position {} {} * {}").format(
                where, compare, edge, Literal(POSITIONS_PER_BLOCK)
            )
            offset = SQL("%s - start.before")
        page = SQL(
            "SELECT {sorting} AS sorted_by, first_position, key FROM {rows} WHERE {condition} "
            "ORDER BY {order} LIMIT %s OFFSET {offset}"
        ).format(
            sorting=sorting,
            rows=self.rows,
            condition=condition,
            order=SQL("{0} {1}, first_position {1}").format(sorting, direction)
            if selection.sort
            else SQL("first_position {}").format(direction),
            offset=offset,
        )
        source = SQL("({}) AS p").format(page)
        if self._uses_counts(selection):
            source = SQL("({}) AS start CROSS JOIN LATERAL {}").format(self._start(selection), source)
        return (
            SQL(
                "SELECT m.generation, o.generation, m.position, m.marker, o.position, o.marker, {end}, "
                "{total}, p.sorted_by, p.first_position, {columns} "
                "FROM {models} m JOIN {models} o ON o.name = {answer} AND o.version = {answer_version} "
                "LEFT JOIN ({source} JOIN {answers} a ON a.key = p.key) ON TRUE "
                "WHERE m.name = {name} AND m.version = {version} ORDER BY {order}"
            )
            .format(
                end=end,
                total=self._total(selection, where),
                columns=SQL(", ").join(SQL("a.{}").format(it) for it in answer.row_columns()),
                models=MODELS,
                answer=Literal(answer.projection.name),
                answer_version=Literal(answer.projection.version),
                source=source,
                answers=answer.rows,
                name=Literal(self.projection.name),
                version=Literal(self.projection.version),
                order=SQL("p.sorted_by {0}, p.first_position {0}").format(direction),
            )
            .as_bytes()
        )

    def _values(self, selection: Selection) -> list[Any]:
        """Return the values of a statement, in the order in which it has places for them."""
        counted = self._counted_values(selection)
        where = self.where_values(selection)
        is_counted_at_hand = not selection.conditions and self.projection.counted is not None
        return [
            *(counted if is_counted_at_hand else where),
            *([*counted, selection.offset] if self._uses_counts(selection) else []),
            *where,
            *self.after_values(selection),
            selection.limit,
            selection.offset,
        ]

    def where_values(self, selection: Selection) -> list[Any]:
        """Return the values of the condition of a selection."""
        return [*self._counted_values(selection), *(it.value for it in selection.conditions)]

    def _counted_values(self, selection: Selection) -> list[Any]:
        is_counted = selection.counted is not None and self.projection.counted is not None
        return [selection.counted] if is_counted else []

    def after_values(self, selection: Selection) -> list[Any]:
        """Return the values of the condition of the rows behind one."""
        if selection.after is None:
            return []
        value, position = selection.after
        return [value, position] if selection.sort and value is not None else [position]

    def where(self, selection: Selection) -> Composable:
        """Return the condition of a selection, without its place in the order."""
        conditions: list[Composable] = [SQL("state IS NOT NULL")]
        if selection.counted is not None and self.projection.counted:
            conditions.append(SQL("{} = %s").format(Identifier(column_name(self.projection.counted))))
        for it in selection.conditions:
            name = Identifier(column_name(it.column))
            match it.operator:
                case "contains":
                    conditions.append(SQL("strpos(lower({}), lower(%s)) > 0").format(name))
                case "has":
                    conditions.append(SQL("strpos({}, %s) > 0").format(name))
                case "begins":
                    conditions.append(SQL("starts_with({}, %s)").format(name))
                case "=" | ">=" | "<":
                    conditions.append(SQL("{} {} %s").format(name, SQL(it.operator)))
                case other:
                    raise ValueError(f"There is no operator {other!r}.")
        return SQL(" AND ").join(conditions)

    def sorting(self, selection: Selection) -> Composable:
        """Return the column that a selection is sorted by."""
        return Identifier(column_name(selection.sort)) if selection.sort else SQL("first_position")

    def after(self, selection: Selection) -> Composable:
        """Return the condition of the rows behind one. NULL is the largest."""
        assert selection.after is not None  # noqa: S101  # the caller looked
        compare = SQL("<" if selection.descending else ">")
        if selection.sort is None:
            return SQL("first_position {} %s").format(compare)
        name = Identifier(column_name(selection.sort))
        if selection.after[0] is None:
            others = SQL("OR {} IS NOT NULL").format(name) if selection.descending else SQL("")
            return SQL("(({} IS NULL AND first_position {} %s) {})").format(name, compare, others)
        condition = SQL("({}, first_position) {} (%s, %s)").format(name, compare)
        field = self.projection.row_type.model_fields.get(selection.sort)
        if not selection.descending and field is not None and NoneType in get_args(field.annotation):
            return SQL("({} OR {} IS NULL)").format(condition, name)
        return condition

    def _total(self, selection: Selection, where: Composable) -> Composable:
        if selection.conditions or not self.projection.counted:
            return SQL("(SELECT count(*) FROM {} WHERE {})").format(self.rows, where)
        counts = SQL("SELECT coalesce(sum(rows), 0)::bigint FROM {}").format(self.counts)
        if selection.counted is None:
            return SQL("({})").format(counts)
        return SQL("({} WHERE value = %s)").format(counts)

    def _start(self, selection: Selection) -> Composable:
        """Return the query of the block in which the row after the offset is, and how many are before it."""
        blocks = SQL("SELECT block, sum(rows)::bigint AS rows FROM {} GROUP BY block").format(self.counts)
        if selection.counted is not None:
            blocks = SQL("SELECT block, rows FROM {} WHERE value = %s").format(self.counts)
        return SQL(
            "SELECT block, (until - rows)::bigint AS before FROM "
            "(SELECT block, rows, sum(rows) OVER "
            "(ORDER BY block {direction} ROWS UNBOUNDED PRECEDING) AS until "
            "FROM ({blocks}) AS blocks) AS sums WHERE until > %s ORDER BY block {direction} LIMIT 1"
        ).format(direction=SQL("DESC" if selection.descending else "ASC"), blocks=blocks)


def column_name(name: str) -> str:
    """Return the column's name for a field, or for the key."""
    return "key" if name == KEY else f"c_{name}"


def stored_row(record: Sequence[Any]) -> StoredRow | None:
    """Return the row in a record: key, first position, position, parked from, state, columns."""
    if record[0] is None:
        return None
    return StoredRow(record[0], record[1], record[2], record[3], tuple(record[_OWN_COLUMNS:]), record[4])


class SessionTable:
    """A table as one session sees and changes it."""

    def __init__(self, session: Session, table: RowTable) -> None:
        self._session = session
        self._table = table

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        """Return the rows that there are among those with these keys."""
        with self._session.cursor(binary=True, row_factory=tuple_row) as cursor:
            found = cursor.execute(self._table.select_by_key, (list(keys),), prepare=True).fetchall()
        return [row for record in found if (row := stored_row(record)) is not None]

    def parked_streams(self) -> list[str]:
        """Return the keys of what is parked by stream, not by row."""
        query = SQL("SELECT DISTINCT key FROM {} WHERE generation = %s AND key LIKE 'stream:%%'")
        found = self._session.execute(query.format(PARKED), (self._table.generation,)).fetchall()
        return [next(iter(record.values())) if isinstance(record, dict) else record[0] for record in found]

    def past(self, key: str) -> list[PastRow]:
        """Return the past rows with a key, in order."""
        assert self._table.past is not None  # noqa: S101  # only of a temporal projection
        with self._session.cursor(binary=True, row_factory=tuple_row) as cursor:
            found = cursor.execute(self._table.past.select_by_key, (key,)).fetchall()
        return [row for record in found if (row := past_row(record)) is not None]

    def save(self, changes: Changes) -> None:
        """Make the changes."""
        with self._session.transaction():
            if len(changes.new) > _COPIED_FROM:
                self._copy(changes.new)
                self._upsert(changes.changed)
            else:
                self._upsert([*changes.new, *changes.changed])
            self._save_others(changes)
            if self._table.past is not None:
                self._save_past(self._table.past, changes)

    def recount(self) -> None:
        """Make the counts anew, from the rows."""
        table = self._table
        with self._session.transaction():
            self._session.execute(SQL("DELETE FROM {}").format(table.counts))
            self._session.execute(
                SQL("INSERT INTO {} (block, value, rows) {}").format(table.counts, table.recounted())
            )
            if table.past is not None:
                past = table.past
                self._session.execute(SQL("DELETE FROM {}").format(past.turns))
                self._session.execute(
                    SQL("INSERT INTO {} (block, value, change) {}").format(past.turns, past.returned())
                )

    def _copy(self, rows: Iterable[StoredRow]) -> None:
        with self._session.cursor() as cursor, cursor.copy(self._table.copy) as copy:
            copy.set_types(self._table.copy_types)
            write = copy.write_row
            for key, first_position, position, parked_from, columns, state in rows:
                text = state.decode() if isinstance(state, bytes) else state
                write((key, first_position, position, parked_from, text, *columns))

    def _upsert(self, rows: Sequence[StoredRow]) -> None:
        if rows:
            keys, firsts, positions, parked, columns, states = zip(*rows, strict=True)
            texts = [it.decode() if isinstance(it, bytes) else it for it in states]
            by_column = [list(column) for column in zip(*columns, strict=True)] if columns[0] else []
            values = [list(keys), list(firsts), list(positions), list(parked), texts, *by_column]
            self._session.execute(self._table.upsert, values, prepare=True)

    def _save_others(self, changes: Changes) -> None:
        session, generation = self._session, self._table.generation
        if changes.removed:
            session.execute(
                SQL("DELETE FROM {} WHERE key = ANY(%s)").format(self._table.rows), (changes.removed,)
            )
        if changes.unparked:
            session.execute(
                SQL("DELETE FROM {} WHERE generation = %s AND key = ANY(%s)").format(PARKED),
                (generation, changes.unparked),
            )
        if changes.parked:
            with session.cursor() as cursor:
                cursor.executemany(
                    SQL("INSERT INTO {} VALUES (%s, %s, %s, %s, %s, %s, %s, %s)").format(PARKED),
                    [(generation, *it) for it in changes.parked],
                )
        self._add_up(self._table.counts, "rows", changes.counts)

    def _add_up(self, table: Identifier, column: str, counts: Mapping[tuple[int, bool], int]) -> None:
        if changed := {place: change for place, change in counts.items() if change}:
            with self._session.cursor() as cursor:
                cursor.executemany(
                    SQL(
                        "INSERT INTO {0} AS c VALUES (%s, %s, %s) "
                        "ON CONFLICT (block, value) DO UPDATE SET {1} = c.{1} + excluded.{1}"
                    ).format(table, Identifier(column)),
                    [(block, value, change) for (block, value), change in sorted(changed.items())],
                )

    def _save_past(self, past: PastTable, changes: Changes) -> None:
        if changes.forgotten:
            self._session.execute(
                SQL("DELETE FROM {} WHERE key = ANY(%s)").format(past.rows), (changes.forgotten,)
            )
        if changes.past:
            with self._session.cursor() as cursor, cursor.copy(past.copy) as copy:
                copy.set_types(past.copy_types)
                write = copy.write_row
                for key, first_position, position, until, was_removed, columns, state in changes.past:
                    text = state.decode() if isinstance(state, bytes) else state
                    write((key, first_position, position, until, was_removed, text, *columns))
        self._add_up(past.turns, "change", changes.turns)


def drop_statements(label: str) -> list[Composed]:
    """Return the statements that drop the tables of one generation of rows."""
    suffixes = ("", "_counts", "_past", "_turns")
    return [SQL("DROP TABLE IF EXISTS {}").format(Identifier(SCHEMA, label + it)) for it in suffixes]


_COPIED_FROM = 200
