"""The interfaces of clients, as protocols: any object with these methods will do.

Every side effect is keyed by deployment and revision and is idempotent: the service calls a method again
after a crash, and expects the same outcome and no second server, job or image.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable
from uuid import UUID

from deployledger.domain.requests import DeploymentTargetConfig, ResourceConfig
from deployledger.domain.stored import KeepsFiles
from deployledger.domain.values import Artifact, Image

ReportProgress = Callable[[int, int | None, str], None]
"""Called with (done, total or None, unit) as a long step advances; cheap, and safe from any thread."""


@runtime_checkable
class ModelRegistryClientInterface(Protocol):
    """Provides the files of a registered model or of a run."""

    async def download_artifacts(
        self,
        run_id: str | None = None,
        model_uri: str | None = None,
        artifact_path: str | None = None,
        dst_path: str | None = None,
    ) -> str:
        """Download the artifacts into ``dst_path`` and return the local path of what was downloaded.

        Exactly one of ``run_id`` (with ``artifact_path`` relative to the run) and ``model_uri`` is given.
        """
        ...


@dataclass(frozen=True)
class ResolvedModel:
    """A model URI with its mutable parts resolved, and the registry's name of that version."""

    uri: str
    version: str | None = None


@runtime_checkable
class ResolvesModelVersions(Protocol):
    """Optional for model registry clients: pin an alias, a stage or "latest" to one version."""

    async def resolve_model(self, model_uri: str) -> ResolvedModel:
        """Return the URI of exactly one version, which keeps meaning the same bytes."""
        ...


@runtime_checkable
class ChecksModelURIs(Protocol):
    """Optional for model registry clients: check URIs before a deployment is accepted.

    A URI that it refuses is refused before anything is stored. Without it the deployment fails when the model
    is fetched.
    """

    def check_model_uri(self, model_uri: str) -> None:
        """Return if the URI is well-formed, without I/O: the model need not exist.

        Raises:
            ConfigurationError: the client reads no such URIs.
        """
        ...


class ArtifactStoreInterface(KeepsFiles, Protocol):
    """Stores models' files by digest."""

    async def add(
        self,
        source: Path,
        *,
        resolved_uri: str,
        model_version: str | None = None,
        user: str = "",
        take: bool = False,
    ) -> Artifact:
        """Add the file or folder ``source`` to the store, and return its artifact.

        Args:
            user: the event log that the model is for; other logs then never have it freed.
            take: whether the files are the caller's own and are removed afterwards: they need not be copied.
        """
        ...

    async def path_of(self, digest: str) -> Path | None:
        """Return a read-only folder that holds exactly the files of ``digest``, or None if unknown.

        The contents need not have been read: whoever reads them checks them, or calls
        `set_aside_damaged` before.

        Raises:
            MachineLearningServiceError: files of it are missing (``artifact_damaged``).
        """
        ...

    async def set_aside_damaged(self, digest: str) -> list[str]:
        """Read everything stored of ``digest``, move what is damaged out of the way, and say what it was.

        What was moved is gone for `path_of`, and adding the model again puts it back. Nothing is returned
        if all is as it was stored.
        """
        ...


@dataclass(frozen=True)
class PackageRequest:
    """A request to build the image of a fetched model."""

    deployment_id: UUID
    deployment_name: str
    revision: int
    artifact: Artifact
    model_path: Path
    target: DeploymentTargetConfig


class ContainerRegistryClientInterface(Protocol):
    """Builds a model's image and stores it where the orchestrator can pull it."""

    async def build_and_push(self, request: PackageRequest) -> Image:
        """Build the model's image, store it, and return its reference and digest.

        The digest depends on the model's bytes alone: not on the machine, the time or the folder.
        """
        ...


@runtime_checkable
class ChecksContents(Protocol):
    """Optional for container registry clients: a promise to hash every file that they package.

    `ContainerRegistryClientInterface.build_and_push` of such a client compares the digest of the files, as
    they were read, with that of the artifact, and fails with ``artifact_damaged`` if they differ. For other
    clients the service reads the files once more, before it hands them over.
    """

    @property
    def checks_contents(self) -> bool:
        """Whether it does."""
        ...


@runtime_checkable
class UnpacksImages(Protocol):
    """Optional for container registry clients: extract the model from an image.

    Stored files that are damaged are then replaced from the image when their source is gone.
    """

    async def unpack(self, reference: str, destination: Path) -> None:
        """Extract the model of the image with this reference into ``destination``, a new folder.

        Raises:
            MachineLearningServiceError: the image is missing or damaged, or another builder's.
        """
        ...


@dataclass(frozen=True)
class ProvisionRequest:
    """A request to run one revision of a deployment.

    Attributes:
        artifact: the model that is in the image; its digest is that of the very files that are to serve.
    """

    deployment_id: UUID
    deployment_name: str
    revision: int
    artifact: Artifact
    image: Image
    target: DeploymentTargetConfig
    resources: ResourceConfig | None = None


@dataclass(frozen=True)
class ProvisionedTarget:
    """The endpoint of a provisioned revision; None for a batch job."""

    endpoint_url: str | None


@dataclass(frozen=True)
class JobResult:
    """The result of a completed batch inference job."""

    output_uri: str
    rows: int


@dataclass(frozen=True)
class Observation:
    """The state of a deployment as the orchestrator observes it now.

    Attributes:
        revision: the newest revision that is provisioned; None if there is none.
        damaged: whether the files that a restart needs are damaged; it may still be running.
    """

    running: bool
    revision: int | None
    detail: str = ""
    damaged: bool = False


class OrchestratorClientInterface(Protocol):
    """Runs packaged models, and stops them."""

    @property
    def name(self) -> str:
        """What events call this orchestrator; a service handles the deployments of its own orchestrator."""
        ...

    @property
    def target_types(self) -> frozenset[str]:
        """The ``DeploymentTargetConfig.type`` values that it can provision; others are refused at once."""
        ...

    async def provision(self, request: ProvisionRequest, report: ReportProgress) -> ProvisionedTarget:
        """Start the revision, wait until it is ready, and send the deployment's traffic to it.

        Revisions that ran before keep running until `prune`: without an unanswered request in between.
        For a batch job: start it, and return without waiting for it.
        """
        ...

    async def prune(self, deployment_id: UUID, keep_revision: int | None) -> None:
        """Send traffic to ``keep_revision``, stop every other one, and free what they held.

        None keeps nothing: afterwards the deployment has no process, port or file left.
        """
        ...

    async def wait_for_completion(
        self, deployment_id: UUID, revision: int, report: ReportProgress
    ) -> JobResult:
        """Wait until a batch job is complete."""
        ...

    async def provisioned(self) -> dict[UUID, set[int]]:
        """Return which revisions of which deployments exist."""
        ...

    async def observe(self, deployment_id: UUID) -> Observation:
        """Return what is running for a deployment right now."""
        ...

    def logs(self, deployment_id: UUID, *, follow: bool) -> AsyncIterator[str]:
        """Yield the log lines of the deployment's newest revision, without line ends."""
        ...


@runtime_checkable
class ChecksTargets(Protocol):
    """Optional for orchestrator clients: refuse targets that can never be provisioned.

    A target that it refuses is refused before anything is stored. Without it only
    `OrchestratorClientInterface.target_types` is compared, and the deployment fails when it is provisioned.
    """

    def check_target(
        self, deployment_name: str, target: DeploymentTargetConfig, resources: ResourceConfig | None
    ) -> None:
        """Return if such a target can be provisioned, regardless of the capacity available now.

        It does no I/O.

        Raises:
            ConfigurationError: it cannot.
        """
        ...
