"""What serves are links to the kept files; damage that they share is mended from the image."""

import os
from pathlib import Path
from uuid import UUID

import pytest

from deployledger.adapters.artifacts import LocalArtifactStore
from deployledger.adapters.local import LocalProcessOrchestrator
from deployledger.adapters.local.extraction import Unpacking, extracted_model, set_aside_if_damaged
from deployledger.adapters.local.folders import DeploymentFolder, RevisionFolder
from deployledger.adapters.oci import OciLayoutRegistry, extract_model
from deployledger.domain.ports import PackageRequest, ProvisionRequest
from deployledger.domain.requests import DeploymentTargetConfig
from deployledger.domain.stored import Decision, Verdict
from deployledger.serving.model_files import ModelFiles
from tests.adapters.files import rot

DEPLOYMENT = UUID(int=1)
TARGET = DeploymentTargetConfig(type="api_service")
JOB = TARGET.model_copy(update={"type": "batch_inference_job"})


class Served:
    """A model that is kept, packaged and extracted."""

    def __init__(self, root: Path) -> None:
        self.store = LocalArtifactStore(root / "artifacts")
        self.registry = OciLayoutRegistry(root / "images")
        self.folder: RevisionFolder = DeploymentFolder(root / "serving", DEPLOYMENT).revision(1)
        self.source = root / "source"
        self.source.mkdir()
        (self.source / "model.onnx").write_bytes(b"weights" * 1000)

    async def prepare(self, target: DeploymentTargetConfig = TARGET) -> None:
        artifact = await self.store.add(self.source, resolved_uri=str(self.source))
        path = await self.store.path_of(artifact.digest)
        assert path is not None
        image = await self.registry.build_and_push(
            PackageRequest(DEPLOYMENT, "iris", 1, artifact, path, target)
        )
        self.request = ProvisionRequest(DEPLOYMENT, "iris", 1, artifact, image, target)

    async def extract(self) -> ModelFiles:
        return await extracted_model(self.folder, self.request, Unpacking(extract_model, self.store))

    @property
    def file(self) -> Path:
        return self.folder.model / "model.onnx"

    @property
    def blob(self) -> Path:
        (blob,) = (self.folder.path.parents[3] / "artifacts/blobs/sha256").iterdir()
        return blob


@pytest.fixture
async def served(tmp_path: Path) -> Served:
    served = Served(tmp_path)
    await served.prepare()
    return served


async def test_what_serves_is_the_kept_file_and_read_only(served: Served) -> None:
    await served.extract()
    assert served.file.samefile(served.blob)
    assert served.file.stat().st_mode & 0o222 == 0


async def test_files_that_a_server_adds_or_replaces_do_not_reach_the_kept_ones(served: Served) -> None:
    await served.extract()
    (served.folder.model / "cache").write_bytes(b"cache")
    served.file.unlink()
    served.file.write_bytes(b"another")
    await served.store.verify(served.request.artifact.digest)


@pytest.mark.parametrize("damaged", ["both", "kept", "gone"])
async def test_shared_damage_is_mended_from_the_image_here_and_where_it_is_kept(
    served: Served, damaged: str
) -> None:
    if damaged == "both":
        await served.extract()
        rot(served.file)
        await set_aside_if_damaged(served.folder, served.request)
    elif damaged == "kept":
        rot(served.blob)
    else:
        served.blob.unlink()
    files = await served.extract()
    files.check()
    await served.store.verify(served.request.artifact.digest)
    assert served.file.samefile(served.blob)


async def test_a_disk_without_hard_links_serves_from_the_image(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    files = await served.extract()
    files.check()
    assert served.file.stat().st_nlink == 1


async def test_a_batch_job_of_root_has_files_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path)
    await served.prepare(JOB)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    await served.extract()
    assert served.file.stat().st_nlink == 1


async def test_what_a_killed_process_had_extracted_is_removed(served: Served) -> None:
    left = served.folder.path / ".model.partial.0123"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    await served.extract()
    assert not left.exists()


async def test_damaged_models_are_freed_and_what_serves_is_not(served: Served) -> None:
    await served.extract()
    served.folder.damaged_model.mkdir()
    root = served.folder.path.parents[2]
    orchestrator = LocalProcessOrchestrator(root, extract_model=extract_model)
    await orchestrator.free(lambda stored: [Decision(Verdict.FREE) for _ in stored], "")
    assert served.folder.model.exists()
    assert not served.folder.damaged_model.exists()
