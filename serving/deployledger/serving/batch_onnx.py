"""ONNX models that take rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from deployledger.serving.batch_outputs import Values
from deployledger.serving.batch_status import BatchError
from deployledger.serving.batch_table import InputColumn, ModelFailedError
from deployledger.serving.batch_tensors import TensorInput, TensorInputs
from deployledger.serving.batch_values import MisfitError, array_of
from deployledger.serving.model_files import ModelFiles, ModelRefusedError
from deployledger.serving.onnx_model import (
    OnnxModel,
    Output,
    PredictionFailedError,
    TensorSpec,
)
from deployledger.serving.tensors import Array


class OnnxRows:
    """An ONNX model that takes rows: a `RowsModel`.

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
        specs = self._model.inputs.values()
        self._inputs = TensorInputs([_input(spec) for spec in specs])
        # The model may insist on a number of rows.
        self._rows_of_a_run = max((spec.shape[0] for spec in specs if spec.shape), default=-1)
        single = len(self._model.outputs) == 1
        names = ["prediction" if single else f"prediction_{name}" for name in self._model.outputs]
        self.outputs = dict.fromkeys(names, pa.null())

    def columns(self, names: Sequence[str]) -> list[InputColumn]:
        """Return the columns that the model's inputs take; BatchError if they do not fit."""
        return self._inputs.columns(names)

    def predict(self, rows: pa.RecordBatch) -> dict[str, Values]:
        """Return the outputs; RowsError, ModelFailedError or BatchError if there are none."""
        tensors = self._inputs.tensors(rows)
        size = self._rows_of_a_run if self._rows_of_a_run > 0 else len(rows)
        parts = []
        for start in range(0, len(rows), size):
            part = {name: tensor[start : start + size] for name, tensor in tensors.items()}
            missing = max(0, start + size - len(rows))
            padded = {
                name: np.concatenate([tensor, np.repeat(tensor[-1:], missing, axis=0)]) if missing else tensor
                for name, tensor in part.items()
            }
            parts.append([column.slice(0, size - missing) for column in self._run(padded, size)])
        return {name: pa.concat_arrays(columns) for name, *columns in zip(self.outputs, *parts, strict=True)}

    def _run(self, tensors: dict[str, Array], rows: int) -> list[pa.Array]:
        try:
            outputs = self._model.predict(tensors)
        except PredictionFailedError as error:
            raise ModelFailedError(str(error)) from error
        return [_column(output, rows) for output in outputs]


def _input(spec: TensorSpec) -> TensorInput:
    is_text = spec.datatype.name == "BYTES"
    element = pa.string() if is_text else pa.from_numpy_dtype(np.dtype(spec.datatype.numpy))
    return TensorInput(spec.name, element, tuple(spec.shape[1:]))


def _column(output: Output, rows: int) -> pa.Array:
    array = output.array
    if array.ndim == 0 or len(array) != rows:
        raise BatchError(
            "batch_failed",
            f"The output {output.name!r} has the shape {list(array.shape)} for {rows} rows: not one each.",
        )
    if output.labels:
        names = [str(label) for label in output.labels]
        return pa.StructArray.from_arrays([pa.array(array[:, index]) for index in range(len(names))], names)
    try:
        column = array_of(array.reshape(rows) if array.shape[1:] == (1,) else array)
    except MisfitError as error:
        raise BatchError("batch_failed", f"The output {output.name!r}: {error}.") from error
    return column
