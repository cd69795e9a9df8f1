"""A log whose clock was ahead for a while, from the command line: what is said, and the way back."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployledger.adapters.event_log import open_event_log
from tests.contracts.clocks import Clock
from tests.e2e.conftest import CommandLine


def test_the_clock_is_corrected_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = CommandLine(tmp_path / "home")
    url = f"sqlite:///{cli.home / 'deployledger.db'}"
    clock, log = Clock(url, monkeypatch), open_event_log(url)
    clock.request(log, name="before")
    before = datetime.now(UTC)
    clock.set_ahead(timedelta(days=400, hours=1))
    clock.request(log, name="ahead")
    clock.set_ahead()
    clock.request(log, name="again")
    log.close()

    listed = cli.run("list", "--as-of", "0s")
    assert "again" in listed.stdout
    assert "has times in the future: its last event was recorded at 20" in listed.stderr
    assert re.search(r"400 days \d+ (hour|minutes) ahead of the clock of this machine", listed.stderr)
    assert "deployledger log correct-clock" in listed.stderr
    assert "deployledger log correct-clock" not in cli.run("log", "stats").stderr
    verified = cli.run("audit", "verify").stdout
    assert "Positions, times and versions" not in verified
    assert "Times are in order except for those recorded by a wrong clock" in verified
    assert "The times of events 2 to 3, up to 20" in verified

    planned = cli.run("log", "correct-clock")
    assert planned.stdout.startswith("The times of events 2 to 3, up to 20")
    assert "Nothing was recorded." in planned.stderr
    assert "correct-clock`" not in planned.stderr  # the warning would name the command that is being run
    assert cli.run("log", "correct-clock", "--yes").stdout.endswith("Recorded at position 4.\n")
    again = cli.run("log", "correct-clock", "--yes")
    assert again.stdout.startswith("The clock needs no correction: ")
    assert "Nothing was recorded" not in again.stderr
    assert " ? " not in cli.run("list").stdout, "no age is unknown: the log tells"
    then = cli.run("list", "--as-of", before.isoformat())
    assert "ahead" not in then.stdout
    assert "event 2 of the log happened between" in then.stderr
    assert "times in the future" not in then.stderr
    assert "~" in cli.run("history", "again").stdout
