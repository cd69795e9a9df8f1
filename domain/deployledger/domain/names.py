"""A deployment's name is unique: the reservation of a name is a stream of its own.

The id of the stream is derived from the name, so two processes that reserve the same name write the same
stream at the same version, and the event log lets exactly one of them.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable
from typing import ClassVar, Self
from uuid import UUID

from deployledger.domain import topics
from deployledger.domain.events import CommandContext, Event
from deployledger.domain.exceptions import NameInUseError
from deployledger.domain.reservations import reservation_id as reservation_id


class NameEvent(Event, ABC):
    """Base of the events of a name's reservation.

    Attributes:
        name: the name.
        deployment_id: the deployment that reserves or releases it.
    """

    name: str
    deployment_id: UUID


class NameReserved(NameEvent):
    """A deployment took the name."""

    TOPIC: ClassVar[str] = topics.NAME_RESERVED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)


class NameReleased(NameEvent):
    """The deployment released the name."""

    TOPIC: ClassVar[str] = topics.NAME_RELEASED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)


class NameReservation:
    """Who holds a name."""

    def __init__(self, name: str) -> None:
        self.id = reservation_id(name)
        self.name = name
        self.version = 0
        self.holder: UUID | None = None
        self._pending: list[NameEvent] = []

    @classmethod
    def replay(cls, name: str, history: Iterable[NameEvent]) -> Self:
        """Return the reservation of a name that its events make.

        Raises:
            OriginatorIDError: if an event is of another name.
            OriginatorVersionError: if an event is missing or comes twice.
        """
        reservation = cls(name)
        for event in history:
            reservation.apply(event)
        return reservation

    def reserve(self, deployment_id: UUID, *, by: CommandContext) -> None:
        """Take the name for a deployment.

        Raises:
            NameInUseError: if another deployment holds it.
        """
        if self.holder is not None and self.holder != deployment_id:
            raise NameInUseError(self.name, self.holder)
        self._trigger(NameReserved, deployment_id, by)

    def release(self, deployment_id: UUID, *, by: CommandContext) -> None:
        """Give the name up, if the deployment holds it."""
        if self.holder == deployment_id:
            self._trigger(NameReleased, deployment_id, by)

    def collect_events(self) -> list[NameEvent]:
        """Return the events since the last call, to be stored."""
        pending, self._pending = self._pending, []
        return pending

    def apply(self, event: NameEvent) -> None:
        """Apply an event to the state."""
        event.check_follows(self.id, self.version)
        self.version = event.originator_version
        self.holder = event.deployment_id if isinstance(event, NameReserved) else None

    def _trigger(self, event_class: type[NameEvent], deployment_id: UUID, by: CommandContext) -> None:
        event = by.event(event_class, self.id, self.version + 1, name=self.name, deployment_id=deployment_id)
        self.apply(event)
        self._pending.append(event)
