"""The exceptions of the service, as one class hierarchy.

Each exception says in one sentence what happened to which deployment, carries the HTTP status code that
fits it, and where there is something to do, a ``hint`` that says what.
"""

from datetime import datetime
from uuid import UUID

from deployledger.domain.reasons import FailureReason
from deployledger.domain.redaction import shown, without_credentials
from deployledger.domain.sentences import with_hint

VERIFY_HINT = "`deployledger audit verify` says what is wrong with which event."
"""What to do where the log is not what it should be."""


class MachineLearningServiceError(Exception):
    """Base of every error of the service; catch this one to catch them all.

    Credentials in the message and the hint are blanked. Neither is cut: the whole of it belongs in a log.

    Attributes:
        message: what happened, in one sentence.
        status_code: the HTTP status code that fits.
        reason: the typed reason that a failed deployment records.
        hint: what to do next, or an empty string.
    """

    default_status_code = 500
    default_reason = FailureReason.INTERNAL_ERROR

    def __init__(
        self,
        message: str,
        *,
        status_code: int | None = None,
        reason: FailureReason | None = None,
        hint: str = "",
    ) -> None:
        message = without_credentials(message)
        super().__init__(message)
        self.message = message
        self.status_code = status_code or self.default_status_code
        self.reason = reason or self.default_reason
        self.hint = without_credentials(hint)

    def __str__(self) -> str:
        return with_hint(self.message, self.hint)


class ConfigurationError(MachineLearningServiceError, ValueError):
    """A request parameter or a setting is missing or invalid; nothing was changed."""

    default_status_code = 400
    default_reason = FailureReason.INVALID_CONFIGURATION


class ConflictError(ConfigurationError):
    """The request is valid, but not in the state that the deployment is in now."""

    default_status_code = 409
    default_reason = FailureReason.CONFLICT


class NameInUseError(ConflictError):
    """Another deployment that is not deleted has this name."""

    def __init__(self, name: str, holder: UUID) -> None:
        super().__init__(
            f"The deployment name {shown(name)} is in use by deployment {holder}.",
            hint=(
                "Choose another name, or delete or update that deployment, which may be one that failed "
                '(version_strategy="update_existing").'
            ),
        )
        self.name = name
        self.holder = holder


class IllegalTransitionError(ConflictError):
    """The lifecycle does not allow this command in the state the deployment is in.

    Attributes:
        why: the state, and what it does not allow, without the deployment's name.
    """

    def __init__(self, message: str, *, hint: str = "", why: str = "") -> None:
        super().__init__(message, hint=hint)
        self.why = why


class StaleVersionError(ConflictError):
    """The deployment changed after the caller read it."""

    def __init__(self, described_as: str, *, expected: int, found: int, actor: str) -> None:
        super().__init__(
            f"{described_as} is at version {found}, not {expected}: the last event was caused by {actor}.",
            hint="Check its current state, and send the command again if it still applies.",
        )
        self.expected = expected
        self.found = found
        self.actor = actor


class IdempotencyKeyReusedError(ConflictError):
    """The idempotency key was used before, for another command."""

    def __init__(self, key: str, *, first: str, second: str) -> None:
        super().__init__(
            f"The idempotency key {shown(key)} was used for another command: "
            f"its fingerprint is {first}, and that of this command is {second}.",
            hint="Use a key for one command only; repeat a command with the key and the body it had.",
        )
        self.key = key
        self.first = first
        self.second = second


class ConcurrencyError(ConflictError):
    """The stream was modified concurrently, between read and write; reading it again may help."""


class ResourceNotFoundError(MachineLearningServiceError):
    """No such resource."""

    default_status_code = 404
    default_reason = FailureReason.NOT_FOUND

    def __init__(self, resource_type: str, resource_id: object) -> None:
        hint = "`deployledger list` shows what there is." if resource_type == "Deployment" else ""
        super().__init__(f"{resource_type} {shown(str(resource_id))} was not found.", hint=hint)
        self.resource_type = resource_type
        self.resource_id = resource_id


class RevisionNotFoundError(ResourceNotFoundError):
    """The deployment has no such revision."""

    def __init__(self, deployment_name: str, revision: int, *, newest: int) -> None:
        super().__init__("Revision", revision)
        self.message = (
            f"Deployment {shown(deployment_name)} has no revision {shown(revision)}: it has 1 to {newest}."
        )


class NotYetRequestedError(ResourceNotFoundError):
    """The deployment did not exist yet at the requested moment of the past.

    Attributes:
        began_at: when the deployment's first event was recorded (UTC).
        position: the position of that event.
    """

    def __init__(self, deployment_id: UUID, moment: str, *, began_at: datetime, position: int) -> None:
        super().__init__("Deployment", deployment_id)
        self.message = (
            f"Deployment {deployment_id} did not exist at {moment}: "
            f"it began at {began_at:%Y-%m-%dT%H:%M:%S.%fZ}, position {position}."
        )
        self.hint = ""
        self.began_at = began_at
        self.position = position


class DeploymentError(MachineLearningServiceError):
    """A deployment's job failed, and no external service is at fault."""

    def __init__(
        self,
        deployment_name: str,
        message: str,
        *,
        reason: FailureReason | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.deployment_name = deployment_name


class WaitTimeoutError(MachineLearningServiceError, TimeoutError):
    """A job was still in progress when the time to wait for it was over; it continues."""

    default_status_code = 504
    default_reason = FailureReason.DEADLINE_EXCEEDED


class ModelRegistryError(MachineLearningServiceError):
    """The model's artifacts are unavailable: the registry failed, or the model is missing or unreadable."""

    default_status_code = 503
    default_reason = FailureReason.REGISTRY_UNAVAILABLE


class ExternalServiceError(MachineLearningServiceError):
    """A service that deployments depend on failed: database, container registry, orchestrator."""

    default_status_code = 503
    default_reason = FailureReason.EXTERNAL_SERVICE_FAILED

    def __init__(
        self,
        service_name: str,
        message: str,
        *,
        reason: FailureReason | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.service_name = service_name


class InsufficientStorageError(MachineLearningServiceError):
    """There is no room for what a step is about to store, or it is larger than a setting allows.

    The message is a clause that says what is needed and what there is; the step that fails names the
    deployment.
    """

    default_status_code = 507
    default_reason = FailureReason.STORAGE_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(
            message,
            hint=hint
            or "`deployledger df` shows disk usage, and `deployledger gc` frees what no deployment needs. "
            "Then retry.",
        )


class DatabaseUnavailableError(ExternalServiceError):
    """A database is unavailable: it cannot be reached, does not answer, or is locked by others for too long.

    Unlike the errors of a database that answers, it may go away when the call is retried later.
    """


class EventLogError(ExternalServiceError):
    """The database of the event log cannot be reached or written, or this version cannot use it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__("event log", message, hint=hint)


class EventLogUnavailableError(EventLogError, DatabaseUnavailableError):
    """The database of the event log is unavailable."""


class UndecodableEventError(EventLogError):
    """A stored event cannot be read: it is damaged or missing, or newer software wrote it."""


class LogDivergedError(MachineLearningServiceError):
    """The event log no longer has what was read from it: it was restored from a backup, or replaced.

    Attributes:
        position: the last position that was read; its event is gone, or another one is there.
        deployment_id: the deployment that is gone, if one was watched.
    """

    default_status_code = 409
    default_reason = FailureReason.CONFLICT

    def __init__(
        self, database: str, *, position: int | None = None, deployment_id: UUID | None = None
    ) -> None:
        lost = f"deployment {deployment_id}"
        if position is not None:
            lost = f"the event that was read at position {position:,}"
        super().__init__(
            f"The event log in {database} went backwards: it no longer has {lost}.",
            hint="It was restored from a backup or replaced, for example by a failover to a standby server "
            "that lagged behind. Discard what was built from its events, and read it from the beginning.",
        )
        self.position = position
        self.deployment_id = deployment_id


class ReadModelError(ExternalServiceError):
    """The database of the read models, or a row in it, cannot be used."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__("read models", message, hint=hint)


class ReadModelsUnavailableError(ReadModelError, DatabaseUnavailableError):
    """The database of the read models is unavailable."""


class LedgerError(MachineLearningServiceError):
    """The event log does not match its ledger or its checkpoints."""
