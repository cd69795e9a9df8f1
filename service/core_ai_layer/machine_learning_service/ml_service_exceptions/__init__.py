"""The exceptions of the deployment service."""

from deployledger.domain.exceptions import (
    ConcurrencyError,
    ConfigurationError,
    ConflictError,
    DeploymentError,
    EventLogError,
    ExternalServiceError,
    IdempotencyKeyReusedError,
    IllegalTransitionError,
    MachineLearningServiceError,
    ModelRegistryError,
    NameInUseError,
    NotYetRequestedError,
    ResourceNotFoundError,
    RevisionNotFoundError,
    StaleVersionError,
    WaitTimeoutError,
)

__all__ = [
    "ConcurrencyError",
    "ConfigurationError",
    "ConflictError",
    "DeploymentError",
    "EventLogError",
    "ExternalServiceError",
    "IdempotencyKeyReusedError",
    "IllegalTransitionError",
    "MachineLearningServiceError",
    "ModelRegistryError",
    "NameInUseError",
    "NotYetRequestedError",
    "ResourceNotFoundError",
    "RevisionNotFoundError",
    "StaleVersionError",
    "WaitTimeoutError",
]
