"""The request and response schemas of the deployment service."""

from deployledger.domain.reasons import FailureReason
from deployledger.domain.schemas import (
    Change,
    DeploymentDifference,
    DeploymentHistoryEntry,
    DeploymentRequest,
    DeploymentStatus,
    DeploymentStatusResponse,
    DeploymentTargetConfig,
    PastMoment,
    ResourceConfig,
)
from deployledger.domain.values import Failure, Progress, Step

__all__ = [
    "Change",
    "DeploymentDifference",
    "DeploymentHistoryEntry",
    "DeploymentRequest",
    "DeploymentStatus",
    "DeploymentStatusResponse",
    "DeploymentTargetConfig",
    "Failure",
    "FailureReason",
    "PastMoment",
    "Progress",
    "ResourceConfig",
    "Step",
]
