"""The exceptions of the deployment service."""

from deployledger.domain.exceptions import (
    ConcurrencyError,
    ConfigurationError,
    ConflictError,
    DeploymentError,
    EventLogError,
    ExternalServiceError,
    IllegalTransitionError,
    MachineLearningServiceError,
    ModelRegistryError,
    NameInUseError,
    ResourceNotFoundError,
    WaitTimeoutError,
)

__all__ = [
    "ConcurrencyError",
    "ConfigurationError",
    "ConflictError",
    "DeploymentError",
    "EventLogError",
    "ExternalServiceError",
    "IllegalTransitionError",
    "MachineLearningServiceError",
    "ModelRegistryError",
    "NameInUseError",
    "ResourceNotFoundError",
    "WaitTimeoutError",
]
