"""``deployledger predict``: queries of a model that a deployment serves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployledger.adapters.cli.prediction_table import prediction_table
from deployledger.adapters.endpoint import Endpoint
from tests.e2e.conftest import MODELS, REPOSITORY, CommandLine
from tests.e2e.in_process import InProcess
from tests.e2e.test_overview import lines

ROWS = REPOSITORY / "examples" / "data" / "iris.csv"
ROW, OTHER = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]


def test_a_served_model_is_queried_by_its_name(cli: CommandLine, tmp_path: Path) -> None:
    deployed = cli.json("deploy", MODELS / "iris-v1.onnx", "--name", "iris")

    def labels(*options: str | Path) -> Any:
        return cli.json("predict", "iris", *options)["outputs"][0]["data"]

    assert labels("--data", json.dumps(ROW)) == [0]
    assert labels("--data", json.dumps([ROW, OTHER])) == [0, 2]
    assert labels("--data", json.dumps({"measurements": OTHER})) == [2]
    request = {"name": "measurements", "datatype": "FP32", "shape": [1, 4], "data": OTHER}
    (tmp_path / "request").write_text(json.dumps({"inputs": [request], "outputs": [{"name": "label"}]}))
    assert labels("--data", f"@{tmp_path / 'request'}") == [2]
    of_csv = labels("--input", ROWS)
    assert (len(of_csv), set(of_csv)) == (150, {0, 1, 2})

    model = Endpoint(deployed["endpoint_url"], timeout=30).describe("iris")
    assert model is not None
    assert (model.version, model.digest) == ("1", deployed["artifact_digest"])

    table = cli.run("predict", deployed["deployment_id"][:8], "--data", json.dumps([ROW, OTHER]))
    assert (table.stderr, table.returncode) == ("", 0)
    heading, _, first, second = filter(None, table.stdout.splitlines())
    assert (heading.split(), first.split()[0], second.split()[0]) == (["label", "probabilities"], "0", "2")

    program = [Path(sys.executable).with_name("deployledger"), "predict", "iris", "--data", "@-"]
    piped = subprocess.run(
        program, input=json.dumps(ROW), env=cli._environment, capture_output=True, text=True
    )
    assert piped.stdout.splitlines()[0].split() == ["label", "0"], piped.stderr

    def refused(*options: str | Path) -> tuple[int, str]:
        done = cli.run("predict", "iris", *options)
        assert done.stdout == ""
        return done.returncode, done.stderr

    code, message = refused("--data", '[5.1, "x", 1.4, 0.2]')
    assert (code, "refused the request with status 400: input 'measurements'" in message) == (2, True), (
        message
    )
    assert "The model takes measurements (FP32 [any, 4])." in message
    (tmp_path / "rows.csv").write_text("a,b,c,d\n1,2,3,4\n1,2,x,4\n")
    code, message = refused("--input", tmp_path / "rows.csv")
    assert (code, "rows.csv, line 3: column 'c': expected FP32, got 'x'." in message) == (2, True), message
    for options, part in [
        ([], "Neither --data nor --input was given."),
        (["--data", "1", "--input", "x"], "--data and --input contradict each other."),
        (["--data", "@/nowhere"], "Invalid value for '--data': '/nowhere' cannot be read"),
        (["--input", ROWS.with_suffix(".json")], "cannot be read"),
        (["--input", "iris.csv.gz"], "'iris.csv.gz' does not end with one of .json, "),
        (["--input", "iris.parquet"], "batch inference jobs score Parquet and compressed files, too."),
        (["--data", f"@{MODELS / 'iris-v1.onnx'}"], "is not UTF-8"),
    ]:
        code, message = refused(*options)
        assert (code, part in message) == (2, True), message
    assert cli.run("predict", "wine", "--data", "1").returncode == 3


def test_an_mlflow_model_is_queried_by_its_columns(cli: CommandLine, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "code").mkdir(parents=True)
    (model / "code" / "greeting.py").write_text(
        "def _load_pyfunc(path):\n"
        "    return Model()\n"
        "class Model:\n"
        "    def predict(self, rows, params=None):\n"
        "        return [f'{row.plan}-{row.age + 1}' for row in rows.itertuples()]\n"
    )
    columns = [{"name": "age", "type": "long"}, {"name": "plan", "type": "string"}]
    flavor = {"loader_module": "greeting", "code": "code", "python_version": "3.11.0"}
    contents = {"flavors": {"python_function": flavor}, "signature": {"inputs": json.dumps(columns)}}
    (model / "MLmodel").write_text(json.dumps(contents))  # which is YAML, too

    deployed = cli.run("deploy", model, "--name", "churn")
    assert """predict churn --data '{"age": 0, "plan": ""}'""" in deployed.stdout, deployed.stderr
    (tmp_path / "rows.csv").write_text("plan,age\n007,41\n,9007199254740993\n")
    answer = cli.json("predict", "churn", "--input", tmp_path / "rows.csv")
    assert answer["predictions"] == ["007-42", "-9007199254740994"]
    assert cli.run("predict", "churn", "--data", '[1, "x"]').stdout.split() == ["prediction", "x-2"]
    refused = cli.run("predict", "churn", "--data", '{"age": "old", "plan": "x"}')
    assert refused.returncode == 2
    assert "status 400: " in refused.stderr
    assert "The model takes age (long), plan (string)." in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    return InProcess(f"sqlite:///{tmp_path / 'events.db'}", monkeypatch)


def test_a_deployment_without_an_endpoint_is_not_queried(in_process: InProcess) -> None:
    in_process.run("deploy", "m.onnx", "--name", "simulated")
    job = ["--type", "batch_inference_job", "--input", "a.csv", "--output-uri", "b.csv"]
    in_process.run("deploy", "m.onnx", "--name", "job", *job)
    deployed = json.loads(in_process.run("deploy", "m.onnx", "--name", "gone", "-o", "json").stdout)
    in_process.run("delete", "gone")
    expected = {
        "simulated": "Deployment 'simulated' has no endpoint to query: it is simulated.",
        "job": "Deployment 'job' has no endpoint to query: it is a batch job.",
        deployed["deployment_id"]: "Deployment 'gone' has no endpoint to query: ",
    }
    for name, message in expected.items():
        done = in_process.run("predict", name, "--data", "1")
        assert (done.exit_code, done.stdout) == (4, "")
        assert done.stderr.startswith(f"Error: {message}"), done.stderr


# Tables ----------------------------------------------------------------------------------------------


def output(name: str, shape: list[int], data: list[Any], **parameters: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "X", "shape": shape, "data": data, "parameters": parameters}


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ({"outputs": [output("x", [1], [7]), output("y", [], ["a\x1b"])]}, ["x  7", "y  a\\u001b"]),
        (
            {"outputs": [output("p", [1, 2], [0.125, 0.875], labels=["no", "yes"])]},
            ["p no   0.125", "p yes  0.875"],
        ),
        ({"outputs": [output("e", [1, 1_000], [0] * 1_000)]}, ["e  [0, 0, 0, 0, 0, 0, 0, 0, … 992 more]"]),
        ({"outputs": [output("x", [2, 2], [1, 2, 3, 4])]}, [" x", " ──────", " [1, 2]", " [3, 4]"]),
        ({"predictions": [0.1234567891]}, ["prediction  0.1234568"]),
        ({"predictions": [{"a": 1, "b": None}, {"a": 2}]}, [" a  b", " ───────", " 1  null", " 2  null"]),
        ({"predictions": {"[/a]": [1, 2], "b": [3]}}, [" [/a]  b", " ───────", " 1     3", " 2"]),
        ({"predictions": "text"}, ["prediction  text"]),
        ({"outputs": 7}, ['{"outputs": 7}']),
    ],
)
def test_predictions_are_a_table(answer: Any, shown: list[str]) -> None:
    assert lines(prediction_table(json.dumps(answer))) == shown


def test_a_long_table_is_cut_with_a_count() -> None:
    answer = json.dumps({"predictions": [*range(1_025)]})
    cut = lines(prediction_table(answer))
    assert cut[-2:] == [" 19", "1,005 more rows; `-o wide` shows them, `-o json` all values."]
    assert len(lines(prediction_table(answer, is_whole=True))) == 1_027


def test_a_response_that_is_not_json_does_not_act_on_the_terminal() -> None:
    assert lines(prediction_table("a\x1b[2Jb")) == ["a\\u001b[2Jb"]
