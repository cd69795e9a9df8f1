"""Finds the deployment that a name, an id or the beginning of an id means."""

from uuid import UUID

from deployledger.domain.event_log import EventLog
from deployledger.domain.exceptions import ConfigurationError, ResourceNotFoundError
from deployledger.domain.names import NameReserved, reservation_id
from deployledger.projections.read_models import ReadModels
from deployledger.projections.store import Condition
from deployledger.service.listing import begins, is_text, keys
from deployledger.service.repository import Repository

_SHORTEST_PREFIX = 4
_SHOWN = 100


def find(reference: str, repository: Repository, models: ReadModels) -> UUID:
    """Return the id of the deployment that is meant; a name that is free means who had it last.

    Raises:
        ResourceNotFoundError: if none is.
        ConfigurationError: if several ids begin so.
    """
    if not is_text(reference):
        raise _not_found(reference, repository.log)
    holder = repository.reservation(reference).holder
    if holder is not None:
        return holder
    try:
        return UUID(reference)
    except ValueError:
        pass
    had = holders(reference, repository.log)
    if had:
        return had[-1]
    named = keys(models, Condition("name", "=", reference), newest_first=True, limit=1)
    if named:
        return UUID(named[0])
    if len(reference) < _SHORTEST_PREFIX:
        raise _not_found(reference, repository.log)
    begun = keys(models, *begins(reference.lower()), limit=_SHOWN)
    if not begun:
        raise _not_found(reference, repository.log)
    if len(begun) > 1:
        raise ConfigurationError(
            f"{len(begun)}{'' if len(begun) < _SHOWN else ' or more'} deployments have an id "
            f"that begins with {reference!r}.",
            hint="Give more of the id.",
        )
    return UUID(begun[0])


def _not_found(reference: str, log: EventLog) -> ResourceNotFoundError:
    error = ResourceNotFoundError("Deployment", reference)
    if log.position() == 0:
        error.hint = f"The event log in {log.schema_state().database} has no events."
    elif len(reference) < _SHORTEST_PREFIX:
        error.hint = f"If it is the beginning of an id, give at least {_SHORTEST_PREFIX} characters of it."
    return error


def holders(name: str, log: EventLog) -> list[UUID]:
    """Return every deployment that has or had a name, in the order in which they had it last. Blocks."""
    if not is_text(name):
        return []
    events = log.stream(reservation_id(name))
    reserved = [it.deployment_id for it in events if isinstance(it, NameReserved)]
    return list(dict.fromkeys(reversed(reserved)))[::-1]
