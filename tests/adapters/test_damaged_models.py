"""Extracted models that are damaged: every start checks what it loads, and mends what it can."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from deployledger.adapters.local import LocalProcessOrchestrator
from deployledger.adapters.local.extraction import Unpacking, extracted_model, set_aside_if_damaged
from deployledger.adapters.local.folders import DeploymentFolder, RevisionFolder
from deployledger.adapters.local.inspection import extracted_models
from deployledger.domain.exceptions import DeploymentError
from deployledger.domain.reasons import FailureReason
from deployledger.service.files.listing import FileEntry, encode_listing, list_files, tree_digest
from deployledger.service.files.locks import lock_despite_probes
from deployledger.serving import ModelDamagedError, ModelFiles
from deployledger.serving.batch import run
from deployledger.serving.batch_scoring import BatchJob
from deployledger.serving.batch_status import StatusFile
from tests.adapters.files import rot
from tests.adapters.test_batch import request as job
from tests.adapters.test_batch import row_maxima
from tests.adapters.test_local_orchestrator import (
    adds,
    ask,
    eventually,
    extract,
    ignore,
    order,
    processes_of,
    replicas_of,
)
from tests.adapters.wrong_kinds import KINDS, is_untouched, replace, users_folder

MODEL = {"MLmodel": b"flavors: {}\n", "data/model.onnx": b"weights" * 10, "code/a.py": b"x = 1\n"}


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    folder = tmp_path / "model"
    for name, content in MODEL.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    listing = encode_listing(list_files(folder))
    (tmp_path / "model.listing").write_bytes(listing)
    return ModelFiles(folder, tmp_path / "model.listing", tree_digest(listing))


# --- the check


def test_undamaged_files_are_read_as_they_are(files: ModelFiles) -> None:
    files.check()
    for name, content in MODEL.items():
        assert files.check_and_read(files.folder / name) == content


def replaced_by_link(files: ModelFiles) -> None:
    copy = files.folder.with_name("copy")
    (files.folder / "data").rename(copy)
    (files.folder / "data").symlink_to(copy)


def replaced_by_folder(files: ModelFiles) -> None:
    (files.folder / "MLmodel").unlink()
    (files.folder / "MLmodel").mkdir()


DAMAGE: dict[str, tuple[Callable[[ModelFiles], object], str]] = {
    "a bit flipped": (lambda files: rot(files.folder / "data" / "model.onnx"), "data/model.onnx is damaged"),
    "cut": (lambda files: os.truncate(files.folder / "MLmodel", 3), "MLmodel is damaged"),
    "emptied": (lambda files: os.truncate(files.folder / "code" / "a.py", 0), "a.py is damaged"),
    "longer": (lambda files: (files.folder / "MLmodel").write_bytes(b"flavors: {}\n#"), "MLmodel is damaged"),
    "gone": (lambda files: (files.folder / "MLmodel").unlink(), "MLmodel is missing"),
    "another name": (
        lambda files: (files.folder / "MLmodel").rename(files.folder / "MLModel"),
        "MLmodel is missing",
    ),
    "all gone": (lambda files: shutil.rmtree(files.folder), "is missing"),
    "a link to the right file": (replaced_by_link, "data/model.onnx is missing"),
    "a folder": (replaced_by_folder, "MLmodel cannot be read"),
    "a listing with a bit flipped": (lambda files: rot(files.listing), "is not the listing of sha256:"),
    "a listing that fits damaged files": (
        lambda files: (
            rot(files.folder / "MLmodel"),
            files.listing.write_bytes(encode_listing(list_files(files.folder))),
        ),
        "is not the listing of sha256:",
    ),
    "no listing": (lambda files: files.listing.unlink(), "model.listing cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_any_damage_to_any_file_is_named(files: ModelFiles, damage: str) -> None:
    change, message = DAMAGE[damage]
    change(files)
    for check in (files.check, lambda: files.check_and_read(files.folder / "data" / "model.onnx")):
        with pytest.raises(ModelDamagedError) as found:
            check()
        assert message in str(found.value)


def test_what_is_not_of_the_model_is_never_loaded(files: ModelFiles) -> None:
    cache = files.folder / "code" / "__pycache__" / "a.cpython-311.pyc"
    cache.parent.mkdir()
    cache.write_bytes(b"rotten")
    (files.folder / "model.onnx").symlink_to("/etc/passwd")
    with pytest.raises(ModelDamagedError, match="is not a file of the model"):
        files.check_and_read(files.folder / "model.onnx")
    assert {entry.path for entry in list_files(files.folder)} == MODEL.keys()


# --- what is extracted


class Extraction:
    """Extracts one model, and counts how often."""

    def __init__(self, root: Path) -> None:
        self.model = adds(root / "source", 1)
        self.request = order(uuid.uuid4(), 1, self.model)
        self.folder = DeploymentFolder(root, self.request.deployment_id).revision(1)
        self.count = 0

    def extract(self, reference: str, destination: Path) -> list[FileEntry]:
        self.count += 1
        return extract(reference, destination)

    async def __call__(self) -> ModelFiles:
        return await extracted_model(self.folder, self.request, Unpacking(self.extract))


@pytest.fixture
def extraction(tmp_path: Path) -> Extraction:
    return Extraction(tmp_path)


def models_in(folder: RevisionFolder) -> set[str]:
    return {it.name for it in folder.path.iterdir()}


async def test_a_model_is_extracted_once_and_checked_by_whoever_loads_it(extraction: Extraction) -> None:
    (await extraction()).check()
    await extraction()
    assert extraction.count == 1
    assert models_in(extraction.folder) == {"model", "model.listing"}


async def test_models_extracted_by_an_earlier_version_are_kept_if_undamaged(
    extraction: Extraction,
) -> None:
    await extraction()
    extraction.folder.listing.unlink()
    (await extraction()).check()
    assert extraction.count == 1

    extraction.folder.listing.unlink()
    rot(extraction.folder.model / "model.onnx")
    (await extraction()).check()
    assert extraction.count == 2
    assert models_in(extraction.folder) == {"model", "model.listing", "model.damaged"}


@pytest.mark.parametrize("damage", ["gone", "cut", "listing"])
async def test_damage_that_shows_without_reading_is_mended_before_a_start(
    extraction: Extraction, damage: str
) -> None:
    await extraction()
    model = extraction.folder.model / "model.onnx"
    if damage == "gone":
        model.unlink()
    elif damage == "cut":
        os.truncate(model, 10)
    else:
        rot(extraction.folder.listing)
    (await extraction()).check()
    assert extraction.count == (1 if damage == "listing" else 2)


async def test_setting_a_model_aside_is_finished_after_a_kill(
    extraction: Extraction,
) -> None:
    await extraction()
    extraction.folder.model.rename(extraction.folder.damaged_model)
    (await extraction()).check()
    assert extraction.count == 2


async def test_only_what_is_damaged_is_set_aside(extraction: Extraction) -> None:
    await extraction()
    await set_aside_if_damaged(extraction.folder, extraction.request)
    assert extraction.folder.model.exists()
    rot(extraction.folder.model / "model.onnx")
    rotten = (extraction.folder.model / "model.onnx").read_bytes()
    await set_aside_if_damaged(extraction.folder, extraction.request)
    assert not extraction.folder.model.exists()
    assert (extraction.folder.damaged_model / "model.onnx").read_bytes() == rotten
    await set_aside_if_damaged(extraction.folder, extraction.request)


async def test_a_damaged_model_that_cannot_be_moved_is_not_served(
    extraction: Extraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    await extraction()
    rot(extraction.folder.model / "model.onnx")

    def refuse(path: Path, target: Path) -> Path:
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DeploymentError, match=r"model\.onnx is damaged.*Read-only file system") as failed:
        await set_aside_if_damaged(extraction.folder, extraction.request)
    assert failed.value.reason is FailureReason.ARTIFACT_DAMAGED
    assert "disk" in failed.value.hint


async def test_an_image_of_another_model_is_refused(extraction: Extraction, tmp_path: Path) -> None:
    adds(tmp_path / "source", 2)
    with pytest.raises(DeploymentError, match="contains the model sha256:") as failed:
        await extraction()
    assert failed.value.reason is FailureReason.ARTIFACT_DAMAGED
    assert not extraction.folder.model.exists()


# --- real servers and jobs


@pytest.fixture
async def orchestrator(tmp_path: Path) -> AsyncIterator[LocalProcessOrchestrator]:
    orchestrator = LocalProcessOrchestrator(tmp_path / "root", extract_model=extract)
    yield orchestrator
    for deployment in await orchestrator.provisioned():
        await orchestrator.prune(deployment, None)
    await eventually(lambda: not processes_of(tmp_path / "root"))


async def test_a_restarted_server_mends_damaged_files_and_never_serves_them(
    orchestrator: LocalProcessOrchestrator, tmp_path: Path
) -> None:
    # given a server, whose model rots on disk
    deployment, root = uuid.uuid4(), tmp_path / "root"
    request = order(deployment, 1, adds(tmp_path / "adds", 1))
    url = (await orchestrator.provision(request, ignore)).endpoint_url
    assert url is not None
    model = DeploymentFolder(root, deployment).revision(1).model / "model.onnx"
    rotten = model.read_bytes().replace(b"\x00\x00\x80\x3f", b"\x00\x00\x80\xbf")
    assert rotten != model.read_bytes()
    model.write_bytes(rotten)
    assert ask(url) == ("1", 1.0)  # it serves what it loaded
    # when it dies
    os.kill(replicas_of(root)[0], signal.SIGKILL)
    # then nothing serves, and the orchestrator says why
    while not (observation := await orchestrator.observe(deployment)).damaged:
        await asyncio.sleep(0.02)
    assert not observation.running
    assert "damaged" in observation.detail
    # when it is provisioned again, as a service does that opens
    await orchestrator.provision(request, ignore)
    # then it serves the right files, and the others are kept
    assert ask(url) == ("1", 1.0)
    assert not (await orchestrator.observe(deployment)).damaged
    assert (
        DeploymentFolder(root, deployment).revision(1).damaged_model / "model.onnx"
    ).read_bytes() == rotten
    # and so it is when the gateway had died, too
    model.write_bytes(rotten)
    gateway = next(pid for pid, command in processes_of(root).items() if "deployledger.gateway " in command)
    os.killpg(gateway, 9)
    await eventually(lambda: not processes_of(root))
    answered = await orchestrator.provision(request, ignore)
    assert answered.endpoint_url is not None
    assert ask(answered.endpoint_url) == ("1", 1.0)


def test_a_job_scores_nothing_with_damaged_files(tmp_path: Path) -> None:
    model = row_maxima(tmp_path / "model" / "model.onnx")
    listing = encode_listing(list_files(model.parent))
    (tmp_path / "listing").write_bytes(listing)
    files = ModelFiles(model.parent, tmp_path / "listing", tree_digest(listing))
    (tmp_path / "in.csv").write_text("a,b,c\n1,2,3\n")
    output, work = tmp_path / "out.csv", tmp_path / "work"
    status = StatusFile(tmp_path / "status.json", work)
    order = BatchJob(model, str(tmp_path / "in.csv"), str(output), work, files=files)
    assert run(order, status).rows == 1
    output.unlink()
    rot(model)
    with pytest.raises(ModelDamagedError, match=r"model\.onnx is damaged"):
        run(order, status)
    assert not output.exists()


async def test_a_job_with_damaged_files_is_restarted_with_the_right_ones(
    orchestrator: LocalProcessOrchestrator, tmp_path: Path
) -> None:
    # given a job that failed, whose model then rots
    deployment = uuid.uuid4()
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    request = job(deployment, row_maxima(tmp_path / "model" / "model.onnx"), source, output)
    await orchestrator.provision(request, ignore)
    with pytest.raises(DeploymentError, match="does not exist"):
        await orchestrator.wait_for_completion(deployment, 1, ignore)
    rot(DeploymentFolder(tmp_path / "root", deployment).revision(1).model / "model.onnx")
    source.write_text("a,b,c\n1,2,3\n")
    # when it is started again
    await orchestrator.provision(request, ignore)
    # then it fails, and says why
    with pytest.raises(DeploymentError, match=r"model\.onnx is damaged") as failed:
        await orchestrator.wait_for_completion(deployment, 1, ignore)
    assert failed.value.reason is FailureReason.ARTIFACT_DAMAGED
    assert not output.exists()
    # and the next time it is right
    await orchestrator.provision(request, ignore)
    assert (await orchestrator.wait_for_completion(deployment, 1, ignore)).rows == 1


async def test_a_failed_job_is_restarted_before_its_process_has_ended(
    orchestrator: LocalProcessOrchestrator, tmp_path: Path
) -> None:
    # given a job that said that it failed, and whose process is still there
    deployment = uuid.uuid4()
    source, output = tmp_path / "in.csv", tmp_path / "out.csv"
    request = job(deployment, row_maxima(tmp_path / "model" / "model.onnx"), source, output)
    await orchestrator.provision(request, ignore)
    with pytest.raises(DeploymentError, match="does not exist"):
        await orchestrator.wait_for_completion(deployment, 1, ignore)
    revision = DeploymentFolder(tmp_path / "root", deployment).revision(1)
    while (lock := lock_despite_probes(revision.job_lock)) is None:
        await asyncio.sleep(0.01)
    with subprocess.Popen(["sleep", "60"], pass_fds=[lock], start_new_session=True) as process:
        os.close(lock)
        status = json.loads(revision.job_status.read_text())
        revision.job_status.write_text(json.dumps({**status, "pid": process.pid}))
        # when it is started again
        source.write_text("a,b,c\n1,2,3\n")
        await orchestrator.provision(request, ignore)
        # then it is the new one that is waited for
        assert (await orchestrator.wait_for_completion(deployment, 1, ignore)).rows == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["model", "model.listing", "model/model.onnx", "model.damaged", "."])
async def test_what_links_lead_to_is_never_changed_and_pipes_are_not_waited_for(
    extraction: Extraction, tmp_path: Path, place: str, kind: str
) -> None:
    files = await extraction()
    users = users_folder(tmp_path)
    path = extraction.folder.path / place
    if place == "." and kind != "a link to a folder":
        return
    replace(path, kind, users)
    if place in ("model", "model/model.onnx", "."):
        for check in (files.check, files.check_sizes):
            with pytest.raises(ModelDamagedError):
                check()
            assert is_untouched(users)
    list(extracted_models(tmp_path, read=True))

    await set_aside_if_damaged(extraction.folder, extraction.request)
    (await extraction()).check()

    assert is_untouched(users)
    (stored,) = (it for it in extracted_models(tmp_path, read=True) if it.kind == "extracted_model")
    assert stored.damage == ()
