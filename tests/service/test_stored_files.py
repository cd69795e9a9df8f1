"""What is stored of models and images: who uses it, and reading it all to find what is damaged."""

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.cli.disk_tables import stored_files_table
from deployledger.adapters.local import LocalProcessOrchestrator
from deployledger.adapters.local.extraction import Unpacking, extracted_model
from deployledger.adapters.local.folders import DeploymentFolder
from deployledger.adapters.oci import extract_model
from deployledger.domain.findings import Outcome
from deployledger.domain.ports import ProvisionedTarget, ProvisionRequest, ReportProgress
from deployledger.domain.stored import Kind
from deployledger.service.files.staging import remove
from deployledger.service.stored_files import StoredFiles
from tests.adapters.files import rot
from tests.domain.given import BATCH_JOB, request
from tests.service.conftest import OpenService
from tests.service.test_rotten_bytes import FILES, Extracting, Setting, blob, setting, truncate

__all__ = ["setting"]


class Extracted(Extracting):
    """Extracts models as the orchestrator of this machine does, and starts no servers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._local = LocalProcessOrchestrator(folder, extract_model=extract_model)
        self.stored = self._local.stored

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        revision = DeploymentFolder(self.folder, request.deployment_id).revision(request.revision)
        await extracted_model(revision, request, Unpacking(extract_model))
        return await super(Extracting, self).provision(request, report)


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Return one kind of database: the files are the same on all."""
    return f"sqlite:///{tmp_path / 'events.db'}"


@pytest.fixture
async def service(setting: Setting, tmp_path: Path) -> MLModelDeploymentService:
    """A service with a deployment that serves its second revision, and one that was deleted."""
    setting.orchestrator = Extracted(tmp_path / "serving")
    service = setting.service()
    first = await setting.deployed(service)
    other = await setting.deployed(service, "other")
    await setting.updated(service, first.deployment_id)
    await service.delete_deployment(other.deployment_id)
    await service.wait_for_deployment(other.deployment_id, timeout=60)
    return service


def used(files: list[StoredFiles]) -> list[tuple[str, int | None, list[str]]]:
    return sorted(
        (
            it.stored.kind.value,
            it.stored.file_count,
            [
                f"{use.deployment_name} r{use.revision}{' serves' * use.serves}{' deleted' * use.deleted}"
                for use in it.used_by
            ],
        )
        for it in files
    )


async def test_everything_stored_is_listed_with_the_revisions_that_use_it(
    service: MLModelDeploymentService,
) -> None:
    listed = [it for it in await service.list_artifacts() if it.stored.kind is not Kind.EXTRACTED_MODEL]
    assert used(listed) == [
        ("image", None, ["iris r1", "other r1 deleted"]),
        ("image", None, ["iris r2 serves"]),
        ("image_index", None, []),
        ("model", 1, ["iris r2 serves"]),
        ("model", 2, ["iris r1", "other r1 deleted"]),
    ]
    sizes = {it.stored.file_count: it.stored.size_bytes for it in listed if it.stored.kind is Kind.MODEL}
    assert sizes == {1: len(b"another model"), 2: sum(map(len, FILES.values()))}


async def test_the_log_of_either_database_says_who_uses_a_model(
    empty_postgres_url: str, setting: Setting, open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_CREATE_SCHEMA", "true")
    setting._open = lambda *clients, **options: MLModelDeploymentService(
        *clients, database_url=empty_postgres_url, **options
    )
    async with setting.service() as service:
        await setting.deployed(service)
        models = [it for it in await service.list_artifacts() if it.stored.kind is Kind.MODEL]
        assert used(models) == [("model", 2, ["iris r1 serves"])]
        assert not any(it.is_problem for it in await service.verify_artifacts())


async def test_what_is_undamaged_is_counted_by_kind(service: MLModelDeploymentService) -> None:
    findings = await service.verify_artifacts()
    assert {it.outcome for it in findings} == {Outcome.OK}
    assert [it.message for it in findings if it.check == "model"] == ["2 models (1,093 bytes): undamaged."]
    assert {it.check for it in findings} == {"model", "image", "image_index", "extracted_model"}


def images(setting: Setting) -> list[Path]:
    return sorted((setting.home / "images/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)


def extracted(setting: Setting, name: str) -> Path:
    return next(setting.orchestrator.folder.glob(f"*/revisions/2/{name}"))


def rename_in_index(setting: Setting) -> None:
    index = setting.home / "images/index.json"
    index.write_text(index.read_text().replace("iris-r1", "iris-r0").replace("iris-r2", "iris-r1"))


DAMAGE: dict[str, tuple[Callable[[Setting], object], str, str]] = {
    "a file of a model": (lambda it: rot(blob(it)), "model", "model.onnx has changed since it was stored"),
    "a cut file": (lambda it: truncate(blob(it)), "model", "model.onnx has 10 bytes instead of 1000"),
    "a missing file": (lambda it: blob(it).unlink(), "model", "model.onnx is missing"),
    "a listing": (
        lambda it: rot(next((it.home / "artifacts/listings/sha256").iterdir())),
        "model",
        "has changed since it was stored",
    ),
    "a copy in a folder": (
        lambda it: _replace(next((it.home / "artifacts/folders/sha256").rglob("readme.txt"))),
        "model",
        "have changed since they were stored",
    ),
    "a layer": (lambda it: rot(images(it)[-1]), "image", "A layer has changed since it was packaged"),
    "every blob of the images": (lambda it: [rot(path) for path in images(it)], "image", "The manifest"),
    "a missing layer": (lambda it: images(it)[-1].unlink(), "image", "A layer is missing"),
    "the index": (
        lambda it: (it.home / "images/index.json").write_text("{"),
        "image_index",
        "index.json is not an OCI image index",
    ),
    "a name in the index": (rename_in_index, "image", "index.json names it 'iris-r1'"),
    "an extracted file": (
        lambda it: rot(extracted(it, "model/model.onnx")),
        "extracted_model",
        "model.onnx is damaged",
    ),
    "the listing beside it": (
        lambda it: rot(extracted(it, "model.listing")),
        "extracted_model",
        "do not belong to the model sha256:",
    ),
    "a listing that is none": (
        lambda it: extracted(it, "model.listing").write_bytes(b"\xff\n"),
        "extracted_model",
        "do not belong to the model sha256:",
    ),
    "the file where no listing is": (
        lambda it: (extracted(it, "model.listing").unlink(), rot(extracted(it, "model/model.onnx"))),
        "extracted_model",
        "do not belong to the model sha256:",
    ),
}


def _replace(path: Path) -> None:
    content = path.read_bytes()
    path.parent.chmod(0o755)
    path.unlink()
    path.write_bytes(content)
    rot(path)


async def test_any_damage_is_reported_with_the_file_who_uses_it_and_what_to_do(
    service: MLModelDeploymentService, setting: Setting, tmp_path: Path
) -> None:
    folders = [setting.home / "artifacts", setting.home / "images", setting.orchestrator.folder]
    for folder in folders:
        shutil.copytree(folder, tmp_path / "undamaged" / folder.name)
    for damage, (change, check, message) in DAMAGE.items():
        change(setting)
        before = set(setting.home.rglob("*"))
        problems = [it for it in await service.verify_artifacts() if it.is_problem]
        assert {it.check for it in problems} - {"unused_file"} == {check}, damage
        assert any(message in it.message for it in problems), (damage, problems)
        assert check == "image_index" or "iris r" in problems[0].message, damage
        assert all(it.hint for it in problems), damage
        assert set(setting.home.rglob("*")) == before  # it changes nothing
        for folder in folders:
            remove(folder)
            shutil.copytree(tmp_path / "undamaged" / folder.name, folder)
    assert not any(it.is_problem for it in await service.verify_artifacts())


async def test_damaged_blobs_are_found_although_the_index_is_damaged_too(
    service: MLModelDeploymentService, setting: Setting
) -> None:
    (setting.home / "images/index.json").write_text("{")
    rot(images(setting)[-1])
    problems = [it for it in await service.verify_artifacts() if it.is_problem]
    assert [it.check for it in problems] == ["image", "image_index"]  # the image is known by its manifest
    assert str(images(setting)[-1]) in problems[0].message


async def test_a_batch_job_serves_nothing(setting: Setting) -> None:
    service = setting.service()
    job = request(model_uri=str(setting.source), deployment_target_config=BATCH_JOB)
    answer = await service.deploy_model(job)
    await service.wait_for_deployment(answer.deployment_id, timeout=60)
    models = [it for it in await service.list_artifacts() if it.stored.kind is Kind.MODEL]
    assert used(models) == [("model", 2, ["iris r1"])]


async def test_models_not_stored_and_files_set_aside_are_warnings(
    service: MLModelDeploymentService, setting: Setting
) -> None:
    damaged = setting.home / "artifacts" / "damaged"
    damaged.mkdir()
    blob(setting).rename(damaged / "x")
    for listing in (setting.home / "artifacts/listings/sha256").iterdir():
        listing.unlink()
    findings = await service.verify_artifacts()
    warnings = [it for it in findings if it.outcome is Outcome.WARNING]
    assert not any(it.is_problem for it in findings)
    assert "1 damaged file that was set aside (1,000 bytes)" in warnings[0].message
    assert str(damaged / "x") in warnings[0].hint
    assert ["iris r1 is not stored" in it.message for it in warnings] == [False, True, False]
    assert str(setting.source) in warnings[1].hint


@pytest.mark.parametrize("width", [60, 80])
async def test_the_list_fits_a_narrow_terminal(service: MLModelDeploymentService, width: int) -> None:
    out = StringIO()
    Console(file=out, width=width).print(stored_files_table(await service.list_artifacts()), crop=False)
    lines = out.getvalue().splitlines()
    (path,) = [it for it in lines if it.startswith("image index: ")]
    assert path.endswith("index.json"), "a path can be copied"
    lines.remove(path)
    assert max(map(len, lines)) <= width
    assert any("model" in line and "iris r2 (serves)" in line for line in lines)


async def test_a_service_without_stores_has_nothing_to_list(open_service: OpenService) -> None:
    service = open_service()
    assert await service.list_artifacts() == []
    assert await service.verify_artifacts() == []
