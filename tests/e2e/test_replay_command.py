"""Replaying from the command line, and from Python."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.read_models import open_read_models
from deployledger.domain.exceptions import ConfigurationError, ResourceNotFoundError
from deployledger.domain.moments import AtRevision
from tests.domain.given import new_id, request
from tests.e2e.conftest import CommandLine
from tests.logs import records_of

WAIT = 60
EVENTS = 9


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A command line with a deployment that was updated. Tests only read it."""
    command_line = CommandLine(tmp_path_factory.mktemp("replay") / "home")

    async def fill() -> None:
        async with MLModelDeploymentService(
            home=command_line.home, database_url=_url(command_line), actor="ann"
        ) as service:
            first = await service.deploy_model(request())
            await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
            await service.update_deployment(first.deployment_id, request(model_uri="models:/iris/2"))
            await service.wait_for_deployment(first.deployment_id, timeout=WAIT)

    asyncio.run(fill())
    return command_line


def _url(cli: CommandLine) -> str:
    return f"sqlite:///{cli.home / 'deployledger.db'}"


def test_a_log_is_replayed(cli: CommandLine) -> None:
    done = cli.run("replay")
    assert done.returncode == 0
    found: dict[str, Any] = cli.json("replay", "--workers", "2")
    assert (found["events"], found["streams"], found["until"]) == (EVENTS, 2, EVENTS)
    assert (found["problems"], found["not_replayed"]) == ([], 0)
    first, digest, legal = done.stdout.splitlines()
    assert first.startswith("Replayed 9 events of 2 streams up to position 9 in ")
    assert digest == f"Digest of the states: {found['digest']}"
    assert legal == "Every history is legal under the lifecycle."


def test_until_a_moment(cli: CommandLine) -> None:
    assert cli.json("replay", "--until", "3")["events"] == 3
    assert cli.json("replay", "--until", "2000-01-01T00:00Z")["events"] == 0
    iris = cli.json("replay", "--deployment", "iris", "--until", "r1")
    assert (iris["events"], iris["streams"]) == (4, 1)
    refused = cli.run("replay", "--until", "r1")
    assert refused.returncode == 2
    assert "There is no revision 1 of all deployments" in refused.stderr
    assert cli.run("replay", "--until", "10").returncode == 2
    assert cli.run("replay", "--deployment", "rose").returncode == 3


def test_against_another_rule(cli: CommandLine) -> None:
    done = cli.run("replay", "--against", "examples.rules:no_unknown_team")
    assert done.returncode == 0, done.stderr
    assert "Under examples.rules:no_unknown_team, 2 events would have gone differently." in done.stdout
    assert "refused: flora is no team of ours." in done.stdout
    assert "Digest" not in done.stdout
    found = cli.json("replay", "--against", "examples.rules:no_unknown_team", "--workers", "2")
    assert [(it["position"], it["theirs"]) for it in found["differences"]] == [(1, None), (6, None)]
    assert found["digest"] is None
    refused = cli.run("replay", "--against", "examples.rules:nothing")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "cannot be imported" in refused.stderr


def test_into_another_database(cli: CommandLine, empty_postgres_url: str, tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path / 'other.db'}", empty_postgres_url):
        done = cli.run("replay", "--into", url)
        assert done.returncode == 0, done.stderr
        assert "deployment_status: rebuilt from 9 events" in done.stdout
        log = open_event_log(_url(cli))
        here, there = open_read_models(log), open_read_models(log, url=url)
        there.store.prepare([])
        for projection in here.projections.values():
            with there.store.applying([projection]) as applying:
                assert applying.is_there(projection), "nothing is built by looking at it"
                assert applying.mark(projection).position == EVENTS
            (key,) = {it.stream for it in records_of(log, limit=100) if "_name" not in it.topic}
            assert there.get(projection.name, key) == here.get(projection.name, key) is not None
        assert not any(it.differences for it in there.verify(list(there.projections)))
        here.store.close()
        there.store.close()
        log.close()


def test_not_into_the_same_database(cli: CommandLine) -> None:
    for suffix in ("", ".read-models"):
        refused = cli.run("replay", "--into", _url(cli) + suffix)
        assert refused.returncode == 2
        assert "projections rebuild" in refused.stderr
    assert cli.run("replay", "--into", "sqlite:///x.db", "--until", "3").returncode == 2
    assert not Path("x.db").exists()


def test_problems_are_named_with_exit_code_1(cli: CommandLine, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with (
        closing(sqlite3.connect(cli.home / "deployledger.db")) as source,
        closing(sqlite3.connect(copy)) as to,
    ):
        source.backup(to)
        for (name,) in to.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            to.execute(f"DROP TRIGGER {name}")
        to.execute("UPDATE events SET topic = 'deployment.deleted' WHERE position = 5")
        to.commit()
    damaged = CommandLine(tmp_path / "home", {"DEPLOYLEDGER_DATABASE_URL": f"sqlite:///{copy}"})
    done = damaged.run("replay")
    assert done.returncode == 1
    assert "1 problem; 5 events with or after them not replayed." in done.stdout
    assert "       5  Deleted            undecodable\n" in done.stdout
    found = damaged.json("replay", exit_code=1)
    (problem,) = found["problems"]
    assert (problem["position"], problem["stream_version"]) == (5, 4)
    assert (problem["kind"], found["not_replayed"]) == ("undecodable", 5)


def test_from_python(cli: CommandLine) -> None:
    async def replay() -> None:
        async with MLModelDeploymentService(home=cli.home, database_url=_url(cli), run_jobs=False) as service:
            iris = (await service.find_deployment("iris")).deployment_id
            assert (await service.replay()).digest == cli.json("replay")["digest"]
            assert (await service.replay(deployment_id=iris, until=AtRevision(1))).events == 4
            assert await service.position_at("2000-01-01T00:00Z") == 0
            assert await service.position_at("r1", deployment_id=iris) == 5
            with pytest.raises(ResourceNotFoundError):
                await service.replay(deployment_id=new_id())
            with pytest.raises(ConfigurationError):
                await service.replay(until=AtRevision(1))

    asyncio.run(replay())
