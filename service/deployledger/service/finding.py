"""Finds the deployment that a name, an id or the beginning of an id means."""

from uuid import UUID

from deployledger.domain.exceptions import ConfigurationError, ResourceNotFoundError
from deployledger.projections.directory import Directory
from deployledger.service.repository import Repository

_SHORTEST_PREFIX = 4


def find(reference: str, repository: Repository, directory: Directory) -> UUID:
    """Return the id of the deployment that is meant.

    Raises:
        ResourceNotFoundError: if none is.
        ConfigurationError: if several ids begin so.
    """
    holder = repository.reservation(reference).holder
    if holder is not None:
        return holder
    try:
        return UUID(reference)
    except ValueError:
        pass
    rows = directory.rows()
    named = [row.deployment_id for row in rows if row.name == reference]
    if named:
        return named[-1]
    prefix = reference.lower()
    begun = [row.deployment_id for row in rows if str(row.deployment_id).startswith(prefix)]
    if len(prefix) < _SHORTEST_PREFIX or not begun:
        raise ResourceNotFoundError("Deployment", reference)
    if len(begun) > 1:
        raise ConfigurationError(
            f"{len(begun)} deployments have an id that begins with {reference!r}.",
            hint="Give more of the id.",
        )
    return begun[0]
