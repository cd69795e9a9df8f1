"""Finds the deployment that a name, an id or the beginning of an id means."""

from uuid import UUID

from deployledger.domain.exceptions import ConfigurationError, ResourceNotFoundError
from deployledger.projections.read_models import ReadModels
from deployledger.projections.store import Condition
from deployledger.service.listing import begins, is_text, keys
from deployledger.service.repository import Repository

_SHORTEST_PREFIX = 4
_SHOWN = 100


def find(reference: str, repository: Repository, models: ReadModels) -> UUID:
    """Return the id of the deployment that is meant.

    Raises:
        ResourceNotFoundError: if none is.
        ConfigurationError: if several ids begin so.
    """
    if not is_text(reference):
        raise ResourceNotFoundError("Deployment", reference)
    holder = repository.reservation(reference).holder
    if holder is not None:
        return holder
    try:
        return UUID(reference)
    except ValueError:
        pass
    named = keys(models, Condition("name", "=", reference), newest_first=True, limit=1)
    if named:
        return UUID(named[0])
    if len(reference) < _SHORTEST_PREFIX:
        raise ResourceNotFoundError("Deployment", reference)
    begun = keys(models, *begins(reference.lower()), limit=_SHOWN)
    if not begun:
        raise ResourceNotFoundError("Deployment", reference)
    if len(begun) > 1:
        raise ConfigurationError(
            f"{len(begun)}{'' if len(begun) < _SHOWN else ' or more'} deployments have an id "
            f"that begins with {reference!r}.",
            hint="Give more of the id.",
        )
    return UUID(begun[0])
