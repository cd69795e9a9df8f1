"""A PostgreSQL database: sessions as ours are, and one pool of them for all who use it in a process."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from eventsourcing.postgres import PostgresDatastore
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.redaction import without_credentials

Session = Connection[Any]

SCHEMA = "deployledger"
"""The schema that everything of ours is in."""

_CONNECT_TIMEOUT_SECONDS = 5
_READ_ATTEMPTS = 3
# A second "@", or a "/" before it, is of a password: the driver would take its rest for a host.
_URL = re.compile(r"postgres(?:ql)?://(?:[^@/]*+@[^@?]*+|[^@?]*+)(?:\?.*)?", re.DOTALL)
_PORTS = re.compile(r"[0-9]{0,5}(?:,[0-9]{0,5})*")  # one for each host

_SESSION_SETTINGS = """
    SET default_transaction_isolation TO 'read committed';
    SET datestyle TO 'ISO';
    SET timezone TO 'UTC';
    SET array_nulls TO on;
    SET row_security TO off;
    SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(
        ', ', 'pg_catalog', NULLIF(pg_catalog.current_setting('search_path'), '')), false)
"""
"""What must hold in every session, whatever the defaults of the database and the user are.

Positions and the schema's version are right only if each statement sees what was committed before it; the
driver reads dates of one style only. The server's own functions and operators come before those of others,
and a policy that would hide rows from this user is an error, not a shorter answer.
"""

DENIED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)
"""What a database raises for who may read and not write: without the rights, or on a standby server."""

_T = TypeVar("_T")


def reason(error: BaseException) -> str:
    """Return what an error says in one line, without credentials and without the statement."""
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join(without_credentials(said or str(error)).split()).rstrip(".?")


def advice(error: BaseException) -> str:
    """Return what to do about an error."""
    if isinstance(error, DENIED):
        return (
            "The database's user lacks a right for this. `deployledger db check` names the GRANTs that a "
            "service needs; what creates tables, as a rebuild does, is for the owner of the schema. "
            "docs/database.md lists the rights of every role."
        )
    return "Check that the database is there, reachable and writable, and try again."


class _Datastore(PostgresDatastore):
    """The library's datastore, with sessions as ours are."""

    def after_connect_func(self) -> Callable[[psycopg.Connection[Any]], None]:
        """Return what is done with every new connection."""
        after_connect = super().after_connect_func()

        def with_settings(connection: psycopg.Connection[Any]) -> None:
            after_connect(connection)
            connection.execute(_SESSION_SETTINGS)

        return with_settings


def _described(parameters: Mapping[str, Any]) -> str:
    """Return which database it is, without user and password."""
    host = str(parameters.get("host") or "")
    port = f":{parameters['port']}" if parameters.get("port") else ""
    path = parameters.get("dbname") or ""
    if host.startswith("/"):
        return f"postgresql://{port}/{path}?host={host}"
    return f"postgresql://{host}{port}/{path}"


def _parsed(url: str) -> dict[str, Any]:
    parameters: dict[str, Any] | None = None
    if _URL.fullmatch(url):
        with suppress(psycopg.ProgrammingError, ValueError):
            parameters = dict(conninfo_to_dict(url))
    if parameters is None or not _PORTS.fullmatch(str(parameters.get("port", ""))):
        # Neither the URL nor the driver's message is shown: a part of the password may be in either.
        raise ConfigurationError(
            "The database URL that begins with 'postgresql://' is malformed.",
            hint=(
                "It reads postgresql://user:password@host:port/database; in the password, write @ as %40, "
                "/ as %2F and : as %3A."
            ),
        )
    return parameters


class PostgresDatabase:
    """One database on a PostgreSQL server. Nothing is connected before it is needed.

    Args:
        url: ``postgresql://user:password@host:port/database``.
        pool_size: how many sessions the pool has, at most.

    Raises:
        ConfigurationError: if the URL is malformed.
    """

    def __init__(self, url: str, pool_size: int) -> None:
        self._parameters = _parsed(url)
        self.described_as = _described(self._parameters)
        self._parameters.setdefault("connect_timeout", _CONNECT_TIMEOUT_SECONDS)
        self._parameters.setdefault("application_name", "deployledger")
        self._parameters["client_encoding"] = "UTF8"
        self._pool_size = pool_size
        self._datastore: PostgresDatastore | None = None

    @property
    def is_open(self) -> bool:
        """Whether the pool is open."""
        return self._datastore is not None

    def session(self) -> Session:
        """Return a new session outside the pool, which commits each statement by itself."""
        session: Session = psycopg.connect(**self._parameters, autocommit=True)
        session.execute(_SESSION_SETTINGS)
        return session

    def open(self) -> PostgresDatastore:
        """Open the pool, and return it as the library has it."""
        datastore = _Datastore(
            dbname="",
            host="",
            port="",
            user="",
            password="",
            pool_size=1,
            max_overflow=self._pool_size - 1,
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            schema=SCHEMA,
        )
        # The library passes on five parameters only; TLS, sockets and options are in the others.
        assert isinstance(datastore.pool.kwargs, dict)  # noqa: S101
        for name in ("dbname", "host", "port", "user", "password"):
            datastore.pool.kwargs.pop(name)
        datastore.pool.kwargs.update(self._parameters)
        datastore.pool.open()
        self._datastore = datastore
        return datastore

    @contextmanager
    def pooled(self) -> Iterator[Session]:
        """Enter with a session of the pool."""
        assert self._datastore is not None  # noqa: S101  # opened by the caller
        with self._datastore.pool.connection() as session:
            yield session

    def read(self, read: Callable[[Session], _T]) -> _T:
        """Read with a session of the pool; again, if it turns out to be broken."""
        assert self._datastore is not None  # noqa: S101  # opened by the caller
        pool = self._datastore.pool
        for _ in range(_READ_ATTEMPTS - 1):
            try:
                with pool.connection() as session:
                    return read(session)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                # The session broke while it was idle: so may others in the pool.
                pool.check()
        with pool.connection() as session:
            return read(session)

    def close(self) -> None:
        """Close the pool."""
        if self._datastore is not None:
            self._datastore.close()
            self._datastore = None
