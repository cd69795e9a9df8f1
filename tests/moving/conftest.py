"""Databases by the kind, logs with everything that a log may have, and what is compared after a move."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log

NewUrl = Callable[[str], str]
OpenLog = Callable[[str], DatabaseEventLog]

KINDS = ["sqlite", "postgres"]


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewUrl]:
    """Return what gives the URL of a fresh database of a kind."""
    with ExitStack() as end:

        def new(kind: str) -> str:
            name = f"move_{uuid4().hex}"
            if kind == "sqlite":
                return f"sqlite:///{tmp_path / name}.db"
            server: str = request.getfixturevalue("postgres_url")
            database = sql.Identifier(name)

            def execute(statement: str) -> None:
                with psycopg.connect(server, autocommit=True) as session:
                    session.execute(sql.SQL(statement).format(database))

            execute("CREATE DATABASE {}")
            end.callback(execute, "DROP DATABASE {} WITH (FORCE)")
            return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))

        yield new


@pytest.fixture
def open_log() -> Iterator[OpenLog]:
    """Return what opens a log, creates its schema, and closes it at the end."""
    with ExitStack() as end:

        def opened(url: str) -> DatabaseEventLog:
            log = open_event_log(url, create=True)
            end.callback(log.close)
            log.create_schema()
            return log

        yield opened


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, new_url: NewUrl) -> str:
    """A database to export from."""
    return new_url(request.param)


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, new_url: NewUrl) -> str:
    """A database to import into."""
    return new_url(request.param)
