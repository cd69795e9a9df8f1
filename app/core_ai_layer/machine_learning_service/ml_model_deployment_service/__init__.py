"""The deployment service of the Core AI Layer."""

from deployledger.app.composed_service import MLModelDeploymentService
from deployledger.domain.ports import (
    ContainerRegistryClientInterface,
    ModelRegistryClientInterface,
    OrchestratorClientInterface,
)

__all__ = [
    "ContainerRegistryClientInterface",
    "MLModelDeploymentService",
    "ModelRegistryClientInterface",
    "OrchestratorClientInterface",
]
