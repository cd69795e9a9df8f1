"""Waiting for an unavailable database: one rule for all commands and queries, and one place that reports it.

A call that finds the database unavailable is retried, with growing pauses, until it is answered or the
patience runs out. Background loops make their own attempts for as long as it takes. Every caller reports an
unavailable or recovered database here: the log has a line when an outage begins, one a minute while it lasts,
and one when it is over, however many callers there are.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from deployledger.domain.exceptions import DatabaseUnavailableError
from deployledger.domain.logs import logger

LOGGER = logger("database")

_T = TypeVar("_T")

_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0
_SAY_AGAIN_SECONDS = 60.0
_FORGET_SECONDS = 600.0
_LAST_WAIT_SECONDS = 1.0
_SHORTEST_WAIT_SECONDS = 0.1


def pauses(longest: float = _LONGEST_PAUSE_SECONDS) -> Iterator[float]:
    """Yield how many seconds to wait before each further attempt: ever longer, up to a limit."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, longest)


@dataclass
class _Outage:
    """An outage of a database, in progress or just over.

    Attributes:
        began: when it was first found unavailable.
        problem: why the last attempt failed.
        attempts: how many attempts failed since.
        is_reported: whether the log has a line about it, to which the one about its end belongs.
    """

    began: float
    problem: str = ""
    attempts: int = 0
    is_reported: bool = False


class _OfThread(threading.local):
    """What a thread is doing.

    Attributes:
        tries_once: whether its calls fail at once, as whoever called retries them.
        is_bounded: whether it is in a call that waits no longer than the patience.
        answered: when a database last answered it, or its call began.
        latest: until when its call may wait, once a database was found unavailable.
    """

    tries_once = False
    is_bounded = False
    answered = 0.0
    latest: float | None = None


class Patience:
    """How long a call waits for an unavailable database; shared by all users of an event log in a process.

    Args:
        seconds: the longest that a call waits, counted from the last answer of a database.
        clock: returns seconds that never go back.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._of_thread = _OfThread()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._outages: dict[str, _Outage] = {}
        self._last_report: dict[str, float] = {}
        self._warnings: dict[str, tuple[float, int]] = {}
        self._users = 1

    # Waiting ----------------------------------------------------------------------------------------

    def call(self, work: Callable[[], _T], *, since: float | None = None) -> _T:
        """Return what work returns; while a database is unavailable, retry it until the patience runs out.

        Work that fails must leave nothing half done. A nested call leaves retrying to the outer one.

        Args:
            since: when the work was queued for this thread, by the clock; being queued counts as waiting.

        Raises:
            DatabaseUnavailableError: if a database was unavailable for longer than the patience.
        """
        mine = self._of_thread
        if mine.tries_once:
            return work()
        mine.tries_once = mine.is_bounded = True
        mine.answered = self._clock() if since is None else since
        mine.latest = None
        try:
            for pause in pauses():
                try:
                    return work()
                except DatabaseUnavailableError:
                    mine.latest = mine.latest or mine.answered + self.seconds
                    left = mine.latest - self._clock()
                    if self._ended.is_set() or left <= _FIRST_PAUSE_SECONDS:
                        raise
                self._ended.wait(min(pause, left / 2))
            raise AssertionError  # pauses do not end
        finally:
            mine.tries_once = mine.is_bounded = False

    def limit(self) -> float:
        """Return how many seconds this thread may wait for the next answer of a database."""
        longest = self.seconds
        if self._outages:
            longest = min(longest, self._left())
        if self._ended.is_set() and self._of_thread.tries_once:
            longest = min(longest, _LAST_WAIT_SECONDS)
        return max(longest, _SHORTEST_WAIT_SECONDS)

    @property
    def is_over(self) -> bool:
        """Whether this thread's call has waited for as long as it may."""
        return self._left() <= 0

    def _left(self) -> float:
        mine = self._of_thread
        if not mine.is_bounded:
            return math.inf
        latest = mine.answered + self.seconds if mine.latest is None else mine.latest
        return latest - self._clock()

    def answered(self) -> None:
        """Record that a database answered this thread; its patience starts over."""
        self._of_thread.answered = self._clock()

    def try_once(self) -> None:
        """Make calls of this thread fail at once from now on: its loop retries by itself."""
        self._of_thread.tries_once = True

    def attempt(self, work: Callable[[], _T]) -> _T:
        """Return what work returns, without retrying: the caller does so itself."""
        mine = self._of_thread
        before, mine.tries_once = mine.tries_once, True
        try:
            return work()
        finally:
            mine.tries_once = before

    @property
    def has_ended(self) -> bool:
        """Whether waiting has been stopped."""
        return self._ended.is_set()

    def share(self) -> None:
        """Count one more user, each of whom leaves."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """Stop waiting, if no other user is left: what is closing does not wait for a database."""
        with self._lock:
            self._users -= 1
            if self._users > 0:
                return
        self.end()

    def end(self) -> None:
        """Stop waiting; pauses end, and so do waits for answers, after a second."""
        self._ended.set()

    # Reporting --------------------------------------------------------------------------------------

    def problem(self, database: str) -> str:
        """Return why the last attempt to use a database failed; an empty text if it is available."""
        outage = self._outages.get(database)
        return outage.problem if outage else ""

    def away(self, database: str, problem: str) -> None:
        """Report that an attempt to use a database failed because it is unavailable.

        Args:
            database: what it is, for messages; without credentials.
            problem: why, without a full stop.
        """
        now = self._clock()
        with self._lock:
            outage = self._outages.setdefault(database, _Outage(now))
            outage.attempts += 1
            outage.problem = problem
            attempts, is_reported = outage.attempts, outage.is_reported
            if now < self._last_report.get(database, now - _SAY_AGAIN_SECONDS) + _SAY_AGAIN_SECONDS:
                return
            self._last_report[database] = now
            outage.is_reported = True
        if is_reported or attempts > 1:
            LOGGER.warning(
                "The database %s is still unavailable after %.0f s and %d attempts: %s.",
                database,
                now - outage.began,
                attempts,
                problem,
            )
            return
        LOGGER.warning(
            "The database %s is unavailable: %s. Commands and queries wait up to %g s for it; "
            "background work continues once it is available.",
            database,
            problem,
            self.seconds,
        )

    def back(self, database: str) -> None:
        """Report that a database can be used."""
        if database not in self._outages:  # nearly always the case, and needs no lock
            return
        with self._lock:
            outage = self._outages.pop(database, None)
        if outage is not None and outage.is_reported:
            LOGGER.warning(
                "The database %s is available again after %.0f s and %d failed attempts.",
                database,
                self._clock() - outage.began,
                outage.attempts,
            )

    def warn(self, to: logging.Logger, problem: str) -> None:
        """Log a warning that a loop would repeat: at once, then once a minute with a count."""
        now = self._clock()
        with self._lock:
            last, count = self._warnings.get(problem, (-math.inf, 0))
            if now - last < _SAY_AGAIN_SECONDS:
                self._warnings[problem] = last, count + 1
                return
            for old in [
                text for text, (reported, _) in self._warnings.items() if now - reported > _FORGET_SECONDS
            ]:
                del self._warnings[old]
            self._warnings[problem] = now, 0
        to.warning("%s%s", problem, f" ({count} more times since it was last reported.)" if count else "")
