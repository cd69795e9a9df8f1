"""A PostgreSQL database: sessions as ours are, and one pool of them for all who use it in a process.

No wait for a server is endless. A server that is frozen, and a network that swallows everything, close no
connection, and the server's own timeouts are of no use then: so each wait for an answer ends here, after the
patience.
"""

import math
import re
import select
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar, cast

import psycopg
from eventsourcing.postgres import ConnectionPool, PostgresDatastore
from psycopg import Connection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import PoolClosed, PoolTimeout

from deployledger.adapters.database_url import DatabaseUrl
from deployledger.domain.redaction import without_credentials
from deployledger.projections.patience import Patience

SCHEMA = "deployledger"
"""The schema that everything of ours is in."""

_CONNECT_TIMEOUT_SECONDS = 5
_KEEPALIVE_SECONDS = 10
_LOOK_SECONDS = 0.1
_CANCEL_SECONDS = 1.0
_MAX_LIFETIME_SECONDS = 3600.0
_PROBE_STATE = "SELECT state, wait_event FROM pg_catalog.pg_stat_activity WHERE pid = %s"

_ADVICE = re.compile(r"\s*Is the server running .*?\?")

_SESSION_SETTINGS = """
    SET default_transaction_isolation TO 'read committed';
    SET datestyle TO 'ISO';
    SET timezone TO 'UTC';
    SET array_nulls TO on;
    SET row_security TO off;
    SET idle_in_transaction_session_timeout TO 0;
    SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(
        ', ', 'pg_catalog', NULLIF(pg_catalog.current_setting('search_path'), '')), false)
"""
"""What must hold in every session, whatever the defaults of the database and the user are.

Positions and the schema's version are right only if each statement sees what was committed before it; the
driver reads dates of one style only. The server's own functions and operators come before those of others,
and a policy that would hide rows from this user is an error, not a shorter answer.
"""

_REFUSED = re.compile(
    "authentication failed|no pg_hba.conf entry|does not exist|permission denied|not permitted|certificate|"
    "does not support SSL|unknown ca|no password supplied|not currently accepting connections|unsupported|"
    "sslmode|channel binding",
    re.IGNORECASE,
)
"""What a server, or the driver, says on connecting when trying again does not help."""

_REPLACED = re.compile('database ".*" (does not exist|is not currently accepting connections)', re.IGNORECASE)
"""What a server says on connecting while a database is restored under the name of the one that was there."""

_SHARED = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.DuplicatePreparedStatement)
"""What a server raises when a pooler hands it statements that belong to other sessions."""

DENIED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)
"""What a database raises for who may read and not write: without the rights, or on a standby server."""

_T = TypeVar("_T")


def reason(error: BaseException) -> str:
    """Return what an error says in one line, without credentials, the statement and the driver's advice."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    text = _ADVICE.sub("", primary or str(error))
    return " ".join(without_credentials(text).split()).rstrip(".?")


def advice(error: BaseException) -> str:
    """Return what to do about an error."""
    if isinstance(error, DENIED):
        return (
            "The database user lacks a right for this. `deployledger db check` lists the GRANTs that a "
            "service needs; commands that create tables, such as a rebuild, are for the owner of the schema. "
            "docs/database.md lists the rights of every role."
        )
    if isinstance(error, _SHARED):
        return (
            "A connection pooler seems to share sessions between clients: set its pool_mode to session for "
            "this database, or connect to the server itself; docs/database.md describes what a pooler must "
            "preserve."
        )
    return "Check that the database exists and is reachable and writable, and try again."


def is_outage(error: BaseException) -> bool:
    """Return whether an error says that the server is unavailable, so that trying again later helps."""
    if isinstance(error, PoolClosed | psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return False
    if isinstance(error, psycopg.errors.IdleInTransactionSessionTimeout):
        return True
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    return error.sqlstate is not None or _REFUSED.search(str(error)) is None


class Session(Connection[Any]):
    """A connection to the server on which no wait for an answer is endless.

    Attributes:
        database: the database, whose patience bounds each wait.
        process: the server's process, if a statement may take longer than that: the server is then asked
            whether it is still at it. What a pooler says on connecting may be something else.
    """

    database: "PostgresDatabase | None" = None
    process: int | None = None
    _is_cancelled = False

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> Generator[Any, Any, Self]:
        # The driver's own timeout is 2 seconds or more, and ends with the patience only by chance.
        if cls.database is None:
            return super()._connect_gen(conninfo)
        return _bounded(super()._connect_gen(conninfo), cls.database.patience.limit, _connection_is_late)

    def wait(
        self, gen: Generator[Any, Any, _T], interval: float = _LOOK_SECONDS, *args: Any, **kwargs: Any
    ) -> _T:
        """Return what the driver's generator returns, once the server has answered.

        Raises:
            psycopg.OperationalError: if it has not for too long; the connection is closed.
        """
        if self.database is None or args or kwargs:  # who gives a timeout waits for what need not come
            return super().wait(gen, interval, *args, **kwargs)
        self._is_cancelled = False
        answer = super().wait(_bounded(gen, self._limit, self._check_is_alive), interval)
        self.database.patience.answered()
        return answer

    def _limit(self) -> float:
        assert self.database is not None  # noqa: S101  # a wait is bounded by its patience
        return _CANCEL_SECONDS if self._is_cancelled else self.database.patience.limit()

    def _check_is_alive(self, seconds: float) -> None:
        """Close a connection on which the server has been silent for so long, unless it is at work."""
        assert self.database is not None  # noqa: S101
        is_probed = self.process is not None and not self._is_cancelled
        if is_probed and self.database.is_working_on(self.process):
            return
        self.pgconn.finish()
        raise self.database.silent(seconds)

    def cancel_safe(self, *, timeout: float = 1.0) -> None:
        """Cancel what the server is doing, as the driver does on Ctrl-C; it then has a moment to say so."""
        self._is_cancelled = True
        super().cancel_safe(timeout=min(timeout, _CANCEL_SECONDS))

    @property
    def is_cut(self) -> bool:
        """Whether the server has closed the connection while nobody used it; nothing is sent to find out."""
        if self.closed:
            return True
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        if not poll.poll(0):
            return False
        try:
            self.execute("")
        except psycopg.Error:
            return True
        return False


def _bounded(
    gen: Generator[Any, Any, _T], limit: Callable[[], float], is_late: Callable[[float], None]
) -> Generator[Any, Any, _T]:
    """Pass on a generator of the driver, which resumes it every now and then while there is no answer.

    Args:
        limit: how many seconds to wait.
        is_late: called with the seconds after these; raises, unless the wait is to go on.
    """
    began = time.monotonic()
    try:
        awaited = next(gen)
        while True:
            ready = yield awaited
            waited = time.monotonic() - began
            if not ready and waited > limit():
                is_late(waited)
                began = time.monotonic()
            awaited = gen.send(ready)
    except StopIteration as end:
        answer: _T = end.value
        return answer


def _connection_is_late(_: float) -> None:
    raise psycopg.OperationalError("connection timeout expired")  # as the driver says it


class _Pool(ConnectionPool[Session]):
    """A pool that says at once why it has no session, and gives none that the server has closed."""

    def __init__(self, database: "PostgresDatabase", **kwargs: Any) -> None:
        super().__init__(connection_class=database.session_class, open=False, **kwargs)
        self._database = database

    def getconn(self, timeout: float | None = None) -> Session:
        """Return a session.

        Raises:
            psycopg.OperationalError: if the server is unavailable, or every session is in use for too long.
        """
        latest = time.monotonic() + self._database.patience.limit()
        while True:
            left = latest - time.monotonic()
            longest = _LOOK_SECONDS if self._database.is_away else _CONNECT_TIMEOUT_SECONDS
            try:
                session = super().getconn(min(longest, max(left, _LOOK_SECONDS)))
            except PoolTimeout:
                self._database.session().close()  # which says why, if there is more to it
                if left > 0:
                    continue
                raise psycopg.OperationalError(f"all {self.max_size} connections are in use") from None
            if not session.is_cut:
                return session
            session.close()
            self.putconn(session)

    def putconn(self, conn: Session) -> None:
        """Take a session back; one that broke is replaced, and so are the others, which may be as broken."""
        if conn.closed and not self.closed:
            self.drain()
        super().putconn(conn)


class _Datastore(PostgresDatastore):
    """The library's datastore, with our pool."""

    def __init__(self, pool: _Pool) -> None:
        super().__init__(dbname="", host="", port="", user="", password="", schema=SCHEMA)
        self.pool = cast("ConnectionPool[Connection[DictRow]]", pool)

    @contextmanager
    def get_connection(self) -> Iterator[Connection[DictRow]]:
        """Enter with a session. Errors stay the driver's: at its own the library tries again, ten times."""
        with self.pool.connection() as session:
            yield session


class PostgresDatabase:
    """One database on a PostgreSQL server. Nothing is connected before it is needed.

    Args:
        url: ``postgresql://user:password@host:port/database``.
        pool_size: how many sessions the pool has, at most.
        patience: how long a wait for the server may be.

    Attributes:
        described_as: which database it is, for messages; without credentials.
        session_class: the class of its sessions.
        was_written: whether this process has written to it.

    Raises:
        ConfigurationError: if the URL is malformed.
    """

    def __init__(self, url: str, pool_size: int, patience: Patience) -> None:
        database = DatabaseUrl.parse(url)
        parameters = database.parameters or {}
        self.described_as = database.described_as
        self.patience = patience
        self.was_written = False
        self._was_open = False
        self.session_class: type[Session] = type("Session", (Session,), {"database": self})
        hosts = str(parameters.get("hostaddr") or parameters.get("host") or "").count(",") + 1
        longest = float(parameters.get("connect_timeout") or _CONNECT_TIMEOUT_SECONDS)
        self._parameters = {
            "application_name": "deployledger",
            # They find a network that is cut off; a server that is frozen still acknowledges.
            "keepalives_idle": _KEEPALIVE_SECONDS,
            "keepalives_interval": _KEEPALIVE_SECONDS,
            "keepalives_count": 3,
            "tcp_user_timeout": round(patience.seconds * 1000),
            **parameters,
            "client_encoding": "UTF8",
            "connect_timeout": math.ceil(min(longest if longest > 0 else math.inf, patience.seconds / hosts)),
        }
        self._pool_size = pool_size
        self._pool: _Pool | None = None
        self._datastore: _Datastore | None = None

    @property
    def is_open(self) -> bool:
        """Whether the pool is open."""
        return self._pool is not None

    def is_outage(self, error: BaseException) -> bool:
        """Return whether an error says that the server is unavailable, so that trying again later helps.

        A server that could be written and no longer can has become a standby: another one takes its place.
        A database that was there and no longer is, is being restored.
        """
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            return self.was_written
        return is_outage(error) or (
            self._was_open
            and isinstance(error, psycopg.OperationalError)
            and _REPLACED.search(str(error)) is not None
        )

    def session(self, *, is_long: bool = False) -> Session:
        """Return a new session outside the pool, which commits each statement by itself.

        Args:
            is_long: whether statements may take longer than the patience: the server is then asked whether
                it is still at it.

        Raises:
            psycopg.Error: if none is available.
        """
        problem = self.patience.problem(self.described_as)
        if problem and self.patience.is_over:  # as when the thread has waited for others who tried
            raise psycopg.OperationalError(problem)
        try:
            session = self.session_class.connect(**self._parameters, autocommit=True)
            try:
                self._configure(session)
            except BaseException:
                session.close()
                raise
        except psycopg.Error as error:
            if self.is_outage(error):
                self.patience.away(self.described_as, reason(error))
            raise
        self._was_open = True
        self.patience.back(self.described_as)
        if is_long:
            row = session.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
            session.process = row[0] if row else None
        return session

    def _configure(self, session: Session) -> None:
        session.autocommit = True
        session.execute(_SESSION_SETTINGS)

    def is_working_on(self, process: int | None) -> bool:
        """Return whether a process of the server is at what its session asked for."""
        try:
            with self.session() as session:
                row = session.execute(_PROBE_STATE, (process,)).fetchone()
        except psycopg.Error:
            return False
        return row is not None and row[0] == "active" and row[1] != "ClientWrite"

    @property
    def is_away(self) -> bool:
        """Whether the server was away when a new session was last asked for."""
        return bool(self.patience.problem(self.described_as))

    def silent(self, seconds: float) -> psycopg.OperationalError:
        """Return the error of a server that has not answered for so many seconds, after reporting it."""
        problem = f"the server has not answered for {seconds:.0f} s"
        self.patience.away(self.described_as, problem)
        return psycopg.OperationalError(problem)

    def open(self) -> PostgresDatastore:
        """Open the pool, and return it as the library has it."""
        pool = _Pool(
            self,
            kwargs={**self._parameters, "row_factory": dict_row},
            configure=self._configure,
            min_size=1,
            max_size=self._pool_size,
            max_lifetime=_MAX_LIFETIME_SECONDS,
            reconnect_timeout=_LOOK_SECONDS,  # who wants a session tries again, and says why there is none
        )
        pool.open()
        self._pool = pool
        self._datastore = _Datastore(pool)  # kept, as it closes its pool when it is no longer referred to
        return self._datastore

    @contextmanager
    def pooled(self) -> Iterator[Session]:
        """Enter with a session of the pool."""
        assert self._pool is not None  # noqa: S101  # opened by the caller
        with self._pool.connection() as session:
            try:
                yield session
            except psycopg.errors.ReadOnlySqlTransaction:
                if self.was_written:
                    session.close()  # the next one may be on another server
                raise

    def read(self, read: Callable[[Session], _T]) -> _T:
        """Read with a session of the pool."""
        with self.pooled() as session:
            return read(session)

    def close(self) -> None:
        """Close the pool. What still tries to connect to an unavailable server ends by itself."""
        if self._pool is not None:
            self._pool.close(0 if self.is_away else _CONNECT_TIMEOUT_SECONDS)
            self._pool = self._datastore = None
