"""Stores batches of commands in an SQLite file, on a connection of its own."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from uuid import UUID

from deployledger.adapters.event_log import clock
from deployledger.adapters.event_log.clock import ClockWatch
from deployledger.adapters.event_log.commands import Command, Known, Outcome, Stored, decide, versions_before
from deployledger.adapters.event_log.group_commit import (
    MOST_ROWS,
    BatchConflictError,
    BatchWriter,
    DatabaseAwayError,
)
from deployledger.adapters.event_log.sqlite.recorders import insert
from deployledger.adapters.sqlite import is_in_use, transaction
from deployledger.domain.event_log import CommandKey

_ROWS_BEFORE_CHECKPOINT = 400
_MOST_VALUES = 500
"""How many values a query compares with at most (SQLite's own limit was 999 for long)."""


class SQLiteBatchWriter(BatchWriter):
    """Stores batches of commands in one SQLite file.

    Args:
        lock: held while a connection is used.
        watch: compares the clock with the log's last event before each transaction.
        check: called before and after each transaction; raises what keeps it from being written.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        table: str,
        keys_table: str,
        *,
        lock: AbstractContextManager[object],
        watch: ClockWatch,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = lock
        self._watch = watch
        self._check = check
        self._rows_since_checkpoint = 0
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._table = table
        self._select_event = (
            f"SELECT event_id, position FROM {table} "  # noqa: S608  # a name of ours
            "WHERE originator_id = ? AND originator_version = ?"
        )
        self._insert_key = f"INSERT INTO {keys_table} VALUES (?, ?, ?, ?, ?)"  # noqa: S608  # a name of ours
        self._select_keys = f"SELECT key, fingerprint, deployment_id, version FROM {keys_table} WHERE key IN "  # noqa: S608

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        """Enter with the connection, in autocommit mode; errors are those of the base class."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                self._check()
                self._watch.appending(last_recorded_at(self._connection, self._table))
                yield self._connection
                self._check()  # what is acknowledged is in the file that is there
            except sqlite3.IntegrityError as error:
                raise BatchConflictError(str(error)) from error
            except sqlite3.OperationalError as error:
                self.close()
                self._check()  # nobody waits for a file that was deleted, replaced or overwritten
                raise DatabaseAwayError(str(error), is_sent=not is_in_use(error)) from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._session() as connection:
            with transaction(connection):
                yield connection

    def write(self, commands: Sequence[Command]) -> list[Outcome]:
        """Store all the commands in one transaction, without looking whether others are ahead."""
        is_special = any(command.key is not None or command.corrects_clock for command in commands)
        if is_special or sum(len(command.rows) for command in commands) > MOST_ROWS:
            return self.write_checked(commands)
        before = versions_before(row for command in commands for row in command.rows)
        # A stream that has reached a version stays there, unless the log is restored in between.
        with self._transaction() if before else self._session() as connection:
            for stream_id, version in before.items():
                reached = connection.execute(self._select_event, (stream_id.hex, version)).fetchone()
                if reached is None:
                    raise BatchConflictError(f"stream {stream_id} is not at version {version}")
            return [*self._store(connection, commands)]

    def write_checked(self, commands: Sequence[Command]) -> list[Outcome]:
        """Look what is there, and store the commands that are not in conflict."""
        with self._transaction() as connection:
            outcomes = decide(commands, self._known(connection, commands))
            storable = [
                command for command, outcome in zip(commands, outcomes, strict=True) if outcome is None
            ]
            stored = iter(self._store(connection, storable))
            return [next(stored) if outcome is None else outcome for outcome in outcomes]

    def _store(self, connection: sqlite3.Connection, commands: Sequence[Command]) -> list[Stored]:
        rows = [row for command in commands for row in command.rows]
        if not rows:
            return []
        cursor = connection.cursor()
        may_fall = any(command.corrects_clock for command in commands)  # which is then alone
        for start in range(0, len(rows), MOST_ROWS):  # a statement takes only so many values
            insert(cursor.execute, self._table, rows[start : start + MOST_ROWS], may_fall=may_fall)
        self._rows_since_checkpoint += len(rows)
        position = int(cursor.lastrowid or 0) - len(rows) + 1
        keys = [command.key for command in commands if command.key is not None]
        if keys:
            connection.executemany(
                self._insert_key,
                [
                    (key.key, key.fingerprint, key.deployment_id.hex, key.version, clock.now_microseconds())
                    for key in keys
                ],
            )
        outcomes: list[Stored] = []
        for command in commands:
            outcomes.append(Stored(position))
            position += len(command.rows)
        return outcomes

    def _known(self, connection: sqlite3.Connection, commands: Sequence[Command]) -> Known:
        state = Known()
        streams = {row.originator_id.hex for command in commands for row in command.rows}
        for some in _in_parts(sorted(streams)):
            for stream, version in connection.execute(
                f"SELECT originator_id, max(originator_version) FROM {self._table} "  # noqa: S608
                f"WHERE originator_id IN ({_marks(some)}) GROUP BY originator_id",
                some,
            ):
                state.versions[UUID(stream)] = version
        event_ids = {}
        for command in commands:
            first = command.rows[0]
            place = (first.originator_id.hex, first.originator_version)
            row = connection.execute(self._select_event, place).fetchone()
            if row is not None:
                event_ids[first.originator_id, first.originator_version] = (UUID(row[0]), int(row[1]))
        state.event_ids = event_ids
        for some in _in_parts([command.key.key for command in commands if command.key is not None]):
            for key, fingerprint, deployment, version in connection.execute(
                f"{self._select_keys} ({_marks(some)})", some
            ):
                state.keys[key] = CommandKey(key, fingerprint, UUID(deployment), version)
        return state

    def rest(self) -> None:
        """Copy the write-ahead log into the file, once there is something to copy."""
        if self._connection is not None and self._rows_since_checkpoint >= _ROWS_BEFORE_CHECKPOINT:
            self._rows_since_checkpoint = 0
            with self._lock, suppress(sqlite3.Error):  # it can wait; the next append says what is wrong
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Close the connection; it is opened again when it is needed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def last_recorded_at(connection: sqlite3.Connection, table: str) -> int | None:
    """Return when the last event was recorded, in microseconds since 1970; None if there is no such time."""
    row = connection.execute(
        f"SELECT recorded_at FROM {table} ORDER BY position DESC LIMIT 1"  # noqa: S608  # a name of ours
    ).fetchone()
    return row[0] if row is not None and type(row[0]) is int else None


def _in_parts(values: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(values), _MOST_VALUES):
        yield values[start : start + _MOST_VALUES]


def _marks(values: list[str]) -> str:
    return ", ".join("?" * len(values))
