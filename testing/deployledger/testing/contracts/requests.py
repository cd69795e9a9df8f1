"""What the contract suites ask of clients: requests about real files in an artifact store."""

from pathlib import Path
from uuid import UUID, uuid4

from deployledger.adapters import LocalArtifactStore
from deployledger.app import MLModelDeploymentService
from deployledger.domain import (
    DeploymentRequest,
    DeploymentStatusResponse,
    DeploymentTargetConfig,
    PackageRequest,
)

NAME = "contract-suite"
API_SERVICE = DeploymentTargetConfig(type="api_service")
SETTLED_WITHIN_SECONDS = 900.0


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder, by their paths in it; of a file, its own."""
    if folder.is_file():
        return {folder.name: folder.read_bytes()}
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def example_model(folder: Path) -> Path:
    """Write a folder of two files that stands for a model, and return it."""
    (folder / "notes").mkdir(parents=True)
    (folder / "model.bin").write_bytes(bytes(range(256)))
    (folder / "notes" / "readme.txt").write_text("A model of the contract suite.")
    return folder


async def package_request(
    model: Path, store: Path, *, deployment_id: UUID | None = None, name: str = NAME, revision: int = 1
) -> PackageRequest:
    """Return an order to package a folder, once it is in the artifact store ``store``."""
    artifacts = LocalArtifactStore(store)
    artifact = await artifacts.add(model, resolved_uri=model.as_uri())
    stored = await artifacts.path_of(artifact.digest)
    assert stored is not None
    return PackageRequest(deployment_id or uuid4(), name, revision, artifact, stored, API_SERVICE)


async def deployed(
    service: MLModelDeploymentService, model_uri: str, target: DeploymentTargetConfig = API_SERVICE
) -> DeploymentStatusResponse:
    """Deploy or update, and return the status when nothing is in progress any more."""
    accepted = await service.deploy_model(
        DeploymentRequest(
            model_uri=model_uri,
            deployment_name=NAME,
            deployment_target_config=target,
            version_strategy="update_existing",
        )
    )
    return await service.wait_for_deployment(accepted.deployment_id, timeout=SETTLED_WITHIN_SECONDS)


async def deleted(service: MLModelDeploymentService, deployment_id: UUID) -> DeploymentStatusResponse:
    """Delete a deployment, and return its last status."""
    await service.delete_deployment(deployment_id)
    return await service.wait_for_deployment(deployment_id, timeout=SETTLED_WITHIN_SECONDS)
