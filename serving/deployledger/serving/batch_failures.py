"""Which rows a model fails on, when it fails on a batch of them."""

from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from deployledger.serving.batch_status import BatchError
from deployledger.serving.batch_table import RowProblem, RowsError

_MOST_PROBLEMS = 1000
_MOST_FAILURES = 10
"""After how many rows, each by itself, without one that succeeds, the model is at fault and not the rows."""

T = TypeVar("T")


class ModelFailedError(Exception):
    """The model raised an exception; the text says which."""


def predict(model: Callable[[pa.RecordBatch], T], rows: pa.RecordBatch) -> T:
    """Return what the model predicts for the rows.

    If it fails, halves of the batch are predicted, and halves of those that fail, down to the rows at fault.

    Raises:
        RowsError: the model fails on these rows (the first thousand), and not on others.
        BatchError: the model fails on every row.
    """
    try:
        return model(rows)
    except ModelFailedError as error:
        raise _diagnosed(model, rows, error) from error


def _diagnosed(
    model: Callable[[pa.RecordBatch], object], rows: pa.RecordBatch, failure: ModelFailedError
) -> RowsError | BatchError:
    problems: dict[int, RowProblem] = {}
    succeeded = 0
    parts = [(0, len(rows), str(failure))]
    while parts and len(problems) < _MOST_PROBLEMS:
        start, end, reason = parts.pop()
        if end - start == 1:
            problems[start] = RowProblem("", "", f"the model failed: {reason}")
            if not succeeded and len(problems) >= min(_MOST_FAILURES, len(rows)):
                return BatchError("batch_failed", f"The model failed on every row: {failure}")
            continue
        middle = (start + end) // 2
        for first, last in ((middle, end), (start, middle)):
            try:
                model(rows.slice(first, last - first))
                succeeded += 1
            except ModelFailedError as error:
                parts.append((first, last, str(error)))
    if not problems:  # only all of them together are too much for it
        return BatchError("batch_failed", f"The model failed on a batch of {len(rows)} rows: {failure}")
    return RowsError(problems)
