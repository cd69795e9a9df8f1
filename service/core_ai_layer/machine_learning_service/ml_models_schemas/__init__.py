"""The request and response schemas of the deployment service."""

from deployledger.domain.reasons import FailureReason
from deployledger.domain.schemas import (
    DeploymentHistoryEntry,
    DeploymentRequest,
    DeploymentStatus,
    DeploymentStatusResponse,
    DeploymentTargetConfig,
    ResourceConfig,
)
from deployledger.domain.values import Failure, Progress, Step

__all__ = [
    "DeploymentHistoryEntry",
    "DeploymentRequest",
    "DeploymentStatus",
    "DeploymentStatusResponse",
    "DeploymentTargetConfig",
    "Failure",
    "FailureReason",
    "Progress",
    "ResourceConfig",
    "Step",
]
