"""Waiting for a database that is away, and what the log says of it, by a clock that the tests set."""

import logging
import threading
from collections.abc import Callable

import pytest

from deployledger.domain.exceptions import EventLogError, EventLogUnavailableError
from deployledger.projections.patience import Patience

AWAY = EventLogUnavailableError("The database is away.")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def patience(clock: Clock) -> Patience:
    return Patience(10, clock=clock)


def failing(clock: Clock, *seconds: float) -> Callable[[], str]:
    """Return work that fails so often, after so many seconds each, and then is done."""
    left = list(seconds)

    def work() -> str:
        if left:
            clock.now += left.pop(0)
            raise AWAY
        return "done"

    return work


def test_work_is_done_again_until_the_patience_is_over(patience: Patience, clock: Clock) -> None:
    assert patience.call(failing(clock, 3, 3, 3)) == "done"
    with pytest.raises(EventLogUnavailableError):
        patience.call(failing(clock, 5, 6))


def test_other_errors_are_raised_at_once(patience: Patience) -> None:
    attempts = []

    def refused() -> None:
        attempts.append(1)
        raise EventLogError("The password is wrong.")

    with pytest.raises(EventLogError):
        patience.call(refused)
    assert len(attempts) == 1


def test_the_patience_counts_from_the_last_answer(patience: Patience, clock: Clock) -> None:
    failures = [1.0]

    def long_work() -> str:
        if failures:
            clock.now += 500  # of work with the database
            patience.answered()
            clock.now += failures.pop()
            raise AWAY
        return "done"

    assert patience.call(long_work) == "done"


def test_waiting_for_a_thread_is_waiting(patience: Patience, clock: Clock) -> None:
    began = clock.now
    clock.now += 9.5
    with pytest.raises(EventLogUnavailableError):
        patience.call(failing(clock, 1), since=began)


def test_a_wait_ends_with_the_patience_of_its_call(patience: Patience, clock: Clock) -> None:
    assert patience.limit() == 10

    def work() -> float:
        patience.away("postgresql://db", "it is down")
        clock.now += 7
        assert not patience.is_over
        return patience.limit()

    assert patience.call(work) == pytest.approx(3)
    assert patience.limit() == 10


def test_a_call_within_a_call_leaves_trying_again_to_it(patience: Patience, clock: Clock) -> None:
    inner, outer = [], []

    def work() -> str:
        outer.append(1)
        return patience.call(lambda: inner.append(1) or failures())

    failures = failing(clock, 1, 1)
    assert patience.call(work) == "done"
    assert len(inner) == len(outer) == 3


def test_a_loop_makes_attempts_of_its_own(patience: Patience, clock: Clock) -> None:
    with pytest.raises(EventLogUnavailableError):
        patience.attempt(lambda: patience.call(failing(clock, 1)))
    patience.away("postgresql://db", "it is down")
    clock.now += 1000
    assert patience.attempt(lambda: (patience.limit(), patience.is_over)) == (10, False)


def test_the_last_user_who_leaves_ends_all_waits(patience: Patience) -> None:
    patience.share()
    patience.leave()
    assert not patience.has_ended
    waiting, ended = threading.Event(), threading.Event()

    def wait() -> None:
        def work() -> None:
            waiting.set()
            raise AWAY

        with pytest.raises(EventLogUnavailableError):
            patience.call(work)  # the clock stands still: this would never end
        ended.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    waiting.wait(60)
    patience.leave()
    assert ended.wait(60)
    assert patience.attempt(patience.limit) == 1


def test_an_outage_is_reported_once_a_minute_and_when_it_is_over(
    patience: Patience, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(1500):  # 23 a second for 65 seconds
        patience.away("postgresql://db", "connection refused")
        clock.now += 65 / 1500
    patience.back("postgresql://db")
    patience.back("postgresql://db")
    assert [record.getMessage() for record in caplog.records] == [
        "The database postgresql://db is unavailable: connection refused. Commands and queries wait "
        "up to 10 s for it; background work continues once it is available.",
        "The database postgresql://db is still unavailable after 60 s and 1386 attempts: connection refused.",
        "The database postgresql://db is available again after 65 s and 1500 failed attempts.",
    ]


def test_a_database_that_comes_and_goes_is_reported_once_a_minute(
    patience: Patience, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(600):
        patience.away("postgresql://db", "connection refused")
        clock.now += 0.1
        patience.back("postgresql://db")
    assert len(caplog.records) <= 4


def test_databases_are_reported_by_themselves(patience: Patience, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    patience.away("postgresql://one", "down")
    patience.back("postgresql://other")
    assert patience.problem("postgresql://one") == "down"
    patience.away("postgresql://other", "down too")
    assert len(caplog.records) == 2


def test_a_warning_that_a_loop_repeats_has_a_count(
    patience: Patience, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    to = logging.getLogger("ml_model_deployment_service.test")
    for _ in range(241):
        patience.warn(to, "Jobs wait for the event log: permission denied.")
        clock.now += 0.25
    assert [record.getMessage() for record in caplog.records] == [
        "Jobs wait for the event log: permission denied.",
        "Jobs wait for the event log: permission denied. (239 more times since it was last reported.)",
    ]
