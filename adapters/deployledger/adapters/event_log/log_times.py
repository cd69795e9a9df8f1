"""How the recorded times of a log are to be read; the arithmetic is that of `deployledger.domain.times`."""

from abc import abstractmethod
from collections.abc import Iterator
from datetime import datetime, timedelta

from deployledger.adapters.event_log import clock
from deployledger.adapters.event_log.mapper import decode, timestamp_of
from deployledger.adapters.event_log.opening import patient
from deployledger.adapters.event_log.readable import ReadableLog
from deployledger.adapters.event_log.reading import Selection
from deployledger.domain.clock_corrections import ClockCorrected
from deployledger.domain.event_records import time_of
from deployledger.domain.moments import check_time
from deployledger.domain.times import CLOCK_STREAM, TOLERANCE, Correction, LogTimes, WrongTimes, wrong_times

_SETTLED_AFTER = timedelta(seconds=60)
_MOST_AHEAD = timedelta(seconds=2)


class TimedLog(ReadableLog):
    """An event log whose recorded times may be wrong."""

    @abstractmethod
    def _wait_for_appends(self, moment: datetime) -> None:
        """Return once those that may still be recorded at a time, which is past, are visible."""

    @abstractmethod
    def _recorded_by(self, moment: datetime, first: int, last: int) -> int:
        """Return the last of some positions that was recorded by a time, or the one before them.

        It is found by halving: between two corrections of the clock, times never fall.
        """

    @patient
    def position_at(self, moment: datetime) -> int:
        """Return the position of the last event that had happened at a time; see the port."""
        return self.times(settled=moment).position_at(check_time(moment))

    @patient
    def times(self, *, settled: datetime | None = None) -> LogTimes:
        """Return how the recorded times are to be read; see the port."""
        with self._use():
            _ = self._recorder
            if settled is not None:
                self._settle(check_time(settled))
            end, last, server = self._clocks()
            now = clock.now() if server is None else clock.as_datetime(server)
            corrections = [
                Correction(
                    record.position,
                    time_of(record),
                    event.first_position,
                    event.not_before,
                    event.recorded_until,
                )
                for record in self._page(Selection(until=end, streams=[CLOCK_STREAM], metadata=True))
                if isinstance(event := decode(record), ClockCorrected)
            ]
            wrong = wrong_times(corrections)
            if last is not None and clock.as_datetime(last) - now > TOLERANCE:
                wrong = self._with_ahead(wrong, now, end, clock.as_datetime(last))
        return LogTimes(now, end, wrong, self._search, self._timestamps)

    def _with_ahead(
        self, wrong: tuple[WrongTimes, ...], now: datetime, end: int, recorded_until: datetime
    ) -> tuple[WrongTimes, ...]:
        """Return the wrong times with the last ones, which have not come yet.

        A correction that was itself recorded at such a time, by a clock that was still ahead, does not count.
        """
        corrected, last = list(wrong), end
        while True:
            after = corrected[-1].last if corrected else 0
            first = self._search(now, after + 1, last) + 1
            if first > after + 1 or not corrected:
                break
            span = corrected.pop()
            last, recorded_until = span.first - 1, max(recorded_until, span.recorded_until)
        not_before = self._recorded_at(first - 1) if first > 1 else None
        return (*corrected, WrongTimes(first, end, not_before, now, recorded_until))

    def _search(self, moment: datetime, first: int, last: int) -> int:
        with self._use():
            return self._recorded_by(moment, first, last) if first <= last else first - 1

    def _recorded_at(self, position: int) -> datetime:
        record = self._page(Selection(after=position - 1, limit=1, metadata=True))[0]
        return time_of(record)

    def _timestamps(self, first: int, last: int) -> Iterator[datetime | None]:
        with self._use():
            for page in self._pages(Selection(after=first - 1, until=last)):
                yield from map(timestamp_of, page)

    def _settle(self, moment: datetime) -> None:
        """Wait until no event can be recorded at a time any more, so that what is read of it stays true.

        An append takes its time before others see it; of times long ago nobody is at it any more. The log's
        clock may be a little ahead of ours. A time far ahead is not waited for: if a clock was set back, what
        is appended until then is recorded at the last time that the log has.
        """
        if -_MOST_AHEAD <= clock.now() - moment < _SETTLED_AFTER:
            self._wait_for_appends(moment)
