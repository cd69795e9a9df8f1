"""Finds the deployment for a name, an id or the beginning of an id.

A reference may be several of these at once. A whole id is always taken for that. Questions then take the
name as it is now, the name as it was last, and the beginning of an id, in this order. Commands that change
something take no name that a deployment no longer has, and nothing that could mean two deployments.
"""

import re
from uuid import UUID

from deployledger.domain.event_log import EventLog, events_of
from deployledger.domain.exceptions import ConfigurationError, ResourceNotFoundError
from deployledger.domain.handles import as_id
from deployledger.domain.logs import logger
from deployledger.domain.names import NameReserved, reservation_id
from deployledger.domain.redaction import shown
from deployledger.projections.read_models import ReadModels
from deployledger.projections.selection import Condition
from deployledger.projections.status import DEPLOYMENT_STATUS
from deployledger.service.listing import begins, is_text, keys
from deployledger.service.repository import Repository

_log = logger("handles")

_SHORTEST_PREFIX = 4
_BEGINNING = re.compile(r"[0-9A-Fa-f-]{4,35}")
_SHOWN = 100


def find(reference: str, repository: Repository, models: ReadModels) -> UUID:
    """Return the id of the deployment that is meant; a name that is free means its last holder.

    Raises:
        ResourceNotFoundError: if none is.
        ConfigurationError: if several ids begin so.
    """
    if not is_text(reference):
        raise _not_found(reference, repository.log)
    if named := _by_id_or_name(reference, repository) or _had(reference, repository, models):
        warn_if_ambiguous(reference, named, models)
        return named
    begun = _begun(reference, models)
    if not begun:
        raise _not_found(reference, repository.log)
    return _only(reference, begun)


def warn_if_ambiguous(name: str, deployment_id: UUID, models: ReadModels) -> None:
    """Warn that a question is answered by a name, if the name is also how another id begins."""
    if not _BEGINNING.fullmatch(name):
        return
    begun = _begun(name, models, Condition("deleted", "=", False))
    others = [other for other in begun if other != deployment_id]
    if others:
        _log.warning(
            "%s is taken as the name of deployment %s; the id of deployment %s begins with it, too.",
            shown(name),
            deployment_id,
            others[0],
        )


def find_to_change(reference: str, repository: Repository, models: ReadModels) -> UUID:
    """Return the id of the deployment that a command is meant for.

    Raises:
        ResourceNotFoundError: if none is, or the deployment no longer has this name.
        ConfigurationError: if several could be.
    """
    if not is_text(reference):
        raise _not_found(reference, repository.log)
    named = _by_id_or_name(reference, repository)
    if named is not None and named == as_id(reference):
        return named
    begun = _begun(reference, models, Condition("deleted", "=", False))
    had = None if named else _had(reference, repository, models)
    for deployment_id, has in ((named, "is"), (had, "was")):
        others = [other for other in begun if other != deployment_id]
        if deployment_id is not None and others:
            raise ConfigurationError(
                f"{shown(reference)} {has} the name of deployment {deployment_id}, and the id of deployment "
                f"{others[0]} begins with it.",
                hint="Give the whole id of the deployment that you mean.",
            )
    if named is not None:
        return named
    if had is not None and had not in begun:
        name = repository.deployment(had).name
        if name != reference:
            error = ResourceNotFoundError("Deployment", reference)
            error.hint = f"The deployment that had this name is now called {name!r}."
            raise error
        return had  # it was deleted, which the command will say
    begun = begun or _begun(reference, models)
    if not begun:
        raise _not_found(reference, repository.log)
    return _only(reference, begun)


def find_id(reference: str, repository: Repository) -> UUID | None:
    """Return the id that a reference is as a whole, if a deployment has it."""
    deployment_id = as_id(reference)
    if deployment_id is None:
        return None
    first = next(repository.log.records(streams=[deployment_id], limit=1), None)
    return deployment_id if first and DEPLOYMENT_STATUS.reads(first[0].topic) else None


def _by_id_or_name(reference: str, repository: Repository) -> UUID | None:
    """Return the deployment that has the id or the name; an id that none has is taken as it is."""
    holder = repository.reservation(reference).holder
    if holder is None:
        return as_id(reference)
    return find_id(reference, repository) or holder  # logs of earlier releases have names that are ids


def _had(name: str, repository: Repository, models: ReadModels) -> UUID | None:
    """Return the deployment that had a name last."""
    if had := holders(name, repository.log):
        return had[-1]
    named = keys(models, Condition("name", "=", name), newest_first=True, limit=1)
    return UUID(named[0]) if named else None


def _begun(reference: str, models: ReadModels, *conditions: Condition) -> list[UUID]:
    """Return the deployments of which the id begins so, up to so many as are counted."""
    if len(reference) < _SHORTEST_PREFIX:
        return []
    return [UUID(key) for key in keys(models, *begins(reference.lower()), *conditions, limit=_SHOWN)]


def _only(reference: str, begun: list[UUID]) -> UUID:
    if len(begun) > 1:
        raise ConfigurationError(
            f"{len(begun)}{'' if len(begun) < _SHOWN else ' or more'} deployments have an id "
            f"that begins with {shown(reference)}.",
            hint="Give more of the id.",
        )
    return begun[0]


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
    events = events_of(log, reservation_id(name))
    reserved = [event.deployment_id for event in events if isinstance(event, NameReserved)]
    return list(dict.fromkeys(reversed(reserved)))[::-1]
