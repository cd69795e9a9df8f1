"""What is read from the environment: an empty variable is an unset one, and a user may have no home."""

import getpass
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.environment import forget_empty_variables
from deployledger.adapters.settings import Settings, load_settings
from deployledger.domain.exceptions import ConfigurationError
from deployledger.service.files.paths import expanded
from tests.e2e.conftest import CommandLine


def test_every_setting_that_is_empty_has_its_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DEPLOYLEDGER_HOME")
    expected = load_settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(f"DEPLOYLEDGER_{name.upper()}", "")
    assert load_settings() == expected


@pytest.mark.parametrize("name", ["HOME", "XDG_DATA_HOME"])
def test_an_empty_variable_moves_no_home(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPLOYLEDGER_HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv(name, "")
    home = load_settings().home
    assert home.is_relative_to(pwd.getpwuid(os.getuid()).pw_dir)
    assert home.parts[1] != ".local"


def test_empty_variables_of_libraries_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        "MLFLOW_TRACKING_URI",
        "MLFLOW_HTTP_REQUEST_TIMEOUT",
        "PGSSLMODE",
        "PGPORT",
        "NO_COLOR",
        "COLUMNS",
    ]
    for name in (*names, "TZ", "OF_AN_APPLICATION"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PGUSER", "me")
    forget_empty_variables()
    assert not set(names) & set(os.environ)
    assert (os.environ["TZ"], os.environ["OF_AN_APPLICATION"], os.environ["PGUSER"]) == ("", "", "me")


def test_the_command_line_unsets_them_before_anything_else(tmp_path: Path) -> None:
    cli = CommandLine(tmp_path / "home", {"PGSSLMODE": "", "COLUMNS": "", "DEPLOYLEDGER_POOL_SIZE": ""})
    cli.environment["DEPLOYLEDGER_DATABASE_URL"] = "postgresql://127.0.0.1:1/x"
    cli.environment["DEPLOYLEDGER_DATABASE_PATIENCE"] = "0.1"
    _, stderr = cli.start("list").communicate()
    assert "invalid sslmode" not in stderr
    assert "cannot be reached" in stderr


@pytest.fixture
def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of a user that nobody listed, as in a container."""

    def unknown(_: object) -> NoReturn:
        raise KeyError("uid not found")

    for name in ("HOME", "XDG_DATA_HOME", "DEPLOYLEDGER_HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()


@pytest.mark.usefixtures("without_home")
@pytest.mark.parametrize("make", [MLModelDeploymentService, MLModelDeploymentService.local])
def test_a_user_without_a_home_is_told_to_set_one(make: type[MLModelDeploymentService]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        make()
    assert f"user {os.getuid()} has no home folder" in refusal.value.message
    assert "DEPLOYLEDGER_HOME" in refusal.value.hint


@pytest.mark.usefixtures("without_home")
async def test_a_user_without_a_home_may_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with MLModelDeploymentService(home=tmp_path / "given") as service:
        assert await service.list_deployments() == []
    monkeypatch.setenv("DEPLOYLEDGER_HOME", str(tmp_path / "set"))
    async with MLModelDeploymentService() as service:
        assert await service.list_deployments() == []
    assert load_settings().acting == "os:unknown"


@pytest.mark.usefixtures("without_home")
@pytest.mark.parametrize("name", ["DEPLOYLEDGER_HOME", "DEPLOYLEDGER_AUDIT_KEY", "DEPLOYLEDGER_DATABASE_URL"])
def test_a_tilde_without_a_home_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_HOME", str(tmp_path))
    monkeypatch.setenv(name, "sqlite:///~/x.db" if name.endswith("URL") else "~/x")
    with pytest.raises(ConfigurationError) as refusal:
        MLModelDeploymentService()
    assert "is not a valid path" in refusal.value.message
    with pytest.raises(ConfigurationError):
        expanded("~nobody-of-that-name/x")


PROGRAM = """
import asyncio
import core_ai_layer
from deployledger.app import MLModelDeploymentService
from deployledger.domain.exceptions import MachineLearningServiceError
from deployledger.domain.requests import DeploymentRequest, DeploymentTargetConfig

async def main():
    async with MLModelDeploymentService(database_url="sqlite://") as service:
        accepted = await service.deploy_model(DeploymentRequest(
            model_uri="models:/iris/1", deployment_name="iris",
            deployment_target_config=DeploymentTargetConfig(type="api_service"),
        ))
        print(core_ai_layer.OWNER, (await service.wait_for_deployment(accepted.deployment_id)).status)

asyncio.run(main())
"""


@pytest.fixture
def own_package(tmp_path: Path) -> dict[str, str]:
    """The environment of an application with a regular package that hides the guide's."""
    package = tmp_path / "application" / "core_ai_layer"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("OWNER = 'the application'\n")
    return {**os.environ, "PYTHONPATH": str(package.parent)}


def test_an_application_with_its_own_core_ai_layer_has_a_path(own_package: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=own_package, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "the application active\n"), ran.stderr


def test_the_command_line_works_beside_an_own_core_ai_layer(own_package: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "deployledger.app", "list"],
        env=own_package,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr


def test_both_import_paths_lead_to_the_same_service() -> None:
    from deployledger import app

    assert app.MLModelDeploymentService is MLModelDeploymentService
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = app.Nothing
