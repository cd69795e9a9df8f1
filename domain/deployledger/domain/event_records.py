"""An event as the log has it: recorded, and as it is stored; and how far a log was read."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from deployledger.domain.events import Event
from deployledger.domain.exceptions import VERIFY_HINT, UndecodableEventError
from deployledger.domain.timestamps import from_microseconds


@dataclass(frozen=True)
class RecordedEvent:
    """An event as it is in the log.

    Attributes:
        position: its place in the one order of the whole log, counted from 1, without gaps.
        recorded_at: when the log stored it (UTC); falls only at a correction of
            the clock as positions rise.
    """

    position: int
    recorded_at: datetime
    event: Event


class EventRecord(NamedTuple):
    """An event as it is stored, not yet decoded. Without metadata the fields from ``event_id`` on are empty.

    Attributes:
        position: its place in the order of the whole log.
        stream_id: the id of its stream, 16 bytes.
        stream_version: its version in that stream, counted from 1.
        topic: which event it is.
        state: its fields, as JSON.
        event_id: unique to the event, 16 bytes.
        recorded_at: when the log stored it, in microseconds since 1970-01-01 UTC.
        actor: who caused it.
        correlation_id: shared by everything that one command set off, 16 bytes.
        causation_id: the event that caused it, if one did, 16 bytes.
    """

    position: int
    stream_id: bytes
    stream_version: int
    topic: str
    state: bytes
    event_id: bytes = b""
    recorded_at: int = 0
    actor: str | None = None
    correlation_id: bytes | None = None
    causation_id: bytes | None = None

    @property
    def stream(self) -> str:
        """The id of its stream as text, with dashes."""
        return id_text(self.stream_id)


class DamagedEvent(EventRecord):
    """An event that the database has in a way in which no event is stored.

    Its other fields have the types that they should, so that it can be read past; it does not decode.

    Attributes:
        damage: what is wrong.
        stored_stream: what is stored as the id of its stream.
    """

    damage: str
    stored_stream: str

    @property
    def stream(self) -> str:
        """What is stored as the id of its stream."""
        return self.stored_stream


@lru_cache(8192)
def id_text(id_: bytes) -> str:
    """Return an id of 16 bytes as text, as UUIDs are written."""
    digits = id_.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def undamaged(pages: Iterable[Sequence[EventRecord]]) -> Iterator[Sequence[EventRecord]]:
    """Yield pages of events up to the first one that is damaged.

    Raises:
        UndecodableEventError: when that one is reached.
    """
    for page in pages:
        for index, record in enumerate(page) if DamagedEvent in {*map(type, page)} else ():
            if isinstance(record, DamagedEvent):
                if index:
                    yield page[:index]
                message = f"Event {record.position} of the log is damaged: {record.damage}."
                raise UndecodableEventError(message, hint=VERIFY_HINT)
        yield page


def time_of(record: EventRecord) -> datetime:
    """Return when an event was recorded (UTC), right or wrong.

    Raises:
        UndecodableEventError: if what is stored is no time.
    """
    try:
        return from_microseconds(record.recorded_at)
    except (OverflowError, TypeError) as error:
        message = f"Event {record.position} of the log is damaged: its time is not a valid date."
        raise UndecodableEventError(message, hint=VERIFY_HINT) from error


class Mark(NamedTuple):
    """How far a log was read, and which event is there: an append-only log with it has all that was read.

    Attributes:
        position: the position of the last event; 0 if there is none.
        marker: what tells that event from one of another log at the same position; empty if there is none.
    """

    position: int
    marker: str


NOTHING_READ = Mark(0, "")
"""The mark of a reader that has read nothing yet; it matches every log."""


def mark_of(record: EventRecord) -> Mark:
    """Return the mark of a reader that has read a log up to an event."""
    digest = hashlib.sha256(record.state).hexdigest()
    return Mark(record.position, f"{record.stream}:{record.stream_version}:{digest}")
