"""The command line, run as its users run it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import command_line

REPOSITORY = Path(__file__).parents[2]
MODELS = REPOSITORY / "examples" / "models"


@dataclass
class CommandLine:
    """Runs ``deployledger`` with a home of its own."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("DEPLOYLEDGER_")}
        return {**kept, "DEPLOYLEDGER_HOME": str(self.home), **self.environment}

    def start(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        """Start the command without waiting for it."""
        return subprocess.Popen(
            [Path(sys.executable).with_name("deployledger"), *arguments],
            env=self._environment,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Whoever started the tests in the background may have them ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run the command to its end; a traceback is never an answer."""
        done = command_line.run(*arguments, environment=self._environment, folder=REPOSITORY)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str | Path, exit_code: int = 0) -> Any:
        """Run the command with JSON output and return what it printed."""
        done = self.run(*arguments, "--output", "json")
        assert done.returncode == exit_code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def gateways(self) -> list[int]:
        """Return the processes that serve out of this home."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and self._serves(entry)
        ]

    def delete_all(self) -> None:
        """Delete what was deployed, so that no process keeps serving it."""
        self.environment.clear()
        if (self.home / "deployledger.db").exists():
            for deployment in json.loads(self.run("list", "-o", "json").stdout or "[]"):
                self.run("delete", deployment["deployment_id"])
        assert self.gateways() == [], "a serving process was left behind"

    def _serves(self, process: Path) -> bool:
        try:
            command = process.joinpath("cmdline").read_bytes().decode()
        except OSError:
            return False
        return ("deployledger.gateway" in command or "deployledger.serving" in command) and str(
            self.home
        ) in command


@pytest.fixture
def cli(tmp_path: Path) -> Any:
    """A command line with a home of its own, whose deployments are deleted at the end."""
    cli = CommandLine(tmp_path / "home")
    yield cli
    cli.delete_all()
