"""Stores of read models on every database."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.event_log.postgres.log import PostgresEventLog
from deployledger.adapters.event_log.postgres.schema import EVENTS
from deployledger.adapters.read_models.postgres import PostgresReadModels
from deployledger.adapters.read_models.sqlite import SQLiteReadModels
from deployledger.projections.store import ReadModelStore

OpenStore = Callable[[], ReadModelStore]


@pytest.fixture(params=["sqlite", "memory", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Open one more store on the same database; in memory there is but one."""
    with ExitStack() as stack:

        def open_postgres() -> ReadModelStore:
            log = open_event_log(request.getfixturevalue("empty_postgres_url"), create=True)
            stack.callback(log.close)
            log.position()
            assert isinstance(log, PostgresEventLog)
            return PostgresReadModels(log.database, events=EVENTS.name.as_string())

        def open_sqlite() -> ReadModelStore:
            store = SQLiteReadModels(tmp_path / "below" / "models.db")
            stack.callback(store.close)
            return store

        in_memory = SQLiteReadModels(None)
        stack.callback(in_memory.close)
        yield {"postgres": open_postgres, "sqlite": open_sqlite, "memory": lambda: in_memory}[kind]


@pytest.fixture
def store(open_store: OpenStore) -> ReadModelStore:
    return open_store()


@pytest.fixture
def by_hand(
    kind: str, store: ReadModelStore, request: pytest.FixtureRequest, tmp_path: Path
) -> Callable[..., None]:
    """Change the database as nobody should; a table's name comes after ``@``."""
    if kind == "postgres":

        def in_postgres(statement: str) -> None:
            with psycopg.connect(request.getfixturevalue("empty_postgres_url")) as session:
                session.execute(statement.replace("@", "deployledger.").encode())

        return in_postgres

    def in_sqlite(statement: str) -> None:
        if kind == "memory":
            assert isinstance(store, SQLiteReadModels)
            with store._connection() as connection:
                connection.execute(statement.replace("@", ""))
        else:
            with sqlite3.connect(tmp_path / "below" / "models.db") as connection:
                connection.execute(statement.replace("@", ""))
            connection.close()

    return in_sqlite
