"""Completion in a shell: what is offered, and that nothing else happens."""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.cli import completion
from tests.domain.given import request
from tests.e2e.in_process import InProcess
from tests.programs import program

SHELLS = ("bash", "zsh", "fish")
WAIT = 10


class Shell(InProcess):
    """Asks for completions as the scripts for shells do."""

    def complete(self, shell: str, line: str) -> list[str]:
        """Return what is offered for the last word of a line."""
        words = line.split(" ")
        for name, value in {
            **completion._SETTINGS,  # to be set back
            "_DEPLOYLEDGER_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": line.replace(" ", "\n"),
            "COMP_CWORD": str(len(words) - 1),
            "_TYPER_COMPLETE_ARGS": line,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }.items():
            self.patch.setenv(name, value)
        done = self.run()
        return [offered for line in done.stdout.splitlines() if (offered := self._offered(shell, line))]

    @staticmethod
    def _offered(shell: str, line: str) -> str:
        if shell == "zsh":
            line = line.removeprefix("_arguments '*: :((").removesuffix("))'").removeprefix("_files")
            return line.partition(":")[0].strip('"')
        return line.partition("\t")[0]


@pytest.fixture(autouse=True)
def stays_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion.os, "_exit", lambda code: sys.exit(code))
    monkeypatch.setattr(completion.signal, "setitimer", lambda *_: None)


@pytest.fixture
def shell(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("DEPLOYLEDGER_DATABASE_URL", database_url)
    monkeypatch.setenv("DEPLOYLEDGER_HOME", str(tmp_path))
    return Shell(database_url, monkeypatch)


async def deployed(database_url: str) -> None:
    async with MLModelDeploymentService(database_url=database_url, create_schema=True) as service:
        for name in ("iris", "iris.v2", "rose"):
            accepted = await service.deploy_model(request(deployment_name=name))
            await service.wait_for_deployment(accepted.deployment_id, timeout=WAIT)
        await service.update_deployment(accepted.deployment_id, request(deployment_name="rose"))
        await service.wait_for_deployment(accepted.deployment_id, timeout=WAIT)


def test_names_and_revisions_come_from_the_database(shell: Shell) -> None:
    asyncio.run(deployed(shell.database_url))
    for name in SHELLS:
        assert shell.complete(name, "deployledger status ") == ["iris", "iris.v2", "rose"]
        assert shell.complete(name, "deployledger diff rose --from ") == ["r1", "r2"]
    assert shell.complete("zsh", "deployledger history iris.") == ["iris.v2"]
    assert shell.complete("bash", "deployledger delete nobody") == []
    assert shell.complete("fish", "deployledger log tail --deployment r") == ["rose"]
    assert shell.complete("bash", "deployledger diff --from r1 rose --to r") == ["r1", "r2"]
    assert shell.complete("zsh", "deployledger rollback rose --to-revision ") == ["1", "2"]
    assert shell.complete("fish", "deployledger diff nobody --from ") == []


@pytest.mark.parametrize("name", SHELLS)
def test_commands_options_and_values_are_offered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell("sqlite://", monkeypatch)
    for line, offered in {
        "deployledger st": ["status"],
        "deployledger projections parked ": ["list", "show", "retry"],
        "deployledger list --status de": ["deleting", "delete_failed"],
        "deployledger deploy m.onnx --ty": ["--type"],
        "deployledger list --output ": ["table", "wide", "json"],
        "deployledger log tail --topic deployment.fa": ["deployment.failed"],
        "deployledger completion z": ["zsh"],
        "deployledger --version diff --fr": ["--from"],
        "deployledger deploy ": [],  # which leaves files to the shell
        "deployledger log import -": ["--output", "-o", "--verbose", "-v", "--help", "-h"],
    }.items():
        found = shell.complete(name, line)
        assert found == offered or (line.endswith(" -") and set(offered) <= set(found)), line


def test_completion_makes_no_home_and_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell("sqlite://", monkeypatch)
    monkeypatch.setattr(shell, "_open", lambda: pytest.fail("the service was opened"))
    home = tmp_path / "none"
    monkeypatch.setenv("DEPLOYLEDGER_HOME", str(home))
    assert shell.complete("bash", "deployledger status ") == []
    home.mkdir()
    assert shell.complete("bash", "deployledger status ") == []
    monkeypatch.setenv("DEPLOYLEDGER_POOL_SIZE", "none")
    assert shell.complete("bash", "deployledger status ") == [], "a setting is malformed"
    assert [*home.iterdir()] == []


def test_a_database_that_is_away_offers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell("postgresql://nobody@127.0.0.1:1/none", monkeypatch)
    monkeypatch.setenv("DEPLOYLEDGER_DATABASE_URL", shell.database_url)
    monkeypatch.setenv("DEPLOYLEDGER_HOME", str(tmp_path))
    assert shell.complete("bash", "deployledger status ") == []
    assert shell.complete("zsh", "deployledger status ") == []


def test_a_name_that_a_shell_could_obey_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell("sqlite://", monkeypatch)
    odd = ["$(touch x)", "`touch x`", "a;b", "a b", "a*", "-rf", "a'b", 'a"b', "a\\b", "a\nb", "~", "é", ""]

    class Service:
        async def __aenter__(self) -> "Service":
            return self

        async def __aexit__(self, *_: object) -> None:
            print("noise")

        async def list_deployments(self, *_: object, **options: object) -> list[Any]:
            return [SimpleNamespace(deployment_name=it, status="active") for it in [*odd, "iris"]]

    monkeypatch.setattr(completion, "_is_there", lambda: True)
    monkeypatch.setattr(shell, "_open", lambda: cast("MLModelDeploymentService", Service()))
    for name in SHELLS:
        assert shell.complete(name, "deployledger status ") == ["iris"]


@pytest.mark.parametrize("name", SHELLS)
def test_a_script_is_printed_for_each_shell(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = InProcess("sqlite://", monkeypatch).run("completion", name)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"_DEPLOYLEDGER_COMPLETE=complete_{name}" in done.stdout
    refused = InProcess("sqlite://", monkeypatch).run("completion", "tcsh")
    assert refused.exit_code == 2


IN_A_SHELL = {
    "bash": (
        "source <(deployledger completion bash); COMP_WORDS=(deployledger st); COMP_CWORD=1; "
        '_deployledger_completion deployledger; echo "${COMPREPLY[*]}"'
    ),
    "zsh": (
        "compdef() { }; _arguments() { print -r -- $1; }; source <(deployledger completion zsh); "
        "words=(deployledger st); CURRENT=2; _deployledger_completion"
    ),
    "fish": "deployledger completion fish | source; complete -C 'deployledger st'",
}


@pytest.mark.parametrize("name", SHELLS)
def test_a_real_shell_completes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = program(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    done = subprocess.run([shell, "-c", IN_A_SHELL[name]], capture_output=True, text=True, check=False)
    assert "status" in done.stdout, done.stderr
    assert done.stderr == ""
