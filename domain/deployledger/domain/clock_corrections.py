"""Corrections of the clock by which a log records events: an operator's word that it was wrong.

What was recorded stays as it is. A correction is an event of its own, in a stream of its own, which says from
which position on the recorded times are wrong.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from pydantic import Field

from deployledger.domain.events import Event
from deployledger.domain.times import CLOCK_STREAM
from deployledger.domain.topics import CLOCK_CORRECTED


class ClockCorrected(Event):
    """The clock was wrong: the times recorded from a position up to this event are unreliable.

    This event itself is recorded by the clock as it is then. A correction that a later one covers no longer
    counts: the clock was wrong when it was made.

    Attributes:
        first_position: the first position whose recorded time is wrong.
        recorded_until: the latest time that was recorded from there on (UTC).
        not_before: when the event before the first position was recorded (UTC); None if there is none.
    """

    TOPIC: ClassVar[str] = CLOCK_CORRECTED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)

    first_position: int = Field(ge=1)
    recorded_until: datetime
    not_before: datetime | None = None


class ClockCorrections:
    """The corrections of one log, as events make them.

    Attributes:
        first_positions: from which position on times are wrong, by each correction.
    """

    def __init__(self) -> None:
        self.id = CLOCK_STREAM
        self.version = 0
        self.first_positions: list[int] = []

    def apply(self, event: ClockCorrected) -> None:
        """Apply an event to the state."""
        event.check_follows(self.id, self.version)
        self.version = event.originator_version
        self.first_positions.append(event.first_position)
