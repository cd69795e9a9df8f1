"""The event log from the command line, idempotency keys, and expected versions."""

import json
import queue
import signal
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.cli.event_words import TOPICS
from tests.domain.given import request as wanted
from tests.e2e.conftest import MODELS, CommandLine
from tests.projections.examples import append_undecodable

# The iris deployment's events, its reservation, and the rose's: positions 1 to 5.
POSITIONS = {
    1: ("deployment.requested", "iris"),
    2: ("deployment_name.reserved", "iris"),
    3: ("deployment.cancelled", "iris"),
    4: ("deployment.requested", "rose"),
    5: ("deployment_name.reserved", "rose"),
}


def service_of(cli: CommandLine) -> MLModelDeploymentService:
    """A service on the command line's database, that runs nothing."""
    return MLModelDeploymentService(home=cli.home, actor="ann", run_jobs=False)


async def fill(cli: CommandLine) -> None:
    async with service_of(cli) as service:
        iris = await service.deploy_model(wanted())
        await service.cancel_deployment(iris.deployment_id)
        await service.deploy_model(wanted(deployment_name="rose"))


def tail(cli: CommandLine, *arguments: str) -> list[dict[str, Any]]:
    done = cli.run("log", "tail", *arguments, "--output", "json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
async def log(tmp_path: Path) -> CommandLine:
    """A command line whose log has a few events, of deployments that nothing runs."""
    command_line = CommandLine(tmp_path / "home")
    await fill(command_line)
    return command_line


# Tail -----------------------------------------------------------------------------------------------


async def test_json_is_one_object_a_line(log: CommandLine) -> None:
    lines = tail(log)
    assert [(it["position"], it["topic"], it["name"]) for it in lines if "name" in it] == [
        (position, *said) for position, said in POSITIONS.items() if position != 3
    ]
    first, cancelled = lines[0], lines[2]
    assert cancelled["topic"] == "deployment.cancelled"
    assert (cancelled["stream_id"], cancelled["stream_version"]) == (first["stream_id"], 2)
    assert first["actor"] == "ann"
    assert first["target"]["replicas"] == 2
    assert {"recorded_at", "timestamp", "event_id", "correlation_id", "causation_id"} <= first.keys()
    assert [it["recorded_at"] for it in lines] == sorted(it["recorded_at"] for it in lines)


async def test_what_does_not_decode_ends_it_after_what_comes_before(log: CommandLine) -> None:
    async with service_of(log) as service:
        append_undecodable(service.event_log, uuid4(), 1)
        await service.cancel_deployment(await service.find_deployment_id("rose"))
    done = log.run("log", "tail")
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1", "2", "3", "4", "5"]
    assert "The event at position 6 cannot be read: Event 1 of stream" in " ".join(done.stderr.split())
    assert [it["position"] for it in tail(log, "--from", "6")] == [7]


async def test_a_line_says_what_happened_where_and_who_did_it(log: CommandLine) -> None:
    lines = log.run("log", "tail").stdout.splitlines()
    assert len(lines) == 5
    assert lines[2].split()[0] == "3"
    assert "deployment.cancelled" in lines[2]
    assert lines[2].split()[-2:] == ["v2", "ann"]


@pytest.mark.parametrize(
    ("arguments", "positions"),
    [
        (["--from", "0"], [1, 2, 3, 4, 5]),
        (["--from", "3"], [4, 5]),
        (["--from", "5"], []),
        (["--topic", "deployment.requested"], [1, 4]),
        (["--topic", "deployment.requested", "--topic", "deployment.cancelled"], [1, 3, 4]),
        (["--deployment", "iris"], [1, 3]),
        (["--deployment", "rose", "--from", "0"], [4]),
        (["--deployment", "iris", "--topic", "deployment.cancelled"], [3]),
        (["--deployment", "iris", "--from", "3"], []),
    ],
    ids=lambda it: " ".join(map(str, it)),
)
async def test_tail_prints_what_is_asked_for(
    log: CommandLine, arguments: list[str], positions: list[int]
) -> None:
    assert [it["position"] for it in tail(log, *arguments)] == positions


async def test_tail_alone_prints_the_last_twenty(log: CommandLine) -> None:
    async with service_of(log) as service:
        for number in range(12):
            await service.deploy_model(wanted(deployment_name=f"iris-{number}"))
    assert [it["position"] for it in tail(log)] == list(range(10, 30))
    assert len(tail(log, "--topic", "deployment.requested")) == 14
    assert len(tail(log, "--from", "0")) == 29


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["--from", "6"], 2, "There is no position 6 in the event log. Positions are 0 to 5."),
        (["--from", "-1"], 2, "There is no position -1 in the event log. Positions are 0 to 5."),
        (["--from", "first"], 2, "Invalid value for '--from'"),
        (["--follow", "--from", "6"], 2, "There is no position 6"),
        (["--topic", "deployment.eaten"], 2, "Unknown topic 'deployment.eaten'."),
        (["--deployment", "tulip"], 3, "Deployment 'tulip' was not found."),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, list) else None,
)
async def test_what_is_not_there_is_a_clear_error(
    log: CommandLine, arguments: list[str], exit_code: int, says: str
) -> None:
    done = log.run("log", "tail", *arguments)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert says in " ".join(done.stderr.split())
    if "--topic" in arguments:
        assert all(topic in done.stderr for topic in TOPICS)  # other tests may define further ones


async def test_an_error_is_json_where_the_answer_would_be(log: CommandLine) -> None:
    done = log.run("log", "tail", "--from", "6", "--output", "json")
    assert json.loads(done.stderr)["error"]["exit_code"] == done.returncode == 2


# Follow ---------------------------------------------------------------------------------------------


class Following:
    """A ``log tail --follow``, read line by line, with a bound on each wait."""

    def __init__(self, cli: CommandLine, *arguments: str) -> None:
        self.process = cli.start("log", "tail", "--follow", "--output", "json", *arguments)
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def next(self) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self._lines.get(timeout=60))
        return line

    def interrupt(self) -> tuple[int, str]:
        """Press Ctrl-C; return the exit code and what was said about it."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_follow_sees_what_another_process_appends(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cli = CommandLine(tmp_path / "home")
    url = f"sqlite:///{cli.home / 'deployledger.db'}"
    if kind == "postgres":
        url = request.getfixturevalue("empty_postgres_url")
        cli.environment["DEPLOYLEDGER_DATABASE_URL"] = url
    async with MLModelDeploymentService(
        database_url=url, actor="ann", run_jobs=False, create_schema=True
    ) as service:
        deployment = await service.deploy_model(wanted())
        following = Following(cli, "--deployment", "iris")
        try:
            assert following.next()["topic"] == "deployment.requested"
            await service.deploy_model(wanted(deployment_name="rose"))  # left out
            await service.cancel_deployment(deployment.deployment_id)
            seen = following.next()
            assert (seen["topic"], seen["position"], seen["stream_version"]) == ("deployment.cancelled", 5, 2)
            await service.retry_deployment(deployment.deployment_id)
            assert following.next()["topic"] == "deployment.retry_requested"
        finally:
            exit_code, said = following.interrupt()
    assert (exit_code, said) == (130, "")


# Statistics -----------------------------------------------------------------------------------------


async def test_statistics_say_what_is_in_the_log(log: CommandLine) -> None:
    stats = log.json("log", "stats")
    assert stats["database"] == str(log.home / "deployledger.db")
    assert (stats["schema_version"], stats["events"], stats["streams"]) == (2, 5, 4)
    assert stats["topics"] == {
        "deployment.cancelled": 1,
        "deployment.requested": 2,
        "deployment_name.reserved": 2,
    }
    assert stats["first_recorded_at"] < stats["last_recorded_at"]
    assert stats["size_bytes"] > 0
    printed = log.run("log", "stats").stdout
    for said in ("Events", "Streams", "First recorded", "Size", "deployment.cancelled"):
        assert said in printed


def test_statistics_of_an_empty_log(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path / "home")
    stats = cli.json("log", "stats")
    assert (stats["events"], stats["first_recorded_at"], stats["topics"]) == (0, None, {})
    assert cli.run("log", "stats").returncode == 0
    assert cli.run("log", "tail").stdout == ""


# Keys and versions ----------------------------------------------------------------------------------


def test_keys_and_versions_from_the_command_line(cli: CommandLine) -> None:
    missing = str(cli.home / "missing.onnx")
    deploy = ("deploy", missing, "--name", "iris", "--no-wait", "--idempotency-key", "d-1")
    first = cli.json(*deploy)
    again = cli.json(*deploy)
    assert again == first
    assert cli.run("status", first["deployment_id"]).returncode == 0

    other = cli.run("deploy", str(MODELS / "iris-v1.onnx"), "--name", "iris", "--idempotency-key", "d-1")
    assert other.returncode == 4
    assert "'d-1' was used for another command" in other.stderr
    bad = cli.run("deploy", missing, "--name", "rose", "--idempotency-key", "")
    assert bad.returncode == 2
    assert "1 to 255 printable characters" in bad.stderr

    for command in (
        ("update", "iris", "--replicas", "2"),
        ("rollback", "iris", "--to-revision", "1"),
        ("retry", "iris"),
        ("cancel", "iris"),
        ("delete", "iris"),
    ):
        stale = cli.run(*command, "--expected-version", "99")
        assert stale.returncode == 4, command
        assert "not 99: the last event was caused by" in stale.stderr
        assert stale.stdout == ""
    done = cli.run("delete", "iris", "--idempotency-key", "x-1", "--output", "json")
    assert json.loads(done.stdout)["state"] == "deleted"
    repeated = cli.run("delete", "iris", "--idempotency-key", "x-1", "--output", "json")
    assert repeated.returncode == 0
    assert json.loads(repeated.stdout) == json.loads(done.stdout)
    assert cli.run("delete", "iris").returncode == 4
