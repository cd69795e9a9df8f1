"""The local artifact store: one digest for equal files, nothing half done, nothing unsafe."""

import asyncio
import hashlib
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployledger.adapters.artifacts import LocalArtifactStore
from deployledger.domain.exceptions import ModelRegistryError
from deployledger.domain.reasons import FailureReason
from deployledger.domain.values import Artifact
from deployledger.service.files.listing import FileEntry, decode_listing, encode_listing, tree_digest

FILES = {
    "MLmodel": b"flavors: {}\n",
    "data/model.onnx": bytes(range(256)) * 64,
    "data/empty": b"",
    "ä b": b"x",
}

NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1, max_size=12
)
TREES = st.dictionaries(
    st.tuples(
        st.sampled_from(["", "d/", "d.x/", "d/e/"]),
        NAMES.filter(lambda name: name not in (".", "..", "d", "d.x", "e")),
    ).map("".join),
    st.binary(max_size=40),
    min_size=1,
    max_size=6,
).filter(lambda tree: any(tree.values()))


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


def stored_files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.name != "lock"]


@pytest.fixture
def store(tmp_path: Path) -> LocalArtifactStore:
    return LocalArtifactStore(tmp_path / "store")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "model", FILES)


async def add(store: LocalArtifactStore, source: Path) -> Artifact:
    return await store.add(source, resolved_uri=f"file://{source}")


async def refusal(store: LocalArtifactStore, source: Path) -> ModelRegistryError:
    with pytest.raises(ModelRegistryError) as caught:
        await add(store, source)
    assert caught.value.hint
    return caught.value


# --- the digest


def test_a_listing_is_decoded_to_what_was_encoded() -> None:
    entries = [FileEntry("a", 1, "0" * 64), FileEntry("b c/\u2028d", 0, "f" * 64)]
    assert decode_listing(encode_listing(reversed(entries))) == entries


def test_the_digest_of_a_tree_is_the_sha256_of_its_documented_listing() -> None:
    sha256 = hashlib.sha256(b"hello").hexdigest()
    listing = encode_listing([FileEntry("b/c", 5, sha256), FileEntry("b.c", 5, sha256)])
    assert listing == f"{sha256} 5 b.c\n{sha256} 5 b/c\n".encode()
    assert tree_digest(listing) == "sha256:" + hashlib.sha256(listing).hexdigest()


async def test_the_digest_can_be_computed_with_nothing_but_a_shell(
    store: LocalArtifactStore, model: Path
) -> None:
    script = (
        "export LC_ALL=C; find . -type f | sed 's,^./,,' | sort | while IFS= read -r path; do "
        'echo "$(sha256sum < "$path" | cut -c1-64) $(wc -c < "$path" | tr -d " ") $path"; '
        "done | sha256sum | cut -c1-64"
    )
    shell = await asyncio.create_subprocess_exec("sh", "-c", script, cwd=model, stdout=subprocess.PIPE)
    by_shell, _ = await shell.communicate()
    assert (await add(store, model)).digest == f"sha256:{by_shell.decode().strip()}"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, order=st.randoms(use_true_random=False))
def test_digests_ignore_folder_order_modes_and_times(
    tree: dict[str, bytes], order: random.Random, tmp_path: Path
) -> None:
    base = Path(tmp_path / f"case-{time.monotonic_ns()}")
    names = list(tree)
    order.shuffle(names)
    first = write_tree(base / "first", tree)
    second = write_tree(base / "elsewhere" / "second", {name: tree[name] for name in names}, mode=0o755)
    (second / "an empty folder").mkdir()
    for path in second.rglob("*"):
        os.utime(path, (1, 1))
    store = LocalArtifactStore(base / "store")

    async def both() -> tuple[Artifact, Artifact, Path | None]:
        one, two = await add(store, first), await add(store, second)
        return one, two, await store.path_of(one.digest)

    one, two, folder = asyncio.run(both())

    assert one.digest == two.digest
    assert one.file_count == len(tree)
    assert one.size_bytes == sum(map(len, tree.values()))
    assert folder is not None
    assert read_tree(folder) == tree


@pytest.mark.parametrize(
    "other",
    [
        {"a": b"1", "b": b"3"},
        {"a": b"1", "c": b"2"},
        {"a": b"2", "b": b"1"},
        {"a": b"1", "b": b"2", "c": b""},
        {"a": b"1", "d/b": b"2"},
        {"a": b"12"},
    ],
)
async def test_any_difference_gives_another_digest(
    store: LocalArtifactStore, tmp_path: Path, other: dict[str, bytes]
) -> None:
    one = await add(store, write_tree(tmp_path / "one", {"a": b"1", "b": b"2"}))
    two = await add(store, write_tree(tmp_path / "two", other))
    assert one.digest != two.digest


async def test_a_file_is_a_tree_of_one_file_under_its_own_name(
    store: LocalArtifactStore, tmp_path: Path
) -> None:
    folder = write_tree(tmp_path / "model", {"model.onnx": b"weights"})
    of_file = await add(store, folder / "model.onnx")
    assert of_file.digest == (await add(store, folder)).digest
    assert (of_file.file_count, of_file.size_bytes) == (1, 7)


async def test_the_artifact_carries_where_it_came_from(store: LocalArtifactStore, model: Path) -> None:
    artifact = await store.add(model, resolved_uri="models:/fraud/7", model_version="7")
    assert (artifact.resolved_uri, artifact.model_version) == ("models:/fraud/7", "7")


# --- what is given back


async def test_the_folder_of_a_digest_holds_exactly_its_files_read_only(
    store: LocalArtifactStore, model: Path
) -> None:
    (model / "an empty folder").mkdir()
    artifact = await add(store, model)
    shutil.rmtree(model)

    folder = await store.path_of(artifact.digest)

    assert folder is not None
    assert read_tree(folder) == FILES
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert modes == {0o500, 0o400}
    await store.verify(artifact.digest)


@pytest.mark.parametrize(
    "digest", ["sha256:" + "0" * 64, "sha256:../../etc", "", "md5:1", "sha256:" + "A" * 64]
)
async def test_an_unknown_digest_has_no_folder(store: LocalArtifactStore, digest: str) -> None:
    assert await store.path_of(digest) is None
    with pytest.raises(ModelRegistryError) as caught:
        await store.verify(digest)
    assert caught.value.reason is FailureReason.MODEL_NOT_FOUND
    assert caught.value.status_code == 404


async def test_adding_again_changes_nothing(store: LocalArtifactStore, model: Path, tmp_path: Path) -> None:
    first = await add(store, model)
    before = {path: path.stat().st_ino for path in stored_files(tmp_path / "store") if "blobs" in path.parts}
    assert await add(store, model) == first
    assert {
        path: path.stat().st_ino for path in stored_files(tmp_path / "store") if "blobs" in path.parts
    } == before


async def test_a_stored_model_can_be_added_from_its_own_folder(
    store: LocalArtifactStore, model: Path
) -> None:
    artifact = await add(store, model)
    folder = await store.path_of(artifact.digest)
    assert folder is not None
    assert (await add(store, folder)).digest == artifact.digest


async def test_models_share_the_files_they_have_in_common(store: LocalArtifactStore, tmp_path: Path) -> None:
    await add(store, write_tree(tmp_path / "one", {"a": b"same", "b": b"same", "c": b"1"}))
    await add(store, write_tree(tmp_path / "two", {"a": b"same", "c": b"2"}))
    assert len(list((tmp_path / "store/blobs/sha256").iterdir())) == 3


# --- symbolic links


async def test_links_inside_of_the_model_are_stored_as_what_they_point_at(
    store: LocalArtifactStore, tmp_path: Path
) -> None:
    model = write_tree(tmp_path / "model", {"v2/model.onnx": b"weights"})
    (model / "latest").symlink_to("v2")
    (model / "model.onnx").symlink_to(model / "v2" / "model.onnx")
    (tmp_path / "alias").symlink_to(model)

    artifact = await add(store, tmp_path / "alias")

    folder = await store.path_of(artifact.digest)
    assert folder is not None
    assert read_tree(folder) == dict.fromkeys(
        ["v2/model.onnx", "latest/model.onnx", "model.onnx"], b"weights"
    )
    assert not any(path.is_symlink() for path in folder.rglob("*"))


async def test_a_link_to_a_file_is_a_model_under_the_name_of_the_link(
    store: LocalArtifactStore, tmp_path: Path
) -> None:
    write_tree(tmp_path, {"blobs/0a1b": b"weights"})
    (tmp_path / "model.onnx").symlink_to("blobs/0a1b")
    folder = await store.path_of((await add(store, tmp_path / "model.onnx")).digest)
    assert folder is not None
    assert read_tree(folder) == {"model.onnx": b"weights"}


async def test_links_out_of_the_model_are_refused(
    store: LocalArtifactStore, model: Path, tmp_path: Path
) -> None:
    write_tree(tmp_path, {"secret": b"password"})
    (model / "data" / "notes").symlink_to("../../secret")
    error = await refusal(store, model)
    assert error.reason is FailureReason.MODEL_UNSAFE
    assert error.status_code == 400
    assert "notes" in error.message
    assert stored_files(tmp_path / "store") == []


@pytest.mark.parametrize("target", [".", "..", "../data", "/", "self"])
async def test_links_that_never_end_are_refused(store: LocalArtifactStore, model: Path, target: str) -> None:
    (model / "data" / "self").symlink_to(target)
    assert (await refusal(store, model)).reason is FailureReason.MODEL_UNSAFE


async def test_folders_that_multiply_by_links_are_refused(store: LocalArtifactStore, tmp_path: Path) -> None:
    model = write_tree(tmp_path / "model", {"20/file": b"x"})
    for level in range(20):
        (model / str(level)).mkdir()
        (model / str(level) / "left").symlink_to(f"../{level + 1}")
        (model / str(level) / "right").symlink_to(f"../{level + 1}")
    assert (await refusal(store, model)).reason is FailureReason.MODEL_UNSAFE


async def test_a_link_to_nothing_is_refused(store: LocalArtifactStore, model: Path) -> None:
    (model / "broken").symlink_to("gone")
    error = await refusal(store, model)
    assert error.reason is FailureReason.MODEL_UNREADABLE
    assert "broken" in error.message


async def test_a_model_that_is_a_link_to_itself_is_refused(store: LocalArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert (await refusal(store, tmp_path / "loop")).reason is FailureReason.MODEL_UNSAFE


# --- other refusals


@pytest.mark.parametrize("path", ["nothing", "model/MLmodel/below-a-file", "null\0byte"])
async def test_what_does_not_exist_is_not_found(
    store: LocalArtifactStore, model: Path, tmp_path: Path, path: str
) -> None:
    error = await refusal(store, tmp_path / path)
    assert error.reason is FailureReason.MODEL_NOT_FOUND
    assert error.status_code == 400


@pytest.mark.parametrize("files", [{}, {"empty": b"", "also/empty": b""}])
async def test_a_folder_without_a_byte_is_empty(
    store: LocalArtifactStore, tmp_path: Path, files: dict[str, bytes]
) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    write_tree(tmp_path / "model", files)
    assert (await refusal(store, tmp_path / "model")).reason is FailureReason.MODEL_EMPTY


async def test_an_empty_file_is_empty(store: LocalArtifactStore, tmp_path: Path) -> None:
    write_tree(tmp_path, {"model.onnx": b""})
    assert (await refusal(store, tmp_path / "model.onnx")).reason is FailureReason.MODEL_EMPTY


def unreadable_file(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        write_tree(tmp_path, {"secret.onnx": b"weights"}, mode=0)
        return tmp_path / "secret.onnx"
    write_only = Path("/sys/bus/platform/drivers_probe")  # not even root may read it
    if not write_only.exists():
        pytest.skip("root can read every file of this machine")
    return write_only


async def test_a_file_the_system_does_not_let_us_read_is_unreadable(
    store: LocalArtifactStore, tmp_path: Path
) -> None:
    error = await refusal(store, unreadable_file(tmp_path))
    assert error.reason is FailureReason.MODEL_UNREADABLE
    assert "Permission denied" in error.message


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
@pytest.mark.timeout(60)
async def test_special_files_are_refused_without_waiting_for_them(
    store: LocalArtifactStore, model: Path, kind: str
) -> None:
    path = model / "special"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    else:
        path = Path("/dev/zero")
    if kind != "device":
        assert (await refusal(store, model)).reason is FailureReason.MODEL_UNSAFE
    assert (await refusal(store, path)).reason is FailureReason.MODEL_UNSAFE


@pytest.mark.parametrize(
    "name", [b"two\nlines", b"not-\xff-utf8", b"bell\x07", b"back\\slash", b"del\x7f", "c1\x85".encode()]
)
async def test_names_that_other_machines_cannot_hold_are_refused(
    store: LocalArtifactStore, model: Path, name: bytes
) -> None:
    Path(os.fsdecode(os.path.join(os.fsencode(model), name))).write_bytes(b"x")  # noqa: PTH118  (bytes path)
    error = await refusal(store, model)
    assert error.reason is FailureReason.MODEL_UNSAFE
    error.message.encode()  # can be logged and sent, whatever the name


async def test_the_folder_the_store_is_in_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "home", {"model.onnx": b"weights"})
    store = LocalArtifactStore(tmp_path / "home" / "store")
    await add(store, tmp_path / "home" / "model.onnx")
    error = await refusal(store, tmp_path / "home")
    assert error.reason is FailureReason.MODEL_UNSAFE


async def test_a_model_that_is_being_written_is_refused(store: LocalArtifactStore, tmp_path: Path) -> None:
    model = write_tree(tmp_path / "model", {"a": bytes(64 * 1024 * 1024), "log": b"x"})
    stop = threading.Event()

    def write() -> None:
        with (model / "log").open("ab", buffering=0) as log:
            while not stop.is_set():
                log.write(b"x")
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        error = await refusal(store, model)
    finally:
        stop.set()
        writer.join()
    assert error.reason is FailureReason.MODEL_CHANGED
    assert stored_files(tmp_path / "store") == []


async def test_a_file_added_to_the_model_meanwhile_is_noticed(
    store: LocalArtifactStore, tmp_path: Path
) -> None:
    model = write_tree(tmp_path / "model", {"a": bytes(96 * 1024 * 1024)})
    adding = asyncio.create_task(add(store, model))
    while not any((tmp_path / "store").glob("staging/*/0")):
        await asyncio.sleep(0.001)
    write_tree(model, {"b": b"late"})
    with pytest.raises(ModelRegistryError) as caught:
        await adding
    assert caught.value.reason is FailureReason.MODEL_CHANGED


# --- damage, crashes, and company


async def test_truncated_bytes_are_never_served(
    store: LocalArtifactStore, model: Path, tmp_path: Path
) -> None:
    artifact = await add(store, model)
    await store.path_of(artifact.digest)
    blob = max((tmp_path / "store/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.chmod(0o644)
    os.truncate(blob, 10)

    with pytest.raises(ModelRegistryError) as caught:
        await store.path_of(artifact.digest)
    assert caught.value.reason is FailureReason.ARTIFACT_DAMAGED
    assert "data/model.onnx has 10 bytes" in caught.value.message

    assert await add(store, model) == artifact  # which mends it
    folder = await store.path_of(artifact.digest)
    assert folder is not None
    assert read_tree(folder) == FILES


async def test_verify_finds_changed_bytes_of_the_same_size(
    store: LocalArtifactStore, model: Path, tmp_path: Path
) -> None:
    artifact = await add(store, model)
    folder = await store.path_of(artifact.digest)
    assert folder is not None
    victim = folder / "MLmodel"
    victim.chmod(0o644)
    victim.write_bytes(b"FLAVORS: {}\n")
    with pytest.raises(ModelRegistryError) as caught:
        await store.verify(artifact.digest)
    assert caught.value.reason is FailureReason.ARTIFACT_DAMAGED
    blob = tmp_path / "store/blobs/sha256" / hashlib.sha256(FILES["MLmodel"]).hexdigest()
    assert f"MLmodel has changed since it was stored ({blob})" in caught.value.message

    await add(store, model)  # as the hint says
    assert await store.path_of(artifact.digest) == folder
    await store.verify(artifact.digest)


async def test_a_forged_listing_is_noticed(store: LocalArtifactStore, model: Path, tmp_path: Path) -> None:
    artifact = await add(store, model)
    listing = tmp_path / "store/listings/sha256" / artifact.digest.removeprefix("sha256:")
    listing.chmod(0o644)
    listing.write_bytes(listing.read_bytes().replace(b"MLmodel", b"MLmode1"))
    with pytest.raises(ModelRegistryError, match=r"the listing .* has changed since it was stored"):
        await store.path_of(artifact.digest)


async def test_a_folder_somebody_tampered_with_is_made_anew(store: LocalArtifactStore, model: Path) -> None:
    artifact = await add(store, model)
    folder = await store.path_of(artifact.digest)
    assert folder is not None
    (folder / "data").chmod(0o755)
    (folder / "data" / "extra").write_bytes(b"?")
    (folder / "data" / "model.onnx").unlink()
    again = await store.path_of(artifact.digest)
    assert again == folder
    assert read_tree(folder) == FILES


ADD = """
import asyncio, sys
from pathlib import Path
from deployledger.adapters.artifacts import LocalArtifactStore
{prelude}
async def main():
    store = LocalArtifactStore(Path(sys.argv[1]))
    artifact = await store.add(Path(sys.argv[2]), resolved_uri="file:///model")
    print(artifact.digest, await store.path_of(artifact.digest))
asyncio.run(main())
"""


def start_adding(store: Path, model: Path, prelude: str = "") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", ADD.format(prelude=prelude), str(store), str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )


async def test_processes_that_add_the_same_at_once_agree(model: Path, tmp_path: Path) -> None:
    started = [start_adding(tmp_path / "store", model) for _ in range(4)]
    answers = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * 4, answers
    assert len({out for out, _ in answers}) == 1
    digest = answers[0][0].split()[0]
    store = LocalArtifactStore(tmp_path / "store")
    await store.verify(digest)
    assert list((tmp_path / "store/staging").iterdir()) == []


async def test_threads_that_add_and_read_the_same_at_once_agree(
    store: LocalArtifactStore, model: Path
) -> None:
    async def add_and_read() -> dict[str, bytes]:
        artifact = await add(store, model)
        folder = await store.path_of(artifact.digest)
        assert folder is not None
        return read_tree(folder)

    assert await asyncio.gather(*(add_and_read() for _ in range(8))) == [FILES] * 8


async def test_a_killed_process_leaves_nothing_visible_and_its_part_is_swept(tmp_path: Path) -> None:
    model = write_tree(tmp_path / "model", {"a": b"small"})
    with (model / "big").open("wb") as big:
        big.truncate(4 * 1024**3)  # sparse, yet it takes seconds to read
    process = start_adding(tmp_path / "store", model)
    staging = tmp_path / "store" / "staging"
    while not any(staging.glob("*/1")):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.communicate()

    assert not any((tmp_path / "store/blobs/sha256").iterdir())
    assert not any((tmp_path / "store/listings/sha256").iterdir())
    assert len(stored_files(staging)) == 2

    (model / "big").write_bytes(b"now small")
    store = LocalArtifactStore(tmp_path / "store")
    artifact = await add(store, model)
    await store.verify(artifact.digest)
    assert list(staging.iterdir()) == []


async def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path: Path) -> None:
    model = write_tree(tmp_path / "model", {"a": b"fits", "b": bytes(3 * 1024 * 1024)})
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))"
    process = start_adding(tmp_path / "store", model, limit)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ModelRegistryError: The artifact store in" in errors
    assert "File too large" in errors
    assert stored_files(tmp_path / "store") == []


async def test_a_store_that_cannot_be_written_says_so(model: Path, tmp_path: Path) -> None:
    write_tree(tmp_path, {"store": b"a file where the folder should be"})
    error = await refusal(LocalArtifactStore(tmp_path / "store"), model)
    assert error.reason is FailureReason.STORAGE_FAILED
    assert error.status_code == 503


async def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    with model.open("wb") as file:
        file.truncate(256 * 1024 * 1024)
    limit = (
        "import resource; before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "import atexit; atexit.register(lambda: print("
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))"
    )
    process = start_adding(tmp_path / "store", model, limit)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert int(out.split()[-1]) < 32 * 1024  # kibibytes


def onnx_with_weights_in(location: str) -> bytes:
    """Return an ONNX model with one initializer that is in another file, encoded by hand (protobuf)."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    entry = field(1, b"location") + field(2, location.encode())
    offset = field(1, b"offset") + field(2, b"0")
    initializer = bytes([0x10, 1]) + field(8, b"W") + field(13, entry) + field(13, offset)
    return bytes([0x08, 8]) + field(7, field(2, b"graph") + field(5, initializer))


@pytest.mark.parametrize("is_there", [True, False])
async def test_an_onnx_file_without_its_weights_is_refused_and_names_the_folder(
    store: LocalArtifactStore, tmp_path: Path, is_there: bool
) -> None:
    model = write_tree(tmp_path / "ext", {"model.onnx": onnx_with_weights_in("model.onnx.data")})
    if is_there:
        write_tree(model, {"model.onnx.data": b"weights"})
    error = await refusal(store, model / "model.onnx")
    assert error.reason is FailureReason.MODEL_INVALID
    assert "model.onnx.data" in error.message
    assert (str(model) in error.hint) is is_there
    assert await add(store, model)


@pytest.mark.parametrize("content", [b"x", b"\xff" * 30, b"\x3a\xff\x01", onnx_with_weights_in("w")[:-3]])
async def test_a_file_that_is_no_onnx_model_is_left_to_who_loads_it(
    store: LocalArtifactStore, tmp_path: Path, content: bytes
) -> None:
    model = write_tree(tmp_path / "ext", {"model.onnx": content})
    assert await add(store, model / "model.onnx")
