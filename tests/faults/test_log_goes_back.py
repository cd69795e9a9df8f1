"""A log that is restored from a backup while it is open: what was built on the lost part is rebuilt."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.read_models import open_read_models
from deployledger.domain.exceptions import LogDivergedError, ResourceNotFoundError
from deployledger.domain.topics import COMMANDS
from deployledger.projections.read_models import ReadModels
from deployledger.projections.selection import Selection
from tests.domain.given import request, requested
from tests.faults.conftest import wait_until
from tests.faults.going_back import Backup
from tests.service.outside import HeldOrchestrator, eventually

EVERY_ROW = Selection(limit=1000)
WAIT = 10


@pytest.fixture
def log(database_url: str) -> Iterator[DatabaseEventLog]:
    log = open_event_log(database_url, create=True)
    yield log
    log.close()


@pytest.fixture(params=["beside", "elsewhere"])
def models(log: DatabaseEventLog, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReadModels]:
    """The read models where they belong, and in another database."""
    url = f"sqlite:///{tmp_path / 'rows.db'}" if request.param == "elsewhere" else None
    models = open_read_models(log, url=url)
    yield models
    models.store.close()


def append(log: DatabaseEventLog, *names: str) -> list[UUID]:
    """Append deployments, and return their ids."""
    ids = [uuid4() for _ in names]
    for deployment_id, name in zip(ids, names, strict=True):
        log.append([requested(name=name)(deployment_id, 1)])
    return ids


def names(models: ReadModels) -> list[str]:
    """Return the names of all deployments, as a list has them."""
    listed = models.projection("deployment_list")
    selected = models.select(listed, EVERY_ROW)
    assert selected.total == len(selected.rows)
    return [models.row_of(listed, it.row).name for it in selected.rows]


@pytest.mark.parametrize("later", [[], ["d"], ["d", "e"], ["d", "e", "f", "g"]])
def test_lists_and_rows_are_those_of_the_restored_log(
    log: DatabaseEventLog,
    models: ReadModels,
    later: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    append(log, "a")
    backup = Backup(log.url, tmp_path)
    lost, _ = append(log, "b", "c")
    assert names(models) == ["a", "b", "c"]
    backup.restore()
    added = append(log, *later)  # fewer, as many, and more events than were lost
    assert names(models) == ["a", *later]
    assert models.get("deployment_status", str(lost)) is None
    for deployment_id, name in zip(added, later, strict=True):
        assert models.get("deployment_status", str(deployment_id)).name == name
    timeline = models.projection("deployment_timeline")
    then = models.select_as_of(timeline, EVERY_ROW, log.position())
    assert [models.row_of(timeline, it.row).name for it in then.rows] == ["a", *later]
    assert not any(it.differences for it in models.verify(list(models.projections)))
    # Each of those that were read before is reported once: status and list.
    assert caplog.text.count("belongs to another event log") == 2


def test_a_single_row_is_that_of_the_restored_log(
    log: DatabaseEventLog, models: ReadModels, tmp_path: Path
) -> None:
    append(log, "a")
    backup = Backup(log.url, tmp_path)
    (lost,) = append(log, "b")
    assert models.get("deployment_status", str(lost)).name == "b"
    backup.restore()
    (found,) = append(log, "c")  # as many events as before
    assert models.get("deployment_status", str(lost)) is None
    assert models.get("deployment_status", str(found)).name == "c"


def test_a_log_that_was_emptied_while_it_was_open(
    log: DatabaseEventLog, models: ReadModels, tmp_path: Path
) -> None:
    assert log.position() == 0
    backup = Backup(log.url, tmp_path)
    append(log, "a", "b")
    assert names(models) == ["a", "b"]
    backup.restore()
    assert names(models) == []
    append(log, "c")
    assert names(models) == ["c"]


def test_read_models_that_the_restored_database_lacks_are_made(
    empty_postgres_url: str, tmp_path: Path
) -> None:
    log = open_event_log(empty_postgres_url, create=True)
    append(log, "a")
    models, backup = open_read_models(log), Backup(log.url, tmp_path)
    append(log, "b")
    assert names(models) == ["a", "b"]
    backup.restore()
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        tables = session.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'deployledger' "
            "AND (tablename LIKE 'read_model%' OR tablename LIKE 'deployment_%')"
        ).fetchall()
        for (table,) in tables:
            session.execute(SQL("DROP TABLE {}").format(Identifier("deployledger", table)))
    assert names(models) == ["a"]
    models.store.close()
    log.close()


def test_two_processes_report_and_rebuild_once(
    log: DatabaseEventLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (open_read_models(log) for _ in range(2))
    append(log, "a")
    backup = Backup(log.url, tmp_path)
    append(log, "b")
    assert names(one) == names(other) == ["a", "b"]
    backup.restore()
    append(log, "c")
    assert names(one) == names(other) == names(one) == ["a", "c"]
    assert caplog.text.count("belongs to another event log") == 2
    one.store.close()
    other.store.close()


def test_a_rebuild_replaces_rows_of_the_lost_part(
    log: DatabaseEventLog, models: ReadModels, tmp_path: Path
) -> None:
    append(log, "a")
    backup = Backup(log.url, tmp_path)
    append(log, "b", "c")
    assert names(models) == ["a", "b", "c"]
    backup.restore()
    append(log, "d")
    models.rebuild(["deployment_list"])
    assert names(models) == ["a", "d"]
    assert not any(it.differences for it in models.verify(["deployment_list", "deployment_status"]))


def test_a_log_that_goes_back_during_a_rebuild(
    log: DatabaseEventLog, models: ReadModels, tmp_path: Path
) -> None:
    append(log, "a")
    backup = Backup(log.url, tmp_path)
    append(log, "b", "c")
    restored: list[bool] = []

    def progress(done: int, total: int) -> None:
        if done and not restored:  # everything was read, and nothing switched
            restored.append(True)
            backup.restore()
            append(log, "d", "e", "f")

    assert names(models) == ["a", "b", "c"]
    models.rebuild(["deployment_list"], progress=progress)
    assert names(models) == ["a", "d", "e", "f"]
    assert not any(it.differences for it in models.verify(["deployment_list", "deployment_status"]))


@pytest.mark.parametrize("topics", [[], ["deployment.requested"], ["deployment.failed"]])
@pytest.mark.parametrize("later", [[], ["d"], ["d", "e"]])
def test_a_subscription_says_that_the_log_went_back(
    log: DatabaseEventLog, topics: list[str], later: list[str], tmp_path: Path
) -> None:
    append(log, "a")
    backup = Backup(log.url, tmp_path)
    append(log, "b")
    with log.follow(topics=topics) as follower:
        follower.next_batch(0)
        assert follower.position == 2
        backup.restore()
        append(log, *later)
        for _ in range(2):  # it does not go on with events that follow on others
            with pytest.raises(LogDivergedError, match="no longer has the event that was read at position 2"):
                follower.next_batch(0)
    with log.follow() as again:
        batch = again.next_batch(0)
        assert batch is not None
        assert len(batch.events) == 1 + len(later)


async def test_a_waiting_subscription_is_told(log: DatabaseEventLog, tmp_path: Path) -> None:
    await asyncio.to_thread(append, log, "a")
    backup = await asyncio.to_thread(Backup, log.url, tmp_path)
    await asyncio.to_thread(append, log, "b")
    follower = await asyncio.to_thread(log.follow, 2, topics=sorted(COMMANDS))
    with follower:
        waiting = asyncio.create_task(anext(follower))
        await asyncio.sleep(0)
        await asyncio.to_thread(backup.restore)
        with pytest.raises(LogDivergedError):
            await asyncio.wait_for(waiting, WAIT)


async def test_jobs_of_the_restored_log_are_taken_up(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = HeldOrchestrator()
    cluster.provisioning.shut()
    service = MLModelDeploymentService(None, None, cluster, database_url=database_url)
    kept = await service.deploy_model(request(deployment_name="kept"))
    await eventually(lambda: cluster.provisioning.arrivals == 1)
    backup = await asyncio.to_thread(Backup, database_url, tmp_path)
    cluster.provisioning.open()
    status = await service.wait_for_deployment(kept.deployment_id, timeout=WAIT)
    assert status.status == "active"
    cluster.provisioning.shut()
    lost = await service.deploy_model(request(deployment_name="lost"))
    await eventually(lambda: cluster.provisioning.arrivals == 2)
    with caplog.at_level(logging.WARNING):
        await asyncio.to_thread(backup.restore)
        # What was provisioned is in progress again, and the job of what is gone ends.
        await eventually(lambda: cluster.provisioning.arrivals == 3)
        cluster.provisioning.open()
        status = await service.wait_for_deployment(kept.deployment_id, timeout=WAIT)
        assert status.status == "active"
        await eventually(lambda: f"The job of deployment {lost.deployment_id} ended" in caplog.text)
    assert [it.deployment_name for it in await service.list_deployments()] == ["kept"]
    with pytest.raises(ResourceNotFoundError):
        await service.get_deployment_status(lost.deployment_id)
    again = await service.deploy_model(request(deployment_name="lost"))  # its name is free
    await service.wait_for_deployment(again.deployment_id, timeout=WAIT)
    assert caplog.text.count("Jobs start over from what the event log has now") == 1
    await service.close()


async def test_jobs_are_taken_up_although_the_log_was_missing_meanwhile(
    empty_postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(open_event_log(empty_postgres_url, create=True)) as log:
        assert log.position() == 0
    cluster = HeldOrchestrator()
    cluster.provisioning.shut()
    service = MLModelDeploymentService(None, None, cluster, database_url=empty_postgres_url)
    kept = await service.deploy_model(request(deployment_name="kept"))
    await eventually(lambda: cluster.provisioning.arrivals == 1)
    backup = await asyncio.to_thread(Backup, empty_postgres_url, tmp_path)
    cluster.provisioning.open()
    await service.wait_for_deployment(kept.deployment_id, timeout=WAIT)
    cluster.provisioning.shut()

    def replace_by_a_longer_log() -> None:
        with psycopg.connect(empty_postgres_url, autocommit=True) as session:
            session.execute("ALTER TABLE deployledger.events RENAME TO events_away")
            with caplog.at_level(logging.WARNING):
                wait_until(lambda: "Commands of other processes are not picked up" in caplog.text)
            session.execute("ALTER TABLE deployledger.events_away RENAME TO events")
        backup.restore()
        with closing(open_event_log(empty_postgres_url)) as log:
            append(log, *"abcdefgh")

    await asyncio.to_thread(replace_by_a_longer_log)
    await eventually(lambda: "Jobs start over from what the event log has now" in caplog.text)
    cluster.provisioning.open()
    status = await service.wait_for_deployment(kept.deployment_id, timeout=WAIT)
    assert status.status == "active"
    await service.close()


async def test_whoever_watches_a_deployment_is_told_that_it_is_gone(
    database_url: str, tmp_path: Path
) -> None:
    cluster = HeldOrchestrator()
    cluster.provisioning.shut()
    service = MLModelDeploymentService(None, None, cluster, database_url=database_url)
    await service.list_deployments()
    backup = await asyncio.to_thread(Backup, database_url, tmp_path)
    lost = await service.deploy_model(request())
    watched = service.watch_deployment(lost.deployment_id)
    await anext(watched)
    await asyncio.to_thread(backup.restore)
    with pytest.raises(LogDivergedError, match=f"no longer has deployment {lost.deployment_id}"):
        async for _ in watched:
            pass
    await service.close()


async def test_a_command_on_the_restored_log_is_decided_anew(database_url: str, tmp_path: Path) -> None:
    service = MLModelDeploymentService(database_url=database_url)
    first = await service.deploy_model(request(), idempotency_key="first")
    await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
    backup = await asyncio.to_thread(Backup, database_url, tmp_path)
    second = await service.deploy_model(request(deployment_name="rose"), idempotency_key="second")
    await service.wait_for_deployment(second.deployment_id, timeout=WAIT)
    await service.update_deployment(first.deployment_id, request())
    await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
    await asyncio.to_thread(backup.restore)
    updated = await service.update_deployment(first.deployment_id, request())
    assert updated.revision == 2
    repeated = await service.deploy_model(request(), idempotency_key="first")
    assert repeated.deployment_id == first.deployment_id
    anew = await service.deploy_model(request(deployment_name="rose"), idempotency_key="second")
    assert anew.deployment_id != second.deployment_id
    await service.close()
