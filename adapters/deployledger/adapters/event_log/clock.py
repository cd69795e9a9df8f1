"""The clock by which events are recorded, and a watch over it: nothing else tells that it is wrong."""

import time
from datetime import UTC, datetime, timedelta
from threading import Lock

from deployledger.domain.logs import logger
from deployledger.domain.times import AHEAD_HINT, TOLERANCE
from deployledger.domain.timestamps import MICROSECOND, from_microseconds, rfc3339

LOGGER = logger("clock")
AHEAD_LOGGER = logger("clock.ahead")
"""Warns of times in the future, which some commands report themselves."""

LONGEST_PAUSE = timedelta(days=30)
"""How long a log may be idle before the next append checks the clock."""

_UNITS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
_TOLERANCE = TOLERANCE // MICROSECOND
_LONGEST_PAUSE = LONGEST_PAUSE // MICROSECOND
# The one that goes on while the machine sleeps: waking up is no jump of the clock.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_microseconds() -> int:
    """Return the time in microseconds since 1970 (UTC), by this machine's clock."""
    return time.time_ns() // 1000


def now() -> datetime:
    """Return the time (UTC) by this machine's clock."""
    return as_datetime(now_microseconds())


def steady_microseconds() -> int:
    """Return microseconds since an arbitrary moment, by a monotonic clock."""
    return time.clock_gettime_ns(_STEADY) // 1000


def as_datetime(microseconds: int) -> datetime:
    """Return a time (UTC) from microseconds since 1970; the last one of the calendar, if it is later."""
    try:
        return from_microseconds(microseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


class ClockWatch:
    """Compares clocks whenever the log is opened or written, and warns of each thing that is wrong once.

    Three things are compared: this machine's clock with a monotonic one, which reveals a jump; the clock
    that records events with the time of the log's last event; and, where a server records events, its clock
    with this machine's.

    Args:
        described_as: the database, for messages.
    """

    def __init__(self, described_as: str) -> None:
        self._described_as = described_as
        self._lock = Lock()
        self._offset = now_microseconds() - steady_microseconds()
        self._warned: set[str] = set()

    def opened(self, last: int | None, server: int | None = None) -> None:
        """Compare the clocks when the log is opened; see `appending`."""
        here = now_microseconds()
        if server is not None:
            self._compare_with_server(here, server)
        if last is not None:
            self._compare_with_last(last, here, server)

    def appending(self, last: int | None, server: int | None = None) -> None:
        """Compare the clocks before, or as, a transaction appends.

        Args:
            last: when the log's last event before it was recorded, in microseconds since 1970; None if there
                is none.
            server: what the clock of the database server says, if that is the one which records.
        """
        here = now_microseconds()
        jump = here - steady_microseconds() - self._offset
        if abs(jump) > _TOLERANCE:
            self._offset += jump
            LOGGER.warning(
                "The clock of this machine was set %s by %s while the event log in %s was open, and says %s "
                "now. If that is right, it was wrong before.%s",
                "forward" if jump > 0 else "back",
                duration(jump),
                self._described_as,
                written(here),
                "" if server is None else " Events are recorded by the clock of the database server.",
            )
        self.opened(last, server)
        clock = here if server is None else server
        if last is not None and self._is_news("pause", clock - last > _LONGEST_PAUSE):
            LOGGER.warning(
                "Nothing was recorded in the event log in %s for %s according to %s, which says %s. If "
                "the log was in use, that clock is ahead: set it and run `deployledger log correct-clock`.",
                self._described_as,
                duration(clock - last),
                _whose(server),
                written(clock),
            )

    def _compare_with_last(self, last: int, here: int, server: int | None) -> None:
        clock = here if server is None else server
        if self._is_news("ahead", last - clock > _TOLERANCE):
            AHEAD_LOGGER.warning(
                "The event log in %s has times in the future: its last event was recorded at %s, %s "
                "ahead of %s. %s",
                self._described_as,
                written(last),
                duration(last - clock),
                _whose(server),
                AHEAD_HINT,
            )

    def _compare_with_server(self, here: int, server: int) -> None:
        if self._is_news("server", abs(server - here) > _TOLERANCE):
            LOGGER.warning(
                "The clock of this machine is %s %s the clock of the database server, which records the "
                "events of %s: it says %s, and the server says %s. Set the wrong one.",
                duration(here - server),
                "ahead of" if here > server else "behind",
                self._described_as,
                written(here),
                written(server),
            )

    def _is_news(self, kind: str, is_wrong: bool) -> bool:
        with self._lock:
            is_news = is_wrong and kind not in self._warned
            if is_wrong:
                self._warned.add(kind)
            else:
                self._warned.discard(kind)
        return is_news


def duration(microseconds: int) -> str:
    """Return a span of time in words, in its two largest units, without its sign."""
    left, parts = round(abs(microseconds) / 1_000_000), list[str]()
    for unit, seconds in _UNITS:
        number, left = divmod(left, seconds)
        if number:
            parts.append(f"{number:,} {unit}{'s' * (number != 1)}")
    return " ".join(parts[:2]) or "less than a second"


def written(microseconds: int) -> str:
    """Return a time as people are shown it."""
    return rfc3339(as_datetime(microseconds))


def _whose(server: int | None) -> str:
    return "the clock of this machine" if server is None else "the clock of the database server"
