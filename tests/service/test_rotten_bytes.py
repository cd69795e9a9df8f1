"""What is stored of a model is damaged behind the service's back: nothing ever serves it."""

import asyncio
import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import DeploymentStatusResponse
from deployledger.adapters.artifacts import LocalArtifactStore
from deployledger.adapters.oci import OciLayoutRegistry, extract_model
from deployledger.domain.ports import (
    Observation,
    PackageRequest,
    ProvisionedTarget,
    ProvisionRequest,
    ReportProgress,
)
from deployledger.domain.reasons import FailureReason
from deployledger.domain.values import Image
from deployledger.service.files.staging import remove
from tests.adapters.files import rot
from tests.domain.given import request
from tests.service.conftest import OpenService
from tests.service.outside import HeldOrchestrator, eventually

FILES = {"model.onnx": b"0123456789" * 100, "notes/readme.txt": b"iris" * 20}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Return one kind of database: the files are the same on all."""
    return f"sqlite:///{tmp_path / 'events.db'}"


class Extracting(HeldOrchestrator):
    """Loads what is in the image, and remembers what that was."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.serves: dict[str, bytes] = {}
        self.is_damaged = False

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        folder = self.folder / str(request.deployment_id)
        shutil.rmtree(folder, ignore_errors=True)
        extract_model(request.image.reference, folder)
        self.serves = read(folder)
        self.is_damaged = False
        return await super().provision(request, report)

    async def observe(self, deployment_id: UUID) -> Observation:
        observed = await super().observe(deployment_id)
        return Observation(observed.running, observed.revision, damaged=self.is_damaged)


class ForeignRegistry:
    """A registry client of a user: it believes what it is given, and says nothing of checks."""

    def __init__(self, folder: Path) -> None:
        self._registry = OciLayoutRegistry(folder)
        self.packaged: list[dict[str, bytes]] = []

    async def build_and_push(self, request: PackageRequest) -> Image:
        self.packaged.append(read(request.model_path))
        return await self._registry.build_and_push(request)


class Setting:
    """A service over real stores, and the model that it deploys."""

    def __init__(self, tmp_path: Path, open_service: OpenService) -> None:
        self.home = Path(os.environ["DEPLOYLEDGER_HOME"])
        self.source = tmp_path / "source"
        self.orchestrator = Extracting(tmp_path / "extracted")
        self._open = open_service
        write(self.source, FILES)

    def service(self, registry: object | None = None) -> MLModelDeploymentService:
        from deployledger.adapters.mlflow import MlflowModelRegistryClient

        images = registry or OciLayoutRegistry(self.home / "images")
        return self._open(MlflowModelRegistryClient(), images, self.orchestrator)

    async def deployed(
        self, service: MLModelDeploymentService, name: str = "iris"
    ) -> DeploymentStatusResponse:
        answer = await service.deploy_model(request(model_uri=str(self.source), deployment_name=name))
        return await service.wait_for_deployment(answer.deployment_id, timeout=60)

    async def updated(
        self, service: MLModelDeploymentService, deployment_id: UUID, name: str = "iris"
    ) -> None:
        other = self.source.with_name("other")
        write(other, {"model.onnx": b"another model"})
        await service.update_deployment(deployment_id, request(model_uri=str(other), deployment_name=name))
        assert (await service.wait_for_deployment(deployment_id, timeout=60)).status == "active"

    async def rolled_back(
        self, service: MLModelDeploymentService, deployment_id: UUID
    ) -> DeploymentStatusResponse:
        await service.rollback_deployment(deployment_id, 1)
        return await service.wait_for_deployment(deployment_id, timeout=60)

    def stored(self, content: bytes) -> list[Path]:
        """Return every stored file with this content, or with it inside."""
        return [
            path
            for top in ("artifacts", "images")
            for path in (self.home / top).rglob("*")
            if path.is_file() and "damaged" not in path.parts and content in path.read_bytes()
        ]


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read(folder: Path) -> dict[str, bytes]:
    return {str(it.relative_to(folder)): it.read_bytes() for it in folder.rglob("*") if it.is_file()}


@pytest.fixture
def setting(tmp_path: Path, open_service: OpenService) -> Setting:
    return Setting(tmp_path, open_service)


def blob(setting: Setting) -> Path:
    return next(
        it for it in setting.stored(FILES["model.onnx"]) if "blobs" in it.parts and "images" not in it.parts
    )


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 10)


def replace_by_copy(path: Path) -> None:
    """Rot only one of the hard links: the file under the model's own name."""
    content = path.read_bytes()
    path.parent.chmod(0o755)
    path.unlink()
    path.write_bytes(content)
    rot(path)


def each(damage: Callable[[Path], None], *folders: Path) -> None:
    for path in [it for folder in folders for it in folder.rglob("*") if it.is_file()]:
        damage(path)


DAMAGE: dict[str, Callable[[Setting], None]] = {
    "a blob rots": lambda setting: rot(blob(setting)),
    "a blob is cut": lambda setting: truncate(blob(setting)),
    "a blob is gone": lambda setting: blob(setting).unlink(),
    "all blobs rot": lambda setting: each(rot, setting.home / "artifacts" / "blobs"),
    "a listing rots": lambda setting: each(rot, setting.home / "artifacts" / "listings"),
    "a file in the folder rots": lambda setting: each(
        replace_by_copy, setting.home / "artifacts" / "folders"
    ),
    "blobs and listing are gone": lambda setting: remove(setting.home / "artifacts"),
    "all of the image rots": lambda setting: each(rot, setting.home / "images" / "blobs"),
    "all of it rots": lambda setting: each(
        rot,
        *(setting.home / "artifacts" / kind for kind in ("blobs", "listings")),
        setting.home / "images/blobs",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_rollback_to_damaged_files_serves_the_right_ones(setting: Setting, damage: str) -> None:
    service = setting.service()
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    DAMAGE[damage](setting)
    back = await setting.rolled_back(service, first.deployment_id)
    assert (back.status, back.serving_artifact_digest) == ("active", first.artifact_digest)
    assert setting.orchestrator.serves == FILES


@pytest.mark.parametrize("damage", ["a blob rots", "a file in the folder rots", "all of it rots"])
async def test_a_fresh_deploy_over_damaged_files_serves_the_right_ones(setting: Setting, damage: str) -> None:
    service = setting.service()
    first = await setting.deployed(service)
    DAMAGE[damage](setting)
    again = await setting.deployed(service, "again")
    assert (again.status, again.artifact_digest) == ("active", first.artifact_digest)
    assert setting.orchestrator.serves == FILES


async def test_damage_that_cannot_be_mended_fails_and_names_the_file(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    service = setting.service()
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    damaged = blob(setting)
    rot(damaged)
    rotten = damaged.read_bytes()
    DAMAGE["all of the image rots"](setting)
    shutil.rmtree(setting.source)

    failed = await setting.rolled_back(service, first.deployment_id)

    assert failed.failure is not None
    assert failed.failure.reason is FailureReason.ARTIFACT_DAMAGED
    assert "model.onnx had changed since it was stored" in failed.failure.message
    assert "could not be fetched again" in failed.failure.message
    assert "deployment 'iris'" in failed.failure.message
    assert str(setting.source) in failed.failure.hint
    aside = setting.home / "artifacts" / "damaged" / damaged.name
    assert str(aside) in failed.failure.message
    assert aside.read_bytes() == rotten
    assert not damaged.exists()
    assert setting.orchestrator.serves == {"model.onnx": b"another model"}

    # As the hint says: the files are restored, and the step is tried again.
    write(setting.source, FILES)
    await service.retry_deployment(first.deployment_id)
    assert (await service.wait_for_deployment(first.deployment_id, timeout=60)).status == "active"
    assert setting.orchestrator.serves == FILES


async def test_damage_is_not_mended_from_a_source_that_has_other_files_now(setting: Setting) -> None:
    service = setting.service()
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    DAMAGE["all of it rots"](setting)
    write(setting.source, {"model.onnx": b"trained again"})
    failed = await setting.rolled_back(service, first.deployment_id)
    assert failed.failure is not None
    assert failed.failure.reason is FailureReason.ARTIFACT_DAMAGED
    assert "no longer the one that was deployed" in failed.failure.message
    assert setting.orchestrator.serves == {"model.onnx": b"another model"}


NOW: dict[str, Callable[[Setting], None]] = {
    "gone": lambda setting: shutil.rmtree(setting.source),
    "another model": lambda setting: write(setting.source, {"model.onnx": b"trained again"}),
}


@pytest.mark.parametrize("source", NOW)
@pytest.mark.parametrize("damage", ["a blob rots", "all blobs rot", "blobs and listing are gone"])
async def test_damage_is_mended_from_the_image_when_the_source_cannot_help(
    setting: Setting, damage: str, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    service = setting.service()
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    NOW[source](setting)
    DAMAGE[damage](setting)
    with caplog.at_level(logging.WARNING, "ml_model_deployment_service.artifacts"):
        back = await setting.rolled_back(service, first.deployment_id)
    assert (back.status, back.serving_artifact_digest) == ("active", first.artifact_digest)
    assert setting.orchestrator.serves == FILES
    assert any("It was taken from its image oci:" in it for it in caplog.messages)
    await LocalArtifactStore(setting.home / "artifacts").verify(first.artifact_digest or "")
    assert list((setting.home / "downloads").iterdir()) == []


async def test_a_retry_takes_one_damaged_file_from_the_image(setting: Setting) -> None:
    setting.source = setting.source / "model.onnx"
    service = setting.service()
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    setting.source.unlink()
    image = next(it for it in setting.stored(FILES["model.onnx"]) if "images" in it.parts)
    whole = image.read_bytes()
    rot(image)
    rot(blob(setting))
    assert (await setting.rolled_back(service, first.deployment_id)).status == "failed"
    image.unlink(missing_ok=True)
    image.write_bytes(whole)
    await service.retry_deployment(first.deployment_id)
    assert (await service.wait_for_deployment(first.deployment_id, timeout=60)).status == "active"
    assert setting.orchestrator.serves == {"model.onnx": FILES["model.onnx"]}


async def test_a_repair_is_reported_with_both_files(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    service = setting.service()
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    damaged = blob(setting)
    rot(damaged)
    with caplog.at_level(logging.WARNING, "ml_model_deployment_service.artifacts"):
        await setting.rolled_back(service, first.deployment_id)
    aside = setting.home / "artifacts" / "damaged" / damaged.name
    assert any(
        f"model.onnx had changed since it was stored and was moved to {aside}" in it
        and f"It was fetched again from {setting.source}" in it
        for it in caplog.messages
    )


async def test_a_registry_that_hashes_nothing_is_given_files_that_were_hashed(setting: Setting) -> None:
    registry = ForeignRegistry(setting.home / "images")
    service = setting.service(registry)
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    rot(blob(setting))
    await setting.rolled_back(service, first.deployment_id)
    assert registry.packaged[-1] == FILES
    assert setting.orchestrator.serves == FILES


async def test_damage_that_cannot_be_set_aside_is_not_served(setting: Setting) -> None:
    service = setting.service()
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    rot(blob(setting))
    (setting.home / "artifacts" / "damaged").write_text("a file where the folder should be")
    failed = await setting.rolled_back(service, first.deployment_id)
    assert failed.failure is not None
    assert failed.failure.reason is FailureReason.ARTIFACT_DAMAGED
    assert (
        "model.onnx has changed since it was stored and cannot be moved aside: File "
        "exists" in failed.failure.message
    )
    assert setting.orchestrator.serves == {"model.onnx": b"another model"}


async def test_services_that_find_the_same_damage_at_once_mend_it_once(setting: Setting) -> None:
    services = [setting.service() for _ in range(3)]
    deployed = [await setting.deployed(each, f"iris-{n}") for n, each in enumerate(services)]
    for each, status in zip(services, deployed, strict=True):
        await setting.updated(each, status.deployment_id, status.deployment_name)
    rot(blob(setting))
    back = await asyncio.gather(
        *(
            setting.rolled_back(each, status.deployment_id)
            for each, status in zip(services, deployed, strict=True)
        )
    )
    assert [it.status for it in back] == ["active"] * 3
    assert setting.orchestrator.serves == FILES
    assert len(list((setting.home / "artifacts" / "damaged").iterdir())) == 1
    assert not any(it.is_problem for it in await services[0].verify_artifacts())


async def test_files_that_the_disk_does_not_give_back_are_fetched_again(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = setting.service()
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    bad = blob(setting).stat().st_ino
    open_file = Path.open

    def fail_on_the_bad_sector(path: Path, *args: Any, **options: Any) -> Any:
        if path.exists() and path.stat().st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_file(path, *args, **options)

    monkeypatch.setattr(Path, "open", fail_on_the_bad_sector)
    back = await setting.rolled_back(service, first.deployment_id)
    assert back.status == "active"
    assert setting.orchestrator.serves == FILES


class Forgetful(OciLayoutRegistry):
    """Builds another image each time."""

    builds = 0

    async def build_and_push(self, request: PackageRequest) -> Image:
        image = await super().build_and_push(request)
        self.builds += 1
        digest = f"sha256:{self.builds:064}"
        return image.model_copy(update={"digest": digest, "reference": image.reference[:-64] + digest[-64:]})


async def test_an_image_that_differs_from_the_one_in_the_log_is_not_provisioned(setting: Setting) -> None:
    setting.orchestrator = HeldOrchestrator()  # type: ignore[assignment]
    service = setting.service(Forgetful(setting.home / "images"))
    first = await setting.deployed(service)
    await setting.updated(service, first.deployment_id)
    failed = await setting.rolled_back(service, first.deployment_id)
    assert failed.failure is not None
    assert failed.failure.reason is FailureReason.ARTIFACT_DAMAGED
    assert f"is sha256:{3:064}, but was sha256:{1:064} before" in failed.failure.message


async def test_images_of_one_model_that_differ_between_deployments_are_reported(setting: Setting) -> None:
    setting.orchestrator = HeldOrchestrator()  # type: ignore[assignment]
    service = setting.service(Forgetful(setting.home / "images"))
    await setting.deployed(service)
    await setting.deployed(service, "other")
    warnings = [it.message for it in await service.verify_artifacts() if it.check == "image"]
    assert any(
        f"was packaged as sha256:{1:064} for iris r1, and as sha256:{2:064} for other r1" in it
        for it in warnings
    )


@pytest.mark.parametrize("damage", ["all of the image rots", "all of it rots"])
async def test_an_opened_service_serves_right_files_despite_all_damage(setting: Setting, damage: str) -> None:
    service = setting.service()
    first = await setting.deployed(service)
    await service.close()
    DAMAGE[damage](setting)
    setting.orchestrator.serves = {}
    setting.orchestrator.is_damaged = True
    async with setting.service() as service:
        await service.settled(first.deployment_id)
        await eventually(lambda: setting.orchestrator.serves == FILES)
