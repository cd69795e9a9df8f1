"""Turns events into what is stored, and back: pydantic's JSON, with class versions and upcasters."""

from collections.abc import Callable
from functools import cache
from typing import Any, cast
from uuid import UUID

import pydantic_core
from eventsourcing.persistence import JSONTranscoder, Mapper, MapperDeserialisationError, StoredEvent
from eventsourcing.utils import TopicError, resolve_topic

from deployledger.domain.deployment import Deployment  # importing the events registers their topics
from deployledger.domain.events import Event
from deployledger.domain.names import NameReservation

AGGREGATES = (Deployment, NameReservation)


@cache
def known_topics() -> frozenset[str]:
    """Return the topics of all events."""

    def topics(event_class: type[Event]) -> set[str]:
        own = {event_class.TOPIC} if "TOPIC" in vars(event_class) else set[str]()
        return own.union(*(topics(subclass) for subclass in event_class.__subclasses__()))

    return frozenset(topics(Event))


class EventMapper(Mapper[UUID]):
    """The library's mapper for pydantic events: the library's own breaks equality and ignores upcasting."""

    def __init__(self, **_: Any) -> None:
        super().__init__(JSONTranscoder())

    def encode(self, event: Event) -> bytes:
        """Return the event's JSON; the class version is stored from version 2 on."""
        state = event.__pydantic_serializer__.to_json(event)
        if event.class_version > 1:
            return b'{"class_version":%d,' % event.class_version + state[1:]
        return state

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Return the event as the library stores it."""
        event: Event = domain_event
        return StoredEvent(event.originator_id, event.originator_version, event.TOPIC, self.encode(event))

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """Return the event, upcast to the current version of its class.

        Raises:
            MapperDeserialisationError: if it does not decode, or a newer version of the software wrote it.
        """
        try:
            event_class = cast("type[Event]", resolve_topic(stored_event.topic))
            fields: dict[str, Any] = pydantic_core.from_json(stored_event.state)
            stored_version: int = fields.pop("class_version", 1)
            if stored_version > event_class.class_version:
                raise ValueError(f"version {stored_version} of it was written by newer software")
            for version in range(stored_version, event_class.class_version):
                upcast: Callable[[dict[str, Any]], None]
                upcast = getattr(event_class, f"upcast_v{version}_v{version + 1}")
                upcast(fields)
            fields["originator_id"] = stored_event.originator_id
            fields["originator_version"] = stored_event.originator_version
            return event_class.model_validate(fields)
        except (ValueError, TypeError, TopicError, AttributeError) as error:
            raise MapperDeserialisationError(
                f"Event {stored_event.originator_version} of stream {stored_event.originator_id} "
                f"with topic {stored_event.topic!r} does not decode: {error}"
            ) from error
