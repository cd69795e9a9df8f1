"""What a database administrator does meanwhile neither holds appending up nor waits for it."""

import threading
import time
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.event_log.postgres.schema import EVENTS
from deployledger.domain.event_log import EventLog
from tests.faults.audit import assert_whole, new_command, rows

LONGEST_SECONDS = 60


@pytest.fixture
def log(empty_postgres_url: str) -> Iterator[EventLog]:
    log = open_event_log(empty_postgres_url, create=True)
    log.append(new_command(3))
    yield log
    log.close()


class Appending:
    """Appends all the time, from several threads."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._append) for _ in range(4)]
        self.streams: list[UUID] = []

    def _append(self) -> None:
        while not self._over.is_set():
            command = new_command(2)
            self._log.append(command)
            self.streams.append(command[0].originator_id)

    def __enter__(self) -> "Appending":
        for it in self._threads:
            it.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for it in self._threads:
            it.join()


@pytest.mark.parametrize(
    "statement",
    [
        "VACUUM deployledger.events",
        "VACUUM (FREEZE, ANALYZE) deployledger.events",
        "ANALYZE deployledger.events",
        "CREATE INDEX CONCURRENTLY by_actor ON deployledger.events (actor)",
        "REINDEX TABLE CONCURRENTLY deployledger.events",
    ],
)
def test_maintenance_and_appending_do_not_wait_for_each_other(
    statement: str, log: EventLog, empty_postgres_url: str
) -> None:
    with psycopg.connect(empty_postgres_url, autocommit=True) as session, Appending(log) as appending:
        session.execute(f"SET statement_timeout = '{LONGEST_SECONDS}s'".encode())
        while len(appending.streams) < 20:
            time.sleep(0.005)
        session.execute(statement.encode())
        then = len(appending.streams)
        while len(appending.streams) < then + 20:
            time.sleep(0.005)
    assert_whole(rows(empty_postgres_url), appending.streams)


def test_an_append_that_takes_long_holds_no_maintenance_up(log: EventLog, empty_postgres_url: str) -> None:
    with (
        psycopg.connect(empty_postgres_url) as appending,
        psycopg.connect(empty_postgres_url, autocommit=True) as session,
    ):
        # As an append that was stopped between its lock and its commit.
        appending.execute(EVENTS.lock)
        appending.execute("SELECT max(position) FROM deployledger.events")
        session.execute("SET statement_timeout = '60s'")
        session.execute("SET lock_timeout = '30s'")
        session.execute("VACUUM deployledger.events")
        session.execute("ANALYZE deployledger.events")
        appending.rollback()
    log.append(new_command(1))
