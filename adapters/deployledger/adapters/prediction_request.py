"""Requests for predictions, from typed values and from files of rows.

A complete request is sent unchanged. Plain values go to the inputs of the model by the rules of batch
jobs: columns named like all inputs go to these; otherwise one input takes all columns in their order.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

from deployledger.domain.exceptions import ConfigurationError
from deployledger.serving import ModelDescription, Tensor, shape_of

_JSON = "application/json"
_OF_MLFLOW = {"dataframe_split", "dataframe_records", "instances", "inputs", "messages"}


@dataclass(frozen=True)
class Data:
    """The values to predict from, as the user gave them.

    Attributes:
        text: the values.
        source: the file that they come from; empty if they were typed.
        format: their format; ``json`` includes JSON lines.
    """

    text: str
    source: str = ""
    format: Literal["json", "csv"] = "json"


class _RowError(Exception):
    """A row does not fit: its index, and why."""


def prediction_request(data: Data, model: ModelDescription) -> tuple[bytes, str]:
    """Return the body of the request for values, and its content type.

    Raises:
        ConfigurationError: the values cannot be parsed, or do not fit the inputs of the model.
    """
    try:
        return _request(data, model)
    except RecursionError:
        raise _unreadable(data, "it is nested too deeply") from None


def _request(data: Data, model: ModelDescription) -> tuple[bytes, str]:
    is_inference = model.form == "open_inference"
    takes_anything = not model.inputs and not is_inference
    if data.format == "csv" and takes_anything:
        return data.text.encode(), "text/csv"
    value, lines = _csv(data, model) if data.format == "csv" else _json(data, model)
    if _is_request(value, model):
        return data.text.encode(), _JSON
    if value == []:
        raise ConfigurationError("There are no rows to predict.")
    is_frame = takes_anything or model.form == "dataframe_split"
    try:
        body = _frame(value, model.inputs) if is_frame else model.request(_values(value, model.inputs))
    except _RowError as error:
        row, problem = error.args
        place = f"line {lines[row]}" if lines else f"row {row + 1}"
        raise _unreadable(data, problem, place) from None
    try:  # MLflow reads the literals NaN and Infinity; the protocol has texts instead
        return json.dumps(body, allow_nan=not is_inference).encode(), _JSON
    except ValueError:
        raise _unreadable(data, "a number is too large") from None


def _is_request(value: Any, model: ModelDescription) -> bool:
    """Return whether a value is a complete request of the model's protocol."""
    if not isinstance(value, dict) or model.form != "open_inference":
        return isinstance(value, dict) and not _OF_MLFLOW.isdisjoint(value)
    inputs = value.get("inputs")
    return isinstance(inputs, list) and any(isinstance(each, dict) and "datatype" in each for each in inputs)


# Reading: the values, and the line of each row -------------------------------------------------------


def _json(data: Data, model: ModelDescription) -> tuple[Any, list[int]]:
    constant = str if model.form == "open_inference" else float
    try:
        return json.loads(data.text, parse_constant=constant), []
    except ValueError as error:
        problem = f"not JSON: {error}"
    rows: dict[int, Any] = {}
    for number, line in enumerate(data.text.split("\n"), start=1):
        try:
            if line.strip():
                rows[number] = json.loads(line, parse_constant=constant)
        except ValueError as error:
            if rows:
                raise _unreadable(data, f"not JSON: {error}", f"line {number}") from None
            break
    if rows:
        return list(rows.values()), list(rows)
    takes_text = len(model.inputs) == 1 and model.inputs[0].datatype.lower().startswith(("bytes", "str"))
    if takes_text and not data.source:
        return data.text, []
    hint = "" if data.source else "Quote a string for JSON and for the shell: --data '\"red\"'."
    raise _unreadable(data, problem, hint=hint)


def _csv(data: Data, model: ModelDescription) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the rows by the columns of the header, with values of the types that the inputs have."""
    missing = "NaN" if model.form == "open_inference" else None
    reader = csv.reader(StringIO(data.text, newline=""), strict=True)
    rows: dict[int, dict[str, Any]] = {}
    try:
        header = next(reader, None)
        if not header:
            raise ValueError("the header is missing")
        if len(set(header)) != len(header):
            raise ValueError("two columns have the same name")
        inputs = {each.name: each for each in model.inputs}
        if len(inputs) == 1 and inputs.keys().isdisjoint(header):
            inputs = dict.fromkeys(header, model.inputs[0])
        for record in filter(None, reader):
            if len(record) != len(header):
                raise ValueError(f"expected {len(header)} values, got {len(record)}")
            cells = zip(header, record, strict=True)
            rows[reader.line_num] = {
                name: _cell(name, cell, inputs[name], missing) if name in inputs else cell
                for name, cell in cells
            }
    except (csv.Error, ValueError) as error:
        raise _unreadable(data, str(error), f"line {max(1, reader.line_num)}") from None
    return list(rows.values()), list(rows)


def _cell(column: str, cell: str, tensor: Tensor, missing: str | None) -> Any:
    """Return a cell as a value of the type of an input.

    Raises:
        ValueError: it is not of that type.
    """
    text, kind = cell.strip().lower(), tensor.datatype.lower()
    parse = next((parse for begin, parse in _PARSERS.items() if kind.startswith(begin)), None)
    if parse is None:
        return cell
    if not text and parse is _real:
        return missing
    try:
        if not text.isascii() or "_" in text:  # numbers in Python alone
            raise ValueError
        return parse(text)
    except (ValueError, KeyError):
        raise ValueError(f"column {column!r}: expected {tensor.datatype}, got {cell!r}") from None


def _real(text: str) -> float | str:
    number = float(text)
    if math.isinf(number) and text[-1].isdigit():
        raise ValueError
    return number if math.isfinite(number) else json.dumps(number)  # the same texts as in the protocol


_PARSERS: dict[tuple[str, ...], Callable[[str], Any]] = {
    ("fp", "bf", "float", "double"): _real,
    ("int", "uint", "long"): int,
    ("bool",): {"true": True, "1": True, "false": False, "0": False}.__getitem__,
}


def _unreadable(data: Data, problem: str, place: str = "", hint: str = "") -> ConfigurationError:
    where = f"{data.source or '--data'}{place and f', {place}'}"
    return ConfigurationError(f"{where}: {problem}.", hint=hint)


# Placing ---------------------------------------------------------------------------------------------


def _frame(value: Any, columns: Sequence[Tensor]) -> Any:
    """Return the rows of a data frame; MLflow compares their types with the signature itself."""
    rows = value if isinstance(value, list) else [value]
    if not columns:
        return {"dataframe_records" if all(isinstance(each, dict) for each in rows) else "inputs": rows}
    if len(columns) > 1 and not any(isinstance(each, dict | list) for each in rows):
        rows = [rows]
    return {"dataframe_records": [_record(row, number, columns) for number, row in enumerate(rows)]}


def _record(row: Any, number: int, columns: Sequence[Tensor]) -> dict[str | None, Any]:
    if not isinstance(row, dict):
        values = row if isinstance(row, list) else [row]
        if len(values) != len(columns):
            raise _RowError(number, f"expected {len(columns)} values, got {len(values)}")
        row = {each.name: value for each, value in zip(columns, values, strict=True)}
    _check_names(row, number, columns)
    record = {each.name: row[each.name] for each in columns if each.name in row}
    for each in columns:  # MLflow takes any text for true, and null for false
        value = record.get(each.name, False)
        if each.datatype == "boolean" and value not in (True, False):
            raise _RowError(number, f"column {each.name!r}: expected boolean, got {json.dumps(value)}")
    return record


def _values(value: Any, tensors: Sequence[Tensor]) -> dict[str | None, Any]:
    """Return the value of each input, nested as its shape is."""
    if isinstance(value, list) and all(isinstance(each, dict) for each in value):
        values = [list(column) for column in zip(*_by_name(value, tensors), strict=True)]
    elif isinstance(value, dict) or len(tensors) > 1:
        row = value if isinstance(value, dict) else {}
        if _is_one_list(row) and tensors[0].name is not None:  # it is an input, not a column
            _check_names(row, 0, tensors)
        (values,) = _by_name([row], tensors)
    else:
        values = [value]
    return {tensor.name: _fitted(each, tensor) for tensor, each in zip(tensors, values, strict=True)}


def _by_name(rows: Sequence[dict[str, Any]], tensors: Sequence[Tensor]) -> Iterator[list[Any]]:
    """Yield the values of the inputs for each row."""
    are_inputs = len(tensors) > 1 or tensors[0].name in rows[0]
    columns = [each.name or "" for each in tensors] if are_inputs else list(rows[0])
    for number, row in enumerate(rows):
        if are_inputs:
            _check_names(row, number, tensors)
        elif row.keys() != rows[0].keys():
            different = ", ".join(map(repr, sorted(row.keys() ^ rows[0].keys())))
            raise _RowError(number, f"not the columns of the first row: {different}")
        values = [row[name] for name in columns]
        is_row = not are_inputs and not _is_one_list(row)
        yield [values] if is_row else values


def _is_one_list(row: dict[str, Any]) -> bool:
    return len(row) == 1 and isinstance(next(iter(row.values())), list)


def _check_names(row: Mapping[str, Any], number: int, inputs: Sequence[Tensor]) -> None:
    missing = [each for each in inputs if each.name not in row and not each.is_optional]
    if missing and number:
        raise _RowError(number, f"no {_names(missing)}")
    if missing:
        raise ConfigurationError(
            f"The data have no {_names(missing)}{', only ' if row else ''}{', '.join(map(repr, row))}.",
            hint=f"The model takes {_names(inputs)}. Give an object with a value for each input, or name a "
            "column after each.",
        )


def _fitted(value: Any, tensor: Tensor) -> Any:
    """Return a value with the dimensions that it lacks: one row of a batch, or one element a row."""
    rows = value if isinstance(value, list) else []
    for number, row in enumerate(rows):
        try:
            shape_of([rows[0], row])
        except ValueError as error:
            raise _RowError(number, f"input {_names([tensor])}: {error}") from None
    shape, expected = shape_of(value), tensor.shape or []
    ones = [1] * (len(expected) - len(shape))
    if _fits([*ones, *shape], expected):
        return _wrapped(value, len(ones))
    if _fits([*shape, *ones], expected):
        return _with_ones(value, len(ones))
    given = f"values of shape {shape}" if shape else "one value"
    raise ConfigurationError(f"The input {_names([tensor])} takes {tensor.type_and_shape}, got {given}.")


def _fits(shape: list[int], expected: list[int]) -> bool:
    sizes = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(size in (given, -1) for given, size in sizes)


def _with_ones(value: Any, dimensions: int) -> Any:
    if isinstance(value, list):
        return [_with_ones(each, dimensions) for each in value]
    return _wrapped(value, dimensions)


def _wrapped(value: Any, dimensions: int) -> Any:
    for _ in range(dimensions):
        value = [value]
    return value


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(repr(each.name or "") for each in tensors)
