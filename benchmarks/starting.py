"""The start of the command line: a command that answers at once, beside the imports of its libraries."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Report

_LIBRARIES = (
    "import asyncio, sqlite3, eventsourcing.domain, eventsourcing.persistence, platformdirs, pydantic, "
    "pydantic_settings, rich.console, rich.table, transitions, typer"
)


def starting(report: Report, rounds: int) -> None:
    """Listing nothing, beside importing what the list needs of other libraries, in seconds of a processor."""
    ours, bare = [], []
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "DEPLOYLEDGER_HOME": home}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [Path(sys.executable).with_name("deployledger"), "list"]
        for _ in range(rounds + 1):
            ours.append(_milliseconds(command, environment))
            bare.append(_milliseconds([sys.executable, "-c", _LIBRARIES], environment))
    report.add(  # the first round is left out: it compiles
        "`deployledger list` of an empty log (baseline: importing the libraries that it needs)",
        ours[1:],
        "ms",
        baseline=bare[1:],
        at_most=2.5,
    )


def _milliseconds(command: list[str | Path], environment: dict[str, str]) -> float:
    before = os.times()
    subprocess.run(command, env=environment, capture_output=True, check=True)
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return spent * 1000
