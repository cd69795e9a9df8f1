"""Events as CloudEvents 1.0, in one encoding only: https://github.com/cloudevents/spec, the JSON format.

An event is one line. Whoever has the line can make the event's leaf of the ledger from it, and whoever has
the event can make the line: two lines that say the same differ in no byte.
"""

import base64
import json
import re
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

from deployledger.domain.timestamps import from_microseconds, rfc3339, to_microseconds

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_DEEPEST = 100
_NUMBER = re.compile(r"[1-9][0-9]{0,18}")
_REQUIRED = ("id", "source", "type", "subject", "time", "position", "streamversion", "storedstate")
_KNOWN = {
    *_REQUIRED,
    "specversion",
    "datacontenttype",
    "actor",
    "correlationid",
    "causationid",
    "data",
    "data_base64",
}


class Recorded(NamedTuple):
    """An event with everything that a leaf is made of.

    It has the fields of ``deployledger.domain.event_records.EventRecord`` in their order, and needs only the
    standard library.
    """

    position: int
    stream_id: bytes
    stream_version: int
    topic: str
    state: bytes
    event_id: bytes
    recorded_at: int
    actor: str | None
    correlation_id: bytes | None
    causation_id: bytes | None

    @property
    def time(self) -> datetime:
        """When it was recorded (UTC)."""
        return from_microseconds(self.recorded_at)

    @property
    def data(self) -> Any:
        """Its fields; None if its state is not JSON."""
        try:
            return _parsed(self.state)
        except ValueError:
            return None


class NotCanonicalError(ValueError):
    """A line is no event, or not the one encoding of it."""


def read_time(text: str) -> datetime:
    """Return the time that `rfc3339` wrote.

    Raises:
        ValueError: if it is none.
    """
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text!r} is not a time")
    return datetime.fromisoformat(text)


def source(origin: str) -> str:
    """Return what a CloudEvent says of where it is from: a URI reference."""
    return "/" + quote(origin, safe="/-._~!$&'()*,;=:@")


def encode(event: Recorded, origin: str) -> bytes:
    """Return an event as a line, without the line break.

    Raises:
        OverflowError: if its time is not a valid date.
    """
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(UUID(bytes=event.event_id)),
        "source": source(origin),
        "type": event.topic,
        "subject": str(UUID(bytes=event.stream_id)),
        "time": rfc3339(event.time),
        "position": str(event.position),
        "streamversion": str(event.stream_version),
    }
    if event.actor is not None:
        attributes["actor"] = event.actor
    if event.correlation_id is not None:
        attributes["correlationid"] = str(UUID(bytes=event.correlation_id))
    if event.causation_id is not None:
        attributes["causationid"] = str(UUID(bytes=event.causation_id))
    stored = base64.b64encode(event.state).decode()
    attributes["storedstate"] = stored
    data = _as_json(event.state)
    if data is None:  # the event is damaged; evidence of it is evidence all the same
        attributes |= {"datacontenttype": "application/octet-stream", "data_base64": stored}
        return _dumped(attributes).encode()
    attributes["datacontenttype"] = "application/json"
    return f'{_dumped(attributes)[:-1]},"data":{data}}}'.encode()


def decode(line: bytes, origin: str) -> Recorded:
    """Return the event of a line.

    Raises:
        NotCanonicalError: if it is none, or says something that its stored state does not.
    """
    attributes = _attributes(line)
    try:
        event = Recorded(
            position=_number(attributes["position"]),
            stream_id=UUID(attributes["subject"]).bytes,
            stream_version=_number(attributes["streamversion"]),
            topic=attributes["type"],
            state=base64.b64decode(attributes["storedstate"], validate=True),
            event_id=UUID(attributes["id"]).bytes,
            recorded_at=to_microseconds(read_time(attributes["time"])),
            actor=attributes.get("actor"),
            correlation_id=_id(attributes.get("correlationid")),
            causation_id=_id(attributes.get("causationid")),
        )
        expected = encode(event, origin)
    except (ValueError, OverflowError) as error:
        raise NotCanonicalError(f"an attribute of the event is invalid: {error}") from error
    if expected != line:
        other = _attributes(expected)
        names = sorted(name for name in attributes.keys() | other.keys() if _differ(name, attributes, other))
        what = f"its {' and '.join(names)} differ" if names else "it is not in the canonical form"
        raise NotCanonicalError(f"the event is not what its stored state and its attributes say: {what}")
    return event


def contradiction(event: Recorded) -> str:
    """Return what the stored state says otherwise than what the log keeps beside it; empty if nothing."""
    try:
        data = json.loads(event.state)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(data, dict) or event.actor is None:  # it came into the log without these
        return ""
    beside = {
        "actor": event.actor,
        "event_id": str(UUID(bytes=event.event_id)),
        "correlation_id": event.correlation_id and str(UUID(bytes=event.correlation_id)),
        "causation_id": event.causation_id and str(UUID(bytes=event.causation_id)),
    }
    for name, value in beside.items():
        if name in data and data[name] != value:
            return f"its {name} is {value!r}, but {data[name]!r} in its stored state: one of them was changed"
    return ""


def _attributes(line: bytes) -> dict[str, Any]:
    try:
        attributes = json.loads(line)
    except (ValueError, RecursionError):
        raise NotCanonicalError("the line is not JSON") from None
    if not isinstance(attributes, dict):
        raise NotCanonicalError("the line is not a JSON object")
    for name in _REQUIRED:
        if name not in attributes:
            raise NotCanonicalError(f"the event has no {name}")
    for name, value in attributes.items():
        if name not in _KNOWN:
            raise NotCanonicalError(f"the event has an unknown attribute: {name[:40]!r}")
        if name != "data" and not isinstance(value, str):
            raise NotCanonicalError(f"the event's {name} is not text")
    return attributes


def _differ(name: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    if (name in one) != (name in other):
        return True
    try:
        return _dumped(one[name]) != _dumped(other[name])  # as text: in Python, True equals 1 and 1.0
    except RecursionError:
        return True  # ours is never so deep


def _as_json(state: bytes) -> str | None:
    """Return a state as JSON in one form only; None if it is none."""
    try:
        return _dumped(_parsed(state))
    except ValueError:
        return None


def _parsed(state: bytes) -> Any:
    """Return what a state says.

    Raises:
        ValueError: if it is not JSON, or so deep that some reader of JSON would not take it.
    """
    try:
        value = json.loads(state, object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if state.count(b"[") + state.count(b"{") > _DEEPEST and not _is_within(_DEEPEST, value):
        raise ValueError("it is nested too deeply")
    return value


def _is_within(levels: int, value: Any) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_within(levels - 1, value) for value in inner)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name is repeated")
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)


def _id(text: str | None) -> bytes | None:
    return None if text is None else UUID(text).bytes
