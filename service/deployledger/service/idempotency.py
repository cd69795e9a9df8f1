"""Commands that may be repeated: the same key with the same command takes effect once."""

import hashlib
import json
from uuid import UUID

from deployledger.domain.event_log import CommandKey
from deployledger.domain.exceptions import ConfigurationError, IdempotencyKeyReusedError
from deployledger.domain.schemas import DeploymentRequest

_LONGEST_KEY = 255


def fingerprint(
    command: str, deployment_id: UUID | None = None, **body: DeploymentRequest | int | None
) -> str:
    """Return a digest of a command: the same for the same command, another for any other."""
    content = {
        "command": command,
        "deployment_id": deployment_id and str(deployment_id),
        **{
            name: value.model_dump(mode="json") if isinstance(value, DeploymentRequest) else value
            for name, value in body.items()
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def checked_key(key: str) -> str:
    """Return an idempotency key that can be stored.

    Raises:
        ConfigurationError: if it is empty, too long, or not printable.
    """
    if not isinstance(key, str):
        raise ConfigurationError(f"An idempotency key is a str, not {key!r}.")
    if not key or len(key) > _LONGEST_KEY or not key.isprintable():
        raise ConfigurationError(
            f"The idempotency key {key[:40]!r} is not 1 to {_LONGEST_KEY} printable characters."
        )
    return key


def require_same(first: CommandKey, second: str) -> None:
    """Check that a repeated key came with the same command.

    Raises:
        IdempotencyKeyReusedError: if it did not.
    """
    if first.fingerprint != second:
        raise IdempotencyKeyReusedError(first.key, first=first.fingerprint, second=second)
