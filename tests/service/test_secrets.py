"""Credentials that a request, a registry or an orchestrator mentions are nowhere in what is kept or said."""

import logging
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_service_exceptions import DeploymentError, ModelRegistryError
from deployledger.domain.ports import ProvisionedTarget, ProvisionRequest, ReportProgress, ResolvedModel
from tests.domain.given import BATCH_JOB, SERVICE, request
from tests.service.outside import FileRegistry, HeldOrchestrator

SECRET = "s3cr3t-Value-7"
WAIT = 60


@pytest.fixture
def database(tmp_path: Path) -> Path:
    folder = tmp_path / "ledger"
    folder.mkdir()
    return folder / "events.db"


def assert_nowhere(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Check every file of the database, also its write-ahead log, and everything that was logged."""
    files = [it for it in database.parent.rglob("*") if it.is_file()]
    assert database in files
    for path in files:
        with suppress(FileNotFoundError):  # a lock that was given up meanwhile
            assert SECRET.encode() not in path.read_bytes(), path
    assert SECRET not in caplog.text


async def end_of(service: MLModelDeploymentService, deployment_id: UUID) -> str:
    ended = await service.wait_for_deployment(deployment_id, timeout=WAIT)
    history = await service.get_deployment_history(deployment_id)
    assert SECRET not in ended.model_dump_json()
    assert SECRET not in "".join(entry.model_dump_json() for entry in history)
    return ended.status


@pytest.mark.parametrize(
    "model_uri",
    [
        f"https://ann:{SECRET}@models.example/iris.onnx",
        f"s3://KEY:{SECRET}@bucket/iris",
        f"https://b.s3.amazonaws.com/iris?X-Amz-Signature={SECRET}&X-Amz-Date=1",
        f"https://models.example/iris?token={SECRET}",
    ],
)
async def test_secrets_in_the_model_uri(
    model_uri: str, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    registry = FileRegistry({"model.onnx": b"weights"})
    async with MLModelDeploymentService(registry, database_url=f"sqlite:///{database}") as service:
        answer = await service.deploy_model(request(model_uri=model_uri))
        assert SECRET not in answer.model_dump_json()
        assert await end_of(service, answer.deployment_id) == "active"
        updated = await service.update_deployment(answer.deployment_id, request(model_uri=model_uri))
        assert SECRET not in updated.model_dump_json()
        await end_of(service, answer.deployment_id)
        assert_nowhere(database, caplog)
    assert_nowhere(database, caplog)


async def test_secrets_in_the_target(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = BATCH_JOB.model_copy(
        update={
            "input_uri": f"s3://KEY:{SECRET}@bucket/in.csv",
            "output_uri": f"https://b.example/out.csv?sig={SECRET}",
            "serving_image": f"https://ann:{SECRET}@registry.example/image",
        }
    )
    async with MLModelDeploymentService(database_url=f"sqlite:///{database}") as service:
        answer = await service.deploy_model(request(deployment_target_config=target))
        assert await end_of(service, answer.deployment_id) == "inactive"
        assert_nowhere(database, caplog)


class SigningRegistry(FileRegistry):
    """Resolves an alias to a URL that it has signed."""

    async def resolve_model(self, model_uri: str) -> ResolvedModel:
        return ResolvedModel(f"https://models.example/iris/7?sig={SECRET}", "7")


async def test_secrets_in_what_a_registry_resolves(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = SigningRegistry({"model.onnx": b"weights"})
    async with MLModelDeploymentService(registry, database_url=f"sqlite:///{database}") as service:
        answer = await service.deploy_model(request(model_uri="models:/iris@champion"))
        assert await end_of(service, answer.deployment_id) == "active"
        assert_nowhere(database, caplog)


@pytest.mark.parametrize(
    "failure",
    [
        ModelRegistryError(f"https://ann:{SECRET}@models.example is down."),
        ModelRegistryError("It is down.", hint=f"Look at https://ann:{SECRET}@models.example."),
        OSError(f"GET https://models.example/iris?token={SECRET} failed"),
    ],
    ids=["message", "hint", "of another class"],
)
async def test_secrets_in_what_a_registry_raises(
    failure: Exception, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = FileRegistry({"model.onnx": b"weights"})
    registry.failure = failure
    async with MLModelDeploymentService(registry, database_url=f"sqlite:///{database}") as service:
        answer = await service.deploy_model(request())
        assert await end_of(service, answer.deployment_id) == "failed"
        assert_nowhere(database, caplog)


class TalkativeOrchestrator(HeldOrchestrator):
    """Answers with an endpoint that has credentials in it."""

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        await super().provision(request, report)
        return ProvisionedTarget(f"http://ann:{SECRET}@held.example/iris")


async def test_secrets_in_what_an_orchestrator_answers(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    orchestrator = TalkativeOrchestrator()
    async with MLModelDeploymentService(
        None, None, orchestrator, database_url=f"sqlite:///{database}"
    ) as service:
        answer = await service.deploy_model(request(deployment_target_config=SERVICE))
        assert await end_of(service, answer.deployment_id) == "active"
        assert_nowhere(database, caplog)


async def test_secrets_in_an_unexpected_failure_are_not_logged(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    orchestrator = HeldOrchestrator()
    orchestrator.failure = DeploymentError("iris", f"https://ann:{SECRET}@held.example said no")
    async with MLModelDeploymentService(
        None, None, orchestrator, database_url=f"sqlite:///{database}"
    ) as service:
        answer = await service.deploy_model(request())
        assert await end_of(service, answer.deployment_id) == "failed"
        assert_nowhere(database, caplog)
