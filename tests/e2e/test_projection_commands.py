"""The read models from the command line: how they stand, following, rebuilding, verifying, parked events."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from tests.domain.given import request as wanted
from tests.e2e.conftest import CommandLine
from tests.projections.examples import stamp

BUILT_IN = ["deployment_list", "deployment_status", "deployment_timeline"]
IN_ORDER = ["deployment_status", "deployment_list", "deployment_timeline"]
EVENTS, ROWS = 7, 3

# A user's projections: one that does as the files in a folder tell it, and one that makes its keys itself.
USERS = """
import os
import time
from pathlib import Path

from pydantic import BaseModel

from deployledger.projections.projection import Projection

MARKS = Path(os.environ["MARKS"])


class Row(BaseModel):
    events: int


def count(row, event):
    if (MARKS / "raise").exists():
        raise RuntimeError("it is broken")
    if (MARKS / "slow").exists():
        (MARKS / "begun").touch()
        time.sleep(30)
    return Row(events=1 + (row.events if row else 0))


COUNTED = Projection(name="counted", version=int(os.environ["VERSION"]), row_type=Row, apply=count)
BY_MODEL = Projection(
    name="by_model",
    version=1,
    row_type=Row,
    apply=lambda row, event: Row(events=1 + (row.events if row else 0)),
    topics=("deployment.requested",),
    key=lambda event: event.model_uri,
)
"""


async def fill(cli: CommandLine, **options: Any) -> None:
    async with MLModelDeploymentService(
        home=cli.home, actor="ann", run_jobs=False, resume=False, **options
    ) as service:
        for name in ("iris", "rose", "tulip"):
            deployment = await service.deploy_model(wanted(deployment_name=name))
        await service.cancel_deployment(deployment.deployment_id)


@pytest.fixture
async def log(tmp_path: Path) -> CommandLine:
    """A command line whose log has a few events, of deployments that nothing runs."""
    command_line = CommandLine(tmp_path / "home")
    await fill(command_line)
    return command_line


@pytest.fixture
def users(log: CommandLine, tmp_path: Path) -> CommandLine:
    """The same, with two projections of a user."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "users_projections.py").write_text(USERS)
    (tmp_path / "marks").mkdir()
    log.environment |= {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "package"), os.environ.get("PYTHONPATH", "")]),
        "MARKS": str(tmp_path / "marks"),
        "VERSION": "1",
        "DEPLOYLEDGER_PROJECTIONS": "users_projections:COUNTED, users_projections:BY_MODEL",
    }
    return log


def statuses(cli: CommandLine) -> dict[tuple[str, int], dict[str, Any]]:
    return {(it["name"], it["version"]): it for it in cli.json("projections", "status")}


def said(done: "subprocess.CompletedProcess[str]") -> str:
    return " ".join((done.stdout + done.stderr).split())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def damage(cli: CommandLine, name: str = "iris") -> str:
    """Add an event to a deployment that does not decode; return the deployment's id."""
    stream: str = cli.json("status", name)["deployment_id"]
    with sqlite3.connect(cli.home / "deployledger.db") as connection:
        connection.execute(
            "INSERT INTO events (originator_id, originator_version, topic, state, event_id, recorded_at) "
            "SELECT ?1, max(originator_version) + 1, 'deployment.packaged', ?2, ?3, "
            "(SELECT max(recorded_at) FROM events) FROM events WHERE originator_id = ?1",
            (UUID(stream).hex, b"{}", uuid4().hex),
        )
    connection.close()
    return stream


def edit(cli: CommandLine, *statements: str) -> None:
    """Change the rows of the list by hand."""
    with sqlite3.connect(cli.home / "deployledger.db.read-models") as connection:
        (generation,) = connection.execute(
            "SELECT generation FROM read_models WHERE name = 'deployment_list'"
        ).fetchone()
        for statement in statements:
            connection.execute(statement.format(table=f"deployment_list_v1_{generation}"))
        stamp(connection)
    connection.close()


# Status -------------------------------------------------------------------------------------------------


def test_status_says_how_read_models_stand(log: CommandLine) -> None:
    before = log.json("projections", "status")
    assert [it["name"] for it in before] == BUILT_IN
    assert [(it["position"], it["lag_events"], it["rows"]) for it in before] == [(0, EVENTS, 0)] * 3
    assert before[0]["lag_seconds"] > 0
    assert log.json("list")
    assert log.json("list", "--as-of", str(EVENTS))
    for it in log.json("projections", "status"):
        assert (it["position"], it["lag_events"], it["lag_seconds"], it["rows"]) == (EVENTS, 0, 0, ROWS)
        version = 4 if it["name"] == "deployment_status" else 1
        assert (it["version"], it["is_current"], it["parked"], it["follower"]) == (version, True, 0, None)
        assert (it["rebuilt_at"], it["rebuild_events_per_second"]) == (None, None)
        assert it["is_being_rebuilt"] is False
    table = log.run("projections", "status")
    assert table.stdout.split("\n")[1].split() == [
        *("NAME", "VERSION", "POSITION", "LAG", "ROWS", "PARKED", "REBUILT")
    ]
    assert "deployment_list 1 7 0 3 0 -" in said(table)
    assert table.stderr == ""


def test_rows_of_another_version_are_marked_and_can_be_removed(users: CommandLine) -> None:
    assert users.run("projections", "rebuild", "counted").returncode == 0
    users.environment["VERSION"] = "2"
    assert users.run("projections", "rebuild", "counted").returncode == 0
    found = statuses(users)
    assert [found["counted", version]["is_current"] for version in (1, 2)] == [False, True]
    status = users.run("projections", "status")
    assert "counted version 1 is not used by this software." in said(status)
    assert "`deployledger projections remove counted 1`" in status.stderr

    refused = users.run("projections", "remove", "counted", "2")
    assert refused.returncode == 4
    assert "is the one that this software reads" in refused.stderr
    removed = users.run("projections", "remove", "counted", "1")
    assert (removed.returncode, removed.stdout) == (0, "counted version 1 is removed.\n")
    assert ("counted", 1) not in statuses(users)
    assert users.run("projections", "remove", "counted", "1").returncode == 3


# Following ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_run_follows_until_it_is_told_to_stop(log: CommandLine, sent: signal.Signals, exit_code: int) -> None:
    following = log.start("projections", "run", "deployment_status")
    try:
        assert following.stderr is not None
        line = following.stderr.readline()
        assert line == "Following deployment_status, deployment_list. Ctrl-C ends it.\n"
        until(lambda: all(it["follower"] for it in log.json("projections", "status")[:2]))
        found = log.json("projections", "status")[:2]
        assert [it["position"] for it in found] == [EVENTS] * 2
        assert found[0]["follower"].endswith(f":{following.pid}")
        following.send_signal(sent)
        stdout, stderr = following.communicate(timeout=60)
    finally:
        following.kill()
    assert (following.returncode, stdout, stderr) == (exit_code, "", "")
    assert [it["follower"] for it in log.json("projections", "status")] == [None] * 3


# Rebuilding ---------------------------------------------------------------------------------------------


def test_rebuild_says_what_it_did(log: CommandLine) -> None:
    (done,) = log.json("projections", "rebuild", "deployment_list")
    assert (done["name"], done["events"], done["position"]) == ("deployment_list", EVENTS, EVENTS)
    both = log.run("projections", "rebuild", "--all", "--workers", "2")
    assert both.returncode == 0
    assert sorted(line.split(":")[0] for line in both.stdout.splitlines()) == BUILT_IN
    assert "deployment_status: rebuilt from 7 events in" in both.stdout
    assert "it is at position 7." in both.stdout
    assert all(line.startswith("Rebuilding: ") for line in both.stderr.splitlines())  # if it takes long
    for it in log.json("projections", "status"):
        assert (it["rows"], it["rebuild_events"]) == (ROWS, EVENTS)
        assert it["rebuild_events_per_second"] > 0
    assert "s ago" in log.run("projections", "status").stdout


def test_the_rows_of_one_deployment_are_made_anew(users: CommandLine) -> None:
    iris = users.json("status", "iris")["deployment_id"]
    edit(users, "UPDATE {table} SET c_name = 'hand' WHERE c_name = 'iris'")
    assert [it["name"] for it in users.json("projections", "rebuild", "--deployment", "iris")] == [
        *("deployment_status", "deployment_list", "deployment_timeline", "counted")
    ]
    assert len(users.json("list", "--name", "iris")) == 1
    one = users.run("projections", "rebuild", "deployment_list", "--deployment", iris[:8])
    assert one.stdout == f"deployment_list: the row of {iris} was rebuilt.\n"
    assert users.run("projections", "rebuild", "--all", "--deployment", str(uuid4())).returncode == 3
    assert users.run("projections", "rebuild", "nope", "--deployment", iris).returncode == 2
    refused = users.run("projections", "rebuild", "by_model", "--deployment", iris)
    assert refused.returncode == 2
    assert "Rebuild all of it" in refused.stderr


def test_ctrl_c_of_a_rebuild_and_a_second_one(users: CommandLine) -> None:
    marks = Path(users.environment["MARKS"])
    assert users.run("projections", "rebuild", "counted").returncode == 0
    (marks / "slow").touch()
    rebuilding = users.start("projections", "rebuild", "counted")
    try:
        until((marks / "begun").exists)
        assert statuses(users)["counted", 1]["is_being_rebuilt"] is True
        assert "is being rebuilt or verified" in users.run("projections", "status").stderr
        for command in ("rebuild", "verify"):
            second = users.run("projections", command, "counted")
            assert second.returncode == 4
            assert "counted is being rebuilt or verified" in second.stderr
        rebuilding.send_signal(signal.SIGINT)
        stdout, stderr = rebuilding.communicate(timeout=60)
    finally:
        rebuilding.kill()
    assert (rebuilding.returncode, stdout) == (130, "")
    assert stderr == "Interrupted. The read models in use are unchanged; the next rebuild starts afresh.\n"
    assert statuses(users)["counted", 1]["rows"] == ROWS

    (marks / "slow").unlink()
    assert users.run("projections", "rebuild", "counted").returncode == 0
    assert users.run("projections", "verify", "counted").returncode == 0


async def test_on_postgresql(empty_postgres_url: str, tmp_path: Path) -> None:
    cli = CommandLine(tmp_path / "home", {"DEPLOYLEDGER_DATABASE_URL": empty_postgres_url})
    await fill(cli, database_url=empty_postgres_url, create_schema=True)
    assert [it["events"] for it in cli.json("projections", "rebuild", "--all", "--workers", "2")] == [7, 7, 7]
    assert [it["rows"] for it in cli.json("projections", "verify", "--workers", "2")] == [ROWS] * 3
    assert [it["rows"] for it in cli.json("projections", "status")] == [ROWS] * 3
    assert cli.json("projections", "parked", "list") == []


# Verifying ----------------------------------------------------------------------------------------------


def test_what_equals_the_log(users: CommandLine) -> None:
    done = users.run("projections", "verify", "deployment_list")
    assert done.returncode == 0
    assert "deployment_list: 3 rows equal the log at position 7" in done.stdout
    found = {it["name"]: it for it in users.json("projections", "verify")}
    assert {name: it["rows"] for name, it in found.items()} == {
        **dict.fromkeys([*BUILT_IN, "counted"], ROWS),
        "by_model": 1,
    }
    assert all(it["differences"] == [] and it["after_repair"] is None for it in found.values())
    (sampled,) = users.json("projections", "verify", "counted", "--sample", "3")
    assert sampled["rows"] == ROWS
    refused = users.run("projections", "verify", "by_model", "--sample", "3")
    assert refused.returncode == 2
    assert "not by a sample" in refused.stderr


def test_differences_are_listed_and_repaired(log: CommandLine) -> None:
    iris, rose, tulip = (log.json("status", name)["deployment_id"] for name in ("iris", "rose", "tulip"))
    added = str(uuid4())
    edit(
        log,
        "UPDATE {table} SET c_model_uri = 'hand' WHERE c_name = 'iris'",
        "DELETE FROM {table} WHERE c_name = 'rose'",
        "CREATE TEMP TABLE added AS SELECT * FROM {table} WHERE c_name = 'tulip'",
        f"UPDATE added SET key = '{added}'",
        "INSERT INTO {table} SELECT * FROM added",
    )

    done = log.run("projections", "verify")
    assert done.returncode == 1
    assert "deployment_status: 3 rows equal the log" in done.stdout
    assert "deployment_list: 3 differences in 3 rows at position 7" in done.stdout
    assert f"{iris} model_uri models:/iris/1 hand" in said(done)
    assert tulip not in done.stdout

    assert log.run("projections", "verify", "deployment_list", "-o", "json").returncode == 1
    (found,) = log.json("projections", "verify", "deployment_list", "--repair")
    differences = {it["key"]: it for it in found["differences"]}
    assert differences[iris] == {
        "key": iris,
        "field": "model_uri",
        "expected": "models:/iris/1",
        "found": "hand",
    }
    assert (differences[rose]["field"], differences[rose]["found"]) == ("", None)
    assert differences[rose]["expected"]["name"] == "rose"
    assert (differences[added]["field"], differences[added]["expected"]) == ("", None)
    assert found["after_repair"]["differences"] == []
    assert log.run("projections", "verify").returncode == 0


def test_a_repair_is_told(log: CommandLine) -> None:
    assert log.run("list").returncode == 0
    edit(log, "UPDATE {table} SET c_model_uri = 'x' || hex(zeroblob(500))")
    done = log.run("projections", "verify", "--repair")
    assert done.returncode == 0
    assert "deployment_list: 3 differences in 3 rows" in done.stdout
    assert "00…" in done.stdout
    assert "deployment_list after the repair: deployment_list: 3 rows equal the log" in said(done)


# Parked events ------------------------------------------------------------------------------------------


def test_nothing_is_parked(log: CommandLine) -> None:
    assert log.json("projections", "parked", "list") == []
    listed = log.run("projections", "parked", "list", "deployment_status")
    assert (listed.returncode, listed.stdout, listed.stderr) == (0, "", "Nothing is parked.\n")
    assert log.run("projections", "parked", "retry", "deployment_status").returncode == 0
    assert log.run("projections", "parked", "show", "1").returncode == 3
    nothing = log.run("projections", "parked", "retry", "deployment_status", "--deployment", "iris")
    assert nothing.returncode == 3


def test_an_event_that_does_not_decode_is_parked(log: CommandLine) -> None:
    iris = damage(log)
    listed = log.json("projections", "parked", "list")
    assert [(it["projection"], it["position"], it["key"], it["topic"]) for it in listed] == [
        (name, EVENTS + 1, iris, "deployment.packaged") for name in IN_ORDER
    ]
    assert all(it["error"] for it in listed)
    assert len(log.json("projections", "parked", "list", "--deployment", "iris")) == 3
    assert log.json("projections", "parked", "list", "--deployment", "rose") == []
    table = log.run("projections", "parked", "list", "deployment_list")
    assert f"deployment_list {iris[:8]} 1 8 " in said(table)
    table = log.run("projections", "parked", "list", "deployment_list", "-o", "wide")
    assert f"8 deployment_list {iris[:8]} packaged," in said(table)

    shown = log.json("projections", "parked", "show", "8")
    assert (shown["topic"], shown["stream_id"], shown["stream_version"]) == ("deployment.packaged", iris, 2)
    assert shown["state"] == {}
    assert [it["projection"] for it in shown["parked"]] == IN_ORDER
    assert f"Stream {iris}, version 2" in said(log.run("projections", "parked", "show", "8"))

    status = log.run("projections", "status")
    assert status.returncode == 0
    assert "deployment_status: 1 event is parked." in status.stderr
    assert log.json("status", "iris")["parked_events"] == 1
    assert {it["deployment_name"]: it["parked_events"] for it in log.json("list")} == {
        "iris": 1,
        "rose": 0,
        "tulip": 0,
    }
    table = log.run("list")
    assert "creating (stale)" in table.stdout
    has, may_be, _ = table.stderr.split("\n")
    assert has == "1 deployment has events that could not be applied; `deployledger status iris` shows why."
    assert may_be.startswith("Deployments may be missing or out of place: events could not be applied, from ")
    card = said(log.run("status", "iris"))
    assert "! Not current: 1 later event could not be applied, from position 8 on." in card
    checked = log.json("db", "check", exit_code=1)
    problems = [it["message"] for it in checked["findings"] if it["outcome"] == "problem"]
    assert [it.partition(" ")[0] for it in problems] == IN_ORDER
    verified = log.run("projections", "verify")
    assert verified.returncode == 0, "what is parked is parked anew"
    assert "deployment_status: 3 rows equal the log, but 1 event is parked, at position 8" in said(verified)

    retried = log.run("projections", "parked", "retry", "deployment_list", "--deployment", "iris")
    assert (retried.returncode, retried.stdout) == (1, "deployment_list: 1 event is still parked.\n")


def test_what_is_parked_is_applied_when_its_cause_is_mended(users: CommandLine) -> None:
    broken = Path(users.environment["MARKS"]) / "raise"
    broken.touch()
    listed = users.json("projections", "parked", "list", "counted")
    assert [it["error"] for it in listed] == [*["RuntimeError: it is broken"] * 3, ""]
    assert users.json("projections", "parked", "list", "deployment_list") == []
    grouped = said(users.run("projections", "parked", "list"))
    assert grouped.count("RuntimeError: it is broken") == 3, "one for each row"
    assert "an earlier event of the row is parked" not in grouped
    every = users.run("projections", "parked", "list", "-o", "wide").stdout
    assert "an earlier event of the row is parked" in every
    assert "counted: 4 events are parked." in users.run("projections", "status").stderr
    assert len(users.json("list")) == ROWS
    retried = users.run("projections", "parked", "retry", "counted")
    assert (retried.returncode, retried.stdout) == (1, "counted: 4 events are still parked.\n")

    broken.unlink()
    one = users.run("projections", "parked", "retry", "counted", "--deployment", "iris", "-o", "json")
    assert json.loads(one.stdout) == {"projection": "counted", "parked": 0}
    assert len(users.json("projections", "parked", "list")) == 3
    mended = users.run("projections", "parked", "retry", "counted")
    assert (mended.returncode, mended.stdout) == (0, "counted: nothing is parked.\n")
    assert users.run("projections", "verify", "counted").returncode == 0
    refused = users.run("projections", "parked", "retry", "by_model", "--deployment", "iris")
    assert refused.returncode == 2
    assert "Retry all of them" in refused.stderr


# Wrong input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (
            ["run", "nope"],
            2,
            "Unknown projection 'nope'. Use one of deployment_list, deployment_status, deployment_timeline.",
        ),
        (["rebuild", "nope"], 2, "Unknown projection 'nope'."),
        (
            ["rebuild"],
            2,
            "Name some of deployment_list, deployment_status, deployment_timeline, or add --all.",
        ),
        (["rebuild", "deployment_list", "--all"], 2, "Names and --all contradict each other."),
        (["rebuild", "--all", "--workers", "0"], 2, "0 workers are out of range: 1 to 64."),
        (["rebuild", "--all", "--workers", "65"], 2, "65 workers are out of range"),
        (["rebuild", "--deployment", "nobody"], 3, "'nobody' was not found"),
        (["verify", "nope"], 2, "Unknown projection 'nope'."),
        (["verify", "--sample", "0"], 2, "A sample of 0 rows is out of range"),
        (["verify", "--sample", "few"], 2, "Invalid value for '--sample'"),
        (["verify", "--workers", "0"], 2, "0 workers are out of range"),
        (["parked", "list", "nope"], 2, "Unknown projection 'nope'."),
        (["parked", "list", "--deployment", "nobody"], 3, "'nobody' was not found"),
        (["parked", "show", "0"], 3, "'0' was not found"),
        (["parked", "retry", "nope"], 2, "Unknown projection 'nope'."),
        (["remove", "deployment_list", "1"], 4, "is the one that this software reads"),
        (["remove", "deployment_list", "9"], 3, "'deployment_list version 9' was not found"),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, list) else None,
)
def test_wrong_input_is_a_clear_error(
    tmp_path: Path, arguments: list[str], exit_code: int, says: str
) -> None:
    done = CommandLine(tmp_path / "home").run("projections", *arguments)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert says in said(done)


def test_an_error_is_json_where_the_answer_would_be(log: CommandLine) -> None:
    done = log.run("projections", "rebuild", "--output", "json")
    assert json.loads(done.stderr)["error"]["exit_code"] == done.returncode == 2
