"""Which position of a log a time means, on every database that keeps one."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.domain.event_log import EventLog
from deployledger.domain.exceptions import ConfigurationError
from tests.contracts.reading import page
from tests.contracts.test_event_log import begun, url_of
from tests.domain.given import SERVING, history

TICK = timedelta(microseconds=1)


@pytest.fixture(params=["sqlite", "memory", "postgres"])
def log(request: pytest.FixtureRequest) -> Iterator[EventLog]:
    """One log, of each kind."""
    log = open_event_log(url_of(request.param, request), create=True)
    yield log
    log.close()


def test_an_empty_log_has_no_position_at_any_time(log: EventLog) -> None:
    assert log.position_at(datetime.now(UTC)) == 0


def test_a_time_means_the_last_event_that_was_recorded_by_then(log: EventLog) -> None:
    for number in range(25):
        if number % 3:
            log.append(begun(uuid4()))
        else:  # events of one append are recorded at the same time
            log.append(history(*SERVING, stream=uuid4()))
    times = [it.recorded_at for it in page(log)]
    assert len(set(times)) < len(times) - 20
    for moment in {*times, *(it - TICK for it in times), *(it + TICK for it in times)}:
        assert log.position_at(moment) == sum(it <= moment for it in times), moment


def test_times_beyond_both_ends(log: EventLog) -> None:
    log.append(history(*SERVING, stream=uuid4()))
    assert log.position_at(datetime.min.replace(tzinfo=UTC)) == 0
    assert log.position_at(datetime(1969, 12, 31, tzinfo=UTC)) == 0
    assert log.position_at(datetime.max.replace(tzinfo=UTC)) == 4


def test_a_time_may_be_in_any_zone_but_has_one(log: EventLog) -> None:
    log.append(begun(uuid4()))
    (event,) = page(log)
    assert log.position_at(datetime.fromisoformat(f"{event.recorded_at:%Y-%m-%dT%H:%M:%S.%f}+00:00")) == 1
    with pytest.raises(ConfigurationError, match="has no time zone"):
        log.position_at(event.recorded_at.replace(tzinfo=None))
