"""The MLflow registry client: its URIs and messages alone, broken servers, and a real server."""

import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from deployledger.adapters.mlflow import MlflowModelRegistryClient
from deployledger.adapters.mlflow.redaction import redacted, secrets_of, shown
from deployledger.adapters.mlflow.references import (
    LoggedModel,
    RegisteredModel,
    RunArtifact,
    parse_reference,
)
from deployledger.domain.exceptions import ConfigurationError, InsufficientStorageError, ModelRegistryError
from deployledger.domain.ports import ModelRegistryClientInterface, ResolvesModelVersions
from deployledger.domain.reasons import FailureReason
from deployledger.service.files import disk_space
from deployledger.testing import ModelRegistryContract
from tests.ports import free_port

LONGEST_ACCEPTABLE_SECONDS = 60


def files_of(folder: str | Path) -> dict[str, bytes]:
    root = Path(folder)
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def content_of(file: str) -> bytes:
    return Path(file).read_bytes()


# --- model URIs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "reference"),
    [
        ("models:/iris/3", RegisteredModel("iris", version="3")),
        ("models:/iris/003", RegisteredModel("iris", version="3")),
        ("models:/iris/latest", RegisteredModel("iris")),
        ("models:/iris/Latest/", RegisteredModel("iris")),
        ("models:/iris/Production", RegisteredModel("iris", stage="Production")),
        ("models:/iris@champion", RegisteredModel("iris", alias="champion")),
        ("models:/main.ml.iris/1", RegisteredModel("main.ml.iris", version="1")),
        (
            "models:/my model/1/sub/model.onnx",
            RegisteredModel("my model", version="1", path="sub/model.onnx"),
        ),
        ("models:/iris@champion/model.onnx", RegisteredModel("iris", alias="champion", path="model.onnx")),
        ("models:/m-0a1b", LoggedModel("m-0a1b")),
        ("models:/m-0a1b/2", RegisteredModel("m-0a1b", version="2")),
        ("runs:/abc123/model", RunArtifact("abc123", "model")),
        ("mlflow_runs:/abc123/a/b.onnx", RunArtifact("abc123", "a/b.onnx")),
        ("runs:/abc123", RunArtifact("abc123")),
    ],
)
def test_uris_are_read_into_what_they_refer_to(uri: str, reference: object) -> None:
    assert parse_reference(uri) == reference


@pytest.mark.parametrize(
    "uri",
    ["models:/iris/3", "models:/iris@champion/x", "models:/iris/Staging", "models:/m-0a", "runs:/abc/model"],
)
def test_a_reference_is_written_as_it_is_read(uri: str) -> None:
    assert str(parse_reference(uri)) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "iris",
        "models:",
        "models:/",
        "models:/iris",
        "models://iris/1",
        "models:/iris@",
        "models:/@champion",
        "models:/ /1",
        "models:/iris/1/../secret",
        "runs:/",
        "runs://host/model",
        "runs:/abc/../other",
        "runs:/../x",
        "s3://bucket/model",
    ],
)
def test_other_uris_are_configuration_errors_that_show_the_valid_forms(uri: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_reference(uri)

    assert "models:/<name>/<version>" in caught.value.hint


# --- credentials --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "as_shown"),
    [
        ("https://ann:pw@mlflow.example:8443/base", "https://mlflow.example:8443/base"),
        ("https://token@mlflow.example", "https://mlflow.example"),
        ("postgresql://ann:p%40ss@db/mlflow?sslpassword=x", "postgresql://db/mlflow"),
        ("sqlite:////srv/mlflow.db", "sqlite:////srv/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_credentials(uri: str, as_shown: str) -> None:
    assert shown(uri) == as_shown


def test_credentials_are_removed_wherever_a_message_repeats_them() -> None:
    secrets = secrets_of("https://ann:p%40ss@host/x?api_key=abcdef")

    text = redacted("https://ann:p%40ss@host: p@ss, abcdef, s3://b/k?X-Amz-Signature=1 end", secrets)

    assert text == "https://host: ***, ***, s3://b/k end"


# --- servers that fail --------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> int:
    return free_port()


@contextmanager
def server_that_answers(status: int) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Retry-After", "60")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def failure_of(client: MlflowModelRegistryClient, uri: str = "models:/iris/1") -> ModelRegistryError:
    began = time.monotonic()
    with pytest.raises(ModelRegistryError) as caught:
        await client.resolve_model(uri)
    assert time.monotonic() - began < LONGEST_ACCEPTABLE_SECONDS
    return caught.value


async def test_a_server_that_is_down_is_reported_at_once(closed_port: int, tmp_path: Path) -> None:
    client = MlflowModelRegistryClient(f"http://127.0.0.1:{closed_port}")

    failure = await failure_of(client)

    assert failure.reason is FailureReason.REGISTRY_UNAVAILABLE
    assert f"http://127.0.0.1:{closed_port}" in failure.message
    assert "models:/iris/1" in failure.message
    assert "refused" in failure.message
    assert failure.hint
    with pytest.raises(ModelRegistryError):
        await client.download_artifacts(run_id="abc", artifact_path="model", dst_path=str(tmp_path))


async def test_a_server_that_never_answers_is_given_up_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = MlflowModelRegistryClient(f"http://127.0.0.1:{silent.getsockname()[1]}")

        failure = await failure_of(client)

    assert failure.reason is FailureReason.REGISTRY_UNAVAILABLE


async def test_an_unwell_server_is_reported_at_once_despite_retry_after() -> None:
    with server_that_answers(503) as address:
        failure = await failure_of(MlflowModelRegistryClient(address))

    assert failure.reason is FailureReason.REGISTRY_UNAVAILABLE
    assert "503" in failure.message


async def test_a_server_that_refuses_us_says_which_credentials_to_check() -> None:
    with server_that_answers(403) as address:
        failure = await failure_of(MlflowModelRegistryClient(address))

    assert failure.reason is FailureReason.REGISTRY_UNAVAILABLE
    assert "MLFLOW_TRACKING_USERNAME" in failure.hint


async def test_a_registry_that_is_down_is_reported_beside_a_tracking_server(closed_port: int) -> None:
    with server_that_answers(200) as address:
        client = MlflowModelRegistryClient(address, registry_uri=f"http://127.0.0.1:{closed_port}")

        failure = await failure_of(client)

    assert failure.reason is FailureReason.REGISTRY_UNAVAILABLE


async def test_credentials_in_the_address_reach_neither_message_nor_traceback(
    closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowModelRegistryClient(f"http://ann:hunter2%21@127.0.0.1:{closed_port}")

    with caplog.at_level("DEBUG"):
        failure = await failure_of(client)

    shown_to_users = str(failure) + "".join(traceback.format_exception(failure)) + caplog.text
    assert "hunter2" not in shown_to_users
    assert "ann" not in str(failure)
    assert f"http://127.0.0.1:{closed_port}" in failure.message


async def test_an_address_that_mlflow_cannot_use_is_a_configuration_error() -> None:
    client = MlflowModelRegistryClient("gopher://ann:hunter2@mlflow.example")

    with pytest.raises(ConfigurationError, match=r"gopher://mlflow\.example") as caught:
        await client.resolve_model("models:/iris/1")

    assert "hunter2" not in str(caught.value)


async def test_without_mlflow_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)

    with pytest.raises(ConfigurationError) as caught:
        await MlflowModelRegistryClient("http://127.0.0.1:9").resolve_model("models:/iris/1")

    assert caught.value.reason is FailureReason.RUNTIME_MISSING
    assert "pip install 'deployledger[mlflow]'" in caught.value.hint


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"run_id": "abc", "model_uri": "models:/iris/1"},
        {"model_uri": "models:/iris/1", "artifact_path": "model.onnx"},
        {"run_id": "abc", "artifact_path": "../other"},
    ],
)
async def test_an_unclear_order_is_refused_before_any_server_is_asked(arguments: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        await MlflowModelRegistryClient("http://127.0.0.1:9").download_artifacts(**arguments)


async def test_a_folder_that_cannot_be_made_is_a_storage_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ModelRegistryError) as caught:
        await MlflowModelRegistryClient("http://127.0.0.1:9").download_artifacts(
            model_uri="models:/iris/1", dst_path=str(tmp_path / "file" / "below")
        )

    assert caught.value.reason is FailureReason.STORAGE_FAILED


# --- a real server ------------------------------------------------------------------------------------------


@pytest.fixture
def client(registered_model: Any) -> MlflowModelRegistryClient:
    return MlflowModelRegistryClient(registered_model.tracking_uri)


class TestMlflowModelRegistryClient(ModelRegistryContract):
    model_uri = "models:/iris@champion"
    missing_uri = "models:/iris/99"

    @pytest.fixture
    def client(self, registered_model: Any) -> MlflowModelRegistryClient:
        return MlflowModelRegistryClient(registered_model.tracking_uri)


def test_the_client_has_the_methods_that_the_service_asks_for() -> None:
    client = MlflowModelRegistryClient()

    assert isinstance(client, ModelRegistryClientInterface)
    assert isinstance(client, ResolvesModelVersions)


async def test_an_alias_is_pinned_to_its_version(client: MlflowModelRegistryClient) -> None:
    resolved = await client.resolve_model("models:/iris@champion")

    assert (resolved.uri, resolved.version) == ("models:/iris/1", "1")


@pytest.mark.parametrize("uri", ["models:/iris/latest", "models:/iris/2"])
async def test_latest_and_a_number_are_pinned_to_the_number(
    client: MlflowModelRegistryClient, uri: str
) -> None:
    resolved = await client.resolve_model(uri)

    assert (resolved.uri, resolved.version) == ("models:/iris/2", "2")


async def test_a_stage_is_pinned_to_its_latest_version(
    client: MlflowModelRegistryClient, registered_model: Any
) -> None:
    mlflow = pytest.importorskip("mlflow")
    registry = mlflow.MlflowClient(registered_model.tracking_uri)
    registry.create_registered_model("staged")
    for _ in range(3):
        registry.create_model_version(
            "staged", f"models:/{registered_model.model_id}", model_id=registered_model.model_id
        )
    with pytest.warns(FutureWarning):
        registry.transition_model_version_stage("staged", "2", "Production")

    resolved = await client.resolve_model("models:/staged/production")

    assert (resolved.uri, resolved.version) == ("models:/staged/2", "2")


async def test_moving_an_alias_changes_what_it_means_but_not_what_was_pinned(
    client: MlflowModelRegistryClient, registered_model: Any, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    registry = mlflow.MlflowClient(registered_model.tracking_uri)
    registry.set_registered_model_alias("iris", "moving", "1")
    pinned = await client.resolve_model("models:/iris@moving")
    before = await client.download_artifacts(model_uri=pinned.uri, dst_path=str(tmp_path / "before"))

    registry.set_registered_model_alias("iris", "moving", "2")

    after = await client.download_artifacts(model_uri=pinned.uri, dst_path=str(tmp_path / "after"))
    moved = await client.download_artifacts(model_uri="models:/iris@moving", dst_path=str(tmp_path / "moved"))
    assert files_of(after) == files_of(before)
    assert files_of(moved) != files_of(before)
    assert (await client.resolve_model("models:/iris@moving")).version == "2"


async def test_one_model_has_the_same_files_under_each_of_its_names(
    client: MlflowModelRegistryClient, registered_model: Any, tmp_path: Path
) -> None:
    run_id, model_id = registered_model.run_id, registered_model.model_id
    uris = [
        "models:/iris/1",
        "models:/iris@champion",
        f"models:/{model_id}",
        f"runs:/{run_id}/model",
        f"mlflow_runs:/{run_id}/model",
    ]

    contents = []
    for number, uri in enumerate(uris):
        path = await client.download_artifacts(model_uri=uri, dst_path=str(tmp_path / str(number)))
        contents.append(files_of(path))
    by_run = await client.download_artifacts(
        run_id=run_id, artifact_path="model", dst_path=str(tmp_path / "by-run")
    )

    assert {"MLmodel", "requirements.txt"} <= contents[0].keys()
    assert all(content == contents[0] for content in contents)
    assert files_of(by_run) == contents[0]


async def test_a_model_that_does_not_fit_is_not_downloaded(
    client: MlflowModelRegistryClient, registered_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"models:/{registered_model.name}/1"
    await client.download_artifacts(model_uri=uri, dst_path=str(tmp_path / "fits"))
    size = sum(map(len, files_of(tmp_path / "fits").values()))
    monkeypatch.setattr(disk_space, "free_bytes", lambda folder: disk_space.MARGIN_BYTES)
    with pytest.raises(InsufficientStorageError, match=f"{size:,} bytes are needed"):
        await client.download_artifacts(model_uri=uri, dst_path=str(tmp_path / "full"))
    assert files_of(tmp_path / "full") == {}


async def test_a_downloaded_model_predicts(client: MlflowModelRegistryClient, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")

    path = await client.download_artifacts(model_uri="models:/iris-onnx/latest", dst_path=str(tmp_path))

    model = files_of(path)["model.onnx"]
    assert ort.InferenceSession(model).run(["label"], {"X": [[5.1, 3.5, 1.4, 0.2]]})[0].tolist() == [0]


async def test_a_single_file_of_a_model_and_of_a_run_can_be_had(
    client: MlflowModelRegistryClient, registered_model: Any, tmp_path: Path
) -> None:
    run_id = registered_model.run_id

    of_version = await client.download_artifacts(model_uri="models:/iris/1/MLmodel", dst_path=str(tmp_path))
    of_model = await client.download_artifacts(
        model_uri=f"runs:/{run_id}/model/MLmodel", dst_path=str(tmp_path / "r")
    )
    of_run = await client.download_artifacts(
        run_id=run_id, artifact_path="notes/readme.txt", dst_path=str(tmp_path)
    )
    whole_run = await client.download_artifacts(run_id=run_id, dst_path=str(tmp_path / "whole"))

    assert content_of(of_version) == content_of(of_model)
    assert content_of(of_run) == b"trained on iris"
    assert list(files_of(whole_run)) == ["notes/readme.txt"]


async def test_files_added_to_a_model_in_its_run_come_with_the_model(
    client: MlflowModelRegistryClient, registered_model: Any, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    registry = mlflow.MlflowClient(registered_model.tracking_uri)
    source = next(iter(registry.search_model_versions("name='iris' and version_number=2"))).run_id
    registry.log_text(source, "extra", "model/extra.txt")

    path = await client.download_artifacts(model_uri=f"runs:/{source}/model", dst_path=str(tmp_path))

    assert {"MLmodel", "extra.txt"} <= files_of(path).keys()


async def test_a_run_is_pinned_to_itself_in_mlflow_s_own_spelling(
    client: MlflowModelRegistryClient, registered_model: Any
) -> None:
    resolved = await client.resolve_model(f"mlflow_runs:/{registered_model.run_id}/model")

    assert (resolved.uri, resolved.version) == (f"runs:/{registered_model.run_id}/model", None)


@pytest.mark.parametrize(
    "uri",
    [
        "models:/unknown/1",
        "models:/unknown/latest",
        "models:/iris/99",
        "models:/iris@nobody",
        "models:/iris/Production",
        "models:/m-00000000000000000000000000000000",
        "runs:/00000000000000000000000000000000/model",
    ],
)
async def test_what_mlflow_does_not_have_is_not_found_by_both_methods(
    client: MlflowModelRegistryClient, uri: str, tmp_path: Path
) -> None:
    failure = await failure_of(client, uri)
    with pytest.raises(ModelRegistryError) as caught:
        await client.download_artifacts(model_uri=uri, dst_path=str(tmp_path))

    for error in (failure, caught.value):
        assert error.reason is FailureReason.MODEL_NOT_FOUND
        assert error.status_code == 404
        assert uri in error.message
        assert error.hint


async def test_an_unknown_path_is_not_found_and_the_hint_says_what_there_is(
    client: MlflowModelRegistryClient, registered_model: Any, tmp_path: Path
) -> None:
    with pytest.raises(ModelRegistryError) as of_run:
        await client.download_artifacts(
            model_uri=f"runs:/{registered_model.run_id}/nothing", dst_path=str(tmp_path)
        )
    with pytest.raises(ModelRegistryError) as of_model:
        await client.download_artifacts(model_uri="models:/iris/1/nothing", dst_path=str(tmp_path))

    assert of_run.value.reason is of_model.value.reason is FailureReason.MODEL_NOT_FOUND
    assert "notes" in of_run.value.hint
    assert "MLmodel" in of_model.value.hint


async def test_a_run_without_files_is_empty(
    client: MlflowModelRegistryClient, registered_model: Any, tmp_path: Path
) -> None:
    mlflow = pytest.importorskip("mlflow")
    run = mlflow.MlflowClient(registered_model.tracking_uri).create_run("0")

    with pytest.raises(ModelRegistryError) as caught:
        await client.download_artifacts(run_id=run.info.run_id, dst_path=str(tmp_path))

    assert caught.value.reason is FailureReason.MODEL_EMPTY


async def test_the_server_of_the_environment_is_asked_when_none_is_given(
    registered_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered_model.tracking_uri)

    assert (await MlflowModelRegistryClient().resolve_model("models:/iris@champion")).version == "1"


async def test_without_a_destination_a_temporary_folder_is_made(
    client: MlflowModelRegistryClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    path = await client.download_artifacts(model_uri="models:/iris/1")
    with pytest.raises(ModelRegistryError):
        await client.download_artifacts(model_uri="models:/iris/99")

    assert "MLmodel" in files_of(path)
    assert {Path(name).parts[0] for name in files_of(tmp_path)} == {Path(path).name}
