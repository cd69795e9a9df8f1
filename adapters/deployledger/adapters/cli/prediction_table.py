"""Predictions as a table: a line for each row, or for a single row a line for each output."""

import json
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from deployledger.adapters.cli.layout import Labelled, table_of
from deployledger.adapters.cli.terminal import shown, shown_lines
from deployledger.adapters.cli.units import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MOST_ROWS = 20
_MOST_VALUES = 8
"""The most values of one cell, and the most columns that are made of one output."""


@dataclass(frozen=True)
class _Column:
    """An output, or a part of it: one value a row."""

    name: str
    values: "Sequence[Any]"


def prediction_table(answer: str, *, is_whole: bool = False) -> RenderableType:
    """Return the predictions of a response of the Open Inference Protocol or of MLflow; any other unchanged.

    Args:
        is_whole: whether to show all rows.
    """
    try:
        columns = [*_columns(json.loads(answer))]
    except (ValueError, KeyError, TypeError, RecursionError):
        return shown_lines(answer.strip())
    rows = max((len(column.values) for column in columns), default=0)
    if rows <= 1:
        return Labelled([(shown(each.name).plain, _cell(value)) for each in columns for value in each.values])
    count = rows if is_whole else min(rows, _MOST_ROWS)
    table = table_of(*(escape(shown(column.name).plain) for column in columns))
    for row in range(count):
        table.add_row(*(_cell(each.values[row]) if row < len(each.values) else Text() for each in columns))
    if count == rows:
        return table
    more = f"{number(rows - count, 'more row')}; `-o wide` shows them, `-o json` all values."
    return Group(table, Text(more))


def _columns(answer: Any) -> "Iterator[_Column]":
    if isinstance(answer, dict) and "outputs" in answer:
        for output in answer["outputs"]:
            yield from _of_output(output)
        return
    predictions = answer["predictions"] if isinstance(answer, dict) and "predictions" in answer else answer
    if isinstance(predictions, dict):
        for name, value in predictions.items():
            yield _Column(name, value if isinstance(value, list) else [value])
    elif isinstance(predictions, list) and all(isinstance(row, dict) for row in predictions):
        names = dict.fromkeys(name for row in predictions for name in row)
        yield from (_Column(name, [row.get(name) for row in predictions]) for name in names)
    else:
        yield _Column("prediction", predictions if isinstance(predictions, list) else [predictions])


def _of_output(output: "dict[str, Any]") -> "Iterator[_Column]":
    name, shape, data = str(output["name"]), output["shape"], output["data"]
    rows, width = shape[0] if shape else 1, prod(shape[1:])
    labels = (output.get("parameters") or {}).get("labels") or []
    if len(labels) == width <= _MOST_VALUES:
        for index, label in enumerate(labels):
            yield _Column(f"{name} {label}", data[index::width])
    elif width == 1:
        yield _Column(name, data)
    else:
        yield _Column(name, [data[row * width : (row + 1) * width] for row in range(rows)])


def _cell(value: Any) -> Text:
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, list):
        parts = [_cell(each).plain for each in value[:_MOST_VALUES]]
        more = [f"… {len(value) - _MOST_VALUES:,} more"] if len(value) > _MOST_VALUES else []
        return Text(f"[{', '.join(parts + more)}]")
    return shown(f"{value:.7g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False))
