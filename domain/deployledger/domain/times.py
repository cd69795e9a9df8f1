"""How to interpret the recorded times of a log whose clock was wrong.

Positions are the truth of a log's order; recorded times are read from a clock, and clocks are wrong at times.
Times that turn out to be wrong stay as they were recorded; the events are placed by what else is known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from deployledger.domain.timestamps import rfc3339
from deployledger.domain.topics import CLOCK_CORRECTED

CLOCK_STREAM = UUID("2f6d3c1a-7b0e-5c1f-8a54-9d1b6e0c7a42")
"""The id of the stream of clock corrections; each log has one."""

TOLERANCE = timedelta(seconds=5)
"""How far clocks that are set by a time server may be apart; less is not reported."""

JUST_NOW = timedelta(seconds=2)
"""How long ago the events were recorded, at the latest, that a wrong clock recorded last."""


AHEAD_HINT = (
    "Set the clock if it is wrong; then `deployledger log correct-clock` shows the correction, "
    "and records it with --yes."
)
"""What to do about a log with times in the future."""


@dataclass(frozen=True)
class WrongTimes:
    """Events in a row whose recorded times are wrong.

    Attributes:
        first: the position of the first one.
        last: the position of the last one.
        not_before: when the event before them was recorded (UTC); None if there is none.
        not_after: by then they had happened (UTC): when the correction was recorded, or else now.
        recorded_until: the latest of the times that were recorded (UTC).
        corrected_at: the position of the correction; None if there is none yet.
    """

    first: int
    last: int
    not_before: datetime | None
    not_after: datetime
    recorded_until: datetime
    corrected_at: int | None = None

    def __str__(self) -> str:
        """Return which events they are, what was recorded, and what is known instead, in a sentence."""
        recorded, until = rfc3339(self.recorded_until), rfc3339(self.not_after)
        between = f"between {rfc3339(self.not_before)} and" if self.not_before else "before"
        if self.corrected_at is None:
            state = f"are in the future: it is {until} now. They happened {between} now."
        else:
            state = f"are wrong, as event {self.corrected_at:,} says. They happened {between} {until}."
        return f"The times of {events(self.first, self.last)}, up to {recorded}, {state}"


@dataclass(frozen=True)
class Unclear:
    """Events of which no more is known than that they happened between two moments.

    Attributes:
        first: the position of the first one.
        last: the position of the last one.
        not_before: they happened then or later (UTC); None if nothing is known.
        not_after: they happened then or earlier (UTC).
    """

    first: int
    last: int
    not_before: datetime | None
    not_after: datetime

    def __str__(self) -> str:
        since = f"between {rfc3339(self.not_before)} and" if self.not_before else "before"
        return (
            f"The clock was wrong: {events(self.first, self.last)} of the log happened {since} "
            f"{rfc3339(self.not_after)}"
        )


@dataclass(frozen=True)
class LogTimes:
    """The times of a log at the moment at which this was made.

    An event counts as happened when it was recorded. Where that time is wrong, it counts as happened when it
    says so itself (its timestamp), if that is possible at all; else when the next such event did, or when the
    correction was recorded: by then it had happened for certain. So times never fall as positions rise.

    Attributes:
        now: what the clock says by which the log records events (UTC).
        end: the position of the last event.
        wrong: events whose recorded times are wrong, in the order of the log.
        search: returns the last of some positions, from one to another, that was recorded by a time, or the
            position before them.
        timestamps: returns what the events from one position to another say themselves of when they
            happened; None of one that says nothing.
    """

    now: datetime
    end: int
    wrong: tuple[WrongTimes, ...]
    search: Callable[[datetime, int, int], int] = field(repr=False)
    timestamps: Callable[[int, int], Iterable[datetime | None]] = field(repr=False)
    _placed: dict[int, _Placed] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ahead(self) -> WrongTimes | None:
        """The events that were recorded at times in the future; None if there are none."""
        return self.wrong[-1] if self.wrong and self.wrong[-1].corrected_at is None else None

    def position_at(self, moment: datetime) -> int:
        """Return the position of the last event that had happened at a time; 0 if none had."""
        last = self.end
        for span in reversed(self.wrong):
            if span.last < last:
                position = self.search(moment, span.last + 1, last)
                if position > span.last:
                    return position
            happened = self._happened_by(span, moment)
            if happened:
                return span.first - 1 + happened
            last = span.first - 1
        return self.search(moment, 1, last) if last else 0

    def time_of(self, position: int) -> datetime | None:
        """Return when an event had happened whose recorded time is wrong; None if that time is right."""
        for span in self.wrong:
            if span.first <= position <= span.last:
                return self._of(span).times[position - span.first]
        return None

    def unclear(self, moment: datetime) -> Unclear | None:
        """Return the events of which it is not known whether they had happened at a time."""
        for span in self.wrong:
            if (span.not_before is None or span.not_before <= moment) and moment < span.not_after:
                for unclear in self._of(span).unclear:
                    is_after = unclear.not_before is None or unclear.not_before <= moment
                    if is_after and moment < unclear.not_after:
                        return unclear
        return None

    def _happened_by(self, span: WrongTimes, moment: datetime) -> int:
        """Return how many of the events had happened."""
        if moment >= span.not_after:
            return span.last - span.first + 1
        if span.not_before is not None and moment < span.not_before:
            return 0
        return bisect_right(self._of(span).times, moment)

    def _of(self, span: WrongTimes) -> _Placed:
        if span.first not in self._placed:
            self._placed[span.first] = _Placed(span, self.timestamps(span.first, span.last))
        return self._placed[span.first]


class _Placed:
    """When the events happened whose recorded times are wrong.

    Attributes:
        times: of each event, when it had happened for certain.
        unclear: the events of which no more is known than what happened before and after them.
    """

    def __init__(self, span: WrongTimes, timestamps: Iterable[datetime | None]) -> None:
        self.times: list[datetime] = []
        self.unclear: list[Unclear] = []
        known_time, waiting = span.not_before, 0
        for stated in timestamps:
            if stated is None or stated > span.not_after:
                waiting += 1
                continue
            before, known_time = (
                known_time,
                stated if known_time is None or stated > known_time else known_time,
            )
            self._place(span, waiting, before, known_time)
            self.times.append(known_time)
            waiting = 0
        self._place(span, waiting, known_time, span.not_after)
        if waiting and span.corrected_at is None:  # whoever asks about this moment sees them
            recently = span.not_after - JUST_NOW
            self.times[-waiting:] = [
                recently if known_time is None or recently > known_time else known_time
            ] * waiting

    def _place(self, span: WrongTimes, number: int, before: datetime | None, until: datetime) -> None:
        if number:
            first = span.first + len(self.times)
            self.unclear.append(Unclear(first, first + number - 1, before, until))
            self.times += [until] * number


def corrects_clock(topic: str, stream_id: bytes) -> bool:
    """Return whether an event is a correction of the clock: only there may recorded times fall."""
    return topic == CLOCK_CORRECTED and stream_id == CLOCK_STREAM.bytes


class Correction(NamedTuple):
    """A correction of the clock, as the log has it.

    Attributes:
        position: where it is.
        recorded_at: when it was recorded (UTC).
        first: the first position whose recorded time is wrong.
        not_before: when the event before that was recorded (UTC); None if there is none.
        recorded_until: the latest of the wrong times (UTC).
    """

    position: int
    recorded_at: datetime
    first: int
    not_before: datetime | None
    recorded_until: datetime


def wrong_times(corrections: Sequence[Correction]) -> tuple[WrongTimes, ...]:
    """Return the events whose recorded times are wrong, in the order of the log.

    A correction that a later one covers does not count.

    Args:
        corrections: all of a log, in its order.
    """
    wrong: list[WrongTimes] = []
    for position, recorded_at, first, not_before, recorded_until in reversed(corrections):
        is_covered = bool(wrong) and position >= wrong[-1].first
        if is_covered or first >= position:
            continue
        not_after = recorded_at if not_before is None else max(recorded_at, not_before)
        wrong.append(WrongTimes(first, position - 1, not_before, not_after, recorded_until, position))
    return tuple(reversed(wrong))


def events(first: int, last: int) -> str:
    """Return which events of the log are meant, in words."""
    return f"event {first:,}" if first == last else f"events {first:,} to {last:,}"
