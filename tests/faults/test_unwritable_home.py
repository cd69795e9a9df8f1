"""A home that is read-only or full: what only reads goes on, and what writes says which folder it is."""

import asyncio
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import open_event_log
from deployledger.domain.exceptions import EventLogError, MachineLearningServiceError, ReadModelError
from deployledger.projections.read_models import ReadModels
from deployledger.projections.verifying import Difference, Verified
from deployledger.service.database_checks import check_database
from tests.domain.given import request as a_request
from tests.faults.audit import new_command
from tests.faults.conftest import SmallDisk

MakeUnwritable = Callable[[], Path]


@pytest.fixture(params=["read-only", "full"])
def make_unwritable(request: pytest.FixtureRequest, small_disk: SmallDisk) -> Iterator[MakeUnwritable]:
    """Yield what makes the home on the small disk unwritable, and returns where it is then."""
    view = small_disk.folder.with_name(f"{small_disk.folder.name}-view")

    def fill() -> Path:
        descriptor = os.open(small_disk.folder / "filling", os.O_CREAT | os.O_WRONLY)
        try:
            while True:
                os.write(descriptor, bytes(4096))
        except OSError:
            os.close(descriptor)
        return small_disk.folder / "home"

    def protect() -> Path:
        view.mkdir()
        subprocess.run(["mount", "--bind", small_disk.folder, view], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", view], check=True)
        return view / "home"

    yield fill if request.param == "full" else protect
    if view.exists():
        subprocess.run(["umount", "-l", view], check=True)
        view.rmdir()


def service_of(home: Path, url: str | None) -> MLModelDeploymentService:
    return MLModelDeploymentService.local(home=home, database_url=url, create_schema=True, resume=False)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    """The database: a file in the home, or one elsewhere."""
    return request.getfixturevalue("empty_postgres_url") if request.param == "postgres" else None


async def deploy(home: Path, url: str | None) -> UUID:
    """Deploy a model that cannot be fetched, so that nothing is served."""
    async with service_of(home, url) as service:
        accepted = await service.deploy_model(a_request(model_uri="/nowhere/iris.onnx"))
        await service.wait_for_deployment(accepted.deployment_id, timeout=60)
        service.ledger.root()
        return accepted.deployment_id


async def test_what_only_reads_goes_on(
    make_unwritable: MakeUnwritable, small_disk: SmallDisk, url: str | None
) -> None:
    deployment_id = await deploy(small_disk.folder / "home", url)
    home = make_unwritable()
    async with service_of(home, url) as service:
        assert len(await service.list_deployments()) == 1
        assert len(await service.list_deployments(as_of="2")) == 1
        assert (await service.get_deployment_status(deployment_id)).status == "failed"
        assert len(await service.get_deployment_history(deployment_id)) == 2
        assert (await service.replay()).events == service.event_log.position() == 3
        assert service.ledger.size() == 3
        assert await service.list_artifacts() == []
        assert not any(finding.is_problem for finding in check_database(service))


async def test_what_writes_names_the_folder(make_unwritable: MakeUnwritable, small_disk: SmallDisk) -> None:
    await deploy(small_disk.folder / "home", None)
    home = make_unwritable()
    async with service_of(home, None) as service:
        with pytest.raises(EventLogError) as refusal:
            await service.deploy_model(a_request(deployment_name="rose"))
    assert str(home / "deployledger.db") in refusal.value.message
    assert f"Make {home} writable, or free space" in refusal.value.hint
    assert "DEPLOYLEDGER_HOME" in refusal.value.hint


async def test_what_changes_read_models_is_refused(
    make_unwritable: MakeUnwritable, small_disk: SmallDisk
) -> None:
    deployment_id = str(await deploy(small_disk.folder / "home", None))
    home = make_unwritable()
    changes: list[Callable[[ReadModels], object]] = [
        lambda models: models.rebuild(list(models.projections)),
        lambda models: models.refold("deployment_status", [deployment_id]),
        lambda models: models.remove("deployment_list", 0),
        lambda models: models.repair(
            Verified("deployment_list", 3, 3, 1, (Difference(deployment_id, "", None, None),), 0.1)
        ),
        lambda models: models.prepare(),
        lambda models: models.follow(threading.Event()),
    ]
    for change in changes:
        async with service_of(home, None) as service:
            with pytest.raises((ReadModelError, EventLogError)) as refusal:
                await asyncio.to_thread(change, service.read_models)
            assert str(home) in refusal.value.message
            assert len(await service.list_deployments()) == 1  # questions are answered as before


async def test_a_job_in_such_a_home_fails_with_its_folder(
    make_unwritable: MakeUnwritable, small_disk: SmallDisk, empty_postgres_url: str, tmp_path: Path
) -> None:
    await deploy(small_disk.folder / "home", empty_postgres_url)
    model = tmp_path / "iris.onnx"
    model.write_bytes(bytes(10_000))
    home = make_unwritable()
    async with service_of(home, empty_postgres_url) as service:
        request = a_request(deployment_name="rose", model_uri=str(model))
        try:
            accepted = await service.deploy_model(request)
            status = await service.wait_for_deployment(accepted.deployment_id, timeout=60)
            said = status.message
        except MachineLearningServiceError as error:  # it may be found out before anything is accepted
            said = error.message
    assert str(home) in said


def test_rows_behind_the_log_are_completed_in_memory(
    make_unwritable: MakeUnwritable, small_disk: SmallDisk
) -> None:
    path = small_disk.folder / "home" / "deployledger.db"
    path.parent.mkdir()
    with closing(open_event_log(f"sqlite:///{path}")) as log:
        log.append(new_command(1))
    home = make_unwritable()
    service = MLModelDeploymentService(home=home, resume=False)
    for projection in service.read_models.projections.values():
        assert service.read_models.catch_up(projection) == service.event_log.position()


def test_a_file_that_is_written_meanwhile_is_not_read_on(
    make_unwritable: MakeUnwritable, small_disk: SmallDisk
) -> None:
    path = small_disk.folder / "home" / "deployledger.db"
    path.parent.mkdir()
    with closing(open_event_log(f"sqlite:///{path}")) as log:
        log.append(new_command(1))
    home = make_unwritable()
    with closing(open_event_log(f"sqlite:///{home / 'deployledger.db'}")) as reader:
        assert reader.position() == 1
        small_disk.resize(8)
        with closing(sqlite3.connect(path)) as another:  # as another process does
            another.execute("CREATE TABLE something (a)")
        with pytest.raises(EventLogError, match="has been written to since"):
            reader.position()
    with closing(open_event_log(f"sqlite:///{path}")) as log:
        log.append(new_command(1))
        assert log.position() == 2
