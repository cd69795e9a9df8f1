"""Requests from what people type, and from files of rows."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest

from deployledger.adapters.prediction_request import Data, prediction_request
from deployledger.domain.exceptions import ConfigurationError
from deployledger.serving import ModelDescription


def tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def model(*inputs: dict[str, Any]) -> ModelDescription:
    return ModelDescription.of_metadata({"name": "m", "inputs": inputs, "outputs": []})


def mlflow(*inputs: dict[str, Any]) -> ModelDescription:
    signature = {"inputs": json.dumps(inputs)} if inputs else None
    return ModelDescription.of_mlflow("m", "1", None, {"signature": signature}, Path("/nowhere"))


ROW = model(tensor("x", "FP32", -1, 2))
COLUMN = model(tensor("x", "FP32", -1, 1))
BATCH = model(tensor("x", "INT64", -1))
SCALAR = model(tensor("x", "INT64"))
TEXT = model(tensor("t", "BYTES", -1, 1))
IMAGE = model(tensor("x", "UINT8", -1, 2, 2))
TWO = model(tensor("a", "INT64", -1), tensor("b", "BYTES", -1, 1))
FRAME = mlflow(
    {"name": "a", "type": "long"}, {"name": "b", "type": "string"}, {"name": "c", "type": "double"}
)
MEMBERS = mlflow({"name": "age", "type": "long", "required": False}, {"name": "member", "type": "boolean"})
MATRIX = mlflow({"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}})
UNEVEN = "input 'x': the nested arrays are not all of the same length."


def body(text: str, of: ModelDescription) -> Any:
    return json.loads(prediction_request(Data(text), of)[0])


def of_csv(text: str, of: ModelDescription) -> Any:
    return json.loads(prediction_request(Data(text, "f.csv", "csv"), of)[0])


@pytest.mark.parametrize(
    ("of", "text", "shape", "data"),
    [
        (ROW, "[1, 2.5]", [1, 2], [1, 2.5]),
        (ROW, "[[1, 2], [3, 4]]", [2, 2], [1, 2, 3, 4]),
        (ROW, '{"x": [1, 2]}', [1, 2], [1, 2]),
        (ROW, '{"length": 1, "width": 2}', [1, 2], [1, 2]),
        (ROW, '[{"features": [1, 2]}, {"features": [3, 4]}]', [2, 2], [1, 2, 3, 4]),
        (ROW, '{"x": [[1, 2], [3, 4]]}', [2, 2], [1, 2, 3, 4]),
        (ROW, "[1, 2]\n[3, 4]\n", [2, 2], [1, 2, 3, 4]),
        (ROW, '[{"l": 1, "w": 2}, {"w": 4, "l": 3}]', [2, 2], [1, 2, 3, 4]),
        (ROW, "[NaN, -Infinity]", [1, 2], ["NaN", "-Infinity"]),
        (COLUMN, "7", [1, 1], [7]),
        (COLUMN, "[7, 8, 9]", [3, 1], [7, 8, 9]),
        (BATCH, "7", [1], [7]),
        (BATCH, "[7, 8]", [2], [7, 8]),
        (BATCH, "9223372036854775807", [1], [2**63 - 1]),
        (SCALAR, "7", [], [7]),
        (TEXT, "setosa", [1, 1], ["setosa"]),
        (TEXT, '"1"', [1, 1], ["1"]),
        (IMAGE, "[[1, 2], [3, 4]]", [1, 2, 2], [1, 2, 3, 4]),
    ],
)
def test_values_get_the_dimensions_that_they_lack(
    of: ModelDescription, text: str, shape: list[int], data: list[Any]
) -> None:
    (given,) = body(text, of)["inputs"]
    assert (given["shape"], given["data"]) == (shape, data)


@pytest.mark.parametrize(
    ("text", "a", "b"),
    [
        ('{"a": 1, "b": "x"}', [1], ["x"]),
        ('[{"b": "x", "a": 1}, {"a": 2, "b": "y", "more": 0}]', [1, 2], ["x", "y"]),
    ],
)
def test_several_inputs_take_values_by_name(text: str, a: list[int], b: list[str]) -> None:
    first, second = body(text, TWO)["inputs"]
    assert (first["name"], first["shape"], first["data"]) == ("a", [len(a)], a)
    assert (second["name"], second["shape"], second["data"]) == ("b", [len(b), 1], b)


@pytest.mark.parametrize(
    ("of", "text", "expected"),
    [
        (FRAME, '{"a": 1, "b": "x", "c": 2}', {"dataframe_records": [{"a": 1, "b": "x", "c": 2}]}),
        (FRAME, '[1, "x", 2]', {"dataframe_records": [{"a": 1, "b": "x", "c": 2}]}),
        (MEMBERS, '[{"member": true, "id": 7}]', {"dataframe_records": [{"member": True}]}),
        (
            MEMBERS,
            "[[7, 1], [8, false]]",
            {"dataframe_records": [{"age": 7, "member": 1}, {"age": 8, "member": False}]},
        ),
        (MATRIX, "[1, 2]", {"inputs": [[1, 2]]}),
        (mlflow(), "[[1, 2]]", {"inputs": [[1, 2]]}),
        (mlflow(), '{"q": 1}', {"dataframe_records": [{"q": 1}]}),
        (mlflow({"name": "q", "type": "string"}), '"x"', {"dataframe_records": [{"q": "x"}]}),
    ],
)
def test_mlflow_gets_one_of_its_formats(of: ModelDescription, text: str, expected: Any) -> None:
    assert body(text, of) == expected


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (ROW, '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.10, 2]}]}'),
        (FRAME, '{"instances": [1],  "params": {}}'),
        (FRAME, '{"messages": []}'),
    ],
)
def test_a_complete_request_is_sent_as_it_is(of: ModelDescription, text: str) -> None:
    assert prediction_request(Data(text), of) == (text.encode(), "application/json")


def test_a_csv_has_the_types_of_the_inputs() -> None:
    (given,) = of_csv("l,w\n1,2\n\n3,\n nan ,-INF\n", ROW)["inputs"]
    assert given["data"] == [1, 2, 3, "NaN", "NaN", "-Infinity"]
    first, second = of_csv("b,extra,a\n007,?,7\n,?,8\n", TWO)["inputs"]
    assert (first["data"], second["data"]) == ([7, 8], ["007", ""])
    assert of_csv("c,a,b\n,1,x\n", FRAME) == {"dataframe_records": [{"c": None, "a": 1, "b": "x"}]}
    assert of_csv("member\n1\n", MEMBERS) == {"dataframe_records": [{"member": True}]}
    request = prediction_request(Data("a,b\n1,2\n", "f.csv", "csv"), mlflow())
    assert request == (b"a,b\n1,2\n", "text/csv")


@pytest.mark.parametrize(
    ("of", "text", "format_", "message"),
    [
        (ROW, "a,b\n1,2\n1,x\n", "csv", "f, line 3: column 'b': expected FP32, got 'x'."),
        (ROW, ",b\nx,1\n", "csv", "f, line 2: column '': expected FP32, got 'x'."),
        (ROW, "a,b\n1,1_0\n", "csv", "f, line 2: column 'b': expected FP32, got '1_0'."),
        (ROW, "a,b\n1,-1e999\n", "csv", "f, line 2: column 'b': expected FP32, got '-1e999'."),
        (TWO, "a,b\n1.0,x\n", "csv", "f, line 2: column 'a': expected INT64, got '1.0'."),
        (TWO, "a,b\n,x\n", "csv", "f, line 2: column 'a': expected INT64, got ''."),
        (ROW, "a,b\n1\n", "csv", "f, line 2: expected 2 values, got 1."),
        (ROW, "a,a\n1,2\n", "csv", "f, line 1: two columns have the same name."),
        (ROW, "", "csv", "f, line 1: the header is missing."),
        (ROW, "a,b\n", "csv", "There are no rows to predict."),
        (ROW, 'a,b\n"1,2\n', "csv", "f, line 2: unexpected end of data."),
        (TWO, "a,q\n1,x\n", "csv", "The data have no 'b', only 'a', 'q'."),
        (MEMBERS, "age,member\n1,0\n2,\n", "csv", "f, line 3: column 'member': expected boolean, got ''."),
        (MEMBERS, "age\n1\n", "csv", "The data have no 'member', only 'age'."),
        (ROW, "[1, 2]\n[1,", "json", "f, line 2: not JSON: Expecting value: line 1 column 4 (char 3)."),
        (ROW, "[" * 100_000, "json", "f: it is nested too deeply."),
        (ROW, "[" * 600 + "]" * 600, "json", "f: it is nested too deeply."),
        (ROW, "[1, 2, 3]", "json", "The input 'x' takes FP32 [any, 2], got values of shape [3]."),
        (ROW, "1", "json", "The input 'x' takes FP32 [any, 2], got one value."),
        (ROW, "[[1, 2], [1]]", "json", f"f, row 2: {UNEVEN}"),
        (ROW, "[1, 2]\n\n[1]", "json", f"f, line 3: {UNEVEN}"),
        (IMAGE, "[[[1, 2], [3]]]", "json", f"f, row 1: {UNEVEN}"),
        (ROW, "[1, 1e999]", "json", "f: a number is too large."),
        (TWO, "[1]", "json", "The data have no 'a', 'b'."),
        (TWO, '[{"a": 1, "b": ""}, {"a": 1}]', "json", "f, row 2: no 'b'."),
        (ROW, '{"y": [1, 2]}', "json", "The data have no 'x', only 'y'."),
        (
            ROW,
            '[{"l": 1, "w": 2}, {"l": 1, "v": 2}]',
            "json",
            "f, row 2: not the columns of the first row: 'v', 'w'.",
        ),
        (MEMBERS, '{"age": 1}', "json", "The data have no 'member', only 'age'."),
        (
            MEMBERS,
            '{"member": "maybe"}',
            "json",
            "f, row 1: column 'member': expected boolean, got \"maybe\".",
        ),
        (MEMBERS, "[1, null]", "json", "f, row 1: column 'member': expected boolean, got null."),
        (FRAME, "[1, 2]", "json", "f, row 1: expected 3 values, got 2."),
    ],
)
def test_values_that_fit_no_input_are_refused(
    of: ModelDescription, text: str, format_: Literal["json", "csv"], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        prediction_request(Data(text, "f", format_), of)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("source", "hint"), [("", "Quote a string for JSON and for the shell: --data '\"red\"'."), ("f", "")]
)
def test_a_text_without_quotes_is_explained(source: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        prediction_request(Data("red", source), ROW)
    assert refused.value.hint == hint
