"""What a user of the database does who may read it, and not write."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.audit import keys
from deployledger.domain.responses import DeploymentStatusResponse
from tests.domain.given import request
from tests.e2e.conftest import REPOSITORY, CommandLine

PAGE = REPOSITORY / "docs" / "database.md"
WAIT = 60
EVENTS = 5
"""A deployment has so many, with the one that reserves its name."""


class Auditor:
    """A user who has the rights that docs/database.md gives a reader, and a command line for them."""

    def __init__(self, url: str, name: str, folder: Path) -> None:
        self.owner_url = url
        parts = urlsplit(url)
        self.url = urlunsplit(parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}"))
        self.name = name
        self.cli = CommandLine(folder / "home", {"DEPLOYLEDGER_DATABASE_URL": self.url})

    def has_rights_once_there_is_something(self) -> None:
        """Deploy a model, and give the auditor what the page says."""
        self.deploy("iris")
        block = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)[-1]
        with psycopg.connect(self.owner_url, autocommit=True) as session:
            for statement in filter(str.strip, block.split(";")):
                session.execute(statement.replace("TO deployledger_reader", f"TO {self.name}").encode())

    def deploy(self, name: str) -> DeploymentStatusResponse:
        """Deploy a model, as the owner."""

        async def deploy() -> DeploymentStatusResponse:
            async with MLModelDeploymentService(database_url=self.owner_url, create_schema=True) as service:
                accepted = await service.deploy_model(request(deployment_name=name))
                return await service.wait_for_deployment(accepted.deployment_id, timeout=WAIT)

        return asyncio.run(deploy())


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "audit.key"
    keys.write_pair("example.com/deployments", path)
    return path


@pytest.fixture
def auditor(empty_postgres_url: str, tmp_path: Path) -> Iterator[Auditor]:
    name = f"auditor_{uuid4().hex[:8]}"
    role = sql.Identifier(name)
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        session.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    yield Auditor(empty_postgres_url, name, tmp_path)
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        session.execute("SET default_transaction_read_only = off")
        session.execute(sql.SQL("DROP OWNED BY {}").format(role))
        session.execute(sql.SQL("DROP ROLE {}").format(role))


def test_everything_that_looks_back_works(auditor: Auditor, key_file: Path, tmp_path: Path) -> None:
    auditor.has_rights_once_there_is_something()
    owner = CommandLine(tmp_path / "owner", {"DEPLOYLEDGER_DATABASE_URL": auditor.owner_url})
    assert (
        owner.run("audit", "checkpoint", "--key", key_file).returncode == 0
    )  # its tables come after the rights
    auditor.deploy("rose")  # neither the tree nor any table of rows has this
    cli = auditor.cli
    cli.environment["DEPLOYLEDGER_READ_MODELS_URL"] = f"sqlite:///{tmp_path / 'mine.db'}"
    public = key_file.with_name(f"{key_file.name}.pub")

    verified = cli.json("audit", "verify", "--key", public)
    assert (verified["verified"], verified["size"], verified["covered_by_database"]) == (
        True,
        2 * EVENTS,
        EVENTS,
    )
    assert len(verified["checkpoints"]) == 1
    size, root = cli.run("audit", "root").stdout.split()
    assert (size, root) == (str(2 * EVENTS), verified["root"])
    for position in ("1", str(2 * EVENTS)):
        assert cli.run("audit", "prove", position).returncode == 0
    assert [it["deployment_name"] for it in cli.json("list")] == ["iris", "rose"]
    assert [it["deployment_name"] for it in cli.json("list", "--as-of", "4")] == ["iris"]
    assert cli.json("status", "rose", "--as-of", "r1")["status"] == "active"
    for command in ("history rose", "diff rose --from 7", "replay", "log stats", "projections verify"):
        done = cli.run(*command.split())
        assert done.returncode == 0, (command, done.stderr)
    exported = cli.run("log", "export", tmp_path / "log.gz")
    assert f"Root  {root}" in exported.stdout
    assert owner.run("audit", "root").stdout.split() == [size, root]


def test_nothing_is_written(auditor: Auditor, key_file: Path) -> None:
    auditor.has_rights_once_there_is_something()
    for command, problem in (
        (("deploy", "models:/iris/1", "--name", "rose"), "lacks rights"),
        (("audit", "checkpoint", "--key", str(key_file)), "permission denied for "),
    ):
        refused = auditor.cli.run(*command)
        assert refused.returncode == 1
        assert problem in refused.stderr
        assert "CONTEXT" not in refused.stderr
        assert "statement" not in refused.stderr
    assert auditor.cli.json("log", "stats")["events"] == EVENTS


def test_a_log_that_never_had_a_ledger(auditor: Auditor) -> None:
    auditor.has_rights_once_there_is_something()
    verified = auditor.cli.json("audit", "verify", exit_code=1)  # nothing was ever signed
    assert (verified["covered"], verified["checkpoints"], verified["problems"]) == (0, [], [])
    assert auditor.cli.run("audit", "root").stdout.split() == [str(EVENTS), verified["root"]]
    with psycopg.connect(auditor.owner_url) as session:
        found = session.execute("SELECT to_regclass('deployledger.ledger')").fetchone()
    assert found == (None,)


def test_rows_that_are_behind_and_what_to_do(auditor: Auditor, tmp_path: Path) -> None:
    auditor.has_rights_once_there_is_something()
    with psycopg.connect(auditor.owner_url) as session:
        session.execute("UPDATE deployledger.read_models SET position = 2")
    refused = auditor.cli.run("list", "--as-of", "3")
    assert refused.returncode == 1
    assert "permission denied for " in refused.stderr
    assert "docs/database.md" in refused.stderr
    auditor.cli.environment["DEPLOYLEDGER_READ_MODELS_URL"] = f"sqlite:///{tmp_path / 'read-models.db'}"
    assert "DEPLOYLEDGER_READ_MODELS_URL=sqlite:///read-models.db" in " ".join(refused.stderr.split())
    assert [it["deployment_name"] for it in auditor.cli.json("list")] == ["iris"]


def test_without_any_rights(auditor: Auditor) -> None:
    auditor.deploy("iris")
    refused = auditor.cli.run("audit", "verify")
    assert refused.returncode == 1
    assert "permission denied for schema deployledger." in refused.stderr
    assert "LINE 1" not in refused.stderr
    assert "docs/database.md" in refused.stderr


def test_a_server_on_which_nobody_writes(auditor: Auditor) -> None:
    """As a standby server is."""
    auditor.deploy("iris")
    name = urlsplit(auditor.owner_url).path.lstrip("/")
    with psycopg.connect(auditor.owner_url, autocommit=True) as session:
        statement = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on")
        session.execute(statement.format(sql.Identifier(name)))
    owner = CommandLine(auditor.cli.home, {"DEPLOYLEDGER_DATABASE_URL": auditor.owner_url})
    verified = owner.json("audit", "verify", exit_code=1)  # nothing was ever signed
    assert verified["problems"] == []
    assert owner.run("audit", "root").stdout.split() == [str(EVENTS), verified["root"]]
    assert owner.run("list").returncode == 0
    refused = owner.run("deploy", "models:/iris/1", "--name", "rose")
    assert refused.returncode == 1
    assert "in a read-only transaction" in refused.stderr
