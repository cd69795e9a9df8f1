"""Recorded time where the clock was wrong, on every database that keeps a log."""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.export import export_log, import_log
from deployledger.audit.replaying import replay
from deployledger.domain.event_log import EventLog, version_of
from deployledger.domain.exceptions import ConflictError
from deployledger.domain.times import CLOCK_STREAM
from deployledger.service import clock_corrector
from deployledger.service.clock_corrector import ClockCorrection, ClockCorrector
from tests.contracts.clocks import Clock
from tests.contracts.reading import page
from tests.contracts.test_event_log import url_of

AHEAD = timedelta(days=400)
NOW = timedelta(seconds=1)

Open = Callable[[], EventLog]


@pytest.fixture(params=["sqlite", "memory", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return url_of(request.param, request)


@pytest.fixture
def clock(url: str, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(url, monkeypatch)


@pytest.fixture
def log(url: str, clock: Clock) -> Iterator[EventLog]:
    log = open_event_log(url, create=True)
    yield log
    log.close()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Return what the log warned of since it was last asked."""
    caplog.set_level(logging.WARNING, logger="ml_model_deployment_service.clock")

    def taken() -> list[str]:
        messages = [it.getMessage() for it in caplog.records if ".clock" in it.name]
        caplog.clear()
        return messages

    return taken


def correct(log: EventLog, clock: Clock, *, withdraw: bool = False) -> ClockCorrection:
    return ClockCorrector(log, clock.now).correct("ops", withdraw=withdraw)


def now_at(log: EventLog) -> int:
    """Return the position as of now, as nobody appends meanwhile."""
    return log.position_at(datetime.now(UTC))


# A clock that was ahead ---------------------------------------------------------------------------------


def test_what_a_clock_ahead_recorded_is_there_as_of_now_and_not_before(log: EventLog, clock: Clock) -> None:
    clock.request(log)
    before = datetime.now(UTC)
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    right = datetime.now(UTC)
    clock.request(log)
    assert [it.recorded_at - before > timedelta(days=399) for it in page(log)] == [False, True, True]
    assert now_at(log) == 3
    assert log.position_at(before) == 1
    assert log.position_at(right) == 1  # the second one had happened, which nobody can know
    assert log.position_at(before - AHEAD) == 0


def test_a_correction_makes_times_right_on_both_sides(log: EventLog, clock: Clock) -> None:
    clock.request(log)
    before = datetime.now(UTC)
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    clock.request(log)
    between = datetime.now(UTC)
    assert now_at(log) == 3
    corrected = correct(log, clock)
    assert (corrected.wrong.first, corrected.wrong.last, corrected.position) == (2, 3, 4)
    clock.request(log)
    after = datetime.now(UTC)
    assert log.times().ahead is None
    assert [log.position_at(it) for it in (before, between, after)] == [1, 3, 5]
    assert now_at(log) == 5
    times = [it.recorded_at for it in page(log)]
    assert before < times[3] <= times[4] <= after  # what is recorded from then on is right
    assert log.times().time_of(1) is None
    assert before <= (log.times().time_of(2) or before) == log.times().time_of(3) <= between
    assert log.times().time_of(4) is None


def test_events_with_wrong_times_count_once_they_have_certainly_happened(log: EventLog, clock: Clock) -> None:
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    before = datetime.now(UTC)
    correct(log, clock)
    assert log.position_at(before) == 0
    unclear = log.times().unclear(before)
    assert unclear is not None
    assert (unclear.first, unclear.last, unclear.not_before) == (1, 1, None)
    assert "The clock was wrong: event 1 of the log happened before" in str(unclear)
    assert log.times().unclear(datetime.now(UTC)) is None
    assert now_at(log) == 2


def test_nothing_is_recorded_where_nothing_is_wrong(log: EventLog, clock: Clock) -> None:
    def assert_nothing_is_recorded() -> None:
        before = log.position()
        done = correct(log, clock)
        assert (done.wrong, done.position, log.position()) == (None, None, before)

    assert_nothing_is_recorded()
    clock.request(log)
    clock.set_ahead(timedelta(seconds=3))  # as clocks of machines may differ
    clock.request(log)
    clock.set_ahead()
    assert_nothing_is_recorded()
    with pytest.raises(ConflictError, match="no clock correction to withdraw"):
        correct(log, clock, withdraw=True)
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    correct(log, clock)
    assert_nothing_is_recorded()


def test_corrections_can_be_repeated(log: EventLog, clock: Clock) -> None:
    moments = []
    for _ in range(3):
        clock.request(log)
        moments.append(datetime.now(UTC))
        clock.set_ahead(AHEAD)
        clock.request(log)
        clock.set_ahead()
        correct(log, clock)
    assert [log.position_at(it) for it in moments] == [1, 4, 7]
    assert [(it.first, it.last) for it in log.times().wrong] == [(2, 2), (5, 5), (8, 8)]
    assert now_at(log) == 9


def test_a_correction_by_a_clock_that_is_still_ahead_is_corrected_too(log: EventLog, clock: Clock) -> None:
    clock.request(log)
    before = datetime.now(UTC)
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead(timedelta(hours=2))
    correct(log, clock)
    clock.request(log)
    clock.set_ahead()
    assert now_at(log) == 4
    again = correct(log, clock)
    assert (again.wrong.first, again.wrong.last) == (2, 4)
    clock.request(log)
    after = datetime.now(UTC)
    assert [log.position_at(it) for it in (before, after)] == [1, 6]
    assert [(it.first, it.last) for it in log.times().wrong] == [(2, 4)]


def test_a_correction_by_a_clock_that_was_behind_is_withdrawn(log: EventLog, clock: Clock) -> None:
    clock.set_ahead(AHEAD)  # that is the right time here, and without it the clock is behind
    clock.request(log)
    first = clock.now()
    clock.request(log)
    clock.set_ahead()
    correct(log, clock)
    clock.set_ahead(AHEAD)
    clock.request(log)
    wrong = clock.now()
    withdrawn = correct(log, clock, withdraw=True)
    assert withdrawn.withdraws == 3
    assert [(it.first, it.last) for it in log.times().wrong] == [(3, 4)]
    assert [log.position_at(it) for it in (first, wrong, clock.now())] == [1, 4, 5]


def test_a_right_correction_is_not_withdrawn(log: EventLog, clock: Clock) -> None:
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    correct(log, clock)
    with pytest.raises(ConflictError, match=r"at position 2 cannot be withdrawn: .* is in the future"):
        correct(log, clock, withdraw=True)


def test_concurrent_appends_are_covered_by_a_correction_or_right(log: EventLog, clock: Clock) -> None:
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    corrector = ClockCorrector(log, clock.now)
    planned = corrector.correct("ops", dry_run=True)
    assert planned.position is None
    assert log.position() == 1
    clock.request(log)  # recorded after it was planned, and before it was recorded
    done = corrector.correct("ops")
    assert done.wrong is not None
    assert done.wrong.last == 2
    clock.request(log)
    assert [(it.first, it.last) for it in log.times().wrong] == [(1, 2)]
    assert page(log)[3].recorded_at < datetime.now(UTC) + NOW


def test_of_two_corrections_at_the_same_time_one_is_recorded(
    log: EventLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    monkeypatch.setattr(clock_corrector, "version_of", lambda *args: (version_of(*args), correct_once())[0])
    done: list[ClockCorrection] = []

    def correct_once() -> None:
        if not done:
            monkeypatch.setattr(clock_corrector, "version_of", version_of)
            done.append(correct(log, clock))

    assert correct(log, clock).position is None
    assert version_of(log, CLOCK_STREAM) == len(done) == 1


def test_only_a_correction_is_recorded_earlier_than_what_is_before_it(log: EventLog, clock: Clock) -> None:
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    clock.request(log)
    correct(log, clock)
    clock.request(log)
    times = [it.recorded_at for it in page(log)]
    assert [after < before for before, after in pairwise(times)] == [False, True, False]


def test_an_event_says_when_it_happened_if_that_is_possible(log: EventLog, clock: Clock) -> None:
    clock.request(log)
    begin = datetime.now(UTC)
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    for stated in (begin + timedelta(milliseconds=2), begin, begin - AHEAD):  # the later ones must be wrong
        clock.request(log, timestamp=stated)
    while clock.now() < begin + timedelta(milliseconds=3):
        pass
    correct(log, clock)
    placed = [log.times().time_of(position) for position in range(2, 6)]
    assert placed == [begin + timedelta(milliseconds=2)] * 4


def test_a_moved_log_has_its_corrections(log: EventLog, clock: Clock, tmp_path: Path) -> None:
    clock.request(log)
    before = datetime.now(UTC)
    clock.set_ahead(AHEAD)
    clock.request(log)
    clock.set_ahead()
    correct(log, clock)
    export_log(log, tmp_path / "log.gz")
    other = open_event_log(f"sqlite:///{tmp_path / 'other.db'}", create=True)
    import_log(other, tmp_path / "log.gz")
    assert other.position_at(before) == 1
    assert [(it.first, it.last) for it in other.times().wrong] == [(2, 2)]
    ours, theirs = replay(log), replay(other)
    assert (ours.digest, ours.events, ours.problems) == (theirs.digest, 3, ())
    other.close()


# Warnings -----------------------------------------------------------------------------------------------


def test_a_jump_of_the_clock_is_warned_of_once_with_its_amount(
    log: EventLog, clock: Clock, warnings: Callable[[], list[str]]
) -> None:
    clock.request(log)
    assert warnings() == []
    clock.set_ahead(AHEAD)
    clock.request(log)
    jumped = warnings()
    assert "was set forward by 400 days" in jumped[0]
    clock.request(log)
    assert warnings() == []
    clock.set_ahead()
    clock.request(log)
    back, ahead = warnings()
    assert "was set back by 400 days" in back
    assert "has times in the future" in ahead
    assert "400 days" in ahead
    assert "deployledger log correct-clock" in ahead
    clock.request(log)
    assert warnings() == []
    correct(log, clock)
    clock.request(log)
    assert warnings() == []


def test_opening_a_log_with_future_times_warns(
    shared_url: str, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    clock = Clock(shared_url, monkeypatch)
    clock.set_ahead(AHEAD)
    log = open_event_log(shared_url, create=True)
    clock.request(log)
    log.close()
    clock.set_ahead()
    warnings()
    for do in (lambda it: it.position(), lambda it: it.statistics(), clock.request):
        log = open_event_log(shared_url, create=False)
        do(log)
        do(log)
        log.close()
        (warning,) = warnings()
        assert "has times in the future" in warning


@pytest.fixture(params=["sqlite", "postgres"])
def shared_url(request: pytest.FixtureRequest) -> str:
    return url_of(request.param, request)


def test_a_log_that_was_not_used_for_long_is_warned_of_when_it_is_written(
    log: EventLog, clock: Clock, warnings: Callable[[], list[str]]
) -> None:
    clock.request(log)
    clock.set_ahead(timedelta(days=31))
    clock.request(log)
    assert any("Nothing was recorded in the event log in" in it and "31 days" in it for it in warnings())


def test_a_small_step_of_the_clock_is_none(
    log: EventLog, clock: Clock, warnings: Callable[[], list[str]]
) -> None:
    for seconds in (0, 3, -1, 2):
        clock.set_ahead(timedelta(seconds=seconds))
        clock.request(log)
    assert warnings() == []


def test_clocks_that_disagree_are_warned_of_and_no_clock_is_corrected(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    clock = Clock(empty_postgres_url, monkeypatch)
    clock.set_ahead(AHEAD)  # both
    log = open_event_log(empty_postgres_url, create=True)
    clock.request(log)
    clock.ahead = timedelta(0)  # this machine's alone
    clock.request(log)
    assert any("is 400 days" in it and "behind the clock of the database server" in it for it in warnings())
    with pytest.raises(ConflictError, match="Two clocks disagree"):
        correct(log, clock)
    log.close()
