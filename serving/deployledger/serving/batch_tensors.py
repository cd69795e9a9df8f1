"""Columns of a batch as the input tensors of a model, without a Python object for each cell.

Which column goes to which input:

1. If every input of the model has a column of its own name, each input takes that column. A cell of a JSON
   line, of Parquet or of Arrow may be an array, for an input of more dimensions.
2. Otherwise, if the model has one input, it takes all columns in their order as one row. A single column
   whose cells are arrays (``{"features": [5.1, 3.5]}``, or a line that is an array) is such a row by itself.
3. Otherwise the rows cannot be scored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from deployledger.serving.batch_status import BatchError, input_invalid
from deployledger.serving.batch_table import InputColumn, RowProblem, RowsError, numpy_dtype
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
        self._inputs = {each.name: each for each in inputs}

    def columns(self, names: Sequence[str]) -> list[InputColumn]:
        """Return which columns the inputs take, of those that there are.

        Raises:
            BatchError: they do not fit the inputs.
        """
        if not self._inputs:
            raise BatchError("model_invalid", "The model has no inputs: there is nothing to score.")
        if self._inputs.keys() <= set(names):
            return [_column(name, each, lists=bool(each.shape)) for name, each in self._inputs.items()]
        if len(self._inputs) > 1:
            raise input_invalid(
                f"The model has the inputs {', '.join(self._inputs)}, "
                f"but the rows have the columns {', '.join(names)}.",
                hint="Name a column after each input.",
            )
        (whole_row,) = self._inputs.values()
        if len(names) > 1 and math.prod(_row_shape(whole_row, len(names))) != len(names):
            raise _wrong_shape(whole_row, len(names))
        return [_column(name, whole_row, lists=len(names) == 1) for name in names]

    def tensors(self, rows: pa.RecordBatch) -> dict[str, Array]:
        """Return the rows as a tensor for each input.

        Raises:
            RowsError: rows are not of the shape that the input takes, or of another than the first.
            BatchError: the first row is not.
        """
        if rows.num_columns > 1 and len(self._inputs) == 1:
            ((name, whole_row),) = self._inputs.items()
            tensor = np.empty((len(rows), rows.num_columns), numpy_dtype(whole_row.type))
            for index, column in enumerate(rows.columns):
                tensor[:, index] = column.to_numpy(zero_copy_only=False)
            return {name: tensor.reshape(len(rows), *_row_shape(whole_row, rows.num_columns))}
        tensors: dict[str, Array] = {}
        problems: dict[int, RowProblem] = {}
        for name, each in self._inputs.items():
            column = name if name in rows.schema.names else rows.schema.names[0]
            tensors[name], misfits = _tensor(each, column, rows.column(column))
            problems |= misfits
        if problems:
            raise RowsError(problems)
        return tensors


def _column(name: str, of: TensorInput, *, lists: bool) -> InputColumn:
    nullable = kinds.is_floating(of.type)
    return InputColumn(name, of.type, nullable=nullable, lists=lists, hint="" if nullable else _MISSING)


def _row_shape(of: TensorInput, count: int) -> tuple[int, ...]:
    """Return the shape of a row, with a dimension of any size from the elements that the first row has."""
    known = math.prod(size for size in of.shape if size != -1)
    if of.shape.count(-1) > 1 or (-1 in of.shape and (not known or count % known)):
        raise _wrong_shape(of, count)
    return tuple(count // known if size == -1 else size for size in of.shape)


def _wrong_shape(of: TensorInput, count: int) -> BatchError:
    return input_invalid(
        f"The input {of.name!r} takes rows of the shape {list(of.shape)}, got {count} elements."
    )


def _tensor(of: TensorInput, name: str, column: pa.Array) -> tuple[Array, dict[int, RowProblem]]:
    elements, counts = column, np.ones(len(column), np.int64)
    owners = np.arange(len(column))
    while kinds.is_list(elements.type):
        owners = np.repeat(owners, elements.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        counts = np.bincount(owners, minlength=len(column))
        elements = elements.flatten()
    shape = _row_shape(of, int(counts[0]))
    expected = math.prod(shape)
    problems: dict[int, RowProblem] = {}
    for row in np.flatnonzero(counts != expected).tolist():
        reason = f"expected {expected} elements, got {counts[row]}"
        problems[row] = RowProblem(name, shortened(column[row].as_py(), str), reason)
    if elements.null_count and not kinds.is_floating(of.type):
        for row in owners[elements.is_null().to_numpy(zero_copy_only=False)].tolist():
            value = shortened(column[row].as_py(), str)
            problems[row] = RowProblem(name, value, "an element is missing", _MISSING)
    values = elements.to_numpy(zero_copy_only=False)
    return (values if problems else values.reshape(len(column), *shape)), problems
