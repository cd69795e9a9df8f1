"""Followers miss nothing, whatever breaks, and are gone when they are closed."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from deployledger.adapters.event_log import following, open_event_log
from deployledger.adapters.event_log.postgres import tail as postgres_tail
from deployledger.adapters.event_log.sqlite import tail as sqlite_tail
from deployledger.domain.event_log import EventLog, Follower
from deployledger.domain.exceptions import ConfigurationError
from tests.domain.given import SERVING, history
from tests.faults.audit import new_command
from tests.faults.conftest import connections, kill_connections, listening, times, wait_until


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    log = open_event_log(database_url, create=True)
    log.create_schema()
    yield log
    log.close()


def take(follower: Follower, number: int, seconds: float = 60) -> list[int]:
    """Return the positions of the next events."""
    found: list[int] = []
    deadline = time.monotonic() + seconds
    while len(found) < number:
        batch = follower.next_batch(max(0.0, deadline - time.monotonic()))
        assert batch is not None, f"only {len(found)} of {number} came"
        found += [it.position for it in batch.events]
    return found


def never_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave followers nothing but what they are told: looking again by themselves takes an hour."""
    for module in (following, postgres_tail, sqlite_tail):
        monkeypatch.setattr(module, "SAFETY_POLL_SECONDS", 3600.0)


def our_threads() -> set[threading.Thread]:
    return {it for it in threading.enumerate() if it.name.startswith("deployledger-")}


# What is followed -----------------------------------------------------------------------------------


def test_two_followers_see_the_same_past_and_future(log: EventLog, database_url: str) -> None:
    other = open_event_log(database_url, create=True)
    log.append(new_command(3))
    with log.follow() as one, log.follow(after=2) as late, other.follow() as elsewhere:
        assert take(one, 3) == take(elsewhere, 3) == [1, 2, 3]
        assert take(late, 1) == [3]
        other.append(new_command(2))
        assert take(one, 2) == take(late, 2) == take(elsewhere, 2) == [4, 5]
        assert one.position == late.position == elsewhere.position == 5
        assert one.next_batch(0) is None
    other.close()


def test_filters_leave_events_out_and_move_the_position_past_them(log: EventLog) -> None:
    wanted = uuid4()
    log.append(history(*SERVING, stream=wanted))
    log.append(new_command(4))
    topic = SERVING[1](wanted, 1).TOPIC
    with log.follow(topics=[topic]) as by_topic, log.follow(stream_id=wanted) as by_stream:
        assert take(by_topic, 2) == [2, 6]
        assert take(by_stream, 4) == [1, 2, 3, 4]
        log.append(new_command(1))
        batch = by_topic.next_batch(5)
        while batch is not None and batch.position < 9:
            assert not batch.events
            batch = by_topic.next_batch(5)
        assert batch is not None
        assert not batch.events
        while by_stream.position < 9:
            batch = by_stream.next_batch(5)
            assert batch is not None
            assert not batch.events


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"after": -1}, "no position -1"),
        ({"after": 4}, "no position 4"),
        ({"topics": ["deployment.dreamt_of"]}, "Unknown topic 'deployment.dreamt_of'"),
    ],
)
def test_what_cannot_be_followed_is_a_configuration_error(
    options: dict[str, object], says: str, log: EventLog
) -> None:
    before = our_threads()
    log.append(new_command(3))
    with pytest.raises(ConfigurationError, match=says) as refusal:
        log.follow(**options)  # type: ignore[arg-type]
    assert refusal.value.hint
    assert "deployledger-tail" not in {it.name for it in our_threads() - before}


# Coroutines -----------------------------------------------------------------------------------------


async def test_a_coroutine_can_follow(log: EventLog) -> None:
    log.append(new_command(3))
    seen: list[int] = []
    with log.follow() as follower:
        async for batch in follower:
            seen += [it.position for it in batch.events]
            if len(seen) == 3:
                await log.append_async(new_command(2))
            if len(seen) == 5:
                break
    assert seen == [1, 2, 3, 4, 5]


async def test_a_coroutine_that_stops_waiting_misses_nothing_afterwards(log: EventLog) -> None:
    number = times(300, 5000)
    seen: list[int] = []
    with log.follow() as follower:

        async def append() -> None:
            for _ in range(number):
                await log.append_async(new_command(1))

        appending = asyncio.create_task(append())
        while len(seen) < number:
            try:
                async with asyncio.timeout(0.0005):
                    seen += [it.position for it in (await anext(follower)).events]
            except TimeoutError:
                if appending.done():
                    break
        await appending
        while len(seen) < number:
            async with asyncio.timeout(60):
                seen += [it.position for it in (await anext(follower)).events]
    assert seen == list(range(1, number + 1))


async def test_closing_ends_the_iteration_of_a_coroutine(log: EventLog) -> None:
    follower = log.follow()

    async def iterate() -> int:
        return sum([len(batch.events) async for batch in follower])

    iterating = asyncio.create_task(iterate())
    await asyncio.sleep(0.05)
    await asyncio.to_thread(follower.close)
    assert await asyncio.wait_for(iterating, 60) == 0


# Ending ---------------------------------------------------------------------------------------------


def test_closing_from_another_thread_ends_the_iteration(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    never_look_again(monkeypatch)
    log.append(new_command(2))
    follower = log.follow()
    with ThreadPoolExecutor(1) as threads:
        counting = threads.submit(lambda: sum(len(batch.events) for batch in follower))
        wait_until(lambda: follower.position == 2)
        follower.close()
        follower.close()
        assert counting.result(60) == 2
    assert follower.next_batch(1) is None


def test_many_may_begin_and_end_to_follow_at_the_same_time(log: EventLog) -> None:
    before = our_threads()
    log.append(new_command(1))

    def follow_for_a_moment(_: int) -> None:
        with log.follow() as follower:
            assert take(follower, 1) == [1]

    with ThreadPoolExecutor(8) as threads:
        for it in [threads.submit(follow_for_a_moment, n) for n in range(times(100, 2000))]:
            it.result(60)
    wait_until(lambda: "deployledger-tail" not in {it.name for it in our_threads() - before})


@pytest.mark.parametrize("closed_first", ["follower", "log"])
def test_a_closed_log_leaves_no_thread_behind(closed_first: str, database_url: str) -> None:
    before = our_threads()
    log = open_event_log(database_url, create=True)
    log.append(new_command(2))
    follower = log.follow()
    take(follower, 2)
    if closed_first == "follower":
        follower.close()
        log.close()
    else:
        log.close()
        assert list(follower) == []
        follower.close()
    wait_until(lambda: our_threads() <= before)


@pytest.mark.parametrize("closed_first", ["follower", "log"])
def test_a_closed_log_leaves_no_connection_behind(
    closed_first: str, empty_postgres_url: str, postgres_url: str
) -> None:
    log = open_event_log(empty_postgres_url, create=True)
    log.append(new_command(2))
    follower = log.follow()
    take(follower, 2)
    with log.ownership(uuid4()):
        for it in (follower, log) if closed_first == "follower" else (log, follower):
            it.close()
    wait_until(lambda: connections(empty_postgres_url, postgres_url) == 0)


# Faults ---------------------------------------------------------------------------------------------


def test_a_follower_whose_connection_is_cut_goes_on_and_misses_nothing(empty_postgres_url: str) -> None:
    reader, writer = (open_event_log(empty_postgres_url, create=True) for _ in range(2))
    writer.append(new_command(1))
    with reader.follow() as follower:
        assert take(follower, 1) == [1]
        for number in range(times(5, 100)):
            wait_until(lambda: kill_connections(empty_postgres_url, "LISTEN %") == 1)
            writer.append(new_command(2))  # while nobody listens
            assert take(follower, 2) == [2 * number + 2, 2 * number + 3]
    reader.close()
    writer.close()


def test_a_follower_hears_at_once_again_after_its_connection_was_cut(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = (open_event_log(empty_postgres_url, create=True) for _ in range(2))
    writer.append(new_command(1))
    with reader.follow() as follower:
        take(follower, 1)
        wait_until(lambda: kill_connections(empty_postgres_url, "LISTEN %") == 1)
        wait_until(lambda: listening(empty_postgres_url) == 1)  # it has a new one
        writer.append(new_command(1))
        take(follower, 1)
        never_look_again(monkeypatch)
        for _ in range(10):
            writer.append(new_command(1))
            take(follower, 1)
    reader.close()
    writer.close()
