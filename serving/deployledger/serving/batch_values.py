"""Python, NumPy and pandas values as Arrow columns: one type for a column, and the rows that do not fit it.

A missing value (None, NaN, ``pandas.NA``, ``NaT``) is null, except that NaN stays NaN in a column of floats.
Datetimes with a time zone become instants in UTC.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from deployledger.serving.batch_table import numpy_dtype
from deployledger.serving.tensors import Array

_EXACT = {str: pa.string(), bool: pa.bool_(), float: pa.float64(), int: pa.int64(), bytes: pa.binary()}
_DIGITS_BEFORE_POINT = 20
_ARROW_ERRORS = (pa.ArrowException, OverflowError, TypeError, ValueError)
_AS_TEXT = {"Period", "Interval", "UUID"}


class MisfitError(ValueError):
    """A value does not fit the type of its column, or any type; the text says why."""


def array_of(values: Array) -> pa.Array:
    """Return the elements of an array as a column: lists, if it has more than one dimension.

    Raises:
        MisfitError: its data type has no column.
    """
    flat = values.reshape(-1)
    if flat.dtype.kind == "O":
        column, misfits = column_of(flat.tolist(), type_of_all(flat.tolist()))
        if misfits:
            raise MisfitError(next(iter(misfits.values())))
    else:
        element = _type_of_dtype(flat.dtype)
        column = pa.array(flat.astype(numpy_dtype(element), copy=False), element, from_pandas=False)
    for axis in range(values.ndim - 1, 0, -1):
        count = int(np.prod(values.shape[:axis]))
        offsets = np.arange(count + 1, dtype=np.int32) * values.shape[axis]
        column = pa.ListArray.from_arrays(pa.array(offsets), column)
    return column


def type_of_all(values: Iterable[Any]) -> pa.DataType:
    """Return the type that holds all values; null if all are missing.

    Raises:
        MisfitError: there is no such type.
    """
    values = list(values)
    simple = {type(value) for value in values} - {type(None)}
    if simple == {dict}:
        cells: dict[str, list[Any]] = {}
        for value in values:
            for key, cell in (value or {}).items():
                cells.setdefault(str(key), []).append(cell)
        if not cells:
            raise MisfitError("an empty dictionary has no type")
        return pa.struct([(key, type_of_all(each)) for key, each in cells.items()])
    if len(simple) == 1 and (exact := _EXACT.get(next(iter(simple)))) and exact != pa.int64():
        return exact
    merged = merge(map(_type_of, values))
    is_nan = kinds.is_null(merged) and any(isinstance(value, float | np.floating) for value in values)
    return pa.float64() if is_nan else merged


def misfits_of(values: Sequence[Any]) -> tuple[dict[int, str], pa.DataType]:
    """Return by index why values have no type in common with earlier ones, and the type of the others."""
    merged, misfits = pa.null(), {}
    for index, value in enumerate(values):
        try:
            merged = merge([merged, type_of_all([value])])
        except MisfitError as error:
            misfits[index] = str(error)
    return misfits, merged


def column_of(values: Sequence[Any], wanted: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """Return the values as a column of type ``wanted``, and by index why some do not fit, which are null."""
    if kinds.is_struct(wanted):
        return _structs_of(values, wanted)
    if {_EXACT.get(type(value)) for value in values if value is not None} == {wanted}:
        with suppress(*_ARROW_ERRORS):  # a value does not fit: found below
            return pa.array(values, wanted, from_pandas=False), {}
    cells, misfits = [], {}
    for index, value in enumerate(values):
        try:
            cells.append(_fit(value, wanted))
        except MisfitError as error:
            cells.append(None)
            misfits[index] = str(error)
    try:
        return pa.array(cells, wanted, from_pandas=False), misfits
    except _ARROW_ERRORS:
        for index, cell in enumerate(cells):
            try:
                pa.array([cell], wanted, from_pandas=False)
            except _ARROW_ERRORS:
                cells[index] = None
                misfits[index] = f"{shortened(cell)} is not exactly representable as {wanted}"
        return pa.array(cells, wanted, from_pandas=False), misfits


def merge(types: Iterable[pa.DataType]) -> pa.DataType:
    """Return the type that holds the values of all types.

    Raises:
        MisfitError: there is none.
    """

    def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
        schemas = [pa.schema([("", each)]) for each in (one, other)]
        try:
            return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        except pa.ArrowException:
            raise MisfitError(f"expected {one}, got {other}") from None

    return reduce(wider, dict.fromkeys(types), pa.null())


def _structs_of(values: Sequence[Any], wanted: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """Like `column_of`, for dictionaries, key by key."""
    names = {field.name for field in wanted}
    misfits: dict[int, str] = {}
    rows: list[Mapping[str, Any]] = []
    for index, value in enumerate(values):
        row = value if isinstance(value, Mapping) else {}
        if not row.keys() <= names:
            row = {str(key): cell for key, cell in row.items()}
        if unknown := [key for key in row if key not in names]:
            misfits[index] = f"unknown key {unknown[0]!r}: the first rows do not have it"
        elif not isinstance(value, Mapping) and not _is_missing(value):
            misfits[index] = f"expected a dictionary, got {shortened(value)}"
        rows.append(row)
    children = []
    for field in wanted:
        child, wrong = column_of([row.get(field.name) for row in rows], field.type)
        children.append(child)
        misfits = wrong | misfits
    missing = [index in misfits or not isinstance(value, Mapping) for index, value in enumerate(values)]
    column = pa.StructArray.from_arrays(children, fields=list(wanted), mask=pa.array(missing, pa.bool_()))
    return column, misfits


def _fit(value: Any, wanted: pa.DataType) -> Any:
    """Return a value as ``pyarrow.array`` takes it for the type ``wanted``."""
    if _is_missing(value):
        is_nan = kinds.is_floating(wanted) and isinstance(value, float | np.floating)
        return value if is_nan else None
    if kinds.is_struct(wanted):
        column, misfits = _structs_of([value], wanted)
        if misfits:
            raise MisfitError(misfits[0])
        return column[0].as_py()
    is_plain = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "biuf"
    if is_plain and value.dtype.isnative and _type_of(value) == wanted:
        return value
    if kinds.is_list(wanted) and isinstance(value, list | tuple | np.ndarray):
        return [_fit(cell, wanted.value_type) for cell in value]
    kind = _type_of(value)
    if kinds.is_integer(wanted) and kinds.is_floating(kind) and float(value).is_integer():
        return int(value)
    if kind != wanted and (merge([wanted, kind]) != wanted or kinds.is_string(kind)):
        raise MisfitError(f"expected {wanted}, got {kind} {shortened(value)}")
    if kinds.is_floating(wanted) and isinstance(value, int) and int(float(value)) != value:
        raise MisfitError(f"{value} is not exactly representable as {wanted}")
    if isinstance(value, np.datetime64 | np.timedelta64):
        return value.item() if kinds.is_date(wanted) else value.astype(f"{value.dtype.kind}8[{wanted.unit}]")
    return str(value) if type(value).__name__ in _AS_TEXT else value


def _is_missing(value: Any) -> bool:
    if value is None:
        return True
    if isinstance(value, str | bytes | Mapping | list | tuple | np.ndarray):
        return False
    try:
        return bool(value != value)  # NaN and NaT differ from themselves
    except (ArithmeticError, TypeError, ValueError):  # pandas.NA and a signalling NaN refuse to be compared
        return type(value).__name__ in ("Decimal", "NAType")


def _type_of(value: Any) -> pa.DataType:
    """Return the type of one value; null if it is missing."""
    if _is_missing(value):
        return pa.null()
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        element = _type_of_dtype(value.dtype)
        return reduce(lambda inner, _: pa.list_(inner), range(value.ndim), element)
    if isinstance(value, list | tuple | np.ndarray):
        return pa.list_(type_of_all(value))
    if isinstance(value, Mapping):
        return type_of_all([dict(value)])
    if isinstance(value, np.generic):
        return _type_of_dtype(value.dtype)
    if type(value).__name__ in _AS_TEXT:
        return pa.string()
    kind = pa.null()
    with suppress(*_ARROW_ERRORS):
        is_large = isinstance(value, int) and value >= 1 << 63
        kind = pa.scalar(value, pa.uint64() if is_large else None).type
    if kinds.is_null(kind) or kinds.is_nested(kind):  # a set has no order
        raise MisfitError(f"cannot write a value of type {type(value).__name__}: {shortened(value)}")
    if isinstance(value, Decimal):
        digits = min(76, max(_DIGITS_BEFORE_POINT, kind.precision - kind.scale) + kind.scale)
        return pa.decimal128(digits, kind.scale) if digits <= 38 else pa.decimal256(digits, kind.scale)
    if kinds.is_timestamp(kind):
        return pa.timestamp(getattr(value, "unit", kind.unit), kind.tz and "UTC")
    return pa.duration(getattr(value, "unit", kind.unit)) if kinds.is_duration(kind) else kind


def _type_of_dtype(dtype: np.dtype[Any]) -> pa.DataType:
    if dtype.kind in "Mm" and dtype != "M8[D]" and np.datetime_data(dtype)[0] in "YMWDhm":
        dtype = np.dtype(f"{dtype.kind}8[s]")  # the coarsest unit that Arrow has
    try:
        return pa.from_numpy_dtype(dtype)
    except _ARROW_ERRORS:
        raise MisfitError(f"cannot write values of the NumPy type {dtype}") from None


def shortened(value: Any, text_of: Callable[[Any], str] = repr) -> str:
    """Return a value as a text of at most 80 characters, for messages."""
    text = text_of(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
