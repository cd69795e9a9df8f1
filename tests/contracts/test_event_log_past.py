"""What an event log had in it by a time or a position, on every database that keeps one."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import EventRecord, time_of
from deployledger.domain.exceptions import ConfigurationError
from tests.contracts.reading import page
from tests.contracts.test_event_log import begun, url_of
from tests.domain.given import SERVING, history
from tests.logs import records_of

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


# Records of a stream --------------------------------------------------------------------------------


def test_the_records_of_a_stream_are_its_events_as_they_are_stored(log: EventLog) -> None:
    one, other = uuid4(), uuid4()
    past = history(*SERVING, stream=one)
    log.append(past[:2])
    log.append(begun(other))
    log.append(past[2:])
    records = records_of(log, streams=[one], metadata=True)
    assert [log.decode(it) for it in records] == past
    assert records == [it for it in records_of(log, limit=9, metadata=True) if it.stream == str(one)]
    plain = [EventRecord(*it[:5]) for it in records]
    assert plain == [it for it in records_of(log, limit=9) if it.stream_id == one.bytes]
    recorded = [it for it in page(log) if it.event.originator_id == one]
    assert [(it.position, time_of(it)) for it in records] == [
        (it.position, it.recorded_at) for it in recorded
    ]
    assert [(UUID(bytes=it.event_id), it.actor) for it in records] == [(it.event_id, it.actor) for it in past]
    assert [UUID(bytes=it.correlation_id) for it in records] == [it.correlation_id for it in past]
    assert [it.causation_id and UUID(bytes=it.causation_id) for it in records] == [
        it.causation_id for it in past
    ]
    assert records_of(log, streams=[uuid4()], metadata=True) == []


def test_the_records_of_a_stream_by_a_position_or_a_time(log: EventLog) -> None:
    one = uuid4()
    past = history(*SERVING, stream=one)
    for events in (past[:1], begun(uuid4()), past[1:3], begun(uuid4()), past[3:]):
        log.append(events)
    records = records_of(log, streams=[one], metadata=True)
    for position in range(7):
        assert records_of(log, streams=[one], metadata=True, until=position) == [
            it for it in records if it.position <= position
        ]
    times = {time_of(it) for it in records}
    for moment in {*times, *(it - TICK for it in times), *(it + TICK for it in times)}:
        found = records_of(log, streams=[one], metadata=True, until=log.position_at(moment))
        assert found == [it for it in records if time_of(it) <= moment]
    assert records_of(log, streams=[one], metadata=True, limit=1) == records[:1]
    assert records_of(log, streams=[one], metadata=True, until=6, limit=2) == records[:2]
