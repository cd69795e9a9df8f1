"""Room on the disk is checked before something is written, and what cannot be finished is removed."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deployledger.adapters.artifacts import blobs
from deployledger.domain.reasons import FailureReason
from deployledger.service.files import disk_space
from deployledger.service.files.staging import staging_folder, sweep
from tests.domain.given import request
from tests.service.conftest import OpenService
from tests.service.test_rotten_bytes import FILES, Setting, setting

__all__ = ["setting"]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Return one kind of database: the files are the same on all."""
    return f"sqlite:///{tmp_path / 'events.db'}"


def staged(home: Path) -> list[Path]:
    folders = ("artifacts/staging", "images/.deployledger/staging", "downloads")
    return [path for folder in folders for path in (home / folder).glob("*")]


async def failure(setting: Setting, registry: object | None = None, uri: str = "") -> str:
    service = setting.service()
    answer = await service.deploy_model(request(model_uri=uri or str(setting.source), deployment_name="iris"))
    status = await service.wait_for_deployment(answer.deployment_id, timeout=60)
    assert status.status == "failed"
    assert status.failure is not None
    assert status.failure.reason is FailureReason.STORAGE_FAILED
    assert staged(setting.home) == []
    return status.message


@pytest.mark.parametrize("folder", ["artifacts", "images"])
async def test_a_step_that_does_not_fit_fails_and_says_what_is_needed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    def free(path: Path) -> int:
        return 1000 if folder in path.parts else 1 << 40

    monkeypatch.setattr(disk_space, "free_bytes", free)
    message = await failure(setting)
    needed = sum(map(len, FILES.values()))
    assert f"{needed:,} bytes are needed in {setting.home / folder}" in message
    assert "1,000 bytes free" in message
    assert "deployment 'iris'" in message
    assert "deployledger gc" in message


async def test_what_is_stored_already_needs_no_room(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = setting.service()
    await setting.deployed(service)
    monkeypatch.setattr(disk_space, "free_bytes", lambda path: 1000 if "artifacts" in path.parts else 1 << 40)
    assert (await setting.deployed(service, "again")).status == "active"


async def test_a_disk_that_fills_up_half_way_leaves_nothing_staged(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(staged: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(blobs, "make_durable", full)
    message = await failure(setting)
    assert "filled up" in message
    assert "deployledger gc" in message


async def test_a_model_larger_than_the_limit_is_refused(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_LARGEST_MODEL_BYTES", "1079")
    message = await failure(setting)
    assert "1,080 bytes, and the limit is 1,079 bytes" in message
    assert "DEPLOYLEDGER_LARGEST_MODEL_BYTES" in message


class Endless:
    """A registry client that downloads for as long as it is let."""

    async def download_artifacts(self, **options: Any) -> str:
        import asyncio

        with Path(options["dst_path"], "model.onnx").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1000))
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("limit", ["size", "disk"])
async def test_a_download_of_unknown_size_ends_at_the_limit(
    open_service: OpenService, setting: Setting, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(disk_space, "_LOOK_SECONDS", 0.01)
    if limit == "size":
        monkeypatch.setenv("DEPLOYLEDGER_LARGEST_MODEL_BYTES", "5000")
    else:
        monkeypatch.setattr(disk_space, "free_bytes", lambda path: disk_space.MARGIN_BYTES)
    setting.service = lambda registry=None: open_service(Endless())  # type: ignore[method-assign]
    message = await failure(setting, uri="models:/endless/1")
    assert ("the limit is 5,000 bytes" if limit == "size" else "bytes are needed in") in message


async def test_downloaded_files_are_not_copied(open_service: OpenService, tmp_path: Path) -> None:
    inodes = []

    class Downloading:
        async def download_artifacts(self, **options: Any) -> str:
            path = Path(options["dst_path"], "model.onnx")
            path.write_bytes(b"downloaded")
            inodes.append(path.stat().st_ino)
            return str(path)

    service = open_service(Downloading())
    answer = await service.deploy_model(request(model_uri="models:/m/1", deployment_name="iris"))
    await service.wait_for_deployment(answer.deployment_id, timeout=60)
    kept = [path.stat() for path in (tmp_path / "home/artifacts/blobs/sha256").iterdir()]
    assert [status.st_ino for status in kept] == inodes
    assert [status.st_mode & 0o777 for status in kept] == [0o400]


async def test_downloaded_files_that_have_other_names_are_copied(
    open_service: OpenService, tmp_path: Path
) -> None:
    cached = tmp_path / "cached"
    cached.write_bytes(b"cached by somebody")

    class Caching:
        async def download_artifacts(self, **options: Any) -> str:
            path = Path(options["dst_path"], "model.onnx")
            path.hardlink_to(cached)
            return str(path)

    service = open_service(Caching())
    answer = await service.deploy_model(request(model_uri="models:/m/1", deployment_name="iris"))
    await service.wait_for_deployment(answer.deployment_id, timeout=60)
    assert cached.stat().st_nlink == 1
    assert cached.stat().st_mode & 0o200


OWNER = """
import sys, pathlib
from deployledger.service.files.staging import staging_folder
with staging_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "half").write_bytes(b"half")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_staging_folders_of_dead_owners_are_swept_whatever_the_clock(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        for moment in (1, time.time() + 10**8):
            os.utime(folder, (moment, moment))
            sweep(tmp_path)
            assert (folder / "half").exists()
    finally:
        owner.kill()
        owner.communicate()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sweeping_removes_links_but_not_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"kept")
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "staging" / "file").write_bytes(b"left")
    with staging_folder(tmp_path / "staging") as folder:
        sweep(tmp_path / "staging")
        assert list((tmp_path / "staging").iterdir()) == [folder]
    assert (tmp_path / "kept" / "file").exists()
