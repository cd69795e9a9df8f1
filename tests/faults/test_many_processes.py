"""Many processes append and follow at the same time, while connections and the server break."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from tests.faults.audit import acknowledged_in, assert_whole, rows
from tests.faults.conftest import OwnServer, kill_connections, times, wait_until
from tests.faults.workers import PROCESSES, SEEN, append_commands, follow, start

WRITERS = 8
EVENTS = times(8_000, 200_000)
pytestmark = pytest.mark.timeout(times(600, 1800))


def append_and_follow(url: str, folder: Path, trouble: Callable[[threading.Event], None]) -> None:
    """Append with many processes while others follow and there is trouble; check what came of it."""
    begin, done, over = PROCESSES.Event(), PROCESSES.Event(), threading.Event()
    acknowledgements = [folder / f"acknowledged-{number}" for number in range(WRITERS)]
    seen = [folder / "seen-by-thread", folder / "seen-by-coroutine"]
    writers = [
        start(append_commands, url, file, number, EVENTS // WRITERS, begin)
        for number, file in enumerate(acknowledgements)
    ]
    followers = [start(follow, url, file, number == 1, begin, done) for number, file in enumerate(seen)]
    try:
        # All have opened the log by then, which they would not try again.
        wait_until(lambda: all(file.exists() for file in acknowledgements + seen))
        begin.set()
        troubling = threading.Thread(target=trouble, args=(over,))
        troubling.start()
        for writer in writers:
            writer.join(60 + EVENTS / 500)
        over.set()
        troubling.join()
        done.set()
        for follower in followers:
            follower.join(60)
        assert [it.exitcode for it in writers + followers] == [0] * (WRITERS + len(seen))
    finally:
        over.set()
        for process in writers + followers:
            process.kill()
            process.join()
    log = rows(url)
    assert len(log) == EVENTS
    acknowledged = acknowledged_in(*acknowledgements)
    assert_whole(log, acknowledged)
    assert set(acknowledged) == {row.stream for row in log}
    expected = [(row.position, row.stream, row.version) for row in log]
    for file in seen:
        assert [
            (position, UUID(bytes=stream), version)
            for position, stream, version in SEEN.iter_unpack(file.read_bytes())
        ] == expected


def create_schema(url: str) -> None:
    from deployledger.adapters.event_log import open_event_log

    log = open_event_log(url)
    log.create_schema()
    log.close()


def test_followers_see_every_event_of_many_writers_once_and_in_order(
    database_url: str, tmp_path: Path
) -> None:
    create_schema(database_url)
    append_and_follow(database_url, tmp_path, lambda _: None)


def test_nothing_is_lost_or_doubled_while_connections_break(empty_postgres_url: str, tmp_path: Path) -> None:
    create_schema(empty_postgres_url)
    killed = 0

    def kill_now_and_then(over: threading.Event) -> None:
        nonlocal killed
        while not over.wait(random.uniform(0.02, 0.08)):
            killed += kill_connections(empty_postgres_url)

    append_and_follow(empty_postgres_url, tmp_path, kill_now_and_then)
    assert killed > WRITERS
    print(f"{EVENTS} events, {killed} connections killed")


@pytest.mark.parametrize("crash", [False, True], ids=["orderly", "crash"])
def test_nothing_is_lost_or_doubled_when_the_server_restarts(
    crash: bool, own_server: OwnServer, tmp_path: Path
) -> None:
    create_schema(own_server.url)
    at = [0]

    def restart_once(over: threading.Event) -> None:
        while at[0] < EVENTS // 10 and not over.wait(0.01):
            with psycopg.connect(own_server.url) as session:
                row = session.execute("SELECT coalesce(max(position), 0) FROM deployledger.events").fetchone()
            at[0] = row[0] if row else 0
        own_server.restart(crash=crash)

    append_and_follow(own_server.url, tmp_path, restart_once)
    assert EVENTS // 10 <= at[0] < EVENTS
