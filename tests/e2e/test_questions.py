"""What an operator asks first: what failed, since when and why; in the list and in the log."""

import json
import re
from typing import Any

import pytest

from deployledger.adapters.cli.projection_tables import parked_rows_table
from deployledger.adapters.event_log import open_event_log
from deployledger.domain.values import Failure
from deployledger.projections.rows import ParkedEvent
from tests.domain.given import FAILURE, NOON, failed, history, new_id, requested
from tests.e2e.in_process import InProcess, Output
from tests.e2e.test_rendering import lines

LONG = FAILURE.model_copy(update={"message": f"{'x ' * 100}the end\nof it."})


@pytest.fixture
def cli(database_url: str, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """A log with a deployment that failed, one that failed with much to say, and one that did not fail."""
    monkeypatch.setenv("COLUMNS", "200")
    log = open_event_log(database_url, create=True)
    failures: list[tuple[str, Failure | None]] = [("iris", FAILURE), ("rose", LONG), ("tulip", None)]
    for name, failure in failures:
        happenings = [requested(name=name, orchestrator="simulated")]
        if failure is not None:
            happenings.append(failed(failure=failure))
        log.append(history(*happenings, stream=new_id()))
    log.close()
    return InProcess(database_url, monkeypatch)


def test_the_list_says_when_each_failed_and_why(cli: InProcess) -> None:
    found = json.loads(cli.run("list", "--status", "failed", "-o", "json").stdout)
    assert [(it["deployment_name"], it["failure"]["message"]) for it in found] == [
        ("iris", FAILURE.message),
        ("rose", LONG.message),
    ]
    assert all(it["failed_at"] == it["updated_at"] for it in found)


def test_a_line_of_the_log_has_the_name_and_why_something_failed(cli: InProcess) -> None:
    lines = cli.run("log", "tail", "--topic", "deployment.failed").stdout.splitlines()
    assert re.search(r"deployment\.failed +iris +\w{8} v2 +ann  server_exited: It exited\.$", lines[0])
    assert lines[1].endswith("x the end of it.")
    (line,) = cli.run("log", "tail", "--name", "ros", "--from", "3", "-o", "wide").stdout.splitlines()
    assert line.endswith(f"x the end of it. {LONG.hint}".rstrip())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_log_fits_a_terminal_and_the_reader_s_clock(
    cli: InProcess, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", cli.run("log", "tail", stdout=Output(is_terminal=True)).stdout)
    heading, *events = shown.splitlines()
    assert re.match(r"POSITION  TIME \(\w+\) +TOPIC +NAME", heading)
    assert re.search(r"^ +2  \d\d:\d\d:\d\d +deployment.failed +iris\s+ann$", shown, re.MULTILINE)
    assert "          ✗ server_exited: It exited." in events
    assert "…" in shown
    assert max(map(len, shown.splitlines())) <= width
    wide = cli.run("log", "tail", "-o", "wide", stdout=Output(is_terminal=True)).stdout
    assert re.search(r"x the end of it\.", wide)
    assert re.search(r" v2 +ann ", wide)


def test_a_line_of_json_has_the_name_beside_what_it_had(cli: InProcess) -> None:
    lines = [json.loads(it) for it in cli.run("log", "tail", "-o", "json").stdout.splitlines()]
    assert [it["deployment_name"] for it in lines] == ["iris", "iris", "rose", "rose", "tulip"]
    assert lines[1]["failure"]["reason"] == "server_exited"


ASKED = [
    (["--since", "1h"], [1, 2, 3, 4, 5]),
    (["--since", "1h", "--until", "now", "--name", "IRIS"], [1, 2]),
    (["--since", "2h", "--until", "1h30m"], []),
    (["--actor", "ann", "--from", "3"], [4, 5]),
    (["--actor", "bob"], []),
    (["--name", "tulip", "--topic", "deployment.failed"], []),
]


def test_the_log_is_asked_for_a_time_an_actor_or_a_name(cli: InProcess) -> None:
    for arguments, positions in ASKED:
        done = cli.run("log", "tail", *arguments, "-o", "json")
        assert [json.loads(it)["position"] for it in done.stdout.splitlines()] == positions, arguments
        assert done.stderr == ("" if positions else "No event matches.\n"), arguments


REFUSED = [
    (["list", "--since", "1h", "--until", "2h"], "is not before --until", "Give --since the earlier time"),
    (["list", "--since", "2100-01-01T00:00Z"], "is in the future", "Use a time in the past for --since."),
    (["log", "tail", "--since", "2026-03-01"], "has no time zone", "If it is in UTC, give it as"),
    (["log", "tail", "--until", "soon"], "'soon' is not a time.", "Give a time with its zone"),
    (["log", "tail", "--since", "1h", "--from", "2"], "both say where to begin", "Give one of them."),
    (["log", "tail", "--name", ""], "is not a valid search text", ""),
]


def test_what_cannot_be_asked_is_refused_with_what_can_be(cli: InProcess) -> None:
    for arguments, message, hint in REFUSED:
        done = cli.run(*arguments, "-o", "json")
        error: dict[str, Any] = json.loads(done.stderr)["error"]
        assert (done.exit_code, error["exit_code"], done.stdout) == (2, 2, ""), arguments
        assert message in error["message"]
        assert error["hint"].startswith(hint)
        assert not hint or hint not in error["message"]


def test_parked_events_are_grouped_by_row() -> None:
    def parked(key: str, position: int, error: str = "") -> ParkedEvent:
        return ParkedEvent(key, position, "s", 1, "deployment.packaged", error, NOON)

    events = [parked("a", 3, "It broke."), parked("b", 4, "It broke, too."), parked("a", 5), parked("a", 19)]
    table = lines(parked_rows_table([("list", it) for it in events]), width=60)
    rows = [" ".join(it.split()) for it in table]
    assert any(it.startswith("list a 3 3 to 19 ") for it in rows), rows
    assert any(it.startswith("list b 1 4 ") for it in rows), rows
    assert "".join(rows).replace(" ", "").count("Itbroke.") == 1
