"""Backups of a log, to be restored while it is open: the log then goes back to an earlier state."""

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg


class Backup:
    """A copy of the events and the idempotency keys of a log, and of nothing else in its database."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._file = folder / "backup.db"
        if url.startswith("sqlite:///"):
            with closing(self._live()) as live, closing(sqlite3.connect(self._file)) as copy:
                live.backup(copy)
            return
        with psycopg.connect(url, autocommit=True) as session:
            session.execute("DROP SCHEMA IF EXISTS backup CASCADE; CREATE SCHEMA backup")
            for table in ("events", "idempotency_keys"):
                session.execute(f"CREATE TABLE backup.{table} AS TABLE deployledger.{table}")

    def _live(self) -> sqlite3.Connection:
        return sqlite3.connect(self._url.removeprefix("sqlite:///"))

    def restore(self) -> None:
        """Make the log what it was."""
        if self._url.startswith("sqlite:///"):
            with closing(self._live()) as live, closing(sqlite3.connect(self._file)) as copy:
                copy.backup(live)
            return
        with psycopg.connect(self._url) as session:
            session.execute("ALTER TABLE deployledger.events DISABLE TRIGGER USER")
            for table in ("events", "idempotency_keys"):
                session.execute(f"TRUNCATE deployledger.{table}")
                session.execute(f"INSERT INTO deployledger.{table} SELECT * FROM backup.{table}")
            session.execute("ALTER TABLE deployledger.events ENABLE TRIGGER USER")
