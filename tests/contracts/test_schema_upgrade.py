"""Databases of the version before are upgraded, with every event in its place, or left as they are."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import groupby
from uuid import uuid4

import psycopg
import pytest
from eventsourcing.persistence import StoredEvent

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.event_log.mapper import EventMapper
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import EventLogError, NameInUseError
from deployledger.domain.responses import DeploymentStatusResponse
from deployledger.projections import status
from tests.contracts.reading import page
from tests.contracts.version_1 import Database, Stored, load_version_1
from tests.domain.given import SERVING, history, request
from tests.e2e.conftest import CommandLine

# What version 1 answered for its deployments: name, status, newest revision and version.
ANSWERS = {
    "Renamed": ("active", 3, 12),
    "Gone": ("inactive", 1, 6),
    "Batch": ("inactive", 1, 5),
    "Failing": ("failed", 1, 4),
    "Cancelled": ("inactive", 1, 2),
}

OpenLog = Callable[[], DatabaseEventLog]


@pytest.fixture
def database(database_url: str) -> Database:
    """A database that version 1 filled, once of each kind."""
    return load_version_1(database_url)


@pytest.fixture
def open_log(database_url: str) -> Iterator[OpenLog]:
    """Open one more log on the test's database."""
    opened: list[DatabaseEventLog] = []

    def open_one_more() -> DatabaseEventLog:
        opened.append(open_event_log(database_url, create=True))
        return opened[-1]

    yield open_one_more
    for log in opened:
        log.close()


@pytest.fixture
def cli(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A command line on the test's database."""
    return CommandLine(tmp_path_factory.mktemp("home"), {"DEPLOYLEDGER_DATABASE_URL": database_url})


def is_untouched(database: Database, before: list[Stored]) -> bool:
    return database.version() == 1 and database.version_1_rows() == before


# What is kept ---------------------------------------------------------------------------------------


def test_an_old_database_says_how_it_is_upgraded(database: Database, open_log: OpenLog) -> None:
    before = database.version_1_rows()
    for use in (DatabaseEventLog.position, DatabaseEventLog.create_schema, DatabaseEventLog.statistics):
        with pytest.raises(EventLogError, match=r"has schema version 1; .* needs version 2") as refusal:
            use(open_log())
        assert "`deployledger db upgrade`" in refusal.value.hint
    with pytest.raises(EventLogError):
        open_log().append(history(*SERVING, stream=uuid4()))
    assert is_untouched(database, before)


def test_every_event_is_kept_in_its_place(database: Database, open_log: OpenLog) -> None:
    before = database.version_1_rows()
    assert len(before) == 37
    state = open_log().upgrade_schema()
    assert (state.found, state.needed, database.version()) == (2, 2, 2)
    rows = database.version_2_rows()
    assert [row.stored for row in rows] == before
    assert [row.position for row in rows] == list(range(1, 38))


def test_the_metadata_is_that_of_the_events(database: Database, open_log: OpenLog) -> None:
    open_log().upgrade_schema()
    latest = 0.0
    for row in database.version_2_rows():
        fields = row.stored.fields
        assert str(row.event_id) == fields["event_id"]
        assert row.actor == fields["actor"]
        assert str(row.correlation_id) == fields["correlation_id"]
        assert row.causation_id == (fields["causation_id"] and type(row.event_id)(fields["causation_id"]))
        latest = max(latest, datetime.fromisoformat(fields["timestamp"]).timestamp())
        assert row.recorded_at == pytest.approx(latest, abs=1e-6)


def test_the_time_of_recording_never_falls_though_clocks_did(database: Database, open_log: OpenLog) -> None:
    last = database.version_1_rows()[-1]
    early = last.state.replace(b'"timestamp":"2026-', b'"timestamp":"2001-')
    database.add_version_1_row(last._replace(originator_id=uuid4(), originator_version=1, state=early))
    open_log().upgrade_schema()
    times = [row.recorded_at for row in database.version_2_rows()]
    assert times == sorted(times)
    assert times[-1] == times[-2]


def test_the_log_reads_and_goes_on_behind_the_last_event(database: Database, open_log: OpenLog) -> None:
    before = database.version_1_rows()
    log = open_log()
    log.upgrade_schema()
    recorded = page(log)
    assert [it.position for it in recorded] == list(range(1, 38))
    assert [it.event for it in recorded] == [decoded(stored) for stored in before]
    added = history(*SERVING, stream=uuid4())
    log.append(added)
    assert [it.position for it in page(log, after=37)] == [38, 39, 40, 41]
    assert log.statistics().events == 41


def test_what_json_can_say_and_the_database_cannot_is_kept(database: Database, open_log: OpenLog) -> None:
    last = database.version_1_rows()[-1]
    odd = last.state.replace(b'"revision":', rb'"note":"\u0000 \\u0000 \\\u0000 \" \ud83d\ude00","revision":')
    database.add_version_1_row(last._replace(originator_id=uuid4(), originator_version=1, state=odd))
    open_log().upgrade_schema()
    assert database.version_2_rows()[-1].stored.state == odd


def decoded(stored: Stored) -> object:
    return EventMapper().to_domain_event(StoredEvent(*stored))


TOLD = {"timestamp", "actor", "revision", "event_id", "correlation_id", "causation_id", "topic", "data"}


def told(event: DeploymentEvent) -> dict[str, object]:
    """Return what the entry of an event says that is in the event itself."""
    fields = {name: getattr(event, name) for name in TOLD - {"topic", "data"}}
    return {**fields, "topic": event.TOPIC, "data": event.model_dump(mode="json", exclude=set(fields))}


def answers_of(before: list[Stored]) -> dict[str, tuple[DeploymentStatusResponse, list[dict[str, object]]]]:
    """Return what there is to say about each deployment, from its events alone."""
    ours = [event for event in map(decoded, before) if isinstance(event, DeploymentEvent)]
    ours.sort(key=lambda event: (str(event.originator_id), event.originator_version))
    answers = {}
    for _, events in groupby(ours, key=lambda event: event.originator_id):
        past = list(events)
        answer = status.respond(status.fold(past))
        answers[answer.deployment_name] = (answer, [told(event) for event in past])
    return answers


async def test_deployments_answer_as_before(database: Database, open_log: OpenLog) -> None:
    expected = answers_of(database.version_1_rows())
    assert {name: (it.status, it.revision, it.version) for name, (it, _) in expected.items()} == ANSWERS
    open_log().upgrade_schema()
    async with MLModelDeploymentService(database_url=database.url, run_jobs=False) as service:
        listed = await service.list_deployments(include_deleted=True)
        assert {it.deployment_name: it for it in listed} == {name: it for name, (it, _) in expected.items()}
        for answer, entries in expected.values():
            assert await service.get_deployment_status(answer.deployment_id) == answer
            history = await service.get_deployment_history(answer.deployment_id)
            assert [it.model_dump(include=TOLD) for it in history] == entries
            assert [it.version for it in history] == list(range(1, len(history) + 1))


async def test_names_stay_reserved_and_commands_go_on(database: Database, open_log: OpenLog) -> None:
    open_log().upgrade_schema()
    async with MLModelDeploymentService(database_url=database.url) as service:
        for name in ("Renamed", "Batch", "Failing", "Cancelled"):
            with pytest.raises(NameInUseError):
                await service.deploy_model(request(deployment_name=name))
        for name in ("Serving", "Gone"):  # the first was renamed, the second deleted
            await service.deploy_model(request(deployment_name=name))
        old = await service.find_deployment("Renamed")
        await service.rollback_deployment(old.deployment_id, 2, expected_version=12)
        assert (await service.wait_for_deployment(old.deployment_id, 20)).revision == 4


# Once, whatever happens -----------------------------------------------------------------------------


def test_upgrading_again_changes_nothing(database: Database, open_log: OpenLog) -> None:
    log = open_log()
    first = log.upgrade_schema()
    rows = database.version_2_rows()
    assert log.upgrade_schema() == first
    assert open_log().upgrade_schema() == first
    assert open_log().create_schema() == first
    assert database.version_2_rows() == rows


def test_upgrades_at_the_same_time_make_one(database: Database, open_log: OpenLog) -> None:
    before = database.version_1_rows()
    logs = [open_log() for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        states = list(threads.map(DatabaseEventLog.upgrade_schema, logs))
    assert {state.found for state in states} == {2}
    assert [row.stored for row in database.version_2_rows()] == before


def test_two_processes_upgrade_at_the_same_time(database: Database, cli: CommandLine) -> None:
    before = database.version_1_rows()
    processes = [cli.start("db", "upgrade") for _ in range(2)]
    for process in processes:
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert "is ready (schema version 2)" in stdout
    assert [row.stored for row in database.version_2_rows()] == before


@pytest.mark.parametrize(
    "state", [b"not JSON", b"{}", b"[]", b'{"event_id": "x", "timestamp": "y"}', b"\xff"]
)
def test_an_event_that_cannot_be_upgraded_leaves_the_database_as_it_is(
    database: Database, open_log: OpenLog, state: bytes
) -> None:
    last = database.version_1_rows()[-1]
    database.add_version_1_row(last._replace(originator_id=uuid4(), originator_version=1, state=state))
    before = database.version_1_rows()
    with pytest.raises(EventLogError):
        open_log().upgrade_schema()
    assert is_untouched(database, before)


# Both upgrades end with dropping the old table: the process is killed there, by itself.
KILLED_AT_THE_END = """
import os, signal, sqlite3, sys
import psycopg
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.event_log.postgres import schema as postgres_schema
from deployledger.adapters.event_log.sqlite import schema as sqlite_schema

def killed(connection, query, run):
    text = query if isinstance(query, str) else query.as_string(connection)
    if text.startswith("DROP TABLE"):
        os.kill(os.getpid(), signal.SIGKILL)
    return run()

class Killed(sqlite3.Connection):
    def execute(self, query, *values):
        return killed(self, query, lambda: super(Killed, self).execute(query, *values))

connect = sqlite3.connect
sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Killed, **options)
execute = psycopg.Connection.execute
psycopg.Connection.execute = lambda self, query, *values, **options: killed(
    self, query, lambda: execute(self, query, *values, **options)
)
open_event_log(sys.argv[1]).upgrade_schema()
"""


def test_a_process_killed_in_the_middle_leaves_the_database_as_it_is(
    database: Database, open_log: OpenLog
) -> None:
    before = database.version_1_rows()
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_THE_END, database.url], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert is_untouched(database, before)
    open_log().upgrade_schema()
    assert [row.stored for row in database.version_2_rows()] == before


# Newer ones, and the command line -------------------------------------------------------------------


def test_a_newer_database_is_refused(database: Database, open_log: OpenLog) -> None:
    open_log().upgrade_schema()
    rows = database.version_2_rows()
    database.set_version(3)
    for use in (
        DatabaseEventLog.position,
        DatabaseEventLog.create_schema,
        DatabaseEventLog.upgrade_schema,
        lambda log: log.append(history(*SERVING, stream=uuid4())),
    ):
        with pytest.raises(EventLogError, match=r"has schema version 3; .* knows version 2") as refusal:
            use(open_log())
        assert refusal.value.hint == "Upgrade deployledger."
    assert database.version_2_rows() == rows
    assert database.version() == 3


def test_the_command_line_looks_after_the_schema(database: Database, cli: CommandLine) -> None:
    old = cli.json("db", "check", exit_code=1)
    assert (old["found"], old["needed"], old["ready"]) == (1, 2, False)
    refused = cli.run("db", "init")
    assert refused.returncode == 1
    assert "deployledger db upgrade" in refused.stderr
    upgraded = cli.json("db", "upgrade")
    assert (upgraded["found"], upgraded["needed"], upgraded["ready"]) == (2, 2, True)
    checked = cli.json("db", "check")
    assert {name: checked[name] for name in upgraded} == upgraded
    assert {it["outcome"] for it in checked["findings"]} == {"ok"}
    database.set_version(3)
    assert cli.json("db", "check", exit_code=1)["found"] == 3
    too_new = cli.run("db", "upgrade")
    assert too_new.returncode == 1
    assert "Upgrade deployledger." in too_new.stderr


def test_the_command_line_makes_the_schema(cli: CommandLine) -> None:
    nothing = cli.json("db", "check", exit_code=1)
    assert (nothing["found"], nothing["needed"], nothing["ready"]) == (0, 2, False)
    refused = cli.run("db", "upgrade")
    assert refused.returncode == 1
    assert "deployledger db init" in refused.stderr
    made = cli.json("db", "init")
    del nothing["findings"]
    assert made == {**nothing, "found": 2, "ready": True}
    assert cli.json("db", "init") == made
    assert "is ready (schema version 2)" in cli.run("db", "check").stdout


# Events are only ever added -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["created", "upgraded"])
def test_the_database_itself_refuses_to_change_events(way: str, database_url: str, open_log: OpenLog) -> None:
    if way == "upgraded":
        load_version_1(database_url)
    log = open_log()
    _ = log.upgrade_schema() if way == "upgraded" else log.create_schema()
    log.append(history(*SERVING, stream=uuid4()))
    database = Database(database_url)
    rows = database.version_2_rows()
    statements = [
        "UPDATE {}.events SET actor = 'eve'",
        "UPDATE {}.events SET state = '{{}}' WHERE position = 1",
        "DELETE FROM {}.events WHERE position = 2",
        "DELETE FROM {}.events",
    ]
    if not database.is_sqlite:
        statements.append("TRUNCATE {}.events")
    for statement in statements:
        with pytest.raises((psycopg.Error, sqlite3.Error), match="events are only ever added"):
            database.execute(statement)
    assert database.version_2_rows() == rows
