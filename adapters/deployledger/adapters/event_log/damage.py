"""What is wrong with stored columns: SQLite lets anything be in any of them."""

from collections.abc import Sequence
from typing import Any

from deployledger.domain.event_log import RawEvent

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
_NAMES: dict[type, str] = {int: "as a number", str: "as text", bytes: "as bytes"}


class DamagedEvent(RawEvent):
    """An event that the database has in a way in which no event is stored.

    Its other fields have the types that they should, so that it can be read past; it does not decode.

    Attributes:
        damage: what is wrong.
    """

    damage: str


def damaged(row: Sequence[Any]) -> DamagedEvent:
    """Return the event of a row: position, id of the stream, version, topic and state."""
    position, stream, version, topic, _ = row
    found = DamagedEvent(
        position,
        stream if isinstance(stream, str) else repr(stream),
        version if isinstance(version, int) else 0,
        topic.decode(errors="replace") if isinstance(topic, bytes) else str(topic),
        b"",
    )
    found.damage = wrong_of(row)
    return found


def wrong_of(row: Sequence[Any]) -> str:
    """Return what is wrong with a row, whose columns are those of `EventRecord`, or the first of them."""
    for (name, kind), value in zip(_COLUMNS.items(), row, strict=False):
        if value is not None and type(value) is not kind:
            return f"its {name} is not stored {_NAMES[kind]}"
    return "a column has nothing in it"
