"""The connection breaks between the commit and its answer: nobody was told, and yet it is stored."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.domain.event_log import CommandKey, EventLog, RepeatedCommandError, events_of
from deployledger.domain.exceptions import ConcurrencyError
from tests.domain.given import history, requested
from tests.faults.audit import assert_whole, new_command, rows
from tests.faults.proxy import LosingProxy, losing_proxy


@pytest.fixture
def proxy(empty_postgres_url: str) -> Iterator[LosingProxy]:
    with losing_proxy(empty_postgres_url) as proxy:
        yield proxy


@pytest.fixture
def log(proxy: LosingProxy) -> Iterator[EventLog]:
    log = open_event_log(proxy.url, create=True)
    log.append(new_command(1))
    yield log
    log.close()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_command_with_a_lost_answer_is_acknowledged_and_stored_once(
    times: int, log: EventLog, proxy: LosingProxy, empty_postgres_url: str
) -> None:
    proxy.lose_answers(times)
    command = new_command(3)
    log.append(command)
    assert proxy.lost == times
    assert events_of(log, command[0].originator_id) == command
    assert_whole(rows(empty_postgres_url), [command[0].originator_id])


def test_a_command_that_was_lost_before_the_commit_is_given_again(
    log: EventLog, proxy: LosingProxy, empty_postgres_url: str
) -> None:
    proxy.lose_requests(2)
    command = new_command(3)
    log.append(command)
    assert proxy.lost == 2
    assert_whole(rows(empty_postgres_url), [command[0].originator_id])


def test_a_key_whose_answer_was_lost_is_not_a_repetition(log: EventLog, proxy: LosingProxy) -> None:
    first, second = new_command(2), new_command(2)
    key = CommandKey("key", "fingerprint", first[0].originator_id, 2)
    proxy.lose_answers(1)
    log.append(first, key)
    assert proxy.lost == 1
    assert log.command("key") == key
    with pytest.raises(RepeatedCommandError) as repeated:
        log.append(second, CommandKey("key", "fingerprint", second[0].originator_id, 2))
    assert repeated.value.first == key


async def test_each_command_of_a_batch_with_a_lost_answer_has_its_own_outcome(
    log: EventLog, proxy: LosingProxy, empty_postgres_url: str
) -> None:
    taken = uuid4()
    log.append(history(requested(), stream=taken))
    good = [new_command(number % 3 + 1) for number in range(100)]
    bad = [history(requested(), stream=taken) for _ in range(10)]
    proxy.lose_answers(3)
    outcomes = await asyncio.gather(
        *(log.append_async(command) for pair in zip(good[:10], bad, strict=True) for command in pair),
        *(log.append_async(command) for command in good[10:]),
        return_exceptions=True,
    )
    assert proxy.lost == 3
    refused = [it for it in outcomes if it is not None]
    assert [type(it) for it in refused] == [ConcurrencyError] * len(bad)
    log_rows = rows(empty_postgres_url)
    assert [row.stream for row in log_rows].count(taken) == 1
    for command in good:
        assert events_of(log, command[0].originator_id) == command
    positions = [row.position for row in log_rows]
    assert positions == list(range(1, len(log_rows) + 1))


def test_a_server_that_ends_the_connection_while_it_commits_tells_no_lie(empty_postgres_url: str) -> None:
    # A deferred trigger ends the writer's own session in the middle of COMMIT, once.
    log = open_event_log(empty_postgres_url, create=True)
    log.append(new_command(1))
    with psycopg.connect(empty_postgres_url) as session:
        session.execute("CREATE SEQUENCE commits")
        session.execute(
            """CREATE FUNCTION end_session() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('commits') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
            RETURN NULL; END $$"""
        )
        session.execute(
            "CREATE CONSTRAINT TRIGGER end_session AFTER INSERT ON deployledger.events "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION end_session()"
        )
    command = new_command(3)
    log.append(command)
    assert_whole(rows(empty_postgres_url), [command[0].originator_id])
    log.close()
