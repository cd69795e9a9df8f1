"""What batch jobs and models exchange: the columns that a model takes, and the rows that it cannot score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class InputColumn:
    """A column that a model takes.

    Attributes:
        name: the column's name.
        type: the type of its cells; None takes the column as it is, with its type decided once for the job.
        nullable: whether a cell may be missing, which is a null in the column.
        lists: whether a cell may also be a list of ``type``, of any depth, such as a row of a tensor.
        hint: what to do about a cell that is missing or invalid.
    """

    name: str
    type: pa.DataType | None = None
    nullable: bool = True
    lists: bool = False
    hint: str = ""


@dataclass(frozen=True)
class RowProblem:
    """Why a row cannot be scored or written.

    Attributes:
        column: the column of the input or the output that is wrong; empty if it is not a single one.
        value: the value that is wrong, as text.
        reason: what is wrong with it.
        hint: what to do about it.
    """

    column: str
    value: str
    reason: str
    hint: str = ""


class RowsError(Exception):
    """Rows of a batch that cannot be scored; the others can be, without them.

    Attributes:
        problems: by the row's index in the batch.
    """

    def __init__(self, problems: Mapping[int, RowProblem]) -> None:
        super().__init__(f"{len(problems)} rows cannot be scored.")
        self.problems = problems


class ModelFailedError(Exception):
    """A model raised an exception on a batch of rows; the text says which."""


def numpy_dtype(column_type: pa.DataType) -> np.dtype[Any]:
    """Return NumPy's type of a column's values.

    pyarrow's own ``to_pandas_dtype`` imports pandas, which jobs with ONNX models do without.
    """
    dtype: np.dtype[Any] = pa.array([], column_type).to_numpy(zero_copy_only=False).dtype
    return dtype
