"""What a model sees of every type of pandas in every format, and what is read back of its predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from docs.batch_types import KINDS, Kind, identity, in_format, job, seen, with_signature, write

FORMATS = ("csv", "jsonl", "parquet", "arrow", "csv.gz", "jsonl.zst")
# The one thing that is kept in CSV files and that pandas changes: leading zeros.
TEXTS = {f"{prefix}str of digits": "str" for prefix in ("", "prediction_", "prediction_same ")}


def text_of(path: Path) -> str:
    with pa.input_stream(str(path), compression="detect") as file:
        return bytes(file.read()).decode()


def read_by_pandas(path: Path) -> Any:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".arrow":
        return pd.read_feather(path)
    if ".jsonl" in path.suffixes:
        return pd.DataFrame([json.loads(line) for line in text_of(path).splitlines()])
    return pd.read_csv(path, dtype=TEXTS)


def plain(column: Any) -> Any:
    """A column as NumPy has it: without categories, nullable types, and NaN in booleans."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype("str")
    if column.dtype in ("Int64", "Float64", "boolean") and column.isna().any():
        column = column.astype(object if column.dtype == "boolean" else "float64")
    elif column.dtype in ("Int64", "Float64", "boolean"):
        column = column.astype(str(column.dtype).lower().replace("boolean", "bool"))
    if column.dtype == object and any(isinstance(cell, bool) for cell in column):
        return column.astype(object).where(column.notna(), None)
    return column


def cells(column: Any) -> list[Any]:
    return [repr(cell.tolist() if isinstance(cell, np.ndarray) else cell) for cell in column]


def assert_same(actual: Any, expected: Any, name: str) -> None:
    assert (name, str(actual.dtype), cells(actual)) == (name, str(expected.dtype), cells(expected))


@pytest.mark.parametrize("suffix", FORMATS)
def test_without_a_signature_a_model_sees_what_pandas_reads(suffix: str, tmp_path: Path) -> None:
    kinds = in_format(suffix)
    frame = seen(kinds, suffix, tmp_path, signed=False)
    expected = read_by_pandas(tmp_path / f"in.{suffix}")
    output = read_by_pandas(tmp_path / f"out.{suffix}")
    for name in kinds:
        assert_same(frame[name], plain(expected[name]), name)
        assert_same(plain(output[name]), plain(expected[name]), name)  # the input's columns pass
        predicted = output[f"prediction_{name}"]
        if ".jsonl" in f".{suffix}":
            predicted = predicted.replace("NaN", np.nan).astype(frame[name].dtype)
        assert_same(plain(predicted), frame[name], name)


def signed(name: str, kind: Kind) -> Any:
    """The cells of a type in that of its signature, by pandas alone."""
    column = plain(kind.cells)
    if kind.signature == "datetime":
        return pd.to_datetime(column, utc=True).dt.tz_localize(None).astype("datetime64[ns]")
    types = {"integer": "int32", "long": "int64", "float": "float32", "double": "float64", "string": "str"}
    return column.astype(types.get(str(kind.signature), column.dtype))


@pytest.mark.parametrize("suffix", FORMATS)
def test_with_a_signature_every_format_has_the_same_values(suffix: str, tmp_path: Path) -> None:
    kinds = with_signature(suffix)
    frame = seen(kinds, suffix, tmp_path, signed=True)
    for name, kind in kinds.items():
        assert_same(frame[name], signed(name, kind), name)


@pytest.mark.parametrize("suffix", FORMATS)
def test_onnx_inputs_have_the_same_values_in_every_format(suffix: str, tmp_path: Path) -> None:
    kinds = {name: kind for name, kind in KINDS.items() if kind.onnx is not None}
    frame = pd.DataFrame({name: kind.cells for name, kind in kinds.items()})
    source = write(frame, tmp_path / f"in.{suffix}")
    job(identity(tmp_path / "named.onnx", kinds), source, tmp_path / f"out.{suffix}")
    output = read_by_pandas(tmp_path / f"out.{suffix}")
    for name, kind in kinds.items():
        expected = plain(kind.cells)
        if kind.onnx == TensorProto.DOUBLE:
            expected = expected.astype("float64")
        elif kind.onnx == TensorProto.STRING:
            expected = expected.astype("str")
        predicted = output[f"prediction_same {name}"].replace("NaN", np.nan)
        assert_same(predicted.astype(expected.dtype), expected, name)


@pytest.mark.parametrize("suffix", FORMATS)
def test_all_numbers_are_one_row_of_an_onnx_input(suffix: str, tmp_path: Path) -> None:
    numbers = {
        name: kind.cells for name, kind in KINDS.items() if kind.onnx and kind.cells.dtype.kind in "iuf"
    }
    frame = pd.DataFrame(numbers).drop(columns="float64")  # 1e300 has no value in float32
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", frame.shape[1]]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    job(tmp_path / "m.onnx", write(frame, tmp_path / f"in.{suffix}"), tmp_path / f"out.{suffix}")
    output = read_by_pandas(tmp_path / f"out.{suffix}")
    columns = [name for name in output if name.startswith("prediction")]
    rows = output[columns] if len(columns) > 1 else pd.DataFrame(list(output["prediction"]))
    predicted = rows.replace("NaN", np.nan).to_numpy("float32")
    np.testing.assert_array_equal(predicted, frame.to_numpy("float32", na_value=np.nan))
