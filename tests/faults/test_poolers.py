"""A connection pooler before PostgreSQL: one that keeps sessions works, others are refused at once."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.exceptions import EventLogError, MachineLearningServiceError
from tests.domain.given import request
from tests.e2e.in_process import InProcess
from tests.faults.conftest import wait_until
from tests.programs import program

PORT = 6432


class Pooler:
    """PgBouncer before one database, which it is reached by at a socket of its own.

    Attributes:
        url: the database's URL by way of the pooler.
    """

    def __init__(self, program: str, database_url: str, folder: Path) -> None:
        parts = urlsplit(database_url)
        self._server = Path(parse_qs(parts.query)["host"][0])
        self._name = parts.path.removeprefix("/")
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://postgres@/{self._name}?host={folder}&port={PORT}"

    def start(self, pool_mode: str) -> None:
        """Start it, and wait until it answers."""
        file = self._folder / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n{self._name} = host={self._server} port=5432 user=postgres\n"
            f"[pgbouncer]\nlisten_port = {PORT}\nunix_socket_dir = {self._folder}\nauth_type = any\n"
            f"pool_mode = {pool_mode}\ndefault_pool_size = 20\n"
        )
        file.chmod(0o644)
        owner = pwd.getpwuid(self._server.stat().st_uid).pw_name  # it refuses to run as root
        change_user = ["-u", owner] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [self._program, "-q", *change_user, str(file)], stderr=subprocess.PIPE
        )
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Kill it, and cut its connections with that."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        for socket in self._folder.glob(".s.PGSQL.*"):
            socket.unlink()


@pytest.fixture
def pooler(empty_postgres_url: str) -> Iterator[Pooler]:
    pgbouncer = program("pgbouncer")
    if "host" not in parse_qs(urlsplit(empty_postgres_url).query):
        pytest.skip("the server has no socket on this machine")
    # A short path, which another user may enter.
    with tempfile.TemporaryDirectory(prefix="deployledger-pooler-") as folder:
        Path(folder).chmod(0o777)
        of_database = Pooler(pgbouncer, empty_postgres_url, Path(folder))
        yield of_database
        of_database.stop()


async def deploy(service: MLModelDeploymentService, name: str) -> str:
    accepted = await service.deploy_model(request(deployment_name=name), idempotency_key=name)
    return (await service.wait_for_deployment(accepted.deployment_id, timeout=30)).status


def service_of(url: str) -> MLModelDeploymentService:
    return MLModelDeploymentService(database_url=url, create_schema=True)


def assert_says_what_to_do(error: MachineLearningServiceError) -> None:
    assert "shares sessions between clients" in error.message
    assert "pool_mode to session" in error.hint
    assert "docs/database.md" in error.hint


@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
async def test_a_pooler_that_shares_sessions_is_refused(
    pool_mode: str, pooler: Pooler, empty_postgres_url: str, tmp_path: Path
) -> None:
    pooler.start(pool_mode)
    with pytest.raises(EventLogError) as refusal:
        await service_of(pooler.url).list_deployments()
    assert_says_what_to_do(refusal.value)
    arguments: dict[str, Any] = {"database_url": f"sqlite:///{tmp_path / 'log.db'}"}
    with pytest.raises(MachineLearningServiceError) as refusal_of_rows:
        await MLModelDeploymentService(**arguments, read_models_url=pooler.url).list_deployments()
    assert_says_what_to_do(refusal_of_rows.value)
    async with service_of(empty_postgres_url) as service:  # nothing stayed behind
        assert await deploy(service, "iris") == "active"


def test_commands_refuse_a_pooler_that_shares_sessions(
    pooler: Pooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooler.start("transaction")
    for command in (("db", "check"), ("db", "init"), ("deploy", "models:/iris/1", "--name", "iris")):
        done = InProcess(pooler.url, monkeypatch).run(*command)
        assert done.exit_code == 1
        assert "shares sessions" in done.stderr


async def test_a_pooler_of_sessions_comes_and_goes_under_a_service(pooler: Pooler) -> None:
    pooler.start("session")
    async with service_of(pooler.url) as service:
        assert await deploy(service, "iris") == "active"
        pooler.stop()
        pooler.start("session")
        assert await deploy(service, "rose") == "active"
        assert len(await service.list_deployments()) == 2
        pooler.stop()
        pooler.start("transaction")
        with pytest.raises(EventLogError) as refusal:
            await service.deploy_model(request(deployment_name="lily"))
        assert_says_what_to_do(refusal.value)
        pooler.stop()
        pooler.start("session")
        assert await deploy(service, "lily") == "active"
