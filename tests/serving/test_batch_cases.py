"""Inputs that are easily scored wrongly without an error: types, missing cells, shapes of predictions."""

import csv
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from mlflow.types import ColSpec
from onnx import TensorProto, helper

from deployledger.domain.requests import BatchOptions
from deployledger.serving.batch import run
from deployledger.serving.batch_scoring import BatchJob
from deployledger.serving.batch_status import BatchError, StatusFile
from tests.serving.function_models import save

ROWS = 3000
"""More than are scored before the output's columns are decided."""


def score(model: Path, source: Path | str, folder: Path, suffix: str = "csv", **options: Any) -> list[Any]:
    """Run a job, and return the output's rows: texts of CSV, values of JSON lines and Parquet."""
    if isinstance(source, str):
        (folder / "in.csv").write_text(source)
        source = folder / "in.csv"
    output, status = folder / f"out.{suffix}", StatusFile(folder / "status.json", folder / "work")
    run(BatchJob(model, str(source), str(output), folder / "work", options=BatchOptions(**options)), status)
    if suffix == "csv":
        with output.open(newline="") as file:
            return list(csv.DictReader(file))
    if suffix == "jsonl":
        return [json.loads(line) for line in output.read_text().splitlines()]
    return pa.parquet.read_table(output).to_pylist()


def types_of(frame: Any) -> Any:
    return pd.DataFrame({name: [f"{type(v).__name__}:{v}" for v in frame[name]] for name in frame.columns})


def embeddings(frame: Any) -> Any:
    return [{"emb": np.arange(1500, dtype=np.float32) / 7} for _ in frame["v"]]


@pytest.mark.parametrize(
    ("predict", "name"),
    [
        (embeddings, "prediction_emb"),
        (lambda frame: pd.DataFrame(embeddings(frame)), "prediction_emb"),
        (lambda frame: np.stack([each["emb"] for each in embeddings(frame)]), "prediction"),
        (lambda frame: {"emb": [each["emb"].tolist() for each in embeddings(frame)]}, "prediction_emb"),
    ],
)
def test_wide_arrays_are_whole_in_every_format(
    predict: Callable[[Any], Any], name: str, tmp_path: Path
) -> None:
    model = save(tmp_path / "model", predict)
    expected = np.arange(1500, dtype=np.float32) / 7
    for row in score(model, "v\n3\n1\n2\n", tmp_path):
        assert list(row) == ["v", *(f"{name}_{index}" for index in range(1500))]
        np.testing.assert_array_equal(np.array(list(row.values())[1:], np.float32), expected)
    for suffix in ("jsonl", "parquet"):
        for row in score(model, "v\n3\n1\n2\n", tmp_path, suffix):
            (prediction,) = list(row.values())[1:]
            cells = prediction["emb"] if isinstance(prediction, dict) else prediction
            np.testing.assert_array_equal(np.array(cells, np.float32), expected)


def labelled(frame: Any) -> Any:
    return [
        {"label": "a", "score": float(v)} if v % 2 == 0 else {"score": float(v), "label": "b"}
        for v in frame["v"]
    ]


@pytest.mark.parametrize("wrap", [list, pd.DataFrame])
def test_keys_in_another_order_stay_under_their_names(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    model = save(tmp_path / "model", lambda frame: wrap(labelled(frame)))
    rows = score(model, "v\n" + "".join(f"{n}\n" for n in range(ROWS)), tmp_path)
    assert {(int(row["v"]) % 2, row["prediction_label"]) for row in rows} == {(0, "a"), (1, "b")}
    assert all(float(row["prediction_score"]) == int(row["v"]) for row in rows)


def late(frame: Any) -> Any:
    return [{"n": 1, "new": 2} if v == ROWS - 1 else {"n": 1} for v in frame["v"]]


def test_a_late_row_with_another_key_fails_with_its_line(tmp_path: Path) -> None:
    model = save(tmp_path / "model", late)
    source = "v\n" + "".join(f"{n}\n" for n in range(ROWS))
    with pytest.raises(
        BatchError, match=f"line {ROWS + 1}.*unknown key 'new': the first rows do not have it"
    ):
        score(model, source, tmp_path)
    assert not (tmp_path / "out.csv").exists()
    rows = score(model, source, tmp_path, misfit="null")
    assert [row["prediction_n"] for row in rows] == ["1"] * (ROWS - 1) + [""]
    assert len(score(model, source, tmp_path, on_error="skip")) == ROWS - 1


@pytest.mark.parametrize(
    ("texts", "seen"),
    [
        (["false", "true"], ["bool:False", "bool:True"]),
        (["FALSE", "True"], ["bool:False", "bool:True"]),
        (["0", "1"], ["bool:False", "bool:True"]),
        (["0", ""], ["bool:False", "NoneType:None"]),
    ],
)
def test_booleans_of_a_signature_are_read_as_such(texts: list[str], seen: list[str], tmp_path: Path) -> None:
    model = save(tmp_path / "model", types_of, inputs=[ColSpec("boolean", "flag")])
    rows = score(model, "n,flag\n" + "".join(f"1,{text}\n" for text in texts), tmp_path)
    assert [row["prediction_flag"] for row in rows] == seen


@pytest.mark.parametrize("text", ["no", "2", "f", "0.0"])
def test_other_words_are_not_booleans(text: str, tmp_path: Path) -> None:
    model = save(tmp_path / "model", types_of, inputs=[ColSpec("boolean", "flag")])
    with pytest.raises(BatchError, match=f"line 3, column 'flag'.*{text}"):
        score(model, f"flag\ntrue\n{text}\n", tmp_path)


@pytest.mark.parametrize(
    ("many", "last", "seen", "last_seen"),
    [
        ("02134", "N/A", "str:02134", "float:nan"),
        ("02134", "x", "str:02134", "str:x"),
        ("1", "x", "str:1", "str:x"),
        ("1", "1.5", "float:1.0", "float:1.5"),
        ("1", "", "float:1.0", "float:nan"),
        ("1", "18446744073709551615", "int:1", "int:18446744073709551615"),
        ("true", "x", "str:true", "str:x"),
        ("true", "", "bool:True", "NoneType:None"),
        ("true", "1", "str:true", "str:1"),
        ("2026-01-01", "x", "str:2026-01-01", "str:x"),
    ],
)
def test_the_whole_column_decides_its_type(
    many: str, last: str, seen: str, last_seen: str, tmp_path: Path
) -> None:
    model = save(tmp_path / "model", types_of)
    rows = score(model, "other,c\n" + f"0,{many}\n" * ROWS + f"0,{last}\n", tmp_path)
    assert [row["prediction_c"] for row in rows] == [seen] * ROWS + [last_seen]


def mixed(path: Path) -> Path:
    """A model of a number, a text and a count, which returns them."""
    types = {"age": TensorProto.FLOAT, "sex": TensorProto.STRING, "n": TensorProto.INT64}
    nodes = [helper.make_node("Identity", [name], [f"same_{name}"]) for name in types]
    infos = [
        [helper.make_tensor_value_info(f"{prefix}{name}", kind, ["rows", 1]) for name, kind in types.items()]
        for prefix in ("", "same_")
    ]
    graph = helper.make_graph(nodes, "graph", *infos)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_empty_cell_is_nan_for_a_model_that_takes_floats(tmp_path: Path) -> None:
    rows = score(mixed(tmp_path / "m.onnx"), "age,sex,n\n22,male,1\n,female,2\nNA,x,3\n", tmp_path)
    assert [row["prediction_same_age"] for row in rows] == ["22.0", "NaN", "NaN"]


@pytest.mark.parametrize(("row", "column"), [("1,,1", "sex"), ("1,x,", "n")])
def test_an_empty_cell_is_refused_where_it_has_no_value(row: str, column: str, tmp_path: Path) -> None:
    model = mixed(tmp_path / "m.onnx")
    with pytest.raises(BatchError, match=f"line 3, column '{column}'.*missing") as failed:
        score(model, f"age,sex,n\n1,x,1\n{row}\n", tmp_path)
    assert "Fill in the value or leave the row out" in failed.value.hint


def test_a_missing_integer_of_a_signature_says_what_to_do(tmp_path: Path) -> None:
    model = save(tmp_path / "model", types_of, inputs=[ColSpec("long", "n")])
    with pytest.raises(BatchError, match=r"line 2, column 'n'.*missing") as failed:
        score(model, "n,m\n,1\n", tmp_path)
    assert "a signature in which the column is a double" in failed.value.hint


def test_rows_on_which_the_model_fails_have_their_lines(tmp_path: Path) -> None:
    model = save(tmp_path / "model", lambda frame: [1 // int(v) for v in frame["v"]])
    source = 'v,text\n1,"a\nb"\n0,x\n1,x\n'
    with pytest.raises(BatchError, match=r"line 4.*the model failed: .*zero"):
        score(model, source, tmp_path)
    assert [row["v"] for row in score(model, source, tmp_path, on_error="skip")] == ["1", "1"]


def lines(folder: Path, *rows: Any) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def three(path: Path) -> Path:
    """A model of three numbers, which returns them."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", infos[:1], infos[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("wrong", [[1, "x", 3], [1, True, 3], [[1, 2, 3]], [1, 2], "x", {"a": 1}])
def test_one_wrong_array_leaves_the_other_rows_right(wrong: Any, tmp_path: Path) -> None:
    right = [1.5, 2, 3]
    source = lines(tmp_path, *[{"v": right}] * 3, {"v": wrong}, {"v": right})
    with pytest.raises(BatchError, match="line 4, column 'v'"):
        score(three(tmp_path / "m.onnx"), source, tmp_path, "jsonl")
    rows = score(tmp_path / "m.onnx", source, tmp_path, "jsonl", on_error="skip")
    assert [row["prediction"] for row in rows] == [right] * 4


@pytest.mark.parametrize("kind", ["datetime", "long", "double"])
def test_numbers_are_no_times_and_times_no_numbers(kind: str, tmp_path: Path) -> None:
    model = save(tmp_path / "model", types_of, inputs=[ColSpec(kind, "t")])
    moment = pa.array([1767225600000], pa.timestamp("ms"))
    pa.parquet.write_table(pa.table({"t": [1] if kind == "datetime" else moment}), tmp_path / "in.parquet")
    with pytest.raises(BatchError, match="line 1, column 't': not a"):
        score(model, tmp_path / "in.parquet", tmp_path)
    if kind == "datetime":
        with pytest.raises(BatchError, match="line 1, column 't': not a"):
            score(model, lines(tmp_path, {"t": 20260101}), tmp_path)


@pytest.mark.parametrize("neighbours", [[], [2.5], [2.5, "x"], [True], [[1]]])
def test_a_text_of_a_number_does_not_depend_on_its_neighbours(neighbours: list[Any], tmp_path: Path) -> None:
    model = save(tmp_path / "model", types_of, inputs=[ColSpec("string", "a")])
    rows = score(model, lines(tmp_path, {"a": 1}, *({"a": each} for each in neighbours)), tmp_path)
    assert rows[0]["prediction_a"] == "str:1"


def test_missing_words_do_not_depend_on_their_neighbours(tmp_path: Path) -> None:
    model = save(tmp_path / "model", types_of, inputs=[ColSpec("double", "a")])
    rows = score(model, "a,b\n 1.5,0\n NA ,0\nbad,0\n2,0\n", tmp_path, on_error="skip")
    assert [row["prediction_a"] for row in rows] == ["float:1.5", "float:nan", "float:2.0"]
    for words in (["1.5", "nan"], ["1.5", "nan", "NA"]):
        source = "a,b\n" + "".join(f"{word},0\n" for word in words)
        rows = score(model, source, tmp_path, "jsonl")
        assert [row["a"] for row in rows] == [1.5, *[None] * (len(words) - 1)]


def test_integers_and_decimals_of_several_files_are_decimals(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    pa.parquet.write_table(pa.table({"a": [2**63 - 1]}), folder / "1.parquet")
    pa.parquet.write_table(pa.table({"a": [Decimal("0.5")]}), folder / "2.parquet")
    model = save(tmp_path / "model", types_of)
    rows = score(model, folder, tmp_path, "parquet")
    assert [row["a"] for row in rows] == [2**63 - 1, Decimal("0.5")]
    assert rows[1]["prediction_a"] == "Decimal:0.5"
