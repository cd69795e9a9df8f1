"""A user's own model registry client: any object with ``download_artifacts``, over a real artifact store."""

import hashlib
from pathlib import Path

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import (
    MLModelDeploymentService,
    ModelRegistryClientInterface,
)
from core_ai_layer.machine_learning_service.ml_models_schemas import FailureReason
from core_ai_layer.machine_learning_service.ml_service_exceptions import ModelRegistryError
from deployledger.adapters.artifacts import LocalArtifactStore
from deployledger.domain.ports import ResolvedModel
from tests.domain.given import request
from tests.service.conftest import OpenService
from tests.service.outside import FileRegistry

WAIT = 60
FILES = {"model.onnx": b"weights", "notes/readme.txt": b"iris"}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Return one kind of database: what a registry does is the same on all."""
    return f"sqlite:///{tmp_path / 'events.db'}"


@pytest.fixture
def registry() -> FileRegistry:
    return FileRegistry(FILES)


@pytest.fixture
def service(open_service: OpenService, registry: FileRegistry) -> MLModelDeploymentService:
    return open_service(registry)


def home() -> Path:
    import os

    return Path(os.environ["DEPLOYLEDGER_HOME"])


def test_the_method_is_all_that_is_asked_for(registry: FileRegistry) -> None:
    assert isinstance(registry, ModelRegistryClientInterface)
    assert FileRegistry.__bases__ == (object,)


async def test_the_files_of_the_registry_are_stored_under_their_digest(
    service: MLModelDeploymentService, registry: FileRegistry
) -> None:
    answer = await service.deploy_model(request())
    active = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert active.status == "active"
    assert active.message.endswith("Simulated: package, provision.")
    assert active.artifact_digest is not None
    stored = await LocalArtifactStore(home() / "artifacts").path_of(active.artifact_digest)
    assert stored is not None
    found = {str(it.relative_to(stored)): it.read_bytes() for it in stored.rglob("*") if it.is_file()}
    assert found == FILES
    history = await service.get_deployment_history(answer.deployment_id)
    artifact = history[1].data["artifact"]
    assert (artifact["file_count"], artifact["size_bytes"]) == (2, 11)


@pytest.mark.parametrize(
    ("model_uri", "arguments"),
    [
        ("models:/iris/1", {"model_uri": "models:/iris/1"}),
        ("models:/iris@champion", {"model_uri": "models:/iris@champion"}),
        ("runs:/0a1b/model", {"run_id": "0a1b", "artifact_path": "model"}),
        ("runs:/0a1b/deep/model", {"run_id": "0a1b", "artifact_path": "deep/model"}),
        ("mlflow_runs:/0a1b/model", {"run_id": "0a1b", "artifact_path": "model"}),
        ("s3://bucket/iris", {"model_uri": "s3://bucket/iris"}),
    ],
)
async def test_a_registry_is_asked_in_its_own_words(
    model_uri: str, arguments: dict[str, str], service: MLModelDeploymentService, registry: FileRegistry
) -> None:
    answer = await service.deploy_model(request(model_uri=model_uri))
    await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    (call,) = registry.calls
    assert {name: value for name, value in call.items() if value and name != "dst_path"} == arguments
    assert call["dst_path"]


async def test_downloads_leave_nothing_behind(
    service: MLModelDeploymentService, registry: FileRegistry
) -> None:
    for failure in (None, OSError("no")):
        registry.failure = failure
        answer = await service.deploy_model(request(deployment_name=f"iris-{failure is None}"))
        await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
        await service.settled(answer.deployment_id)
    assert list((home() / "downloads").iterdir()) == []


async def test_a_direct_path_is_read_without_the_registry(
    service: MLModelDeploymentService, registry: FileRegistry, tmp_path: Path
) -> None:
    model = tmp_path / "a model.onnx"
    model.write_bytes(b"weights")
    digests = set()
    for name, uri in (("path", str(model)), ("uri", model.as_uri())):
        answer = await service.deploy_model(request(model_uri=uri, deployment_name=name))
        active = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
        assert active.status == "active", active.message
        digests.add(active.artifact_digest)
    assert len(digests) == 1
    assert registry.calls == []


async def test_the_same_files_have_the_same_digest_and_others_another(
    service: MLModelDeploymentService, registry: FileRegistry
) -> None:
    digests = []
    for number, files in enumerate((FILES, FILES, {"model.onnx": b"other weights"})):
        registry.files = files
        answer = await service.deploy_model(request(deployment_name=f"iris-{number}"))
        digests.append(
            (await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)).artifact_digest
        )
    assert digests[0] == digests[1] != digests[2]


async def test_a_rollback_deploys_the_same_bytes_though_the_registry_has_others(
    service: MLModelDeploymentService, registry: FileRegistry
) -> None:
    answer = await service.deploy_model(request())
    first = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    registry.files = {"model.onnx": b"trained again"}
    await service.update_deployment(answer.deployment_id, request())
    second = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert second.artifact_digest != first.artifact_digest
    await service.rollback_deployment(answer.deployment_id, 1)
    third = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert (third.status, third.artifact_digest) == ("active", first.artifact_digest)
    assert len(registry.calls) == 2


class ResolvingRegistry(FileRegistry):
    """Knows which version an alias means."""

    async def resolve_model(self, model_uri: str) -> ResolvedModel:
        return ResolvedModel("models:/iris/7", "7")


async def test_a_registry_that_resolves_versions_pins_them(open_service: OpenService) -> None:
    registry = ResolvingRegistry(FILES)
    service = open_service(registry)
    answer = await service.deploy_model(request(model_uri="models:/iris@champion"))
    active = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert active.model_uri == "models:/iris@champion"
    assert active.deployed_model_version == "models:/iris/7"
    assert registry.calls[0]["model_uri"] == "models:/iris/7"
    history = await service.get_deployment_history(answer.deployment_id)
    assert history[1].data["artifact"]["model_version"] == "7"


# Registries that fail -------------------------------------------------------------------------------


class OddError(Exception):
    """What some registry raises, with nothing to say."""

    def __str__(self) -> str:
        return ""


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (ModelRegistryError("It is down."), {"registry_unavailable"}),
        (ModelRegistryError("None.", reason=FailureReason.MODEL_NOT_FOUND), {"model_not_found"}),
        (ConnectionError("refused"), {"registry_unavailable"}),
        (FileNotFoundError("no such model"), {"registry_unavailable", "model_not_found"}),
        (KeyError("version"), {"registry_unavailable"}),
        (OddError(), {"registry_unavailable"}),
        (StopAsyncIteration(), {"registry_unavailable"}),
        (TimeoutError(), {"registry_unavailable"}),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, Exception) else "",
)
async def test_whatever_a_registry_raises_the_deployment_fails_with_a_reason(
    failure: Exception, reason: set[str], service: MLModelDeploymentService, registry: FileRegistry
) -> None:
    registry.failure = failure
    answer = await service.deploy_model(request())
    failed = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert failed.status == "failed"
    assert failed.failure is not None
    assert failed.failure.step == "fetch"
    assert failed.failure.reason in reason
    assert failed.failure.message
    assert failed.failure.hint or isinstance(failure, ModelRegistryError)
    registry.failure = None
    await service.retry_deployment(answer.deployment_id)
    assert (await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)).status == "active"


class ForgetfulRegistry:
    """Answers, but not with where the files are."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    async def download_artifacts(
        self,
        run_id: str | None = None,
        model_uri: str | None = None,
        artifact_path: str | None = None,
        dst_path: str | None = None,
    ) -> object:
        return self.answer


@pytest.mark.parametrize("answer", [None, "", "/no/such/folder", 7], ids=str)
async def test_a_registry_that_returns_no_folder_fails_the_deployment(
    answer: object, open_service: OpenService
) -> None:
    service = open_service(ForgetfulRegistry(answer))
    requested = await service.deploy_model(request())
    failed = await service.wait_for_deployment(requested.deployment_id, timeout=WAIT)
    assert (failed.status, failed.artifact_digest) == ("failed", None)
    assert failed.failure is not None
    assert failed.failure.step == "fetch"


class BlockingRegistry(FileRegistry):
    """Not asynchronous at all: a plain method, as a first attempt often has."""

    def download_artifacts(  # type: ignore[override]  # the mistake is what is tested
        self,
        run_id: str | None = None,
        model_uri: str | None = None,
        artifact_path: str | None = None,
        dst_path: str | None = None,
    ) -> str:
        return str(dst_path)


async def test_a_registry_that_is_not_asynchronous_fails_the_deployment(open_service: OpenService) -> None:
    service = open_service(BlockingRegistry(FILES))
    requested = await service.deploy_model(request())
    failed = await service.wait_for_deployment(requested.deployment_id, timeout=WAIT)
    assert failed.status == "failed"


@pytest.mark.parametrize(
    ("files", "reason"), [({}, "model_empty"), ({"model.onnx": b""}, "model_empty")], ids=["none", "empty"]
)
async def test_a_model_without_bytes_fails_the_deployment(
    files: dict[str, bytes], reason: str, service: MLModelDeploymentService, registry: FileRegistry
) -> None:
    class MakesTheFolder(FileRegistry):
        async def download_artifacts(self, *args: str | None, **arguments: str | None) -> str:
            path = await super().download_artifacts(*args, **arguments)
            Path(path).mkdir(exist_ok=True)
            return path

    registry.__class__ = MakesTheFolder
    registry.files = files
    answer = await service.deploy_model(request())
    failed = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert failed.failure is not None
    assert (failed.failure.step, failed.failure.reason) == ("fetch", reason)


async def test_a_path_that_is_not_there_fails_the_deployment(
    service: MLModelDeploymentService, tmp_path: Path
) -> None:
    answer = await service.deploy_model(request(model_uri=str(tmp_path / "nothing.onnx")))
    failed = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert failed.failure is not None
    assert (failed.failure.step, failed.failure.reason) == ("fetch", "model_not_found")
    assert "nothing.onnx" in failed.message


async def test_the_listing_is_what_the_digest_is_of(
    service: MLModelDeploymentService, registry: FileRegistry
) -> None:
    answer = await service.deploy_model(request())
    active = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert active.artifact_digest is not None
    listings = home() / "artifacts" / "listings" / "sha256"
    (listing,) = listings.iterdir()
    assert f"sha256:{hashlib.sha256(listing.read_bytes()).hexdigest()}" == active.artifact_digest
