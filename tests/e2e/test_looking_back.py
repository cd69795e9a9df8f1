"""Looking back from the command line: history, status at a moment of the past, and differences."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.timestamps import rfc3339
from tests.domain.given import request
from tests.e2e.conftest import CommandLine

WAIT = 60
SECRET = "s3cr3t-Value-7"
ESCAPE = "\x1b[31mred\nline"


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A command line with one deployment that was updated, and one after it. Tests only read it."""
    command_line = CommandLine(tmp_path_factory.mktemp("past") / "home")

    async def fill() -> None:
        database = f"sqlite:///{command_line.home / 'deployledger.db'}"
        async with MLModelDeploymentService(
            home=command_line.home, database_url=database, actor="ann"
        ) as service:
            first = await service.deploy_model(
                request(model_uri=f"https://ann:{SECRET}@models.example/iris.onnx", tags={"note": ESCAPE})
            )
            await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
            new = request(model_uri="models:/iris/2", tags={"team": "fauna"})
            await service.update_deployment(first.deployment_id, new, actor="ben")
            await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
            rose = await service.deploy_model(request(deployment_name="rose"))
            await service.wait_for_deployment(rose.deployment_id, timeout=WAIT)

    asyncio.run(fill())
    return command_line


@pytest.fixture(scope="module")
def history(cli: CommandLine) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = cli.json("history", "iris")
    return entries


def test_the_history_as_json_has_everything(history: list[dict[str, Any]]) -> None:
    job = ["ArtifactsFetched", "Packaged", "Provisioned"]
    assert [it["event"] for it in history] == ["Requested", *job, "UpdateRequested", *job]
    assert [it["actor"] for it in history[::4]] == ["ann", "ben"]
    assert [it["step"] for it in history] == [None, "fetch", "package", "provision"] * 2
    assert [it["cause"] for it in history] == [None, 1, 2, 3, None, 5, 6, 7]
    assert [it["duration"] is None for it in history] == [True, False, False, False] * 2
    assert len({it["correlation_id"] for it in history}) == 2
    assert {"field": "tags.team", "before": None, "after": "fauna"} in history[4]["changes"]
    assert history[1]["data"]["artifact"]["digest"] in json.dumps(history[1]["changes"])
    assert SECRET not in json.dumps(history)


def test_the_history_is_a_line_an_event_in_words(cli: CommandLine, history: list[dict[str, Any]]) -> None:
    done = cli.run("history", "iris")
    heading, *lines = done.stdout.splitlines()
    assert heading.split() == ["AGE", "TIME", "(UTC)", "EVENT"]
    time = f"{datetime.fromisoformat(history[0]['recorded_at']):%Y-%m-%dT%H:%M:%SZ}"
    assert lines[0].split()[1:5] == [time, "Requested", "by", "ann:"]
    assert lines[0].endswith(", 2 replicas, 500m CPU, 1 tag")
    assert [line.split()[2:4] for line in lines[1:4]] == [
        ["✓", "Fetched"],
        ["✓", "Packaged"],
        ["✓", "Active"],
    ]
    assert lines[4] == "", "what one command set off is together"
    update = "Update to revision 2 requested by ben: models:/iris/2, 2 replicas, 500m CPU, 1 tag"
    assert lines[5].endswith(f"     {update}")
    assert len(lines) == 9
    digest = history[1]["data"]["artifact"]["digest"]
    assert digest[:15] in done.stdout
    assert digest not in done.stdout
    assert SECRET not in done.stdout


def test_the_history_shows_what_changed_on_request(cli: CommandLine) -> None:
    done = cli.run("history", "iris", "--changes")
    changes = [line.strip() for line in done.stdout.splitlines() if line.startswith(" " * 20)]
    assert "state active → requested" in changes
    assert "+ tags.team fauna" in changes
    assert r"− tags.note \u001b[31mred\nline" in changes
    assert "\x1b" not in done.stdout  # neither colours nor what a tag would do to a terminal
    assert SECRET not in done.stdout


def test_the_wide_history_has_positions_and_revisions(
    cli: CommandLine, history: list[dict[str, Any]]
) -> None:
    heading, *lines = cli.run("history", "iris", "-o", "wide").stdout.splitlines()
    assert heading.split()[:2] == ["POSITION", "REV"]
    assert lines[8].split()[:2] == [str(history[-1]["position"]), "2"]


@pytest.mark.parametrize("when", ["r1", "revision:1", "position", "time"])
def test_the_status_at_a_moment(cli: CommandLine, history: list[dict[str, Any]], when: str) -> None:
    fourth = history[3]
    moment = {"position": str(fourth["position"]), "time": fourth["recorded_at"]}.get(when, when)
    found = cli.json("status", "iris", "--as-of", moment)
    assert (found["status"], found["revision"], found["version"]) == ("active", 1, 4)
    assert (found["position"], found["observation"]) == (fourth["position"], None)


def test_the_card_says_of_which_moment_it_is(cli: CommandLine, history: list[dict[str, Any]]) -> None:
    card = cli.run("status", "iris", "--as-of", "r1", "-o", "wide")
    assert f"r1 (position {history[3]['position']})" in card.stdout
    assert "Running" not in card.stdout
    assert card.stderr == ""
    assert all(line == line.rstrip() for line in card.stdout.splitlines())
    updating = cli.run("status", "iris", "--as-of", str(history[4]["position"]), "-o", "wide").stdout
    asked = [line.split() for line in updating.splitlines() if "equested by" in line]
    assert asked == [["Requested", "by", "ben"], ["Serving", "requested", "by", "ann"]]


def test_times_that_are_shown_can_be_copied(cli: CommandLine, history: list[dict[str, Any]]) -> None:
    last = rfc3339(datetime.fromisoformat(history[3]["recorded_at"]))
    wide = ("status", "iris", "--as-of", "r1", "-o", "wide")
    for command in (wide, ("log", "tail", "--deployment", "iris")):
        assert last in cli.run(*command).stdout
    again = cli.json("list", "--as-of", last.replace("T", " ").replace("Z", " UTC"))
    assert again[0]["state"] == "active"


def test_a_job_of_the_past_is_not_taken_up(cli: CommandLine, history: list[dict[str, Any]]) -> None:
    done = cli.run("status", "iris", "--as-of", str(history[1]["position"]))
    assert "Making revision 1: step 2 of 3" in done.stdout
    assert done.stderr == ""


def test_two_revisions_are_compared(cli: CommandLine, history: list[dict[str, Any]]) -> None:
    found = cli.json("diff", "iris")
    assert found["before"]["asked_for"] == "revision 1"
    assert (found["after"]["asked_for"], found["after"]["position"]) == ("now", history[-1]["position"])
    assert {"field": "revision", "before": 1, "after": 2} in found["changes"]
    table = cli.run("diff", "iris", "--from", "r1", "--to", "r2").stdout
    title, first, *lines = table.splitlines()
    assert title == "iris: revision 1 → revision 2"
    assert first.startswith(f"  revision 1  position {history[3]['position']}, last event ")
    assert {"  revision 1 → 2", "+ tags.team fauna"} <= set(lines)


def test_no_difference_is_said(cli: CommandLine) -> None:
    same = cli.run("diff", "iris", "--from", "r2")
    assert (same.returncode, same.stdout.splitlines()[-1]) == (0, "No difference.")
    assert cli.json("diff", "iris", "--from", "r2")["changes"] == []


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["status", "iris", "--as-of", "2026-03-03T12:00"], 2, "give it as 2026-03-03T12:00Z."),
        (["status", "iris", "--as-of", "last week"], 2, "'last week'"),
        (["status", "iris", "--as-of", "0"], 2, "Cannot parse '0' as a point in time"),
        (["status", "iris", "--as-of", "99999999999999999999"], 2, "a position of the event log, as in 1234"),
        (["status", "iris", "--as-of", "1000"], 2, "it ends at position"),
        (["status", "iris", "--as-of", "2999-01-01T00:00Z"], 2, "is in the future"),
        (["status", "iris", "--as-of", "r3"], 3, "has no revision 3: it has 1 to 2"),
        (
            ["status", "iris", "--as-of", "2001-01-01T00:00Z"],
            3,
            "did not exist at 2001-01-01T00:00Z: it began at",
        ),
        (["status", "rose", "--as-of", "1"], 3, "did not exist at position 1: it began at"),
        (["status", "iris", "--as-of", "99999999999w"], 2, "is not a time"),
        (["status", "iris", "--as-of", "1w"], 3, "did not exist at"),
        (["diff", "iris", "--from", "1w"], 3, "did not exist at"),
        (["list", "--as-of", "soon"], 2, "12:00Z, or a position of the event log, as in 1234."),
        (["list", "--as-of", "r2"], 2, "There is no revision 2 of all deployments"),
        (["status", "nobody", "--as-of", "1"], 3, "'nobody' was not found"),
        (["status", "iris", "--as-of", "1", "--watch"], 2, "the past does not change"),
        (["diff", "rose"], 2, "no revision before revision 1"),
        (["diff", "iris", "--from", "r9"], 3, "no revision 9"),
        (["diff", "iris", "--to", "2026-03-03"], 2, "has no time zone"),
        (["diff", "nobody"], 3, "'nobody' was not found"),
        (["history", "00000000-0000-4000-8000-000000000000"], 3, "was not found"),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, list) else None,
)
def test_what_cannot_be_looked_at(cli: CommandLine, arguments: list[str], exit_code: int, said: str) -> None:
    done = cli.run(*arguments)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_who_commands_is_recorded(tmp_path: Path) -> None:
    named = CommandLine(tmp_path / "named", {"DEPLOYLEDGER_ACTOR": "cy@example.org"})
    marked = CommandLine(tmp_path / "marked")
    for cli in (named, marked):
        cli.run("deploy", "/does/not/exist", "--name", "iris")
    assert named.json("history", "iris")[0]["actor"] == "cy@example.org"
    assert "cy@example.org" in named.run("history", "iris").stdout
    assert marked.json("history", "iris")[0]["actor"].startswith("os:")


def test_a_deployment_of_another_orchestrator_is_shown(cli: CommandLine) -> None:
    done = cli.run("status", "rose")
    assert done.returncode == 0, done.stderr
    assert "Running" not in done.stdout
    assert "belongs to the orchestrator 'simulated'" in done.stderr
    assert "Whether it is running was not checked." in done.stderr
    found = cli.json("status", "rose")
    assert (found["status"], found["observation"]) == ("active", None)


def test_a_name_that_had_several_deployments(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path / "home")
    cli.run("deploy", "/does/not/exist", "--name", "tulip")
    first = cli.json("status", "tulip")["deployment_id"]
    cli.run("update", "tulip", "--name", "tulipa")
    old = cli.run("history", "tulip")
    assert (old.returncode, old.stderr) == (0, "")
    refused = cli.run("delete", "tulip")
    assert refused.returncode == 3
    assert "The deployment that had this name is now called 'tulipa'." in refused.stderr
    cli.run("deploy", "/does/not/exist", "--name", "tulip")
    second = cli.json("status", "tulip")["deployment_id"]
    new = cli.run("history", "tulip")
    said = f"This is {second}. The name also belonged to an earlier deployment: {first}.\n"
    assert new.stderr == said
    assert cli.run("history", second).stderr == ""
    key = tmp_path / "audit.key"
    cli.run("audit", "keygen", "--name", "example.com/deployments", key)
    evidence = cli.run("audit", "export", tmp_path / "tulip.zip", "--deployment", "tulip", "--key", key)
    assert evidence.returncode == 0, evidence.stderr
    assert evidence.stderr.startswith(said)
