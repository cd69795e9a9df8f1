"""What endpoints say of their models, and the requests that are made of it."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from deployledger.serving.asgi import Message
from deployledger.serving.description import ModelDescription
from deployledger.serving.page import Page

COLUMNS = [{"name": "sepal length", "type": "double"}, {"name": "owner's", "type": "string"}]
UNNAMED = [{"type": "double"}, {"type": "double"}]
TENSOR = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]
LARGE = [{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, 224, 224]}}]
NAMED = [{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]
LISTS = [{"name": "x", "type": "array", "items": {"type": "long"}}]
SCRIPT = "<script>alert(1)</script>"
ZEROS = {"dataframe_split": {"columns": ["sepal length", "owner's"], "data": [[0.0, ""]]}}
LOGGED = {"dataframe_split": {"columns": ["owner's", "sepal length"], "data": [["ann", 5.1], ["ben", 2.0]]}}


def of_mlflow(folder: Path, inputs: list[Any], logged: str = "") -> ModelDescription:
    if logged:
        (folder / "serving_input_example.json").write_text(logged)
    signature = {"inputs": json.dumps(inputs), "outputs": json.dumps(TENSOR), "params": None}
    return ModelDescription.of_mlflow("m", "2", "sha256:ab", {"signature": signature}, folder)


@pytest.mark.parametrize(
    ("inputs", "logged", "example"),
    [
        (COLUMNS, "", ZEROS),
        (UNNAMED, "", {"inputs": [[0.0, 0.0]]}),
        (TENSOR, "", {"inputs": [[0.0, 0.0]]}),
        (NAMED, "", {"inputs": {"x": [0]}}),
        (LARGE, "", None),
        (LISTS, "", None),
        ([], "", None),
        (COLUMNS, '{"inputs": [[5.1, {}, []]]}', {"inputs": [[5.1, {}, []]]}),
        (COLUMNS, json.dumps(LOGGED), LOGGED),
        (TENSOR, "9" * 2_000, {"inputs": [[0.0, 0.0]]}),
        (TENSOR, "{", {"inputs": [[0.0, 0.0]]}),
        ([{"name": "x", "type": "binary"}], "", None),
    ],
)
def test_an_mlflow_model_has_its_logged_example_or_zeros(
    tmp_path: Path, inputs: list[Any], logged: str, example: Any
) -> None:
    model = of_mlflow(tmp_path, inputs, logged)
    assert model.example == example
    assert model.path == "invocations"


def test_the_first_logged_row_is_the_example_of_each_column(tmp_path: Path) -> None:
    model = of_mlflow(tmp_path, COLUMNS, json.dumps(LOGGED))
    assert [(each.name, each.example) for each in model.inputs] == [
        ("sepal length", [5.1]),
        ("owner's", ["ann"]),
    ]


def test_an_mlflow_model_without_a_signature_takes_anything(tmp_path: Path) -> None:
    model = ModelDescription.of_mlflow("m", "1", None, {"signature": None}, tmp_path)
    assert (model.inputs, model.outputs, model.example) == ([], [], None)


@pytest.mark.parametrize(
    "metadata", [{}, {"name": "x", "inputs": 1, "outputs": []}, {"name": "x", "inputs": [{}]}]
)
def test_metadata_of_another_protocol_are_refused(metadata: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        ModelDescription.of_metadata(metadata)


def test_a_model_name_cannot_leave_its_place_in_the_path() -> None:
    model = ModelDescription.of_metadata({"name": "../a b", "inputs": [], "outputs": []})
    assert model.path == "v2/models/..%2Fa%20b/infer"


@pytest.mark.parametrize("accept", [b"text/html,*/*;q=0.8", b"*/*"])
async def test_browsers_get_html_and_others_the_description(accept: bytes) -> None:
    description = ModelDescription.of_metadata({"name": SCRIPT, "inputs": [], "outputs": []}, "sha256:ab")
    messages: list[Any] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await Page(description)({"headers": [(b"accept", accept)]}, no_body, send)
    headers, body = dict(messages[0]["headers"]), messages[1]["body"].decode()
    assert headers[b"vary"] == b"accept"
    if accept == b"*/*":
        assert headers[b"content-type"] == b"application/json"
        assert json.loads(body) == asdict(description)
        return
    assert headers[b"content-type"] == b"text/html; charset=utf-8"
    policy = headers[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert int(headers[b"content-length"]) == len(body.encode())
    assert SCRIPT not in body
    assert re.findall(r"(?:href|src|action)=", body) == ["href="], "an empty icon"


async def no_body() -> Message:
    return {"type": "http.request"}
