"""What is in a log, as lists."""

from itertools import chain
from typing import Any

from deployledger.domain.event_log import UNDECODABLE_HINT, EventLog
from deployledger.domain.event_records import EventRecord, RecordedEvent, time_of
from deployledger.domain.exceptions import UndecodableEventError


def records_of(log: EventLog, **selection: Any) -> list[EventRecord]:
    """Return records that are selected as `EventLog.records` does."""
    return [*chain.from_iterable(log.records(**selection))]


def recorded_events(log: EventLog, *, after: int = 0, limit: int = 1000) -> list[RecordedEvent]:
    """Return the next events behind a position, up to the first one that does not decode."""
    found: list[RecordedEvent] = []
    for record in records_of(log, after=after, limit=limit, metadata=True):
        try:
            event = log.decode(record, whole=True)
            found.append(RecordedEvent(record.position, time_of(record), event))
        except UndecodableEventError as error:
            if found:
                break
            message = f"The event at position {record.position} cannot be read: {error.message}."
            raise UndecodableEventError(message, hint=UNDECODABLE_HINT) from error
    return found
