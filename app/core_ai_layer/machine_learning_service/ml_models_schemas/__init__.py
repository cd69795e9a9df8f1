"""The request and response schemas of the deployment service."""

from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import DeploymentRequest, DeploymentTargetConfig, ResourceConfig
from deployledger.domain.responses import (
    Change,
    DeploymentDifference,
    DeploymentHistoryEntry,
    DeploymentStatus,
    DeploymentStatusResponse,
    PastMoment,
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
