"""Commands that may be repeated: the same key with the same command takes effect once."""

from collections.abc import Sequence

from deployledger.domain.credential_refusal import refuse_credentials
from deployledger.domain.event_log import CommandKey
from deployledger.domain.events import DeploymentEvent, Requested, UpdateRequested
from deployledger.domain.exceptions import (
    VERIFY_HINT,
    ConfigurationError,
    EventLogError,
    IdempotencyKeyReusedError,
)
from deployledger.domain.fingerprints import is_of_command

_LONGEST_KEY = 255


def checked_key(key: str) -> str:
    """Return an idempotency key that can be stored.

    Raises:
        ConfigurationError: if it is empty, too long, not printable, or holds a credential.
    """
    if not isinstance(key, str):
        raise ConfigurationError(f"An idempotency key must be a str, not {type(key).__name__}.")
    if not key or len(key) > _LONGEST_KEY or not key.isprintable():
        raise ConfigurationError(
            f"The idempotency key {key[:40]!r} must be 1 to {_LONGEST_KEY} printable characters."
        )
    refuse_credentials(
        "The command",
        {"idempotency_key": key},
        hint="Choose a key that is not secret, such as a UUID or the number of a build.",
    )
    return key


def require_same(first: CommandKey, second: str) -> None:
    """Check that a repeated key came with the same command.

    Raises:
        IdempotencyKeyReusedError: if it did not.
    """
    if first.fingerprint != second:
        raise IdempotencyKeyReusedError(first.key, first=first.fingerprint, second=second)


def require_event(
    first: CommandKey, history: Sequence[DeploymentEvent], expected: DeploymentEvent | None
) -> None:
    """Check that the event that a stored key names is the one that its command stored.

    Args:
        history: the events of the deployment that the key names; none if there is no such deployment.
        expected: an event that specifies what the repeated command asks for, if it is one that does.

    Raises:
        EventLogError: if it is not: the key was changed, or the log was.
    """
    event = history[first.version - 1] if 1 <= first.version <= len(history) else None
    agrees = event is not None and is_of_command(event, first.fingerprint)
    if agrees is None:  # what the event does not have of the request, the repeated command has
        agrees = _specified(event) == _specified(expected)
    if not agrees:
        raise EventLogError(
            f"The idempotency key {first.key!r} names version {first.version} of deployment "
            f"{first.deployment_id}, which the command with that key did not store: the row of the key, "
            "or the log, was modified. The command was not run again.",
            hint=VERIFY_HINT,
        )


def _specified(event: DeploymentEvent | None) -> tuple[object, ...] | None:
    if not isinstance(event, Requested | UpdateRequested):
        return None
    return event.name, event.model_uri, event.target, event.resources, event.tags
