"""Decodes events for folds: what happened and who did it at once, what led to it only when that is asked for.

A rebuild decodes every event of the log, and most folds read no ids; leaving them where they are stored
makes it a quarter quicker.
"""

from abc import ABC
from collections.abc import Callable
from functools import cache
from types import new_class
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import UUID

from eventsourcing.utils import TopicError
from pydantic_core import SchemaValidator, core_schema

from deployledger.adapters.event_log.mapper import (
    HAS_VERSION,
    decode,
    event_class_of,
    undecodable,
    version_prefix,
)
from deployledger.domain.event_records import EventRecord
from deployledger.domain.events import Event

_DEFERRED = frozenset({"originator_id", "event_id", "correlation_id", "causation_id"})
_RECORD = "_record"
_set = object.__setattr__


class _Deferring(Event, ABC):
    """Mixed into a class of events: fields that are not there are loaded when they are asked for."""

    if not TYPE_CHECKING:  # type checkers go on knowing which attributes there are

        def __getattr__(self, name: str) -> Any:
            fields = self.__dict__
            if name == "originator_id" and _RECORD in fields:
                try:
                    fields[name] = UUID(bytes=fields[_RECORD].stream_id)
                except ValueError as error:
                    raise undecodable(fields[_RECORD], error) from error
                return fields[name]
            if name in _DEFERRED and _RECORD in fields:
                self._load()
                return self.__dict__[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _load(self) -> None:
        record = self.__dict__.get(_RECORD)
        if record is not None:
            whole = decode(record)
            _set(self, "__dict__", whole.__dict__)
            _set(self, "__pydantic_fields_set__", whole.__pydantic_fields_set__)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Return all fields; see pydantic."""
        self._load()
        return super().model_dump(**options)

    def model_dump_json(self, **options: Any) -> str:
        """Return all fields as JSON; see pydantic."""
        self._load()
        return super().model_dump_json(**options)

    def model_copy(self, **options: Any) -> Self:
        """Return a copy; see pydantic."""
        self._load()
        return super().model_copy(**options)

    def __eq__(self, other: object) -> bool:
        self._load()
        return isinstance(other, Event) and self.TOPIC == other.TOPIC and dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash((self.originator_id, self.originator_version))

    def __iter__(self) -> Any:
        self._load()
        return super().__iter__()

    def __repr__(self) -> str:
        self._load()
        return super().__repr__()


def decode_deferring(record: EventRecord) -> Event:
    """Return a stored event, upcast to the current version of its class; it may load some fields later.

    Raises:
        UndecodableEventError: if it cannot be read, or newer software wrote it; also later, when a field is
            asked for that cannot be read.
    """
    try:
        version, topic, state = record[2:5]  # by name each would be looked up
        decoder = _decoder(topic)
        if decoder is None:
            return decode(record)
        event_class, decode_json, newest = decoder
        if state.startswith(HAS_VERSION) and not (newest and state.startswith(newest)):
            return decode(record)
        fields = decode_json(state)
    except (ValueError, TopicError) as error:
        raise undecodable(record, error) from error
    event = event_class.__new__(event_class)
    fields["originator_version"] = version
    fields[_RECORD] = record
    _set(event, "__dict__", fields)
    _set(event, "__pydantic_fields_set__", None)
    _set(event, "__pydantic_extra__", None)
    _set(event, "__pydantic_private__", None)
    return event


@cache
def _decoder(topic: str) -> tuple[type[Event], Callable[[bytes], dict[str, Any]], bytes] | None:
    """Return the class, the decoder of what is not deferred, and what newer states begin with.

    None if version 1 needs upcasting; the last is empty if there is only that version.
    """
    event_class = event_class_of(topic)
    newest = version_prefix(event_class.class_version)
    if newest and not event_class.reads_version_1:
        return None
    # The decoder is made from pydantic's own schema of the class: the same checks, of fewer fields.
    schema: Any = event_class.__pydantic_core_schema__
    definitions = schema.get("definitions") if schema["type"] == "definitions" else None
    model = schema["schema"] if definitions is not None else schema
    fields = {
        name: core_schema.typed_dict_field(field["schema"], required=field["schema"]["type"] != "default")
        for name, field in model["schema"]["fields"].items()
        if name not in _DEFERRED and name != "originator_version"
    }
    wanted: Any = core_schema.typed_dict_schema(fields, extra_behavior="ignore")
    if definitions is not None:
        wanted = core_schema.definitions_schema(wanted, definitions)
    deferring = new_class(event_class.__name__, (_Deferring, event_class, ABC))
    return cast("type[Event]", deferring), SchemaValidator(wanted).validate_json, newest
