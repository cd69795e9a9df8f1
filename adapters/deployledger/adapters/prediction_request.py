"""Requests for predictions, from what people type and from files of rows.

A request that is complete goes out as it is. Plain values go to the inputs of the model by the rules of batch
jobs: columns named like all inputs go to these; otherwise one input takes all columns in their order.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

from deployledger.domain.exceptions import ConfigurationError
from deployledger.serving import ModelDescription, Tensor, shape_of

_JSON = "application/json"
_OF_MLFLOW = {"dataframe_split", "dataframe_records", "instances", "inputs", "messages"}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_NOT_FINITE = {"nan": "NaN"} | {
    f"{sign}{word}": f"{sign}Infinity" for sign in ("", "-") for word in ("inf", "infinity")
}
_INTEGERS, _REALS = ("int", "uint", "long"), ("fp", "bf", "float", "double")
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Data:
    """Values as they were given.

    Attributes:
        text: the values.
        source: the file they are from; empty if they were typed.
        format: how they are written; ``json`` may have a value on each line.
    """

    text: str
    source: str = ""
    format: Literal["json", "csv"] = "json"


def prediction_request(data: Data, model: ModelDescription) -> tuple[bytes, str]:
    """Return the body of the request for values, and its content type.

    Raises:
        ConfigurationError: the values cannot be read, or the model has no place for them.
    """
    try:
        return _request(data, model)
    except RecursionError:
        raise _unreadable(data, "it is nested too deeply") from None


def _request(data: Data, model: ModelDescription) -> tuple[bytes, str]:
    takes_anything = not model.inputs and model.form != "open_inference"
    if data.format == "csv":
        if takes_anything:
            return data.text.encode(), "text/csv"
        value: Any = list(_csv_rows(data, model))
    else:
        value = _json(data, model)
        if _is_request(value, model):
            return data.text.encode(), _JSON
    if value == []:
        raise ConfigurationError("There are no rows to predict.")
    is_frame = takes_anything or model.form == "dataframe_split"
    body = _frame(value, model) if is_frame else model.request(_values(value, model.inputs))
    return json.dumps(body).encode(), _JSON


def _is_request(value: Any, model: ModelDescription) -> bool:
    """Return whether a value is a complete request of the model's protocol."""
    if not isinstance(value, dict) or model.form != "open_inference":
        return isinstance(value, dict) and not _OF_MLFLOW.isdisjoint(value)
    inputs = value.get("inputs")
    return isinstance(inputs, list) and any(isinstance(each, dict) and "datatype" in each for each in inputs)


# Reading ---------------------------------------------------------------------------------------------


def _json(data: Data, model: ModelDescription) -> Any:
    try:
        return json.loads(data.text)
    except ValueError as error:
        if rows := list(_json_lines(data)):
            return rows
        takes_text = len(model.inputs) == 1 and model.inputs[0].datatype.lower().startswith(("bytes", "str"))
        if takes_text and not data.source:
            return data.text
        raise _unreadable(data, f"not JSON: {error}") from error


def _json_lines(data: Data) -> Iterator[Any]:
    """Yield the values of JSON lines; none if the first line is not one."""
    is_first = True
    for number, line in enumerate(data.text.split("\n"), start=1):
        try:
            if line.strip():
                yield json.loads(line)
                is_first = False
        except ValueError as error:
            if is_first:
                return
            raise _unreadable(data, f"not JSON: {error}", line=number) from error


def _csv_rows(data: Data, model: ModelDescription) -> Iterator[dict[str, Any]]:
    """Yield the rows by the columns of the header, with values of the types that the inputs have."""
    missing = "NaN" if model.form == "open_inference" else None
    reader = csv.reader(StringIO(data.text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if not header or len(set(header)) != len(header):
            what = "two columns have the same name" if header else "there is no line that names the columns"
            raise _unreadable(data, what, line=1)
        types = {each.name: each.datatype for each in model.inputs}
        if not types.keys() <= set(header) and len(types) == 1:
            types = dict.fromkeys(header, model.inputs[0].datatype)
        for record in filter(None, reader):
            if len(record) != len(header):
                what = f"expected {len(header)} values, given {len(record)}"
                raise _unreadable(data, what, line=reader.line_num)
            cells = zip(header, record, strict=True)
            row = {name: _cell(cell, types[name], missing) for name, cell in cells if name in types}
            if wrong := next((name for name, value in row.items() if value is _WRONG), None):
                what = f"expected {types[wrong]}, given {record[header.index(wrong)]!r}"
                raise _unreadable(data, f"column {wrong!r}: {what}", line=reader.line_num)
            yield row
    except csv.Error as error:
        raise _unreadable(data, str(error), line=reader.line_num) from error


_WRONG = object()


def _cell(cell: str, datatype: str, missing: str | None) -> Any:
    """Return a cell as a value of a data type, or that it is wrong."""
    text, kind = cell.strip(), datatype.lower()
    if kind.startswith(_REALS):
        if not text:
            return missing
        number = float(text) if _REAL.fullmatch(text) else math.inf
        return _NOT_FINITE.get(text.lower(), _WRONG) if math.isinf(number) else number
    if kind.startswith(_INTEGERS):
        return int(text) if _INTEGER.fullmatch(text) else _WRONG
    return _BOOLEANS.get(text.lower(), _WRONG) if kind.startswith("bool") else cell


def _unreadable(data: Data, problem: str, *, line: int | None = None) -> ConfigurationError:
    place = f"{data.source or '--data'}{f', line {line}' if line else ''}"
    hint = "" if data.source else "A text is quoted twice, as in --data '\"red\"'."
    return ConfigurationError(f"{place}: {problem}.", hint=hint)


# Placing ---------------------------------------------------------------------------------------------


def _frame(value: Any, model: ModelDescription) -> Any:
    """Return rows of a data frame, which MLflow compares with the signature itself."""
    rows = value if isinstance(value, list) else [value]
    if all(isinstance(each, dict) for each in rows):
        return {"dataframe_records": rows}
    if not model.inputs:
        return {"inputs": rows}
    if len(model.inputs) == 1:
        rows = [each if isinstance(each, list) else [each] for each in rows]
    elif not all(isinstance(each, list) for each in rows):
        rows = [rows]
    return {"dataframe_split": {"columns": [each.name for each in model.inputs], "data": rows}}


def _values(value: Any, tensors: Sequence[Tensor]) -> dict[str | None, Any]:
    """Return the value of each input, nested as its shape is."""
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        values = [list(column) for column in zip(*(_by_name(each, tensors) for each in value), strict=True)]
    elif isinstance(value, dict) or len(tensors) > 1:
        values = _by_name(value, tensors)
    else:
        values = [value]
    return {tensor.name: _fitted(each, tensor) for tensor, each in zip(tensors, values, strict=True)}


def _by_name(row: Any, tensors: Sequence[Tensor]) -> list[Any]:
    row = row if isinstance(row, dict) else {}
    missing = [each for each in tensors if each.name not in row]
    if not missing:
        return [row[each.name] for each in tensors]
    if len(tensors) > 1:
        raise ConfigurationError(
            f"The data have no {_names(missing)}; the model has the inputs {_names(tensors)}.",
            hint="Give an object with a value for each input, or name a column after each.",
        )
    values = list(row.values())
    return values if len(values) == 1 and isinstance(values[0], list) else [values]


def _fitted(value: Any, tensor: Tensor) -> Any:
    """Return a value with the dimensions that it lacks: one row of a batch, or one element a row."""
    try:
        shape, expected = shape_of(value), tensor.shape or []
    except ValueError as error:
        raise ConfigurationError(f"The input {_names([tensor])}: {error}.") from error
    missing = len(expected) - len(shape)
    for before in (missing, 0):
        full = [1] * before + shape + [1] * (missing - before)
        if missing >= 0 and all(size in (-1, given) for size, given in zip(expected, full, strict=True)):
            for _ in range(before):
                value = [value]
            return value if before else _with_ones(value, missing)
    given = f"values of shape {shape}" if shape else "one value"
    raise ConfigurationError(f"The input {_names([tensor])} takes {tensor.type_and_shape}, given {given}.")


def _with_ones(value: Any, dimensions: int) -> Any:
    if isinstance(value, list):
        return [_with_ones(each, dimensions) for each in value]
    for _ in range(dimensions):
        value = [value]
    return value


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(repr(each.name or "") for each in tensors)
