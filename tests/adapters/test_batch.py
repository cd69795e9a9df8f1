"""Batch inference jobs: the scorer process by itself, and under the orchestrator."""

import asyncio
import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from deployledger.adapters.local import LocalProcessOrchestrator
from deployledger.adapters.local.folders import DeploymentFolder
from deployledger.adapters.local.locations import batch_file
from deployledger.domain.exceptions import ConfigurationError, DeploymentError
from deployledger.domain.ports import ProvisionRequest
from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import DeploymentTargetConfig
from deployledger.domain.values import Image
from deployledger.service.files.listing import FileEntry, list_files
from deployledger.serving import batch
from tests.adapters.files import artifact_of


def save(path: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> Path:
    def infos(tensors: dict[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs))
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def row_maxima(path: Path, *, batch: Any = "rows") -> Path:
    """A model of three features a row, with the greatest of them as its one output."""
    return save(
        path,
        [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=1)],
        {"x": (TensorProto.FLOAT, [batch, 3])},
        {"y": (TensorProto.FLOAT, [batch, 1])},
    )


def by_name(path: Path) -> Path:
    """A model with a text and a number as inputs, and two outputs."""
    return save(
        path,
        [helper.make_node("Identity", ["name"], ["who"]), helper.make_node("Neg", ["age"], ["minus"])],
        {"name": (TensorProto.STRING, ["rows", 1]), "age": (TensorProto.INT64, ["rows"])},
        {"who": (TensorProto.STRING, ["rows", 1]), "minus": (TensorProto.INT64, ["rows"])},
    )


def score(model: Path, source: Path, output: Path, *options: str) -> dict[str, Any]:
    status = output.with_name("status.json")
    arguments = ["--model", str(model), "--input", str(source), "--output", str(output)]
    exit_status = batch.main([*arguments, "--status", str(status), *options])
    result: dict[str, Any] = json.loads(status.read_text())
    assert exit_status == (0 if result["state"] == "completed" else 1)
    assert not list(output.parent.glob(".*partial")), "something unfinished was left behind"
    return result


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_columns_go_to_the_one_input_in_their_order(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('id,b,c\n1,2.5,"3"\n\n9,Infinity,7\n4,5,-1\n')
    status = score(row_maxima(tmp_path / "m.onnx"), source, tmp_path / "out.csv")
    assert (status["state"], status["rows"], status["done"], status["total"]) == ("completed", 3, 3, 3)
    rows = read_csv(tmp_path / "out.csv")
    assert [row["prediction"] for row in rows] == ["3.0", "Infinity", "5.0"]
    assert rows[0] == {"id": "1", "b": "2.5", "c": "3", "prediction": "3.0"}


def test_columns_named_like_inputs_go_to_them(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("age,other,name\n3,x,Ada\n-4,y,Bob\n")
    score(by_name(tmp_path / "m.onnx"), tmp_path / "in.csv", tmp_path / "out.csv")
    assert read_csv(tmp_path / "out.csv") == [
        {"age": "3", "other": "x", "name": "Ada", "prediction_who": "Ada", "prediction_minus": "-3"},
        {"age": "-4", "other": "y", "name": "Bob", "prediction_who": "Bob", "prediction_minus": "4"},
    ]


@pytest.mark.parametrize(
    "line", ['{"x": [1, 2, 3]}', '{"features": [1, 2, 3]}', '{"a": 1, "b": 2, "c": 3}', "[1, 2, 3]"]
)
def test_json_lines_in_every_form(line: str, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(f"{line}\n{line}\n")
    score(row_maxima(tmp_path / "m.onnx"), tmp_path / "in.jsonl", tmp_path / "out.ndjson")
    rows = [json.loads(each) for each in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == [3.0, 3.0]


def test_many_chunks_and_a_model_with_a_fixed_batch(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b,c\n" + "".join(f"{n},0,0\n" for n in range(5001)))
    score(row_maxima(tmp_path / "m.onnx", batch=64), tmp_path / "in.csv", tmp_path / "out.csv")
    assert [float(row["prediction"]) for row in read_csv(tmp_path / "out.csv")] == list(range(5001))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("in.csv", "a,b,c\n1,2,3\n1,x,3\n", "in.csv, line 3, column 'b': not a number (float): 'x'."),
        ("in.csv", "a,b,c\n1,2\n", "line 2: expected 3 values, got 2."),
        ("in.csv", "a,b\n1,2\n", "takes rows of the shape [3], got 2 elements"),
        ("in.csv", "", "is empty"),
        ("in.csv", "a,b,c\n", "has no rows"),
        ("in.csv", "a,a,c\n1,2,3\n", "two columns have the same name"),
        ("in.csv", "prediction,b,c\n1,2,3\n", "has a column 'prediction' already"),
        ("in.jsonl", "[1,2,3]\n{", "line 2: not JSON"),
        ("in.jsonl", "[1,2,NaN]\n", "line 1: not JSON: JSON is malformed: invalid character"),
        (
            "in.jsonl",
            '{"a": 1, "b": 2, "c": 3}\n{"a": 1}\n',
            "line 2: expected the keys 'a', 'b', 'c', got 'a'.",
        ),
        ("in.jsonl", "[1,2,3]\n[1,2]\n", "line 2, column 'features': expected 3 elements"),
        ("in.parquet", "x", "is not a readable Parquet file"),
        ("in.xlsx", "x", "has the suffix '.xlsx'"),
    ],
)
def test_bad_input_is_named_with_its_line_and_leaves_no_output(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    status = score(row_maxima(tmp_path / "m.onnx"), tmp_path / name, tmp_path / "out.csv")
    assert (status["state"], status["reason"]) == ("failed", "batch_input_invalid")
    assert said in status["message"]
    assert not (tmp_path / "out.csv").exists()


def test_a_failed_job_leaves_an_older_output_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b,c\n1,x,3\n")
    (tmp_path / "out.csv").write_text("older")
    score(row_maxima(tmp_path / "m.onnx"), tmp_path / "in.csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "older"


def test_an_mlflow_model_scores_rows_as_a_data_frame(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "code").mkdir(parents=True)
    (model / "MLmodel").write_text(
        "flavors: {python_function: {loader_module: row_sum, code: code, python_version: '3'}}"
    )
    (model / "code" / "row_sum.py").write_text(
        "class Model:\n"
        "    def predict(self, frame, params=None):\n"
        "        columns = {'label': frame['name'] + '!', 'double': frame['age'] * 2}\n"
        "        return frame.assign(**columns)[list(columns)]\n"
        "def _load_pyfunc(path):\n"
        "    return Model()\n"
    )
    (tmp_path / "in.csv").write_text("name,age\nAda,36\nBob,1.5\n")
    score(model, tmp_path / "in.csv", tmp_path / "out.csv")
    assert read_csv(tmp_path / "out.csv") == [
        {"name": "Ada", "age": "36", "prediction_label": "Ada!", "prediction_double": "72.0"},
        {"name": "Bob", "age": "1.5", "prediction_label": "Bob!", "prediction_double": "3.0"},
    ]


def test_locations_are_files_or_object_stores(tmp_path: Path) -> None:
    assert batch_file(f"file://{tmp_path}/a%20b.csv", "input_uri") == f"{tmp_path}/a b.csv"
    assert batch_file("data.csv", "input_uri") == str(Path.cwd() / "data.csv")
    assert batch_file("out/", "output_uri") == f"{Path.cwd()}/out/"
    for uri in (None, "", "ftp://host/key", "s3::file:///key", "file://elsewhere/x"):
        with pytest.raises(ConfigurationError, match="output_uri"):
            batch_file(uri, "output_uri")


def extract(reference: str, destination: Path) -> list[FileEntry]:
    shutil.copytree(reference, destination)
    return list_files(destination)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ignore(done: int, total: int | None, unit: str) -> None:
    pass


def request(
    deployment: uuid.UUID, model: Path, source: Path | None, output: Path | None, revision: int = 1
) -> ProvisionRequest:
    return ProvisionRequest(
        deployment_id=deployment,
        deployment_name="Nightly",
        revision=revision,
        artifact=artifact_of(model.parent),
        image=Image(reference=str(model.parent), digest=f"sha256:{'0' * 64}", size_bytes=1),
        target=DeploymentTargetConfig(
            type="batch_inference_job",
            input_uri=source and str(source),
            output_uri=output and f"file://{output}",
        ),
    )


def provision_in_a_process_of_its_own(root: Path, order: ProvisionRequest) -> None:
    asyncio.run(LocalProcessOrchestrator(root, extract_model=extract).provision(order, ignore))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
async def orchestrator(tmp_path: Path) -> AsyncIterator[LocalProcessOrchestrator]:
    local = LocalProcessOrchestrator(tmp_path / "root", extract_model=extract)
    yield local
    for deployment in await local.provisioned():
        await local.prune(deployment, None)


class TestUnderTheOrchestrator:
    async def test_a_job_runs_to_its_end_once(
        self, orchestrator: LocalProcessOrchestrator, tmp_path: Path
    ) -> None:
        # given a job
        deployment, output = uuid.uuid4(), tmp_path / "new" / "folder" / "out.csv"
        model = row_maxima(tmp_path / "model" / "model.onnx")
        (tmp_path / "in.csv").write_text("a,b,c\n" + "1,2,3\n" * 3000)
        order = request(deployment, model, tmp_path / "in.csv", output)
        reported: list[tuple[int, int | None, str]] = []
        # when it is provisioned, twice, and awaited
        assert (await orchestrator.provision(order, ignore)).endpoint_url is None
        await orchestrator.provision(order, ignore)
        result = await orchestrator.wait_for_completion(
            deployment, 1, lambda *progress: reported.append(progress)
        )
        # then the output is there, and nothing runs
        assert result.rows == 3000
        assert result.output_uri == f"file://{output}"
        assert len(read_csv(output)) == 3000
        assert reported[-1] == (3000, 3000, "rows")
        # and a complete job is not done again
        written = output.stat()
        await orchestrator.provision(order, ignore)
        assert await orchestrator.wait_for_completion(deployment, 1, ignore) == result
        assert output.stat() == written
        await orchestrator.prune(deployment, 1)
        observation = await orchestrator.observe(deployment)
        assert not observation.running
        assert observation.detail == "completed, 3,000 of 3,000 rows"
        assert [line async for line in orchestrator.logs(deployment, follow=False)] == [
            f"3000 rows scored into {output}"
        ]
        await orchestrator.prune(deployment, None)
        assert output.exists()
        assert await orchestrator.provisioned() == {}

    async def test_a_job_outlives_its_starter(
        self, orchestrator: LocalProcessOrchestrator, tmp_path: Path
    ) -> None:
        deployment = uuid.uuid4()
        model = row_maxima(tmp_path / "model" / "model.onnx")
        (tmp_path / "in.csv").write_text("a,b,c\n" + "1,2,3\n" * 100)
        order = request(deployment, model, tmp_path / "in.csv", tmp_path / "out.csv")
        starter = multiprocessing.get_context("spawn").Process(
            target=provision_in_a_process_of_its_own, args=(tmp_path / "root", order)
        )
        starter.start()
        await asyncio.to_thread(starter.join)
        assert starter.exitcode == -signal.SIGKILL
        result = await orchestrator.wait_for_completion(deployment, 1, ignore)
        assert result.rows == 100

    async def test_failures_carry_their_reason(
        self, orchestrator: LocalProcessOrchestrator, tmp_path: Path
    ) -> None:
        model = row_maxima(tmp_path / "model" / "model.onnx")
        deployment = uuid.uuid4()
        for source, output in ((None, tmp_path / "o.csv"), (tmp_path / "i.csv", None)):
            with pytest.raises(ConfigurationError):
                await orchestrator.provision(request(deployment, model, source, output), ignore)
        order = request(deployment, model, tmp_path / "missing.csv", tmp_path / "o.csv")
        await orchestrator.provision(order, ignore)
        with pytest.raises(DeploymentError, match="does not exist") as failed:
            await orchestrator.wait_for_completion(deployment, 1, ignore)
        assert failed.value.reason is FailureReason.BATCH_INPUT_INVALID

    async def test_a_killed_job_has_failed_and_a_pruned_one_leaves_nothing(
        self, orchestrator: LocalProcessOrchestrator, tmp_path: Path
    ) -> None:
        # given a job that takes its time
        deployment = uuid.uuid4()
        model = row_maxima(tmp_path / "model" / "model.onnx")
        (tmp_path / "in.csv").write_text("a,b,c\n" + "1,2,3\n" * 4_000_000)
        order = request(deployment, model, tmp_path / "in.csv", tmp_path / "out.csv")
        # when it is killed
        await orchestrator.provision(order, ignore)
        assert (await orchestrator.observe(deployment)).running
        revision = tmp_path / "root" / str(deployment) / "revisions" / "1"
        await _wait_for(lambda: list(tmp_path.glob(".out.csv.*.partial/manifest.json")))
        os.kill(json.loads((revision / "status.json").read_text())["pid"], signal.SIGKILL)
        # then awaiting it says so
        with pytest.raises(DeploymentError, match="ended without a result") as failed:
            await orchestrator.wait_for_completion(deployment, 1, ignore)
        assert failed.value.reason is FailureReason.BATCH_FAILED
        # and what it wrote outlives the failure
        await orchestrator.prune(deployment, None)
        assert list(tmp_path.glob(".out.csv.*.partial/manifest.json"))
        # and when it is started again, and pruned while it writes
        await orchestrator.provision(order, ignore)
        await _wait_for(lambda: b"Continuing after" in (revision / "job.log").read_bytes())
        await orchestrator.prune(deployment, None)
        # then nothing is left of it
        assert not list(tmp_path.glob(".out.csv*"))
        assert not (tmp_path / "out.csv").exists()
        assert entries(tmp_path / "root") == []

    async def test_what_a_killed_job_wrote_is_removed_with_its_deployment(
        self, orchestrator: LocalProcessOrchestrator, tmp_path: Path
    ) -> None:
        folder = DeploymentFolder(tmp_path / "root", uuid.uuid4())
        revision, work = folder.revision(1), tmp_path / ".out.csv.0.partial"
        for each in (revision.path, work):
            each.mkdir(parents=True)
        revision.job_lock.touch()
        revision.job_status.write_text(json.dumps({"state": "running", "pid": 0, "partial": str(work)}))
        folder.operate_lock.touch()
        await orchestrator.prune(folder.deployment_id, None)
        assert work.exists()
        await orchestrator.prune(folder.deployment_id, None)
        assert not work.exists()
        assert entries(tmp_path / "root") == []


async def _wait_for(look: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if seen := look():
            return seen
        await asyncio.sleep(0.01)
    return pytest.fail(f"waited {seconds} seconds in vain")


WITHOUT_PANDAS = """
import runpy, sys

class NoPandas:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPandas())
runpy.run_module("deployledger.serving.batch", run_name="__main__")
"""


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".arrow"])
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("in.csv", "a,b,c\n1,2.5,3\n4,1e39,6\n7,,8\n"),
        ("in.jsonl", '{"x": [1, 2, 3]}\n{"x": [4, 5, "x"]}\n{"x": [7, 8, 9]}\n'),
    ],
)
def test_onnx_models_need_no_pandas(name: str, rows: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(rows)
    arguments = ["--model", str(row_maxima(tmp_path / "m.onnx")), "--input", str(tmp_path / name)]
    arguments += ["--output", str(tmp_path / f"out{suffix}"), "--status", str(tmp_path / "status.json")]
    arguments += ["--options", '{"on_error": "skip"}']
    command = [sys.executable, "-c", WITHOUT_PANDAS, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (ended.returncode, status["state"], status["rows"]) == (0, "completed", 2), ended.stdout
