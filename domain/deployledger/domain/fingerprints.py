"""Which commands may have stored an event.

A command is stored with its fingerprint under an idempotency key. What it asked for is in the event that it
stored, too, from which the command can be made again; `is_of_command` compares the two.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, Literal

from deployledger.domain.commands import Cancel, Command, Delete, Deploy, Retry, Rollback, Update
from deployledger.domain.events import (
    Cancelled,
    DeletionRequested,
    Event,
    Requested,
    RetryRequested,
    UpdateRequested,
)
from deployledger.domain.requests import DeploymentRequest

_OF_REVISION = {RetryRequested: Retry, Cancelled: Cancel, DeletionRequested: Delete}
_MASK = "***"


def is_of_command(event: Event, fingerprint: str) -> bool | None:
    """Return whether a command with a fingerprint stored an event.

    None if the event does not tell: the request may have had credentials, which the fingerprint is of and
    the event is not.
    """
    if any(command.fingerprint == fingerprint for command in _commands(event)):
        return True
    is_specified = isinstance(event, Requested | UpdateRequested)
    return None if is_specified and any(map(_may_lack_credentials, _texts(event.model_dump()))) else False


def _commands(event: Event) -> Iterator[Command]:
    """Yield all commands that store such an event, the likeliest first."""
    stream, versions = event.originator_id, (None, event.originator_version - 1)
    if isinstance(event, Requested):
        yield from (Deploy(request=request) for request in _requests(event))
    elif isinstance(event, UpdateRequested) and event.rollback_to is not None:
        for version in versions:
            yield Rollback(deployment_id=stream, expected_version=version, to_revision=event.rollback_to)
    elif isinstance(event, UpdateRequested):
        for request, version in product(_requests(event), versions):
            yield Update(deployment_id=stream, expected_version=version, request=request)
        yield from (Deploy(request=request) for request in _requests(event, ("update_existing",)))
    elif type(event) in _OF_REVISION:
        for version in versions:
            yield _OF_REVISION[type(event)](deployment_id=stream, expected_version=version)


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
