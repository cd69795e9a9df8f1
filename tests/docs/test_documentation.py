"""Every command and every snippet in the README and the documentation is executed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import command_line
from tests.e2e.conftest import CommandLine

REPOSITORY = Path(__file__).parents[2]
PAGES = [
    REPOSITORY / "README.md",
    *(page for page in sorted((REPOSITORY / "docs").glob("*.md")) if page.name not in ("cli.md",)),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# The usage guide has a test of its own.
PAGES_WITH_BLOCKS = [
    page for page in PAGES if "usage_guide" not in page.name and BLOCK.search(page.read_text())
]


@pytest.mark.parametrize("page", PAGES_WITH_BLOCKS, ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands (``console``) and programs (``python``) of one page, in order, in one home."""
    monkeypatch.setenv("DEPLOYLEDGER_HOME", str(tmp_path / "home"))
    executed = 0
    for language, block in BLOCK.findall(page.read_text()):
        if language == "console":
            for line in block.splitlines():
                if line.startswith("$ "):
                    _run_command(line.removeprefix("$ "), tmp_path)
                    executed += 1
        elif language == "python":
            _run(_program(block, tmp_path))
            executed += 1
    assert executed or not re.search(r"```(console|python)", page.read_text())
    CommandLine(tmp_path / "home").delete_all()


def _run_command(line: str, folder: Path) -> None:
    words = shlex.split(line.replace("$FOLDER", str(folder)), comments=True)
    assert words[0] == "deployledger", line
    done = command_line.run(*words[1:], environment=os.environ, folder=REPOSITORY)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def _program(block: str, folder: Path) -> list[str]:
    """Return the command that runs a block; one that begins with ``# test_….py`` is a file of tests."""
    if name := re.match(r"# (test_\w+\.py)\n", block):
        (folder / name[1]).write_text(block)
        return [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", str(folder / name[1])]
    return [sys.executable, "-c", block]


def _run(command: list[str]) -> None:
    # The tests' own time limit is the only one: a machine may be busy.
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_HOME", str(tmp_path / "home"))
    _run([sys.executable, "examples/own_registry_client.py"])
