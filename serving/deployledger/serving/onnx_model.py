"""One ONNX model in ONNX Runtime."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from deployledger.serving import bfloat16
from deployledger.serving.model_files import ModelFiles, ModelRefusedError
from deployledger.serving.tensors import BY_NAME, BY_ONNX, Array, Datatype

_TENSOR = re.compile(r"tensor\((\w+)\)")
# What scikit-learn classifiers are converted to by default: a map of class to probability for each row.
_SEQUENCE_OF_MAPS = re.compile(r"seq\(map\((?:int64|string),tensor\(float\)\)\)")

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""The option that says where a model's files of weights are, when the model itself is given as bytes."""

# A model that was loaded fails because of its inputs, unless ONNX Runtime says one of these.
_FAULTS_OF_THE_RUNTIME = {"DeviceReset", "EngineError", "EPFail", "ModelLoaded", "NoModel", "NotImplemented"}
# Operators whose work depends on the values of their inputs, not only on the sizes, as ``op_type`` of
# onnx.proto is encoded. Large models are not searched for them.
_WORK_IN_VALUES = re.compile(
    rb'"[\x03-\x11](?:CenterCropPad|Col2Im|ConstantOfShape|DFT|Expand|Loop|MelWeightMatrix|OneHot|Pad|Range|'
    rb"Resize|STFT|Scan|SequenceMap|Tile|Upsample|\w+Search|\w+Window)"
)
_SEARCHED_BYTES = 64 * 1024 * 1024
_LONGEST_REASON = 1_000  # a reason may have a part of the inputs in it
_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE_PLACE = re.compile(
    r"\S+\.(?:cc|h|hpp|cu|cuh|cpp):\d+ "  # a file and a line; mostly also a function
    r"(?:[^()]*\([^()]*\)(?: const)?(?: \[with [^\]]*\])? )?"
)


class PredictionFailedError(Exception):
    """ONNX Runtime could not compute the outputs of these inputs.

    Attributes:
        is_input_invalid: whether other inputs may well work.
    """

    def __init__(self, message: str, *, is_input_invalid: bool) -> None:
        super().__init__(message)
        self.is_input_invalid = is_input_invalid


@dataclass(frozen=True)
class TensorSpec:
    """The declaration of a model's input or output; -1 is a dimension of any size."""

    name: str
    datatype: Datatype
    shape: list[int]
    is_sequence_of_maps: bool = False

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether a tensor may have a shape.

        Any may be of a shape that is empty: ONNX Runtime does not tell a scalar from an unknown rank.
        """
        expected = self.shape or [-1] * len(shape)
        return len(shape) == len(expected) and all(
            given == size or (size == -1 and given < 2**63)
            for size, given in zip(expected, shape, strict=True)
        )


@dataclass(frozen=True)
class Output:
    """One computed output; ``labels`` are the classes of its columns, where the model names them."""

    name: str
    datatype: Datatype
    array: Array
    labels: list[Any] = field(default_factory=list)


class OnnxModel:
    """A loaded model; `predict` may be called from several threads at once.

    A sequence of maps (class to probability, as ``ZipMap`` makes) becomes an FP32 tensor [rows, classes],
    whose columns are the classes in sorted order. Outputs that no tensor can express are left out. The
    attribute ``is_work_bounded`` says whether all inputs of one size take about the same time.

    Args:
        path: the ONNX file.
        threads: how many threads compute one prediction.
        files: what the file is checked against, together with the files of weights beside it.

    Raises:
        ModelDamagedError: a file is not what it should be; nothing was loaded.
        ModelRefusedError: the model cannot be loaded, or has inputs of a type that has no tensor.
    """

    def __init__(self, path: Path, *, threads: int, files: ModelFiles | None = None) -> None:
        # What was hashed is what is loaded: the file is read once.
        content = _read(path) if files is None else files.check_and_read(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Replicas share the machine: threads that wait for work are not to burn its cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent))
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise ModelRefusedError(
                f"{path.name} is not a model that ONNX Runtime can load: {_line(error)}"
            ) from error
        # The session keeps the bytes, to start again with other providers; there are no others here.
        vars(self._session)["_model_bytes"] = None
        self.is_work_bounded = len(content) < _SEARCHED_BYTES and not _WORK_IN_VALUES.search(content)
        specs = {each.name: _spec(each) for each in self._session.get_inputs()}
        for node in self._session.get_inputs():
            spec = specs[node.name]
            if spec is None or spec.is_sequence_of_maps:
                raise ModelRefusedError(
                    f"{path.name} has the input {node.name!r} of type {node.type}, which the Open Inference "
                    "Protocol cannot express"
                )
        self.inputs = {name: spec for name, spec in specs.items() if spec is not None}
        outputs = [_spec(each) for each in self._session.get_outputs()]
        self.outputs = {spec.name: spec for spec in outputs if spec is not None}
        if not self.outputs:
            raise ModelRefusedError(f"{path.name} has no output that is a tensor")
        if self._has_bfloat16() and any(spec.datatype.name == "BYTES" for spec in self.inputs.values()):
            raise ModelRefusedError(
                f"{path.name} has both bfloat16 tensors and inputs of strings, which ONNX Runtime's Python "
                "interface cannot run together"
            )

    def predict(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Output]:
        """Return the outputs named (all of them by default) for inputs that have been checked.

        Raises:
            PredictionFailedError: ONNX Runtime could not compute them.
        """
        names = list(self.outputs) if outputs is None else list(outputs)
        try:
            values = self._run(names, inputs)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise PredictionFailedError(
                _reason(error), is_input_invalid=type(error).__name__ not in _FAULTS_OF_THE_RUNTIME
            ) from error
        return [_output(self.outputs[name], value) for name, value in zip(names, values, strict=True)]

    def _has_bfloat16(self) -> bool:
        return any(spec.datatype.name == "BF16" for spec in (*self.inputs.values(), *self.outputs.values()))

    def _run(self, names: list[str], inputs: Mapping[str, Array]) -> list[Any]:
        if not self._has_bfloat16():
            return list(self._session.run(names, dict(inputs)))
        values = {name: _to_ortvalue(self.inputs[name], array) for name, array in inputs.items()}
        results = self._session.run_with_ort_values(names, values)
        return [_from_ortvalue(self.outputs[name], value) for name, value in zip(names, results, strict=True)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelRefusedError(f"{path.name} cannot be read: {error.strerror}") from error


def _spec(node: Any) -> TensorSpec | None:
    """Return what a model's input or output is, or None if it is neither a tensor nor a sequence of maps."""
    if _SEQUENCE_OF_MAPS.fullmatch(node.type):
        return TensorSpec(node.name, BY_NAME["FP32"], [-1, -1], is_sequence_of_maps=True)
    match = _TENSOR.fullmatch(node.type)
    if match is None or match[1] not in BY_ONNX:
        return None
    shape = [size if isinstance(size, int) else -1 for size in node.shape]
    return TensorSpec(node.name, BY_ONNX[match[1]], shape)


def _output(spec: TensorSpec, value: Any) -> Output:
    if not spec.is_sequence_of_maps:
        return Output(spec.name, spec.datatype, np.asarray(value))
    labels = sorted({label for row in value for label in row})
    rows = [[row.get(label, np.nan) for label in labels] for row in value]
    array = np.array(rows, dtype=np.float32).reshape(len(value), len(labels))
    return Output(spec.name, spec.datatype, array, labels)


def _to_ortvalue(spec: TensorSpec, array: Array) -> Any:
    if spec.datatype.name == "BF16":
        return bfloat16.to_ortvalue(array)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _from_ortvalue(spec: TensorSpec, value: Any) -> Any:
    if spec.datatype.name == "BF16" and not spec.is_sequence_of_maps:
        return bfloat16.from_ortvalue(value)
    return value.numpy()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _reason(error: Exception) -> str:
    """Return why a prediction failed, without the places in ONNX Runtime's source where it did."""
    return _SOURCE_PLACE.sub("", _STATUS.sub("", _line(error)[:_LONGEST_REASON]))


def labels_as_text(labels: Sequence[Any]) -> str:
    """Return class labels as one JSON string, the richest value that the protocol's parameters may have."""
    return json.dumps(list(labels))
