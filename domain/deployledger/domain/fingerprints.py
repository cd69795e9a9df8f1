"""Fingerprints of commands: the same for the same command, another for any other.

A command is stored with its fingerprint under an idempotency key. What it asked for is in the event that it
stored, too, from which the fingerprint can be made again; `is_of_command` compares the two.
"""

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from typing import Any, Literal
from uuid import UUID

from deployledger.domain.events import (
    Cancelled,
    DeletionRequested,
    Event,
    Requested,
    RetryRequested,
    UpdateRequested,
)
from deployledger.domain.schemas import DeploymentRequest

_OF_REVISION = {RetryRequested: "retry", Cancelled: "cancel", DeletionRequested: "delete"}
_MASK = "***"


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


def is_of_command(event: Event, digest: str) -> bool | None:
    """Return whether a command with a fingerprint stored an event.

    None if the event does not tell: the request may have had credentials, which the fingerprint is of and
    the event is not.
    """
    if digest in _fingerprints(event):
        return True
    is_specified = isinstance(event, Requested | UpdateRequested)
    return None if is_specified and any(map(_may_lack_credentials, _texts(event.model_dump()))) else False


def _fingerprints(event: Event) -> Iterator[str]:
    """Yield the fingerprints of all commands that store such an event, the likeliest first."""
    stream, versions = event.originator_id, (None, event.originator_version - 1)
    if isinstance(event, Requested):
        yield from (fingerprint("deploy", request=request) for request in _requests(event))
    elif isinstance(event, UpdateRequested) and event.rollback_to is not None:
        for version in versions:
            yield fingerprint("rollback", stream, expected_version=version, to_revision=event.rollback_to)
    elif isinstance(event, UpdateRequested):
        for request, version in product(_requests(event), versions):
            yield fingerprint("update", stream, request=request, expected_version=version)
        yield from (fingerprint("deploy", request=it) for it in _requests(event, ("update_existing",)))
    elif type(event) in _OF_REVISION:
        for version in versions:
            yield fingerprint(_OF_REVISION[type(event)], stream, expected_version=version)


def _requests(
    event: Requested | UpdateRequested,
    strategies: tuple[Literal["new", "update_existing"], ...] = ("new", "update_existing"),
) -> Iterator[DeploymentRequest]:
    """Yield the requests that an event may be made of: it does not keep everything of them."""
    possible: list[dict[str, Any] | None] = [event.tags] if event.tags else [None, {}]
    for tags, strategy in product(possible, strategies):
        # Not validated: what was accepted once need not be accepted any more.
        yield DeploymentRequest.model_construct(
            model_uri=event.model_uri,
            deployment_name=event.name,
            deployment_target_config=event.target,
            resource_allocation=event.resources,
            version_strategy=strategy,
            tags=tags,
        )


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for item in value.values():
                yield from _texts(item)
        case list() | tuple():
            for item in value:
                yield from _texts(item)


def _may_lack_credentials(text: str) -> bool:
    return _MASK in text or ("://" in text and not text.startswith("file:///"))
