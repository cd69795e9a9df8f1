"""Tensors as JSON: the data types of the Open Inference Protocol, checked on the way in.

JSON has no NaN and no infinities. They are written as the strings ``"NaN"``, ``"Infinity"`` and
``"-Infinity"``, and read likewise, as the JSON mapping of Protocol Buffers has it
(https://protobuf.dev/programming-guides/json/).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Datatype:
    """One data type.

    Attributes:
        name: its name in the protocol.
        onnx: its name in ONNX Runtime's ``tensor(…)``.
        numpy: what its elements are held as.
        accepts: the Python types of its elements in JSON.
    """

    name: str
    onnx: str
    numpy: npt.DTypeLike
    accepts: frozenset[type]


_INTEGERS = frozenset({int})
_FLOATS = frozenset({int, float})

DATATYPES = (
    Datatype("BOOL", "bool", np.bool_, frozenset({bool})),
    *(Datatype(f"UINT{bits}", f"uint{bits}", f"uint{bits}", _INTEGERS) for bits in (8, 16, 32, 64)),
    *(Datatype(f"INT{bits}", f"int{bits}", f"int{bits}", _INTEGERS) for bits in (8, 16, 32, 64)),
    Datatype("FP16", "float16", np.float16, _FLOATS),
    # numpy has no bfloat16: elements are held as float32, of which bfloat16 is the upper half.
    Datatype("BF16", "bfloat16", np.float32, _FLOATS),
    Datatype("FP32", "float", np.float32, _FLOATS),
    Datatype("FP64", "double", np.float64, _FLOATS),
    Datatype("BYTES", "string", np.object_, frozenset({str})),
)
BY_NAME = {datatype.name: datatype for datatype in DATATYPES}
BY_ONNX = {datatype.onnx: datatype for datatype in DATATYPES}


class InvalidTensorError(ValueError):
    """The data are not a tensor of the data type and shape that they should have."""


def to_array(data: object, datatype: Datatype, shape: Sequence[int]) -> Array:
    """Return the tensor that JSON ``data``, flat in row-major order or nested, describes.

    Raises:
        InvalidTensorError: it describes none of this data type and shape.
    """
    if not isinstance(data, list):
        raise InvalidTensorError(f"expected an array, given {_describe(type(data))}")
    flat, nested = _flatten(data)
    if len(nested) > 1 and nested != list(shape):
        raise InvalidTensorError(f"expected data of shape {list(shape)}, given {nested}")
    if len(flat) != math.prod(shape):
        raise InvalidTensorError(
            f"expected {math.prod(shape)} elements for shape {list(shape)}, given {len(flat)} elements"
        )
    if datatype.accepts is _FLOATS and str in set(map(type, flat)):
        flat = [NOT_FINITE.get(value, value) if isinstance(value, str) else value for value in flat]
    strange = set(map(type, flat)) - datatype.accepts
    if strange:
        raise InvalidTensorError(f"expected elements of {datatype.name}, given {_describe(strange.pop())}")
    try:
        return np.array(flat, dtype=datatype.numpy).reshape(shape)
    except OverflowError:
        raise InvalidTensorError(f"an element is out of the range of {datatype.name}") from None


def to_json(array: Array) -> list[Any]:
    """Return the elements of a tensor in row-major order, as JSON can hold them."""
    flat = array.reshape(-1)
    values: list[Any] = flat.tolist()
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        return [value if math.isfinite(value) else _name(value) for value in values]
    if flat.dtype.kind in "OSU":
        return [
            value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
            for value in values
        ]
    return values


def _flatten(data: list[Any]) -> tuple[list[Any], list[int]]:
    """Return the elements of nested lists, and the lists' lengths from the outermost in."""
    lengths = [len(data)]
    while data and isinstance(data[0], list):
        if set(map(type, data)) != {list} or len({len(each) for each in data}) > 1:
            raise InvalidTensorError("the nested arrays are not all of the same length")
        lengths.append(len(data[0]))
        data = list(chain.from_iterable(data))
    return data, lengths


def _name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _describe(kind: type) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a number with a fraction", str: "a string"}
    names |= {list: "an array", dict: "an object", type(None): "null"}
    return names[kind]
