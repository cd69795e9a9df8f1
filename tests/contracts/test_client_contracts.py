"""The published contract suites: kept by clients in memory, and broken by clients that break a promise."""

from pathlib import Path
from uuid import UUID

import pytest

from deployledger.adapters.settings import Settings
from deployledger.app import MLModelDeploymentService
from deployledger.audit.keys import write_pair
from deployledger.domain import (
    ConfigurationError,
    DeploymentTargetConfig,
    ExternalServiceError,
    Image,
    Observation,
    PackageRequest,
    ProvisionedTarget,
    ProvisionRequest,
    ReportProgress,
    ResolvedModel,
)
from deployledger.testing import (
    ContainerRegistryContract,
    InMemoryContainerRegistry,
    InMemoryModelRegistry,
    InMemoryOrchestrator,
    ModelRegistryContract,
    OrchestratorContract,
    in_memory_service,
)
from deployledger.testing.contracts.requests import files_of
from examples.test_own_clients import (  # noqa: F401  # collected here: they are part of the suite
    TestFolderRegistry,
    TestTarRegistry,
    TestThreadOrchestrator,
)
from tests.domain.given import request


class TestInMemoryModelRegistry(ModelRegistryContract):
    model_uri = "models:/iris/1"
    missing_uri = "models:/iris/9"

    @pytest.fixture
    def client(self) -> InMemoryModelRegistry:
        return InMemoryModelRegistry({"models:/iris/1": {"model.bin": b"weights", "a/b.txt": b"notes"}})


class Aliasing(InMemoryModelRegistry):
    """Downloads resolved versions only, as a service asks for them."""

    async def resolve_model(self, model_uri: str) -> ResolvedModel:
        return ResolvedModel(model_uri.replace("latest", "1"))


class TestAliasingModelRegistry(ModelRegistryContract):
    model_uri = "models:/iris/latest"
    missing_uri = "models:/iris/9"

    @pytest.fixture
    def client(self) -> Aliasing:
        return Aliasing({"models:/iris/1": {"model.bin": b"weights"}})


class TestInMemoryContainerRegistry(ContainerRegistryContract):
    @pytest.fixture
    def client(self) -> InMemoryContainerRegistry:
        return InMemoryContainerRegistry()


class TestInMemoryOrchestrator(OrchestratorContract):
    @pytest.fixture
    def client(self) -> InMemoryOrchestrator:
        return InMemoryOrchestrator()

    @pytest.fixture
    def batch_target(self) -> DeploymentTargetConfig:
        return DeploymentTargetConfig(type="batch_inference_job", input_uri="/in.csv", output_uri="/out.csv")


async def test_a_service_in_memory_deploys_for_real_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DEPLOYLEDGER_HOME", raising=False)
    orchestrator = InMemoryOrchestrator()
    async with in_memory_service(orchestrator=orchestrator) as service:
        accepted = await service.deploy_model(request())
        status = await service.wait_for_deployment(accepted.deployment_id)
        assert (status.status, "imulated" in status.message) == ("active", False)
        assert orchestrator.runs == {accepted.deployment_id: {1}}


async def test_a_service_in_memory_touches_nothing_of_production(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    write_pair("prod", tmp_path / "audit.key")
    for name, value in {
        "home": tmp_path / "home",
        "database_url": f"sqlite:///{tmp_path}/log.db",
        "read_models_url": f"sqlite:///{tmp_path}/read-models.db",
        "audit_key": tmp_path / "audit.key",
        "checkpoints": tmp_path / "checkpoints",
        "checkpoint_events": 1,
    }.items():
        monkeypatch.setenv(f"DEPLOYLEDGER_{name.upper()}", str(value))
    before = files_of(tmp_path)
    async with in_memory_service() as service:
        accepted = await service.deploy_model(request())
        await service.wait_for_deployment(accepted.deployment_id)
    assert files_of(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"audit.key", "audit.key.pub", "checkpoints"}


async def test_a_service_in_memory_obeys_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"DEPLOYLEDGER_{name.upper()}", "-1")
    with pytest.raises(ConfigurationError):
        MLModelDeploymentService()
    async with in_memory_service() as service:
        accepted = await service.deploy_model(request())
        assert (await service.wait_for_deployment(accepted.deployment_id)).status == "active"


# Clients that break a promise -----------------------------------------------------------------------


TARGET = DeploymentTargetConfig(type="api_service")


class Elsewhere(InMemoryModelRegistry):
    async def download_artifacts(self, *arguments: str | None, **more: str | None) -> str:
        return await super().download_artifacts(model_uri=more["model_uri"])


class Mute(InMemoryModelRegistry):
    async def download_artifacts(self, *arguments: str | None, **more: str | None) -> str:
        try:
            return await super().download_artifacts(*arguments, **more)
        except FileNotFoundError as error:
            raise KeyError("iris") from error


def test_a_registry_that_downloads_elsewhere_is_caught(tmp_path: Path) -> None:
    suite = TestInMemoryModelRegistry()
    with pytest.raises(AssertionError):
        suite.test_files_are_downloaded_into_the_folder(Elsewhere(), tmp_path)


def test_a_registry_that_hides_what_is_missing_is_caught(tmp_path: Path) -> None:
    suite = TestInMemoryModelRegistry()
    with pytest.raises(KeyError):
        suite.test_a_missing_model_is_reported_as_missing(Mute({}), tmp_path)


class Counting(InMemoryContainerRegistry):
    """Makes the revision part of the image."""

    async def build_and_push(self, request: PackageRequest) -> Image:
        image = await super().build_and_push(request)
        return image.model_copy(update={"digest": f"sha256:{request.revision:064}"})


class Named(InMemoryContainerRegistry):
    """Makes the deployment's name part of the image."""

    async def build_and_push(self, request: PackageRequest) -> Image:
        image = await super().build_and_push(request)
        return image.model_copy(update={"digest": f"{image.digest} {request.deployment_name}"})


class Superficial(InMemoryContainerRegistry):
    """Looks at the names and sizes of the files only."""

    async def build_and_push(self, request: PackageRequest) -> Image:
        image = await super().build_and_push(request)
        sizes = {path: len(content) for path, content in files_of(request.model_path).items()}
        return image.model_copy(update={"digest": f"sha256:{sorted(sizes.items())}"})


class Careless(InMemoryContainerRegistry):
    """Promises to check contents, and does not."""

    checks_contents = True


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.bin").write_bytes(b"weights")
    return tmp_path / "model"


@pytest.mark.parametrize("client", [Counting(), Named()])
def test_a_builder_whose_digest_depends_on_the_deployment_is_caught(
    client: InMemoryContainerRegistry, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError):
        ContainerRegistryContract().test_equal_files_have_the_same_digest(client, model, tmp_path)


def test_a_builder_whose_digest_ignores_contents_is_caught(model: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"model\.bin"):
        ContainerRegistryContract().test_different_files_have_different_digests(
            Superficial(), model, tmp_path
        )


def test_a_builder_whose_promise_to_check_is_false_is_caught(model: Path, tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        ContainerRegistryContract().test_changed_files_are_refused(Careless(), model, tmp_path)


class Forgetful(InMemoryOrchestrator):
    """Starts every revision anew, at another endpoint."""

    starts = 0

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        self.starts += 1
        await super().provision(request, report)
        return ProvisionedTarget(f"http://endpoint-{self.starts}")


class Hasty(InMemoryOrchestrator):
    """Stops the earlier revision before traffic has moved."""

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        self.runs.pop(request.deployment_id, None)
        return await super().provision(request, report)


class Unreachable(InMemoryOrchestrator):
    """Provisions services without an endpoint."""

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        await super().provision(request, report)
        return ProvisionedTarget(None)


class Nostalgic(InMemoryOrchestrator):
    """Observes the older of two revisions."""

    async def observe(self, deployment_id: UUID) -> Observation:
        revisions = self.runs.get(deployment_id, set())
        return Observation(running=bool(revisions), revision=min(revisions, default=None))


class Strict(InMemoryOrchestrator):
    """Fails if there is nothing to stop."""

    async def prune(self, deployment_id: UUID, keep_revision: int | None) -> None:
        if deployment_id not in self.runs:
            raise ExternalServiceError("cluster", "No such deployment.")
        await super().prune(deployment_id, keep_revision)


@pytest.mark.parametrize(
    ("orchestrator", "test"),
    [
        (Forgetful(), "test_provisioning_again_changes_nothing"),
        (Hasty(), "test_an_update_replaces_the_revision_when_it_is_pruned"),
        (Nostalgic(), "test_an_update_replaces_the_revision_when_it_is_pruned"),
        (Unreachable(), "test_a_provisioned_revision_runs"),
    ],
)
def test_an_orchestrator_that_breaks_a_promise_is_caught(
    orchestrator: InMemoryOrchestrator, test: str, model: Path, tmp_path: Path
) -> None:
    orders = OrchestratorContract.order.__wrapped__(  # type: ignore[attr-defined]
        OrchestratorContract(), orchestrator, InMemoryContainerRegistry(), model, TARGET, tmp_path
    )
    with pytest.raises(AssertionError):
        getattr(OrchestratorContract(), test)(orchestrator, next(orders))


def test_an_orchestrator_of_untested_batch_jobs_is_caught() -> None:
    with pytest.raises(AssertionError, match="Define the fixture `batch_target`"):
        OrchestratorContract().test_a_batch_job_completes(InMemoryOrchestrator(), order, None)


def order(revision: int) -> ProvisionRequest:
    raise NotImplementedError


def test_an_orchestrator_that_cannot_prune_nothing_is_caught() -> None:
    with pytest.raises(ExternalServiceError, match="No such deployment"):
        OrchestratorContract().test_nothing_runs_of_an_unknown_deployment(Strict())
