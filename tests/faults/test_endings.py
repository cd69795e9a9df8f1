"""Closing while the log is read, forks, lost files, held locks, and commands that cannot be stored."""

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.event_log.postgres import schema
from deployledger.domain.events import Event
from deployledger.domain.exceptions import ConfigurationError, EventLogError
from tests.contracts.reading import page
from tests.domain.given import history, requested


def a_command(count: int = 1) -> list[Event]:
    return [event for _ in range(count) for event in history(requested(), stream=uuid4())]


@pytest.fixture
def log(database_url: str) -> Iterator[DatabaseEventLog]:
    opened = open_event_log(database_url, create=True, patience=3)
    opened.append(a_command())
    yield opened
    opened.close()


def test_closing_while_threads_follow(database_url: str) -> None:
    for _ in range(5):
        log = open_event_log(database_url, create=True)
        log.append(a_command(400))

        def drain(log: DatabaseEventLog = log) -> None:
            try:
                with log.follow(0) as follower:
                    for _ in follower:
                        pass
            except EventLogError:
                pass  # closed before it began

        threads = [Thread(target=drain) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        log.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


async def test_closing_after_coroutines_that_followed_were_cancelled(database_url: str) -> None:
    for _ in range(5):
        log = open_event_log(database_url, create=True)
        await asyncio.to_thread(log.append, a_command(400))

        async def drain(log: DatabaseEventLog = log) -> None:
            with log.follow(0) as follower:
                async for _ in follower:
                    pass

        tasks = [asyncio.create_task(drain()) for _ in range(4)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(log.close)


def _append_in_a_fork(log: DatabaseEventLog, answers: "multiprocessing.Queue[str]") -> None:
    try:
        log.append(a_command())
        answers.put("stored")
    except EventLogError as error:
        answers.put(error.message)


def test_a_log_that_was_opened_before_a_fork_is_refused(log: DatabaseEventLog) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_append_in_a_fork, args=(log, answers))
    child.start()
    assert "before this process was forked" in answers.get(timeout=60)
    child.join(60)
    log.append(a_command())
    assert log.position() == 2


def test_closing_twice_closes_once(database_url: str) -> None:
    one = open_event_log(database_url, create=True)
    one.append(a_command())
    one.close()
    one.close()
    for use in (one.position, lambda: one.follow(0), lambda: one.append(a_command())):
        with pytest.raises(EventLogError, match="closed"):
            use()
    again = open_event_log(database_url)
    assert again.position() == 1
    again.close()


def test_a_lock_that_somebody_holds(empty_postgres_url: str) -> None:
    log = open_event_log(empty_postgres_url, create=True, patience=1)
    log.append(a_command())
    with psycopg.connect(empty_postgres_url) as holder:
        holder.execute(schema.EVENTS.lock)
        with pytest.raises(EventLogError, match="could not be written"):
            log.append(a_command())
    log.append(a_command())
    assert log.position() == 2
    log.close()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_that_was(how: str, tmp_path: Path) -> None:
    path, copy = tmp_path / "log.db", tmp_path / "copy.db"
    other = open_event_log(f"sqlite:///{copy}")
    other.append(a_command(3))
    other.close()
    log = open_event_log(f"sqlite:///{path}")
    log.append(a_command())
    if how == "deleted":
        path.unlink()
    else:
        copy.replace(path)
    with pytest.raises(EventLogError, match=f"was {how} while it was open"):
        log.append(a_command())
    log.close()
    assert how == "deleted" or path.exists()


def test_a_command_that_cannot_be_stored_fails_alone(
    log: DatabaseEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = a_command()
    encode = log._mapper.encode
    monkeypatch.setattr(
        log._mapper,
        "encode",
        lambda event: object() if event is bad[0] else encode(event),
    )

    def store(events: list[Event]) -> str:
        try:
            log.append(events)
        except EventLogError:
            return "refused"
        return "stored"

    with ThreadPoolExecutor(30) as pool:
        outcomes = list(pool.map(store, [bad, *(a_command() for _ in range(29))]))
    assert outcomes == ["refused", *["stored"] * 29]
    assert len(page(log, after=0, limit=100)) == 30


def test_an_actor_with_nul_is_refused(log: DatabaseEventLog) -> None:
    (event,) = a_command()
    with pytest.raises(ConfigurationError, match="NUL"):
        log.append([event.model_copy(update={"actor": "a\0b"})])


def test_a_command_of_many_events(database_url: str) -> None:
    log = open_event_log(database_url, create=True)  # with the usual patience: it may take seconds
    log.append(a_command(20_000))
    assert log.position() == 20_000
    log.close()


@pytest.mark.parametrize(
    "setting",
    [
        "default_transaction_isolation = 'repeatable read'",
        "default_transaction_isolation = 'serializable'",
        "datestyle = 'German'",
        "timezone = 'Asia/Kolkata'",
        "array_nulls = off",
        "client_encoding = 'LATIN1'",
    ],
)
def test_defaults_of_the_database(empty_postgres_url: str, setting: str) -> None:
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        name = sql.Identifier(session.info.dbname)
        session.execute(sql.SQL("ALTER DATABASE {} SET " + setting).format(name))
    logs = [open_event_log(empty_postgres_url, create=True, patience=10 + number) for number in range(2)]
    with ThreadPoolExecutor(8) as pool:
        appends = [pool.submit(logs[number % 2].append, a_command()) for number in range(100)]
        for append in appends:
            append.result()
    stored = page(logs[0], after=0, limit=1000)
    assert [it.position for it in stored] == list(range(1, 101))
    assert {str(it.recorded_at.utcoffset()) for it in stored} == {"0:00:00"}
    for log in logs:
        log.close()


def test_an_encoding_that_loses_text_is_refused(postgres_url: str, empty_postgres_url: str) -> None:
    name = f"ascii_{uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as session:
        session.execute(
            sql.SQL("CREATE DATABASE {} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'").format(
                sql.Identifier(name)
            )
        )
    before, mark, query = empty_postgres_url.partition("?")
    log = open_event_log(f"{before.rsplit('/', 1)[0]}/{name}{mark}{query}", create=True)
    with pytest.raises(EventLogError, match="SQL_ASCII"):
        log.append(a_command())
    log.close()
    with psycopg.connect(postgres_url, autocommit=True) as session:
        session.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
