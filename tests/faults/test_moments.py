"""What is said of a time stays true, however many append at that very time."""

import threading
import time
from datetime import UTC, datetime
from itertools import count
from uuid import uuid4

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.domain.events import RetryRequested
from deployledger.service.past import Past
from tests.domain.given import cancelled, happened, requested


def test_what_is_said_of_a_time_stays_true_while_events_are_added(database_url: str) -> None:
    logs = [open_event_log(database_url, create=True, pool_size=size) for size in (2, 3, 4)]
    logs[0].position()
    reader, writers = logs[0], logs[1:]
    stopping = threading.Event()

    def write(log: DatabaseEventLog) -> None:
        while not stopping.is_set():
            log.append([requested()(uuid4(), 1)])

    threads = [threading.Thread(target=write, args=(log,)) for log in writers]
    for thread in threads:
        thread.start()
    said = []
    latest = time.monotonic() + 2
    while len(said) <= 20 or said[-1][1] <= 20 or time.monotonic() < latest:
        moment = datetime.now(UTC)
        said.append((moment, reader.position_at(moment)))
    stopping.set()
    for thread in threads:
        thread.join()
    assert [(moment, reader.position_at(moment)) for moment, _ in said] == said
    for log in logs:
        log.close()


def test_a_difference_between_moments_stays_true_while_events_are_added(database_url: str) -> None:
    reader, writer = [open_event_log(database_url, create=True, pool_size=size) for size in (2, 3)]
    stream = uuid4()
    writer.append([requested()(stream, 1)])
    stopping = threading.Event()

    def write() -> None:
        for version in count(2, 2):
            if stopping.is_set():
                return
            writer.append([cancelled()(stream, version)])
            writer.append([happened(RetryRequested, attempt=version)(stream, version + 1)])

    thread = threading.Thread(target=write)
    thread.start()
    past = Past(reader, 1 << 20, lambda: datetime.now(UTC))
    said = []
    latest = time.monotonic() + 1
    while len(said) <= 10 or said[-1][1] <= 10 or time.monotonic() < latest:
        moment = datetime.now(UTC)
        said.append((moment, past.difference(stream, 1, moment).after.position))
    stopping.set()
    thread.join()
    assert [(moment, past.difference(stream, 1, moment).after.position) for moment, _ in said] == said
    reader.close()
    writer.close()
