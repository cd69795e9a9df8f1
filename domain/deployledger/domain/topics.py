"""The topics of events. The verifier of evidence has no more of them: it loads no event classes."""

from typing import Final

REQUESTED: Final = "deployment.requested"
ARTIFACTS_FETCHED: Final = "deployment.artifacts_fetched"
PACKAGED: Final = "deployment.packaged"
PROVISIONED: Final = "deployment.provisioned"
COMPLETED: Final = "deployment.completed"
FAILED: Final = "deployment.failed"
UPDATE_REQUESTED: Final = "deployment.update_requested"
RETRY_REQUESTED: Final = "deployment.retry_requested"
CANCELLED: Final = "deployment.cancelled"
DELETION_REQUESTED: Final = "deployment.deletion_requested"
DELETION_FAILED: Final = "deployment.deletion_failed"
DELETED: Final = "deployment.deleted"
NAME_RESERVED: Final = "deployment_name.reserved"
NAME_RELEASED: Final = "deployment_name.released"
CLOCK_CORRECTED: Final = "event_log.clock_corrected"

SPECIFYING = frozenset({REQUESTED, UPDATE_REQUESTED})
"""Those of events that say what a deployment is to be."""

COMMANDS = frozenset({REQUESTED, UPDATE_REQUESTED, RETRY_REQUESTED, CANCELLED, DELETION_REQUESTED})
"""Those of events that somebody asked for; the others are their results."""

OUR_PREFIXES = ("deployment.", "deployment_name.", "event_log.")
"""How all of them begin; topics of an application's own events begin otherwise."""


def is_of_deployment(topic: str) -> bool:
    """Return whether it is the topic of an event of a deployment, known or not."""
    return topic.startswith("deployment.")
