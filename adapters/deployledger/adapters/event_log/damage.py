"""What is wrong with stored columns: SQLite lets anything be in any of them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from deployledger.domain.event_records import DamagedEvent, id_text

_COLUMNS: dict[str, type] = {
    "position": int,
    "stream's id": str,
    "version": int,
    "topic": str,
    "state": bytes,
    "id": str,
    "time": int,
    "actor": str,
    "correlation id": str,
    "causation id": str,
}
_ID_BYTES = 16
_NO_TIME = -1 << 63
"""What no calendar has."""

_NAMES: dict[type, str] = {int: "as a number", str: "as text", bytes: "as bytes"}


def id_of(stored: str) -> bytes:
    """Return an id that is written in the one way in which streams are looked for.

    Raises:
        ValueError, TypeError: if it is not.
    """
    id_ = bytes.fromhex(stored)
    if len(id_) != _ID_BYTES or id_.hex() != stored:
        raise ValueError(f"{stored!r} is not an id")
    return id_


def damaged(row: Sequence[Any]) -> DamagedEvent:
    """Return the event of a row, whose columns are those of `EventRecord`, or the first five."""
    position, stream, version, topic = row[:4]
    stored, stream_id = stream if isinstance(stream, str) else repr(stream), _id_or_none(stream) or b""
    event_id, recorded_at, actor, *caused_by = row[5:] or (b"", 0, None, None, None)
    event = DamagedEvent(
        position,
        stream_id,
        version if type(version) is int else 0,
        topic.decode(errors="replace") if isinstance(topic, bytes) else str(topic),
        b"",
        _id_or_none(event_id) or b"",
        recorded_at if type(recorded_at) is int else _NO_TIME,
        actor if type(actor) is str else None,
        *map(_id_or_none, caused_by),
    )
    event.damage = _damage_of(row)
    event.stored_stream = id_text(stream_id) if stream_id else stored
    return event


def _id_or_none(stored: Any) -> bytes | None:
    try:
        return UUID(stored).bytes
    except (ValueError, TypeError, AttributeError):
        return None


def _damage_of(row: Sequence[Any]) -> str:
    for (name, kind), value in zip(_COLUMNS.items(), row, strict=False):
        if value is not None and type(value) is not kind:
            return f"its {name} is not stored {_NAMES[kind]}"
    if None in row[:5]:
        return "a column has nothing in it"
    return next(f"{text!r} is not an id" for text in (row[1], *row[5:6], *row[8:]) if not _is_id(text))


def _is_id(stored: str | None) -> bool:
    try:
        return stored is None or len(id_of(stored)) == _ID_BYTES
    except ValueError:
        return False
