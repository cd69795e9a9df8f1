"""Fills an empty SQLite log with all of another one."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from deployledger.adapters.event_log.import_transaction import BadFileError, ImportTransaction, log_is_filled
from deployledger.adapters.event_log.reading import EVENTS_TABLE, KEYS_TABLE
from deployledger.adapters.sqlite import transaction
from deployledger.domain.event_log import KeyRecord
from deployledger.domain.event_records import EventRecord

_CACHE_KIB = 131_072
_MISPLACED = f"""
    SELECT min(position) FROM (
        SELECT position, originator_version,
               row_number() OVER (PARTITION BY originator_id ORDER BY originator_version) AS number,
               lag(position, 1, 0) OVER (PARTITION BY originator_id ORDER BY originator_version) AS before
        FROM {EVENTS_TABLE}
    ) WHERE originator_version <> number OR position < before"""  # noqa: S608  # a name of ours


class SQLiteImport(ImportTransaction):
    """A transaction of a connection that nobody else uses."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        read: Callable[[sqlite3.Connection], Iterator[Sequence[EventRecord]]],
    ) -> None:
        self._connection = connection
        self._read = read

    @classmethod
    @contextmanager
    def begun(
        cls,
        connection: sqlite3.Connection,
        read: Callable[[sqlite3.Connection], Iterator[Sequence[EventRecord]]],
        described_as: str,
    ) -> Iterator[ImportTransaction]:
        """Enter the transaction.

        Args:
            read: yields all events.
            described_as: the database, for messages.
        """
        # Streams come in no order, so their index is written all over: it is kept in memory.
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        with transaction(connection):
            if last := connection.execute(f"SELECT max(position) FROM {EVENTS_TABLE}").fetchone()[0]:  # noqa: S608
                raise log_is_filled(described_as, last)
            yield cls(connection, read)
        with suppress(sqlite3.Error):  # the write-ahead log is as large as the log; it can also shrink later
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def add_events(self, records: Iterable[EventRecord]) -> None:
        """Add all events, from the first one on."""
        self._add(EVENTS_TABLE, map(_event_row, records), "the version of the event at position {}")

    def add_keys(self, records: Iterable[KeyRecord]) -> None:
        """Add all idempotency keys."""
        self._add(KEYS_TABLE, map(_key_row, records), "the idempotency key {!r}")

    def _add(self, table: str, rows: Iterator[tuple[Any, ...]], what: str) -> None:
        last: tuple[Any, ...] = ()

        def noted() -> Iterator[tuple[Any, ...]]:
            nonlocal last
            for row in rows:
                last = row
                yield row

        marks = ", ".join("?" * (10 if table == EVENTS_TABLE else 5))
        try:
            self._connection.executemany(f"INSERT INTO {table} VALUES ({marks})", noted())  # noqa: S608
        except sqlite3.IntegrityError as error:
            raise BadFileError(f"{what.format(last[0])} occurs twice") from error

    def misplaced(self) -> int | None:
        """Return the position of the first event whose version is not the next one of its stream."""
        position: int | None = self._connection.execute(_MISPLACED).fetchone()[0]
        return position

    def records(self) -> Iterator[Sequence[EventRecord]]:
        """Yield the events that were added, a page at a time."""
        return self._read(self._connection)


def _event_row(record: EventRecord) -> tuple[Any, ...]:
    position, stream, version, topic, state, event_id, recorded_at, actor, correlation, causation = record
    return (
        position,
        stream.hex(),
        version,
        topic,
        state,
        event_id.hex(),
        recorded_at,
        actor,
        correlation and correlation.hex(),
        causation and causation.hex(),
    )


def _key_row(record: KeyRecord) -> tuple[Any, ...]:
    return record.key, record.fingerprint, record.deployment_id.hex(), record.version, record.recorded_at
