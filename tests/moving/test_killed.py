"""A process that moves a log is killed; the same command goes on, and nothing half-done was ever visible."""

import random
import shutil
import time
from pathlib import Path

import pytest

from deployledger.adapters.event_log import DatabaseEventLog
from deployledger.adapters.event_log.moving import exporting
from deployledger.domain.exceptions import ConflictError
from tests.contracts.version_1 import Database
from tests.faults.conftest import times
from tests.faults.workers import start
from tests.moving.conftest import NewUrl, OpenLog
from tests.moving.dying import export_until, import_slowly, import_until
from tests.moving.examples import fill, keys, lines, records, serving
from tests.moving.test_moving import answers, left_behind

KILLED = -9
EVENTS = 606


def killed(work: object, *arguments: object) -> None:
    """Do work in a process, which is killed in the middle of it."""
    process = start(work, *arguments)  # type: ignore[arg-type]
    process.join(60)
    assert process.exitcode == KILLED


@pytest.fixture
def log(source: str, open_log: OpenLog) -> DatabaseEventLog:
    """A log with 606 events and 150 keys."""
    found = open_log(source)
    fill(found, 150)
    assert found.position() == EVENTS
    return found


@pytest.fixture
def exported(new_url: NewUrl, open_log: OpenLog, tmp_path: Path) -> tuple[DatabaseEventLog, Path]:
    """The same, and an export of it."""
    found = open_log(new_url("sqlite"))
    fill(found, 150)
    found.export_to(tmp_path / "log.gz")
    return found, tmp_path / "log.gz"


# Export ---------------------------------------------------------------------------------------------


def test_an_export_that_was_killed_goes_on(
    log: DatabaseEventLog, source: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    file = tmp_path / "log.gz"
    for events in (200, 400, 600):
        killed(export_until, source, file, events)
        assert not file.exists()
        assert (tmp_path / "log.gz.partial").exists()
        log.append(serving(1))  # not in the export, which ends where it began to
    done = log.export_to(file)
    assert done.events == EVENTS
    assert 0 < done.resumed_at < EVENTS
    other = open_log(new_url("sqlite"))
    assert other.import_from(file).root == done.root
    assert records(other) == records(log)[:EVENTS]
    assert keys(other) == keys(log)


def test_an_export_goes_on_wherever_it_ended(
    new_url: NewUrl, open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_LINES_PER_MEMBER", 5)
    log = open_log(new_url("sqlite"))
    fill(log, 10)
    log.export_to(tmp_path / "whole.gz")
    expected, whole = lines(tmp_path / "whole.gz"), (tmp_path / "whole.gz").read_bytes()
    resumed = set()
    for size in range(0, len(whole) + 1, 97):
        file = tmp_path / f"{size}.gz"
        file.with_name(f"{size}.gz.partial").write_bytes(whole[:size])
        resumed.add(log.export_to(file).resumed_at)
        assert lines(file)[1:] == expected[1:]
    assert len(resumed) > 5
    assert max(resumed) == log.position()


@pytest.mark.parametrize("what", ["another log", "a shorter log", "no export"])
def test_what_another_export_left_is_begun_again(
    what: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    log, other = open_log(new_url("sqlite")), open_log(new_url("sqlite"))
    fill(log, 3)
    fill(other, 5 if what == "a shorter log" else 3)
    partial = tmp_path / "log.gz.partial"
    other.export_to(tmp_path / "other.gz")
    shutil.move(tmp_path / "other.gz", partial)
    if what == "no export":
        partial.write_bytes(b"a letter" * 1000)
    done = log.export_to(tmp_path / "log.gz")
    assert (done.events, done.resumed_at) == (log.position(), 0)
    third = open_log(new_url("sqlite"))
    third.import_from(tmp_path / "log.gz")
    assert records(third) == records(log)


# Import ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "events", "goes_on_at"),
    [
        ("Importing", 1, 0),
        ("Importing", 333, 320),
        ("Importing", EVENTS, 600),
        ("Checking", 1, EVENTS),
        ("before it", 0, EVENTS),
        ("the transaction", 0, EVENTS),
    ],
)
async def test_an_import_that_was_killed_goes_on(
    place: str,
    events: int,
    goes_on_at: int,
    target: str,
    exported: tuple[DatabaseEventLog, Path],
    open_log: OpenLog,
) -> None:
    log, file = exported
    killed(import_until, target, file, place, events)
    other = open_log(target)
    assert (other.position(), keys(other)) == (0, [])
    done = other.import_from(file)
    assert done.resumed_at == goes_on_at
    assert (records(other), keys(other)) == (records(log), keys(log))
    assert left_behind(target) == []
    assert await answers(target) == await answers(log.url)


def test_an_import_that_was_killed_when_it_was_complete_is_complete(
    target: str, exported: tuple[DatabaseEventLog, Path], open_log: OpenLog
) -> None:
    log, file = exported
    killed(import_until, target, file, "behind it", 0)
    other = open_log(target)
    assert (records(other), keys(other)) == (records(log), keys(log))
    with pytest.raises(ConflictError, match="has 606 events"):
        other.import_from(file)
    other.append(serving(1))


def test_imports_that_are_killed_at_any_moment_end_with_the_same_log(
    target: str, exported: tuple[DatabaseEventLog, Path], open_log: OpenLog
) -> None:
    log, file = exported
    other = open_log(target)
    for _ in range(times(4, 60)):
        process = start(import_slowly, target, file)
        time.sleep(random.uniform(0.05, 0.8))
        process.kill()
        process.join()
        assert other.position() in (0, EVENTS)
    if other.position() == 0:
        other.import_from(file)
    assert (records(other), keys(other)) == (records(log), keys(log))
    assert left_behind(target) == []


def test_another_file_begins_again(
    target: str, exported: tuple[DatabaseEventLog, Path], new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    killed(import_until, target, exported[1], "Importing", 400)
    log = open_log(new_url("sqlite"))
    fill(log, 5)
    log.export_to(tmp_path / "another.gz")
    other = open_log(target)
    assert other.import_from(tmp_path / "another.gz").resumed_at == 0
    assert (records(other), keys(other)) == (records(log), keys(log))


def test_what_was_changed_in_what_was_left_is_begun_again(
    target: str, exported: tuple[DatabaseEventLog, Path], open_log: OpenLog
) -> None:
    log, file = exported
    killed(import_until, target, file, "Importing", 400)
    table = "import_events" if target.startswith("sqlite") else "deployledger_import.events"
    last = f"(SELECT max(position) FROM {table})"
    Database(target).execute(f"UPDATE {table} SET actor = 'eve' WHERE position = {last}")
    other = open_log(target)
    assert other.import_from(file).resumed_at == 0
    assert records(other) == records(log)
