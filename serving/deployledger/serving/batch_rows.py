"""Reading and writing the rows of a batch job: CSV with a header, or JSON lines."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TextIO

from deployledger.serving.batch_status import input_invalid

CHUNK_ROWS = 2048
"""How many rows are in memory at a time."""

FEATURES = "features"
"""What the row of a JSON line that is an array is called."""


@dataclass(frozen=True)
class Row:
    """One row, and the line of the file where it ends."""

    line: int
    values: dict[str, Any]


class Writer(Protocol):
    """Appends rows to an output file."""

    def write(self, row: Mapping[str, Any], predictions: Mapping[str, Any]) -> None:
        """Append one row and what was predicted for it."""
        ...


class RowFormat(Protocol):
    """A file format of rows."""

    def read(self, path: Path) -> Iterator[Row]:
        """Yield the rows; all have the same columns."""
        ...

    def write(self, file: TextIO) -> Writer:
        """Return what writes rows to an open file."""
        ...


class Csv:
    """Comma-separated values; the first line names the columns."""

    def read(self, path: Path) -> Iterator[Row]:
        """Yield the rows, with every value as text."""
        with open_text(path) as file:
            reader = csv.reader(file, strict=True)
            try:
                header = next(reader, None)
                if not header:
                    raise input_invalid(f"{path} is empty: it has no line that names the columns.")
                if len(set(header)) != len(header):
                    raise input_invalid(f"{path}, line 1: two columns have the same name.")
                for record in reader:
                    if not record:
                        continue  # an empty line
                    if len(record) != len(header):
                        raise input_invalid(
                            f"{path}, line {reader.line_num}: expected {len(header)} values, "
                            f"given {len(record)}."
                        )
                    yield Row(reader.line_num, dict(zip(header, record, strict=True)))
            except csv.Error as error:
                raise input_invalid(f"{path}, line {reader.line_num}: {error}.") from error

    def write(self, file: TextIO) -> Writer:
        """Return a writer that makes a column of every element of a prediction."""
        return _CsvWriter(file)


class _CsvWriter:
    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._has_header = False

    def write(self, row: Mapping[str, Any], predictions: Mapping[str, Any]) -> None:
        cells = dict(_flat(predictions))
        if not self._has_header:
            self._writer.writerow([*row, *cells])
            self._has_header = True
        self._writer.writerow([*row.values(), *cells.values()])


def _flat(predictions: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in predictions.items():
        if isinstance(value, dict):
            yield from _flat({f"{name}_{key}": each for key, each in value.items()})
        elif isinstance(value, list):
            yield from _flat({f"{name}_{index}": each for index, each in enumerate(value)})
        else:
            yield name, value


class JsonLines:
    """One JSON object or array a line."""

    def read(self, path: Path) -> Iterator[Row]:
        """Yield the rows; an array is a row with the one column ``features``."""
        keys: set[str] | None = None
        with open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                values = _parse(line, f"{path}, line {number}")
                if keys is None:
                    keys = set(values)
                elif values.keys() != keys:
                    raise input_invalid(
                        f"{path}, line {number}: expected the keys {_names(keys)}, given {_names(values)}."
                    )
                yield Row(number, values)

    def write(self, file: TextIO) -> Writer:
        """Return a writer that adds every prediction to the object as it is."""
        return _JsonWriter(file)


class _JsonWriter:
    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: Mapping[str, Any], predictions: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({**row, **predictions}, allow_nan=False) + "\n")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line, parse_constant=_refuse_constant)
    except ValueError as error:
        raise input_invalid(f"{where}: not JSON: {error}.") from error
    if isinstance(values, list):
        return {FEATURES: values}
    if not isinstance(values, dict) or not values:
        raise input_invalid(f"{where}: neither an object with keys nor an array.")
    return values


_FORMATS: dict[str, RowFormat] = {".csv": Csv(), ".jsonl": JsonLines(), ".ndjson": JsonLines()}


def format_of(path: Path) -> RowFormat:
    """Return the format that a file's suffix says.

    Raises:
        BatchError: it says none of those there are.
    """
    if path.suffix.lower() not in _FORMATS:
        raise input_invalid(
            f"{path} has the suffix {path.suffix!r}.", hint=f"Use one of {', '.join(_FORMATS)}."
        )
    return _FORMATS[path.suffix.lower()]


def chunks(rows: Iterable[Row], size: int = CHUNK_ROWS) -> Iterator[list[Row]]:
    """Yield the rows in lists of at most ``size``."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 file, with or without a byte order mark; that it cannot be read is the input's fault."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except FileNotFoundError as error:
        raise input_invalid(f"{path} does not exist.") from error
    except UnicodeDecodeError as error:
        raise input_invalid(f"{path} is not UTF-8: {error}.") from error
    except OSError as error:
        raise input_invalid(f"{path} cannot be read: {error.strerror}.") from error


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
