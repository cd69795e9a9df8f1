"""Loads aggregates from the event log, and stores what happened to them."""

from dataclasses import dataclass
from typing import cast
from uuid import UUID

from deployledger.domain.deployment import Deployment
from deployledger.domain.event_log import EventLog, events_of
from deployledger.domain.events import DeploymentEvent, Event
from deployledger.domain.exceptions import (
    VERIFY_HINT,
    ConfigurationError,
    ResourceNotFoundError,
    UndecodableEventError,
)
from deployledger.domain.names import NameEvent, NameReservation, reservation_id
from deployledger.domain.redaction import shown


def check_id(deployment_id: object) -> None:
    """Check that an id is one.

    Raises:
        ConfigurationError: if it is not.
    """
    if not isinstance(deployment_id, UUID):
        raise ConfigurationError(
            f"A deployment id is a uuid.UUID, not {type(deployment_id).__name__}: {shown(deployment_id)}.",
            hint="Make one with uuid.UUID(text).",
        )


@dataclass(frozen=True)
class Repository:
    """Deployments and reservations of names, in an event log. Methods block."""

    log: EventLog

    def history(self, deployment_id: UUID) -> list[DeploymentEvent]:
        """Return a deployment's events.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
            UndecodableEventError: if one of them is missing, or does not decode.
        """
        check_id(deployment_id)
        stream = self._stream(deployment_id, f"deployment {deployment_id}")
        if not stream or not isinstance(stream[0], DeploymentEvent):
            raise ResourceNotFoundError("Deployment", deployment_id)
        return cast("list[DeploymentEvent]", stream)

    def deployment(self, deployment_id: UUID) -> Deployment:
        """Return a deployment, rebuilt from its events."""
        return Deployment.replay(self.history(deployment_id))

    def reservation(self, name: str) -> NameReservation:
        """Return who holds a name; a name that was never taken is held by nobody."""
        stream = self._stream(reservation_id(name), f"the name {name!r}")
        return NameReservation.replay(name, cast("list[NameEvent]", stream))

    def _stream(self, stream_id: UUID, whose: str) -> list[Event]:
        """Return the events of a stream, of which none may be missing: nothing can be decided without it."""
        stream = events_of(self.log, stream_id)
        for version, event in enumerate(stream, 1):
            if event.originator_version != version:
                raise UndecodableEventError(
                    f"Event {version} of {whose} is missing in the event log.", hint=VERIFY_HINT
                )
        return stream

    def save(self, *aggregates: Deployment | NameReservation) -> list[Event]:
        """Store the pending events of all the aggregates, or none of them, and return them.

        Raises:
            ConcurrencyError: if one of them changed since it was loaded.
        """
        pending: list[Event] = [event for aggregate in aggregates for event in aggregate.collect_events()]
        if pending:
            self.log.append(pending)
        return pending
