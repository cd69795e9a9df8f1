"""What the model of a batch job sees of each pandas type in each format, found by running jobs."""

import contextlib
import datetime
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
from mlflow.types import ColSpec
from mlflow.types.schema import Array, DataType
from onnx import TensorProto, helper

from deployledger.serving.batch import run
from deployledger.serving.batch_scoring import BatchJob
from deployledger.serving.batch_status import BatchError, StatusFile
from tests.serving import function_models

FORMATS = ("csv", "jsonl", "parquet", "arrow")


@dataclass(frozen=True)
class Kind:
    """A type of column.

    Attributes:
        cells: a column of it.
        signature: its type in MLflow's signatures, if there is one.
        onnx: its type in ONNX, if there is one.
        text: whether text formats have it, as pandas writes them.
    """

    cells: pd.Series
    signature: str | Array | None = None
    onnx: int | None = None
    text: bool = True


def _integers(name: str, signature: str | None, onnx_type: int) -> Kind:
    limits = np.iinfo(name)
    return Kind(pd.Series([limits.min, limits.max, 7], dtype=name), signature, onnx_type)


def _cells(*values: Any, dtype: Any = object) -> pd.Series:
    return pd.Series(values, dtype=dtype)


DAY, LATER = datetime.date(2026, 3, 29), datetime.date(2026, 12, 31)
TIMES = pd.Series(pd.to_datetime(["2026-03-29T01:30:00", "2026-12-31T00:00:00", "1969-07-20T20:17:40"]))

KINDS = {
    "bool": Kind(_cells(True, False, True, dtype=bool), "boolean", TensorProto.BOOL),
    "int8": _integers("int8", "integer", TensorProto.INT8),
    "int16": _integers("int16", "integer", TensorProto.INT16),
    "int32": _integers("int32", "integer", TensorProto.INT32),
    "int64": _integers("int64", "long", TensorProto.INT64),
    "uint8": _integers("uint8", "integer", TensorProto.UINT8),
    "uint16": _integers("uint16", "integer", TensorProto.UINT16),
    "uint32": _integers("uint32", "long", TensorProto.UINT32),
    "uint64": _integers("uint64", None, TensorProto.UINT64),
    "float16": Kind(_cells(0.5, -2.25, np.nan, dtype="float16"), "float", TensorProto.FLOAT16),
    "float32": Kind(_cells(0.1, -2.25, np.nan, dtype="float32"), "float", TensorProto.FLOAT),
    "float64": Kind(_cells(0.1, 1e300, np.nan, dtype="float64"), "double", TensorProto.DOUBLE),
    "str": Kind(_cells("é", 'a,"b"\nc', "x", dtype="str"), "string", TensorProto.STRING),
    "str, missing": Kind(_cells("é", None, "x", dtype="str"), "string"),
    "str of digits": Kind(_cells("02134", "00501", "10001", dtype="str"), "string", TensorProto.STRING),
    "object of str": Kind(_cells("true", "b", "1"), "string", TensorProto.STRING),
    "category": Kind(_cells("low", "high", "low", dtype="category"), "string", TensorProto.STRING),
    "datetime64[us]": Kind(TIMES, "datetime"),
    "datetime64[us, tz]": Kind(TIMES.dt.tz_localize("Europe/Paris"), "datetime"),
    "date": Kind(_cells(DAY, LATER, DAY), "datetime"),
    "timedelta64[us]": Kind(TIMES - TIMES[0]),
    "decimal": Kind(_cells(Decimal("1.50"), Decimal("-0.25"), Decimal("3.00")), "double"),
    "bytes": Kind(_cells(b"\x00\xff", b"", b"a"), "binary", text=False),
    "list": Kind(_cells([0.5, 1.5], [2.5], []), Array(DataType.double)),
    "boolean": Kind(_cells(True, False, True, dtype="boolean"), "boolean", TensorProto.BOOL),
    "boolean, missing": Kind(_cells(True, None, False, dtype="boolean"), "boolean"),
    "Int64": Kind(_cells(1, 2, 3, dtype="Int64"), "long", TensorProto.INT64),
    "Int64, missing": Kind(_cells(1, None, 3, dtype="Int64"), "double", TensorProto.DOUBLE),
    "Float64": Kind(_cells(0.5, None, 3.25, dtype="Float64"), "double", TensorProto.DOUBLE),
}


def write(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table as pandas does; text is compressed as the last suffix says."""
    if path.suffix == ".parquet":
        frame.to_parquet(path)
        return path
    if path.suffix == ".arrow":
        frame.to_feather(path, compression="uncompressed")
        return path
    as_json = ".jsonl" in path.suffixes
    text = (
        frame.to_json(orient="records", lines=True, date_format="iso", double_precision=15)
        if as_json
        else frame.to_csv(index=False)
    )
    with pa.output_stream(str(path), compression="detect") as file:
        file.write(text.encode())
    return path


def job(model: Path, source: Path, output: Path) -> None:
    """Run a job in this process."""
    work = output.with_name("work")
    run(BatchJob(model, str(source), str(output), work), StatusFile(work.with_suffix(".json"), work))


def seen(kinds: dict[str, Kind], suffix: str, folder: Path, *, signed: bool) -> pd.DataFrame:
    """Return what an MLflow model sees; ``folder`` then has its input and output."""
    captured: list[pd.DataFrame] = []

    def predict(frame: pd.DataFrame) -> pd.DataFrame:
        captured.append(frame)
        return frame

    inputs = [ColSpec(kind.signature, name) for name, kind in kinds.items()] if signed else None
    model = function_models.save(folder / f"model-{suffix}-{signed}", predict, inputs=inputs)
    frame = pd.DataFrame({name: kind.cells for name, kind in kinds.items()})
    job(model, write(frame, folder / f"in.{suffix}"), folder / f"out.{suffix}")
    return captured[-1]


def in_format(suffix: str) -> dict[str, Kind]:
    """Return the types that there are in a format."""
    is_text = suffix.startswith(("csv", "jsonl"))
    return {name: kind for name, kind in KINDS.items() if kind.text or not is_text}


def with_signature(suffix: str) -> dict[str, Kind]:
    """Return the types of a format that MLflow's signatures have; CSV has no arrays."""
    is_csv = suffix.startswith("csv")
    return {
        name: kind
        for name, kind in in_format(suffix).items()
        if kind.signature and not (is_csv and isinstance(kind.signature, Array))
    }


def identity(path: Path, kinds: dict[str, Kind]) -> Path:
    """Save an ONNX model with an input of each type, and an output with its elements."""
    tensors = {name: kind.onnx for name, kind in kinds.items() if kind.onnx is not None}
    nodes = [helper.make_node("Identity", [name], [f"same {name}"]) for name in tensors]
    infos = [
        [helper.make_tensor_value_info(f"{prefix}{name}", kind, ["rows"]) for name, kind in tensors.items()]
        for prefix in ("", "same ")
    ]
    graph = helper.make_graph(nodes, "graph", *infos)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


REFUSED = [
    ("boolean", "csv", "flag\ntrue\nyes\n"),
    ("long", "csv", "n\n1\n1.5\n"),
    ("long", "csv", "n,other\n1,2\n,2\n"),
    ("long", "jsonl", '{"n": 1}\n{"n": null}\n'),
    ("integer", "csv", "n\n2147483648\n"),
    ("double", "csv", 'x\n"1,5"\n'),
    ("float", "csv", "x\n1e39\n"),
    ("datetime", "csv", "t\n29.3.2026\n"),
]


def refusals() -> Iterator[tuple[str, str, str]]:
    """Yield the type, the format and the message of inputs that are refused."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, (kind, suffix, text) in enumerate(REFUSED):
            column = "n" if suffix == "jsonl" else text[: text.index("\n")].partition(",")[0]
            model = function_models.save(folder / str(index), lambda x: x, inputs=[ColSpec(kind, column)])
            source = folder / f"in.{suffix}"
            source.write_text(text)
            message = "accepted"
            try:
                job(model, source, folder / f"out.{suffix}")
            except BatchError as error:
                message = str(error).replace(f"{folder}/", "")
            yield kind, suffix, message


def _shown(cells: Any) -> str:
    dtype = {"object": f"object of {type(cells.iloc[0]).__name__}"}.get(str(cells.dtype), str(cells.dtype))
    return f"`{dtype}`"


def _table(kinds_of: Callable[[str], dict[str, Kind]], *, signed: bool) -> list[str]:
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(None):
        frames = {suffix: seen(kinds_of(suffix), suffix, Path(name), signed=signed) for suffix in FORMATS}
    names = [each for each in KINDS if any(each in frame for frame in frames.values())]
    heads = ["pandas", *(["signature"] if signed else []), *FORMATS]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in names:
        cells = [_shown(frame[each]) if each in frame else "–" for frame in frames.values()]
        kind = [f"`{KINDS[each].signature}`"] if signed else []
        lines.append(f"| {' | '.join([each, *kind, *cells])} |")
    return lines


def markdown() -> str:
    """Return the page."""
    with_it, without = _table(with_signature, signed=True), _table(in_format, signed=False)
    messages = [f"| `{kind}` | {suffix} | {message} |" for kind, suffix, message in refusals()]
    return "\n".join([_INTRODUCTION, *without, _SIGNATURE, *with_it, _REFUSED, *messages, _OUTPUT])


_INTRODUCTION = """# Types of batch jobs

What a model sees of a column that pandas wrote, by the format of the file. The tables are made by running
jobs.

## MLflow models without a signature

The type of a column is decided once for the job, from all of its cells:

* With missing values anywhere in the input, integers are `float64`, and booleans are `object` with None,
  as in pandas. pandas' nullable types become NumPy types by the same rule.
* Categories become their values, because each file of a job may have other categories.
* A text of digits with leading zeros stays text. CSV and JSON have no dates, times and decimals: they are
  read as the texts or numbers that they are in the file.
"""
_SIGNATURE = """
## MLflow models with a signature

A column has the type of the signature in every format; timestamps with a time zone become UTC. A missing
value is NaN, NaT or None. Integers cannot be missing: give the column the type double in the signature.
"""
_REFUSED = """
ONNX models take the types of their inputs in the same way. A missing value is NaN in floating-point
inputs, and refused in others.

## Refused

| type | format | message |
|---|---|---|"""
_OUTPUT = """
## Predictions

Parquet and Arrow have the types that the model returned, of NumPy, pandas or Arrow: categories as their
values, arrays as lists, dictionaries as structs. In JSON lines and CSV, dates, times and durations are
ISO 8601, decimals have their exact digits, bytes are base64, and `NaN`, `Infinity` and `-Infinity` are
these words. In CSV every element of an array and every key of a dictionary is a column.
"""
