"""The event log in a PostgreSQL database, in a schema of its own."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import islice, starmap
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import psycopg
from eventsourcing.persistence import ApplicationRecorder, StoredEvent
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composable

from deployledger.adapters import rights
from deployledger.adapters.event_log.following import Tail
from deployledger.adapters.event_log.group_commit import BatchWriter
from deployledger.adapters.event_log.import_transaction import ImportTransaction
from deployledger.adapters.event_log.log import EVENTS_TABLE, DatabaseEventLog, StoredRow
from deployledger.adapters.event_log.postgres import objects, schema
from deployledger.adapters.event_log.postgres.importing import PostgresImport
from deployledger.adapters.event_log.postgres.ownership import AdvisoryLocks
from deployledger.adapters.event_log.postgres.recorders import PostgresLogRecorder
from deployledger.adapters.event_log.postgres.tail import PostgresTail
from deployledger.adapters.event_log.postgres.writer import PostgresBatchWriter
from deployledger.adapters.pooling import refuse_shared
from deployledger.adapters.postgres import PostgresDatabase, Session, advice, reason
from deployledger.domain.event_log import (
    NOTHING_READ,
    CommandKey,
    EventRecord,
    KeyedEvent,
    KeyRecord,
    Mark,
    RawEvent,
    RawRecord,
    mark_of,
)
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


# A float has room for the microseconds of the next 200 years, and numeric takes its time.
_SELECT_RECORDS = SQL(
    "SELECT position, uuid_send(originator_id), originator_version, topic, state, "
    "uuid_send(event_id), CASE WHEN NOT isfinite(recorded_at) THEN NULL "
    "WHEN recorded_at < '2200-01-01 00:00:00+00' "
    "THEN round(date_part('epoch', recorded_at) * 1000000)::bigint "
    "ELSE (extract(epoch FROM recorded_at) * 1000000)::bigint END, actor, "
    "uuid_send(correlation_id), uuid_send(causation_id) FROM {}"
).format(schema.EVENTS.name)


class _KeyedRow(tuple[Any, ...]):
    """A row of a query: the columns of a key, and those of its event."""

    __slots__ = ()


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
                    f"The database {self._described_as} has the encoding {encoding}, and UTF8 is needed.",
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

    def _select(self, query: Any, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return self._read(lambda session: session.execute(query, values, prepare=True).fetchall())

    def _select_tuples(self, query: Any, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        def read(session: Session) -> list[tuple[Any, ...]]:
            with session.cursor(binary=True, row_factory=tuple_row) as cursor:
                return cursor.execute(query, values, prepare=True).fetchall()

        return self._read(read)

    def _read(self, read: Callable[[Session], _T]) -> _T:
        with self._translated_driver_errors():
            return self.database.read(read)

    def _rows(
        self,
        *,
        after: int,
        until: int | None,
        limit: int,
        topics: Sequence[str],
        stream_id: UUID | None,
        with_last: bool = False,
    ) -> Iterator[StoredRow]:
        conditions, values = [SQL("position > %s")], list[Any]([after])
        if until is not None:
            conditions.append(SQL("position <= %s"))
            values.append(until)
        if topics:
            conditions.append(SQL("topic = ANY(%s)"))
            values.append(list(topics))
        if stream_id is not None:
            conditions.append(SQL("originator_id = %s"))
            values.append(stream_id)
        selected: Composable = SQL(" AND ").join(conditions)
        if with_last:
            selected = SQL("position >= %s AND (position = %s OR {})").format(selected)
            values = [after, after, *values]
        query = SQL(
            "SELECT position, recorded_at, originator_id, originator_version, topic, state FROM {} "
            "WHERE {} ORDER BY position LIMIT %s"
        ).format(schema.EVENTS.name, selected)
        for row in self._select(query, (*values, limit)):
            yield StoredRow(
                row["position"],
                row["recorded_at"],
                StoredEvent(
                    row["originator_id"], row["originator_version"], row["topic"], bytes(row["state"])
                ),
            )

    def _end(self) -> Mark:
        query = SQL(
            "SELECT position, originator_id::text, originator_version, topic, state FROM {} "
            "ORDER BY position DESC LIMIT 1"
        ).format(schema.EVENTS.name)
        last = self._select_tuples(query, ())
        return mark_of(RawEvent(*last[0])) if last else NOTHING_READ

    def _wait_for_appends(self, moment: datetime) -> None:
        # The time that counts is the server's, which an append looks up when it has the lock.
        ahead = self._read(lambda session: session.execute("SELECT clock_timestamp() AS now").fetchone())
        if ahead is not None and ahead["now"] <= moment:
            time.sleep(min((moment - ahead["now"]).total_seconds() + _TICK_SECONDS, _MOST_SKEW_SECONDS))
        self._read(lambda session: session.execute(schema.EVENTS.barrier).fetchone())

    def _recorded_by(self, moment: datetime, first: int, last: int) -> int:
        query = SQL(
            """
            WITH RECURSIVE search (low, high) AS (
                SELECT %(low)s::bigint, %(high)s::bigint
                UNION ALL
                SELECT CASE WHEN recorded_at <= %(moment)s THEN (low + high + 1) / 2 ELSE low END,
                       CASE WHEN recorded_at <= %(moment)s THEN high ELSE (low + high + 1) / 2 - 1 END
                FROM search LEFT JOIN {table} ON position = (low + high + 1) / 2
                WHERE low < high
            )
            SELECT low FROM search WHERE low = high"""
        ).format(table=schema.EVENTS.name)
        # A plan that is kept may have been made while the table was empty.
        values = {"moment": moment, "low": first - 1, "high": last}
        rows = self._read(lambda session: session.execute(query, values, prepare=False).fetchall())
        return int(rows[0]["low"])

    def _clocks(self) -> tuple[int, int | None, int | None]:
        (row,) = self._select_tuples(schema.EVENTS.clocks, ())
        return row[2] or 0, row[1], row[0]

    def _raw_events(self, after: int, limit: int) -> list[RawEvent]:
        query = SQL(
            "SELECT position, originator_id::text, originator_version, topic, state FROM {} "
            "WHERE position > %s ORDER BY position LIMIT %s"
        ).format(schema.EVENTS.name)
        return list(starmap(RawEvent, self._select_tuples(query, (after, limit))))

    def _events_of_streams(self, stream_ids: Sequence[UUID], until: int) -> list[RawEvent]:
        query = SQL(
            "SELECT position, originator_id::text, originator_version, topic, state FROM {} "
            "WHERE originator_id = ANY(%s) AND position <= %s ORDER BY position"
        ).format(schema.EVENTS.name)
        return list(starmap(RawEvent, self._select_tuples(query, (list(stream_ids), until))))

    def _stream_records(self, stream_id: UUID, until: int | None, limit: int | None) -> list[RawRecord]:
        condition, values = SQL(""), list[Any]([stream_id])
        if until is not None:
            condition = SQL("AND position <= %s")
            values.append(until)
        query = SQL(
            "SELECT position, originator_id::text, originator_version, topic, state, recorded_at, "
            "event_id::text, actor, correlation_id::text, causation_id::text "
            "FROM {} WHERE originator_id = %s {} "
            "ORDER BY originator_version LIMIT %s"
        ).format(schema.EVENTS.name, condition)
        return [
            RawRecord(RawEvent(*row[:5]), *row[5:]) for row in self._select_tuples(query, (*values, limit))
        ]

    def _scan(
        self, after: int, until: int, streams: tuple[UUID, UUID] | None
    ) -> Iterator[Sequence[RawEvent]]:
        conditions, values = [SQL("position > %s AND position <= %s")], list[Any]([after, until])
        if streams is not None:
            conditions.append(SQL("originator_id BETWEEN %s AND %s"))
            values.extend(streams)
        query = SQL(
            "SELECT position, originator_id::text, originator_version, topic, state FROM {} "
            "WHERE {} ORDER BY position"
        ).format(schema.EVENTS.name, SQL(" AND ").join(conditions))
        # In the order of the log the table's pages are read one after the other.
        is_in_order = streams is None or streams[0] != streams[1]
        yield from self._streamed(query, values, RawEvent, is_in_order=is_in_order)

    def _streamed(
        self, query: Any, values: Sequence[Any], row_type: type[_Row], *, is_in_order: bool = True
    ) -> Iterator[list[_Row]]:
        """Yield pages of rows, which are sent while earlier ones are worked on."""
        with self._session(is_long=True) as session, self._translated_driver_errors():
            if is_in_order:
                session.execute("SET enable_sort = off; SET enable_bitmapscan = off")
            yield from _streamed(session, query, values, row_type)

    def _records(self, after: int, until: int) -> Iterator[Sequence[EventRecord]]:
        query = SQL("{} WHERE position >= %s AND position <= %s ORDER BY position").format(_SELECT_RECORDS)
        if until - after <= _SCANNED_AT_ONCE:  # not worth a connection of its own
            if page := list(starmap(EventRecord, self._select_tuples(query, (after + 1, until)))):
                yield page
            return
        yield from self._streamed(query, (after + 1, until), EventRecord)

    def _keys(self, until: int, after: str) -> Iterator[Sequence[KeyRecord]]:
        # A key is stored with the events of its command, one of which it names.
        query = SQL(
            "SELECT key, fingerprint, uuid_send(deployment_id), version, "
            "round(date_part('epoch', keys.recorded_at) * 1000000)::bigint FROM {} AS keys "
            "LEFT JOIN {} ON originator_id = deployment_id AND originator_version = version "
            'WHERE key COLLATE "C" > %s AND coalesce(position, 0) <= %s ORDER BY key COLLATE "C"'
        ).format(schema.KEYS, schema.EVENTS.name)
        yield from self._streamed(query, (after, until), KeyRecord, is_in_order=False)

    def _keyed_events(self, until: int) -> Iterator[Sequence[KeyedEvent]]:
        query = SQL(
            "SELECT key, fingerprint, uuid_send(deployment_id), version, "
            "round(date_part('epoch', keys.recorded_at) * 1000000)::bigint, position, originator_id::text, "
            "originator_version, topic, state, "
            "round(date_part('epoch', events.recorded_at) * 1000000)::bigint FROM {} AS keys "
            "LEFT JOIN {} AS events ON originator_id = deployment_id AND originator_version = version "
            'WHERE coalesce(position, 0) <= %s ORDER BY key COLLATE "C"'
        ).format(schema.KEYS, schema.EVENTS.name)
        for page in self._streamed(query, (until,), _KeyedRow, is_in_order=False):
            yield [
                KeyedEvent(
                    KeyRecord(*row[:5]), None if row[5] is None else RawEvent(*row[5:10]), row[10] or 0
                )
                for row in page
            ]

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

    def _find_command(self, key: str) -> CommandKey | None:
        query = SQL("SELECT key, fingerprint, deployment_id, version FROM {} WHERE key = %s").format(
            schema.KEYS
        )
        rows = self._select(query, (key,))
        return CommandKey(**rows[0]) if rows else None

    def _count(self) -> tuple[int, dict[str, int], int]:
        table = schema.EVENTS.name
        with (
            self._session(is_long=True) as session,
            self._translated_driver_errors(),
        ):  # each reads the whole table
            streams = session.execute(
                SQL("SELECT count(*) FROM {} WHERE originator_version = 1").format(table)
            ).fetchall()
            topics = session.execute(
                SQL("SELECT topic, count(*) FROM {} GROUP BY topic ORDER BY topic").format(table)
            ).fetchall()
            size = session.execute(
                "SELECT pg_total_relation_size(%s::regclass)", (schema.EVENTS.channel,)
            ).fetchall()
        return streams[0][0], dict(topics), size[0][0]

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


def _streamed(
    session: Session, query: Any, values: Sequence[Any], row_type: type[_Row]
) -> Iterator[list[_Row]]:
    with session.cursor(binary=True, row_factory=tuple_row) as cursor:
        # A server-side cursor would wait between the pages. This one has the connection's lock until it is
        # closed, without which nothing could be rolled back.
        stream = cursor.stream(query, values, size=_SENT_AT_ONCE)
        with closing(cast("Generator[Any, None, None]", stream)) as sent:
            # A named tuple's own constructor takes a third of a microsecond longer, a million times.
            rows: Iterator[_Row] = map(partial(tuple.__new__, row_type), sent)
            while page := list(islice(rows, _SCANNED_AT_ONCE)):
                yield page


def _all_records(session: Session) -> Iterator[Sequence[EventRecord]]:
    return _streamed(session, SQL("{} ORDER BY position").format(_SELECT_RECORDS), (), EventRecord)
