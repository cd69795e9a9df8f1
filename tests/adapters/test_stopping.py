"""Copies stop when they are called off, and keep files sparse."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from deployledger.adapters.artifacts import LocalArtifactStore
from deployledger.adapters.oci import OciLayoutRegistry
from deployledger.domain import PackageRequest
from deployledger.service.files import disk_space
from deployledger.service.files.stopping import StoppedError, check_not_stopped, stoppable, write_sparse
from deployledger.testing import in_memory_service
from tests.domain.given import request
from tests.service.outside import eventually

MIB = 1 << 20
HUGE = 1 << 40
"""It would take hours to copy, and minutes to read, though it takes no room on the disk."""


@pytest.fixture(autouse=True)
def _much_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the disk has room for whatever is copied."""
    monkeypatch.setattr(disk_space, "free_bytes", lambda path: 1 << 50)


def model(folder: Path, size: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "weights.bin").open("wb") as file:
        file.write(b"begin")
        file.seek(size - 3)
        file.write(b"end")
    return folder


def allocated(folder: Path) -> int:
    files = {(it.stat().st_dev, it.stat().st_ino): it for it in folder.rglob("*") if it.is_file()}
    return sum(512 * it.stat().st_blocks for it in files.values())


async def package(tmp_path: Path, size: int) -> PackageRequest:
    store = LocalArtifactStore(tmp_path / "store")
    artifact = await store.add(model(tmp_path / "model", size), resolved_uri="models:/iris/1")
    folder = await store.path_of(artifact.digest)
    assert folder is not None
    target = request().deployment_target_config
    return PackageRequest(uuid4(), "iris", 1, artifact, folder, target)


async def test_sparse_files_stay_sparse_from_the_store_to_the_server(tmp_path: Path) -> None:
    order = await package(tmp_path, 64 * MIB)
    registry = OciLayoutRegistry(tmp_path / "images")
    image = await registry.build_and_push(order)
    await registry.unpack(image.reference, tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "weights.bin").read_bytes() == (
        tmp_path / "model" / "weights.bin"
    ).read_bytes()
    for folder in ("store", "images", "unpacked"):
        assert allocated(tmp_path / folder) < 8 * MIB, folder


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, MIB - 1, MIB, MIB + 1])
def test_zeros_are_written_whatever_their_number(tmp_path: Path, size: int) -> None:
    for chunks in ([bytes(size)], [b"x", bytes(size)], [bytes(size), b"x"], [bytes(size), bytes(size)]):
        chunks = [part[at : at + MIB] for part in chunks for at in range(0, len(part), MIB)]
        with (tmp_path / "file").open("wb") as file:
            write_sparse(file, chunks)
        assert (tmp_path / "file").read_bytes() == b"".join(chunks)


async def called_off(work: Awaitable[object], has_begun: Callable[[], bool]) -> None:
    task = asyncio.ensure_future(work)
    await eventually(lambda: has_begun() or task.done())
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task  # which would take hours


async def test_storing_a_model_stops_and_leaves_nothing(tmp_path: Path) -> None:
    store = LocalArtifactStore(tmp_path / "store")
    staging = tmp_path / "store" / "staging"
    await called_off(
        store.add(model(tmp_path / "model", HUGE), resolved_uri="file:///model"),
        lambda: any(path.is_file() for path in staging.rglob("*")),
    )
    assert list(staging.iterdir()) == []


async def test_packaging_a_model_stops_and_leaves_nothing(tmp_path: Path) -> None:
    order = await package(tmp_path, 10)
    huge = replace(order, model_path=model(tmp_path / "huge", HUGE))
    staging = tmp_path / "images" / ".deployledger" / "staging"
    await called_off(
        OciLayoutRegistry(tmp_path / "images").build_and_push(huge),
        lambda: any(path.is_file() for path in staging.rglob("*")),
    )
    assert list(staging.iterdir()) == []


async def test_reading_stored_files_stops(tmp_path: Path) -> None:
    order = await package(tmp_path, 10)
    (blob,) = (tmp_path / "store" / "blobs" / "sha256").iterdir()
    blob.chmod(0o600)
    model(tmp_path / "huge", HUGE).joinpath("weights.bin").replace(blob)
    store = LocalArtifactStore(tmp_path / "store")
    for read in (store.set_aside_damaged, store.verify):
        polls = iter([False] * 5 + [True])
        await called_off(read(order.artifact.digest), lambda polls=polls: next(polls))  # type: ignore[misc]


async def test_cancelling_returns_once_the_thread_has_ended() -> None:
    began, ended = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        try:
            while True:
                check_not_stopped()
        except StoppedError:
            ended.append(True)
            raise

    task = asyncio.ensure_future(stoppable(work))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


@pytest.mark.parametrize("command", ["cancel", "delete", "close"])
async def test_a_command_stops_the_copy_of_a_huge_model(tmp_path: Path, command: str) -> None:
    staging = tmp_path / "home" / "artifacts" / "staging"
    async with in_memory_service(home=tmp_path / "home") as service:
        uri = str(model(tmp_path / "model", HUGE))
        deployment_id = (await service.deploy_model(request(model_uri=uri))).deployment_id
        await eventually(lambda: any(path.is_file() for path in staging.rglob("*")))
        if command == "cancel":
            await service.cancel_deployment(deployment_id)
        elif command == "delete":
            await service.delete_deployment(deployment_id)
            assert (await service.wait_for_deployment(deployment_id, timeout=60)).state == "deleted"
        else:
            await service.close()
    assert list(staging.iterdir()) == []
