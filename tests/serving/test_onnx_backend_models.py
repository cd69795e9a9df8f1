"""The models of ONNX's own backend tests, asked in JSON and in binary, beside ONNX Runtime alone.

Each of ``onnx.backend.test.case.node`` is one operator with one set of inputs. Left out, and counted, are
inputs other than tensors, models that this ONNX Runtime cannot open, and data types that the protocol lacks.
"""

import importlib
import os
import pkgutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as node_cases
import onnxruntime

from deployledger.serving.http_app import make_app
from deployledger.serving.onnx_model import ModelRefusedError, OnnxModel
from tests.serving.in_process import Answer, InProcessClient
from tests.serving.open_inference import DTYPES, Tensor, decode, encode

EVERY = os.environ.get("DEPLOYLEDGER_SOAK") == "1"
# Most of the time that all cases take to be made goes to the loops of these references.
SLOW = {"averagepool", "lppool", "maxpool", "attention"}
RANDOM = {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
RANDOM |= {"RandomUniformLike", "TrainingDropout"}
BFLOAT16 = np.dtype(DTYPES["BF16"])
PROTOCOL_TYPES = {np.dtype(dtype) for dtype in DTYPES.values()}


def cases() -> Iterator[Any]:
    """Yield every case in a soak, else each fifth of those that are made quickly."""
    names = sorted(module.name for module in pkgutil.iter_modules(node_cases.__path__))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            if EVERY or name not in SLOW:
                importlib.import_module(f"{node_cases.__name__}.{name}")
    yield from node_cases._NodeTestCases[:: 1 if EVERY else 5]


def test_models_answer_as_onnx_runtime_alone_does(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    differing = []
    for case in cases():
        outcome = outcome_of(case, tmp_path / "model.onnx")
        outcomes[outcome] += 1
        if outcome.startswith("differs"):
            differing.append(f"{case.name}: {outcome}")
    for outcome, count in outcomes.most_common():
        print(f"{count:5} {outcome}")
    assert differing == []
    assert outcomes["equal in JSON and in binary"] >= (1_500 if EVERY else 250)


def outcome_of(case: Any, path: Path) -> str:
    """Return what became of a case, in a few words."""
    arrays = case.data_sets[0][0]
    if not all(isinstance(array, np.ndarray | np.generic | str) for array in arrays):
        return "not asked: an input is a sequence or an optional"
    if {node.op_type for node in case.model.graph.node} & RANDOM:
        return "not asked: it draws random numbers"
    names = [value.name for value in case.model.graph.input]
    inputs = {
        name: object_array(np.asarray(array)) for name, array in zip(names, arrays, strict=True) if name
    }
    data = case.model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options)
    except Exception as error:
        return f"not opened by ONNX Runtime: {type(error).__name__}"
    lacking = {array.dtype for array in inputs.values()} - PROTOCOL_TYPES
    if not any(value.type.startswith("tensor(") for value in session.get_outputs()):
        return "not asked: no output is a tensor"
    path.write_bytes(data)
    try:
        model = OnnxModel(path, threads=1)
    except ModelRefusedError as error:
        reason = str(error).partition("; ")[0].partition(": ")[0]
        return f"refused: {reason}" if lacking else f"differs: refused, {error}"
    if lacking:
        return "differs: opened, with an input that the protocol has no data type for"
    try:
        expected = alone(session, inputs, list(model.outputs))
    except Exception as error:
        return f"not run by ONNX Runtime: {type(error).__name__}"
    with InProcessClient(make_app("m", "1", model)) as client:
        for binary in (False, True):
            request = encode(inputs, binary=binary, binary_output=binary)
            answer = client.post("/v2/models/m/infer", request.body, request.headers)
            problem = difference(expected, answer)
            if problem:
                return f"differs: {'binary' if binary else 'JSON'}, {problem}"
    return "equal in JSON and in binary"


def object_array(array: Tensor) -> Tensor:
    return array.astype(np.object_) if array.dtype.kind in "SU" else array


def alone(session: Any, inputs: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Return what ONNX Runtime computes without our code; bfloat16 by way of its bits."""
    types = {value.name: value.type for value in session.get_outputs()}
    if (
        BFLOAT16 not in {array.dtype for array in inputs.values()}
        and "tensor(bfloat16)" not in types.values()
    ):
        return {
            name: object_array(np.asarray(value))
            for name, value in zip(names, session.run(names, inputs), strict=True)
        }
    values = {
        name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(np.uint16), onnx.TensorProto.BFLOAT16
        )
        if array.dtype == BFLOAT16
        else onnxruntime.OrtValue.ortvalue_from_numpy(array)
        for name, array in inputs.items()
    }
    results = session.run_with_ort_values(names, values)
    return {
        # Numpy can take no bfloat16 from ONNX Runtime, but what its own Cast makes of it.
        name: from_bfloat16(result) if types[name] == "tensor(bfloat16)" else np.asarray(result.numpy())
        for name, result in zip(names, results, strict=True)
    }


def from_bfloat16(value: Any) -> Tensor:
    shape = value.shape()
    info = [
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.BFLOAT16, shape),
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape),
    ]
    cast = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT)
    graph = onnx.helper.make_graph([cast], "graph", info[:1], info[1:])
    opsets = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (result,) = session.run_with_ort_values(["y"], {"x": value})
    exact: Tensor = result.numpy().astype(BFLOAT16)
    return exact


def difference(expected: dict[str, Tensor], answer: Answer) -> str:
    """Return how an answer differs, or nothing if it is equal to the last bit (any NaN to any other)."""
    if answer.status != 200:
        return f"{answer.status} {answer.body[:300].decode()}"
    _, outputs = decode(answer.headers, answer.body)
    if list(outputs) != list(expected):
        return f"outputs {list(outputs)} instead of {list(expected)}"
    for name, tensor in expected.items():
        given = outputs[name]
        if given.shape != tensor.shape or given.dtype != tensor.dtype:
            return f"{given.dtype}{given.shape} instead of {tensor.dtype}{tensor.shape}"
        if tensor.dtype == object:
            is_equal = given.tolist() == tensor.tolist()
        else:
            are_nan = tensor != tensor
            is_equal = bool(((given != given) == are_nan).all()) and (
                given[~are_nan].tobytes() == tensor[~are_nan].tobytes()
            )
        if not is_equal:
            return f"{name} is {given!r} instead of {tensor!r}"[:300]
    return ""
