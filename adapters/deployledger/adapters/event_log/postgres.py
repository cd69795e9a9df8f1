"""The event log in a PostgreSQL database, in a schema of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any
from uuid import UUID

import psycopg
from eventsourcing.persistence import ApplicationRecorder
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from deployledger.adapters.event_log.base import SCHEMA_VERSION, RecorderEventLog, SchemaState
from deployledger.domain.exceptions import ConfigurationError, EventLogError
from deployledger.domain.redaction import without_credentials

_SCHEMA = "deployledger"
_TABLE = "deployment_events"
_CONNECT_TIMEOUT_SECONDS = 5


class PostgresEventLog(RecorderEventLog):
    """An event log in the schema ``deployledger`` of a PostgreSQL database.

    Ownership is an advisory lock of a session that this log keeps for them: the server gives it up when
    the connection is gone, as it is when the process dies.
    """

    def __init__(self, database_url: str, *, create: bool = False) -> None:
        super().__init__(without_credentials(database_url).split("?")[0])
        try:
            self._parameters: dict[str, Any] = dict(conninfo_to_dict(database_url))
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(
                f"The database URL {self._described_as!r} is malformed.",
                hint="It reads postgresql://user:password@host:port/database.",
            ) from error
        self._parameters.setdefault("connect_timeout", _CONNECT_TIMEOUT_SECONDS)
        self._create = create
        self._datastore: PostgresDatastore | None = None
        self._lock_session: psycopg.Connection[Any] | None = None
        self._owned: set[UUID] = set()
        self._lock = Lock()

    @property
    def _creates_schema(self) -> bool:
        return self._create

    def _session(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(**self._parameters, autocommit=True)
        except psycopg.Error as error:
            raise EventLogError(
                f"The database {self._described_as} cannot be reached: "
                f"{without_credentials(str(error)).strip()}",
                hint="Check DEPLOYLEDGER_DATABASE_URL, and that the server is up and lets you in.",
            ) from error

    def _connect(self) -> ApplicationRecorder:
        self._session().close()  # a wrong address or password is told at once, not after the pool's retries
        parameters = self._parameters
        datastore = PostgresDatastore(
            dbname=str(parameters.get("dbname") or ""),
            host=str(parameters.get("host") or ""),
            port=str(parameters.get("port") or ""),
            user=str(parameters.get("user") or ""),
            password=str(parameters.get("password") or ""),
            pool_size=2,
            max_overflow=8,
            connect_timeout=30,
            pre_ping=True,
            schema=_SCHEMA,
        )
        # The library passes on five parameters only; TLS, sockets and options are in the others.
        assert isinstance(datastore.pool.kwargs, dict)  # noqa: S101
        for name in ("dbname", "host", "port", "user", "password"):
            if not datastore.pool.kwargs.get(name):
                datastore.pool.kwargs.pop(name, None)
        datastore.pool.kwargs.update(parameters)
        self._datastore = datastore
        return PostgresApplicationRecorder(datastore, events_table_name=_TABLE)

    def schema_state(self) -> SchemaState:
        """Return which schema the database has."""
        with self._session() as session:
            try:
                row = session.execute(
                    sql.SQL("SELECT version FROM {}.schema_version").format(sql.Identifier(_SCHEMA))
                ).fetchone()
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                return SchemaState(0)
        return SchemaState(int(row[0]) if row else 0)

    def _create_schema(self, recorder: ApplicationRecorder) -> None:
        assert isinstance(recorder, PostgresApplicationRecorder)  # noqa: S101
        schema = sql.Identifier(_SCHEMA)
        with self._session() as session:
            # CREATE … IF NOT EXISTS is not safe against itself: one at a time.
            session.execute("SELECT pg_advisory_lock(hashtextextended('deployledger schema', 0))")
            session.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema))
            recorder.create_table()
            session.execute(
                sql.SQL("CREATE TABLE IF NOT EXISTS {}.schema_version (version integer NOT NULL)").format(
                    schema
                )
            )
            session.execute(
                sql.SQL(
                    "INSERT INTO {0}.schema_version "
                    "SELECT %s WHERE NOT EXISTS (SELECT FROM {0}.schema_version)"
                ).format(schema),
                (SCHEMA_VERSION,),
            )

    @contextmanager
    def ownership(self, stream_id: UUID) -> Iterator[bool]:
        """Try to become the one that works on a stream; see the port."""
        key = int.from_bytes(stream_id.bytes[:8], "big", signed=True)
        with self._lock:  # the session would be granted a lock that it has already
            owned = stream_id not in self._owned and self._try_lock(key)
            if owned:
                self._owned.add(stream_id)
        try:
            yield owned
        finally:
            if owned:
                with self._lock:
                    self._owned.discard(stream_id)
                    self._unlock(key)

    def _try_lock(self, key: int) -> bool:
        if self._lock_session is None or self._lock_session.closed:
            self._lock_session = self._session()
        try:
            row = self._lock_session.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
        except psycopg.OperationalError as error:
            self._lock_session.close()
            raise EventLogError(
                f"The database {self._described_as} cannot be reached.", hint="Check that the server is up."
            ) from error
        return bool(row and row[0])

    def _unlock(self, key: int) -> None:
        if self._lock_session is not None:
            try:
                self._lock_session.execute("SELECT pg_advisory_unlock(%s)", (key,))
            except psycopg.OperationalError:  # the lock went with the session
                self._lock_session.close()

    def close(self) -> None:
        """Close every connection."""
        if self._datastore is not None:
            self._datastore.close()
            self._datastore = None
            self._opened = None
        with self._lock:
            if self._lock_session is not None:
                self._lock_session.close()
                self._lock_session = None
