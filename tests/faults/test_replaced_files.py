"""SQLite files that are deleted, replaced or overwritten while they are open, or do not belong together."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from uuid import uuid4

import pytest

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.event_log.clock import ClockWatch
from deployledger.adapters.event_log.sqlite.file_guard import FileGuard
from deployledger.adapters.event_log.sqlite.writer import SQLiteBatchWriter
from deployledger.adapters.export import export_log
from deployledger.domain.exceptions import ConfigurationError, EventLogError
from tests.domain.given import requested
from tests.logs import recorded_events


def opened(path: Path) -> DatabaseEventLog:
    return open_event_log(f"sqlite:///{path}")


def append(log: DatabaseEventLog, *names: str) -> None:
    for name in names:
        log.append([requested(name=name)(uuid4(), 1)])


def names(path: Path) -> list[str]:
    """Open the log, and return the names of what was requested; check that it is undamaged."""
    log = opened(path)
    assert [it.message for it in log.findings() if it.is_problem] == []
    found = [getattr(it.event, "name", "") for it in recorded_events(log, after=0, limit=1000)]
    append(log, "later")
    log.close()
    return found


def beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name}{ending}")


def copied_over(path: Path, copy: Path) -> None:
    shutil.copyfile(copy, path)


def moved_over(path: Path, copy: Path) -> None:
    copy.replace(path)


def moved_away_first(path: Path, copy: Path) -> None:
    path.rename(beside(path, ".old"))
    copy.rename(path)


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_no_acknowledged_event_is_lost_with(ending: str, how: str, tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = opened(path)
    append(log, "a", "b")
    file = beside(path, ending)
    if how == "deleted":
        file.unlink()
    else:
        shutil.copyfile(file, tmp_path / "copy")
        (tmp_path / "copy").replace(file)
    for _ in range(2):
        with pytest.raises(EventLogError, match=f"log.db{ending} was {how} while it was open") as refused:
            append(log, "c")
        assert "start them again" in refused.value.hint
    with pytest.raises(EventLogError, match=f"was {how} while it was open"):
        log.position()
    log.close()
    assert names(path) == ["a", "b"]


def emptied(log: Path) -> None:
    os.truncate(log, 0)


def cut_short(log: Path) -> None:
    os.truncate(log, log.stat().st_size // 2)


def another_written_over(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:16] + bytes(8) + log.read_bytes()[24:])


@pytest.mark.parametrize("overwrite", [emptied, cut_short, another_written_over])
@pytest.mark.parametrize("when", ["between transactions", "during a transaction"])
def test_an_overwritten_write_ahead_log_ends_all_writers(
    overwrite: Callable[[Path], None], when: str, tmp_path: Path
) -> None:
    path = tmp_path / "log.db"
    append(log := opened(path), "a", "b")
    log.close()
    guard, another = FileGuard(path), FileGuard(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE something (a)")
        guard.begin()
        another.begin()
        for number in range(20):
            guard.check(writes=True)
            with connection:
                connection.execute("INSERT INTO something VALUES (?)", (number,))
            guard.check(writes=True)
        guard.check(writes=True)
        overwrite(beside(path, "-wal"))
        if when == "during a transaction":
            with connection:
                connection.execute("INSERT INTO something VALUES (20)")
        for each in (guard, another):
            with pytest.raises(EventLogError, match=r"log\.db-wal was overwritten while it was open"):
                each.check(writes=True)
        guard.close()
        another.close()
    assert names(path) == ["a", "b"]


def test_a_writer_does_not_wait_for_a_file_that_was_overwritten() -> None:
    def connect() -> sqlite3.Connection:
        raise sqlite3.OperationalError("disk I/O error")

    def check() -> None:
        raise EventLogError("It was overwritten.", hint="Restore it.")

    writer = SQLiteBatchWriter(
        connect, "events", "keys", lock=nullcontext(), watch=ClockWatch("log.db"), check=check
    )
    with pytest.raises(EventLogError, match="was overwritten"):
        writer.write([])


@pytest.mark.parametrize("restore", [copied_over, moved_over, moved_away_first])
@pytest.mark.parametrize("is_asked", [False, True])
def test_a_backup_is_whole_that_is(
    restore: Callable[[Path, Path], None], is_asked: bool, tmp_path: Path
) -> None:
    path, copy = tmp_path / "log.db", tmp_path / "copy.db"
    log = opened(path)
    append(log, "a", "b")
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as backup:
        live.backup(backup)
    append(log, *(f"lost-{number}" for number in range(60)))
    restore(path, copy)
    how = "overwritten" if restore is copied_over else "replaced"
    with pytest.raises(EventLogError, match=f"log.db was {how} while it was open"):
        log.position() if is_asked else append(log, "c")
    log.close()
    assert names(path) == ["a", "b"]
    if restore is moved_away_first:  # what was acknowledged is where the file is
        assert len(names(beside(path, ".old"))) == 62


@pytest.mark.parametrize("restore", [copied_over, moved_over])
def test_a_backup_is_whole_right_after_a_checkpoint(
    restore: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    path, copy = tmp_path / "log.db", tmp_path / "copy.db"
    log = opened(path)
    append(log, "a", "b")
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as backup:
        live.backup(backup)
        append(log, *(f"lost-{number}" for number in range(60)))
        live.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    append(log, "lost")
    restore(path, copy)
    with pytest.raises(EventLogError, match="while it was open"):
        append(log, "c")
    log.close()
    assert names(path) == ["a", "b"]


def test_a_closed_log_takes_nothing_from_the_one_in_its_place(tmp_path: Path) -> None:
    path, copy = tmp_path / "log.db", tmp_path / "copy.db"
    log = opened(path)
    append(log, "a")
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as backup:
        live.backup(backup)
    copy.replace(path)
    with pytest.raises(EventLogError, match="was replaced"):
        append(log, "b")
    other = open_event_log(f"sqlite:///{path}", patience=29)  # as another process
    append(other, "c")
    log.close()
    append(other, "d")
    other.close()
    assert names(path) == ["a", "c", "d"]


def test_what_sqlite_and_backups_do_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = opened(path)
    other = open_event_log(f"sqlite:///{path}", patience=29)
    for number in range(3):
        append(log, f"a-{number}")
        append(other, f"b-{number}")
        with closing(sqlite3.connect(path)) as outside:
            kind = ("PASSIVE", "RESTART", "TRUNCATE")[number]
            outside.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()
        append(log, f"c-{number}")
        os.utime(path)
        append(other, f"d-{number}")
        with closing(sqlite3.connect(path)) as outside:
            outside.execute("VACUUM")
    log.close()
    other.close()
    assert len(names(path)) == 12


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", ".read-models", ".ledger"])
def test_an_export_never_replaces_the_files_of_its_log(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = opened(path)
    append(log, "a")
    with pytest.raises(ConfigurationError, match="is part of the database being exported"):
        export_log(log, beside(path, ending), replace=True)
    log.close()
    assert names(path) == ["a"]


def left_behind(path: Path, folder: Path) -> Path:
    """Return a copy of an open log's files, as a process leaves them that is killed."""
    folder.mkdir()
    for file in (path, beside(path, "-wal")):
        shutil.copyfile(file, folder / file.name)
    return folder / path.name


def test_what_a_killed_process_left_is_opened(tmp_path: Path) -> None:
    log = opened(tmp_path / "log.db")
    append(log, "a", "b")
    left = left_behind(tmp_path / "log.db", tmp_path / "left")
    log.close()
    assert names(left) == ["a", "b"]


@pytest.mark.parametrize("other_log", [False, True])
def test_a_write_ahead_log_of_another_file_is_refused(other_log: bool, tmp_path: Path) -> None:
    path, copy = tmp_path / "log.db", tmp_path / "copy.db"
    log = opened(path)
    append(log, "a", "b")
    with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as backup:
        live.backup(backup)
        append(log, *(f"lost-{number}" for number in range(20)))
        live.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    append(log, *(f"lost-{number}" for number in range(20, 40)))
    left = left_behind(path, tmp_path / "left")
    log.close()
    expected = ["a", "b"]
    if other_log:
        copy, expected = tmp_path / "other.db", ["later"]
        names(copy)
    shutil.copyfile(copy, left)
    before = left.read_bytes()
    for _ in range(2):
        with pytest.raises(EventLogError, match="does not belong to the event log") as refused:
            opened(left).position()
        assert f"move {left}-wal and {left}-shm away" in refused.value.hint
    assert left.read_bytes() == before
    beside(left, "-wal").unlink()
    assert names(left) == expected
