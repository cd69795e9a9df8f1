"""The event log in a PostgreSQL database, in a schema of its own."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import psycopg
from eventsourcing.persistence import ApplicationRecorder
from psycopg.rows import tuple_row

from deployledger.adapters import rights
from deployledger.adapters.dialect import POSTGRES, in_postgres
from deployledger.adapters.event_log.following import Tail
from deployledger.adapters.event_log.group_commit import BatchWriter
from deployledger.adapters.event_log.import_transaction import ImportTransaction
from deployledger.adapters.event_log.log import DatabaseEventLog
from deployledger.adapters.event_log.postgres import objects, schema
from deployledger.adapters.event_log.postgres.importing import PostgresImport
from deployledger.adapters.event_log.postgres.ownership import AdvisoryLocks
from deployledger.adapters.event_log.postgres.recorders import PostgresLogRecorder
from deployledger.adapters.event_log.postgres.tail import PostgresTail
from deployledger.adapters.event_log.postgres.writer import PostgresBatchWriter
from deployledger.adapters.event_log.reading import EVENTS_TABLE, READ_AT_ONCE, Statements
from deployledger.adapters.pooling import refuse_shared
from deployledger.adapters.postgres import PostgresDatabase, Session, advice, reason
from deployledger.domain.event_records import EventRecord
from deployledger.domain.exceptions import EventLogError, EventLogUnavailableError
from deployledger.domain.findings import Finding
from deployledger.projections.patience import Patience

if TYPE_CHECKING:
    from deployledger.audit.ledger_store import LedgerStore
    from deployledger.projections.store import ReadModelStore

_LONGEST_LOCK_SECONDS = 10
_SENT_AT_ONCE = 500
_SCANNED_AT_ONCE = 200
_TICK_SECONDS = 0.001
_MOST_SKEW_SECONDS = 2.0

_T = TypeVar("_T")
_Row = TypeVar("_Row", bound=tuple[Any, ...])


_PLAIN_COLUMNS = 5
_NO_METADATA = (b"", 0, None, None, None)
# A float has room for the microseconds of the next 200 years, and numeric takes its time.
_STATEMENTS = Statements(
    POSTGRES,
    id_value=lambda id_: id_,
    id_column="uuid_send({})",
    time_column="CASE WHEN NOT isfinite({0}) THEN NULL WHEN {0} < '2200-01-01 00:00:00+00' "
    "THEN round(date_part('epoch', {0}) * 1000000)::bigint "
    "ELSE (extract(epoch FROM {0}) * 1000000)::bigint END",
    binary_order=' COLLATE "C"',
)


class PostgresEventLog(DatabaseEventLog):
    """An event log in the schema ``deployledger`` of a PostgreSQL database.

    It has a pool of connections to read with, one to write, one that listens while somebody follows, and
    one that holds the locks of those who work.
    """

    def __init__(self, database_url: str, *, create: bool, pool_size: int, patience: Patience) -> None:
        self.database = PostgresDatabase(database_url, pool_size, patience)
        described_as = self.database.described_as
        # Well before the silence of the server counts as an outage: it is then known that nothing was stored.
        self._lock_seconds = min(patience.seconds / 2, _LONGEST_LOCK_SECONDS)
        self._create = create
        self._has_rights = self._keeps_read_models = False
        self._locks = AdvisoryLocks(self._session, described_as, patience)
        super().__init__(database_url, described_as, patience=patience)

    def _writer_session(self) -> Session:
        """Return a new connection for the writer: what is acknowledged is on disk, and no wait is endless."""
        session = self.database.session()
        refuse_shared(session, self.database.session, self._described_as)
        self._check_rights(session)
        session.execute(
            "SELECT set_config('lock_timeout', %s, false)", (f"{int(self._lock_seconds * 1000)}ms",)
        )
        session.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') = 'off'"
        )
        return session

    def _check_rights(self, session: Session) -> None:
        """Check once that the user may do everything a service does, before anything is accepted."""
        if self._has_rights:
            return
        user_rights = rights.rights_of(session)
        if missing := user_rights.to_serve(keeps_read_models=self._keeps_read_models):
            session.close()
            raise EventLogError(
                f"The user {user_rights.user!r} lacks rights in {self._described_as} that a service needs; "
                "nothing was stored.",
                hint=rights.hint_to_write(user_rights, missing),
            )
        self._has_rights = True

    def _session(self, *, is_long: bool = False) -> Session:
        """Return a new connection; errors are ours."""
        try:
            session = self.database.session(is_long=is_long)
            refuse_shared(session, self.database.session, self._described_as)
            return session
        except psycopg.Error as error:
            kind = EventLogUnavailableError if self.database.is_outage(error) else EventLogError
            raise kind(
                f"The database {self._described_as} cannot be reached: {reason(error)}.",
                hint="Check DEPLOYLEDGER_DATABASE_URL, and that the server is up and accepts the login.",
            ) from error

    @contextmanager
    def _schema_session(self) -> Iterator[Session]:
        try:
            with self._session(is_long=True) as session:
                yield session
        except psycopg.Error as error:
            kind = EventLogUnavailableError if self.database.is_outage(error) else EventLogError
            raise kind(
                f"The schema in {self._described_as} cannot be used: {reason(error)}.",
                hint=self._advice(error),
            ) from error

    def _make_writer(self) -> BatchWriter:
        return PostgresBatchWriter(
            self.database, self._writer_session, schema.EVENTS, schema.KEYS, watch=self._clock
        )

    def _make_tail(self) -> Tail:
        return PostgresTail(self._session, schema.EVENTS.channel, self.patience)

    def _connect(self) -> ApplicationRecorder:
        return PostgresLogRecorder(self.database.open(), events_table_name=EVENTS_TABLE)

    def _disconnect(self) -> None:
        self._locks.close()
        self.database.close()

    @property
    def _creates_schema(self) -> bool:
        return self._create

    def _found_schema(self) -> int:
        with self._schema_session() as session:
            encoding = session.info.parameter_status("server_encoding")
            if encoding != "UTF8":
                raise EventLogError(
                    f"The database {self._described_as} has the encoding {encoding}; UTF8 is needed.",
                    hint="Create a database with ENCODING 'UTF8' for it.",
                )
            try:
                return schema.found_version(session)
            except psycopg.errors.InsufficientPrivilege:
                if rights.rights_of(session).has_log:
                    raise
                return 0  # a schema without tables, which this user may not use

    @property
    def _how_to_create(self) -> str:
        with self._schema_session() as session:
            if rights.rights_of(session).to_create():
                return f"Run `deployledger db init` as the role that owns the schema. {rights.PAGE}"
        return super()._how_to_create

    def _create_schema(self) -> None:
        with self._schema_session() as session:
            user_rights = rights.rights_of(session)
            if missing := user_rights.to_create():
                raise EventLogError(
                    f"The user {user_rights.user!r} may not create the tables of deployledger in "
                    f"{self._described_as}.",
                    hint=rights.hint(missing),
                )
            schema.create(session)

    def _upgrade_schema(self) -> None:
        with self._schema_session() as session:
            schema.upgrade(session)

    def _read(self, read: Callable[[Session], _T]) -> _T:
        with self._translated_driver_errors():
            return self.database.read(read)

    @property
    def _statements(self) -> Statements:
        return _STATEMENTS

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._select(in_postgres(statement), values)

    def _select(
        self, query: Any, values: Sequence[Any] = (), *, prepare: bool = True
    ) -> list[tuple[Any, ...]]:
        def read(session: Session) -> list[tuple[Any, ...]]:
            with session.cursor(binary=True, row_factory=tuple_row) as cursor:
                return cursor.execute(query, values, prepare=prepare).fetchall()

        return self._read(read)

    def _stream(
        self, statement: str, values: Sequence[Any], *, in_order: bool = False
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        with self._session(is_long=True) as session, self._translated_driver_errors():
            if in_order:  # the table's pages are read one after the other
                session.execute("SET enable_sort = off; SET enable_bitmapscan = off")
            with _streamed(session, statement, values) as rows:
                while page := [*islice(rows, READ_AT_ONCE)]:
                    yield page

    def _events(self, rows: Sequence[tuple[Any, ...]]) -> list[EventRecord]:
        return _records(rows)

    def _id(self, stored: Any) -> bytes:
        id_: bytes = stored
        return id_

    def _size(self) -> int:
        return int(self._query("SELECT pg_total_relation_size(?::regclass)", (schema.EVENTS.channel,))[0][0])

    def _wait_for_appends(self, moment: datetime) -> None:
        # The time that counts is the server's, which an append looks up when it has the lock.
        ahead = self._read(lambda session: session.execute("SELECT clock_timestamp() AS now").fetchone())
        if ahead is not None and ahead["now"] <= moment:
            time.sleep(min((moment - ahead["now"]).total_seconds() + _TICK_SECONDS, _MOST_SKEW_SECONDS))
        self._read(lambda session: session.execute(schema.EVENTS.barrier).fetchone())

    def _recorded_by(self, moment: datetime, first: int, last: int) -> int:
        # A plan that is kept may have been made while the table was empty.
        query = in_postgres(_STATEMENTS.search_time)
        return int(self._select(query, (moment, first - 1, last), prepare=False)[0][0])

    def _clocks(self) -> tuple[int, int | None, int | None]:
        ((server, last, position),) = self._select(schema.EVENTS.clocks)
        return position or 0, last, server

    @contextmanager
    def import_transaction(self) -> Iterator[ImportTransaction]:
        """Enter with the transaction that fills this log."""
        with self._session(is_long=True) as session, self._translated_driver_errors():
            with PostgresImport.begun(session, _all_records, self._described_as) as transaction:
                yield transaction

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        with super()._translated_errors(), self._translated_driver_errors():
            yield

    @contextmanager
    def _translated_driver_errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: BaseException) -> EventLogError:
        kind = EventLogUnavailableError if self.database.is_outage(error) else EventLogError
        return kind(
            f"The event log in {self._described_as} cannot be used: {reason(error)}.",
            hint=self._advice(error),
        )

    def _advice(self, error: BaseException) -> str:
        """Return what to do about an error; where a right to read is missing, which one."""
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            with suppress(psycopg.Error, EventLogError), self.database.session() as session:
                if missing := rights.rights_of(session).to_read():
                    return rights.hint(missing)
        return advice(error)

    def _findings(self, *, whole: bool) -> Iterator[Finding]:  # pages are the server's
        with self._schema_session() as session:
            yield from objects.objects(session, f"the event log in {self._described_as}")
            yield from rights.findings(
                rights.rights_of(session), self._described_as, keeps_read_models=self._keeps_read_models
            )

    def _restore_triggers(self) -> None:
        with self._schema_session() as session:
            if objects.has_changed_triggers(session):
                schema.restore_triggers(session)

    def open_read_model_store(self) -> "ReadModelStore":
        """Return the store of read models in the same database, which uses the same pool."""
        from deployledger.adapters.read_models.postgres import PostgresReadModels

        self._keeps_read_models = True
        return PostgresReadModels(self.database, events=schema.EVENTS.name.as_string())

    def open_ledger_store(self) -> "LedgerStore":
        """Return the store of the ledger in the same database, which uses the same pool."""
        from deployledger.adapters.ledger.postgres import PostgresLedgerStore

        return PostgresLedgerStore(self.database)

    def ownership(self, stream_id: UUID) -> AbstractContextManager[bool]:
        """Try to become the one that works on a stream; see the port."""
        self._check_process()
        return self._locks.ownership(stream_id)


@contextmanager
def _streamed(session: Session, statement: str, values: Sequence[Any]) -> Iterator[Iterator[tuple[Any, ...]]]:
    """Enter with rows that are sent while earlier ones are worked on."""
    with session.cursor(binary=True, row_factory=tuple_row) as cursor:
        # A server-side cursor would wait between the pages. This one has the connection's lock until it is
        # closed, without which nothing could be rolled back.
        stream = cursor.stream(in_postgres(statement), values, size=_SENT_AT_ONCE)
        with closing(cast("Generator[tuple[Any, ...], None, None]", stream)) as rows:
            yield rows


def _all_records(session: Session) -> Iterator[Sequence[EventRecord]]:
    with _streamed(session, _STATEMENTS.select_all, ()) as rows:
        while page := [*islice(rows, READ_AT_ONCE)]:
            yield _records(page)


def _records(rows: Sequence[tuple[Any, ...]]) -> list[EventRecord]:
    new = tuple.__new__  # a named tuple's own constructor takes a third of a microsecond longer
    if rows and len(rows[0]) == _PLAIN_COLUMNS:
        return [new(EventRecord, row + _NO_METADATA) for row in rows]
    return [new(EventRecord, row) for row in rows]
