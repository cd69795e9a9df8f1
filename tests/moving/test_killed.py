"""An export or import that is killed: nothing half-done is ever visible, and nothing is left."""

import random
import shutil
import time
from pathlib import Path

import pytest

from deployledger.adapters.event_log import DatabaseEventLog
from deployledger.adapters.export import export_log, import_log
from deployledger.domain.exceptions import ConfigurationError, ConflictError
from tests.faults.conftest import times
from tests.faults.workers import start
from tests.moving.conftest import NewUrl, OpenLog
from tests.moving.dying import export_until, import_slowly, import_until
from tests.moving.examples import fill, keys, records, serving
from tests.moving.test_moving import answers

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
    export_log(found, tmp_path / "log.gz")
    return found, tmp_path / "log.gz"


# Export ---------------------------------------------------------------------------------------------


def test_an_export_that_was_killed_leaves_no_file_and_can_be_repeated(
    log: DatabaseEventLog, source: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    file = tmp_path / "log.gz"
    for events in (200, 400, 600):
        killed(export_until, source, file, events)
        assert not file.exists()
    log.append(serving(1))
    done = export_log(log, file)
    assert done.events == EVENTS + 4
    assert [path.name for path in tmp_path.glob("log.gz*")] == ["log.gz"]
    other = open_log(new_url("sqlite"))
    assert import_log(other, file).root == done.root
    assert (records(other), keys(other)) == (records(log), keys(log))


@pytest.mark.parametrize("what", ["an export", "a letter"])
def test_what_a_killed_export_left_is_replaced(
    what: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    log, other = open_log(new_url("sqlite")), open_log(new_url("sqlite"))
    fill(log, 3)
    fill(other, 5)
    partial = tmp_path / "log.gz.partial"
    export_log(other, tmp_path / "other.gz")
    shutil.move(tmp_path / "other.gz", partial)
    if what == "a letter":
        partial.write_bytes(b"a letter" * 1000)
    assert export_log(log, tmp_path / "log.gz").events == log.position()
    third = open_log(new_url("sqlite"))
    import_log(third, tmp_path / "log.gz")
    assert records(third) == records(log)


def test_an_export_that_fails_leaves_nothing(new_url: NewUrl, open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(new_url("sqlite"))
    fill(log, 3)

    def interrupt(doing: str, done: int, total: int, /) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_log(log, tmp_path / "log.gz", progress=interrupt)
    assert list(tmp_path.glob("log.gz*")) == []


# Import ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "events"),
    [("Importing", 1), ("Importing", 333), ("Importing", EVENTS), ("Checking", 1), ("before the commit", 0)],
)
async def test_an_import_that_was_killed_leaves_nothing_and_can_be_repeated(
    place: str,
    events: int,
    target: str,
    exported: tuple[DatabaseEventLog, Path],
    open_log: OpenLog,
) -> None:
    log, file = exported
    killed(import_until, target, file, place, events)
    other = open_log(target)
    assert (other.position(), keys(other)) == (0, [])
    import_log(other, file)
    assert (records(other), keys(other)) == (records(log), keys(log))
    assert await answers(target) == await answers(log.url)


def test_an_import_that_was_killed_when_it_was_complete_is_complete(
    target: str, exported: tuple[DatabaseEventLog, Path], open_log: OpenLog
) -> None:
    log, file = exported
    killed(import_until, target, file, "behind it", 0)
    other = open_log(target)
    assert (records(other), keys(other)) == (records(log), keys(log))
    with pytest.raises(ConflictError, match="has 606 events"):
        import_log(other, file)
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
        import_log(other, file)
    assert (records(other), keys(other)) == (records(log), keys(log))


def test_an_export_writes_through_no_link(new_url: NewUrl, open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(new_url("sqlite"))
    fill(log, 3)
    letter = tmp_path / "letter"
    letter.write_text("Dear auditor")
    (tmp_path / "log.gz.partial").symlink_to(letter)
    with pytest.raises(ConfigurationError, match=r"log\.gz\.partial cannot be written"):
        export_log(log, tmp_path / "log.gz")
    assert letter.read_text() == "Dear auditor"
    assert not (tmp_path / "log.gz").exists()
