"""Correcting the clock by which the log records events, once it is right again."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain

from deployledger.domain.clock_corrections import ClockCorrected
from deployledger.domain.event_log import EventLog, recorded_at, version_of
from deployledger.domain.events import CommandContext
from deployledger.domain.exceptions import ConflictError
from deployledger.domain.times import CLOCK_STREAM, TOLERANCE, LogTimes, WrongTimes
from deployledger.domain.timestamps import rfc3339


@dataclass(frozen=True)
class ClockCorrection:
    """A correction of the clock.

    Attributes:
        wrong: the events whose recorded times are wrong; None if there are none to correct.
        now: what the clock says that records events (UTC).
        withdraws: the position of the correction that it takes back; None if it takes back none.
        position: where it is in the log; None if it was not recorded.
    """

    wrong: WrongTimes | None
    now: datetime
    withdraws: int | None = None
    position: int | None = None


@dataclass(frozen=True)
class ClockCorrector:
    """Plans and records corrections of the clock. Methods block.

    Args:
        now: this machine's clock; returns aware datetimes in UTC.
    """

    log: EventLog
    now: Callable[[], datetime]

    def correct(self, actor: str, *, withdraw: bool = False, dry_run: bool = False) -> ClockCorrection:
        """Record which times are wrong. See ``DeploymentService.correct_clock``."""
        version = version_of(self.log, CLOCK_STREAM)
        planned = self._plan_withdrawal() if withdraw else self._plan()
        if dry_run or planned.wrong is None:
            return planned
        event = CommandContext(actor, self.now()).event(
            ClockCorrected,
            CLOCK_STREAM,
            version + 1,
            first_position=planned.wrong.first,
            recorded_until=planned.wrong.recorded_until,
            not_before=planned.wrong.not_before,
        )
        self.log.append([event])
        (*_, record) = chain.from_iterable(self.log.records(streams=[CLOCK_STREAM]))
        position = record.position
        return replace(planned, wrong=replace(planned.wrong, last=position - 1), position=position)

    def _plan(self) -> ClockCorrection:
        times = self._times()
        return ClockCorrection(times.ahead, times.now)

    def _plan_withdrawal(self) -> ClockCorrection:
        times = self._times()
        corrected = [wrong.corrected_at for wrong in times.wrong if wrong.corrected_at is not None]
        if not corrected:
            raise ConflictError("There is no clock correction to withdraw.")
        first = corrected[-1]
        before, last = recorded_at(self.log, first - 1), recorded_at(self.log, times.end)
        if before is None or last is None or before - times.now > TOLERANCE:
            raise ConflictError(
                f"The correction at position {first:,} cannot be withdrawn: the time recorded before it, "
                f"{'none' if before is None else rfc3339(before)}, is in the future.",
                hint=f"If the clock was not wrong after all, set it first: it says {rfc3339(times.now)}.",
            )
        wrong = WrongTimes(first, times.end, before, times.now, max(before, last))
        return ClockCorrection(wrong, times.now, withdraws=first)

    def _times(self) -> LogTimes:
        """Return the log's times, by a clock that this machine's agrees with."""
        times, here = self.log.times(), self.now()
        if abs(times.now - here) > TOLERANCE:
            raise ConflictError(
                f"Two clocks disagree: the database server says {rfc3339(times.now)}, "
                f"and this machine {rfc3339(here)}.",
                hint="Set the wrong one, then correct the log's times.",
            )
        return times
