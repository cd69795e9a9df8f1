"""Reading a log, in one place for all tests."""

from collections.abc import Sequence

from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import RecordedEvent
from tests.logs import recorded_events


def page(log: EventLog, *, after: int = 0, limit: int = 10_000) -> Sequence[RecordedEvent]:
    """Return the next events behind a position."""
    return list(recorded_events(log, after=after, limit=limit))
