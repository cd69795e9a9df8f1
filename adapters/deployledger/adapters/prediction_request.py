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
from typing import Any
from urllib.parse import quote

from deployledger.domain.exceptions import ConfigurationError
from deployledger.serving import ModelDescription, Tensor, shape_of

_OF_MLFLOW = {"dataframe_split", "dataframe_records", "instances", "inputs", "messages"}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_NOT_FINITE = {
    "nan": "NaN",
    "inf": "Infinity",
    "infinity": "Infinity",
    "-inf": "-Infinity",
    "-infinity": "-Infinity",
}
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_INTEGERS, _REALS = ("int", "uint", "long"), ("fp", "bf", "float", "double")
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class PredictionRequest:
    """A request: where it goes, relative to the endpoint, and what it holds."""

    path: str
    body: bytes
    content_type: str = "application/json"


@dataclass(frozen=True)
class Data:
    """Values as they were given.

    Attributes:
        text: the values.
        format: ``json``, ``jsonl`` or ``csv``; empty if that is to be seen from the text.
        source: the file they are from; empty if they were typed.
    """

    text: str
    format: str = ""
    source: str = ""


def prediction_request(data: Data, model: ModelDescription | None, name: str) -> PredictionRequest:
    """Return the request for values.

    Args:
        model: the model; None if its endpoint does not describe it.
        name: the model's name.

    Raises:
        ConfigurationError: the values cannot be read, or the model has no place for them.
    """
    try:
        return _request(data, model, name)
    except RecursionError:
        raise _unreadable(data, "it is nested too deeply") from None


def _request(data: Data, model: ModelDescription | None, name: str) -> PredictionRequest:
    format_ = data.format or _format(data)
    if format_ == "csv":
        if model is not None and not model.inputs and model.form != "open_inference":
            return PredictionRequest(model.path, data.text.encode(), "text/csv")
        value: Any = list(_csv_rows(data, _known(model)))
    else:
        value = _json_lines(data) if format_ == "jsonl" else _json(data, model)
        if _is_request(value, model):
            return PredictionRequest(_path(value, model, name), data.text.encode())
    model = _known(model)
    if value == []:
        raise ConfigurationError("There are no rows to predict.")
    body = (
        model.request(_values(value, model.inputs)) if _has_tensors(model) else _mlflow_request(value, model)
    )
    return PredictionRequest(model.path, json.dumps(body).encode())


def _known(model: ModelDescription | None) -> ModelDescription:
    if model is None:
        raise ConfigurationError(
            "The endpoint does not describe its model, so plain values cannot be sent to it.",
            hint="Give a complete request of its protocol, as in --data '{\"inputs\": …}'.",
        )
    return model


# Reading ---------------------------------------------------------------------------------------------


def _format(data: Data) -> str:
    """Return the format of typed values or of standard input."""
    text = data.text.lstrip()
    if text.startswith(("[", "{")):
        return "json" if _is_json(text) else "jsonl"
    return "json" if not data.source or _is_json(text) else "csv"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return "\n" not in text.strip()
    return True


def _json(data: Data, model: ModelDescription | None) -> Any:
    try:
        return json.loads(data.text)
    except ValueError as error:
        if not data.source and model is not None and len(model.inputs) == 1 and _is_text(model.inputs[0]):
            return data.text
        raise _unreadable(data, f"not JSON: {error}") from error


def _json_lines(data: Data) -> list[Any]:
    rows = []
    for number, line in enumerate(data.text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise _unreadable(data, f"not JSON: {error}", line=number) from error
    return rows


def _csv_rows(data: Data, model: ModelDescription) -> Iterator[dict[str, Any]]:
    """Yield the rows by the columns of the header, with values of the types that the inputs have."""
    reader = csv.reader(StringIO(data.text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if not header or len(set(header)) != len(header):
            what = "two columns have the same name" if header else "there is no line that names the columns"
            raise _unreadable(data, what, line=1)
        types = {each.name: each for each in model.inputs}
        if not types.keys() <= set(header) and len(types) == 1:
            types = dict.fromkeys(header, model.inputs[0])
        for record in filter(None, reader):
            if len(record) != len(header):
                what = f"expected {len(header)} values, given {len(record)}"
                raise _unreadable(data, what, line=reader.line_num)
            yield {
                name: _cell(cell, types[name].datatype, model, _Place(data, reader.line_num, name))
                for name, cell in zip(header, record, strict=True)
                if name in types
            }
    except csv.Error as error:
        raise _unreadable(data, str(error), line=reader.line_num) from error


@dataclass(frozen=True)
class _Place:
    data: Data
    line: int
    column: str


def _cell(cell: str, datatype: str, model: ModelDescription, place: _Place) -> Any:
    """Return a cell as a value of a data type; a missing number is NaN, or null for MLflow."""
    text, kind = cell.strip(), datatype.lower()
    if kind.startswith(_REALS):
        if not text:
            return "NaN" if model.form == "open_inference" else None
        value: Any = float(text) if _REAL.fullmatch(text) else _NOT_FINITE.get(text.lower())
        value = None if value in (math.inf, -math.inf) else value  # too large for any of them
    elif kind.startswith(_INTEGERS):
        value = int(text) if _INTEGER.fullmatch(text) else None
    elif kind.startswith("bool"):
        value = _BOOLEANS.get(text.lower())
    else:
        return cell
    if value is None:
        what = f"column {place.column!r}: expected {datatype}, given {cell!r}"
        raise _unreadable(place.data, what, line=place.line)
    return value


def _unreadable(data: Data, problem: str, *, line: int | None = None) -> ConfigurationError:
    place = f"{data.source or '--data'}{f', line {line}' if line else ''}"
    hint = "" if data.source else "A text is quoted twice, as in --data '\"red\"'."
    return ConfigurationError(f"{place}: {problem}.", hint=hint)


# Complete requests -----------------------------------------------------------------------------------


def _is_request(value: Any, model: ModelDescription | None) -> bool:
    """Return whether a value is a complete request of the model's protocol; of either, if that is unknown."""
    if not isinstance(value, dict):
        return False
    if model is not None and model.form != "open_inference":
        return not _OF_MLFLOW.isdisjoint(value)
    return _is_inference(value) or (model is None and not _OF_MLFLOW.isdisjoint(value))


def _is_inference(value: dict[str, Any]) -> bool:
    inputs = value.get("inputs")
    return (
        isinstance(inputs, list)
        and bool(inputs)
        and all(isinstance(each, dict) and {"name", "datatype"} <= each.keys() for each in inputs)
    )


def _path(request: dict[str, Any], model: ModelDescription | None, name: str) -> str:
    if model is not None:
        return model.path
    return f"v2/models/{quote(name, safe='')}/infer" if _is_inference(request) else "invocations"


# Plain values ----------------------------------------------------------------------------------------


def _has_tensors(model: ModelDescription) -> bool:
    return model.form != "dataframe_split" and bool(model.inputs)


def _is_text(tensor: Tensor) -> bool:
    return tensor.datatype.lower().startswith(("bytes", "str"))


def _mlflow_request(value: Any, model: ModelDescription) -> Any:
    """Return a request with rows of a data frame, which MLflow compares with the signature itself."""
    rows = value if isinstance(value, list) else [value]
    if all(isinstance(each, dict) for each in rows):
        return {"dataframe_records": rows}
    if not model.inputs:
        return {"inputs": rows}
    if len(model.inputs) == 1 and not any(isinstance(each, list) for each in rows):
        rows = [[each] for each in rows]
    if not all(isinstance(each, list) for each in rows):
        rows = [rows]
    names = [each.name for each in model.inputs]
    for row in rows:
        if len(row) != len(names):
            raise ConfigurationError(
                f"A row has {len(row)} values; the model has {len(names)} columns: {_names(model.inputs)}."
            )
    return {"dataframe_split": {"columns": names, "data": rows}}


def _values(value: Any, tensors: Sequence[Tensor]) -> dict[str | None, Any]:
    """Return the value of each input, nested as its shape is."""
    if isinstance(value, dict):
        rows = _by_name(value, tensors)
    elif isinstance(value, list) and all(isinstance(each, dict) for each in value):
        rows = [list(column) for column in zip(*(_by_name(each, tensors) for each in value), strict=True)]
    elif len(tensors) == 1:
        rows = [value]
    else:
        rows = _by_position(value, tensors)
    return {each.name: _fitted(row, each) for each, row in zip(tensors, rows, strict=True)}


def _by_name(row: dict[str, Any], tensors: Sequence[Tensor]) -> list[Any]:
    if all(each.name in row for each in tensors):
        return [row[each.name or ""] for each in tensors]
    if len(tensors) > 1:
        missing = _names([each for each in tensors if each.name not in row])
        raise ConfigurationError(
            f"The data have no {missing}; the model has the inputs {_names(tensors)}.",
            hint="Name a value or a column after each input.",
        )
    values = list(row.values())
    return values if len(values) == 1 and isinstance(values[0], list) else [values]


def _by_position(value: Any, tensors: Sequence[Tensor]) -> list[Any]:
    rows = value if isinstance(value, list) and all(isinstance(each, list) for each in value) else [value]
    if not all(isinstance(row, list) and len(row) == len(tensors) for row in rows):
        raise ConfigurationError(
            f"The model has {len(tensors)} inputs: {_names(tensors)}.",
            hint="Give an object with a value for each, or rows with that many values.",
        )
    return value if rows == [value] else [list(column) for column in zip(*rows, strict=True)]


def _fitted(value: Any, tensor: Tensor) -> Any:
    """Return a value with the dimensions that it lacks: one row of a batch, or one element a row."""
    shape, expected = _shape(value, tensor), tensor.shape or []
    missing = len(expected) - len(shape)
    for before in (missing, 0):
        full = [1] * before + shape + [1] * (missing - before)
        if missing >= 0 and all(size in (-1, given) for size, given in zip(expected, full, strict=True)):
            for _ in range(before):
                value = [value]
            return _with_ones(value, missing - before)
    given = f"values of shape {shape}" if shape else "one value"
    raise ConfigurationError(f"The input {tensor.name or ''!r} takes {tensor.type_and_shape}, given {given}.")


def _shape(value: Any, tensor: Tensor) -> list[int]:
    try:
        return shape_of(value)
    except ValueError as error:
        raise ConfigurationError(f"The input {tensor.name or ''!r}: {error}.") from error


def _with_ones(value: Any, dimensions: int) -> Any:
    if isinstance(value, list):
        return [_with_ones(each, dimensions) for each in value]
    for _ in range(dimensions):
        value = [value]
    return value


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(repr(each.name or "") for each in tensors)
