"""The projections that answer the service's queries."""

from deployledger.projections.deployment_list import DEPLOYMENT_LIST
from deployledger.projections.deployment_timeline import DEPLOYMENT_TIMELINE
from deployledger.projections.status import DEPLOYMENT_STATUS

BUILT_IN_GROUPS = ((DEPLOYMENT_STATUS, DEPLOYMENT_LIST), (DEPLOYMENT_TIMELINE,))
"""Those of a group are applied together."""

BUILT_IN = tuple(projection for group in BUILT_IN_GROUPS for projection in group)
