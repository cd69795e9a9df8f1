"""Where an import into a PostgreSQL log is prepared: in a schema of its own, under the names of the log."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from struct import Struct
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composed, Identifier, Literal

from deployledger.adapters.event_log.log import EVENTS_TABLE, KEYS_TABLE
from deployledger.adapters.event_log.moving.lines import BadFileError
from deployledger.adapters.event_log.moving.staging import Staged, Staging, is_something_else, log_is_filled
from deployledger.adapters.event_log.postgres import schema
from deployledger.adapters.event_log.postgres.recorders import EventTable
from deployledger.adapters.postgres import SCHEMA, Session
from deployledger.domain.event_log import EventRecord, KeyRecord

IMPORT_SCHEMA = "deployledger_import"
EVENTS = EventTable(IMPORT_SCHEMA, EVENTS_TABLE)
KEYS = Identifier(IMPORT_SCHEMA, KEYS_TABLE)
_STAGED = Identifier(IMPORT_SCHEMA, "staged")

_SENT_BYTES = 1 << 18
_SESSION_SETTINGS = """
    SET statement_timeout TO 0;
    SET idle_in_transaction_session_timeout TO 0;
    SET lock_timeout TO '30s';
    SET synchronous_commit TO off
"""
"""What is lost when the server crashes is imported again; the last commit waits for the disk."""

# Rows as COPY has them: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
_COPY_BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_UP_TO_VERSION = Struct(">hiqi16siq")
_LENGTH = Struct(">i")
_ID = Struct(">i16s")
_INTEGER = Struct(">iq")
_EPOCH_MICROSECONDS = 946_684_800_000_000
"""When PostgreSQL's time begins: 2000-01-01 UTC."""

_COLUMNS = (
    "position, originator_id, originator_version, topic, state, event_id, recorded_at, actor, "
    "correlation_id, causation_id"
)
_KEY_COLUMNS = "key, fingerprint, deployment_id, version, recorded_at"


class PostgresStaging(Staging):
    """Tables in a schema beside the log's, which move into that when they are complete.

    Args:
        session: used by nobody else, in autocommit mode.
        read_records: reads from a table of events.
        described_as: the database, for messages.
    """

    def __init__(
        self,
        session: Session,
        read_records: Callable[[EventTable, int, int], Iterator[Sequence[EventRecord]]],
        described_as: str,
    ) -> None:
        self._session = session
        self._read_records = read_records
        self._described_as = described_as
        session.execute(_SESSION_SETTINGS)

    def staged(self) -> Staged | None:
        """Return what an import that was interrupted has left; None if nothing."""
        try:
            row = self._row(SQL("SELECT export_id, events, keys FROM {}").format(_STAGED))
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return None
        return Staged(*row) if row else None

    def begin(self, export_id: UUID) -> None:
        """Remove what is there, and begin with another export."""
        with self._session.transaction():
            self.discard()
            for statement in (
                SQL("CREATE SCHEMA {}").format(Identifier(IMPORT_SCHEMA)),
                EVENTS.create_table(with_keys=False),
                schema.create_keys_table(KEYS),
                SQL(
                    "CREATE TABLE {} (export_id uuid NOT NULL, events bigint NOT NULL, keys bigint NOT NULL)"
                ).format(_STAGED),
                SQL("INSERT INTO {} VALUES ({}, 0, 0)").format(_STAGED, Literal(export_id)),
            ):
                self._session.execute(statement)

    def add_events(self, records: Iterable[EventRecord]) -> int:
        """Add events behind the last one, all or none of them, and return how many they were."""
        statement = SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(EVENTS.name, SQL(_COLUMNS))
        return self._add("events", statement, map(_event_row, records))

    def add_keys(self, records: Iterable[KeyRecord]) -> int:
        """Add idempotency keys, all or none of them, and return how many they were."""
        return self._add(
            "keys", SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(KEYS), map(_key_row, records)
        )

    def _add(self, counted: str, statement: Composed, rows: Iterator[bytes]) -> int:
        """Copy rows, which the server stores while the next ones are made, and count them."""
        added = 0
        try:
            with self._session.transaction():
                with self._session.cursor() as cursor, cursor.copy(statement) as copy:
                    waiting = bytearray(_COPY_BEGIN)
                    for row in rows:
                        waiting += row
                        added += 1
                        if len(waiting) >= _SENT_BYTES:
                            copy.write(bytes(waiting))
                            waiting.clear()
                    copy.write(bytes(waiting) + _COPY_END)
                if added:
                    count = Identifier(counted)
                    self._session.execute(
                        SQL("UPDATE {} SET {count} = {count} + {}").format(_STAGED, added, count=count)
                    )
        except psycopg.errors.UniqueViolation as error:
            raise BadFileError(f"an idempotency key is there twice: {error.diag.message_detail}") from error
        except psycopg.DataError as error:
            raise BadFileError(f"the database refuses what is in it: {error}") from error
        return added

    def records(self, *, after: int, until: int) -> Iterator[Sequence[EventRecord]]:
        """Yield events that were added, a page at a time."""
        return self._read_records(EVENTS, after, until)

    def misplaced(self) -> int | None:
        """Return the position of the first event whose version is not the next one of its stream."""
        row = self._row(
            SQL(
                "SELECT min(position) FROM (SELECT position, originator_version, row_number() OVER ("
                "PARTITION BY originator_id ORDER BY position) AS number FROM {}) AS placed "
                "WHERE originator_version <> number"
            ).format(EVENTS.name)
        )
        return row[0] if row else None

    def complete(self) -> None:
        """Make the indexes and the trigger, unless it was interrupted only after that."""
        with self._session.transaction():
            # One that was killed may be at it still.
            self._session.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(EVENTS.name))
            has_keys = "SELECT 1 FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'"
            if not self._row(has_keys, [EVENTS.channel]):
                self._session.execute(EVENTS.add_keys())
                self._session.execute(schema.EVENTS.create_trigger(EVENTS.name))
        for table in (EVENTS.name, KEYS):
            self._session.execute(SQL("ANALYZE {}").format(table))

    def publish(self, expected: Staged) -> None:
        """Put the tables in the place of those of the log, in one transaction; see the base class."""
        real, real_keys = schema.EVENTS.name, schema.KEYS
        with self._session.transaction():
            self._session.execute("SET LOCAL synchronous_commit TO on")
            self._session.execute(schema.EVENTS.lock)
            for tables in ((EVENTS.name, KEYS, _STAGED), (real, real_keys)):
                self._session.execute(
                    SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(SQL(", ").join(tables))
                )
            if self.staged() != expected:
                raise is_something_else(self._described_as)
            count = self._row(SQL("SELECT max(position) FROM {}").format(real))
            if count and count[0]:
                raise log_is_filled(self._described_as, count[0])
            for source, target in ((EVENTS.name, real), (KEYS, real_keys)):
                self._put_in_place(source, target)
            self.discard()
            self._session.execute(schema.EVENTS.notify)

    def _put_in_place(self, source: Identifier, target: Identifier) -> None:
        if self._shape(source) == self._shape(target):
            self._session.execute(SQL("DROP TABLE {}").format(target))
            self._session.execute(SQL("ALTER TABLE {} SET SCHEMA {}").format(source, Identifier(SCHEMA)))
        else:  # rights, views or indexes of others depend on the table: it stays, and is filled
            columns = SQL(_COLUMNS if source == EVENTS.name else _KEY_COLUMNS)
            self._session.execute(
                SQL("INSERT INTO {} ({columns}) SELECT {columns} FROM {}").format(
                    target, source, columns=columns
                )
            )

    def _shape(self, table: Identifier) -> object:
        """Return whose table it is, who may use it, and how much depends on it."""
        return self._row(
            "SELECT relowner, relacl::text, reloptions, relrowsecurity, (SELECT count(*) FROM pg_depend "
            "WHERE refclassid = 'pg_class'::regclass AND refobjid = pg_class.oid) "
            "FROM pg_class WHERE oid = %s::regclass",
            [table.as_string()],
        )

    def discard(self) -> None:
        """Remove everything that was added."""
        self._session.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(IMPORT_SCHEMA)))

    def _row(self, query: Any, values: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        with self._session.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(query, values).fetchone()


def _event_row(record: EventRecord) -> bytes:
    (
        position,
        stream_id,
        version,
        topic,
        state,
        event_id,
        recorded_at,
        actor,
        correlation_id,
        causation_id,
    ) = record
    return b"".join(
        (
            _UP_TO_VERSION.pack(10, 8, position, 16, stream_id, 8, version),
            _bytes(topic.encode()),
            _bytes(state),
            _ID.pack(16, event_id),
            _INTEGER.pack(8, recorded_at - _EPOCH_MICROSECONDS),
            _NULL if actor is None else _bytes(actor.encode()),
            _NULL if correlation_id is None else _ID.pack(16, correlation_id),
            _NULL if causation_id is None else _ID.pack(16, causation_id),
        )
    )


def _key_row(record: KeyRecord) -> bytes:
    return b"".join(
        (
            (5).to_bytes(2, "big"),
            _bytes(record.key.encode()),
            _bytes(record.fingerprint.encode()),
            _ID.pack(16, record.deployment_id),
            _INTEGER.pack(8, record.version),
            _INTEGER.pack(8, record.recorded_at - _EPOCH_MICROSECONDS),
        )
    )


def _bytes(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
