"""A bit of what is derived from the log flips on the disk: nothing wrong is ever answered."""

import asyncio
import logging
import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.read_models import open_read_models
from deployledger.adapters.read_models import sqlite as sqlite_store
from deployledger.domain.exceptions import MachineLearningServiceError, ReadModelError
from deployledger.domain.findings import Outcome
from deployledger.projections.read_models import ReadModels
from deployledger.projections.selection import Condition, Selection
from tests.domain.given import request

DEPLOYMENTS = 12
FLIPS = 120
NAMES = ("deployment_list", "deployment_status", "deployment_timeline")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of a few deployments, with read models that are up to date, which nobody uses."""
    path = tmp_path_factory.mktemp("flipped") / "log.db"

    async def fill() -> None:
        async with MLModelDeploymentService(database_url=f"sqlite:///{path}", run_jobs=False) as service:
            for number in range(DEPLOYMENTS):
                made = await service.deploy_model(request(deployment_name=f"iris-{number}"))
                if number % 3 == 0:
                    await service.cancel_deployment(made.deployment_id)
            for name in NAMES:
                service.read_models.catch_up(service.read_models.projection(name))

    asyncio.run(fill())
    return path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    for file in filled.parent.glob("log.db*"):
        if file.is_file():
            shutil.copy(file, tmp_path / file.name)
    return tmp_path / "log.db"


class Reader:
    """Opens a log and its read models."""

    def __init__(self, path: Path) -> None:
        self.log: DatabaseEventLog = open_event_log(f"sqlite:///{path}")
        self.models: ReadModels = open_read_models(self.log)

    def close(self) -> None:
        self.models.store.close()
        self.log.close()

    def answers(self) -> list[Any]:
        """Ask for everything that can be asked for."""
        models = self.models
        names, status, timeline = (models.projection(name) for name in NAMES)
        found: list[Any] = []
        for conditions in (
            (),
            (Condition("name", "contains", "iris-1"),),
            (Condition("state", "=", "cancelled"),),
        ):
            selected = models.select(names, Selection(conditions=conditions, descending=True), answer=status)
            found.append((selected.total, [models.row_of(status, it.row) for it in selected.rows]))
        for as_of in (2, 20):
            past = models.select_as_of(timeline, Selection(limit=5), as_of)
            found.append((past.total, [models.row_of(timeline, it.row) for it in past.rows]))
        found += [models.get("deployment_status", str(it.deployment_id)) for it in found[0][1]]
        return [*found, [(it.name, it.position, it.rows, it.parked) for it in models.status()]]


def answers(path: Path) -> list[Any]:
    with closing(Reader(path)) as reader:
        return reader.answers()


def flip(file: Path, content: bytes, at: int, bit: int) -> None:
    for ending in ("-wal", "-shm"):
        file.with_name(f"{file.name}{ending}").unlink(missing_ok=True)
    flipped = bytearray(content)
    flipped[at] ^= 1 << bit
    file.write_bytes(flipped)


def read_models_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.read-models")


def change(path: Path, statement: str) -> None:
    """Change what is in the file of read models, as damage does: no checksum is changed with it."""
    with closing(sqlite3.connect(read_models_of(path), isolation_level=None)) as database:
        tables = {
            name.rpartition("_v")[0]: name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name.rpartition("_")[2].isdigit()
        }
        for name, table in tables.items():
            statement = statement.replace(f"@{name}", table)
        assert database.execute(statement).rowcount > 0


def test_no_flipped_bit_of_the_read_models_changes_an_answer(path: Path) -> None:
    file = read_models_of(path)
    expected, content = answers(path), file.read_bytes()
    at_random = random.Random(7)
    came = Counter[str]()
    for at in at_random.sample(range(100, len(content)), FLIPS):
        flip(file, content, at, at_random.randrange(8))
        assert answers(path) == expected, at
        came["rebuilt" if file.read_bytes()[: len(content)] != content else "unharmed"] += 1
    assert came["rebuilt"] > FLIPS // 10


def test_a_flipped_bit_of_the_files_header_is_harmless_mended_or_an_error(path: Path) -> None:
    file = read_models_of(path)
    expected, content = answers(path), file.read_bytes()
    for at in (0, 15, 16, 18, 19, 20, 21, 24, 28, 31, 36, 40, 44, 47, 52, 56, 59, 60, 63, 68, 92, 99):
        flip(file, content, at, at % 8)
        with suppress(ReadModelError):
            assert answers(path) == expected, at


DAMAGE = {
    "a state": "UPDATE @deployment_status SET state = replace(state, 'iris', 'rose')",
    "a column": "UPDATE @deployment_status SET position = position + 1",
    "a column that selects": "UPDATE @deployment_list SET c_name = 'iris-1x' WHERE c_name = 'iris-3'",
    "the order": "UPDATE @deployment_list SET first_position = 1000 WHERE c_name = 'iris-3'",
    "a key": "UPDATE @deployment_status SET key = 'x' WHERE position = 4",
    "a count": "UPDATE read_models SET total = total + 1",
    "a count of the deleted": "UPDATE read_models SET counted = counted + 1",
    "a checksum": "UPDATE @deployment_status SET checksum = 1",
    "a row of the past": "UPDATE @deployment_timeline_past SET state = state || ' '",
    "the position": "UPDATE read_models SET position = position + 1",
    "the generation": "UPDATE read_models SET generation = generation + 1",
    "a missing row": "DELETE FROM @deployment_list WHERE c_name = 'iris-3'",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_rows_of_a_large_file_are_rebuilt_when_they_are_read(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = answers(path)
    change(path, DAMAGE[name])
    monkeypatch.setattr(sqlite_store, "CHECKED_WHOLE_BYTES", 0)
    with caplog.at_level(logging.WARNING, logger="ml_model_deployment_service.read_models"):
        assert answers(path) == expected
        assert answers(path) == expected
    said = [
        it.getMessage() for it in caplog.records if "They are rebuilt from the event log." in it.getMessage()
    ]
    assert len(said) == 1
    assert said[0].startswith(f"The read models in {read_models_of(path)} are damaged: ")


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_earlier_version_is_rebuilt(
    path: Path, version: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = answers(path)
    with closing(sqlite3.connect(read_models_of(path))) as database:
        database.execute("CREATE TABLE deployment_list_v1_1_counts (block INTEGER)")
        database.execute(f"PRAGMA user_version = {version}")
    with caplog.at_level(logging.WARNING, logger="ml_model_deployment_service.read_models"):
        assert answers(path) == expected
    assert caplog.records == []
    with closing(sqlite3.connect(read_models_of(path))) as database:
        left = "SELECT count(*) FROM sqlite_master WHERE name LIKE '%_counts'"
        assert database.execute(left).fetchone() == (0,)


def test_a_process_with_the_file_open_continues_after_its_renewal(path: Path) -> None:
    expected = answers(path)
    with closing(Reader(path)) as running, closing(Reader(path)) as other:
        assert running.answers() == other.answers() == expected
        change(path, DAMAGE["a state"])
        assert other.answers() == expected
        assert running.answers() == expected


def test_a_file_of_somebody_else_is_never_replaced(path: Path, tmp_path: Path) -> None:
    for content in (b"This is not a database. " * 500, b""):
        file = tmp_path / "notes.txt"
        file.write_bytes(content)
        log = open_event_log(f"sqlite:///{path}")
        models = open_read_models(log, url=f"sqlite:///{file}")
        if content:
            with pytest.raises(ReadModelError, match="it has never had read models"):
                models.get("deployment_status", str(UUID(int=1)))
            assert file.read_bytes() == content
        models.store.close()
        log.close()
    with closing(sqlite3.connect(tmp_path / "theirs.db")) as database:
        database.executescript("CREATE TABLE theirs (x); PRAGMA user_version = 1")
    log = open_event_log(f"sqlite:///{path}")
    models = open_read_models(log, url=f"sqlite:///{tmp_path / 'theirs.db'}")
    with pytest.raises(ReadModelError, match="it has never had read models"):
        models.get("deployment_status", str(UUID(int=1)))
    models.store.close()
    log.close()


def test_a_check_reports_damage_and_leaves_it_there(path: Path) -> None:
    change(path, DAMAGE["a state"])
    with closing(Reader(path)) as reader:
        for _ in range(2):
            (finding,) = reader.models.store.findings()
            assert finding.outcome is Outcome.PROBLEM
            assert "does not match its checksum" in finding.message


def test_no_flipped_bit_of_the_log_changes_an_earlier_answer(path: Path) -> None:
    expected, content, at_random = answers(path), path.read_bytes(), random.Random(3)
    for at in at_random.sample(range(len(content)), FLIPS // 3):
        flip(path, content, at, at_random.randrange(8))
        with suppress(MachineLearningServiceError):
            assert answers(path) == expected, at
