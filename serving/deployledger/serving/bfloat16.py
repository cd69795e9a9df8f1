"""Tensors of bfloat16, for which neither numpy nor ONNX Runtime's Python interface has arrays."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

_ONNX_BFLOAT16 = 16  # TensorProto.DataType of onnx.proto


def to_bits(array: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Return the bfloat16 nearest to each element of a float32 array, ties to even, as their bits."""
    bits = np.asarray(array, dtype=np.float32, order="C").view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet_nan = (bits >> 16) | 0x40  # rounded, it could become an infinity
    return np.where(np.isnan(array), quiet_nan, rounded).astype(np.uint16)


def from_bits(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return the elements that are given as the bits of bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_ortvalue(array: npt.NDArray[Any]) -> Any:
    """Return an `onnxruntime.OrtValue` of bfloat16 with the elements of a float32 array."""
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(to_bits(array), _ONNX_BFLOAT16)


def from_ortvalue(value: Any) -> npt.NDArray[np.float32]:
    """Return the elements of an `onnxruntime.OrtValue` of bfloat16 as float32."""
    size = value.tensor_size_in_bytes()
    # A copy: the value's memory goes with the value.
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    return from_bits(np.frombuffer(raw, dtype=np.uint16)).reshape(value.shape())
