"""The disk is full, or somebody else has the file: said clearly, and over when that is over."""

import os
import resource
import sqlite3
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.export import export_log, import_log
from deployledger.domain.event_log import EventLog, events_of, version_of
from deployledger.domain.exceptions import EventLogError
from tests.faults.audit import assert_whole, new_command, rows
from tests.faults.conftest import OwnServer, SmallDisk
from tests.faults.workers import PROCESSES, Signal, start
from tests.logs import recorded_events

PATIENCE_SECONDS = 0.3


def append_until_refused(log: EventLog) -> tuple[list[UUID], EventLogError]:
    """Return the streams of the commands that were stored, and what the next was told."""
    stored: list[UUID] = []
    for _ in range(10_000):
        command = new_command(3)
        try:
            log.append(command)
        except EventLogError as error:
            return stored, error
        stored.append(command[0].originator_id)
    raise AssertionError("the disk never was full")


def assert_clear(error: EventLogError, *said: str) -> None:
    assert error.hint
    assert error.status_code == 503
    for words in said:
        assert words in error.message
    assert "Traceback" not in error.message
    assert "\n" not in error.message
    # The driver's own error is not shown with ours.
    assert "psycopg" not in "".join(traceback.format_exception_only(error))


def check_full_disk(url: str, make_room: Callable[[], None], *said: str) -> None:
    """Fill the disk, and check what is said, that nothing is there in part, and that it works again."""
    log = open_event_log(url, patience=PATIENCE_SECONDS)
    stored, error = append_until_refused(log)
    assert len(stored) > 10
    assert_clear(error, *said)
    assert_whole(rows(url), stored)
    stored += append_until_refused(log)[0]  # a little room may have been left; then it goes on being full
    assert len(recorded_events(log, after=0, limit=10)) == 10  # reading goes on
    make_room()
    command = new_command(3)
    log.append(command)
    assert events_of(log, command[0].originator_id) == command
    assert_whole(rows(url), [*stored, command[0].originator_id])
    log.close()


def test_a_full_disk_of_sqlite(small_disk: SmallDisk) -> None:
    path = small_disk.folder / "events.db"
    check_full_disk(f"sqlite:///{path}", lambda: small_disk.resize(32), str(path), "full")


def test_an_import_onto_a_full_disk_of_sqlite(small_disk: SmallDisk, tmp_path: Path) -> None:
    log = open_event_log(f"sqlite:///{tmp_path / 'large.db'}", create=True)
    for _ in range(2_000):
        log.append(new_command(10))
    export_log(log, tmp_path / "log.gz")
    log.close()
    small = open_event_log(f"sqlite:///{small_disk.folder / 'events.db'}", create=True)
    with pytest.raises(EventLogError) as raised:
        import_log(small, tmp_path / "log.gz")
    assert_clear(raised.value, "full")
    assert "Free space" in raised.value.hint
    assert small.position() == 0
    small.close()


@pytest.fixture
def small_tablespace(own_server: OwnServer, small_disk: SmallDisk) -> str:
    """A log whose tables are on the small disk."""
    log = open_event_log(own_server.url, create=True)
    log.create_schema()
    log.close()
    with psycopg.connect(own_server.url, autocommit=True) as session:
        row = session.execute("SHOW data_directory").fetchone()
        assert row is not None
        owner = Path(row[0]).stat()
        folder = small_disk.folder / "tablespace"
        folder.mkdir()
        folder.chmod(0o700)
        os.chown(folder, owner.st_uid, owner.st_gid)
        session.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(sql.Literal(str(folder))))
        session.execute("ALTER TABLE deployledger.events SET TABLESPACE small")
        for (index,) in session.execute(
            "SELECT indexname FROM pg_indexes WHERE schemaname = 'deployledger' AND tablename = 'events'"
        ).fetchall():
            session.execute(
                sql.SQL("ALTER INDEX {} SET TABLESPACE small").format(sql.Identifier("deployledger", index))
            )
    return own_server.url


def test_a_full_disk_of_postgresql(small_tablespace: str, small_disk: SmallDisk) -> None:
    check_full_disk(small_tablespace, lambda: small_disk.resize(32), "No space left on device")


def test_a_size_limit_of_sqlite_is_an_error_of_the_log(tmp_path: Path) -> None:
    # A quota rather than a full disk: the file may not grow, and then may.
    path = tmp_path / "events.db"
    log = open_event_log(f"sqlite:///{path}", patience=PATIENCE_SECONDS)
    log.append(new_command(1))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    log.close()
    limited = tmp_path / "limited"
    process = start(append_below_a_limit, f"sqlite:///{path}", limited)
    process.join(60)
    assert process.exitcode == 0
    first, second = limited.read_text().splitlines()
    assert "could not be written" in first
    assert second == "stored again"


def append_below_a_limit(url: str, report: Path) -> None:
    """Append with a limit of the size of files, and then without."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    log = open_event_log(url, patience=PATIENCE_SECONDS)
    log.position()
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    _, error = append_until_refused(log)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    log.append(new_command(3))
    log.close()
    report.write_text(f"{error.message}\nstored again\n")


def test_a_locked_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = open_event_log(f"sqlite:///{path}", patience=10)
    log.append(new_command(1))
    locked, release = PROCESSES.Event(), PROCESSES.Event()
    process = start(lock_for_a_while, path, 0.5, locked, release)
    assert locked.wait(60)
    command = new_command(2)
    log.append(command)
    assert version_of(log, command[0].originator_id) == 2
    process.join(60)
    log.close()


def test_a_file_that_stays_locked_is_an_error_and_works_once_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = open_event_log(f"sqlite:///{path}", patience=PATIENCE_SECONDS)
    log.append(new_command(1))
    locked, release = PROCESSES.Event(), PROCESSES.Event()
    process = start(lock_for_a_while, path, 60, locked, release)
    assert locked.wait(60)
    with pytest.raises(EventLogError) as refusal:
        log.append(new_command(2))
    assert_clear(refusal.value, str(path), "locked")
    assert version_of(log, uuid4()) == 0  # reading goes on
    release.set()
    process.join(60)
    log.append(new_command(3))
    assert [row.version for row in rows(f"sqlite:///{path}")] == [1, 1, 2, 3]
    log.close()


def lock_for_a_while(path: Path, seconds: float, locked: Signal, release: Signal) -> None:
    """Hold the file's lock for some time, or until told to give it back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        locked.set()
        release.wait(seconds)
        connection.execute("ROLLBACK")
