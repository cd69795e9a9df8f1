"""Small models, under the names and with the tensors that the protocol's documents and examples have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

Tensors = Mapping[str, tuple[int, Sequence[str | int]]]

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

ALL_BUT_BF16 = tuple(name for name in ONNX_TYPES if name != "BF16")


def save(path: Path, nodes: Sequence[Any], inputs: Tensors, outputs: Tensors) -> Path:
    graph = helper.make_graph(list(nodes), "graph", _infos(inputs), _infos(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


def simple(path: Path) -> Path:
    """Sum and difference of two inputs of INT32 [1, 16], as Triton's own examples ask for."""
    tensor = (TensorProto.INT32, [1, 16])
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    return save(path, nodes, {"INPUT0": tensor, "INPUT1": tensor}, {"OUTPUT0": tensor, "OUTPUT1": tensor})


def simple_string(path: Path) -> Path:
    """The same of integers that are written as strings."""
    tensor = (TensorProto.STRING, [1, 16])
    nodes = [
        helper.make_node("Cast", ["INPUT0"], ["a"], to=TensorProto.INT32),
        helper.make_node("Cast", ["INPUT1"], ["b"], to=TensorProto.INT32),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
        helper.make_node("Cast", ["sum"], ["OUTPUT0"], to=TensorProto.STRING),
        helper.make_node("Cast", ["difference"], ["OUTPUT1"], to=TensorProto.STRING),
    ]
    return save(path, nodes, {"INPUT0": tensor, "INPUT1": tensor}, {"OUTPUT0": tensor, "OUTPUT1": tensor})


def mymodel(path: Path) -> Path:
    """The model of the specification: UINT32 [2, 2] and BOOL [3] in, FP32 [3, 2] out.

    Rows of the second input that are true get the numbers of the first one's first row, others of the second.
    """
    nodes = [
        helper.make_node("Cast", ["input0"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["input1"], ["flags"], to=TensorProto.INT64),
        helper.make_node("Constant", [], ["one"], value_int=1),
        helper.make_node("Sub", ["one", "flags"], ["rows"]),
        helper.make_node("Gather", ["numbers", "rows"], ["output0"], axis=0),
    ]
    inputs: Tensors = {"input0": (TensorProto.UINT32, [2, 2]), "input1": (TensorProto.BOOL, [3])}
    return save(path, nodes, inputs, {"output0": (TensorProto.FLOAT, [3, 2])})


def identities(path: Path, datatypes: Sequence[str] = ALL_BUT_BF16) -> Path:
    """Inputs of data types and of any length, which come back as outputs.

    ONNX Runtime's Python interface cannot have BF16 and BYTES in one model.
    """
    return save(
        path,
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in datatypes],
        {name: (ONNX_TYPES[name], ["n"]) for name in datatypes},
        {f"{name}_out": (ONNX_TYPES[name], ["n"]) for name in datatypes},
    )


def _infos(tensors: Tensors) -> list[Any]:
    return [helper.make_tensor_value_info(name, kind, list(shape)) for name, (kind, shape) in tensors.items()]
