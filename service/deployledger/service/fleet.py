"""Lists of deployments as they were at a moment of the past."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from deployledger.domain.exceptions import ReadModelError
from deployledger.domain.moments import AsOf
from deployledger.domain.schemas import DeploymentPage, DeploymentStatusResponse
from deployledger.projections.deployment_timeline import DEPLOYMENT_TIMELINE
from deployledger.projections.folding import fold_streams
from deployledger.projections.garbage import rare_collections
from deployledger.projections.history import with_parked
from deployledger.projections.projection import changed_row
from deployledger.projections.read_models import ReadModels
from deployledger.projections.status import DEPLOYMENT_STATUS, respond
from deployledger.service.listing import Listing, warning
from deployledger.service.past import Past


def page_as_of(models: ReadModels, past: Past, listing: Listing, as_of: AsOf | str) -> DeploymentPage:
    """Return one page of the list of deployments as it was at a moment.

    Raises:
        ConfigurationError: if it is no moment of the past of all deployments.
    """
    position = past.position(as_of)
    listing = replace(listing, as_of=position)
    selected = models.select_as_of(DEPLOYMENT_TIMELINE, listing.selection(), position)
    keys = [it.row.key for it in selected.rows[: listing.limit]]
    page = listing.page(selected._replace(position=position), _answers(models, keys, position))
    page.warning = warning(models, DEPLOYMENT_TIMELINE)
    return page


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
        if parked:
            found = with_parked(found, len(parked), parked[0].position, parked[0].error)
        answers.append(changed_row(found, {"position": position}))
    return answers
