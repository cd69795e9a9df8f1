"""What an event log promises, on every database that keeps one."""

import random
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.domain.event_log import EventLog, events_of, version_of
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import ConcurrencyError, EventLogError
from deployledger.domain.names import NameReservation
from tests.contracts.reading import page
from tests.domain.given import SERVING, context, history, requested
from tests.logs import records_of

OpenLog = Callable[[], EventLog]


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    match kind:
        case "sqlite":
            return f"sqlite:///{request.getfixturevalue('tmp_path') / 'events.db'}"
        case "memory":
            return "sqlite://"
        case _:
            url: str = request.getfixturevalue("empty_postgres_url")
            return url


@pytest.fixture(params=["sqlite", "memory", "postgres"])
def log(request: pytest.FixtureRequest) -> Iterator[EventLog]:
    """One log, of each kind."""
    log = open_event_log(url_of(request.param, request), create=True)
    yield log
    log.close()


@pytest.fixture(params=["sqlite", "postgres"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """A database that several logs and processes can share, of each kind."""
    return url_of(request.param, request)


@pytest.fixture
def open_log(shared_url: str) -> Iterator[OpenLog]:
    """Open one more log on the shared database."""
    opened: list[EventLog] = []

    def open_one_more() -> EventLog:
        opened.append(open_event_log(shared_url, create=True))
        return opened[-1]

    yield open_one_more
    for log in opened:
        log.close()


def begun(stream: UUID) -> list[DeploymentEvent]:
    return history(requested(), stream=stream)


# Append and read ------------------------------------------------------------------------------------


def test_an_empty_log_has_nothing(log: EventLog) -> None:
    assert events_of(log, uuid4()) == []
    assert version_of(log, uuid4()) == 0
    assert page(log, after=0, limit=10) == []


def test_what_was_appended_is_in_its_stream(log: EventLog) -> None:
    one, other = uuid4(), uuid4()
    past = history(*SERVING, stream=one)
    log.append(past[:2])
    log.append(begun(other))
    log.append(past[2:])
    assert events_of(log, one) == past
    assert version_of(log, one) == 4
    assert version_of(log, other) == 1


def test_appending_nothing_changes_nothing(log: EventLog) -> None:
    log.append([])
    assert page(log, after=0, limit=10) == []


def test_events_of_several_streams_are_appended_at_once(log: EventLog) -> None:
    stream = uuid4()
    reservation = NameReservation("iris")
    reservation.reserve(stream, by=context())
    reserved = reservation.collect_events()
    log.append([*begun(stream), *reserved])
    assert version_of(log, stream) == 1
    assert events_of(log, reservation.id) == reserved


def test_the_log_is_read_in_the_order_in_which_it_was_written(log: EventLog) -> None:
    pasts = [history(*SERVING, stream=uuid4()) for _ in range(3)]
    written = [past[index] for index in range(4) for past in pasts]
    for event in written:
        log.append([event])
    recorded = page(log, after=0, limit=100)
    assert [it.event for it in recorded] == written
    positions = [it.position for it in recorded]
    assert positions[0] >= 1
    assert positions == sorted(set(positions))


def test_the_log_is_read_page_by_page(log: EventLog) -> None:
    written = [event for _ in range(5) for event in history(*SERVING, stream=uuid4())]
    log.append(written)
    read, position = [], 0
    while batch := page(log, after=position, limit=3):
        assert len(batch) <= 3
        read += [it.event for it in batch]
        position = batch[-1].position
    assert read == written
    assert page(log, after=position, limit=3) == []


# All or none, and conflicts -------------------------------------------------------------------------


def test_the_events_of_some_streams_are_read_up_to_a_position(log: EventLog) -> None:
    one, other, third = uuid4(), uuid4(), uuid4()
    for stream in (one, other, third):
        log.append(history(*SERVING[:2], stream=stream))
    log.append(history(*SERVING, stream=one)[2:])
    everything = records_of(log, after=0, limit=100)
    for until in range(9):
        found = records_of(log, streams=[third, one, uuid4()], until=until)
        wanted = [it for it in everything if it.position <= until and it.stream_id != other.bytes]
        assert found == wanted
    assert records_of(log, streams=[], until=8) == []
    many = [uuid4() for _ in range(2_000)]
    assert len(records_of(log, streams=[*many, other], until=8)) == 2


def test_a_version_that_is_taken_is_a_conflict(log: EventLog) -> None:
    stream = uuid4()
    log.append(begun(stream))
    with pytest.raises(ConcurrencyError) as refusal:
        log.append(begun(stream))
    assert str(stream) in refusal.value.message
    assert refusal.value.status_code == 409
    assert refusal.value.hint
    assert version_of(log, stream) == 1


def test_a_conflict_stores_none_of_the_events(log: EventLog) -> None:
    taken, free = uuid4(), uuid4()
    log.append(begun(taken))
    for events in ([*begun(free), *begun(taken)], [*begun(taken), *begun(free)]):
        with pytest.raises(ConcurrencyError):
            log.append(events)
        assert version_of(log, free) == 0
    assert len(page(log, after=0, limit=10)) == 1


def test_a_log_goes_on_after_a_conflict(log: EventLog) -> None:
    stream = uuid4()
    past = history(*SERVING, stream=stream)
    log.append(past[:1])
    for _ in range(20):
        with pytest.raises(ConcurrencyError):
            log.append(history(requested(), stream=stream))
    log.append(past[1:])
    assert events_of(log, stream) == past


def test_the_same_events_are_stored_once(log: EventLog) -> None:
    past = history(*SERVING, stream=uuid4())
    for _ in range(3):
        log.append(past)
    assert [it.event for it in page(log, after=0, limit=100)] == past


def test_of_writers_at_the_same_time_one_wins_each_version(open_log: OpenLog) -> None:
    logs = [open_log() for _ in range(4)]
    streams = [uuid4() for _ in range(10)]
    start = threading.Barrier(len(logs))

    def write(log: EventLog) -> int:
        start.wait()
        won = 0
        for stream in streams:
            try:
                log.append(begun(stream))
                won += 1
            except ConcurrencyError:
                continue
        return won

    with ThreadPoolExecutor(len(logs)) as threads:
        assert sum(threads.map(write, logs)) == len(streams)
    assert len(page(logs[0], after=0, limit=100)) == len(streams)


def test_a_reader_that_follows_misses_nothing_and_sees_nothing_twice(open_log: OpenLog) -> None:
    writers, reader, each = [open_log() for _ in range(3)], open_log(), 30

    def write(log: EventLog) -> None:
        for _ in range(each):
            log.append(history(*SERVING[: random.randint(1, 4)], stream=uuid4()))

    seen: list[UUID] = []
    position = 0
    with ThreadPoolExecutor(len(writers)) as threads:
        writing = [threads.submit(write, log) for log in writers]
        done = False
        while not done:
            done = all(it.done() for it in writing)  # looked at first: one more read follows
            while batch := page(reader, after=position, limit=7):
                seen += [it.event.event_id for it in batch]
                position = batch[-1].position
        for it in writing:
            it.result()
    everything = [it.event.event_id for it in page(open_log(), after=0, limit=10_000)]
    assert seen == everything
    assert len(set(seen)) == len(seen)


def test_what_one_log_wrote_another_reads_at_once(open_log: OpenLog) -> None:
    one, other = open_log(), open_log()
    for _ in range(10):
        stream = uuid4()
        one.append(begun(stream))
        assert version_of(other, stream) == 1


def test_what_was_written_is_there_after_closing(open_log: OpenLog) -> None:
    stream = uuid4()
    first = open_log()
    first.append(begun(stream))
    first.close()
    assert version_of(open_log(), stream) == 1


# Ownership ------------------------------------------------------------------------------------------


def test_one_owns_a_stream_at_a_time(log: EventLog) -> None:
    stream = uuid4()
    with log.ownership(stream) as first:
        with log.ownership(stream) as second:
            assert (first, second) == (True, False)
        with log.ownership(stream) as third:  # the refused one gave nothing up
            assert third is False
    with log.ownership(stream) as again:
        assert again is True


def test_ownership_is_of_one_stream(log: EventLog) -> None:
    with log.ownership(uuid4()) as one, log.ownership(uuid4()) as other:
        assert one
        assert other


def test_an_error_gives_ownership_up(log: EventLog) -> None:
    stream = uuid4()
    with pytest.raises(KeyError), log.ownership(stream):
        raise KeyError
    with log.ownership(stream) as again:
        assert again is True


def test_ownership_is_exclusive_over_logs_and_threads(open_log: OpenLog) -> None:
    stream, logs = uuid4(), [open_log(), open_log()]
    working, most, turns = 0, 0, 0
    counting = threading.Lock()

    def work(log: EventLog) -> None:
        nonlocal working, most, turns
        for _ in range(40):
            with log.ownership(stream) as is_owner:
                if is_owner:
                    with counting:
                        working, turns = working + 1, turns + 1
                        most = max(most, working)
                    time.sleep(0.001)
                    with counting:
                        working -= 1

    with ThreadPoolExecutor(4) as threads:
        for it in [threads.submit(work, log) for log in logs * 2]:
            it.result()
    assert most == 1
    assert turns >= 1


OWN = """
import sys
from uuid import UUID
from deployledger.adapters.event_log import open_event_log

log = open_event_log(sys.argv[1], create=True)
with log.ownership(UUID(sys.argv[2])) as is_owner:
    print(is_owner, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def start_owner(shared_url: str) -> Iterator[Callable[[UUID], subprocess.Popen[str]]]:
    """Start a process that owns a stream until its input ends."""
    started: list[subprocess.Popen[str]] = []

    def start(stream: UUID) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWN, shared_url, str(stream)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("end", ["orderly", "kill -9"])
def test_ownership_is_exclusive_over_processes_and_ends_with_them(
    end: str, open_log: OpenLog, start_owner: Callable[[UUID], subprocess.Popen[str]]
) -> None:
    log, stream = open_log(), uuid4()
    log.create_schema()
    process = start_owner(stream)
    with log.ownership(stream) as is_owner:
        assert is_owner is False
    if end == "orderly":
        process.communicate()
    else:
        process.kill()
        process.wait()
    wait_until(lambda: can_own(log, stream))


def can_own(log: EventLog, stream: UUID) -> bool:
    with log.ownership(stream) as is_owner:
        return bool(is_owner)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def test_ownership_can_be_asked_for_before_anything_else(tmp_path: Path) -> None:
    log = open_event_log(f"sqlite:///{tmp_path / 'not' / 'there' / 'yet' / 'events.db'}")
    with log.ownership(uuid4()) as is_owner:
        assert is_owner is True
    log.close()


# Schema ---------------------------------------------------------------------------------------------


def test_creating_the_schema_twice_changes_nothing(open_log: OpenLog) -> None:
    log, stream = open_log(), uuid4()
    described = log.create_schema()
    log.append(begun(stream))
    assert log.create_schema() == described
    assert open_log().create_schema() == described
    assert version_of(log, stream) == 1


def test_four_may_create_the_schema_at_once(open_log: OpenLog) -> None:
    logs = [open_log() for _ in range(4)]
    start = threading.Barrier(len(logs))

    def create(log: EventLog) -> None:
        start.wait()
        log.create_schema()
        log.append(begun(uuid4()))

    with ThreadPoolExecutor(len(logs)) as threads:
        for it in [threads.submit(create, log) for log in logs]:
            it.result()
    assert len(page(logs[0], after=0, limit=10)) == 4


def test_four_may_use_a_log_for_the_first_time_at_once(log: EventLog) -> None:
    with ThreadPoolExecutor(4) as threads:
        for it in [threads.submit(log.append, begun(uuid4())) for _ in range(4)]:
            it.result()
    assert len(page(log, after=0, limit=10)) == 4


def test_a_description_has_no_password(postgres_url: str) -> None:
    log = open_event_log("postgresql://ann:hunter2@localhost:1/ledger?password=hunter2", patience=0.1)
    with pytest.raises(EventLogError) as refusal:
        version_of(log, uuid4())
    assert "postgresql://localhost:1/ledger" in refusal.value.message
    assert "hunter2" not in "".join(traceback.format_exception(refusal.value))


def test_closing_twice_is_harmless(log: EventLog) -> None:
    log.append(begun(uuid4()))
    log.close()
    log.close()


def test_a_log_that_was_never_used_can_be_closed(log: EventLog) -> None:
    log.close()


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def connections(empty_postgres_url: str, postgres_url: str) -> int:
    database = urlsplit(empty_postgres_url).path.removeprefix("/")
    with psycopg.connect(postgres_url) as server:
        row = server.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (database,)
        ).fetchone()
    return int(row[0]) if row else 0


def test_closing_leaves_no_connection(empty_postgres_url: str, postgres_url: str) -> None:
    log = open_event_log(empty_postgres_url, create=True)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(log.append, [begun(uuid4()) for _ in range(20)]))
    with log.ownership(uuid4()):
        assert connections(empty_postgres_url, postgres_url) >= 1
    log.close()
    wait_until(lambda: connections(empty_postgres_url, postgres_url) == 0)


def test_closing_after_failures_leaves_no_connection(empty_postgres_url: str, postgres_url: str) -> None:
    log = open_event_log(empty_postgres_url)
    for _ in range(3):
        with pytest.raises(EventLogError, match="has no deployledger schema"):
            version_of(log, uuid4())
    log.close()
    wait_until(lambda: connections(empty_postgres_url, postgres_url) == 0)


def test_threads_end_with_the_log(empty_postgres_url: str) -> None:
    before = set(threading.enumerate())
    log = open_event_log(empty_postgres_url)
    for _ in range(3):
        with pytest.raises(EventLogError):
            version_of(log, uuid4())
    log.close()
    wait_until(lambda: set(threading.enumerate()) <= before)
