"""Types of columns: deciding them once for a job, and converting cells to them.

A type comes from the model, else from the user, else from all cells of the column:

==================================================  =========
every cell of a CSV file that is not missing is     type
==================================================  =========
``true`` or ``false`` in any case                   bool
an integer without leading zeros or plus sign       int64, or uint64 if one is too large
a decimal number, likewise, or an infinity          float64
anything else                                       string
==================================================  =========

JSON lines, Parquet and Arrow have types of their own; the type of a column is one that holds all of them
(int64 and float64: float64; kinds that do not mix: string). A column without any value is float64, as pandas
has it.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from deployledger.domain.redaction import storable
from deployledger.serving.batch_status import input_invalid
from deployledger.serving.batch_table import InputColumn, RowProblem, numpy_dtype
from deployledger.serving.batch_text import cell_texts

pc: Any = import_module("pyarrow.compute")  # its functions are made when it is imported

Cells: TypeAlias = pa.Array | list[Any]
"""A column: of Arrow, or the values that JSON has, which may be of different kinds."""

NULL_VALUES = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
    *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
"""The texts of missing cells in CSV files, as pandas has them."""


_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}  # the true ones first
_INTEGER = re.compile(r"[+-]?\d+(\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)", re.ASCII | re.IGNORECASE)

# From the narrowest to the widest; a text column has the first type that matches all of its cells.
_TEXTS_OF = {
    pa.bool_(): r"(?i)^(true|false)$",
    pa.int64(): r"^-?(0|[1-9]\d{0,18})$",
    pa.uint64(): r"^(0|[1-9]\d{0,19})$",
    pa.float64(): (
        r"(?i)^-?((0|[1-9]\d{0,18})|(0|[1-9]\d*)(\.\d*(e[+-]?\d+)?|e[+-]?\d+)|\.\d+(e[+-]?\d+)?|inf(inity)?)$"
    ),
}


class ColumnTypes:
    """The types of columns as far as they are known from the batches seen.

    Args:
        is_text: whether all cells are untyped text, as in CSV.
        null_values: the texts of missing cells; only for texts.
    """

    def __init__(self, *, is_text: bool, null_values: Sequence[str]) -> None:
        self._is_text = is_text
        self._null_values = null_values
        self._types: dict[str, list[pa.DataType]] = {}
        self._nullable: set[str] = set()

    def see(self, columns: Mapping[str, Cells]) -> None:
        """Take the cells of some rows into account."""
        for name, cells in columns.items():
            if self._is_text:
                cells = without_missing(cells, self._null_values)
                candidates = self._types.get(name, [*_TEXTS_OF, pa.string(), pa.null()])
                self._types[name] = _still_possible(candidates, cells.drop_null())
            else:
                if isinstance(cells, list):
                    cells = _in_arrow(cells) or _texts(cells)
                self._types[name] = [common_type([*self._types.get(name, []), cells.type])]
            if cells.null_count:
                self._nullable.add(name)

    def schema(self) -> pa.Schema:
        """Return the type of each column, and whether any cell is missing."""
        fields = []
        for name, candidates in self._types.items():
            # Only a text column without values has still all of them.
            is_null = pa.types.is_null(candidates[0]) or pa.null() in candidates
            type_ = pa.float64() if is_null else candidates[0]
            fields.append(pa.field(name, type_, nullable=name in self._nullable))
        return pa.schema(fields)


def _still_possible(candidates: list[pa.DataType], cells: pa.Array) -> list[pa.DataType]:
    if not len(cells):
        return candidates
    trimmed = pc.utf8_trim_whitespace(cells)
    return [each for each in candidates if each not in (pa.null(),) and _are(trimmed, each)]


def _are(cells: pa.Array, type_: pa.DataType) -> bool:
    if type_ not in _TEXTS_OF:
        return True
    if not pc.all(pc.match_substring_regex(cells, _TEXTS_OF[type_])).as_py():
        return False
    try:
        return type_ == pa.bool_() or pc.cast(cells, type_) is not None
    except pa.ArrowInvalid:  # an integer of 19 or 20 digits that is too large
        return False


def common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    """Return a type that holds the values of all these types; string if no other does."""
    if any(map(pa.types.is_boolean, types)) and not all(
        pa.types.is_boolean(each) or pa.types.is_null(each) for each in types
    ):
        return pa.string()
    schemas = [pa.schema([pa.field("", each)]) for each in types]
    try:
        common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()
    if pa.types.is_decimal(common) and any(map(pa.types.is_integer, types)):
        return pa.decimal128(38, common.scale)  # Arrow's is too narrow for the integers
    return common


def plain(column: pa.Array) -> pa.Array:
    """Return a column without encodings: categories as their values, texts and bytes of one kind."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    type_ = _plain_type(column.type)
    return column if type_ == column.type else column.cast(type_)


def _plain_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(_plain_type(type_.value_type), type_.list_size)
    if is_list(type_):
        return pa.list_(_plain_type(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in type_.fields])
    return type_


def _in_arrow(values: list[Any]) -> pa.Array | None:
    """Return values of JSON as a column of the narrowest type; None if they are of kinds that do not mix."""
    kinds = _kinds(values)
    if bool in kinds and len(kinds) > 1:  # Arrow takes true for 1.0
        return None
    for type_ in (None, pa.uint64()):
        try:
            return pa.array(values, type_)
        except (pa.ArrowException, OverflowError):
            continue
    return None


def _kinds(values: Iterable[Any]) -> set[type]:
    """Return the Python types of values, and of the elements of lists."""
    kinds = set(map(type, values)) - {type(None)}
    if list in kinds:
        kinds |= _kinds([*chain.from_iterable(value for value in values if isinstance(value, list))])
    return kinds - {list}


def _texts(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def without_missing(cells: pa.Array, null_values: Sequence[str]) -> pa.Array:
    """Return a column of texts with null for those that say that a cell is missing."""
    missing = pc.is_in(cells, value_set=pa.array(null_values, pa.string()))
    return pc.if_else(missing, pa.scalar(None, pa.string()), cells) if pc.any(missing).as_py() else cells


def _trimmed(cells: pa.Array, null_values: Sequence[str]) -> pa.Array:
    return without_missing(pc.utf8_trim_whitespace(cells), null_values)


def read_as(
    cells: Cells, column: InputColumn, null_values: Sequence[str] | None
) -> tuple[pa.Array, dict[int, RowProblem]]:
    """Return a column's cells converted to its type, and the problems of those that cannot be: they are null.

    Args:
        null_values: the texts of missing cells; None if the cells are not texts only, as in CSV.
    """
    wanted = column.type
    if column.lists:
        for _ in range(_depth(cells)):
            wanted = pa.list_(wanted)
    reasons: dict[int, str] = {}
    if isinstance(cells, list):
        given = _texts(cells) if pa.types.is_string(wanted) else _in_arrow(cells)
    else:
        given = cells
    read = None if given is None else _quickly(given, wanted, null_values)
    if read is None:
        values: list[Any] = []
        parse = _parser(wanted)
        present = cells if null_values is None else _trimmed(cells, null_values)
        for row, value in enumerate(present if isinstance(present, list) else present.to_pylist()):
            try:
                values.append(None if value is None else parse(value))
            except ValueError as error:
                values.append(None)
                reasons[row] = str(error)
        read = pa.array(values, wanted)
    if not column.nullable and read.null_count:
        missing = np.flatnonzero(read.is_null().to_numpy(zero_copy_only=False))
        reasons = dict.fromkeys(missing.tolist(), "missing value") | reasons
    problems = {}
    for row, reason in reasons.items():
        value = cells[row] if isinstance(cells, list) else cells[row].as_py()
        problems[row] = RowProblem(
            column.name, "" if value is None else storable(_text(value)), reason, column.hint
        )
    return read, problems


def _depth(cells: Cells) -> int:
    """Return how deep lists are nested; most of them, if there are several depths."""
    if not isinstance(cells, list):
        return str(cells.type).count("list<")
    depths: Counter[int] = Counter()
    for cell in cells:
        depth = 0
        while isinstance(cell, list) and (depth := depth + 1):
            cell = cell[0] if cell else None
        depths[depth] += 1
    return depths.most_common(1)[0][0] if depths else 0


def is_list(type_: pa.DataType) -> bool:
    """Whether cells of the type are lists."""
    return bool(
        pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    )


def _quickly(cells: pa.Array, wanted: pa.DataType, null_values: Sequence[str] | None) -> pa.Array | None:
    """Return the cells if all can be converted, the usual case; None if some may not."""
    if null_values is None:
        return _cast(cells, wanted)
    read = _cast(without_missing(cells, null_values), wanted)
    return _cast(_trimmed(cells, null_values), wanted) if read is None else read


def _cast(cells: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    given = cells.type
    if given == wanted:
        return cells
    if pa.types.is_null(given):
        return pa.nulls(len(cells), wanted)
    given_leaf, wanted_leaf = leaf(given), leaf(wanted)
    if pa.types.is_string(wanted_leaf):
        return None if is_list(wanted) or is_list(given) else cell_texts(cells)
    if pa.types.is_string(given):
        if pa.types.is_boolean(wanted):
            read = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(cells)), pa.array([*_BOOLEANS]))
            return pc.less(read, 2) if read.null_count == cells.null_count else None
        # Arrow reads 0x10 as 16.
        if pa.types.is_integer(wanted) and pc.any(pc.match_substring(cells, "x", ignore_case=True)).as_py():
            return None
    elif any(kind(given_leaf) != kind(wanted_leaf) for kind in (pa.types.is_boolean, pa.types.is_temporal)):
        return None
    try:
        # Floats are rounded, as everywhere; anything else is exact.
        is_rounded = pa.types.is_floating(wanted_leaf) and not pa.types.is_string(given)
        read = pc.cast(cells, wanted, safe=not is_rounded)
    except pa.ArrowException:
        return None
    return None if _overflows(cells, read) else read


def _overflows(cells: pa.Array, read: pa.Array) -> bool:
    """Whether a number became an infinity, or may have: a text can say so itself."""
    while is_list(read.type):
        cells, read = cells.flatten(), read.flatten()
    if not pa.types.is_floating(read.type):
        return False
    values = read.to_numpy(zero_copy_only=False)
    if not np.isinf(values).any():
        return False
    if not pa.types.is_floating(cells.type):
        return True
    return bool((np.isinf(values) != np.isinf(cells.to_numpy(zero_copy_only=False))).any())


def leaf(type_: pa.DataType) -> pa.DataType:
    """Return the type of the elements of lists of any depth."""
    return leaf(type_.value_type) if is_list(type_) else type_


def _parser(wanted: pa.DataType) -> Callable[[Any], Any]:
    """Return a function from one value to that of a type; it raises ValueError with what is wrong."""
    if is_list(wanted):
        return lambda value: _list(value, wanted)
    if pa.types.is_boolean(wanted):
        return _boolean
    if pa.types.is_integer(wanted):
        return lambda value: _integer(value, wanted)
    if pa.types.is_floating(wanted):
        return lambda value: _float(value, wanted)
    if pa.types.is_string(wanted):
        return _text
    return lambda value: _other(value, wanted)


def _list(value: Any, wanted: pa.DataType) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"not a value of type {wanted}")
    element = _parser(wanted.value_type)
    return [None if each is None else element(each) for each in value]


def _boolean(value: Any) -> bool:
    known = _BOOLEANS.get(str(value).strip().lower())
    if known is None:
        raise ValueError("not a boolean (true, false, 1 or 0)")
    return known


def _integer(value: Any, wanted: pa.DataType) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not _INTEGER.fullmatch(text):
        raise ValueError(f"not an integer ({wanted})")
    number = int(text.partition(".")[0])
    bits = wanted.bit_width - pa.types.is_signed_integer(wanted)
    if not (-(2**bits) if pa.types.is_signed_integer(wanted) else 0) <= number < 2**bits:
        raise ValueError(f"out of the range of {wanted}")
    return number


def _float(value: Any, wanted: pa.DataType) -> float:
    text = str(value).strip()
    if isinstance(value, bool) or not _NUMBER.fullmatch(text):
        raise ValueError(f"not a number ({wanted})")
    number = float(text)
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(numpy_dtype(wanted).type(number))
    if not is_finite and text.lower().lstrip("+-") not in ("inf", "infinity", "nan"):
        raise ValueError(f"out of the range of {wanted}")
    return number


def _other(value: Any, wanted: pa.DataType) -> Any:
    try:
        if pa.types.is_nested(wanted):
            return pa.scalar(value, wanted).as_py()
        if not (pa.types.is_temporal(wanted) and isinstance(value, int | float)):
            with suppress(pa.ArrowInvalid):
                return pc.cast(pa.scalar(value), wanted).as_py()
            if pa.types.is_timestamp(wanted):  # a text with a zone, for a type without one: the time in UTC
                return pc.cast(pc.cast(pa.scalar(value), pa.timestamp(wanted.unit, "UTC")), wanted).as_py()
    except (pa.ArrowException, OverflowError):
        pass
    raise ValueError(f"not a value of type {wanted}")


_TYPE_NAMES = {"boolean": "bool", "integer": "int32", "long": "int64", "datetime": "timestamp[us]"}


def schema_of(types: Mapping[str, str], columns: Sequence[str]) -> pa.Schema:
    """Return the types that a user gives columns, by the names that Arrow and MLflow have for them.

    Raises:
        BatchError: there is no such type, or no such column.
    """
    schema = pa.schema([])
    for name, type_ in types.items():
        if name not in columns:
            raise input_invalid(
                f"The schema has the column {name!r}, but the input does not.", "Correct the schema."
            )
        try:
            schema = schema.append(pa.field(name, pa.type_for_alias(_TYPE_NAMES.get(type_, type_))))
        except ValueError:
            raise input_invalid(
                f"The schema gives column {name!r} the unknown type {type_!r}.",
                "Use bool, int8 to int64, uint8 to uint64, float, double, string, date32, timestamp[us], or "
                "another type that Arrow has a name for.",
            ) from None
    return schema
