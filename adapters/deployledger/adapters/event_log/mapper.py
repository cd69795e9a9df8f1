"""Turns events into what is stored, and back: pydantic's JSON, with class versions and upcasters."""

from binascii import hexlify
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

import pydantic_core
from eventsourcing.persistence import JSONTranscoder, Mapper, MapperDeserialisationError, StoredEvent
from eventsourcing.utils import TopicError
from pydantic_core import SchemaValidator
from pydantic_core.core_schema import datetime_schema, typed_dict_field, typed_dict_schema

from deployledger.adapters.event_log.damage import damaged
from deployledger.domain.clock_corrections import ClockCorrections
from deployledger.domain.deployment import Deployment  # importing the events registers their topics
from deployledger.domain.event_records import DamagedEvent, EventRecord
from deployledger.domain.events import EVENT_CLASSES, Event
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.domain.names import NameReservation

HAS_VERSION = b'{"class_version"'
"""What a stored state begins with if it is not of the first version of its class."""

AGGREGATES = (Deployment, NameReservation, ClockCorrections)


_read_timestamp = SchemaValidator(
    typed_dict_schema({"timestamp": typed_dict_field(datetime_schema())}, extra_behavior="ignore")
).validate_json


def known_topics() -> frozenset[str]:
    """Return the topics of all events."""
    return frozenset(EVENT_CLASSES)


def version_prefix(version: int) -> bytes:
    """Return what a stored state of a version begins with; nothing for version 1."""
    return HAS_VERSION + b":%d," % version if version > 1 else b""


def event_class_of(topic: str) -> type[Event]:
    """Return the class of the events with a topic.

    The library would import what a topic names; a log may come from anybody.

    Raises:
        TopicError: if no event has it.
    """
    try:
        return EVENT_CLASSES[topic]
    except KeyError:
        raise TopicError(f"there is no topic {topic!r}") from None


class EventMapper(Mapper[UUID]):
    """The library's mapper for pydantic events: the library's own breaks equality and ignores upcasting."""

    def __init__(self, **_: Any) -> None:
        super().__init__(JSONTranscoder())

    def encode(self, event: Event) -> bytes:
        """Return the event's JSON; the class version is stored from version 2 on.

        Raises:
            TypeError: if the stored event would be read as one of another class.
        """
        topic: str | None = getattr(event, "TOPIC", None)
        if topic is None or EVENT_CLASSES.get(topic) is not type(event):
            problem = "has no TOPIC" if topic is None else f"has the TOPIC of another class, {topic!r}"
            raise TypeError(
                f"This event cannot be stored: {type(event).__qualname__} {problem}. "
                "Give every class of events a TOPIC of its own."
            )
        state = event.__pydantic_serializer__.to_json(event)
        prefix = version_prefix(event.stored_version)
        return prefix + state[1:] if prefix else state

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Return the event as the library stores it."""
        event: Event = domain_event
        state = self.encode(event)
        return StoredEvent(event.originator_id, event.originator_version, event.TOPIC, state)

    def to_domain_event(self, stored_event: StoredEvent) -> Event:
        """Return the event, upcast to the current version of its class.

        Raises:
            MapperDeserialisationError: if it does not decode, or a newer version of the software wrote it.
        """
        stream, version = stored_event.originator_id, stored_event.originator_version
        topic, state = stored_event.topic, stored_event.state
        if type(version) is not int or type(topic) is not str or type(state) is not bytes:
            record: EventRecord = damaged((0, str(stream), version, topic, state))
        else:
            record = EventRecord(0, UUID(str(stream)).bytes, version, topic, state)
        try:
            return decode(record)
        except UndecodableEventError as error:
            raise MapperDeserialisationError(error.message) from error


def decode(record: EventRecord) -> Event:
    """Return a stored event, upcast to the current version of its class.

    Raises:
        UndecodableEventError: if it cannot be read, or a newer version of the software wrote it.
    """
    stream_id, version, topic, state = record[1:5]  # by name each would be looked up
    try:
        event_class, decode_json = _decoder(topic)
        if decode_json is not None and not state.startswith(HAS_VERSION):
            # What the database says is put last, where it wins over what the state may say.
            return decode_json(
                b'%b,"originator_id":"%b","originator_version":%d}'
                % (state[:-1], hexlify(stream_id), version)
            )
        return _upcast(event_class, record)
    except (ValueError, TypeError, TopicError, AttributeError) as error:
        raise undecodable(record, error) from error


def timestamp_of(record: EventRecord) -> datetime | None:
    """Return when a stored event says that it happened (UTC); None if it does not say."""
    try:
        stated: datetime = _read_timestamp(record.state)["timestamp"]
        return stated.replace(tzinfo=UTC) if stated.tzinfo is None else stated.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def undecodable(record: EventRecord, problem: Exception) -> UndecodableEventError:
    """Return the error for an event that cannot be read."""
    why = record.damage if isinstance(record, DamagedEvent) else _why(problem)
    return UndecodableEventError(
        f"Event {record.stream_version} of stream {record.stream} with topic {record.topic!r} "
        f"does not decode: {why}"
    )


def _why(problem: Exception) -> str:
    """Return what is wrong on one line, without the values: they are in the event."""
    if not isinstance(problem, pydantic_core.ValidationError):
        return str(problem)
    errors = problem.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        ": ".join(filter(None, [".".join(map(str, error["loc"])), error["msg"]])) for error in errors
    )


@cache
def _decoder(topic: str) -> tuple[type[Event], Callable[[bytes], Event] | None]:
    """Return the class of a topic, and what decodes its JSON of version 1, if that reads as it is."""
    event_class = event_class_of(topic)
    is_read = event_class.class_version == 1 or event_class.reads_version_1
    return event_class, event_class.__pydantic_validator__.validate_json if is_read else None


def _upcast(event_class: type[Event], record: EventRecord) -> Event:
    fields: dict[str, Any] = pydantic_core.from_json(record.state)
    stored_version: int = fields.pop("class_version", 1)
    if stored_version > event_class.class_version:
        raise ValueError(f"version {stored_version} of it was written by newer software")
    for version in range(stored_version, event_class.class_version):
        upcast: Callable[[dict[str, Any]], None]
        upcast = getattr(event_class, f"upcast_v{version}_v{version + 1}")
        upcast(fields)
    fields["originator_id"] = UUID(bytes=record.stream_id)
    fields["originator_version"] = record.stream_version
    return event_class.model_validate(fields)
