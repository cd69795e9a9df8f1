"""Selections of rows, and their results."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import ConfigurationError
from deployledger.projections.projection import Projection
from deployledger.projections.rows import StoredRow

KEY = "#key"
"""In the place of a column's name: the key of the row."""

OPERATORS = ("=", ">=", "<", "contains", "has", "begins")
_OF_TEXT = OPERATORS[3:]


@dataclass(frozen=True)
class Condition:
    """A condition on a column of the selected rows.

    Attributes:
        column: the name of a column, or `KEY`.
        operator: ``=``, ``>=``, ``<``, ``contains`` (ignores case), ``has`` (does not) or ``begins``.
    """

    column: str
    operator: str
    value: Any


@dataclass(frozen=True)
class Selection:
    """A selection of rows: filters, order, and page.

    Attributes:
        conditions: all of which must hold.
        counted: the value of the counted column, if only rows with one are selected.
        sort: the column to sort by; None sorts by a row's first event. That also decides between equals.
        descending: in descending order.
        after: the sorted column's value and the first position of the row before the first one.
        offset: how many rows to skip.
        limit: how many rows.
    """

    conditions: tuple[Condition, ...] = ()
    counted: bool | None = None
    sort: str | None = None
    descending: bool = False
    after: tuple[Any, int] | None = None
    offset: int = 0
    limit: int = 100


def check_selection(projection: Projection[Any], selection: Selection) -> None:
    """Check that a selection asks for what there is.

    Raises:
        ConfigurationError: if it does not.
    """
    columns = f"Its columns are {', '.join(projection.columns) or 'none'}."
    for name in (*(one.column for one in selection.conditions), *filter(None, [selection.sort])):
        if name != KEY and name not in projection.column_types:
            raise ConfigurationError(f"Projection {projection.name} has no column {name!r}.", hint=columns)
    for condition in selection.conditions:
        _check_condition(projection, condition)
    if selection.limit < 1 or selection.offset < 0:
        raise ConfigurationError(
            f"limit={selection.limit}, offset={selection.offset} is out of range: limit is 1 or more, "
            "offset 0 or more."
        )
    if selection.counted is not None and projection.counted is None:
        raise ConfigurationError(f"Projection {projection.name} has no counted column.")


def _check_condition(projection: Projection[Any], condition: Condition) -> None:
    column, operator, value = condition.column, condition.operator, condition.value
    if operator not in OPERATORS:
        raise ConfigurationError(
            f"Unknown operator {operator!r}.", hint=f"It is one of {', '.join(OPERATORS)}."
        )
    kind = str if column == KEY else projection.column_types[column]
    if operator in _OF_TEXT and kind is not str:
        raise ConfigurationError(f"Column {column!r} is not text: nothing {operator} in it.")
    is_number = kind is float and isinstance(value, int)
    if not isinstance(value, kind) and not is_number:
        raise ConfigurationError(f"Column {column!r} is compared with {value!r}, no {kind.__name__}.")


class Found(NamedTuple):
    """A row, and how far the read model and the log were when it was read.

    Attributes:
        row: the row; None if there is none.
        position: up to where the log is applied.
        end: the end of the log at the same moment; None if the rows are not in the database of the log.
        marker: which event the log has at ``position``.
    """

    row: StoredRow | None
    position: int
    end: Mark | None
    marker: str


class SelectedRow(NamedTuple):
    """A selected row: where it is in the order, and the row of the read model that answers for it."""

    sorted_by: Any
    first_position: int
    row: StoredRow


class Selected(NamedTuple):
    """The selected rows, how many there are in all, and how far the read models and the log were.

    Attributes:
        parked_from: the position of the first event that was not applied to the read model that was
            selected from; None if all were.
    """

    rows: list[SelectedRow]
    total: int
    position: int
    end: Mark | None
    marker: str
    parked_from: int | None
