"""Tensors of bfloat16, for which neither numpy nor ONNX Runtime's Python interface has arrays."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

_ONNX_BFLOAT16 = 16  # TensorProto.DataType of onnx.proto


def to_ortvalue(array: npt.NDArray[Any]) -> Any:
    """Return an `onnxruntime.OrtValue` of bfloat16 with the elements of a float32 array, rounded to even."""
    import onnxruntime

    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    upper = np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(upper, _ONNX_BFLOAT16)


def from_ortvalue(value: Any) -> npt.NDArray[np.float32]:
    """Return the elements of an `onnxruntime.OrtValue` of bfloat16 as float32."""
    size = value.tensor_size_in_bytes()
    # A copy: the value's memory goes with the value.
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    bits = np.frombuffer(raw, dtype=np.uint16).astype(np.uint32) << 16
    return bits.view(np.float32).reshape(value.shape())
