"""Rows that were made from another log are not taken for this one's."""

import logging
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.read_models import open_read_models
from tests.domain.given import requested
from tests.logs import recorded_events


def rows_of(url: str, name: str = "") -> set[str]:
    """Append a deployment, if it is given a name, and return the names of all."""
    log = open_event_log(url, create=True)
    log.position()
    if name:
        log.append([requested(name=name)(uuid4(), 1)])
    models = open_read_models(log)
    keys = [row.event.originator_id for row in recorded_events(log, after=0, limit=100)]
    names = {models.get("deployment_list", str(key)).name for key in keys}
    models.store.close()
    log.close()
    return names


def test_a_log_that_took_the_place_of_another_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    assert rows_of(url, "first") == {"first"}
    for file in ("log.db", "log.db-wal", "log.db-shm"):
        (tmp_path / file).unlink(missing_ok=True)
    with caplog.at_level(logging.WARNING):
        assert rows_of(url, "second") == {"second"}
    assert "belongs to another event log" in caplog.text
    caplog.clear()
    assert rows_of(url) == {"second"}
    assert caplog.text == ""


def test_a_log_that_was_restored_from_a_backup(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    assert rows_of(url, "first") == {"first"}
    backup = (tmp_path / "log.db").read_bytes()
    assert rows_of(url, "lost") == {"first", "lost"}
    for file in ("log.db-wal", "log.db-shm"):
        (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / "log.db").write_bytes(backup)
    assert rows_of(url) == {"first"}
    assert rows_of(url, "other") == {"first", "other"}


def test_an_emptied_log_on_postgresql(empty_postgres_url: str) -> None:
    assert rows_of(empty_postgres_url, "first") == {"first"}
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        session.execute("ALTER TABLE deployledger.events DISABLE TRIGGER ALL")
        session.execute("TRUNCATE deployledger.events")
        session.execute("ALTER TABLE deployledger.events ENABLE TRIGGER ALL")
    assert rows_of(empty_postgres_url, "second") == {"second"}


def test_rows_that_were_removed_are_made_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.db'}"
    assert rows_of(url, "first") == {"first"}
    for file in tmp_path.glob("log.db.read-models*"):
        file.unlink()
    assert rows_of(url) == {"first"}
