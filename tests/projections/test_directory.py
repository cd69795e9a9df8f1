"""The list of all deployments, over a real event log."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.domain.event_log import EventLog
from deployledger.domain.names import NameReservation
from deployledger.projections import status
from deployledger.projections.directory import Directory
from tests.domain.given import SERVING, context, history, requested


@pytest.fixture
def log() -> Iterator[EventLog]:
    log = open_event_log("sqlite://")
    yield log
    log.close()


def test_deployments_are_in_the_order_of_their_requests(log: EventLog) -> None:
    ids = [uuid4() for _ in range(5)]
    for stream in ids:
        log.append(history(requested(), stream=stream))
    for stream in reversed(ids):
        log.append(history(*SERVING, stream=stream)[1:])
    assert [row.deployment_id for row in Directory(log).rows()] == ids


def test_a_read_sees_what_was_appended_since_the_last_one(log: EventLog) -> None:
    directory, stream = Directory(log), uuid4()
    assert directory.rows() == []
    past = history(*SERVING, stream=stream)
    for count, event in enumerate(past, start=1):
        log.append([event])
        assert directory.rows() == [status.fold(past[:count])]


def test_reservations_of_names_are_no_deployments(log: EventLog) -> None:
    reservation = NameReservation("iris")
    reservation.reserve(uuid4(), by=context())
    log.append(reservation.collect_events())
    assert Directory(log).rows() == []


def test_more_than_one_batch_is_read(log: EventLog) -> None:
    ids = [UUID(int=number) for number in range(1, 1202)]
    log.append([event for stream in ids for event in history(requested(), stream=stream)])
    assert [row.deployment_id for row in Directory(log).rows()] == ids
