"""The library's own cases, on our recorders: its applications can use our tables."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import PersistenceError, ProgrammingError, StoredEvent
from eventsourcing.postgres import PostgresDatastore, PostgresTrackingRecorder
from eventsourcing.sqlite import SQLiteDatastore, SQLiteTrackingRecorder
from eventsourcing.tests.persistence import (
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
    ProcessRecorderTestCase,
    TrackingRecorderTestCase,
)
from psycopg.conninfo import conninfo_to_dict

from deployledger.adapters.event_log.postgres.recorders import (
    PostgresLogProcessRecorder,
    PostgresLogRecorder,
)
from deployledger.adapters.event_log.sqlite.recorders import SQLiteLogProcessRecorder, SQLiteLogRecorder


def postgres_datastore(url: str, **options: Any) -> PostgresDatastore:
    datastore = PostgresDatastore("", "", "", "", "", pool_size=1, max_overflow=15, **options)
    assert isinstance(datastore.pool.kwargs, dict)
    for name in ("dbname", "host", "port", "user", "password"):
        datastore.pool.kwargs.pop(name)
    datastore.pool.kwargs.update(conninfo_to_dict(url))
    return datastore


class OnSQLite:
    """A fresh SQLite file for each test."""

    datastore: SQLiteDatastore

    @pytest.fixture(autouse=True)
    def _with_datastore(self, tmp_path: Path) -> Iterator[None]:
        self.datastore = SQLiteDatastore(str(tmp_path / "library.db"))
        before = set(threading.enumerate())
        yield
        # The library's cases do not wait for their readers, which must not lose the file while they read.
        for thread in set(threading.enumerate()) - before:
            thread.join(60)
        self.datastore.close()

    def new_originator_id(self) -> UUID:
        return uuid4()


class OnPostgres:
    """A fresh PostgreSQL database for each test."""

    datastore: PostgresDatastore

    @pytest.fixture(autouse=True)
    def _with_datastore(self, empty_postgres_url: str) -> Iterator[None]:
        self.datastore = postgres_datastore(empty_postgres_url)
        yield
        self.datastore.close()

    def new_originator_id(self) -> UUID:
        return uuid4()


def created(recorder: Any) -> Any:
    recorder.create_table()
    return recorder


class TestSQLiteApplicationRecorder(OnSQLite, ApplicationRecorderTestCase[SQLiteLogRecorder]):
    def create_recorder(self) -> SQLiteLogRecorder:
        return created(SQLiteLogRecorder(self.datastore))

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestSQLiteProcessRecorder(OnSQLite, ProcessRecorderTestCase):
    def create_recorder(self) -> SQLiteLogProcessRecorder:
        return created(SQLiteLogProcessRecorder(self.datastore))


class TestSQLiteTrackingRecorder(OnSQLite, TrackingRecorderTestCase):
    def create_recorder(self) -> SQLiteTrackingRecorder:
        return created(SQLiteLogProcessRecorder(self.datastore))


class TestSQLiteNonInterleaving(OnSQLite, NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> SQLiteLogRecorder:
        return created(SQLiteLogRecorder(self.datastore))


class TestPostgresApplicationRecorder(OnPostgres, ApplicationRecorderTestCase[PostgresLogRecorder]):
    def create_recorder(self) -> PostgresLogRecorder:
        return created(PostgresLogRecorder(self.datastore, events_table_name="library_events"))

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestPostgresProcessRecorder(OnPostgres, ProcessRecorderTestCase):
    def create_recorder(self) -> PostgresLogProcessRecorder:
        return created(PostgresLogProcessRecorder(self.datastore, events_table_name="library_events"))


class TestPostgresTrackingRecorder(OnPostgres, TrackingRecorderTestCase):
    def create_recorder(self) -> PostgresTrackingRecorder:
        return created(PostgresLogProcessRecorder(self.datastore, events_table_name="library_events"))


class TestPostgresNonInterleaving(OnPostgres, NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> PostgresLogRecorder:
        return created(PostgresLogRecorder(self.datastore, events_table_name="library_events"))


# Whole applications of the library ------------------------------------------------------------------


class Dog(Aggregate):
    @event("Named")
    def __init__(self, name: str) -> None:
        self.name = name
        self.tricks: list[str] = []

    @event("TrickAdded")
    def add_trick(self, trick: str) -> None:
        self.tricks.append(trick)


def use_application(environment: dict[str, str]) -> None:
    with Application[UUID](environment) as application:
        dog = Dog("Rex")
        application.save(dog)
        dog.add_trick("roll over")
        application.save(dog)
        assert application.repository.get(dog.id).tricks == ["roll over"]
        assert [it.id for it in application.notification_log.select(1, 10)] == [1, 2]


def test_an_application_on_sqlite(tmp_path: Path) -> None:
    use_application(
        {
            "PERSISTENCE_MODULE": "deployledger.adapters.event_log.sqlite.recorders",
            "SQLITE_DBNAME": str(tmp_path / "application.db"),
        }
    )


def test_an_application_on_postgresql(empty_postgres_url: str) -> None:
    parameters = conninfo_to_dict(empty_postgres_url)
    use_application(
        {
            "PERSISTENCE_MODULE": "deployledger.adapters.event_log.postgres.recorders",
            "POSTGRES_DBNAME": str(parameters["dbname"]),
            "POSTGRES_HOST": str(parameters["host"]),
            "POSTGRES_PORT": str(parameters.get("port", 5432)),
            "POSTGRES_USER": str(parameters.get("user", "postgres")),
            "POSTGRES_PASSWORD": str(parameters.get("password") or ""),
        }
    )


# What is ours ---------------------------------------------------------------------------------------


def test_the_library_s_database_functions_are_refused(empty_postgres_url: str) -> None:
    datastore = postgres_datastore(empty_postgres_url, enable_db_functions=True)
    with pytest.raises(ProgrammingError, match="POSTGRES_ENABLE_DB_FUNCTIONS is refused"):
        PostgresLogRecorder(datastore)
    datastore.close()


STORED = StoredEvent(uuid4(), 1, "topic", b"state")


@pytest.mark.parametrize("statement", ["UPDATE {} SET topic = 'other'", "DELETE FROM {}"])
def test_events_on_sqlite_can_only_be_added(tmp_path: Path, statement: str) -> None:
    datastore = SQLiteDatastore(str(tmp_path / "library.db"))
    recorder = created(SQLiteLogRecorder(datastore))
    recorder.insert_events([STORED])
    with (
        sqlite3.connect(tmp_path / "library.db") as connection,
        pytest.raises(sqlite3.IntegrityError, match="only ever added"),
    ):
        connection.execute(statement.format("stored_events"))
    assert len(recorder.select_events(STORED.originator_id)) == 1
    datastore.close()


@pytest.mark.parametrize("statement", ["UPDATE {} SET topic = 'other'", "DELETE FROM {}", "TRUNCATE {}"])
def test_events_on_postgresql_can_only_be_added(empty_postgres_url: str, statement: str) -> None:
    datastore = postgres_datastore(empty_postgres_url)
    recorder = created(PostgresLogRecorder(datastore, events_table_name="library_events"))
    recorder.insert_events([STORED])
    with (
        psycopg.connect(empty_postgres_url) as connection,
        pytest.raises(psycopg.errors.RaiseException, match="only ever added"),
    ):
        connection.execute(statement.format("public.library_events"))
    assert len(recorder.select_events(STORED.originator_id)) == 1
    datastore.close()


def test_errors_are_the_library_s(tmp_path: Path) -> None:
    datastore = SQLiteDatastore(str(tmp_path / "library.db"))
    with pytest.raises(PersistenceError):
        SQLiteLogRecorder(datastore).insert_events([STORED])
    datastore.close()
