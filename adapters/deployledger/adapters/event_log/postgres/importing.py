"""Fills an empty PostgreSQL log with all of another one."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from struct import Struct

import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composed

from deployledger.adapters.event_log.import_transaction import BadFileError, ImportTransaction, log_is_filled
from deployledger.adapters.event_log.postgres.schema import EVENTS, KEYS
from deployledger.adapters.postgres import Session
from deployledger.domain.event_log import KeyRecord
from deployledger.domain.event_records import EventRecord

_SENT_BYTES = 1 << 18
_SESSION_SETTINGS = """
    SET statement_timeout TO 0;
    SET idle_in_transaction_session_timeout TO 0;
    SET lock_timeout TO '30s';
"""

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

_COPIED_LINE = re.compile(r"COPY \w+, line (\d+)")
_COPY_EVENTS = SQL(
    "COPY {} (position, originator_id, originator_version, topic, state, event_id, recorded_at, actor, "
    "correlation_id, causation_id) FROM STDIN (FORMAT BINARY)"
).format(EVENTS.name)
_COPY_KEYS = SQL(
    "COPY {} (key, fingerprint, deployment_id, version, recorded_at) FROM STDIN (FORMAT BINARY)"
).format(KEYS)
_MISPLACED = SQL(
    "SELECT min(position) FROM (SELECT position, originator_version, row_number() OVER ("
    "PARTITION BY originator_id ORDER BY position) AS number FROM {}) AS placed "
    "WHERE originator_version <> number"
).format(EVENTS.name)


class PostgresImport(ImportTransaction):
    """A transaction of a session that nobody else uses."""

    def __init__(self, session: Session, read: Callable[[Session], Iterator[Sequence[EventRecord]]]) -> None:
        self._session = session
        self._read = read

    @classmethod
    @contextmanager
    def begun(
        cls,
        session: Session,
        read: Callable[[Session], Iterator[Sequence[EventRecord]]],
        described_as: str,
    ) -> Iterator[ImportTransaction]:
        """Enter the transaction.

        Args:
            read: yields all events.
            described_as: the database, for messages.
        """
        session.execute(_SESSION_SETTINGS)
        with session.transaction():
            session.execute(EVENTS.lock)
            if last := _number(session, SQL("SELECT max(position) FROM {}").format(EVENTS.name)):
                raise log_is_filled(described_as, last)
            yield cls(session, read)
            session.execute(SQL("ANALYZE {}, {}").format(EVENTS.name, KEYS))
            session.execute(EVENTS.notify)

    def add_events(self, records: Iterable[EventRecord]) -> None:
        """Add all events, from the first one on."""
        try:
            self._copy(_COPY_EVENTS, map(_event_row, records))
        except psycopg.errors.UniqueViolation as error:
            line = _COPIED_LINE.search(error.diag.context or "")
            which = f"the event at position {line[1]}" if line else "an event"
            raise BadFileError(f"the version of {which} occurs twice") from error

    def add_keys(self, records: Iterable[KeyRecord]) -> None:
        """Add all idempotency keys."""
        try:
            self._copy(_COPY_KEYS, map(_key_row, records))
        except psycopg.errors.UniqueViolation as error:
            raise BadFileError(f"an idempotency key occurs twice: {error.diag.message_detail}") from error

    def _copy(self, statement: Composed, rows: Iterator[bytes]) -> None:
        """Copy rows, which the server stores while the next ones are made."""
        try:
            with self._session.cursor() as cursor, cursor.copy(statement) as copy:
                waiting = bytearray(_COPY_BEGIN)
                for row in rows:
                    waiting += row
                    if len(waiting) >= _SENT_BYTES:
                        copy.write(bytes(waiting))
                        waiting.clear()
                copy.write(bytes(waiting) + _COPY_END)
        except psycopg.DataError as error:
            raise BadFileError(f"the database refuses what is in it: {error}") from error

    def misplaced(self) -> int | None:
        """Return the position of the first event whose version is not the next one of its stream."""
        return _number(self._session, _MISPLACED)

    def records(self) -> Iterator[Sequence[EventRecord]]:
        """Yield the events that were added, a page at a time."""
        return self._read(self._session)


def _number(session: Session, query: Composed) -> int | None:
    with session.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query).fetchone()
    return row[0] if row else None


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
