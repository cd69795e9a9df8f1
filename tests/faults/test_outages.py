"""The database is away: down, frozen, in a network that swallows everything, or back after a moment.

Where it never comes back, what is called fails at last: a call without an end is the failure of the test.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.adapters.postgres import is_outage
from deployledger.adapters.read_models import open_read_models
from deployledger.domain.event_log import CommandKey, events_of, version_of
from deployledger.domain.exceptions import DatabaseUnavailableError, EventLogError
from deployledger.projections.patience import Patience
from deployledger.projections.status import DEPLOYMENT_STATUS
from tests.domain.given import request
from tests.faults.audit import assert_whole, new_command, rows
from tests.faults.proxy import LosingProxy, losing_proxy
from tests.logs import recorded_events
from tests.service.outside import HeldOrchestrator

FOR_EVER = 3600.0
"""A patience that no test outlives."""


@pytest.fixture
def proxy(empty_postgres_url: str) -> Iterator[LosingProxy]:
    with losing_proxy(empty_postgres_url) as proxy:
        yield proxy


def opened(url: str, patience: float = FOR_EVER) -> DatabaseEventLog:
    """Return a log that was used, so that all of its connections are open."""
    log = open_event_log(url, create=True, patience=patience)
    log.append(new_command(2))
    log.position()
    return log


@contextlib.contextmanager
def impatient(patience: Patience, seconds: float = 0.3) -> Iterator[None]:
    """Have calls wait no longer than that; before and after, a busy machine may be slow to answer."""
    before, patience.seconds = patience.seconds, seconds
    try:
        yield
    finally:
        patience.seconds = before


def end_sessions(url: str) -> None:
    """End every other session in the database, as an administrator does."""
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def uses(log: DatabaseEventLog) -> dict[str, Callable[[], object]]:
    """Return calls of every kind."""
    stream = uuid4()
    models, ledger = open_read_models(log), open_ledger(log)
    keyed = new_command(1)

    def own() -> bool:
        with log.ownership(stream) as is_owner:
            return is_owner

    return {
        "append": lambda: log.append(new_command(3)),
        "append with a key": lambda: log.append(
            keyed, CommandKey(str(uuid4()), "fingerprint", keyed[0].originator_id, 1)
        ),
        "command": lambda: log.command("key"),
        "position": log.position,
        "stream": lambda: events_of(log, stream),
        "version": lambda: version_of(log, stream),
        "read": lambda: recorded_events(log, after=0, limit=10),
        "scan": lambda: list(log.records(after=0, until=1)),
        "times": log.times,
        "statistics": log.statistics,
        "schema": log.schema_state,
        "follow": lambda: log.follow(0).close(),
        "ownership": own,
        "read models": lambda: models.find(DEPLOYMENT_STATUS, str(stream)),
        "status of read models": models.status,
        "ledger": ledger.integrate,
    }


def errors_of(calls: dict[str, Callable[[], object]]) -> dict[str, BaseException | None]:
    """Return what each call raised, after making all at the same time."""
    errors: dict[str, BaseException | None] = {}

    def make(name: str, call: Callable[[], object]) -> None:
        errors[name] = None
        try:
            call()
        except Exception as error:
            errors[name] = error

    threads = [threading.Thread(target=make, args=it) for it in calls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


# Away for good ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["swallow", "go_down"])
def test_no_call_waits_longer_than_the_patience(how: str, proxy: LosingProxy) -> None:
    log = opened(proxy.url)
    calls = uses(log)
    for call in calls.values():
        call()
    getattr(proxy, how)()
    with impatient(log.patience):
        errors = errors_of(calls)
        log.close()
    for name, error in errors.items():
        assert isinstance(error, DatabaseUnavailableError), (name, error)
        assert error.hint, name
        assert error.status_code == 503


@pytest.mark.parametrize("how", ["swallow", "go_down"])
def test_opening_a_log_waits_no_longer_than_the_patience(how: str, proxy: LosingProxy) -> None:
    getattr(proxy, how)()
    log = open_event_log(proxy.url, create=True, patience=0.2)
    for name, error in errors_of(uses(log)).items():
        assert isinstance(error, DatabaseUnavailableError), (name, error)
    log.close()


async def test_a_service_on_a_frozen_server_answers_every_call_and_closes(
    proxy: LosingProxy,
) -> None:
    held = HeldOrchestrator()
    held.provisioning.shut()
    service = MLModelDeploymentService(orchestrator_client=held, database_url=proxy.url, create_schema=True)
    ids = [(await service.deploy_model(request(deployment_name=f"iris-{it}"))).deployment_id for it in (1, 2)]
    while held.provisioning.arrivals < 2:
        await asyncio.sleep(0.01)
    await service.list_deployments()
    proxy.swallow()
    with impatient(service._models.patience):
        answers = await asyncio.gather(
            service.deploy_model(request(deployment_name="one")),
            service.deploy_model(request(deployment_name="two"), idempotency_key="key"),
            service.cancel_deployment(ids[0]),
            service.cancel_deployment(ids[1], idempotency_key="other key"),
            service.list_deployments(),
            service.get_deployment_history(ids[0]),
            service.find_deployment("iris-1"),
            *(service.get_deployment_status(ids[0]) for _ in range(40)),  # far more than threads
            return_exceptions=True,
        )
        await service.close()
    assert [answer for answer in answers if not isinstance(answer, DatabaseUnavailableError)] == []


def test_a_command_that_was_never_sent_was_not_stored(proxy: LosingProxy) -> None:
    log = opened(proxy.url)
    proxy.go_down()
    with impatient(log.patience), pytest.raises(EventLogError, match="Nothing was stored"):
        log.append(new_command(1))
    log.close()


def test_whether_a_command_on_a_frozen_server_is_stored_is_not_known(
    proxy: LosingProxy, empty_postgres_url: str
) -> None:
    log = opened(proxy.url)
    proxy.swallow()
    command = new_command(1)
    with impatient(log.patience), pytest.raises(EventLogError, match="took effect is not known") as unknown:
        log.append(command)
    assert "check whether the command took effect" in unknown.value.hint
    proxy.flow()
    log.append(new_command(1))
    assert_whole(rows(empty_postgres_url), [])
    log.close()


def test_what_trying_again_does_not_help_fails_at_once(postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    log = open_event_log(urlunsplit(parts._replace(path="/no_such_database")), patience=FOR_EVER)
    with pytest.raises(EventLogError, match="no_such_database"):
        log.position()
    log.close()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('FATAL:  password authentication failed for user "ann"', False),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "ann", database "x", no encryption', False),
        ('FATAL:  database "x" does not exist', False),
        ('FATAL:  role "ann" is not permitted to log in', False),
        ("SSL error: certificate verify failed", False),
        ("SSL error: tlsv1 alert unknown ca", False),
        ("server does not support SSL, but SSL was required", False),
        ("fe_sendauth: no password supplied", False),
        ('could not translate host name "db" to address: Name or service not known', True),
        ("could not translate host name: Temporary failure in name resolution", True),
        ('connection to server at "db", port 5432 failed: Connection refused', True),
        ('connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or directory', True),
        ("FATAL:  the database system is starting up", True),
        ("FATAL:  the database system is shutting down", True),
        ("FATAL:  the database system is in recovery mode", True),
        ("FATAL:  the database system is not yet accepting connections", True),
        ("FATAL:  sorry, too many clients already", True),
        ('FATAL:  too many connections for role "ann"', True),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", True),
        ("SSL SYSCALL error: EOF detected", True),
        ("SSL connection has been closed unexpectedly", True),
        ("session is read-only", True),
        ("connection timeout expired", True),
    ],
)
def test_whether_trying_again_helps(message: str, expected: bool) -> None:
    assert is_outage(psycopg.OperationalError(f"connection failed: {message}")) is expected


# Back after a moment ------------------------------------------------------------------------------------


def test_calls_whose_sessions_were_ended_are_made_again(empty_postgres_url: str) -> None:
    log = opened(empty_postgres_url)
    calls = uses(log)
    for call in calls.values():
        call()
    for name in ("append", "append with a key", "stream", "ownership", "read models", "ledger"):
        end_sessions(empty_postgres_url)
        assert errors_of({name: calls[name]}) == {name: None}
    log.close()


@pytest.mark.parametrize(("away", "back"), [("swallow", "flow"), ("go_down", "come_up")])
def test_calls_wait_for_a_database_that_comes_back(away: str, back: str, proxy: LosingProxy) -> None:
    log = opened(proxy.url)
    calls = uses(log)
    for call in calls.values():
        call()
    getattr(proxy, away)()
    timer = threading.Timer(0.3, getattr(proxy, back))
    timer.start()
    assert {name: error for name, error in errors_of(calls).items() if error} == {}
    log.close()


def test_calls_wait_for_a_database_that_is_replaced_by_a_restored_one(empty_postgres_url: str) -> None:
    log = opened(empty_postgres_url)
    calls = uses(log)
    for call in calls.values():
        call()
    name = urlsplit(empty_postgres_url).path.removeprefix("/")
    elsewhere = urlunsplit(urlsplit(empty_postgres_url)._replace(path="/postgres"))
    with psycopg.connect(elsewhere, autocommit=True) as administrator:

        def rename(before: str, after: str) -> None:
            administrator.execute(
                SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(before), Identifier(after))
            )

        administrator.execute(SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(Identifier(name)))
        administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        rename(name, f"{name}_away")
        timer = threading.Timer(0.3, lambda: rename(f"{name}_away", name))
        timer.start()
        opening = threading.Timer(
            0.6,
            lambda: administrator.execute(
                SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(Identifier(name))
            ),
        )
        opening.start()
        assert {call: error for call, error in errors_of(calls).items() if error} == {}
        opening.join()
    log.close()


def test_a_writer_whose_server_became_a_standby_connects_anew(empty_postgres_url: str) -> None:
    log = opened(empty_postgres_url)
    writer: Any = log._commits._writer
    writer._session.execute("SET default_transaction_read_only = on")
    command = new_command(1)
    log.append(command)
    assert events_of(log, command[0].originator_id) == command
    log.close()


def test_a_server_that_never_could_be_written_is_refused_at_once(empty_postgres_url: str) -> None:
    opened(empty_postgres_url).close()
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        name = session.info.dbname
        session.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')  # type: ignore[call-overload]
    log = open_event_log(empty_postgres_url, patience=FOR_EVER)
    with pytest.raises(EventLogError, match="read-only transaction"):
        log.append(new_command(1))
    log.close()


def test_reading_pages_goes_on_where_the_connection_was_cut(empty_postgres_url: str) -> None:
    log = opened(empty_postgres_url)
    for _ in range(8):
        log.append([event for _ in range(50) for event in new_command(5)])
    positions: list[int] = []
    for page in log.records(after=0, until=log.position()):
        positions += [raw.position for raw in page]
        if len(positions) < 1000:
            end_sessions(empty_postgres_url)
    assert positions == list(range(1, log.position() + 1))
    log.close()


def test_a_full_server_is_used_through_the_open_connections(empty_postgres_url: str) -> None:
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        session.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 1")
    try:
        opened(empty_postgres_url).close()
        with psycopg.connect(empty_postgres_url, autocommit=True) as session:
            session.execute(
                "GRANT ALL ON SCHEMA deployledger TO crowded; "
                "GRANT ALL ON ALL TABLES IN SCHEMA deployledger TO crowded"
            )
        parts = urlsplit(empty_postgres_url)
        netloc = f"crowded@{parts.netloc.rpartition('@')[2]}"
        log = open_event_log(urlunsplit(parts._replace(netloc=netloc)))
        log.position()
        with impatient(log.patience), pytest.raises(DatabaseUnavailableError, match="too many connections"):
            log.statistics()
        assert log.position() == 2
        log.close()
    finally:
        with psycopg.connect(empty_postgres_url, autocommit=True) as session:
            session.execute("DROP OWNED BY crowded; DROP ROLE crowded")


# Those that wait for as long as it takes ----------------------------------------------------------------


async def test_followers_outlive_an_outage(proxy: LosingProxy) -> None:
    log = await asyncio.to_thread(opened, proxy.url)
    with log.follow(log.position()) as one, log.follow(log.position()) as other:
        blocking = asyncio.create_task(asyncio.to_thread(one.next_batch))
        waiting = asyncio.ensure_future(anext(other))
        proxy.go_down()
        with impatient(log.patience), pytest.raises(DatabaseUnavailableError):
            await asyncio.to_thread(log.position)
        proxy.come_up()
        command = new_command(1)
        await asyncio.to_thread(log.append, command)
        for batch in await asyncio.gather(blocking, waiting):
            assert batch is not None
            assert [it.event for it in batch.events] == command
    await asyncio.to_thread(log.close)


def test_a_follower_with_a_time_limit_says_that_the_database_is_away(proxy: LosingProxy) -> None:
    log = opened(proxy.url)
    with log.follow(log.position()) as follower:
        proxy.go_down()
        with impatient(log.patience), pytest.raises(DatabaseUnavailableError):
            follower.next_batch(0.1)
    log.close()


@pytest.fixture
async def working(
    proxy: LosingProxy,
) -> AsyncIterator[tuple[MLModelDeploymentService, HeldOrchestrator, list[UUID]]]:
    """A service with five jobs in progress."""
    held = HeldOrchestrator()
    held.provisioning.shut()
    service = MLModelDeploymentService(orchestrator_client=held, database_url=proxy.url, create_schema=True)
    ids = [
        (await service.deploy_model(request(deployment_name=f"iris-{it}"))).deployment_id for it in range(5)
    ]
    while held.provisioning.arrivals < len(ids):
        await asyncio.sleep(0.01)
    yield service, held, ids
    await service.close()


async def test_an_outage_of_five_jobs_is_two_lines_in_the_log(
    working: tuple[MLModelDeploymentService, HeldOrchestrator, list[UUID]],
    proxy: LosingProxy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    service, held, ids = working
    caplog.set_level(logging.WARNING)
    caplog.clear()
    watched = asyncio.create_task(service.wait_for_deployment(ids[0]))
    proxy.go_down()
    held.provisioning.open()  # what the jobs have done cannot be stored
    for _ in range(3):
        with impatient(service._models.patience), pytest.raises(DatabaseUnavailableError):
            await service.get_deployment_status(ids[0])
    proxy.come_up()
    assert (await watched).status == "active"
    for deployment_id in ids:
        assert (await service.wait_for_deployment(deployment_id)).status == "active"
    began, over = [record.getMessage() for record in caplog.records]
    assert "is unavailable: connection failed" in began
    assert "is available again" in over


async def test_reading_on_from_the_log_outlives_an_outage(
    working: tuple[MLModelDeploymentService, HeldOrchestrator, list[UUID]], proxy: LosingProxy
) -> None:
    service, held, ids = working
    reading = service.read_log(follow=True, topics=["deployment.requested", "deployment.provisioned"])
    seen = [await anext(reading) for _ in ids]
    proxy.go_down()
    held.provisioning.open()
    following = asyncio.ensure_future(anext(reading))
    with impatient(service._models.patience), pytest.raises(DatabaseUnavailableError):
        await service.list_deployments()
    proxy.come_up()
    seen += [await following, *[await anext(reading) for _ in ids[1:]]]
    assert [it.recorded.event.originator_id for it in seen[:5]] == ids
    assert {it.recorded.event.originator_id for it in seen[5:]} == set(ids)
    await reading.aclose()  # type: ignore[attr-defined]


# SQLite -------------------------------------------------------------------------------------------------


def test_a_file_that_another_process_has_locked_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    for patience, comes_back in ((0.2, False), (FOR_EVER, True)):
        log = opened(f"sqlite:///{path}", patience)
        with contextlib.closing(
            sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        ) as other:
            other.execute("BEGIN EXCLUSIVE")
            if comes_back:
                threading.Timer(0.2, other.execute, ["ROLLBACK"]).start()
                log.append(new_command(1))
            else:
                with pytest.raises(DatabaseUnavailableError, match="database is locked"):
                    log.append(new_command(1))
                other.execute("ROLLBACK")
        log.close()
