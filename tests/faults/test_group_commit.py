"""Commands that share a transaction have nothing to do with one another otherwise."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from deployledger.adapters.event_log import group_commit, open_event_log
from deployledger.adapters.event_log.commands import Conflict, Repeated, Stored
from deployledger.adapters.event_log.group_commit import GroupCommit
from deployledger.domain.exceptions import EventLogError
from deployledger.projections.patience import Patience
from tests.faults.audit import assert_sound, new_command, rows
from tests.faults.writers import HeldWriter, command, created, writer


@pytest.fixture
def url(database_url: str) -> str:
    return created(database_url)


@pytest.fixture
def held(url: str) -> HeldWriter:
    return HeldWriter(writer(url))


@pytest.fixture
async def commits(held: HeldWriter) -> AsyncIterator[GroupCommit]:
    commits = GroupCommit(held, lambda: None, patience=Patience(20), described_as="test")
    yield commits
    held.release()
    await asyncio.to_thread(commits.close)


async def hold(held: HeldWriter, commits: GroupCommit) -> "asyncio.Task[object]":
    """Begin to store a command that is held back, so that everything after it waits."""
    held.hold()
    task: asyncio.Task[object] = asyncio.create_task(commits.store_async(command((uuid4(), 1))))
    assert await asyncio.to_thread(held.is_writing.wait, 60)
    return task


async def test_what_waits_shares_a_transaction(held: HeldWriter, commits: GroupCommit) -> None:
    first = await hold(held, commits)
    rest = [asyncio.create_task(commits.store_async(command((uuid4(), 1)))) for _ in range(50)]
    await asyncio.sleep(0)
    held.release()
    await asyncio.gather(first, *rest)
    assert held.batches == [1, 50]


async def test_a_command_that_waits_alone_is_stored_at_once(held: HeldWriter, commits: GroupCommit) -> None:
    await commits.store_async(command((uuid4(), 1)))
    quickest = 1.0
    while quickest > 0.02:  # what waits for a timer is never that quick, on a machine however idle
        begun = time.monotonic()
        await commits.store_async(command((uuid4(), 1)))
        quickest = min(quickest, time.monotonic() - begun)
    assert set(held.batches) == {1}


async def test_a_batch_is_not_larger_than_a_transaction_may_be(
    held: HeldWriter, commits: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MOST_ROWS", 10)
    first = await hold(held, commits)
    large = command(*((stream, 1) for stream in [uuid4() for _ in range(30)]))
    some = [command((stream, 1), (stream, 2), (stream, 3)) for stream in [uuid4() for _ in range(6)]]
    rest = [asyncio.create_task(commits.store_async(it)) for it in [*some[:4], large, *some[4:]]]
    await asyncio.sleep(0)
    held.release()
    assert all(isinstance(it, Stored) for it in await asyncio.gather(first, *rest))
    assert held.batches == [1, 3, 1, 1, 2]  # one that is larger goes alone


async def test_a_conflict_refuses_one_command_and_no_other(
    held: HeldWriter, commits: GroupCommit, url: str
) -> None:
    taken = uuid4()
    await commits.store_async(command((taken, 1), key="used"))
    first = await hold(held, commits)
    good = [command((uuid4(), 1)) for _ in range(20)]
    conflicting = [command((uuid4(), 1), (taken, 1)) for _ in range(20)]
    repeating = [command((uuid4(), 1), key="used") for _ in range(20)]
    mixed = [it for three in zip(good, conflicting, repeating, strict=True) for it in three]
    rest = [asyncio.create_task(commits.store_async(it)) for it in mixed]
    await asyncio.sleep(0)
    held.release()
    outcomes = [type(it) for it in (await asyncio.gather(first, *rest))[1:]]
    assert outcomes == [Stored, Conflict, Repeated] * 20
    assert len(rows(url)) == 2 + 20
    assert_sound(rows(url))


@pytest.mark.parametrize("alone", [True, False])
async def test_a_version_that_was_not_reached_is_a_conflict(
    alone: bool, held: HeldWriter, commits: GroupCommit, url: str
) -> None:
    stream = uuid4()
    await commits.store_async(command((stream, 1)))
    first = await hold(held, commits)
    ahead = asyncio.create_task(commits.store_async(command((stream, 5))))
    rest = [
        asyncio.create_task(commits.store_async(command((uuid4(), 1)))) for _ in range(0 if alone else 20)
    ]
    await asyncio.sleep(0)
    held.release()
    await asyncio.gather(first, *rest)
    assert await ahead == Conflict(stream, 4, 1)
    assert_sound(rows(url))


async def test_a_caller_that_is_cancelled_while_it_waits_takes_its_command_back(
    held: HeldWriter, commits: GroupCommit, url: str
) -> None:
    first = await hold(held, commits)
    wanted = [command((stream, 1), (stream, 2)) for stream in [uuid4() for _ in range(40)]]
    tasks = [asyncio.create_task(commits.store_async(it)) for it in wanted]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    held.release()
    await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [it.cancelled() for it in tasks] == [True, False] * 20
    stored = {row.stream for row in rows(url)}
    assert [it.rows[0].originator_id in stored for it in wanted] == [False, True] * 20
    assert_sound(rows(url))


async def test_a_command_of_a_cancelled_caller_is_stored_whole_if_at_all(
    held: HeldWriter, commits: GroupCommit, url: str
) -> None:
    stream = uuid4()
    held.hold()
    task = asyncio.create_task(commits.store_async(command((stream, 1), (stream, 2))))
    await asyncio.to_thread(held.is_writing.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.release()
    await commits.store_async(command((stream, 3)))
    assert [(row.stream, row.version) for row in rows(url)] == [(stream, 1), (stream, 2), (stream, 3)]


async def test_any_number_of_callers_may_be_cancelled_one_after_the_other(commits: GroupCommit) -> None:
    for _ in range(1200):
        task = asyncio.create_task(commits.store_async(command((uuid4(), 1))))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0.0002)
    await asyncio.wait_for(commits.store_async(command((uuid4(), 1))), 60)


async def test_more_callers_than_may_wait_all_succeed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MOST_WAITING", 32)
    log = open_event_log(url)
    log.position()
    with ThreadPoolExecutor(32) as threads:
        of_threads = [threads.submit(log.append, new_command(1)) for _ in range(500)]
        await asyncio.wait_for(asyncio.gather(*(log.append_async(new_command(1)) for _ in range(500))), 60)
        for it in of_threads:
            await asyncio.wrap_future(it)
    assert_sound(rows(url))
    assert len(rows(url)) == 1000
    await asyncio.to_thread(log.close)


async def test_commands_of_one_caller_are_stored_in_their_order(commits: GroupCommit, url: str) -> None:
    streams = [uuid4() for _ in range(10)]

    async def call(stream_number: int) -> None:
        given = [
            asyncio.create_task(commits.store_async(command((streams[stream_number], version))))
            for version in range(1, 31)
        ]
        assert all(isinstance(it, Stored) for it in await asyncio.gather(*given))

    await asyncio.gather(*(call(number) for number in range(len(streams))))
    assert_sound(rows(url))
    assert len(rows(url)) == 300


async def test_that_order_is_kept_when_there_is_no_room_to_wait(
    commits: GroupCommit, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "MOST_WAITING", 4)
    stream = uuid4()
    given = []
    for version in range(1, 201):
        given.append(asyncio.create_task(commits.store_async(command((stream, version)))))
        if version % 3 == 0:
            await asyncio.sleep(0.001)
    outcomes = await asyncio.wait_for(asyncio.gather(*given), 60)
    assert [it for it in outcomes if not isinstance(it, Stored)] == []
    assert_sound(rows(url))


def test_closing_stores_what_waits(url: str) -> None:
    held = HeldWriter(writer(url))
    commits = GroupCommit(held, lambda: None, patience=Patience(20), described_as="test")
    held.hold()
    with ThreadPoolExecutor(21) as threads:
        waiting = [threads.submit(commits.store, command((uuid4(), 1))) for _ in range(20)]
        assert held.is_writing.wait(60)
        closing = threads.submit(commits.close)
        time.sleep(0.05)
        held.release()
        closing.result(60)
        outcomes = [it.exception(10) for it in waiting]
    # A thread that came after the closing was refused, and nothing is there of it.
    refused = [it for it in outcomes if it is not None]
    assert {type(it) for it in refused} <= {EventLogError}
    assert len(rows(url)) == 20 - len(refused)
    with pytest.raises(EventLogError, match="is closed"):
        commits.store(command((uuid4(), 1)))
