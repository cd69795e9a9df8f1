"""Where an import into an SQLite log is prepared: in tables of other names in the same file."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any
from uuid import UUID

from deployledger.adapters.event_log.log import EVENTS_TABLE, KEYS_TABLE
from deployledger.adapters.event_log.moving.lines import BadFileError
from deployledger.adapters.event_log.moving.staging import Staged, Staging, is_something_else, log_is_filled
from deployledger.adapters.event_log.sqlite import schema
from deployledger.adapters.event_log.sqlite.recorders import create_statements
from deployledger.adapters.sqlite import transaction
from deployledger.domain.event_log import EventRecord, KeyRecord

EVENTS = "import_events"
KEYS = "import_keys"
_STAGED = "import_staged"

_EVENT_COLUMNS = 10
_KEY_COLUMNS = 5
_CACHE_KIB = 131_072
_PAGES_IN_LOG = 64_000


class SQLiteStaging(Staging):
    """Tables beside those of the log, which get their names when they are complete.

    Args:
        connection: used by nobody else, in autocommit mode.
        read_records: reads from a table of events.
        described_as: the database, for messages.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        read_records: Callable[[str, int, int], Iterator[Sequence[EventRecord]]],
        described_as: str,
    ) -> None:
        self._connection = connection
        self._read_records = read_records
        self._described_as = described_as
        # Streams come in no order, so their index is written all over: it is kept in memory, and written to
        # the file seldom. What a crash of the machine undoes is imported again; the last commit waits for
        # the disk.
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_IN_LOG}")
        connection.execute("PRAGMA synchronous = NORMAL")

    def staged(self) -> Staged | None:
        """Return what an import that was interrupted has left; None if nothing."""
        if not self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (_STAGED,)).fetchone():
            return None
        export_id, events, keys = self._connection.execute(f"SELECT * FROM {_STAGED}").fetchone()  # noqa: S608
        return Staged(UUID(export_id), events, keys)

    def begin(self, export_id: UUID) -> None:
        """Remove what is there, and begin with another export."""
        with transaction(self._connection) as connection:
            self._drop()
            connection.execute(create_statements(EVENTS)[0])
            connection.execute(schema.create_keys_table(KEYS))
            connection.execute(
                f"CREATE TABLE {_STAGED} "
                "(export_id TEXT NOT NULL, events INTEGER NOT NULL, keys INTEGER NOT NULL)"
            )
            connection.execute(f"INSERT INTO {_STAGED} VALUES (?, 0, 0)", (export_id.hex,))  # noqa: S608

    def add_events(self, records: Iterable[EventRecord]) -> int:
        """Add events behind the last one, all or none of them, and return how many they were."""
        return self._add("events", EVENTS, _EVENT_COLUMNS, map(_event_row, records))

    def add_keys(self, records: Iterable[KeyRecord]) -> int:
        """Add idempotency keys, all or none of them, and return how many they were."""
        return self._add("keys", KEYS, _KEY_COLUMNS, map(_key_row, records))

    def _add(self, counted: str, table: str, columns: int, rows: Iterator[tuple[Any, ...]]) -> int:
        statement = f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})"  # noqa: S608  # a name of ours
        added, last = 0, tuple[Any, ...]()

        def counted_rows() -> Iterator[tuple[Any, ...]]:
            nonlocal added, last
            for row in rows:
                last = row
                yield row
                added += 1

        try:
            with transaction(self._connection) as connection:
                connection.executemany(statement, counted_rows())
                connection.execute(f"UPDATE {_STAGED} SET {counted} = {counted} + ?", (added,))  # noqa: S608
        except sqlite3.IntegrityError as error:
            raise BadFileError(f"{_described(last)} is there twice") from error
        return added

    def records(self, *, after: int, until: int) -> Iterator[Sequence[EventRecord]]:
        """Yield events that were added, a page at a time."""
        return self._read_records(EVENTS, after, until)

    def misplaced(self) -> int | None:
        """Return the position of the first event whose version is not the next one of its stream."""
        row = self._connection.execute(
            "SELECT min(position) FROM (SELECT position, originator_version, row_number() OVER ("  # noqa: S608
            f"PARTITION BY originator_id ORDER BY originator_version) AS number, lag(position, 1, 0) OVER ("
            f"PARTITION BY originator_id ORDER BY originator_version) AS before FROM {EVENTS}) "
            "WHERE originator_version <> number OR position < before"
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def complete(self) -> None:
        """Do nothing: the index is made with the table, or could not have the name that it has in a log."""

    def publish(self, expected: Staged) -> None:
        """Put the tables in the place of those of the log, in one transaction; see the base class."""
        self._connection.execute("PRAGMA synchronous = FULL")
        with transaction(self._connection) as connection:
            if self.staged() != expected:
                raise is_something_else(self._described_as)
            events = connection.execute(f"SELECT max(position) FROM {EVENTS_TABLE}").fetchone()[0]  # noqa: S608
            if events:
                raise log_is_filled(self._described_as, events)
            is_as_created = self._is_as_created()
            for source, target in ((EVENTS, EVENTS_TABLE), (KEYS, KEYS_TABLE)):
                if is_as_created:
                    connection.execute(f"DROP TABLE {target}")
                    connection.execute(f"ALTER TABLE {source} RENAME TO {target}")
                else:  # views or indexes of others depend on the tables: they stay, and are filled
                    connection.execute(f"INSERT INTO {target} SELECT * FROM {source}")  # noqa: S608
            for statement in create_statements(EVENTS_TABLE):
                connection.execute(statement)
            self._drop()

    def _is_as_created(self) -> bool:
        """Return whether the file has nothing but what we create in it."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as created:
            schema.create(created)
            return _objects(created) == _objects(self._connection)

    def discard(self) -> None:
        """Remove everything that was added."""
        with transaction(self._connection):
            self._drop()

    def _drop(self) -> None:
        for table in (EVENTS, KEYS, _STAGED):
            self._connection.execute(f"DROP TABLE IF EXISTS {table}")


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(
        connection.execute(
            "SELECT type, name FROM sqlite_master WHERE tbl_name NOT IN (?, ?, ?)", (EVENTS, KEYS, _STAGED)
        )
    )


def _event_row(record: EventRecord) -> tuple[Any, ...]:
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
    return (
        position,
        stream_id.hex(),
        version,
        topic,
        state,
        event_id.hex(),
        recorded_at,
        actor,
        None if correlation_id is None else correlation_id.hex(),
        None if causation_id is None else causation_id.hex(),
    )


def _described(row: tuple[Any, ...]) -> str:
    is_key = len(row) == _KEY_COLUMNS
    return f"the idempotency key {row[0]!r}" if is_key else f"the version of the event at position {row[0]}"


def _key_row(record: KeyRecord) -> tuple[Any, ...]:
    return record.key, record.fingerprint, record.deployment_id.hex(), record.version, record.recorded_at
