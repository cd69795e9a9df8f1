"""Tensors as the Open Inference Protocol sends them, checked on the way in: in JSON, and as binary data.

JSON has no NaN and no infinities. They are written as the strings ``"NaN"``, ``"Infinity"`` and
``"-Infinity"``, and read likewise, as the JSON mapping of Protocol Buffers has it
(https://protobuf.dev/programming-guides/json/). Binary data are little-endian and in row-major order without
padding; a string is preceded by its length in four bytes
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
"""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from deployledger.serving import bfloat16

Array = npt.NDArray[Any]

_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""How JSON writes them, by how Python does."""

_Float = float | Literal["NaN", "Infinity", "-Infinity"]


@dataclass(frozen=True)
class Datatype:
    """One data type.

    Attributes:
        name: its name in the protocol.
        onnx: its name in ONNX Runtime's ``tensor(…)``.
        numpy: what its elements are held as.
        json: the type of its elements in JSON.
        binary: the type of its elements as binary data; None for those without a fixed size.
    """

    name: str
    onnx: str
    numpy: npt.DTypeLike
    json: Any
    binary: np.dtype[Any] | None


def _number(name: str, onnx: str, numpy: str, json: Any) -> Datatype:
    return Datatype(name, onnx, numpy, json, np.dtype(numpy).newbyteorder("<"))


DATATYPES = (
    # One byte an element: 0 and 1.
    Datatype("BOOL", "bool", np.bool_, bool, np.dtype(np.uint8)),
    *(_number(f"UINT{bits}", f"uint{bits}", f"uint{bits}", int) for bits in (8, 16, 32, 64)),
    *(_number(f"INT{bits}", f"int{bits}", f"int{bits}", int) for bits in (8, 16, 32, 64)),
    _number("FP16", "float16", "float16", _Float),
    # numpy has no bfloat16: elements are held as float32, of which bfloat16 is the upper half.
    Datatype("BF16", "bfloat16", np.float32, _Float, np.dtype("<u2")),
    _number("FP32", "float", "float32", _Float),
    _number("FP64", "double", "float64", _Float),
    Datatype("BYTES", "string", np.object_, str, None),
)
BY_NAME = {datatype.name: datatype for datatype in DATATYPES}
BY_ONNX = {datatype.onnx: datatype for datatype in DATATYPES}

# Numbers are parsed in pieces of about this many bytes. Between two pieces other threads have their turn, and
# only the numbers of one piece are Python objects at a time.
_PIECE = 128 * 1024
_NESTED = re.compile(rb"\[\s*\[")
# numpy's own memory is aligned so. With less, ONNX Runtime may add numbers up in another order.
_ALIGNMENT = 16


class InvalidTensorError(Exception):
    """The data are not a tensor of the expected data type and shape."""


def from_json(text: memoryview, datatype: Datatype, shape: Sequence[int]) -> Array:
    """Return the tensor that a valid JSON text, flat in row-major order or nested, describes.

    Raises:
        InvalidTensorError: it does not describe a tensor of this data type and shape.
    """
    if bytes(text[:1]) != b"[":
        raise InvalidTensorError("expected an array")
    depth = max(1, len(shape)) if _NESTED.match(text) else 1
    decode = _decoder(datatype.json, depth).decode
    pieces = _pieces(text[1:-1], depth) if datatype.binary else [text]
    try:
        array = np.concatenate([_elements(decode(piece), datatype) for piece in pieces])
    except msgspec.DecodeError as error:
        reason = str(error).partition(" - at")[0]  # a place in a piece
        reason = reason.replace("Invalid enum value", "got the text")  # other than NaN and Infinity
        raise InvalidTensorError(f"expected elements of {datatype.name}: {reason}") from error
    except OverflowError:
        raise InvalidTensorError(f"an element is out of the range of {datatype.name}") from None
    except ValueError:
        raise InvalidTensorError("the nested arrays are not all of the same length") from None
    if depth > 1 and array.shape != tuple(shape):
        raise InvalidTensorError(f"expected data of shape {list(shape)}, got {list(array.shape)}")
    if array.size != math.prod(shape):
        raise InvalidTensorError(
            f"expected {math.prod(shape)} elements for shape {list(shape)}, got {array.size} elements"
        )
    return _shaped(array, shape)


def from_binary(data: memoryview, datatype: Datatype, shape: Sequence[int]) -> Array:
    """Return the tensor of binary data; it shares their memory where that is aligned.

    Raises:
        InvalidTensorError: they are not a tensor of this data type and shape.
    """
    count = math.prod(shape)
    if datatype.binary is None:
        return _shaped(_strings(data, count), shape)
    size = count * datatype.binary.itemsize
    if len(data) != size:
        raise InvalidTensorError(
            f"expected {size} bytes for {datatype.name} of shape {list(shape)}, got {len(data)} bytes"
        )
    array = np.frombuffer(data, datatype.binary)
    array = array.astype(datatype.binary.newbyteorder("="), copy=bool(array.ctypes.data % _ALIGNMENT))
    if datatype.name == "BOOL":
        if (array > 1).any():
            raise InvalidTensorError("expected bytes with the value 0 or 1 for BOOL")
        array = array.view(np.bool_)
    elif datatype.name == "BF16":
        array = bfloat16.from_bits(array)
    return _shaped(array, shape)


def to_binary(array: Array, datatype: Datatype) -> memoryview:
    """Return the elements of a tensor as binary data."""
    if datatype.binary is None:
        texts = [str(element).encode() for element in array.reshape(-1)]
        return memoryview(b"".join(struct.pack("<I", len(text)) + text for text in texts))
    if datatype.name == "BF16":
        array = bfloat16.to_bits(array)
    elements = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return elements.reshape(-1).view(np.uint8).data


def to_json(array: Array) -> Array | list[Any]:
    """Return the elements of a tensor in row-major order, as JSON can hold them."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind not in "biuf":
        return [str(text) for text in flat]
    if np.isfinite(flat).all():
        return flat
    return [_NOT_FINITE.get(str(value), value) for value in flat.tolist()]


@lru_cache
def _decoder(element: Any, depth: int) -> msgspec.json.Decoder[Any]:
    nested: Any = element
    for _ in range(depth):
        nested = list[nested]
    return msgspec.json.Decoder(nested)


def _pieces(text: memoryview, depth: int) -> Iterator[bytes]:
    """Yield the elements of an array, which are nested ``depth`` - 1 deep, as arrays of some of them each."""
    between = re.compile(rb"\]" * (depth - 1) + b",")
    start = 0
    while match := between.search(text, start + _PIECE):
        yield b"".join((b"[", text[start : match.end() - 1], b"]"))
        start = match.end()
    yield b"".join((b"[", text[start:], b"]"))


def _elements(values: list[Any], datatype: Datatype) -> Array:
    """Convert values decoded from JSON to an array.

    Raises:
        OverflowError: a value is out of the range of the data type.
        ValueError: nested arrays differ in length.
    """
    if datatype.json is not _Float:
        return np.array(values, dtype=datatype.numpy)
    exact = _floats(values)
    if datatype.name == "FP64":
        return exact
    with np.errstate(over="ignore"):
        rounded = exact.astype(datatype.numpy)
    if datatype.name == "BF16":
        rounded = bfloat16.from_bits(bfloat16.to_bits(rounded))
    if not np.isfinite(rounded).all() and not np.array_equal(np.isinf(rounded), np.isinf(exact)):
        raise OverflowError
    return rounded


def _floats(values: list[Any]) -> Array:
    try:  # as fast as the parser, and twice as fast as numpy
        return np.frombuffer(struct.pack(f"{len(values)}d", *values))
    except struct.error:  # they are nested, or words
        return np.array(values, dtype=np.float64)


def _shaped(array: Array, shape: Sequence[int]) -> Array:
    try:
        return array.reshape(shape)
    except (ValueError, OverflowError) as error:  # numpy limits dimensions and elements
        raise InvalidTensorError(f"the shape {list(shape)} is too large") from error


def _strings(data: memoryview, count: int) -> Array:
    strings: list[str] = []
    position = 0
    try:
        while position < len(data):
            (length,) = struct.unpack_from("<I", data, position)
            end = position + 4 + length
            if end > len(data):
                raise InvalidTensorError(f"element {len(strings)} ends beyond the {len(data)} bytes given")
            strings.append(str(data[position + 4 : end], "utf-8"))
            position = end
    except struct.error:
        raise InvalidTensorError(f"the length of element {len(strings)} is not four bytes") from None
    except UnicodeDecodeError:
        raise InvalidTensorError(f"element {len(strings)} is not UTF-8") from None
    if len(strings) != count:
        raise InvalidTensorError(f"expected {count} elements, got {len(strings)} elements")
    array = np.empty(count, dtype=np.object_)
    array[:] = strings
    return array
