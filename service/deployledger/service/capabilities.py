"""Refuses what the clients cannot do before anything is stored or a name is taken."""

from deployledger.domain.deployment import Deployment
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.ports import ChecksModelURIs, ChecksTargets
from deployledger.domain.schemas import DeploymentRequest, DeploymentTargetConfig
from deployledger.service.clients import Clients, SimulatedOrchestrator
from deployledger.service.files.paths import local_path

_BATCH_FILES = ("input_uri", "output_uri")


def check_request(clients: Clients, request: DeploymentRequest) -> None:
    """Check that the clients can do what a request asks for; that there is such a model is not asked.

    Raises:
        ConfigurationError: if they cannot.
    """
    name, target = request.deployment_name, request.deployment_target_config
    _check_type(clients, name, target)
    if clients.orchestrator is not None and target.is_batch_job:
        missing = [field for field in _BATCH_FILES if not getattr(target, field)]
        if missing:
            raise ConfigurationError(
                f"Deployment {name!r} is a batch inference job and needs {' and '.join(missing)}.",
                hint="Give what it reads, and where it writes its predictions.",
            )
    if isinstance(clients.orchestrator, ChecksTargets):
        clients.orchestrator.check_target(name, target, request.resource_allocation)
    if isinstance(clients.model_registry, ChecksModelURIs) and local_path(request.model_uri) is None:
        clients.model_registry.check_model_uri(request.model_uri)


def check_revision(clients: Clients, deployment: Deployment, number: int) -> None:
    """Check that the orchestrator still serves the type of an earlier revision, if there is such a revision.

    The rest was accepted when the revision was requested, and may run with it.

    Raises:
        ConfigurationError: if it does not.
    """
    revision = deployment.revisions.get(number)
    if revision is not None:
        _check_type(clients, deployment.name, revision.target)


def _check_type(clients: Clients, name: str, target: DeploymentTargetConfig) -> None:
    orchestrator = clients.orchestrator or SimulatedOrchestrator()
    types = getattr(orchestrator, "target_types", None)  # one that does not declare them refuses by itself
    if types is not None and target.type not in types:
        raise ConfigurationError(
            f"Deployment {name!r} requests the target type {target.type!r}, but the orchestrator "
            f"{orchestrator.name!r} serves only {', '.join(sorted(types))}.",
            hint="Choose one of these types, or configure an orchestrator client that serves "
            f"{target.type!r}.",
        )
