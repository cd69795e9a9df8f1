"""Something that is no file, or no folder, is where a stored one should be: damage like any other."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deployledger.domain.findings import Outcome
from deployledger.service.files.private import make_folder
from tests.adapters.wrong_kinds import is_untouched, replace, users_folder
from tests.service.conftest import OpenService
from tests.service.test_rotten_bytes import FILES, Setting, blob


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Return one kind of database: the files are the same on all."""
    return f"sqlite:///{tmp_path / 'events.db'}"


def only(folder: Path) -> Path:
    """Return the one path in a folder."""
    (path,) = folder.iterdir()
    return path


def biggest(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.lstat().st_size)


def manifest(setting: Setting) -> Path:
    blobs = setting.home / "images/blobs/sha256"
    return next(it for it in blobs.iterdir() if b'"layers"' in it.read_bytes())


PLACES: dict[str, Callable[[Setting], Path]] = {
    "a blob": blob,
    "a listing": lambda setting: only(setting.home / "artifacts/listings/sha256"),
    "a folder": lambda setting: only(setting.home / "artifacts/folders/sha256"),
    "a file in the folder": lambda setting: only(setting.home / "artifacts/folders/sha256") / "model.onnx",
    "a layer": lambda setting: biggest(setting.home / "images/blobs/sha256"),
    "a manifest": manifest,
    "the index": lambda setting: setting.home / "images/index.json",
}


@pytest.mark.parametrize("kind", ["a pipe", "a link to a folder", "a link to itself", "a folder"])
@pytest.mark.parametrize("place", PLACES)
async def test_what_is_no_file_is_reported_and_made_again(
    tmp_path: Path, open_service: OpenService, place: str, kind: str
) -> None:
    setting = Setting(tmp_path, open_service)
    service = setting.service()
    first = await setting.deployed(service)
    path = PLACES[place](setting)
    users = users_folder(tmp_path)
    path.parent.chmod(0o700)
    replace(path, kind, users)

    async with asyncio.timeout(60):
        reported = [it.message for it in await service.verify_artifacts() if it.outcome is Outcome.PROBLEM]
        await service.list_artifacts()
        assert any(path.name in it or path.parent.name in it for it in reported), reported

        again = await setting.deployed(service, "again")

        assert (again.status, again.artifact_digest) == ("active", first.artifact_digest)
        assert setting.orchestrator.serves == FILES
        left = [it.message for it in await service.verify_artifacts() if it.outcome is Outcome.PROBLEM]
        assert left == []
    assert is_untouched(users)


async def test_images_are_looked_at_without_an_index(tmp_path: Path, open_service: OpenService) -> None:
    setting = Setting(tmp_path, open_service)
    service = setting.service()
    await setting.deployed(service)
    (setting.home / "images/index.json").unlink()
    listed = [it for it in await service.list_artifacts() if it.stored.kind == "image"]
    assert [use.deployment_name for it in listed for use in it.used_by] == ["iris"]
    layer = biggest(setting.home / "images/blobs/sha256")
    layer.chmod(0o600)
    layer.write_bytes(b"rotten")
    problems = [it.message for it in await service.verify_artifacts() if it.outcome is Outcome.PROBLEM]
    assert any("of iris r1 is damaged" in it and layer.name in it for it in problems)


async def test_damage_in_the_same_place_is_set_aside_each_time(
    tmp_path: Path, open_service: OpenService
) -> None:
    setting = Setting(tmp_path, open_service)
    service = setting.service()
    await setting.deployed(service)
    name = blob(setting).name
    for number in range(3):
        path = setting.home / "artifacts/blobs/sha256" / name
        replace(path, "a folder", tmp_path)
        assert (await setting.deployed(service, f"again-{number}")).status == "active"
    assert {it.name for it in (setting.home / "artifacts/damaged").iterdir()} == {
        name,
        f"{name}.2",
        f"{name}.3",
    }


async def test_staging_that_is_a_link_is_swept_without_what_it_leads_to(
    tmp_path: Path, open_service: OpenService
) -> None:
    setting = Setting(tmp_path, open_service)
    users = users_folder(tmp_path)
    make_folder(setting.home / "artifacts/staging")
    (setting.home / "artifacts/staging/old").symlink_to(users)
    assert (await setting.deployed(setting.service())).status == "active"
    assert is_untouched(users)
    shutil.rmtree(users)
