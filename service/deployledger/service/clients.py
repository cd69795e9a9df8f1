"""The clients of a service and their capabilities; other requests are refused before anything is stored."""

from dataclasses import dataclass
from functools import cached_property

from deployledger.domain.deployment import Deployment
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.ports import (
    ArtifactStoreInterface,
    ChecksModelURIs,
    ChecksTargets,
    ContainerRegistryClientInterface,
    ModelRegistryClientInterface,
    OrchestratorClientInterface,
)
from deployledger.domain.requests import DeploymentRequest, DeploymentTargetConfig
from deployledger.service.files.paths import local_path
from deployledger.service.simulation import SimulatedOrchestrator

_BATCH_FILES = ("input_uri", "output_uri")


@dataclass(frozen=True)
class Clients:
    """The clients of a service; a registry that is None is simulated.

    Attributes:
        artifacts: where fetched files are kept; needed with a model registry.
    """

    model_registry: ModelRegistryClientInterface | None
    container_registry: ContainerRegistryClientInterface | None
    orchestrator: OrchestratorClientInterface
    artifacts: ArtifactStoreInterface | None

    @cached_property
    def has_orchestrator(self) -> bool:
        """Whether there is an orchestrator that is not simulated."""
        return not isinstance(self.orchestrator, SimulatedOrchestrator)

    @property
    def simulated(self) -> list[str]:
        """The names of the clients that are simulated."""
        fields = {
            "model registry": self.model_registry is not None,
            "container registry": self.container_registry is not None,
            "orchestrator": self.has_orchestrator,
        }
        return [name for name, is_given in fields.items() if not is_given]

    def accepted(self, request: DeploymentRequest) -> DeploymentRequest:
        """Return a request that the clients can serve, with the path of a model as an absolute one.

        Whether there is such a model is not asked.

        Raises:
            ConfigurationError: if they cannot serve it.
        """
        name, target = request.deployment_name, request.deployment_target_config
        self._check_type(name, target)
        if self.has_orchestrator and target.is_batch_job:
            missing = [field for field in _BATCH_FILES if not getattr(target, field)]
            if missing:
                raise ConfigurationError(
                    f"Deployment {name!r} is a batch inference job and needs {' and '.join(missing)}.",
                    hint="Give what it reads, and where it writes its predictions.",
                )
        if self._target_checker is not None:
            self._target_checker.check_target(name, target, request.resource_allocation)
        if self.model_registry is None:
            return request
        path = local_path(request.model_uri)
        if path is None and self._uri_checker is not None:
            self._uri_checker.check_model_uri(request.model_uri)
        if path is not None and not path.is_absolute():
            return request.model_copy(update={"model_uri": str(path.absolute())})
        return request

    def check_revision(self, deployment: Deployment, number: int) -> None:
        """Check that the orchestrator still serves the type of an earlier revision, if there is one.

        The rest was accepted when the revision was requested, and may run with it.

        Raises:
            ConfigurationError: if it does not.
        """
        revision = deployment.revisions.get(number)
        if revision is not None:
            self._check_type(deployment.name, revision.target)

    # Looked up once: asking an object whether it has a protocol's methods takes longer than they do.
    @cached_property
    def _target_checker(self) -> ChecksTargets | None:
        return self.orchestrator if isinstance(self.orchestrator, ChecksTargets) else None

    @cached_property
    def _uri_checker(self) -> ChecksModelURIs | None:
        return self.model_registry if isinstance(self.model_registry, ChecksModelURIs) else None

    def _check_type(self, name: str, target: DeploymentTargetConfig) -> None:
        # An orchestrator that does not declare its types refuses by itself.
        types = getattr(self.orchestrator, "target_types", None)
        if types is not None and target.type not in types:
            raise ConfigurationError(
                f"Deployment {name!r} requests the target type {target.type!r}, but the orchestrator "
                f"{self.orchestrator.name!r} serves only {', '.join(sorted(types))}.",
                hint="Choose one of these types, or configure an orchestrator client that serves "
                f"{target.type!r}.",
            )
