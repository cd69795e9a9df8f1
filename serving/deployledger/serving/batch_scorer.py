"""Scoring rows with a model, whatever its kind, and finding the rows on which it fails."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from deployledger.serving.batch_outputs import Misfit, OutputColumns, Values
from deployledger.serving.batch_status import BatchError
from deployledger.serving.batch_table import InputColumn, ModelFailedError, RowProblem, RowsError
from deployledger.serving.model_files import ModelFiles

_MOST_PROBLEMS = 1000
_MOST_FAILURES = 10
"""After how many rows, each by itself, without one that succeeds, the model is at fault and not the rows."""


class RowsModel(Protocol):
    """A model that takes columns.

    Attributes:
        outputs: what is known of the outputs in advance: their names and types, null for an unknown type.
    """

    outputs: dict[str, pa.DataType]

    def columns(self, names: Sequence[str]) -> list[InputColumn]:
        """Return which of the columns the model takes, and as what, or raise BatchError."""
        ...

    def predict(self, rows: pa.RecordBatch) -> dict[str, Values]:
        """Return the outputs, or raise RowsError, ModelFailedError or BatchError."""
        ...


class Scorer:
    """Scores rows with an ONNX file, or an MLflow model's folder.

    Args:
        model: the file or folder.
        threads: how many threads compute one prediction.
        files: what the model's files are checked against.
        flat: whether every cell of the output has to be a single value, as in CSV.
        misfit: what becomes of a row whose prediction does not fit the output's columns.
        output: the columns of the predictions, where they are decided already.

    Raises:
        ModelDamagedError: a file of the model is not what it should be.
        BatchError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: Path,
        threads: int,
        files: ModelFiles | None,
        *,
        flat: bool,
        misfit: Misfit = "fail",
        output: pa.Schema | None = None,
    ) -> None:
        self._model = _load(model, threads, files)
        self._columns = OutputColumns(self._model.outputs, is_flat=flat, misfit=misfit, schema=output)

    @property
    def output(self) -> pa.Schema | None:
        """The columns of the predictions; None until the first rows decide them."""
        return self._columns.schema

    def inputs(self, columns: Sequence[str]) -> list[InputColumn]:
        """Return which columns of the rows the model takes, and as what; it is given these alone.

        Raises:
            BatchError: rows with these columns cannot be scored, or an output is named like one of them.
        """
        self._columns.reserve(columns)
        return self._model.columns(columns)

    def score(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Return the predictions for each row, in the columns ``output``.

        Each column of ``rows`` has the type that was asked for, or is a list of it. One whose type is decided
        by the job has the same type in every batch, and its field is nullable if any cell of the job is
        missing. If the model fails, halves of the batch are predicted, and halves of those that fail, down to
        the rows at fault.

        Raises:
            RowsError: some rows do not fit, or the model fails on them.
            BatchError: the model fails on every row, or its predictions are not one for each row.
        """
        try:
            outputs = self._model.predict(rows)
        except ModelFailedError as error:
            raise _diagnosed(self._model, rows, error) from error
        for name, values in outputs.items():
            if len(values) != len(rows):
                raise BatchError(
                    "batch_failed", f"The model made {len(values)} predictions ({name}) for {len(rows)} rows."
                )
        return self._columns.batch(outputs, len(rows))


def _load(model: Path, threads: int, files: ModelFiles | None) -> RowsModel:
    # Here, because either import takes a while, and the other one's library may not be installed.
    if model.is_dir():
        from deployledger.serving.batch_mlflow import MlflowRows

        return MlflowRows(model, files)
    from deployledger.serving.batch_onnx import OnnxRows

    return OnnxRows(model, threads, files)


def _diagnosed(model: RowsModel, rows: pa.RecordBatch, failure: ModelFailedError) -> RowsError | BatchError:
    problems: dict[int, RowProblem] = {}
    succeeded = 0
    parts = [(0, len(rows), failure)]
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
                model.predict(rows.slice(first, last - first))
                succeeded += 1
            except ModelFailedError as error:
                parts.append((first, last, error))
    if not problems:  # only all of them together are too much for it
        return BatchError("batch_failed", f"The model failed on a batch of {len(rows)} rows: {failure}")
    return RowsError(problems)
