"""Freeing what no deployment needs: what goes, what stays, and what it means for steps in progress."""

import asyncio
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.artifacts import LocalArtifactStore
from deployledger.adapters.cli.disk_tables import disk_usage_tables, freed_table
from deployledger.adapters.mlflow import MlflowModelRegistryClient
from deployledger.adapters.oci import OciLayoutRegistry
from deployledger.domain.exceptions import ConfigurationError, ExternalServiceError, InsufficientStorageError
from deployledger.domain.stored import Kind, Verdict
from deployledger.service.freeing import Freed
from tests.adapters.files import rot
from tests.domain.given import request
from tests.e2e.in_process import InProcess
from tests.service.test_rotten_bytes import FILES, Extracting, Setting, blob, setting, write

__all__ = ["setting"]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Return one kind of database: the files are the same on all."""
    return f"sqlite:///{tmp_path / 'events.db'}"


@pytest.fixture(autouse=True)
def keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_GC_KEEP_REVISIONS", "0")
    monkeypatch.setenv("DEPLOYLEDGER_GC_KEEP_DAYS", "0")


def kinds(freed: Freed) -> list[str]:
    return sorted(each.files.stored.kind.value for each in freed.freed)


def files(setting: Setting) -> set[str]:
    """Return every file of models and images."""
    return {
        str(path.relative_to(setting.home))
        for top in ("artifacts/blobs", "artifacts/listings", "artifacts/folders", "images/blobs")
        for path in (setting.home / top).rglob("*")
        if path.is_file()
    }


async def deleted(service: MLModelDeploymentService, setting: Setting, name: str = "iris") -> None:
    answer = await setting.deployed(service, name)
    await service.delete_deployment(answer.deployment_id)
    await service.wait_for_deployment(answer.deployment_id, timeout=60)


async def undamaged(service: MLModelDeploymentService) -> bool:
    return not any(finding.is_problem for finding in await service.verify_artifacts())


async def test_nothing_is_left_of_a_deleted_deployment(setting: Setting) -> None:
    service = setting.service()
    await deleted(service, setting)
    before = files(setting)
    plan = await service.free_artifacts(dry_run=True)
    assert files(setting) == before
    freed = await service.free_artifacts()
    assert kinds(freed) == kinds(plan) == ["image", "model"]
    assert freed.freed_bytes == plan.freed_bytes > sum(map(len, FILES.values()))
    assert files(setting) == set()
    assert await undamaged(service)
    assert not (await service.free_artifacts()).freed


async def test_the_log_of_either_database_says_what_is_needed(
    empty_postgres_url: str, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_CREATE_SCHEMA", "true")
    setting._open = lambda *clients, **options: MLModelDeploymentService(
        *clients, database_url=empty_postgres_url, **options
    )
    async with setting.service() as service:
        answer = await setting.deployed(service)
        await setting.updated(service, answer.deployment_id)
        assert kinds(await service.free_artifacts()) == ["image", "model"]
        assert setting.stored(b"another model")
        await service.delete_deployment(answer.deployment_id)
        await service.wait_for_deployment(answer.deployment_id, timeout=60)
        await service.free_artifacts()
        assert files(setting) == set()


async def test_what_serves_and_what_others_share_stays(setting: Setting) -> None:
    service = setting.service()
    answer = await setting.deployed(service)
    await deleted(service, setting, "other")
    assert not (await service.free_artifacts()).freed
    await setting.updated(service, answer.deployment_id)
    assert kinds(await service.free_artifacts()) == ["image", "model"]
    assert setting.stored(FILES["model.onnx"]) == []
    assert await setting_serves(setting, service, b"another model")


async def setting_serves(setting: Setting, service: MLModelDeploymentService, content: bytes) -> bool:
    return await undamaged(service) and setting.orchestrator.serves["model.onnx"] == content


@pytest.mark.parametrize(
    ("revisions", "days", "kept"),
    [("1", "0", ["r2", "r3"]), ("0", "1", ["r1", "r2", "r3"]), ("0", "0", ["r3"])],
)
async def test_the_settings_say_which_revisions_stay_ready_for_a_rollback(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, revisions: str, days: str, kept: list[str]
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_GC_KEEP_REVISIONS", revisions)
    monkeypatch.setenv("DEPLOYLEDGER_GC_KEEP_DAYS", days)
    service = setting.service()
    answer = await setting.deployed(service)
    for number in (2, 3):
        write(setting.source, {"model.onnx": f"model {number}".encode()})
        await service.update_deployment(answer.deployment_id, request(model_uri=str(setting.source)))
        await service.wait_for_deployment(answer.deployment_id, timeout=60)
    await service.free_artifacts()
    models = [each for each in await service.list_artifacts() if each.stored.kind is Kind.MODEL]
    assert sorted(f"r{use.revision}" for each in models for use in each.used_by) == kept


async def test_a_rollback_to_a_freed_revision_fetches_it_again(setting: Setting) -> None:
    service = setting.service()
    answer = await setting.deployed(service)
    await setting.updated(service, answer.deployment_id)
    await service.free_artifacts()
    assert (await setting.rolled_back(service, answer.deployment_id)).status == "active"
    assert setting.orchestrator.serves == FILES


@pytest.mark.parametrize("is_changed", [False, True])
async def test_a_rollback_to_freed_bytes_that_are_gone_names_gc_and_the_source(
    setting: Setting, is_changed: bool
) -> None:
    service = setting.service()
    answer = await setting.deployed(service)
    await setting.updated(service, answer.deployment_id)
    await service.free_artifacts()
    shutil.rmtree(setting.source)
    if is_changed:
        write(setting.source, {"model.onnx": b"changed"})
    status = await setting.rolled_back(service, answer.deployment_id)
    assert status.status == "failed"
    assert status.deployed_model_version
    assert "deployledger gc" in status.message
    assert str(setting.source) in status.message
    assert "'iris'" in status.message


async def test_a_model_that_was_just_stored_is_not_freed_before_it_is_recorded(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = setting.service()
    await deleted(service, setting)
    stored, go_on = asyncio.Event(), asyncio.Event()
    add = LocalArtifactStore.add

    async def held(*arguments: Any, **options: Any) -> Any:
        artifact = await add(*arguments, **options)
        loop.call_soon_threadsafe(stored.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(go_on.wait(), loop))
        return artifact

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(LocalArtifactStore, "add", held)
    answer = await service.deploy_model(request(model_uri=str(setting.source), deployment_name="again"))
    await stored.wait()
    freed = await service.free_artifacts()
    assert "model" not in kinds(freed)
    freed = await service.free_artifacts()  # which finds that the first one marked it
    assert Verdict.LATER in {each.verdict for each in freed.left}
    shutil.rmtree(setting.source)  # it cannot be fetched again
    go_on.set()
    assert (await service.wait_for_deployment(answer.deployment_id, timeout=60)).status == "active"
    assert setting.orchestrator.serves == FILES
    await service.delete_deployment(answer.deployment_id)
    await service.wait_for_deployment(answer.deployment_id, timeout=60)
    await service.free_artifacts()
    assert files(setting) == set()


async def test_a_model_that_a_killed_fetch_stored_is_freed_the_next_time(setting: Setting) -> None:
    service = setting.service()
    await setting.deployed(service)
    user = await asyncio.to_thread(service._pipeline.log_id)
    other = setting.source.with_name("unrecorded")
    write(other, {"model.onnx": b"unrecorded"})
    await LocalArtifactStore(setting.home / "artifacts").add(other, resolved_uri=str(other), user=user)
    assert kinds(await service.free_artifacts()) == ["model"]
    assert await undamaged(service)


def other_log(setting: Setting, tmp_path: Path) -> MLModelDeploymentService:
    return MLModelDeploymentService(
        MlflowModelRegistryClient(),
        OciLayoutRegistry(setting.home / "images"),
        Extracting(tmp_path / "extracted by others"),
        database_url=f"sqlite:///{tmp_path / 'other.db'}",
    )


@pytest.mark.parametrize("is_earlier", [False, True])
async def test_a_home_that_two_logs_share_keeps_what_the_other_one_needs(
    setting: Setting, tmp_path: Path, is_earlier: bool
) -> None:
    service, other = setting.service(), other_log(setting, tmp_path)
    try:
        theirs = await setting.deployed(other, "theirs")
        await setting.updated(other, theirs.deployment_id, "theirs")
        await deleted(service, setting)
        if is_earlier:  # no earlier version noted who uses what
            shutil.rmtree(setting.home / "artifacts/users")
        freed = await service.free_artifacts()
        assert freed.freed == []
        assert {each.files.stored.kind for each in freed.left} == {Kind.MODEL, Kind.IMAGE}
        shutil.rmtree(setting.source)
        assert (await setting.rolled_back(other, theirs.deployment_id)).status == "active"
    finally:
        await other.close()


async def test_each_log_of_a_shared_home_frees_its_own(setting: Setting, tmp_path: Path) -> None:
    service, other = setting.service(), other_log(setting, tmp_path)
    try:
        await deleted(other, setting, "theirs")
        write(setting.source, {"model.onnx": b"ours"})
        await deleted(service, setting, "ours")
        assert kinds(await service.free_artifacts()) == ["image", "model"]
        assert setting.stored(b"ours") == []
        assert kinds(await other.free_artifacts()) == ["image", "model"]
        assert files(setting) == {name for name in files(setting) if "readme" in name}
    finally:
        await other.close()


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", range(8))
async def test_being_killed_while_freeing_leaves_what_can_be_freed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    from deployledger.adapters.artifacts import freeing
    from deployledger.adapters.oci import layout

    service = setting.service()
    await deleted(service, setting)
    keeps = await setting.deployed(service, "keeps")
    await setting.updated(service, keeps.deployment_id, "keeps")
    left = [step]

    def counted(remove: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return remove(*arguments, **options)

        return counting

    with monkeypatch.context() as patched:
        for module, name in (
            (freeing, "remove"),
            (freeing, "sync"),
            (layout, "remove"),
            (layout, "sync"),
        ):
            patched.setattr(module, name, counted(getattr(module, name)))
        with pytest.raises(ExternalServiceError, match="Killed"):
            await service.free_artifacts()
    assert await undamaged(service)
    await service.free_artifacts()
    assert setting.stored(FILES["model.onnx"]) == []
    assert setting.stored(b"another model") != []
    assert await undamaged(service)
    assert (await setting.rolled_back(service, keeps.deployment_id)).status == "active"


def fill_disk(monkeypatch: pytest.MonkeyPatch, is_full: Callable[[], bool]) -> None:
    """Refuse whatever gc writes: the index of images, and the notes on who uses a model."""
    from deployledger.adapters.artifacts import users
    from deployledger.adapters.oci import layout

    def unless_full(write: Callable[..., Any]) -> Callable[..., Any]:
        def writing(*arguments: Any, **options: Any) -> Any:
            if is_full():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments, **options)

        return writing

    for module, name in ((layout, "staging_folder"), (users, "write_new"), (users, "write_whole")):
        monkeypatch.setattr(module, name, unless_full(getattr(module, name)))


async def test_gc_frees_on_a_full_disk_what_it_would_free_on_another(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = setting.service()
    await deleted(service, setting)
    keeps = await setting.deployed(service, "keeps")
    await setting.updated(service, keeps.deployment_id, "keeps")
    plan = await service.free_artifacts(dry_run=True)
    before = files(setting)
    fill_disk(monkeypatch, lambda: files(setting) == before)
    freed = await service.free_artifacts()
    assert (kinds(freed), freed.freed_bytes) == (kinds(plan), plan.freed_bytes)
    assert setting.stored(FILES["model.onnx"]) == []
    assert await undamaged(service)
    assert (await service.free_artifacts()).freed == []


async def test_gc_on_a_full_disk_frees_models_and_suggests_more_than_gc(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = setting.service()
    await deleted(service, setting)
    with monkeypatch.context() as patched:
        fill_disk(patched, lambda: True)
        with pytest.raises(InsufficientStorageError) as raised:
            await service.free_artifacts()
    assert "filled up" in raised.value.message
    assert raised.value.hint.startswith("Remove a file of another program from that disk")
    assert [path for path in files(setting) if path.startswith("artifacts")] == []
    assert kinds(await service.free_artifacts()) == ["image"]
    assert files(setting) == set()


async def test_damaged_files_are_freed_after_the_days_that_are_set(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_GC_KEEP_DAYS", "1")
    service = setting.service()
    await setting.deployed(service)
    rot(blob(setting))
    await setting.deployed(service, "other")
    assert kinds(await service.free_artifacts()) == []
    monkeypatch.setenv("DEPLOYLEDGER_GC_KEEP_DAYS", "0")
    assert kinds(await setting.service().free_artifacts()) == ["damaged_file"]
    assert list((setting.home / "artifacts/damaged").iterdir()) == []


async def test_nothing_is_freed_of_what_a_damaged_listing_may_list(setting: Setting) -> None:
    service = setting.service()
    await setting.deployed(service)
    rot(next((setting.home / "artifacts/listings/sha256").iterdir()))
    assert kinds(await service.free_artifacts()) == []
    assert setting.stored(FILES["model.onnx"])


async def test_a_damaged_listing_keeps_the_files_it_may_name_uncounted(
    setting: Setting,
) -> None:
    service = setting.service()
    await setting.deployed(service, "keeps")
    write(setting.source, {"model.onnx": b"m" * 50_000})
    await deleted(service, setting)
    listings = setting.home / "artifacts/listings/sha256"
    kept = next(path for path in listings.iterdir() if b"50000" not in path.read_bytes())
    content = kept.read_bytes()
    rot(kept)
    first = await service.free_artifacts()
    assert kinds(first) == ["image"]
    assert "a damaged listing may name its files" in {each.reason for each in first.left}
    kept.chmod(0o600)
    kept.write_bytes(content)
    second = await service.free_artifacts()
    assert (kinds(second), second.freed_bytes > 50_000) == (["model"], True)
    assert await undamaged(service)


PLACES = (
    "artifacts/blobs/sha256",
    "artifacts/listings/sha256",
    "artifacts/folders/sha256",
    "images/blobs/sha256",
)


async def test_files_that_other_programs_put_there_stay_and_keep_nothing(setting: Setting) -> None:
    service = setting.service()
    await deleted(service, setting)
    foreign = [setting.home / place / "junk" for place in PLACES]
    for path in foreign:
        path.write_bytes(b"precious")
    freed = await service.free_artifacts()
    assert kinds(freed) == ["image", "model"]
    assert {each.reason for each in freed.left} == {"another program may use it"}
    assert {path.read_bytes() for path in foreign} == {b"precious"}
    assert setting.stored(FILES["model.onnx"]) == []


@pytest.mark.parametrize(
    "place", ["artifacts/blobs", *PLACES, "images/blobs", "images/.deployledger/damaged"]
)
async def test_gc_frees_nothing_behind_a_link(setting: Setting, tmp_path: Path, place: str) -> None:
    service = setting.service()
    await deleted(service, setting)
    folder, elsewhere = setting.home / place, tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    shutil.move(folder, elsewhere)
    (elsewhere / ("0" * 64)).write_bytes(b"precious")
    folder.symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(ConfigurationError, match="is a symbolic link to"):
        await service.free_artifacts()
    assert sorted(elsewhere.rglob("*")) == before


async def test_an_image_that_two_logs_named_is_freed_by_the_second(setting: Setting, tmp_path: Path) -> None:
    service, other = setting.service(), other_log(setting, tmp_path)
    try:
        await setting.deployed(other, "stays")
        write(setting.source, {"model.onnx": b"of both"})
        await deleted(service, setting, "ours")
        theirs = await setting.deployed(other, "theirs")
        assert kinds(await service.free_artifacts()) == []
        assert setting.orchestrator.serves
        assert await undamaged(other)
        await other.delete_deployment(theirs.deployment_id)
        await other.wait_for_deployment(theirs.deployment_id, timeout=60)
        assert kinds(await other.free_artifacts()) == ["image", "model"]
        assert setting.stored(b"of both") == []
        assert await undamaged(other)
    finally:
        await other.close()


async def test_what_cannot_be_removed_is_not_counted(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployledger.adapters.oci import layout

    service = setting.service()
    await deleted(service, setting)
    monkeypatch.setattr(layout, "remove", lambda path: None)
    freed = await service.free_artifacts()
    assert kinds(freed) == ["model"]
    assert "it could not be removed, or was stored again" in {each.reason for each in freed.left}


async def test_images_that_other_tools_put_into_the_layout_stay(setting: Setting) -> None:

    service = setting.service()
    await deleted(service, setting)
    layer, manifest = b"a layer of somebody", json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    blobs = setting.home / "images/blobs/sha256"
    for content in (layer, manifest):
        (blobs / hashlib.sha256(content).hexdigest()).write_bytes(content)
    index = json.loads((setting.home / "images/index.json").read_text())
    index["manifests"].append(
        {
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}",
            "size": len(manifest),
            "annotations": {"org.opencontainers.image.ref.name": "theirs"},
        }
    )
    (setting.home / "images/index.json").write_text(json.dumps(index))
    await service.free_artifacts()
    assert {path.read_bytes() for path in blobs.iterdir()} >= {layer, manifest}
    left = json.loads((setting.home / "images/index.json").read_text())["manifests"]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in left] == ["theirs"]


async def test_disk_usage_separates_own_shared_and_freeable_files(setting: Setting) -> None:
    service = setting.service()
    await setting.deployed(service)
    await deleted(service, setting, "gone")
    write(setting.source, {"model.onnx": b"m" * 100_000})
    await deleted(service, setting, "alone")
    usage = await service.disk_usage()
    of = {each.deployment_name: each for each in usage.deployments}
    assert of["iris"].own_bytes == 0
    assert of["iris"].shared_bytes == of["gone"].shared_bytes - 0 > 0
    assert of["iris"].freeable_bytes == of["gone"].freeable_bytes == 0
    assert of["alone"].freeable_bytes >= 200_000
    assert usage.freeable_bytes == of["alone"].freeable_bytes
    assert usage.free_bytes > 0
    assert usage.disk_bytes == sum(kind.disk_bytes for kind in usage.kinds)
    assert {"models", "images"} <= {kind.kind for kind in usage.kinds}
    await service.free_artifacts()
    assert (await service.disk_usage()).freeable_bytes == 0


@pytest.mark.parametrize("width", [60, 80, 120])
async def test_what_is_freed_and_what_uses_the_disk_fit_the_terminal(setting: Setting, width: int) -> None:
    service = setting.service()
    await deleted(service, setting, "a-deployment-with-a-long-name-that-fits-nowhere-beside-others")
    output = StringIO()
    console = Console(file=output, width=width)
    console.print(disk_usage_tables(await service.disk_usage()))
    console.print(freed_table(await service.free_artifacts(dry_run=True)))
    console.print(freed_table(await service.free_artifacts()))
    console.print(freed_table(await service.free_artifacts()))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    shown = " ".join(output.getvalue().split())
    for text in ("models", "deleted", "`deployledger gc` frees", "Would free", "Freed", "nothing to free"):
        assert text in shown


@pytest.mark.parametrize("command", [["df"], ["gc", "--dry-run"], ["gc"]])
def test_the_commands_answer_as_a_table_and_as_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    cli = InProcess(f"sqlite:///{tmp_path / 'events.db'}", monkeypatch)
    assert cli.run(*command).exit_code == 0
    answer = json.loads(cli.run(*command, "--output", "json").stdout)
    assert answer["freeable_bytes" if command == ["df"] else "freed_bytes"] == 0


async def test_a_copy_of_a_log_does_not_free_what_the_original_deployed_since(
    setting: Setting, tmp_path: Path
) -> None:
    service = setting.service()
    await setting.deployed(service)
    await service.close()
    shutil.copy(tmp_path / "events.db", tmp_path / "other.db")
    service, copy = setting.service(), other_log(setting, tmp_path)
    try:
        write(setting.source, {"model.onnx": b"deployed since"})
        await setting.deployed(service, "since")
        assert kinds(await copy.free_artifacts()) == []
        assert setting.stored(b"deployed since")
    finally:
        await copy.close()
