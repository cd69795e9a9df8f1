"""The statements that select rows of a read model, as they are and as they were at a position."""

from types import NoneType
from typing import Any, get_args

from deployledger.adapters.dialect import direction
from deployledger.adapters.read_models.row_table import RowTable, column_name
from deployledger.projections.selection import Selection

_LARGEST = (1 << 63) - 1

Query = tuple[str, list[Any]]
"""A statement, or a part of one, and its values."""


def condition(table: RowTable, selection: Selection) -> Query:
    """Return the condition of a selection, without where in the order its page begins."""
    dialect = table.dialect
    terms, values = ["state IS NOT NULL"], list[Any]()
    if selection.counted is not None and table.projection.counted:
        terms.append(f"{column_name(table.projection.counted)} IS {'' if selection.counted else 'NOT '}TRUE")
    for one in selection.conditions:
        name = column_name(one.column)
        match one.operator:
            case "contains":
                terms.append(dialect.contains(name, ignoring_case=True))
            case "has":
                terms.append(dialect.contains(name))
            case "begins":
                terms.append(dialect.begins(name))
            case "=" | ">=" | "<":
                terms.append(f"{name} {one.operator} ?")
            case other:
                raise ValueError(f"Unknown operator {other!r}.")
        values.append(_encoded(table, one.column, one.value))
    return " AND ".join(terms), values


def page(table: RowTable, selection: Selection) -> Query:
    """Return the statement that selects ``sorted_by``, ``first_position`` and ``key`` of a page of rows."""
    where, values = _from_page_on(table, selection)
    return (
        f"SELECT {_sorting(selection)} AS sorted_by, first_position, key FROM {table.rows.name} "  # noqa: S608
        f"WHERE {where} ORDER BY {order(selection)} LIMIT ? OFFSET ?",
        [*values, selection.limit, selection.offset],
    )


def answers(table: RowTable, other: RowTable, selection: Selection) -> Query:
    """Return the statement that selects the rows of another table with the keys of a page.

    Before them come ``sorted_by`` and ``sorted_position``, and behind them the page's own rows if those are
    to be checked.
    """
    of_page, values = page(table, selection)
    is_checked = table.rows.is_checked and other is not table
    checked = f", {table.rows.of('s')}" if is_checked else ""
    join = f" JOIN {table.rows.name} s ON s.key = p.key" if is_checked else ""
    return (
        f"SELECT p.sorted_by, p.first_position AS sorted_position, {other.rows.of('a')}{checked} "  # noqa: S608
        f"FROM ({of_page}) p JOIN {other.rows.name} a ON a.key = p.key{join}",
        values,
    )


def order_of_page(selection: Selection) -> str:
    """Return the order of a page by ``sorted_by`` and ``sorted_position``, as the end of a statement."""
    way = direction(selection.descending)
    return f" ORDER BY sorted_by {way}, sorted_position {way}"


def order(selection: Selection) -> str:
    """Return the order of the rows of a table."""
    way = "DESC" if selection.descending else "ASC"
    by_position = f"first_position {way}"
    return (
        by_position
        if selection.sort is None
        else f"{_sorting(selection)} {direction(selection.descending)}, {by_position}"
    )


def total(table: RowTable, selection: Selection) -> Query:
    """Return the query of how many rows are selected; without conditions, that is known without it."""
    where, values = condition(table, selection)
    return f"(SELECT count(*) FROM {table.rows.name} WHERE {where})", values  # noqa: S608


def _sorting(selection: Selection) -> str:
    return column_name(selection.sort) if selection.sort else "first_position"


def _from_page_on(table: RowTable, selection: Selection) -> Query:
    """Return the condition of the rows on the page and behind it."""
    where, values = condition(table, selection)
    if selection.after is None:
        return where, values
    value, position = selection.after
    compare = "<" if selection.descending else ">"
    if selection.sort is None:
        return f"{where} AND first_position {compare} ?", [*values, position]
    name = column_name(selection.sort)
    if value is None:
        others = f"OR {name} IS NOT NULL" if selection.descending else ""
        return f"{where} AND (({name} IS NULL AND first_position {compare} ?) {others})", [*values, position]
    behind = f"({name}, first_position) {compare} (?, ?)"
    field = table.projection.row_type.model_fields.get(selection.sort)
    if not selection.descending and field is not None and NoneType in get_args(field.annotation):
        behind = f"({behind} OR {name} IS NULL)"
    return f"{where} AND {behind}", [*values, _encoded(table, selection.sort, value), position]


def _encoded(table: RowTable, column: str, value: Any) -> Any:
    return table.dialect.encode(table.projection.column_types.get(column, str), value)


# The past ---------------------------------------------------------------------------------------------


def total_as_of(table: RowTable, selection: Selection, as_of: int) -> Query:
    """Return the query of how many rows were selected at a position."""
    where, values = condition(table, selection)
    past = _past(table)
    return (
        f"(SELECT count(*) FROM {table.rows.name} WHERE position <= {as_of} AND {where}) + "  # noqa: S608
        f"(SELECT count(*) FROM {past} WHERE position <= {as_of} AND until > {as_of} AND {where})",
        values * 2,
    )


def page_as_of(table: RowTable, selection: Selection, as_of: int) -> Query:
    """Return the statement of a page as it was at a position.

    It selects ``sorted_by``, ``sorted_position`` and what `RowTable.row_as_of` takes.

    The position is part of the text: no plan would do for early and for late ones.
    """
    is_plain = selection.sort is None and not selection.conditions
    parts = (_lives if is_plain else _held)(table, as_of)
    where, values = _from_page_on(table, selection)
    by = order(selection)
    # Each part is in order by itself, by an index where there is one, and no longer than it need be.
    query = " UNION ALL ".join(
        f"SELECT * FROM (SELECT {_sorting(selection)} AS sorted_by, "  # noqa: S608
        f"first_position AS sorted_position, held.* FROM ({part}) AS held "
        f"WHERE {where} ORDER BY {by} LIMIT ?) AS part"
        for part in parts
    )
    of_part = [*values, min(selection.limit + selection.offset, _LARGEST)]
    return (
        f"SELECT * FROM (SELECT * FROM ({query}) AS parts{order_of_page(selection)} "  # noqa: S608
        "LIMIT ? OFFSET ?) AS page",
        [*of_part * 2, selection.limit, selection.offset],
    )


def _past(table: RowTable) -> str:
    assert table.past is not None  # noqa: S101  # only of a temporal projection
    return table.past.name


def _columns(table: RowTable) -> list[str]:
    """Return the columns behind ``key`` and ``first_position`` that a row as of a position is made of."""
    assert table.past is not None  # noqa: S101  # only of a temporal projection
    return table.past.columns[2:]


def _of_live(name: str) -> str:
    types = {"until": "CAST(NULL AS bigint)", "was_removed": "CAST(NULL AS boolean)"}
    return types.get(name, f"r.{name}")


def _held(table: RowTable, as_of: int) -> list[str]:
    """Return the queries of the rows that held: those that still do, and those that no longer do."""
    live = ", ".join(f"{_of_live(name)} AS {name}" for name in _columns(table))
    past = ", ".join(_columns(table))
    return [
        f"SELECT key, first_position, {live}, parked_from FROM {table.rows.name} AS r "  # noqa: S608
        f"WHERE position <= {as_of}",
        f"SELECT key, first_position, {past}, CAST(NULL AS bigint) AS parked_from FROM {_past(table)} "  # noqa: S608
        f"WHERE position <= {as_of} AND until > {as_of}",
    ]


def _lives(table: RowTable, as_of: int) -> list[str]:
    """Return queries of the same, which look up for one row after the other which one held in its place.

    They come by their first positions, so that a page is found without looking at all rows that held.
    The second query has those that were removed later.
    """
    past = _past(table)
    either = ", ".join(
        f"CASE WHEN r.position <= {as_of} THEN {_of_live(name)} ELSE p.{name} END AS {name}"
        for name in _columns(table)
    )
    names = ", ".join(f"p.{name} AS {name}" for name in _columns(table))
    held = (
        f"p.key = r.key AND p.until > {as_of} AND p.position = "  # noqa: S608
        f"(SELECT max(q.position) FROM {past} AS q WHERE q.key = r.key AND q.position <= {as_of})"
    )
    return [
        f"SELECT r.key, r.first_position, {either}, "  # noqa: S608
        f"CASE WHEN r.position <= {as_of} THEN r.parked_from END AS parked_from "
        f"FROM {table.rows.name} AS r LEFT JOIN {past} AS p ON r.position > {as_of} AND {held} "
        f"WHERE r.first_position <= {as_of}",
        f"SELECT r.key, r.first_position, {names}, CAST(NULL AS bigint) AS parked_from "  # noqa: S608
        f"FROM {past} AS r JOIN {past} AS p ON {held} "
        f"WHERE r.was_removed AND r.first_position <= {as_of} AND r.until > {as_of}",
    ]
