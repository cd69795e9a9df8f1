"""Images in an OCI layout: reproducible, valid by the specifications, and safe to unpack."""

import asyncio
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from deployledger.adapters.oci import OciLayoutRegistry, extract_model
from deployledger.adapters.oci.archives import archive_chunks, unpack
from deployledger.adapters.oci.documents import MODEL, MODEL_CONFIG, MODEL_WEIGHTS, REF_NAME
from deployledger.adapters.oci.layers import MAX_OWN_LAYERS, OWN_LAYER_BYTES, ModelFile, layers_of
from deployledger.domain.exceptions import ExternalServiceError
from deployledger.domain.ports import PackageRequest
from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import DeploymentTargetConfig
from deployledger.domain.values import Image
from deployledger.service.files.staging import staging_folder
from deployledger.testing import ContainerRegistryContract
from tests.adapters.files import artifact_of

LONG = "x" * 120 + "/" + "ü" * 90 + ".json"
FILES = {
    "MLmodel": b"flavors: {}\n",
    "weights/big.onnx": bytes(range(256)) * (OWN_LAYER_BYTES // 256) + b"!",
    "weights/empty": b"",
    "weights.txt": b"beside the folder",
    LONG: b"{}",
}
GOLDEN = "sha256:b325f51d7035c8050662e4e0814ae9615e09324b41259b6d4a175f510847ac81"


def write_tree(folder: Path, files: dict[str, bytes], *, mode: int = 0o644) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def order(model: Path, *, name: str = "fraud", revision: int = 1) -> PackageRequest:
    return PackageRequest(
        deployment_id=uuid4(),
        deployment_name=name,
        revision=revision,
        artifact=artifact_of(model),
        model_path=model,
        target=DeploymentTargetConfig(type="api_service"),
    )


def blob(root: Path, digest: str) -> Path:
    return root / "blobs" / "sha256" / digest.removeprefix("sha256:")


def document(root: Path, digest: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(blob(root, digest).read_bytes())
    return content


def names(root: Path) -> dict[str, str]:
    index = json.loads((root / "index.json").read_bytes())
    return {entry["annotations"][REF_NAME]: entry["digest"] for entry in index["manifests"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", FILES)


@pytest.fixture
async def image(root: Path, model: Path) -> Image:
    return await OciLayoutRegistry(root).build_and_push(order(model))


class TestOciLayoutRegistry(ContainerRegistryContract):
    @pytest.fixture
    def client(self, root: Path) -> OciLayoutRegistry:
        return OciLayoutRegistry(root)


def extraction_error(reference: str, destination: Path) -> ExternalServiceError:
    with pytest.raises(ExternalServiceError) as caught:
        extract_model(reference, destination)
    assert caught.value.hint
    if destination.parent.exists():
        assert [
            path for path in destination.parent.iterdir() if path.name.startswith(f".{destination.name}.")
        ] == []
    return caught.value


# --- layers and archives


def test_big_files_have_a_layer_each_and_the_rest_shares_one() -> None:
    files = [
        ModelFile(Path("a"), f"models/{n:03}", OWN_LAYER_BYTES + n % 2) for n in range(MAX_OWN_LAYERS + 2)
    ]
    files += [ModelFile(Path("b"), "models/small", 1)]
    rest, *own = layers_of(files)
    assert rest.path == "models"
    assert [file.name for file in rest.files] == ["models/062", "models/064", "models/small"]
    assert len(own) == MAX_OWN_LAYERS
    assert all(layer.path == layer.files[0].name and len(layer.files) == 1 for layer in own)
    assert sorted(file for layer in (rest, *own) for file in layer.files) == sorted(files)


def test_a_model_of_one_big_file_is_one_layer() -> None:
    file = ModelFile(Path("a"), "models/a", OWN_LAYER_BYTES)
    assert [layer.files for layer in layers_of([file])] == [(file,)]


def test_an_archive_has_ordered_members_without_owner_time_or_machine(
    root: Path, model: Path, image: Image
) -> None:
    manifest = document(root, image.digest)
    with tarfile.open(blob(root, manifest["layers"][0]["digest"])) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == [
        "models",
        "models/MLmodel",
        "models/weights.txt",
        "models/weights",
        "models/weights/empty",
        f"models/{LONG.split('/')[0]}",
        f"models/{LONG}",
    ]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
    assert {m.mode for m in members if m.isdir()} == {0o755}
    assert {m.mode for m in members if m.isfile()} == {0o644}


def test_files_of_many_gigabytes_have_a_header_that_says_so(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(9 * 1024**3)  # sparse
    chunks = archive_chunks([ModelFile(tmp_path / "huge", "models/huge", 9 * 1024**3)], [])
    head = b"".join(next(chunks) for _ in range(2))
    with tarfile.open(fileobj=io.BytesIO(head + bytes(1024))) as archive:
        archive.next()
        member = archive.next()
    assert member is not None
    assert member.size == 9 * 1024**3


# --- the image


async def test_the_digest_depends_on_names_and_contents_alone(
    root: Path, model: Path, image: Image, tmp_path: Path
) -> None:
    reversed_files = dict(reversed(FILES.items()))
    other = write_tree(tmp_path / "far" / "away", reversed_files, mode=0o755)
    (other / "an empty folder").mkdir()
    for path in other.rglob("*"):
        os.utime(path, (1, 1))

    again = await OciLayoutRegistry(tmp_path / "other images").build_and_push(
        order(other, name="churn", revision=9)
    )

    assert again.digest == image.digest
    assert again.size_bytes == image.size_bytes


def test_the_digest_stays_what_it_was_in_earlier_versions(image: Image) -> None:
    # A change of this value breaks every recorded image digest: do it knowingly, or not at all.
    assert image.digest == GOLDEN


@pytest.mark.parametrize("change", [{"MLmodel": b"flavors: []\n"}, {"new": b""}, {"weights.txt": b"?"}])
async def test_any_difference_gives_another_digest(
    root: Path, model: Path, image: Image, change: dict[str, bytes]
) -> None:
    write_tree(model, change)
    assert (await OciLayoutRegistry(root).build_and_push(order(model))).digest != image.digest


async def test_the_layout_is_valid_by_the_oci_image_specification(root: Path, image: Image) -> None:
    assert json.loads((root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((root / "index.json").read_bytes())
    assert (index["schemaVersion"], index["mediaType"]) == (2, "application/vnd.oci.image.index.v1+json")
    assert index["manifests"] == [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.digest,
            "size": blob(root, image.digest).stat().st_size,
            "annotations": {"org.opencontainers.image.ref.name": "fraud-r1"},
        }
    ]
    for path in (root / "blobs" / "sha256").iterdir():
        assert path.name == hashlib.sha256(path.read_bytes()).hexdigest()
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
    manifest = document(root, image.digest)
    parts = [manifest["config"], *manifest["layers"]]
    for part in parts:
        assert part["size"] == blob(root, part["digest"]).stat().st_size
    assert image.size_bytes == blob(root, image.digest).stat().st_size + sum(part["size"] for part in parts)
    assert image.reference == f"oci:{root}@{image.digest}"


async def test_the_image_is_valid_by_the_modelpack_specification(root: Path, image: Image) -> None:
    manifest = document(root, image.digest)
    assert set(manifest) == {"schemaVersion", "mediaType", "artifactType", "config", "layers"}
    assert manifest["schemaVersion"] == 2
    assert manifest["artifactType"] == MODEL == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == MODEL_CONFIG == "application/vnd.cncf.model.config.v1+json"
    assert {layer["mediaType"] for layer in manifest["layers"]} == {MODEL_WEIGHTS}
    assert MODEL_WEIGHTS == "application/vnd.cncf.model.weight.v1.tar"
    assert [layer["annotations"] for layer in manifest["layers"]] == [
        {"org.cncf.model.filepath": "models"},
        {"org.cncf.model.filepath": "models/weights/big.onnx"},
    ]
    assert document(root, manifest["config"]["digest"]) == {
        "descriptor": {},
        "config": {},
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in manifest["layers"]]},
    }


async def test_building_again_gives_the_same_and_mends_damage(root: Path, model: Path, image: Image) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    layer = blob(root, document(root, image.digest)["layers"][0]["digest"])
    layer.chmod(0o644)
    layer.write_bytes(b"damaged")
    assert await OciLayoutRegistry(root).build_and_push(order(model)) == image
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


async def test_every_revision_has_a_name_and_equal_models_share_one_image(
    root: Path, model: Path, image: Image
) -> None:
    registry = OciLayoutRegistry(root)
    blobs = set((root / "blobs" / "sha256").iterdir())
    await registry.build_and_push(order(model, revision=2))
    await registry.build_and_push(order(model, name="Churn_Prod.v2", revision=1))
    assert set((root / "blobs" / "sha256").iterdir()) == blobs
    assert names(root) == dict.fromkeys(["fraud-r1", "fraud-r2", "Churn_Prod.v2-r1"], image.digest)

    write_tree(model, {"MLmodel": b"changed"})
    changed = await registry.build_and_push(order(model, revision=2))
    assert names(root)["fraud-r2"] == changed.digest
    assert len(set((root / "blobs" / "sha256").iterdir()) - blobs) == 3  # the big file's layer is shared


async def test_what_other_tools_wrote_to_the_index_is_kept(root: Path, model: Path) -> None:
    foreign = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "sha256:" + "1" * 64,
        "size": 7,
        "platform": {"os": "linux", "architecture": "arm64"},
    }
    root.mkdir()
    (root / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [foreign], "annotations": {"a": "b"}})
    )
    await OciLayoutRegistry(root).build_and_push(order(model))
    index = json.loads((root / "index.json").read_bytes())
    assert index["manifests"][0] == foreign
    assert index["annotations"] == {"a": "b"}
    assert len(index["manifests"]) == 2


BUILD = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_oci_layout import OciLayoutRegistry, order
async def main():
    registry = OciLayoutRegistry(Path(sys.argv[1]))
    for revision in range(1, 6):
        request = order(Path(sys.argv[2]), name=sys.argv[4], revision=revision)
        print((await registry.build_and_push(request)).digest)
asyncio.run(main())
"""


async def test_processes_that_build_at_once_lose_no_name(root: Path, model: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    arguments = [sys.executable, "-c", BUILD, str(root), str(model), str(Path(__file__).parent)]
    started = [
        subprocess.Popen(
            [*arguments, f"model-{n}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        for n in range(3)
    ]
    answers = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * 3, answers
    assert set(names(root)) == {f"model-{n}-r{revision}" for n in range(3) for revision in range(1, 6)}
    assert len({line for out, _ in answers for line in out.split()}) == 1


async def test_threads_that_build_at_once_lose_no_name(root: Path, model: Path) -> None:
    registry = OciLayoutRegistry(root)
    await asyncio.gather(*(registry.build_and_push(order(model, revision=n)) for n in range(8)))
    assert set(names(root)) == {f"fraud-r{n}" for n in range(8)}
    assert list((root / ".deployledger" / "staging").iterdir()) == []


async def test_leftovers_of_killed_processes_alone_are_swept(root: Path, model: Path, image: Image) -> None:
    staging = root / ".deployledger" / "staging"
    (staging / "dead").mkdir()
    (staging / "dead" / "0").write_bytes(b"half a layer")
    with staging_folder(staging) as alive:
        os.utime(alive, (1, 1))
        assert await OciLayoutRegistry(root).build_and_push(order(model)) == image
        assert list(staging.iterdir()) == [alive]


# --- refusals


async def packaging_error(root: Path, request: PackageRequest) -> ExternalServiceError:
    with pytest.raises(ExternalServiceError) as caught:
        await OciLayoutRegistry(root).build_and_push(request)
    assert caught.value.hint
    assert caught.value.service_name == "container registry"
    return caught.value


async def test_a_model_that_is_not_what_was_fetched_is_refused(root: Path, model: Path) -> None:
    request = order(model)
    (model / "MLmodel").unlink()
    error = await packaging_error(root, request)
    assert error.reason is FailureReason.ARTIFACT_DAMAGED
    assert request.artifact.digest in error.message
    assert not (root / "index.json").exists()
    kept = [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]
    assert kept == [], "what was packed from other files stays in the layout"


async def test_a_model_that_is_gone_is_refused(root: Path, model: Path) -> None:
    request = order(model)
    shutil.rmtree(model)
    assert (await packaging_error(root, request)).reason is FailureReason.ARTIFACT_DAMAGED


@pytest.mark.parametrize("target", ["MLmodel", "weights", "/etc/passwd"])
async def test_links_are_refused(root: Path, model: Path, target: str) -> None:
    request = order(model)
    (model / "link").symlink_to(target)
    assert (await packaging_error(root, request)).reason is FailureReason.ARTIFACT_DAMAGED


@pytest.mark.parametrize("size", [11, 13])
def test_a_file_that_is_not_as_long_as_it_was_is_refused(model: Path, size: int) -> None:
    with pytest.raises(ExternalServiceError, match="changed while it was being packaged"):
        list(archive_chunks([ModelFile(model / "MLmodel", "models/MLmodel", size)], []))


async def test_a_layout_that_cannot_be_written_says_so(model: Path, tmp_path: Path) -> None:
    write_tree(tmp_path, {"images": b"a file where the folder should be"})
    assert (await packaging_error(tmp_path / "images", order(model))).reason is FailureReason.STORAGE_FAILED


async def test_a_damaged_index_is_set_aside_and_a_new_one_begun(
    root: Path, model: Path, image: Image
) -> None:
    (root / "index.json").write_text("{")
    assert await OciLayoutRegistry(root).build_and_push(order(model)) == image
    assert names(root).keys() == {"fraud-r1"}
    assert (root / ".deployledger/damaged/index.json").read_text() == "{"


# --- unpacking


async def test_an_image_unpacks_to_the_models_files(image: Image, tmp_path: Path) -> None:
    extract_model(image.reference, tmp_path / "serving" / "r1")
    assert read_tree(tmp_path / "serving" / "r1") == FILES
    assert [path.name for path in (tmp_path / "serving").iterdir()] == ["r1"]


async def test_an_empty_destination_is_filled_and_one_in_use_left_alone(image: Image, tmp_path: Path) -> None:
    destination = tmp_path / "r1"
    destination.mkdir()
    extract_model(image.reference, destination)
    (destination / "MLmodel").write_bytes(b"mine")
    assert extraction_error(image.reference, destination).reason is FailureReason.PACKAGING_FAILED
    assert (destination / "MLmodel").read_bytes() == b"mine"
    write_tree(tmp_path, {"file": b""})
    assert extraction_error(image.reference, tmp_path / "file").reason is FailureReason.PACKAGING_FAILED


@pytest.mark.parametrize(
    "reference",
    ["", "docker://fraud:1", "oci:relative@sha256:" + "0" * 64, "oci:/images:fraud-r1", "oci:/i@sha256:00"],
)
def test_references_of_another_kind_are_refused(reference: str, tmp_path: Path) -> None:
    assert extraction_error(reference, tmp_path / "r1").reason is FailureReason.PACKAGING_FAILED


def test_an_image_that_is_not_there_is_refused(tmp_path: Path) -> None:
    error = extraction_error(f"oci:{tmp_path}@sha256:{'0' * 64}", tmp_path / "serving" / "r1")
    assert error.reason is FailureReason.ARTIFACT_DAMAGED
    assert "is missing" in error.message


@pytest.mark.parametrize("part", ["manifest", "config", "small files", "big file"])
@pytest.mark.parametrize("damage", ["changed", "cut", "longer", "missing"])
async def test_damage_to_any_blob_is_noticed_and_nothing_is_unpacked(
    root: Path, image: Image, tmp_path: Path, part: str, damage: str
) -> None:
    manifest = document(root, image.digest)
    digests = [image.digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
    victim = blob(root, digests[["manifest", "config", "small files", "big file"].index(part)])
    content = victim.read_bytes()
    victim.chmod(0o644)
    if damage == "missing":
        victim.unlink()
    else:
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        victim.write_bytes({"changed": changed, "cut": content[:middle], "longer": content + b"\0"}[damage])

    error = extraction_error(image.reference, tmp_path / "r1")

    assert error.reason is FailureReason.ARTIFACT_DAMAGED
    assert not (tmp_path / "r1").exists()


def write_image(root: Path, archive: bytes, **changes: object) -> str:
    """Write an image with one layer by hand, as an attacker would; return its reference."""

    def add(content: bytes) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blob(root, digest).parent.mkdir(parents=True, exist_ok=True)
        blob(root, digest).write_bytes(content)
        return {"mediaType": MODEL_WEIGHTS, "digest": digest, "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "artifactType": MODEL,
        "config": add(b"{}"),
        "layers": [add(archive)],
        **changes,
    }
    return f"oci:{root}@{add(json.dumps(manifest).encode())['digest']}"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def tar_of(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info in members:
            archive.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [member("models/../../escaped")],
        [member("/models/escaped")],
        [member("../models/escaped")],
        [member("elsewhere/file")],
        [member("models//escaped")],
        [member("models\\..\\escaped")],
        [member("models/a\\..\\..\\escaped")],
        [member("models")],
        [member("models/link", tarfile.SYMTYPE, "/etc/passwd")],
        [member("models/link", tarfile.SYMTYPE, ".."), member("models/link/escaped")],
        [member("models/hard", tarfile.LNKTYPE, "/etc/passwd")],
        [member("models/pipe", tarfile.FIFOTYPE)],
        [member("models/device", tarfile.CHRTYPE)],
        [member("models/twice"), member("models/twice")],
        [member("models/file"), member("models/file/below")],
    ],
    ids=lambda members: " ".join(info.name for info in members),
)
def test_archives_that_reach_for_more_are_refused(
    members: list[tarfile.TarInfo], root: Path, tmp_path: Path
) -> None:
    before = {*tmp_path.rglob("*")}
    reference = write_image(root, tar_of(*members))
    error = extraction_error(reference, tmp_path / "serving" / "r1")
    assert error.reason is FailureReason.PACKAGING_FAILED
    left = {path for path in tmp_path.rglob("*") if not path.is_relative_to(root)} - before
    assert left == {tmp_path / "serving"}


def test_a_layer_that_is_no_archive_is_refused(root: Path, tmp_path: Path) -> None:
    reference = write_image(root, b"weights" * 1000)
    assert "is not one that was packaged" in extraction_error(reference, tmp_path / "r1").message


@pytest.mark.parametrize("changes", [{"artifactType": "application/x"}, {"layers": []}, {"schemaVersion": 1}])
def test_an_image_that_is_not_a_packaged_model_is_refused(
    changes: dict[str, object], root: Path, tmp_path: Path
) -> None:
    reference = write_image(root, tar_of(member("models/a")), **changes)
    assert extraction_error(reference, tmp_path / "r1").reason is FailureReason.PACKAGING_FAILED


def test_members_that_are_bigger_than_the_archive_are_refused(tmp_path: Path) -> None:
    bomb = member("models/bomb")
    bomb.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**50), "GNU.sparse.numblocks": "1"}
    with pytest.raises(ValueError, match="neither a plain file nor a folder"):
        unpack(io.BytesIO(tar_of(bomb)), tmp_path)
