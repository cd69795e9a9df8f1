"""Scoring rows with an ONNX model.

Which column goes to which input:

1. If every input of the model has a column of its own name, each input takes that column. A cell of a JSON
   line may be an array, for an input of more dimensions.
2. Otherwise, if the model has one input, it takes all columns in their order as one row. A single column
   whose cells are arrays (``{"features": [5.1, 3.5]}``, or a line that is an array) is such a row by itself.
3. Otherwise the rows cannot be scored.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deployledger.serving.batch_rows import Row
from deployledger.serving.batch_status import BatchError, input_invalid
from deployledger.serving.model_files import ModelFiles, ModelRefusedError
from deployledger.serving.onnx_model import OnnxModel, Output, PredictionFailedError, TensorSpec
from deployledger.serving.tensors import NOT_FINITE, Array, InvalidTensorError, to_array, to_json

_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


class OnnxScorer:
    """Scores chunks of rows.

    Raises:
        ModelDamagedError: a file of the model is not what it should be.
        BatchError: the model cannot be loaded.
    """

    def __init__(self, model: Path, threads: int, files: ModelFiles | None) -> None:
        try:
            self._model = OnnxModel(model, threads=threads, files=files)
        except ModelRefusedError as error:
            raise BatchError(
                "model_invalid", str(error), "Deploy a model that ONNX Runtime loads."
            ) from error

    def score(self, rows: list[Row]) -> list[dict[str, Any]]:
        """Return the predictions for each row by the names of the model's outputs.

        Raises:
            BatchError: the rows do not fit the model's inputs, or the model fails.
        """
        inputs = self._inputs(rows)
        batch = self._fixed_batch(len(rows))
        parts = [self._predict(inputs, start, batch) for start in range(0, len(rows), batch)]
        predictions: list[dict[str, Any]] = [{} for _ in rows]
        for index, name in enumerate(self._model.outputs):
            values = [value for part in parts for value in _rows_of(part[index], batch)]
            key = "prediction" if len(self._model.outputs) == 1 else f"prediction_{name}"
            for prediction, value in zip(predictions, values, strict=False):  # a padded batch has some more
                prediction[key] = value
        return predictions

    def _fixed_batch(self, rows: int) -> int:
        """Return how many rows go into one run: the model may insist on a number."""
        sizes = {spec.shape[0] for spec in self._model.inputs.values() if spec.shape}
        fixed = max(sizes, default=-1)
        return fixed if fixed > 0 else rows

    def _predict(self, inputs: dict[str, Array], start: int, batch: int) -> list[Output]:
        part = {name: array[start : start + batch] for name, array in inputs.items()}
        padded = {
            name: np.concatenate([array, np.repeat(array[-1:], batch - len(array), axis=0)])
            for name, array in part.items()
        }
        try:
            return self._model.predict(padded)
        except PredictionFailedError as error:
            raise BatchError("batch_failed", f"The model failed on a chunk of rows: {error}") from error

    def _inputs(self, rows: list[Row]) -> dict[str, Array]:
        specs = self._model.inputs
        columns = rows[0].values.keys()
        if specs.keys() <= columns:
            return {name: _tensor(rows, spec, partial(_cell, name=name)) for name, spec in specs.items()}
        if len(specs) == 1:
            (name, spec) = next(iter(specs.items()))
            return {name: _tensor(rows, spec, _whole_row)}
        raise input_invalid(
            f"The model has the inputs {', '.join(specs)}, and the rows the columns {', '.join(columns)}.",
            hint="Name a column after each input.",
        )


def _cell(row: Row, name: str) -> Any:
    return row.values[name]


def _whole_row(row: Row) -> Any:
    values = list(row.values.values())
    return values[0] if len(values) == 1 and isinstance(values[0], list) else values


def _tensor(rows: list[Row], spec: TensorSpec, cell_of: Callable[[Row], Any]) -> Array:
    """Return the cells as one tensor, row by row if they are not all right: to say which is wrong."""
    cells = [_parsed(cell_of(row), spec) for row in rows]
    first = cells[0] if isinstance(cells[0], list) else [cells[0]]
    shape = _row_shape(first, spec)
    try:
        return to_array(_elements(cells), spec.datatype, [len(rows), *shape])
    except InvalidTensorError as error:
        for row, cell in zip(rows, cells, strict=True):
            try:
                to_array(_elements([cell]), spec.datatype, [1, *shape])
            except InvalidTensorError as wrong:
                raise input_invalid(f"Line {row.line}, input {spec.name!r}: {wrong}.") from wrong
        raise input_invalid(
            f"Lines {rows[0].line} to {rows[-1].line}, input {spec.name!r}: {error}."
        ) from error


def _row_shape(first: list[Any], spec: TensorSpec) -> list[int]:
    """Return one row's shape: what the model says, with its one unknown size from the first row."""
    shape = spec.shape[1:]
    count = len(_elements([first]))
    known_size = math.prod(size for size in shape if size != -1)
    unknown = shape.count(-1)
    if unknown > 1 or (unknown == 0 and count != known_size) or (known_size and count % known_size):
        raise input_invalid(
            f"Input {spec.name!r} takes rows of shape {shape}, and the first row has {count} values."
        )
    return [count // known_size if size == -1 else size for size in shape]


def _elements(cells: list[Any]) -> list[Any]:
    """Return the cells' elements as one flat list."""
    while any(isinstance(cell, list) for cell in cells):
        cells = [each for cell in cells for each in (cell if isinstance(cell, list) else [cell])]
    return cells


def _parsed(cell: Any, spec: TensorSpec) -> Any:
    """Return a cell with texts, which is all that CSV has, read as the input's data type.

    A text that is none stays as it is, and is refused later, with its line.
    """
    if isinstance(cell, list):
        return [_parsed(each, spec) for each in cell]
    if not isinstance(cell, str) or str in spec.datatype.accepts:
        return cell
    if bool in spec.datatype.accepts:
        return _BOOLEANS.get(cell.strip().lower(), cell)
    if cell in NOT_FINITE:
        return cell
    try:
        return float(cell) if float in spec.datatype.accepts else int(cell)
    except ValueError:
        return cell


def _rows_of(output: Output, batch: int) -> list[Any]:
    """Return an output's value for each row, as JSON can hold it."""
    array = output.array
    if array.ndim == 0 or len(array) != batch:
        raise BatchError(
            "batch_failed",
            f"The output {output.name!r} has the shape {list(array.shape)} for {batch} rows: not one each.",
        )
    if array.ndim == 1 or array.shape[1:] == (1,):
        return to_json(array)
    if output.labels:
        return [dict(zip(map(str, output.labels), to_json(row), strict=True)) for row in array]
    return [to_json(row) for row in array]
