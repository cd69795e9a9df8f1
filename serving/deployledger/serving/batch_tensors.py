"""Columns of a batch as the input tensors of a model, without a Python object for each cell.

Which column goes to which input:

1. If every input of the model has a column of its own name, each input takes that column. A cell of a JSON
   line, of Parquet or of Arrow may be an array, for an input of more dimensions.
2. Otherwise, if the model has one input, it takes all columns in their order as one row. A single column
   whose cells are arrays (``{"features": [5.1, 3.5]}``, or a line that is an array) is such a row by itself.
3. Otherwise the rows cannot be scored.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as kinds

from deployledger.serving.batch_status import BatchError, input_invalid
from deployledger.serving.batch_table import InputColumn, RowProblem, RowsError
from deployledger.serving.batch_values import shortened
from deployledger.serving.tensors import Array

_MISSING = (
    "Fill in the value or leave the row out: only an input of floating-point numbers takes missing values."
)


@dataclass(frozen=True)
class TensorInput:
    """An input of a model.

    Attributes:
        name: the input's name; empty if it has none.
        type: the type of its elements.
        shape: the shape of one row; -1 is a dimension of any size.
    """

    name: str
    type: pa.DataType
    shape: tuple[int, ...]


class TensorInputs:
    """All inputs of a model."""

    def __init__(self, inputs: Sequence[TensorInput]) -> None:
        self._inputs = inputs

    def columns(self, names: Sequence[str]) -> list[InputColumn]:
        """Return which columns the inputs take, of those that there are.

        Raises:
            BatchError: they do not fit the inputs.
        """
        if not self._inputs:
            raise BatchError("model_invalid", "The model has no inputs: there is nothing to score.")
        if {each.name for each in self._inputs} <= set(names):
            return [_column(each.name, each, lists=bool(each.shape)) for each in self._inputs]
        if len(self._inputs) != 1:
            raise input_invalid(
                f"The model has the inputs {', '.join(each.name for each in self._inputs)}, "
                f"and the rows the columns {', '.join(names)}.",
                hint="Name a column after each input.",
            )
        whole_row = self._inputs[0]
        if len(names) > 1 and (reason := _misfit(whole_row, len(names))):
            raise input_invalid(f"Input {whole_row.name!r} takes all columns as one row: {reason}.")
        return [_column(name, whole_row, lists=len(names) == 1) for name in names]

    def tensors(self, rows: pa.RecordBatch) -> Iterator[dict[str, Array]]:
        """Yield the rows as tensors by input: together as long as their shapes are the same.

        Raises:
            RowsError: rows are not of a shape that the inputs take.
        """
        if len(self._inputs) == 1 and rows.num_columns > 1:
            yield {self._inputs[0].name: _row_by_row(self._inputs[0], rows)}
            return
        is_named = {each.name for each in self._inputs} <= set(rows.schema.names)
        names = [each.name if is_named else rows.schema.names[0] for each in self._inputs]
        columns = [rows.column(name) for name in names]
        counts = [_counts(column) for column in columns]
        problems: dict[int, RowProblem] = {}
        for name, each, column, count in zip(names, self._inputs, columns, counts, strict=True):
            problems = _problems(name, each, column, count) | problems
        if problems:
            raise RowsError(problems)
        changes = np.flatnonzero(np.any([np.diff(count) != 0 for count in counts], axis=0)) + 1
        for start, end in pairwise([0, *changes.tolist(), len(rows)]):
            yield {
                each.name: _tensor(each, column.slice(start, end - start))
                for each, column in zip(self._inputs, columns, strict=True)
            }


def _column(name: str, of: TensorInput, *, lists: bool) -> InputColumn:
    nullable = kinds.is_floating(of.type)
    return InputColumn(name, of.type, nullable=nullable, lists=lists, hint="" if nullable else _MISSING)


def _misfit(of: TensorInput, count: int) -> str:
    """Return why a row of so many elements has no shape that the input takes; empty if it has."""
    known = math.prod(size for size in of.shape if size != -1)
    unknown = of.shape.count(-1)
    if count == known * (unknown == 0) or (unknown == 1 and known and count % known == 0):
        return ""
    expected = f"{known} elements" if unknown == 0 else f"elements of the shape {list(of.shape)}"
    return f"expected {expected}, given {count}"


def _row_by_row(of: TensorInput, rows: pa.RecordBatch) -> Array:
    tensor = np.empty((len(rows), rows.num_columns), of.type.to_pandas_dtype())
    for index, column in enumerate(rows.columns):
        tensor[:, index] = column.to_numpy(zero_copy_only=False)
    return _shaped(of, tensor)


def _tensor(of: TensorInput, column: pa.Array) -> Array:
    rows = len(column)
    while kinds.is_list(column.type):
        column = column.flatten()
    return _shaped(of, column.to_numpy(zero_copy_only=False).reshape(rows, -1))


def _shaped(of: TensorInput, rows: Array) -> Array:
    count = rows.shape[1]
    known = math.prod(size for size in of.shape if size != -1)
    return rows.reshape(len(rows), *(count // known if size == -1 else size for size in of.shape))


def _counts(column: pa.Array) -> npt.NDArray[np.int64]:
    """Return how many elements each cell has."""
    if not kinds.is_list(column.type):
        return np.ones(len(column), np.int64)
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    elements = np.concatenate([[0], np.cumsum(_counts(column.flatten()))])
    counts: npt.NDArray[np.int64] = np.diff(elements[starts])
    return counts


def _problems(
    name: str, of: TensorInput, column: pa.Array, counts: npt.NDArray[np.int64]
) -> dict[int, RowProblem]:
    problems: dict[int, RowProblem] = {}

    def add(misfits: Array, reason: str, hint: str) -> None:
        for row in misfits.tolist():
            problems[row] = RowProblem(name, shortened(column[row].as_py()), reason, hint)

    is_even = len(counts) and counts.min() == counts.max()
    for count in counts[:1].tolist() if is_even else np.unique(counts).tolist():
        if reason := _misfit(of, count):
            add(np.flatnonzero(counts == count), reason, "")
    elements = column
    while kinds.is_list(elements.type):
        elements = elements.flatten()
    if elements.null_count and not kinds.is_floating(of.type):
        missing = elements.is_null().to_numpy(zero_copy_only=False)
        add(np.repeat(np.arange(len(counts)), counts)[missing], "an element is missing", _MISSING)
    return problems
