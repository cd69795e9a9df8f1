"""Cells as text: in CSV files, in JSON lines where JSON has no type for them, and for columns of texts.

ISO 8601 for dates, times and durations; ``NaN``, ``Infinity`` and ``-Infinity``; base64 for bytes; the exact
digits of decimals; the shortest digits of floats that read back as the same number.
"""

import base64
import json
import math
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa

pc: Any = import_module("pyarrow.compute")  # its functions are made when it is imported


def cell_texts(column: pa.Array) -> pa.Array:
    """Return a column's cells as texts; a missing cell stays null."""
    type_ = column.type
    if pa.types.is_string(type_):
        return column
    if pa.types.is_floating(type_):
        return _floats(column)
    if pa.types.is_temporal(type_) and not pa.types.is_duration(type_):
        return _times(column)
    if pa.types.is_null(type_):
        return column.cast(pa.string())
    if pa.types.is_nested(type_):
        values = json_values(column)
        return pa.array([None if each is None else json.dumps(each) for each in values], pa.string())
    if pa.types.is_duration(type_):
        unit = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[type_.unit]
        counts = column.cast(pa.int64()).to_pylist()
        return pa.array([None if each is None else _duration(each * unit) for each in counts], pa.string())
    if pa.types.is_binary(type_) or pa.types.is_fixed_size_binary(type_):
        encoded = [None if each is None else base64.b64encode(each).decode() for each in column.to_pylist()]
        return pa.array(encoded, pa.string())
    return column.cast(pa.string())


def json_values(column: pa.Array) -> list[Any]:
    """Return a column's cells as JSON can hold them; a missing cell is None."""
    type_ = column.type
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_string(type_):
        return list(column.to_pylist())
    if pa.types.is_floating(type_):
        values = column.to_pylist()
        if np.isfinite(column.drop_null().to_numpy(zero_copy_only=False)).all():
            return list(values)
        return [each if each is None or math.isfinite(each) else _not_finite(each) for each in values]
    if pa.types.is_struct(type_):
        fields = {type_.field(i).name: json_values(column.field(i)) for i in range(type_.num_fields)}
        present = column.is_valid().to_pylist()
        rows = zip(*fields.values(), strict=True) if fields else [()] * len(column)
        return [
            dict(zip(fields, row, strict=True)) if valid else None
            for row, valid in zip(rows, present, strict=True)
        ]
    if pa.types.is_map(type_):
        return [None if each is None else _mapping(each) for each in column.to_pylist()]
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        elements = iter(json_values(column.flatten()))
        lengths = pc.list_value_length(column).to_pylist()
        return [None if n is None else [next(elements) for _ in range(n)] for n in lengths]
    return list(cell_texts(column).to_pylist())


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    return dict(
        zip((str(key) for key, _ in pairs), json_values(pa.array([v for _, v in pairs])), strict=True)
    )


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _floats(column: pa.Array) -> pa.Array:
    values = column.to_numpy(zero_copy_only=False)
    texts = pc.cast(column if column.type != pa.float16() else column.cast(pa.float32()), pa.string())
    # Arrow writes 3.0 as 3, which would read back as an integer.
    with np.errstate(invalid="ignore"):
        is_odd = (values == np.trunc(values)) | ~np.isfinite(values)
    if not is_odd.any():
        return texts
    odd = pa.array(is_odd)
    whole = pc.replace_substring_regex(texts.filter(odd), r"^(-?\d+)$", r"\1.0")
    for short, name in (("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity")):
        whole = pc.if_else(pc.equal(whole, short), name, whole)
    return pc.replace_with_mask(texts, odd, whole)


def _times(column: pa.Array) -> pa.Array:
    texts = pc.replace_substring(pc.cast(column, pa.string()), " ", "T")
    return pc.replace_substring_regex(texts, r"(\.\d*[1-9])0*|\.0+", r"\1")


def _duration(nanoseconds: int) -> str:
    days, rest = divmod(abs(nanoseconds), 86_400 * 10**9)
    seconds = f"{rest // 10**9}.{rest % 10**9:09}".rstrip("0").rstrip(".")
    return f"{'-' * (nanoseconds < 0)}P{days}DT{seconds}S"
