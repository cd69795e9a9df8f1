"""What the processes do that the tests start, and may kill at any time."""

import asyncio
import multiprocessing
import os
import random
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import deployledger.adapters.event_log.postgres.log
import deployledger.adapters.event_log.sqlite.log  # noqa: F401  # both imported before the server of forks forks
from deployledger.adapters.event_log import open_event_log
from deployledger.domain.event_log import EventBatch, EventLog, Follower
from deployledger.domain.exceptions import EventLogError
from tests.faults.audit import new_command

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])

SEEN = struct.Struct("!Q16sQ")
"""How a follower writes down an event: position, stream, version."""


class Signal(Protocol):
    """What one process can tell another."""

    def is_set(self) -> bool: ...
    def set(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...


def start(work: Callable[..., None], *arguments: Any) -> Any:
    """Start a process."""
    process = PROCESSES.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def append_commands(url: str, acknowledgements: Path, seed: int, events: int, start: Signal) -> None:
    """Append so many events in commands of one to three; write each down once it was acknowledged.

    With an odd seed by threads, with an even one by coroutines.
    """
    log = open_event_log(url, create=True, patience=60)
    log.position()
    descriptor = os.open(acknowledgements, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    start.wait()
    commands = [new_command(size) for size in sizes(seed, events)]
    if seed % 2:

        def append(command: Any) -> None:
            log.append(command)
            os.write(descriptor, command[0].originator_id.bytes)

        with ThreadPoolExecutor(8) as threads:
            for it in [threads.submit(append, command) for command in commands]:
                it.result()
    else:
        asyncio.run(_append_in_coroutines(log, commands, descriptor))
    log.close()


def sizes(seed: int, events: int) -> list[int]:
    """Return how many events each command has, so that they are so many together."""
    random_ = random.Random(seed)
    found: list[int] = []
    while (left := events - sum(found)) > 0:
        found += [min(random_.randint(1, 3), left) for _ in range(max(1, left // 3))]
    return found


async def _append_in_coroutines(log: EventLog, commands: list[Any], descriptor: int) -> None:
    left = iter(commands)

    async def append() -> None:
        for command in left:
            await log.append_async(command)
            os.write(descriptor, command[0].originator_id.bytes)

    async with asyncio.TaskGroup() as group:
        for _ in range(32):
            group.create_task(append())


def follow(url: str, seen: Path, in_a_coroutine: bool, start: Signal, done: Signal) -> None:
    """Follow from the beginning until the end of the log, once the writers are done; write down each event.

    A database that is away is told to a follower, which tries again.
    """
    log = open_event_log(url, create=True)
    log.position()
    with seen.open("wb") as file:
        start.wait()
        follower = _follower(log)

        def write(batch: EventBatch) -> None:
            for it in batch.events:
                file.write(SEEN.pack(it.position, it.event.originator_id.bytes, it.event.originator_version))

        def is_at_the_end() -> bool:
            return done.is_set() and follower.position == log.position()

        while True:
            try:
                if in_a_coroutine:
                    asyncio.run(_next_batches(follower, write))
                else:
                    while (batch := follower.next_batch(0.5)) is not None:
                        write(batch)
                if is_at_the_end():
                    break
            except EventLogError:
                time.sleep(0.01)
    follower.close()
    log.close()


def _follower(log: EventLog) -> Follower:
    """Begin to follow, however often the connection breaks meanwhile."""
    while True:
        try:
            return log.follow()
        except EventLogError:
            time.sleep(0.01)


async def _next_batches(follower: Any, write: Callable[[EventBatch], None]) -> None:
    """Write down batches for as long as they come within half a second."""
    while True:
        try:
            async with asyncio.timeout(0.5):
                write(await anext(follower))
        except TimeoutError:
            return
