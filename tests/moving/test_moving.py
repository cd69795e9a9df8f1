"""A log that moved is the same log: events, keys, root, answers; and one that goes on being used."""

import asyncio
import json
import re
import sqlite3
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.export import export_log, exporting, import_log, importing
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.merkle import EMPTY_ROOT, leaf_hash, root_of
from deployledger.domain.event_log import CommandKey, RepeatedCommandError, events_of, recorded_at, version_of
from deployledger.domain.exceptions import ConcurrencyError, ConflictError
from tests.contracts.version_1 import Database
from tests.domain.given import SERVING, fetched, history, requested
from tests.domain.given import request as wanted
from tests.moving.conftest import NewUrl, OpenLog
from tests.moving.examples import fill, keys, lines, records, serving, write

REPOSITORY = Path(__file__).parents[2]


# The same log ---------------------------------------------------------------------------------------


def test_everything_is_the_same_on_the_other_side(
    source: str, target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    log, other = open_log(source), open_log(target)
    fill(log)
    exported = export_log(log, tmp_path / "log.gz")
    imported = import_log(other, tmp_path / "log.gz")
    found = records(log)
    assert len(found) > 120
    assert records(other) == found
    assert keys(other) == keys(log)
    root = root_of([leaf_hash(encode_leaf(*record)) for record in found])
    assert exported.root == imported.root == root
    assert exported.events == imported.events == len(found)
    assert exported.keys == imported.keys == len(keys(log)) == 30
    assert exported.size_bytes == (tmp_path / "log.gz").stat().st_size
    assert not (tmp_path / "log.gz.partial").exists()


def test_a_log_comes_back_as_it_was(source: str, open_log: OpenLog, new_url: NewUrl, tmp_path: Path) -> None:
    log, other = open_log(source), open_log(new_url("sqlite"))
    fill(log, 3)
    export_log(log, tmp_path / "there.gz")
    import_log(other, tmp_path / "there.gz")
    export_log(other, tmp_path / "back.gz")
    assert lines(tmp_path / "back.gz")[1:] == lines(tmp_path / "there.gz")[1:]


def test_an_empty_log_moves_too(source: str, target: str, open_log: OpenLog, tmp_path: Path) -> None:
    assert export_log(open_log(source), tmp_path / "log.gz").root == EMPTY_ROOT
    imported = import_log(open_log(target), tmp_path / "log.gz")
    assert (imported.events, imported.keys, imported.root) == (0, 0, EMPTY_ROOT)


def test_a_log_in_memory_moves_too(open_log: OpenLog, tmp_path: Path) -> None:
    log, other = open_log("sqlite://"), open_log("sqlite://")
    fill(log, 3)
    export_log(log, tmp_path / "log.gz")
    import_log(other, tmp_path / "log.gz")
    assert (records(other), keys(other)) == (records(log), keys(log))
    other.append(serving(1))


async def answers(url: str) -> list[Any]:
    async with MLModelDeploymentService(database_url=url, run_jobs=False) as service:
        page = await service.list_deployments(limit=1000)
        found = [await service.get_deployment_status(it.deployment_id) for it in page]
        return [[it.model_dump() for it in page], [it.model_dump() for it in found]]


async def test_questions_have_the_same_answers(
    source: str, target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log(source)
    fill(log, 5)
    export_log(log, tmp_path / "log.gz")
    import_log(open_log(target), tmp_path / "log.gz")
    expected = await answers(source)
    assert len(expected[0]) == 6
    assert await answers(target) == expected


def test_a_repeated_command_is_one_on_the_other_side_too(
    source: str, target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    log, other = open_log(source), open_log(target)
    past = history(*SERVING, stream=uuid4())
    key = CommandKey("key", "fingerprint", past[0].originator_id, 4)
    log.append(past, key)
    export_log(log, tmp_path / "log.gz")
    import_log(other, tmp_path / "log.gz")
    assert other.command("key") == key
    with pytest.raises(RepeatedCommandError):
        other.append(serving(1), key)


# The tables are those of a log ----------------------------------------------------------------------


def catalog(url: str) -> list[Any]:
    """Return all that the database says about our tables."""
    database = Database(url)
    if database.is_sqlite:
        return [
            (*row[:3], " ".join(str(row[3]).replace('"', "").split()))
            for row in database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2")
        ]
    ours = "'deployledger'::regnamespace"
    queries = (
        "SELECT relname, relkind, relpersistence, reloptions, relacl::text FROM pg_class "
        f"WHERE relnamespace = {ours} ORDER BY 1",
        "SELECT tablename, indexname, indexdef FROM pg_indexes "
        "WHERE schemaname = 'deployledger' ORDER BY 1, 2",
        "SELECT conname, conrelid::regclass::text, contype::text, convalidated, pg_get_constraintdef(oid) "
        f"FROM pg_constraint WHERE connamespace = {ours} ORDER BY 1, 2",
        "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger ORDER BY 1, 2",
        f"SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = {ours} ORDER BY 1",
        f"SELECT typname, typtype::text FROM pg_type WHERE typnamespace = {ours} ORDER BY 1",
        "SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default "
        "FROM information_schema.columns WHERE table_schema = 'deployledger' ORDER BY 1, 3",
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'deployledger%%' ORDER BY 1",
    )
    return [database.execute(query) for query in queries]


def test_the_tables_are_as_they_are_created(
    target: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log(new_url("sqlite"))
    fill(log, 3)
    export_log(log, tmp_path / "log.gz")
    other = open_log(target)
    expected = catalog(target)
    import_log(other, tmp_path / "log.gz")
    assert catalog(target) == expected
    state = other.upgrade_schema()
    assert state.found == state.needed
    for statement in ("UPDATE {}.events SET actor = 'eve'", "DELETE FROM {}.events WHERE position = 2"):
        with pytest.raises((psycopg.Error, sqlite3.Error), match="events are only ever added"):
            Database(target).execute(statement)


def test_what_others_made_upon_the_tables_stays(
    target: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    log, other = open_log(new_url("sqlite")), open_log(target)
    fill(log, 3)
    export_log(log, tmp_path / "log.gz")
    database = Database(target)
    schema = "" if database.is_sqlite else "deployledger."
    database.execute(f"CREATE VIEW topics AS SELECT DISTINCT topic FROM {schema}events")
    database.execute("CREATE INDEX by_topic ON {}.events (topic)")
    if not database.is_sqlite:
        database.execute("GRANT SELECT ON {}.events TO PUBLIC")
    before = catalog(target)
    import_log(other, tmp_path / "log.gz")
    assert catalog(target) == before
    assert (records(other), keys(other)) == (records(log), keys(log))
    assert ("library.event",) in database.execute("SELECT topic FROM topics")
    other.append(serving(1))


# Others who use the databases meanwhile -------------------------------------------------------------


async def test_who_has_the_target_open_goes_on_with_what_was_imported(
    target: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log(new_url("sqlite"))
    log.append(serving(5))
    log.append(history(requested(), stream=uuid4()), CommandKey("moved", "fingerprint", uuid4(), 1))
    export_log(log, tmp_path / "log.gz")
    other = open_event_log(target, create=True, pool_size=3)  # with connections and plans of its own
    other.create_schema()
    async with MLModelDeploymentService(database_url=target, resume=False) as service:
        unknown = uuid4()
        for _ in range(8):  # so often that plans are kept
            assert list(await service.list_deployments()) == []
            assert version_of(service.event_log, unknown) == 0
            assert service.event_log.command("key") is None
        with pytest.raises(ConcurrencyError):  # the plan of the append, with nothing appended
            service.event_log.append(history(requested(), fetched(), stream=uuid4())[1:])
        with service.event_log.follow() as follower:
            assert follower.next_batch(0.05) is None
            await asyncio.to_thread(import_log, other, tmp_path / "log.gz")
            batch = await asyncio.to_thread(follower.next_batch, 10)
        assert batch is not None
        assert [it.event for it in batch.events[:4]] == events_of(log, batch.events[0].event.originator_id)
        end = log.position()
        page = await service.list_deployments()
        assert len(page) == 6
        accepted = await service.deploy_model(wanted(deployment_name="behind"), idempotency_key="new")
        assert (await service.get_deployment_status(accepted.deployment_id)).deployment_name == "behind"
        assert service.event_log.position() > end
        assert records(other)[:end] == records(log)
        assert service.event_log.command("moved") is not None
        assert version_of(service.event_log, page[0].deployment_id) == 4
    other.close()


def test_what_is_added_during_an_export_is_not_in_it(
    source: str, target: str, open_log: OpenLog, tmp_path: Path
) -> None:
    log, other = open_log(source), open_log(target)
    fill(log, 100)
    before, keys_before = records(log), keys(log)

    def add(doing: str, done: int, total: int, /) -> None:
        past = serving(1)
        log.append(past, CommandKey(f"later {done}", "f", past[0].originator_id, 4))

    exported = export_log(log, tmp_path / "log.gz", progress=add)
    assert exported.events == len(before) < log.position()
    import_log(other, tmp_path / "log.gz")
    assert (records(other), keys(other)) == (before, keys_before)


def test_a_log_that_has_events_is_refused(target: str, open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(target)
    log.append(serving(2))
    export_log(log, tmp_path / "log.gz")
    before = records(log)
    with pytest.raises(ConflictError, match=r"has 8 events; only a log that has none"):
        import_log(log, tmp_path / "log.gz")
    assert records(log) == before


def test_a_command_that_comes_during_an_import_is_stored_behind_it(
    target: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    log, other = open_log(new_url("sqlite")), open_log(target)
    fill(log, 3)
    export_log(log, tmp_path / "log.gz")
    meanwhile = serving(1)
    waiting = threading.Thread(target=other.append, args=(meanwhile,))

    def add(doing: str, done: int, total: int, /) -> None:
        assert other.position() == 0
        if doing == "Checking":
            waiting.start()

    import_log(other, tmp_path / "log.gz", progress=add)
    waiting.join()
    assert events_of(other, meanwhile[0].originator_id) == meanwhile
    assert records(other)[: log.position()] == records(log)
    assert other.position() == log.position() + 4


def test_of_two_imports_the_second_is_refused(
    target: str, new_url: NewUrl, open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_PATIENCE_SECONDS", 0.1)
    log, other = open_log(new_url("sqlite")), open_log(target)
    fill(log, 3)
    export_log(log, tmp_path / "log.gz")
    second = open_event_log(target, pool_size=2)
    refused: list[ConflictError] = []

    def import_too(doing: str, done: int, total: int, /) -> None:
        if doing == "Checking":
            with pytest.raises(ConflictError, match="Another import into") as refusal:
                import_log(second, tmp_path / "log.gz")
            refused.append(refusal.value)

    import_log(other, tmp_path / "log.gz", progress=import_too)
    second.close()
    assert refused
    assert records(other) == records(log)


# The file -------------------------------------------------------------------------------------------


def test_of_two_exports_into_a_file_the_second_is_refused(
    new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log(new_url("sqlite"))
    fill(log, 3)

    def export_too(doing: str, done: int, total: int, /) -> None:
        with pytest.raises(ConflictError, match="Another export to"):
            export_log(log, tmp_path / "log.gz")

    export_log(log, tmp_path / "log.gz", progress=export_too)
    assert json.loads(lines(tmp_path / "log.gz")[-1])["events"] == log.position()


def test_a_file_is_written_over_only_when_that_is_said(
    new_url: NewUrl, open_log: OpenLog, tmp_path: Path
) -> None:
    log = open_log(new_url("sqlite"))
    file = tmp_path / "log.gz"
    file.write_text("mine")
    with pytest.raises(ConflictError, match="already"):
        export_log(log, file)
    assert file.read_text() == "mine"
    log.append(serving(1))
    assert export_log(log, file, replace=True).events == 4
    assert len(lines(file)) == 6
    assert file.stat().st_mode & 0o777 == 0o600


def test_lines_are_what_they_are_documented_to_be(new_url: NewUrl, open_log: OpenLog, tmp_path: Path) -> None:
    log = open_log(new_url("sqlite"))
    fill(log, 1)
    export_log(log, tmp_path / "log.gz")
    header, *events, key, trailer = [json.loads(line) for line in lines(tmp_path / "log.gz")]
    assert (header["format"], header["version"], header["until"]) == ("deployledger-log", 1, len(events))
    first = events[0]
    assert list(first) == [
        "position", "stream_id", "stream_version", "topic", "recorded_at", "event_id", "actor",
        "correlation_id", "causation_id", "state",
    ]  # fmt: skip
    assert (first["position"], first["stream_version"], first["actor"]) == (1, 1, "ann")
    assert first["recorded_at"] == recorded_at(log, 1).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # type: ignore[union-attr]
    assert first["state"].encode() == records(log)[0].state
    assert [it["state_base64"] for it in events if "state" not in it] == ["//4AIG5vIHRleHQ="]
    assert list(key) == ["key", "fingerprint", "deployment_id", "version", "recorded_at"]
    assert list(trailer) == ["events", "keys", "root"]


def test_the_example_in_the_documentation_is_one(target: str, open_log: OpenLog, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "moving.md").read_text()
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert example is not None
    log = open_log(target)
    imported = import_log(log, write(tmp_path / "log.gz", example[1].encode().splitlines()))
    assert (imported.events, imported.keys) == (2, 1)
    assert [record.state for record in records(log)] == [b'{"name":"iris"}', b"\xff"]


def test_an_export_of_several_members_is_one_log(
    new_url: NewUrl, open_log: OpenLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_LINES_PER_MEMBER", 7)
    log: DatabaseEventLog = open_log(new_url("sqlite"))
    other = open_log(new_url("sqlite"))
    fill(log)
    export_log(log, tmp_path / "log.gz")
    import_log(other, tmp_path / "log.gz")
    assert (records(other), keys(other)) == (records(log), keys(log))
