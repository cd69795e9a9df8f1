"""Lists of deployments as they were at a moment of the past."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from deployledger.domain import moments
from deployledger.domain.event_log import EventLog
from deployledger.domain.exceptions import ConfigurationError, ReadModelError
from deployledger.domain.moments import AsOf, AtRevision
from deployledger.domain.schemas import DeploymentPage, DeploymentStatusResponse
from deployledger.projections.deployment_timeline import DEPLOYMENT_TIMELINE
from deployledger.projections.folding import fold_streams
from deployledger.projections.garbage import rare_collections
from deployledger.projections.history import with_parked
from deployledger.projections.read_models import ReadModels
from deployledger.projections.status import DEPLOYMENT_STATUS, respond
from deployledger.service.listing import Listing


def page_as_of(
    models: ReadModels, listing: Listing, as_of: AsOf | str, now: Callable[[], datetime]
) -> DeploymentPage:
    """Return one page of the list of deployments as it was at a moment.

    Args:
        now: the clock; returns aware datetimes in UTC.

    Raises:
        ConfigurationError: if it is no moment of the past of all deployments.
    """
    position = position_of(models.log, moments.check(as_of), now)
    listing = replace(listing, as_of=position)
    selected = models.select_as_of(DEPLOYMENT_TIMELINE, listing.selection(), position)
    keys = [it.row.key for it in selected.rows[: listing.limit]]
    return listing.page(selected._replace(position=position), _answers(models, keys, position))


def position_of(log: EventLog, moment: AsOf, now: Callable[[], datetime]) -> int:
    """Return the position of the log that a moment means; 0 if it was before the first event.

    Raises:
        ConfigurationError: if it is a time that has not come yet, or a revision.
    """
    if isinstance(moment, AtRevision):
        raise ConfigurationError(
            f"There is no {moments.describe(moment)} of all deployments: each has its own.",
            hint="Give a time with its zone, as in 2026-03-03T12:00Z, or a position of the event log.",
        )
    if isinstance(moment, int):
        return moment
    at = now()
    if moment > at:  # but times are the log's, whose clock may be ahead of ours
        last = log.recorded_at(log.position())
        if last is None or moment > last:
            raise ConfigurationError(
                f"The time {moments.describe(moment)} is in the future: it is {moments.describe(at)} now.",
                hint="Without a moment, the answer is how things are now.",
            )
    return log.position_at(moment)


def _answers(models: ReadModels, keys: Sequence[str], position: int) -> list[DeploymentStatusResponse]:
    """Return what the service would have answered about some deployments."""
    raws = models.log.read_streams([UUID(key) for key in keys], until=position)
    with rare_collections:
        folded = fold_streams(DEPLOYMENT_STATUS, models.log, raws, largest_row=models.largest_row)
    answers = []
    for key in keys:
        row, parked = folded[key]
        if row is None:
            raise ReadModelError(
                f"{key} cannot be shown: event {parked[0].position} of the log cannot be applied "
                f"({parked[0].error}).",
                hint="Upgrade deployledger, or restore the database from a backup.",
            )
        found = respond(row)
        changes: dict[str, Any] = {"position": position}
        if parked:
            changes["parked_events"] = len(parked)
            changes["message"] = with_parked(found.message, len(parked), parked[0].position, parked[0].error)
        answers.append(found.model_copy(update=changes))
    return answers
