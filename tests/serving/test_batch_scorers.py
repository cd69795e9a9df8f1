"""The scorers of batch jobs: Arrow columns to ONNX and MLflow models, and what these return."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from mlflow.types import ColSpec, TensorSpec
from mlflow.types.schema import Array, DataType, Map, Object, Property
from onnx import TensorProto, helper

from deployledger.serving.batch_scorer import Scorer
from deployledger.serving.batch_status import BatchError
from deployledger.serving.batch_table import RowsError
from tests.serving.function_models import save

Tensors = dict[str, tuple[int, list[Any]]]


def onnx_model(path: Path, nodes: list[Any], inputs: Tensors, outputs: Tensors) -> Scorer:
    def infos(tensors: Tensors) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return Scorer(path, 1, None, flat=False)


def identity(path: Path, kind: int, shape: list[Any]) -> Scorer:
    node = helper.make_node("Identity", ["x"], ["y"])
    return onnx_model(path, [node], {"x": (kind, shape)}, {"y": (kind, shape)})


def score(scorer: Scorer, columns: dict[str, Any]) -> pa.RecordBatch:
    rows = pa.record_batch(columns)
    wanted = scorer.inputs(rows.schema.names)
    return scorer.score(rows.select([column.name for column in wanted]))


# --- ONNX


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorProto.FLOAT, pa.array([1.5, None], pa.float32())),
        (TensorProto.DOUBLE, pa.array([0.1, float("inf")])),
        (TensorProto.FLOAT16, pa.array([1.5, None], pa.float16())),
        (TensorProto.INT8, pa.array([-128, 127], pa.int8())),
        (TensorProto.INT64, pa.array([-(2**63), 2**63 - 1])),
        (TensorProto.UINT64, pa.array([2**64 - 1, 0], pa.uint64())),
        (TensorProto.BOOL, pa.array([True, False])),
        (TensorProto.STRING, pa.array(["", "é"])),
    ],
)
def test_every_data_type_reaches_the_model_and_comes_back(
    kind: int, values: pa.Array, tmp_path: Path
) -> None:
    scorer = identity(tmp_path / "m.onnx", kind, ["n"])
    (column,) = scorer.inputs(["x"])
    assert column.type == values.type
    assert column.nullable == pa.types.is_floating(values.type)
    predicted = score(scorer, {"x": values}).column("prediction")
    assert predicted.type == values.type
    expected = [np.nan if value is None else value for value in values.to_pylist()]
    np.testing.assert_array_equal(predicted.to_pylist(), expected)


def test_bfloat16_is_rounded_to_even(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
    tensors = {"x": (TensorProto.BFLOAT16, ["n"])}, {"y": (TensorProto.FLOAT, ["n"])}
    scorer = onnx_model(tmp_path / "m.onnx", [node], *tensors)
    predicted = score(scorer, {"x": pa.array([1.00390625, None], pa.float32())}).column("prediction")
    assert predicted.to_pylist() == pytest.approx([1.0, np.nan], nan_ok=True)


def test_columns_are_one_row_of_a_models_only_input(tmp_path: Path) -> None:
    scorer = identity(tmp_path / "m.onnx", TensorProto.FLOAT, ["n", 2])
    assert [column.name for column in scorer.inputs(["b", "a"])] == ["b", "a"]
    floats = pa.array([1, None, 3], pa.float32())
    predicted = score(scorer, {"b": floats, "a": floats}).column("prediction").to_pylist()
    assert predicted[0] == [1.0, 1.0]
    assert np.isnan(predicted[1]).all()
    with pytest.raises(BatchError, match=r"takes rows of the shape \[2\], got 3 elements"):
        scorer.inputs(["a", "b", "c"])


def test_a_column_of_arrays_is_a_tensor_of_more_dimensions(tmp_path: Path) -> None:
    scorer = identity(tmp_path / "m.onnx", TensorProto.INT32, ["n", 2, "w"])
    (column,) = scorer.inputs(["anything"])
    assert column.lists
    for cells in ([[1, 2, 3, 4]], [[[1, 2], [3, 4]]]):
        kind = pa.list_(pa.int32()) if isinstance(cells[0][0], int) else pa.list_(pa.list_(pa.int32()))
        predicted = score(scorer, {"anything": pa.array(cells, kind)})
        assert predicted.column("prediction").to_pylist() == [[[1, 2], [3, 4]]]


def test_the_first_row_decides_a_dimension_of_any_size(tmp_path: Path) -> None:
    scorer = identity(tmp_path / "m.onnx", TensorProto.FLOAT, ["n", "w"])
    for width in (2, 3):
        cells = pa.array([[1.0] * width] * 2, pa.list_(pa.float32()))
        assert score(scorer, {"x": cells}).column("prediction").to_pylist() == [[1.0] * width] * 2
    with pytest.raises(RowsError) as failed:
        score(scorer, {"x": pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))})
    assert failed.value.problems[1].reason == "expected 1 elements, got 2"


def test_cells_of_the_wrong_shape_are_named(tmp_path: Path) -> None:
    scorer = identity(tmp_path / "m.onnx", TensorProto.INT64, ["n", 2])
    cells = pa.array([[1, 2], [1], None, [1, None], [1, 2, 3]])
    with pytest.raises(RowsError) as failed:
        score(scorer, {"x": cells})
    assert {row: problem.reason for row, problem in failed.value.problems.items()} == {
        1: "expected 2 elements, got 1",
        2: "expected 2 elements, got 0",
        3: "an element is missing",
        4: "expected 2 elements, got 3",
    }
    assert failed.value.problems[3].column == "x"
    assert "only an input of floating-point numbers takes missing values" in failed.value.problems[3].hint


def test_columns_go_to_the_inputs_of_their_names(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["a"], ["minus"]), helper.make_node("Identity", ["b"], ["same"])]
    tensors: tuple[Tensors, Tensors] = (
        {"a": (TensorProto.INT64, ["n", 1]), "b": (TensorProto.STRING, ["n"])},
        {"minus": (TensorProto.INT64, ["n", 1]), "same": (TensorProto.STRING, ["n"])},
    )
    scorer = onnx_model(tmp_path / "m.onnx", nodes, *tensors)
    batch = score(scorer, {"b": ["x", "y"], "other": [0, 0], "a": [1, -2]})
    assert batch.to_pydict() == {"prediction_minus": [-1, 2], "prediction_same": ["x", "y"]}
    with pytest.raises(BatchError, match="has the inputs a, b, but the rows have the columns a, c"):
        scorer.inputs(["a", "c"])
    with pytest.raises(BatchError, match="has a column 'prediction_same' already"):
        scorer.inputs(["a", "b", "prediction_same"])


def test_a_model_with_a_fixed_number_of_rows_is_run_in_parts(tmp_path: Path) -> None:
    scorer = identity(tmp_path / "m.onnx", TensorProto.INT64, [3, 1])
    assert score(scorer, {"x": list(range(8))}).column("prediction").to_pylist() == list(range(8))


def test_the_rows_on_which_a_model_fails_are_named(tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("table", TensorProto.FLOAT, [2], [0.5, 1.5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    scorer = Scorer(tmp_path / "m.onnx", 1, None, flat=False)
    with pytest.raises(RowsError) as failed:
        score(scorer, {"x": [0, 7, 1, 1, 9]})
    assert sorted(failed.value.problems) == [1, 4]
    assert "the model failed: " in failed.value.problems[1].reason
    with pytest.raises(BatchError, match="failed on every row"):
        score(scorer, {"x": [7] * 50})


# --- MLflow


def mlflow_model(folder: Path, predict: Callable[[Any], Any], **signature: Any) -> Scorer:
    return Scorer(save(folder / "model", predict, **signature), 1, None, flat=False)


def kinds_of(frame: Any) -> Any:
    return pd.DataFrame({name: [f"{type(v).__name__}:{v!r}" for v in frame[name]] for name in frame.columns})


ROWS = {
    "flag": pa.array([False, None]),
    "count": pa.array([1, 2]),
    "size": pa.array([1.5, None]),
    "zip": pa.array(["02134", None]),
    "when": pa.array([0, None], pa.timestamp("ns")),
    "vector": pa.array([[1.5], [2.5]]),
    "thing": pa.array([{"a": 1}, {"a": None}]),
    "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
    "unused": pa.array([0, 0]),
}
# Arrays of numbers are arrays of NumPy; anything deeper is Python's.
LISTS = {
    "sized": pa.array([[1.5]], pa.list_(pa.float32(), 1)),
    "texts": pa.array([["a", None]]),
    "deep": pa.array([[[1.5]]]),
}
SIGNATURE = [
    ColSpec("boolean", "flag"),
    ColSpec("long", "count"),
    ColSpec("double", "size"),
    ColSpec("string", "zip"),
    ColSpec("datetime", "when"),
    ColSpec(Array(DataType.double), "vector"),
    ColSpec(Object([Property("a", DataType.long, required=False)]), "thing"),
    ColSpec(Map(DataType.long), "map"),
    ColSpec("long", "absent", required=False),
]
SEEN = {
    "prediction_flag": ["bool:False", "NoneType:None"],
    "prediction_count": ["int:1", "int:2"],
    "prediction_size": ["float:1.5", "float:nan"],
    "prediction_zip": ["str:'02134'", "float:nan"],
    "prediction_when": ["Timestamp:Timestamp('1970-01-01 00:00:00')", "NaTType:NaT"],
    "prediction_vector": ["ndarray:array([1.5])", "ndarray:array([2.5])"],
    "prediction_thing": ["dict:{'a': np.int64(1)}", "dict:{'a': None}"],
    "prediction_map": ["dict:{'k': np.int64(1)}", "dict:{}"],
}


def test_a_signature_decides_what_a_model_sees(tmp_path: Path) -> None:
    scorer = mlflow_model(tmp_path, kinds_of, inputs=SIGNATURE)
    columns = {column.name: column for column in scorer.inputs(list(ROWS))}
    assert {name: column.type for name, column in columns.items()} == {
        name: column.type for name, column in ROWS.items() if name != "unused"
    }
    assert [name for name, column in columns.items() if not column.nullable] == ["count"]
    assert "a signature in which the column is a double" in columns["count"].hint
    assert score(scorer, ROWS).to_pydict() == SEEN


def test_without_a_signature_the_columns_decide(tmp_path: Path) -> None:
    scorer = mlflow_model(tmp_path, kinds_of)
    assert [column.type for column in scorer.inputs(list(ROWS))] == [None] * len(ROWS)
    rows = pa.record_batch(ROWS)
    nullable = rows.schema.set(8, pa.field("unused", pa.int64(), nullable=False))
    seen = scorer.score(pa.RecordBatch.from_arrays(rows.columns, schema=nullable)).to_pydict()
    # Some other batch of the job has a missing count, and none has a missing value in the unused column.
    assert seen == SEEN | {
        "prediction_count": ["float:1.0", "float:2.0"],
        "prediction_thing": ["dict:{'a': 1}", "dict:{'a': None}"],
        "prediction_map": ["dict:{'k': 1}", "dict:{}"],
        "prediction_unused": ["int:0", "int:0"],
    }


def test_arrays_of_numbers_are_arrays_and_deeper_lists_are_lists(tmp_path: Path) -> None:
    assert score(mlflow_model(tmp_path, kinds_of), LISTS).to_pydict() == {
        "prediction_sized": ["ndarray:array([1.5], dtype=float32)"],
        "prediction_texts": ["list:['a', None]"],
        "prediction_deep": ["list:[[1.5]]"],
    }


def test_a_signature_without_names_takes_the_first_columns(tmp_path: Path) -> None:
    scorer = mlflow_model(tmp_path, kinds_of, inputs=[ColSpec("double"), ColSpec("string")])
    assert [column.name for column in scorer.inputs(["a", "b", "c"])] == ["a", "b"]
    with pytest.raises(BatchError, match="has the column 'number 2', but the rows have the columns a"):
        scorer.inputs(["a"])


def test_a_signature_of_tensors_gets_arrays_of_its_own(tmp_path: Path) -> None:
    def double(tensor: Any) -> Any:
        tensor *= 2
        return tensor

    floats = pa.array([1.5, 2.5], pa.float32())
    unnamed = mlflow_model(tmp_path / "1", double, inputs=[TensorSpec(np.dtype("f4"), (-1, 2))])
    assert score(unnamed, {"a": floats, "b": floats}).column(0).to_pylist() == [[3.0, 3.0], [5.0, 5.0]]
    spec = TensorSpec(np.dtype("f4"), (-1, 2, 1), "t")
    named = mlflow_model(tmp_path / "2", lambda tensors: double(tensors["t"]).sum(axis=(1, 2)), inputs=[spec])
    cells = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32()))
    assert score(named, {"t": cells, "u": floats}).column(0).to_pylist() == [6.0, 14.0]


def test_a_missing_column_of_the_signature_is_named(tmp_path: Path) -> None:
    scorer = mlflow_model(tmp_path, kinds_of, inputs=SIGNATURE, outputs=[ColSpec("string", "zip")])
    with pytest.raises(BatchError, match="has the column 'count', but the rows have the columns flag"):
        scorer.inputs(["flag"])
    with pytest.raises(BatchError, match="has a column 'prediction_zip' already"):
        scorer.inputs([*ROWS, "prediction_zip"])


def arrow_series(values: list[Any], kind: pa.DataType) -> Any:
    return pd.Series(values, dtype=pd.ArrowDtype(kind))


@pytest.mark.parametrize(
    ("predict", "expected"),
    [
        (lambda x: x["n"] * 2, {"prediction": [2, 4]}),
        (lambda x: x["n"].to_numpy()[:, None], {"prediction": [[1], [2]]}),
        (lambda x: ["a", None], {"prediction": ["a", None]}),
        (lambda x: (v for v in x["n"]), {"prediction": [1, 2]}),
        (lambda x: pd.Index(x["n"]), {"prediction": [1, 2]}),
        (lambda x: np.array(["a", "bc"]), {"prediction": ["a", "bc"]}),
        (lambda x: np.array(["2026", "NaT"], "M8[Y]"), {"prediction": [pd.Timestamp("2026"), None]}),
        (lambda x: np.array([1, 2], ">i4"), {"prediction": [1, 2]}),
        (lambda x: scipy.sparse.csr_matrix(np.eye(2)), {"prediction": [[1, 0], [0, 1]]}),
        (lambda x: x.assign(a=["x", "y"]).set_index(pd.Index([7, 3])), {"n": [1, 2], "a": ["x", "y"]}),
        (lambda x: {"b": x["n"], "a": ["x", "y"]}, {"b": [1, 2], "a": ["x", "y"]}),
        (lambda x: (x["n"], np.eye(2)), {"0": [1, 2], "1": [[1, 0], [0, 1]]}),
        (lambda x: (5, 6), {"prediction": [5, 6]}),
        (lambda x: np.array([(1, "x"), (2, "y")], "i4,U1"), {"f0": [1, 2], "f1": ["x", "y"]}),
        (lambda x: [{"a": 1, "b": 2}, {"b": 3}], {"prediction": [{"a": 1, "b": 2}, {"a": None, "b": 3}]}),
        (lambda x: pd.DataFrame(np.eye(2), columns=[["a", "a"], ["x", "y"]]), {"a_x": [1, 0], "a_y": [0, 1]}),
        (lambda x: pd.Series(["a", None], dtype="category"), {"prediction": ["a", None]}),
        (lambda x: pd.Series([3, 3], dtype="category"), {"prediction": [3, 3]}),
        (lambda x: pd.Series([1, None], dtype="Int64"), {"prediction": [1, None]}),
        (lambda x: pd.Series(["a", None], dtype="string"), {"prediction": ["a", None]}),
        (lambda x: pd.Series([True, None], dtype="boolean"), {"prediction": [True, None]}),
        (lambda x: pd.Series(pd.arrays.SparseArray([0, 1])), {"prediction": [0, 1]}),
        (lambda x: pd.Series(pd.period_range("2026", periods=2, freq="Y")), {"prediction": ["2026", "2027"]}),
        (lambda x: arrow_series([[1], None], pa.large_list(pa.int8())), {"prediction": [[1], None]}),
        (lambda x: arrow_series(["a", "b"], pa.large_string()), {"prediction": ["a", "b"]}),
    ],
)  # fmt: skip
def test_whatever_a_model_returns_becomes_columns(
    predict: Callable[[Any], Any], expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    predicted = score(mlflow_model(tmp_path, predict), {"n": pa.array([1, 2])}).to_pydict()
    assert {name.removeprefix("prediction_"): cells for name, cells in predicted.items()} == expected


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda x: 3.5, "returned a single float as 'prediction'"),
        (lambda x: "ab", "returned a single str"),
        (lambda x: None, "returned a single NoneType"),
        (lambda x: {"a": 1}, "returned a single int as 'prediction_a'"),
        (lambda x: [1], "made 1 predictions"),
        (lambda x: x.iloc[:0], "made 0 predictions"),
        (lambda x: np.array([1j, 2j]), "cannot write values of the NumPy type complex128"),
        (lambda x: pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), "two columns of one name"),
        (lambda x: x["absent"], "failed on every row: 'absent'"),
    ],
)
def test_outputs_without_a_prediction_for_each_row_are_refused(
    predict: Callable[[Any], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BatchError, match=message):
        score(mlflow_model(tmp_path, predict), {"n": pa.array([1, 2])})


def test_the_rows_on_which_an_mlflow_model_fails_are_named(tmp_path: Path) -> None:
    scorer = mlflow_model(tmp_path, lambda x: [1 / each for each in x["n"]])
    with pytest.raises(RowsError) as failed:
        score(scorer, {"n": [1, 0, 1, 0, 1, 1]})
    assert {row: problem.reason for row, problem in failed.value.problems.items()} == dict.fromkeys(
        (1, 3), "the model failed: float division by zero"
    )


def test_a_message_of_the_model_is_one_short_line(tmp_path: Path) -> None:
    def predict(_: Any) -> Any:
        raise ValueError("two\nlines. " + "More words. " * 100)

    with pytest.raises(BatchError, match=r"failed on every row: two lines\. .* words\. More…$") as failed:
        score(mlflow_model(tmp_path, predict), {"n": [1]})
    assert len(failed.value.message) < 300


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value_floats=[1.0])
    scorer = onnx_model(tmp_path / "m.onnx", [node], {}, {"y": (TensorProto.FLOAT, [1])})
    with pytest.raises(BatchError, match="has no inputs"):
        scorer.inputs(["x"])
