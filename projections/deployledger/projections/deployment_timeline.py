"""The columns that lists of deployments select and sort by, at every position of the log."""

from deployledger.projections.deployment_list import ListRow, apply
from deployledger.projections.projection import Projection

DEPLOYMENT_TIMELINE = Projection(
    name="deployment_timeline",
    version=1,
    row_type=ListRow,
    apply=apply,
    columns=tuple(ListRow.model_fields),
    counted="deleted",
    temporal=True,
)
"""The rows of ``deployment_list``, and those that were superseded."""
