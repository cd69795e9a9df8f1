"""What a client does to speak the Open Inference Protocol, written from its documents alone.

* JSON: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
* binary tensors: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Tensor = npt.NDArray[Any]

DTYPES: dict[str, npt.DTypeLike] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}

LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Encoded:
    """A request's body and what its headers must say of it."""

    body: bytes
    headers: list[tuple[str, str]]


def datatype_of(tensor: Tensor) -> str:
    """Return the protocol's name of an array's type.

    Raises:
        KeyError: the protocol has none.
    """
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    return "BYTES" if tensor.dtype.kind in "OSU" else names[tensor.dtype]


def elements(tensor: Tensor) -> list[Any]:
    """Return the elements as JSON has them; those that are not finite are strings."""
    values = tensor.reshape(-1).tolist()
    if tensor.dtype.kind == "O":
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    if isinstance(values and values[0], float):
        return [value if math.isfinite(value) else _not_finite(value) for value in values]
    return values


def raw(tensor: Tensor) -> bytes:
    """Return the elements in little-endian byte order, row-major; each string after its length."""
    if tensor.dtype.kind == "O":
        encoded = [value if isinstance(value, bytes) else value.encode() for value in tensor.reshape(-1)]
        return b"".join(struct.pack("<I", len(value)) + value for value in encoded)
    return tensor.tobytes()


def encode(
    inputs: Mapping[str, Tensor],
    *,
    binary: bool | Sequence[str] = False,
    binary_output: bool = False,
    outputs: Sequence[Mapping[str, Any]] | None = None,
    **more: Any,
) -> Encoded:
    """Return a request, with all inputs binary or JSON, or those binary that are named."""
    tensors, binaries = [], []
    for name, tensor in inputs.items():
        described = {"name": name, "shape": list(tensor.shape), "datatype": datatype_of(tensor)}
        if binary is True or (binary and name in binary):
            binaries.append(raw(tensor))
            described["parameters"] = {"binary_data_size": len(binaries[-1])}
        else:
            described["data"] = elements(tensor)
        tensors.append(described)
    request: dict[str, Any] = {**more, "inputs": tensors}
    if outputs is not None:
        request["outputs"] = outputs
    if binary_output:
        request["parameters"] = {**request.get("parameters", {}), "binary_data_output": True}
    head = json.dumps(request).encode()
    if not binaries:
        return Encoded(head, [("Content-Type", "application/json")])
    headers = [("Content-Type", "application/octet-stream"), (LENGTH, str(len(head)))]
    return Encoded(head + b"".join(binaries), headers)


def decode(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return an answer's JSON object and the output tensors, of which each byte must be accounted for."""
    length = headers.get(LENGTH.lower())
    head, rest = (body, b"") if length is None else (body[: int(length)], body[int(length) :])
    answer: dict[str, Any] = json.loads(head, parse_constant=_refuse_constant)
    tensors = {}
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        dtype = np.dtype(DTYPES[output["datatype"]])
        if size is None:
            data = output["data"]
            if dtype.kind in "fV":
                data = [float(value) for value in data]
            tensor = np.array(data, dtype)
        else:
            assert "data" not in output
            piece, rest = rest[:size], rest[size:]
            assert len(piece) == size
            tensor = np.array(_strings(piece), dtype) if dtype.kind == "O" else np.frombuffer(piece, dtype)
        tensors[output["name"]] = tensor.reshape(output["shape"])
    assert rest == b""
    return answer, tensors


def _strings(data: bytes) -> list[str]:
    values = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        assert len(data) >= 4 + size
        values.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return values


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _refuse_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")
