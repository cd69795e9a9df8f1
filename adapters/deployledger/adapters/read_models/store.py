"""The store of read models: what SQLite and PostgreSQL have in common, which is nearly everything."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar

from deployledger.adapters.dialect import Dialect, Statements
from deployledger.adapters.read_models import selecting
from deployledger.adapters.read_models.catalog import Catalog, Head, gone, is_of
from deployledger.adapters.read_models.comparison import TableComparison
from deployledger.adapters.read_models.records import DamageError
from deployledger.adapters.read_models.row_table import RowTable
from deployledger.adapters.read_models.selecting import Query
from deployledger.adapters.read_models.transactions import BuildingTable, Transaction
from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import ReadModelError
from deployledger.projections.projection import Projection
from deployledger.projections.rows import Counts, ParkedEvent
from deployledger.projections.selection import Found, Selected, SelectedRow, Selection

_T = TypeVar("_T")
_ATTEMPTS = 5


class Moment(NamedTuple):
    """What there was at one moment.

    Attributes:
        heads: of the read models that were asked for.
        rows: what a query selected.
        numbers: the values of the expressions that were asked for.
        end: the end of the log; None if that is in another database.
    """

    heads: list[Head]
    rows: list[tuple[Any, ...]]
    numbers: Sequence[int | None]
    end: Mark | None


class DatabaseReadModels(Catalog):
    """The store of read models in a database; see the port."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect)
        self._live: dict[tuple[str, int], RowTable] = {}

    # What differs -------------------------------------------------------------------------------------

    @abstractmethod
    def _at_once(
        self,
        sql: Statements,
        tables: Sequence[RowTable],
        query: Query,
        order: str = "",
        numbers: Sequence[Query] = (),
    ) -> Moment | None:
        """Return what there is at one moment; None if the tables are no longer those that are read.

        Args:
            query: selects rows; ``key`` is one of their columns.
            order: what follows the query, to sort the rows.
            numbers: expressions of numbers.
        """

    @abstractmethod
    def _is_missing_table(self, error: Exception) -> bool:
        """Return whether an error says that a table does not exist: another process has dropped it."""

    @abstractmethod
    def _check_definition(self, sql: Statements, table: RowTable) -> None:
        """Check that tables and indexes are as they were created, where the server does not."""

    # Reading ------------------------------------------------------------------------------------------

    def _read(
        self, read: Callable[[Statements, list[RowTable]], _T | None], *projections: Projection[Any]
    ) -> _T:
        """Return what is read from the tables that are read; again, if others have become that meanwhile.

        Args:
            read: returns None if the tables that it is given are no longer read.
        """
        places = [(projection.name, projection.version) for projection in projections]
        for _ in range(_ATTEMPTS):
            with self.reading() as sql:
                for place, projection in zip(places, projections, strict=True):
                    if place not in self._live:
                        self._look_up(sql, projection)
                try:
                    answer = read(sql, [self._live[place] for place in places])
                except Exception as error:  # of whichever driver
                    if not self._is_missing_table(error):
                        raise
                    answer = None
                if answer is not None:
                    return answer
                for projection in projections:
                    self._look_up(sql, projection)
        raise ReadModelError(
            f"The tables of the read models in {self.described_as} are missing, or keep changing.",
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
            moment = self._at_once(sql, tables, (table.rows.select("key = ?"), [key]))
            if moment is None:
                return None
            (head,) = moment.heads
            row = table.stored_row(moment.rows[0]) if moment.rows else None
            return Found(row, head.position, moment.end, head.event_marker)

        return self._read(read, projection)

    def select(self, projection: Projection[Any], selection: Selection, answer: Projection[Any]) -> Selected:
        """Return rows of one read model that those of another one with the same keys select."""

        def read(sql: Statements, tables: list[RowTable]) -> Selected | None:
            table, other = tables
            numbers = [self._first_parked(table)]
            if selection.conditions:
                numbers.append(selecting.total(table, selection))
            moment = self._at_once(
                sql,
                tables if other is not table else [table],
                selecting.answers(table, other, selection),
                selecting.order_of_page(selection),
                numbers,
            )
            if moment is None:
                return None
            parked_from, *totals = moment.numbers
            self._check_parked(sql, table, parked_from)
            sorted_by = _sorting_decoder(table, selection)
            width = 2 + other.rows.width
            rows = [
                SelectedRow(sorted_by(values[0]), values[1], other.stored_row(values[2:width]))
                for values in moment.rows
            ]
            if other is not table:
                for values in moment.rows:
                    table.rows.check(values[width:])
            total = (totals[0] or 0) if totals else moment.heads[0].rows(selection.counted)
            _check_is_whole(table, selection, total, rows)
            position, marker = min(head.mark for head in moment.heads)
            return Selected(rows, total, position, moment.end, marker, parked_from)

        return self._read(read, projection, answer)

    def select_as_of(self, projection: Projection[Any], selection: Selection, as_of: int) -> Selected:
        """Return rows of a temporal read model as they were at a position."""

        def read(sql: Statements, tables: list[RowTable]) -> Selected | None:
            (table,) = tables
            page = selecting.page_as_of(table, selection, as_of)
            numbers = [self._first_parked(table), selecting.total_as_of(table, selection, as_of)]
            moment = self._at_once(sql, tables, page, selecting.order_of_page(selection), numbers)
            if moment is None:
                return None
            (head,) = moment.heads
            parked_from, total = moment.numbers
            self._check_parked(sql, table, parked_from)
            sorted_by = _sorting_decoder(table, selection)
            rows = [
                SelectedRow(sorted_by(values[0]), values[1], table.row_as_of(values[2:], as_of))
                for values in moment.rows
            ]
            _check_is_whole(table, selection, total or 0, rows)
            return Selected(rows, total or 0, head.position, None, head.event_marker, parked_from)

        return self._read(read, projection)

    def _first_parked(self, table: RowTable) -> Query:
        """Return the expression of the position of the first parked event."""
        query = f"(SELECT min(position) FROM {self.parked_events.name} WHERE generation = ?)"  # noqa: S608
        return query, [table.generation]

    def _check_parked(self, sql: Statements, table: RowTable, position: int | None) -> None:
        """Check the record of a parked event, where the database does not find damage itself."""
        if position is not None and self.parked_events.is_checked:
            query = self.parked_events.select("generation = ? AND position = ?")
            for record in sql.query(query, (table.generation, position)):
                self.parked_events.check(record)

    def parked(
        self, projection: Projection[Any], key: str | None = None, limit: int = 1000
    ) -> list[ParkedEvent]:
        """Return parked events in the order of the log, of one row or of all."""
        of_key, values = ("", ()) if key is None else ("AND p.key = ? ", (key,))
        query = (
            f"SELECT {self.parked_events.of('p')} FROM {self.parked_events.name} p "  # noqa: S608
            f"JOIN {self.models.name} m ON m.generation = p.generation "
            f"WHERE {is_of(projection, 'm')} {of_key}ORDER BY p.position LIMIT ?"
        )
        with self.reading() as sql:
            records = sql.query(query, (*values, limit))
            return [ParkedEvent(*self.parked_events.values(record)[1:]) for record in records]

    # Applying -----------------------------------------------------------------------------------------

    @contextmanager
    def applying(self, projections: Sequence[Projection[Any]]) -> Iterator["Transaction"]:
        """Enter a transaction in which nobody else applies events to these read models."""
        with self.transaction() as sql:
            in_order = sorted(projections, key=lambda projection: projection.name)  # none waits for another
            records = {
                projection.name: self.require(sql, projection, self._for_update) for projection in in_order
            }
            yield Transaction(self, sql, records)

    def building(self, projection: Projection[Any], generation: int) -> "BuildingTable":
        """Return a table that is being built, whose changes are saved in transactions of their own."""
        return BuildingTable(self, self.row_table(projection, generation))

    # Comparing ----------------------------------------------------------------------------------------

    @contextmanager
    def compare(self, projection: Projection[Any], generation: int) -> Iterator[TableComparison]:
        """Enter with what compares the table that is read with another one, both as they are on entering."""
        with self.snapshot() as sql:
            record = self.require(sql, projection)
            if record.generation is None:
                raise gone(projection.label)
            table = self.row_table(projection, record.generation)
            self._check_definition(sql, table)
            yield TableComparison(
                sql,
                table,
                self.row_table(projection, generation),
                record.position,
                Counts(record.total, record.counted),
            )


def _sorting_decoder(table: RowTable, selection: Selection) -> Callable[[Any], Any]:
    """Return what decodes the values that a selection is sorted by."""
    if selection.sort is None:
        return int
    return partial(table.dialect.decode, table.projection.column_types.get(selection.sort, str))


def _check_is_whole(table: RowTable, selection: Selection, total: int, rows: Sequence[SelectedRow]) -> None:
    """Check that a page has as many rows as are counted, where the database does not find damage itself."""
    is_counted = table.projection.counted is not None and not selection.conditions
    if not table.rows.is_checked or not is_counted or selection.after is not None:
        return
    if len(rows) != max(0, min(selection.limit, total - selection.offset)):
        raise DamageError(f"a page of {table.projection.label} has {len(rows)} rows, of {total} in all")
