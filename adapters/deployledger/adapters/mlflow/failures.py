"""What MLflow reports, as the errors of the service: typed, and without credentials."""

import errno
import os
from dataclasses import dataclass

from deployledger.adapters.mlflow.redaction import redacted, secrets_of, shown
from deployledger.domain.exceptions import ConfigurationError, MachineLearningServiceError, ModelRegistryError
from deployledger.domain.reasons import FailureReason

# An unknown alias, and a name that cannot exist, are invalid parameters to MLflow.
_NOT_FOUND = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"})
_DENIED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"})
_LONGEST_DETAIL = 500

_CREDENTIALS_HINT = (
    "Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, and what that "
    "user may read."
)


@dataclass(frozen=True)
class Reporter:
    """Words the failures of one question to MLflow.

    Attributes:
        address: the tracking server, as it may be shown.
        subject: what was asked for.
        secrets: what must not appear in a message.
    """

    address: str
    subject: str
    secrets: frozenset[str]

    @classmethod
    def of(cls, tracking_uri: str, registry_uri: str, subject: str) -> "Reporter":
        """Return a reporter that knows the credentials in both addresses."""
        return cls(shown(tracking_uri), subject, secrets_of(tracking_uri) | secrets_of(registry_uri))

    def not_found(
        self, detail: str, *, hint: str = "", reason: FailureReason = FailureReason.MODEL_NOT_FOUND
    ) -> ModelRegistryError:
        """MLflow answers, and does not have it."""
        return ModelRegistryError(
            f"MLflow at {self.address} does not have {self.subject}: {self._clean(detail)}",
            status_code=404,
            reason=reason,
            hint=hint or "Check the name and the version, alias or run id in MLflow.",
        )

    def unavailable(self, detail: str, *, hint: str = "") -> ModelRegistryError:
        """MLflow, or the store of its artifacts, does not answer or fails."""
        return ModelRegistryError(
            f"MLflow at {self.address} could not provide {self.subject}: {self._clean(detail)}",
            hint=hint or "Check that the MLflow server runs and that its address is right, then retry.",
        )

    def unusable_address(self, detail: str) -> ConfigurationError:
        """MLflow has no store for an address of this kind."""
        return ConfigurationError(
            f"MLflow cannot use {self.address} as a tracking or registry server: {self._clean(detail)}",
            hint="Give the address of an MLflow server (http or https); a database needs the package mlflow.",
        )

    def missing_package(self, error: ImportError) -> ConfigurationError:
        """A client library of the artifact store is not installed."""
        package = error.name or "a package it needs"
        return ConfigurationError(
            f"MLflow cannot fetch {self.subject}: {self._clean(str(error))}",
            reason=FailureReason.RUNTIME_MISSING,
            hint=f"Install {package} beside deployledger.",
        )

    def of_mlflow(self, message: str, error_code: str) -> MachineLearningServiceError:
        """Classify an ``MlflowException`` by its error code."""
        if error_code in _NOT_FOUND:
            return self.not_found(message)
        if error_code in _DENIED:
            return self.unavailable(message, hint=_CREDENTIALS_HINT)
        # MLflow collects the failures of its download threads as text.
        if os.strerror(errno.ENOSPC) in message:
            return ModelRegistryError(
                f"The disk is full: {self.subject} could not be stored.",
                status_code=507,
                reason=FailureReason.STORAGE_FAILED,
                hint="Free some space, then retry.",
            )
        return self.unavailable(message)

    def _clean(self, detail: str) -> str:
        line = " ".join(redacted(detail, self.secrets).split())
        return line if len(line) <= _LONGEST_DETAIL else f"{line[:_LONGEST_DETAIL]}…"
