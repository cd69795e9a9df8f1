"""The server of MLflow models: request by request beside MLflow's own, and then as a process."""

import asyncio
import gc
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployledger.gateway import tether
from deployledger.serving import DAMAGED_STATUS
from deployledger.serving.mlflow_model import load_mlflow_model
from deployledger.serving.mlflow_server import make_app
from deployledger.serving.model_files import ModelRefusedError
from tests.ports import free_port
from tests.serving.mlflow_models import COLUMNS, MODELS, SETOSA, VIRGINICA

JSON, CSV, PARQUET = "application/json", "text/csv", "application/vnd.apache.parquet"


# MLflow advises the authors of models, and these are as their users have them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model of each flavour."""
    root = tmp_path_factory.mktemp("models")
    for name, save in MODELS.items():
        save(root / name)
    return root


# --- beside MLflow's own server


async def no_page(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody asked for it")


class Pair:
    """Our application and MLflow's, with the same model."""

    def __init__(self, path: Path) -> None:
        from mlflow.pyfunc import load_model, scoring_server

        model = load_model(str(path), suppress_warnings=True)
        self._ours, self._mlflow = (
            httpx.ASGITransport(app, raise_app_exceptions=False)
            for app in (make_app(model, no_page), scoring_server.init(model))
        )

    async def ask(self, *request: Any, **options: Any) -> tuple[httpx.Response, httpx.Response]:
        answers = []
        for transport in (self._ours, self._mlflow):
            async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
                answers.append(await client.request(*request, **options))
        return answers[0], answers[1]

    async def invoke(self, body: Any, content_type: str | None = JSON) -> httpx.Response:
        """Return our answer to a request; it is the same as MLflow's, apart from its stack trace."""
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        headers = {"content-type": content_type} if content_type else {}
        ours, mlflow = await self.ask("POST", "/invocations", content=content, headers=headers)
        assert ours.status_code == mlflow.status_code, ours.text
        assert ours.headers["content-type"] == mlflow.headers["content-type"]
        expected = mlflow.text
        if "stack_trace" in expected:
            expected = json.dumps({k: v for k, v in mlflow.json().items() if k != "stack_trace"})
        assert ours.text == expected
        return ours


@pytest.fixture(scope="module")
def pairs(folder: Path) -> Iterator[dict[str, Pair]]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setattr(os, "environ", os.environ.copy())
        yield {name: Pair(folder / name) for name in MODELS}


def table(*rows: list[float]) -> dict[str, Any]:
    return {"columns": COLUMNS, "data": rows}


def records(*rows: list[float]) -> list[dict[str, float]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def csv(*rows: list[float]) -> str:
    return "\n".join(",".join(map(str, row)) for row in (COLUMNS, *rows))


def parquet(*rows: list[float]) -> bytes:
    import pandas as pd

    file = io.BytesIO()
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(file)
    return file.getvalue()


FORMATS: dict[str, tuple[Any, str]] = {
    "split": ({"dataframe_split": table(SETOSA, VIRGINICA)}, JSON),
    "split with an index": ({"dataframe_split": {**table(SETOSA, VIRGINICA), "index": [7, 8]}}, JSON),
    "records": ({"dataframe_records": records(SETOSA, VIRGINICA)}, "application/json; charset=UTF-8"),
    "instances": ({"instances": records(SETOSA, VIRGINICA)}, JSON),
    "inputs": ({"inputs": records(SETOSA, VIRGINICA)}, JSON),
    "inputs by column": ({"inputs": {name: [1.5, 2.5] for name in COLUMNS}}, JSON),
    "csv": (csv(SETOSA, VIRGINICA), CSV),
    "csv in utf-8": (csv(SETOSA, VIRGINICA).encode(), "text/csv;charset=utf-8"),
    "parquet": (parquet(SETOSA, VIRGINICA), PARQUET),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["scikit-learn", "xgboost", "lightgbm", "code"])
async def test_every_format_is_answered_as_by_mlflow(pairs: dict[str, Pair], name: str, format: str) -> None:
    answer = await pairs[name].invoke(*FORMATS[format])
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"]) == 2


@pytest.mark.parametrize(
    ("name", "body", "predictions"),
    [
        ("unsigned", {"inputs": [SETOSA, VIRGINICA]}, [0, 2]),
        ("onnx", {"inputs": [SETOSA]}, {"total": [[pytest.approx(10.2)]]}),
        ("onnx", {"instances": [[1.5, 2, 3, 4]]}, {"total": [[10.5]]}),
        ("code", {"inputs": records(SETOSA), "params": {"factor": 2}}, [{"0": pytest.approx(20.4)}]),
        ("type_hints", {"inputs": [{"text": "what", "limit": 2}, {"text": "why"}]}, ["wh", "why"]),
        (
            "tensors",
            {"inputs": {"a": [[1, 2]], "b": [3]}},
            {"a": [[2.0, 4.0]], "b": [6]},
        ),
        ("tensors", {"instances": [{"a": [1, 2], "b": 3}]}, {"a": [[2.0, 4.0]], "b": [6]}),
    ],
)
async def test_models_get_their_own_kind_of_input(
    pairs: dict[str, Pair], name: str, body: Any, predictions: Any
) -> None:
    assert (await pairs[name].invoke(body)).json() == {"predictions": predictions}


async def test_a_chat_model_takes_and_returns_plain_json(pairs: dict[str, Pair]) -> None:
    answer = await pairs["chat"].invoke(
        {"messages": [{"role": "user", "content": "loud"}], "temperature": 0.5}
    )
    assert answer.json()["choices"][0]["message"]["content"] == "LOUD"


ROW = dict(zip(COLUMNS, SETOSA, strict=True))
FAULTS: dict[str, tuple[Any, str]] = {
    "an empty body": ("", JSON),
    "no json": ("{a", JSON),
    "a list": ([SETOSA], JSON),
    "a number": ("5", JSON),
    "no format": ({"rows": [SETOSA]}, JSON),
    "two formats": ({"inputs": [SETOSA], "instances": [SETOSA]}, JSON),
    "invalid utf-8": (b'{"inputs": "\xff"}', JSON),
    "invalid utf-8 in csv": (b"a\xff\n1", CSV),
    "another charset": (csv(SETOSA), "text/csv; charset=latin-1"),
    "another parameter": (csv(SETOSA), "text/csv; header=present"),
    "another type": ("x", "text/plain"),
    "a split list": ({"dataframe_split": [SETOSA]}, JSON),
    "split without data": ({"dataframe_split": {"columns": COLUMNS}}, JSON),
    "split with a field too many": ({"dataframe_split": {**table(SETOSA), "shape": [1, 4]}}, JSON),
    "ragged rows": ({"dataframe_split": table(SETOSA, [1.0])}, JSON),
    "records in a dictionary": ({"dataframe_records": {"a": [1]}}, JSON),
    "records of numbers": ({"dataframe_records": [1, 2]}, JSON),
    "a missing column": ({"dataframe_records": [{COLUMNS[0]: 1.0}]}, JSON),
    "a text for a number": ({"dataframe_records": [{**ROW, COLUMNS[0]: "x"}]}, JSON),
    "a missing value": ({"dataframe_records": [{**ROW, COLUMNS[0]: None}]}, JSON),
    "ragged inputs": ({"inputs": [[1, 2], [3]]}, JSON),
    "mixed instances": ({"instances": [{"a": 1}, 2]}, JSON),
    "nothing": ({"inputs": None}, JSON),
    "an integer that is no float": (f'{{"inputs": [[{"9" * 400}, 1, 2, 3]]}}', JSON),
    "a csv without columns": ("", CSV),
    "a csv with an open quote": ('a,b\n"1,2', CSV),
    "a csv with text for numbers": (f"{','.join(COLUMNS)}\na,b,c,d", CSV),
    "no parquet": (b"PAR1", PARQUET),
    "a chat": ({"messages": [{"role": "user", "content": "x"}]}, JSON),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_invalid_input_is_reported_as_by_mlflow(
    pairs: dict[str, Pair], fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = await pairs["scikit-learn"].invoke(*FAULTS[fault])
    assert answer.status_code in (400, 415)
    assert str(Path.cwd()) not in answer.text, "a path"
    assert "Traceback" not in answer.text


# --- what MLflow answers otherwise


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        ("{}", None, 415, "only supports the following content types"),
        (b'{"inputs":' + b"[" * 20_000 + b"]" * 20_000 + b"}", JSON, 400, "maximum recursion depth"),
        (b'{"inputs": [' + b"9" * 5_000 + b"]}", JSON, 400, "4300 digits"),
        (b'{"dataframe_split": {"columns": ["a", [1]], "data": [[1, 2]]}}', JSON, 400, "unhashable"),
    ],
)
async def test_faults_that_mlflow_fails_at_are_refused(
    pairs: dict[str, Pair], body: bytes, content_type: str | None, status: int, reason: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    ours, mlflow = await pairs["scikit-learn"].ask("POST", "/invocations", content=body, headers=headers)
    assert (ours.status_code, mlflow.status_code) == (status, 500)
    assert reason in ours.text


async def test_a_large_body_that_is_not_json_is_not_sent_back(pairs: dict[str, Pair]) -> None:
    for content in (
        b'{"inputs": x' + b" " * 1_000_000,
        b"\xff" * 1_000_000,
        json.dumps({"prompt": "x" * 10**6}),
    ):
        ours, mlflow = await pairs["scikit-learn"].ask(
            "POST", "/invocations", content=content, headers={"content-type": JSON}
        )
        assert ours.status_code == mlflow.status_code == 400
        assert len(ours.text) < 20_000 < len(mlflow.text)
        assert ours.json()["error_code"] == mlflow.json()["error_code"]


async def test_a_model_that_fails_is_reported_without_paths(
    pairs: dict[str, Pair], capfd: pytest.CaptureFixture[str]
) -> None:
    answer = await pairs["fickle"].invoke({"dataframe_records": [{"do": "fail"}]})
    assert answer.status_code == 400
    assert "/secret/path" in capfd.readouterr().out, "it is in the log"
    assert "/secret/path" not in answer.text


async def test_predictions_that_are_not_json_are_an_error(
    pairs: dict[str, Pair], capfd: pytest.CaptureFixture[str]
) -> None:
    body = {"dataframe_records": [{"do": "return an object"}]}
    ours, mlflow = await pairs["fickle"].ask("POST", "/invocations", json=body)
    assert (ours.status_code, mlflow.status_code) == (500, 500)
    assert ours.json()["error_code"] == "INTERNAL_ERROR"
    assert "not JSON serializable" in capfd.readouterr().err, "it is in the log"
    answer = await pairs["fickle"].invoke({"dataframe_records": [{"do": "ä"}]})
    assert answer.text == r'{"predictions": [NaN, null, "\u00e4"]}'


async def test_other_paths_and_methods(pairs: dict[str, Pair]) -> None:
    for method, path in (("GET", "/ping"), ("GET", "/health"), ("GET", "/version")):
        ours, mlflow = await pairs["code"].ask(method, path)
        assert (ours.status_code, ours.content, ours.headers) == (200, mlflow.content, mlflow.headers)
    for method, path in (("POST", "/ping"), ("GET", "/invocations"), ("GET", "/x"), ("GET", "/v2")):
        ours, mlflow = await pairs["code"].ask(method, path)
        assert ours.status_code == mlflow.status_code
        assert path in ours.json()["error"]


async def test_bodies_may_be_compressed_and_have_limits(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.pyfunc import load_model

    monkeypatch.setattr(os, "environ", os.environ.copy())
    model = load_model(str(folder / "code"), suppress_warnings=True)
    body = json.dumps({"inputs": records(SETOSA)}).encode()
    app = make_app(model, no_page, len(body))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://model") as client:
        for content, coding, status in (
            (gzip.compress(body), "gzip", 200),
            (body, "gzip", 400),
            (body, "br", 415),
            (body, "identity", 200),
            (body + b" ", "identity", 413),
            (gzip.compress(body + b" "), "gzip", 413),
        ):
            headers = {"content-type": JSON, "content-encoding": coding}
            answer = await client.post("/invocations", content=content, headers=headers)
            assert answer.status_code == status, (coding, answer.text)


async def test_a_slow_prediction_times_out_as_by_mlflow(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "0")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    ours, mlflow = await Pair(folder / "code").ask("POST", "/invocations", json={})
    assert (ours.status_code, ours.content) == (mlflow.status_code, mlflow.content) == (504, mlflow.content)


# --- loading


@pytest.fixture
def own_process_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a server does to its process from the other tests."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(gc, "freeze", lambda: None)


@pytest.mark.usefixtures("own_process_state")
def test_loading_sets_the_number_of_threads(folder: Path) -> None:
    load_mlflow_model(folder / "code", 3, None)
    assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "3"
    assert gc.isenabled()


@pytest.mark.usefixtures("own_process_state")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("MLmodel", "flavors: {}", r"^MLflow cannot load it: .*python_function"),
        ("MLmodel", ": no yaml", r"^MLflow cannot load it: [^\n]*$"),
        (
            "MLmodel",
            "flavors: {python_function: {loader_module: gone_with_its_package}}",
            r"needs the module 'gone_with_its_package', which is not installed \(.* numpy<1 \([\d.]+ is ",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "requirements.txt").write_text(
        "-r others.txt\nmlflow # the server\nnumpy<1\n"
        "gone==2; python_version > '3'\nold; python_version < '3'\n"
    )
    with pytest.raises(ModelRefusedError, match=message) as refused:
        load_mlflow_model(tmp_path, 1, None)
    assert "gone==2" in str(refused.value)
    assert "old" not in str(refused.value)


@pytest.mark.usefixtures("own_process_state")
def test_other_versions_are_logged(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    requirements = folder / "code" / "requirements.txt"
    before = requirements.read_text()
    requirements.write_text("pandas==0.1\nmlflow>=3\n")
    try:
        load_mlflow_model(folder / "code", 1, None)
    finally:
        requirements.write_text(before)
    assert "saved with pandas==0.1 (" in capfd.readouterr().out


# --- as a process


@contextmanager
def served(*command: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server with a pipe to its gateway; yield its process and the end that the gateway holds."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", *(each.replace("{fd}", str(read_end)) for each in command)],
        pass_fds=[read_end],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    os.close(read_end)
    try:
        yield process, write_end
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_server_answers_mlflows_own_client(folder: Path) -> None:
    import pandas as pd
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    port = free_port()
    arguments = ["--model", str(folder / "scikit-learn"), "--name", "iris", "--port", str(port)]
    with served("deployledger.serving.mlflow_server", *arguments, "--parent-fd", "{fd}") as (process, pipe):
        assert process.stdout is not None
        while "Uvicorn running on" not in (line := process.stdout.readline()):
            assert line, "the server ended"
        client = ScoringServerClient("127.0.0.1", port)
        client.ping()
        rows = pd.DataFrame([SETOSA, VIRGINICA], columns=COLUMNS)
        assert client.invoke(rows).get_predictions()[0].tolist() == [0, 2]
        assert client.get_version() == version("mlflow")
        page = httpx.get(f"http://127.0.0.1:{port}/")
        assert [column["name"] for column in page.json()["inputs"]] == COLUMNS
        os.close(pipe)
        assert process.wait() == -signal.SIGKILL, "its gateway is gone"


async def test_health_answers_while_a_model_predicts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.pyfunc import load_model

    monkeypatch.setattr(os, "environ", os.environ.copy())
    model = load_model(str(folder / "code"), suppress_warnings=True)
    predicting, go_on = threading.Event(), threading.Event()
    predict = model.predict

    def slow(data: Any, params: Any = None) -> Any:
        predicting.set()
        assert go_on.wait(60)
        return predict(data, params)

    monkeypatch.setattr(model, "predict", slow)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(make_app(model, no_page)), base_url="http://model"
    ) as client:
        invocation = asyncio.create_task(client.post("/invocations", json={"inputs": records(SETOSA)}))
        await asyncio.to_thread(predicting.wait, 60)
        assert (await client.get("/ping")).status_code == 200
        assert not invocation.done()
        go_on.set()
        assert (await invocation).status_code == 200


def test_a_gateway_of_an_earlier_version_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "tether --parent-fd 7 --files f --listing l --digest d -- python -m mlflow models serve "
    command += "-m models/mine --env-manager local -h 127.0.0.1 -p 8123 -w 1"
    become: list[str] = []
    monkeypatch.setattr(sys, "argv", command.split())
    monkeypatch.setattr(os, "execv", lambda path, arguments: become.extend(arguments))
    tether.main()
    assert " ".join(become[1:]) == (
        "-P -m deployledger.serving.mlflow_server --name model --model models/mine --port 8123 "
        "--parent-fd 7 --files f --listing l --digest d"
    )


def test_damaged_files_are_not_loaded(tmp_path: Path) -> None:
    earlier = ["deployledger.gateway.tether", "--parent-fd", "{fd}", "--files", str(tmp_path)]
    earlier += ["--listing", str(tmp_path / "listing"), "--digest", "sha256:0", "--"]
    earlier += [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(tmp_path), "-p", "1"]
    with served(*earlier) as (process, pipe):
        output, _ = process.communicate()
        os.close(pipe)
    assert process.returncode == DAMAGED_STATUS, output
    assert "listing cannot be read" in output


WRITER = """
import subprocess, sys
from deployledger.serving import mlflow_server
mlflow_server._give_up_writing_read_only_files()
try:
    open(sys.argv[1], "a")
except PermissionError:
    print(subprocess.run(["sh", "-c", 'echo changed >> "$0"', sys.argv[1]], capture_output=True).returncode)
"""


def test_a_server_of_root_cannot_write_to_a_kept_file(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    kept.chmod(0o400)
    process = subprocess.run(
        [sys.executable, "-c", WRITER, str(kept)], capture_output=True, check=True, text=True
    )
    assert process.stdout.strip() not in ("", "0")
    assert kept.read_bytes() == b"kept"
