"""The commands of the service, as objects."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

from deployledger.domain.requests import DeploymentRequest


@dataclass(frozen=True, kw_only=True)
class Command:
    """Base of commands."""

    NAME: ClassVar[str]

    @property
    def fingerprint(self) -> str:
        """A digest of the command: the same for the same command, another for any other.

        It is stored with idempotency keys, so that it stays the same permanently.
        """
        content = {"command": self.NAME, "deployment_id": None}
        content |= {name: _as_json(value) for name, value in vars(self).items()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _as_json(value: Any) -> Any:
    match value:
        case DeploymentRequest():
            return value.model_dump(mode="json")
        case UUID():
            return str(value)
        case _:
            return value


@dataclass(frozen=True, kw_only=True)
class Deploy(Command):
    """Deploy a model under a new name; or, if the request says so, update the deployment that has it."""

    NAME = "deploy"

    request: DeploymentRequest


@dataclass(frozen=True, kw_only=True)
class DeploymentCommand(Command):
    """Base of commands on a deployment.

    Attributes:
        expected_version: the version at which the deployment must be; None expects nothing.
    """

    deployment_id: UUID
    expected_version: int | None = None


@dataclass(frozen=True, kw_only=True)
class Update(DeploymentCommand):
    """Make a new revision."""

    NAME = "update"

    request: DeploymentRequest


@dataclass(frozen=True, kw_only=True)
class Rollback(DeploymentCommand):
    """Make a new revision that repeats an earlier one."""

    NAME = "rollback"

    to_revision: int


class Retry(DeploymentCommand):
    """Try the newest revision again."""

    NAME = "retry"


class Cancel(DeploymentCommand):
    """Cancel the job in progress."""

    NAME = "cancel"


class Delete(DeploymentCommand):
    """Stop the deployment and delete it."""

    NAME = "delete"
