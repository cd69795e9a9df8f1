"""A deployment's life from the command line: real models, real servers, real processes."""

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.responses import DeploymentStatus
from tests.domain.given import BATCH_JOB, SERVICE
from tests.domain.given import request as wanted
from tests.e2e.conftest import MODELS, CommandLine

V1, V2 = MODELS / "iris-v1.onnx", MODELS / "iris-v2.onnx"


def predict(deployment: dict[str, Any]) -> int:
    tensor = {"name": "measurements", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}
    request = urllib.request.Request(
        f"{deployment['endpoint_url']}/v2/models/{deployment['deployment_name']}/infer",
        json.dumps({"inputs": [tensor]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        outputs = {output["name"]: output["data"] for output in json.load(response)["outputs"]}
    return int(outputs["label"][0])


def events(cli: CommandLine, name: str) -> list[str]:
    return [entry["event"] for entry in cli.json("history", name)]


def until_settled(cli: CommandLine, name: str) -> dict[str, Any]:
    status: dict[str, Any] = cli.json("status", name)  # has a process take up what was left, unlike `list`
    deadline = time.monotonic() + 60
    while any(row["progress"] for row in cli.json("list", "--name", name)):
        assert time.monotonic() < deadline, f"{name} is still in progress: {status}"
        time.sleep(0.1)
    return cli.json("status", name)


def test_a_whole_life(cli: CommandLine) -> None:
    first = cli.json("deploy", V1, "--name", "iris", "--tag", "team=flowers", "--cpu", "500m")
    assert first["status"] == "active"
    assert first["tags"] == {"team": "flowers"}
    assert first["resource_allocation"]["cpu_request"] == "500m"
    assert first["simulated"] is False
    assert predict(first) == 0

    second = cli.json("update", "iris", "--model-uri", V2)
    assert (second["status"], second["revision"]) == ("active", 2)
    assert second["endpoint_url"] == first["endpoint_url"]
    assert second["artifact_digest"] != first["artifact_digest"]
    assert second["tags"] == {"team": "flowers"}
    assert predict(second) == 0

    third = cli.json("rollback", "iris", "--to-revision", "1")
    assert (third["status"], third["revision"]) == ("active", 3)
    assert third["artifact_digest"] == first["artifact_digest"]
    assert third["image_digest"] == first["image_digest"]

    by_prefix = cli.json("status", first["deployment_id"][:8])
    assert by_prefix["observation"]["running"] is True
    assert [row["deployment_name"] for row in cli.json("list")] == ["iris"]
    assert len(cli.gateways()) >= 1
    assert cli.run("logs", "iris").stdout != ""

    deleted = cli.json("delete", "iris")
    assert (deleted["status"], deleted["state"]) == ("inactive", "deleted")
    assert cli.gateways() == []
    assert cli.json("list") == []
    assert [row["state"] for row in cli.json("list", "--all")] == ["deleted"]
    job = ["ArtifactsFetched", "Packaged", "Provisioned"]
    expected = ["Requested", *job, "UpdateRequested", *job, "UpdateRequested", *job]
    assert events(cli, "iris") == [*expected, "DeletionRequested", "Deleted"]


def test_tables_are_for_people(cli: CommandLine) -> None:
    done = cli.run("deploy", V1, "--name", "iris")
    assert done.returncode == 0
    assert "active" in done.stdout
    assert "✓ Fetched in " in done.stderr
    assert "✓ Active in " in done.stderr
    command = done.stdout.partition("Query it:\n")[2].partition("\n\n")[0]
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert json.loads(answer)["model_name"] == "iris", command
    assert "iris" in cli.run("list").stdout
    assert "✓  Active in " in cli.run("history", "iris").stdout
    assert "Running" in cli.run("status", "iris").stdout


@pytest.mark.parametrize("delay", [0.25, 0.45, 0.6, 0.8, 1.1])
def test_kill_9_of_the_deploying_process(cli: CommandLine, delay: float) -> None:
    deploying = cli.start("deploy", V1, "--name", "iris")
    deadline = time.monotonic() + 60
    while not list(cli.home.glob("deployledger.db")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    deploying.kill()
    deploying.communicate()

    if not cli.json("list", "--all"):
        cli.run("deploy", V1, "--name", "iris")  # it was killed before the request was acknowledged

    status = until_settled(cli, "iris")
    assert status["status"] == "active"
    assert predict(status) == 0
    assert events(cli, "iris") == ["Requested", "ArtifactsFetched", "Packaged", "Provisioned"]
    gateways = [pid for pid in cli.gateways() if "gateway" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(gateways) == 1


def test_ctrl_c_leaves_it_resumable(cli: CommandLine) -> None:
    deploying = cli.start("deploy", V1, "--name", "iris")
    deadline = time.monotonic() + 60
    while not list(cli.home.glob("images/index.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    deploying.send_signal(signal.SIGINT)
    _, stderr = deploying.communicate(timeout=60)
    assert deploying.returncode == 130
    assert "deployledger resume iris" in stderr
    assert "Traceback" not in stderr
    assert cli.json("resume", "iris")["status"] == "active"


def test_no_wait_goes_on_in_the_background(cli: CommandLine) -> None:
    accepted = cli.json("deploy", V1, "--name", "iris", "--no-wait")
    assert accepted["status"] == "creating"
    assert until_settled(cli, "iris")["status"] == "active"


def test_two_processes_that_deploy_one_name(cli: CommandLine) -> None:
    racing = [cli.start("deploy", V1, "--name", "iris", "-o", "json") for _ in range(3)]
    answers = [process.communicate(timeout=60) for process in racing]
    assert sorted(process.returncode for process in racing) == [0, 4, 4], answers
    assert len(cli.json("list", "--all")) == 1


def test_a_batch_job(cli: CommandLine, tmp_path: Path) -> None:
    source = MODELS.parent / "data" / "iris.csv"
    output = tmp_path / "predictions.csv"
    job = ["--type", "batch_inference_job", "--input", source, "--output-uri", output]
    done = cli.json("deploy", V2, "--name", "score", *job)
    assert (done["status"], done["state"]) == ("inactive", "completed")
    assert "150 rows" in done["message"]
    assert len(output.read_text().splitlines()) == 151
    assert events(cli, "score")[-1] == "Completed"


def test_the_demonstration(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    cli.environment["TMPDIR"] = str(tmp_path / "temporary")
    done = cli.run("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "It is an Iris setosa" in done.stdout
    assert "requests answered, 0 unanswered" in done.stdout
    assert list((tmp_path / "temporary").glob("deployledger-*")) == []
    assert not any(str(tmp_path / "temporary") in line for line in _processes())


def _processes() -> list[str]:
    return subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()


# Lists ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A command line with five deployments that nothing runs, two of them cancelled. Tests only read it."""
    command_line = CommandLine(tmp_path_factory.mktemp("lists") / "home")

    async def fill() -> None:
        async with MLModelDeploymentService(home=command_line.home, run_jobs=False) as service:
            for number, name in enumerate(("iris", "Iris_2", "rose", "tulip", "aster"), start=1):
                deployment = await service.deploy_model(
                    wanted(
                        deployment_name=name,
                        model_uri=f"models:/{name}/{number}",
                        deployment_target_config=BATCH_JOB if name == "rose" else SERVICE,
                        tags={"team": "flora" if number < 4 else "fauna", "number": number},
                    )
                )
                if number > 3:
                    await service.cancel_deployment(deployment.deployment_id)

    asyncio.run(fill())
    return command_line


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], "iris Iris_2 rose tulip aster"),
        (["--status", "inactive"], "tulip aster"),
        (["--name", "IRIS"], "iris Iris_2"),
        (["--tag", "team=flora"], "iris Iris_2 rose"),
        (["--tag", "team", "--tag", "number=5"], "aster"),
        (["--tag", "size"], ""),
        (["--model-uri", "models:/t"], "tulip"),
        (["--type", "batch_inference_job"], "rose"),
        (
            ["--created-after", "1h", "--updated-after", "2026-03-01T12:00:00+01:00"],
            "iris Iris_2 rose tulip aster",
        ),
        (["--created-before", "1h"], ""),
        (["--updated-before", "2026-03-01T12:00Z"], ""),
        (["--sort", "name"], "Iris_2 aster iris rose tulip"),
        (["--sort", "updated_at", "--reverse", "--limit", "2"], "aster tulip"),
        (["--reverse", "--offset", "3"], "Iris_2 iris"),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, list) else None,
)
def test_list_filters_and_sorts(several: CommandLine, arguments: list[str], names: str) -> None:
    assert [it["deployment_name"] for it in several.json("list", *arguments)] == names.split()


def test_pages_of_a_list(several: CommandLine) -> None:
    first = several.run("list", "--created-after", "1h", "--sort", "name", "--limit", "2")
    told, _, more = first.stderr.strip().partition(" Next page: ")
    assert told == "2 of 5."
    after, moment, cursor, place = more.split()
    assert (after, cursor) == ("--created-after", "--cursor")  # the age would be another time by now
    options = ["--created-after", moment, "--sort", "name", "--limit", "2", "--cursor"]
    second = several.run("list", *options, place)
    assert second.stderr.startswith("2 of 5. Next page: --cursor ")
    third = several.run("list", *options, second.stderr.split()[-1])
    assert third.stderr == ""
    names = [line.split()[0] for page in (first, second, third) for line in page.stdout.splitlines()[1:]]
    assert names == ["Iris_2", "aster", "iris", "rose", "tulip"]

    other = several.run("list", "--cursor", place)
    assert other.returncode == 2
    assert "belongs to a list with other filters or another order" in other.stderr


def test_a_list_with_nothing_in_it_says_so(several: CommandLine, tmp_path: Path) -> None:
    empty = CommandLine(tmp_path / "empty")
    said = f"The event log in {tmp_path / 'empty' / 'deployledger.db'} has no events.\n"
    listed = empty.run("list").stderr
    assert listed.startswith(said)
    assert "`deployledger deploy" in listed
    assert empty.run("log", "tail").stderr == said
    assert said in empty.run("status", "iris").stderr
    assert empty.run("replay").stderr.startswith(said)
    assert several.run("list", "--name", "zinnia").stderr == "No deployment matches.\n"
    assert several.run("list", "--offset", "9").stderr == "No more deployments: there are 5.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "1001"], "limit is 1 to 1000"),
        (["--offset", "-1"], "offset is 0 or more"),
        (["--status", "nope"], "'nope' is not one of"),
        (["--sort", "size"], "'size' is not one of"),
        (["--type", "toaster"], "'toaster' is not one of"),
        (["--name", ""], "is not a valid search text"),
        (["--tag", "=x"], "A tag is KEY or KEY=VALUE"),
        (["--tag", "team=a", "--tag", "team=b"], "was given with two values"),
        (["--created-after", "yesterday"], "'yesterday' is not a time. Give"),
        (
            ["--created-after", "2026-03-01"],
            "has no time zone. If it is in UTC, give it as 2026-03-01T00:00Z.",
        ),
        (["--updated-before", "9999999999999d"], "is not a time"),
        (["--created-after", "1h", "--created-before", "2h"], "the range is empty"),
        (["--cursor", "zzz"], "'zzz' is not a cursor"),
        (["--cursor", "zzz", "--offset", "1"], "contradict each other"),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, list) else None,
)
def test_a_list_that_cannot_be(several: CommandLine, arguments: list[str], said: str) -> None:
    done = several.run("list", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_the_statuses_are_those_of_the_service(tmp_path: Path) -> None:
    shown = " ".join(CommandLine(tmp_path / "home").run("list", "--help").stdout.split())
    assert f"[one of: {', '.join(DeploymentStatus)}]" in shown


# Bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["status", "nobody"], 3, "'nobody' was not found"),
        (["deploy", V1, "--name", " "], 2, "not a legal deployment name"),
        (["deploy", V1, "--name", "x/../y"], 2, "not a legal deployment name"),
        (
            ["deploy", V1, "--name", "x", "--replicas", "0"],
            2,
            "Invalid value for '--replicas': it must be at least 1.",
        ),
        (
            ["deploy", V1, "--name", "x", "--port", "70000"],
            2,
            "Invalid value for '--port': it must be at most 65535.",
        ),
        (
            ["deploy", V1, "--name", "x", "--memory", "lots"],
            2,
            "Invalid value for '--memory': 'lots' is not a Kubernetes quantity",
        ),
        (["deploy", V1, "--name", "x", "--tag", "novalue"], 2, "KEY=VALUE"),
        (["deploy", V1, "--name", "x", "--type", "edge_device"], 2, "'api_service', 'batch_inference_job'"),
        (["deploy", V1, "--name", "x", "--type", "batch_inference_job"], 2, "needs --input and --output-uri"),
        (["deploy", "", "--name", "x"], 2, "blank"),
        (["list", "--limit", "0"], 2, "limit"),
        (["deploy", "/does/not/exist", "--name", "x"], 1, "/does/not/exist"),
        (["deploy", "models:/", "--name", "x"], 2, "not a model URI that MLflow understands"),
        (["deploy", "s3://bucket/model", "--name", "x"], 2, "not a model URI that MLflow understands"),
    ],
)
def test_bad_input(cli: CommandLine, arguments: list[str | Path], exit_code: int, said: str) -> None:
    done = cli.run(*arguments)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert said in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    "arguments",
    [["status", "--output", "json"], ["list", "-ojson", "--nope"], ["list", "--sort", "x", "-o", "json"]],
)
def test_bad_usage_as_json(cli: CommandLine, arguments: list[str]) -> None:
    done = cli.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    error = json.loads(done.stderr)["error"]
    assert (error["exit_code"], error["reason"]) == (2, "usage")
    assert error["hint"] == f"Run `deployledger {arguments[0]} --help` for its usage."


def test_without_what_it_depends_on_it_says_so() -> None:
    program = (
        "import sys; sys.modules['typer'] = None; from deployledger.app.command_line import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the package 'typer' is missing from this installation")


def test_a_misspelt_path_makes_no_folders(tmp_path: Path) -> None:
    file = tmp_path / "no" / "folder" / "log.db"
    cli = CommandLine(tmp_path / "home", {"DEPLOYLEDGER_DATABASE_URL": f"sqlite:///{file}"})
    done = cli.run("list")
    assert done.returncode == 2
    assert f"The folder of the SQLite file {file} does not exist." in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_too_little_of_an_id(several: CommandLine) -> None:
    short = several.json("list")[0]["deployment_id"][:3]
    assert "give at least 4 characters of it" in several.run("status", short).stderr


def test_errors_as_json(cli: CommandLine) -> None:
    done = cli.run("status", "nobody", "-o", "json")
    assert done.returncode == 3
    assert done.stdout == ""
    assert json.loads(done.stderr)["error"]["exit_code"] == 3


def test_conflicts(cli: CommandLine) -> None:
    assert cli.run("deploy", V1, "--name", "iris").returncode == 0
    in_use = cli.run("deploy", V1, "--name", "iris")
    assert in_use.returncode == 4
    assert "in use" in in_use.stderr
    assert cli.run("retry", "iris").returncode == 4
    assert cli.run("cancel", "iris").returncode == 4
    assert cli.run("rollback", "iris", "--to-revision", "7").returncode == 3
    assert cli.run("delete", "iris").returncode == 0
    again = cli.run("update", "iris", "--model-uri", V2)
    assert again.returncode == 4
    assert "deleted" in again.stderr


def test_a_port_that_is_taken(cli: CommandLine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = cli.json("deploy", V1, "--name", "iris", "--port", str(port), exit_code=1)
    assert failed["status"] == "failed"
    assert failed["failure"]["reason"] == "port_in_use"
    assert str(port) in failed["message"]
    assert cli.json("retry", "iris")["endpoint_url"].endswith(f":{port}")


def test_a_failed_update_leaves_the_old_revision_serving(cli: CommandLine, tmp_path: Path) -> None:
    corrupt = tmp_path / "model.onnx"
    corrupt.write_bytes(b"this is no model")
    first = cli.json("deploy", V1, "--name", "iris")
    failed = cli.json("update", "iris", "--model-uri", corrupt, exit_code=1)
    assert failed["status"] == "failed"
    assert failed["failure"]["step"] == "provision"
    assert failed["endpoint_url"] == first["endpoint_url"]
    assert failed["deployed_model_version"] == first["deployed_model_version"]
    assert "Revision 1 keeps serving" in failed["message"]
    assert predict(failed) == 0


def test_a_model_without_a_runtime(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_bytes(b"weights")
    failed = cli.json("deploy", tmp_path / "model", "--name", "x", exit_code=1)
    assert failed["failure"]["reason"] == "unsupported_format"
    assert "ONNX" in failed["message"]
    assert "deployledger[onnx]" in failed["message"]


def test_databases_that_cannot_be_used(cli: CommandLine, tmp_path: Path) -> None:
    cli.environment["DEPLOYLEDGER_DATABASE_URL"] = "mysql://root:secret@localhost/x"
    unknown = cli.run("list")
    assert unknown.returncode == 2
    assert "secret" not in unknown.stderr

    cli.environment["DEPLOYLEDGER_DATABASE_URL"] = "postgresql://me:secret@127.0.0.1:1/x"
    cli.environment["DEPLOYLEDGER_DATABASE_PATIENCE"] = "0.1"
    unreachable = cli.run("list")
    assert unreachable.returncode == 1
    assert "127.0.0.1" in unreachable.stderr
    assert "secret" not in unreachable.stderr

    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    cli.environment["DEPLOYLEDGER_DATABASE_URL"] = f"sqlite:///{newer}"
    refused = cli.run("list")
    assert refused.returncode == 1
    assert "schema version 99" in refused.stderr


def test_help_loads_neither_the_service_nor_a_driver(cli: CommandLine) -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "deployledger.app",
            "-h",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    for module in ("pydantic", "eventsourcing", "psycopg", "sqlite3", "mlflow", "onnxruntime", "fastapi"):
        assert f" {module}\n" not in loaded
