"""A deployment's events as the entries of its history."""

from deployledger.domain.events import DeploymentEvent
from deployledger.domain.schemas import DeploymentHistoryEntry

_OWN_FIELDS = {"timestamp", "actor", "revision", "event_id", "correlation_id", "causation_id"}


def describe(event: DeploymentEvent) -> DeploymentHistoryEntry:
    """Return one event as an entry of its deployment's history."""
    return DeploymentHistoryEntry(
        version=event.originator_version,
        event=type(event).__name__,
        topic=event.TOPIC,
        timestamp=event.timestamp,
        actor=event.actor,
        revision=event.revision,
        event_id=event.event_id,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        data=event.model_dump(mode="json", exclude=_OWN_FIELDS),
    )
