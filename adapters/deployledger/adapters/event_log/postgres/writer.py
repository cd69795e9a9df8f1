"""Stores batches of commands in PostgreSQL: one round trip a batch, two where something is in conflict."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock

import psycopg
from psycopg import sql
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from deployledger.adapters.event_log.clock import ClockWatch
from deployledger.adapters.event_log.commands import Command, Known, Outcome, Stored, decide, versions_before
from deployledger.adapters.event_log.group_commit import BatchConflictError, BatchWriter, DatabaseAwayError
from deployledger.adapters.event_log.postgres.recorders import (
    EventTable,
    array_literals,
    reached_literals,
)
from deployledger.adapters.postgres import PostgresDatabase, Session, reason
from deployledger.domain.event_log import CommandKey

_APPEND = b"deployledger_append"
_NOT_PREPARED = b"26000"  # invalid_sql_statement_name
_HELD_UP = (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled)


class PostgresBatchWriter(BatchWriter):
    """Stores batches of commands in one table, on a connection of its own.

    Args:
        database: the database that the sessions are of.
        watch: compares the server's clock with the log's last event at each transaction.
    """

    def __init__(
        self,
        database: PostgresDatabase,
        connect: Callable[[], Session],
        table: EventTable,
        keys: sql.Identifier,
        *,
        watch: ClockWatch,
    ) -> None:
        self._database = database
        self._connect = connect
        self._watch = watch
        self._session: Session | None = None
        self._plug: socket.socket | None = None
        """The session's socket under a number of its own, which is not given to another socket meanwhile."""
        self._plugging = Lock()
        self._table = table
        self._insert_keys = sql.SQL(
            "INSERT INTO {} (key, fingerprint, deployment_id, version, recorded_at) "
            "SELECT *, clock_timestamp() FROM unnest(%s::text[], %s::text[], %s::uuid[], %s::bigint[])"
        ).format(keys)
        self._select_keys = sql.SQL(
            "SELECT key, fingerprint, deployment_id, version FROM {} WHERE key = ANY(%s)"
        ).format(keys)
        self._select_versions = sql.SQL(
            "SELECT originator_id, max(originator_version) FROM {} WHERE originator_id = ANY(%s) "
            "GROUP BY originator_id"
        ).format(table.name)
        self._select_event_ids = sql.SQL(
            "SELECT originator_id, originator_version, event_id, position FROM {} "
            "JOIN unnest(%s::uuid[], %s::bigint[]) AS first (originator_id, originator_version) "
            "USING (originator_id, originator_version)"
        ).format(table.name)

    @contextmanager
    def _used_session(self) -> Iterator[Session]:
        is_sent = False
        try:
            if self._session is None or self._session.is_cut:
                self._open()
            is_sent = True
            assert self._session is not None  # noqa: S101  # opened above
            yield self._session
            self._database.was_written = True
        except (psycopg.errors.UniqueViolation, psycopg.errors.ExclusionViolation) as error:
            self._roll_back()
            raise BatchConflictError(str(error)) from error
        except BaseException as error:
            self.close()
            if self._database.is_outage(error) or isinstance(error, _HELD_UP):
                raise DatabaseAwayError(reason(error), is_sent=is_sent) from error
            raise

    def _open(self) -> None:
        self.close()
        self._session = self._connect()
        with self._plugging:
            self._plug = socket.socket(fileno=os.dup(self._session.fileno()))

    def interrupt(self) -> bool:
        """End a wait for the server, from another thread."""
        with self._plugging, suppress(OSError):
            if self._plug is not None:
                self._plug.shutdown(socket.SHUT_RDWR)
        return True

    def _roll_back(self) -> None:
        if self._session is not None:
            try:
                self._session.rollback()
            except psycopg.Error:
                self.close()

    def write(self, commands: Sequence[Command]) -> list[Outcome]:
        """Store all the commands in one transaction, without looking."""
        if any(command.key is not None or command.corrects_clock for command in commands):
            return self.write_checked(commands)
        with self._used_session() as session:
            return _outcomes(self._append(session, commands), commands)

    def _append(self, session: Session, commands: Sequence[Command]) -> int:
        """Call the append function and return the position before its events.

        It is called by libpq's own blocking call, which gives up the interpreter's lock once: an event
        loop that is busy in another thread makes each further time cost up to 5 ms.
        """
        connection = session.pgconn
        rows = [row for command in commands for row in command.rows]
        literals = [*array_literals(rows), *reached_literals(versions_before(rows))]
        values = [literal.encode() for literal in literals]
        result = connection.exec_prepared(_APPEND, values)
        if result.error_field(DiagnosticField.SQLSTATE) == _NOT_PREPARED:
            # The session is new, or the driver rolled back, which makes it deallocate everything.
            _check(connection.prepare(_APPEND, self._table.call_append_function().as_bytes(session)), session)
            result = connection.exec_prepared(_APPEND, values)
        _check(result, session)
        server, last = result.get_value(0, 1), result.get_value(0, 2)
        self._watch.appending(int(last) if last else None, int(server or 0))
        return int(result.get_value(0, 0) or 0)

    def write_checked(self, commands: Sequence[Command]) -> list[Outcome]:
        """Look what is there, and store the commands that are not in conflict."""
        with self._used_session() as session, session.transaction():
            # The lock also waits for the end of a transaction whose connection broke during COMMIT.
            session.execute(self._table.lock)
            outcomes = decide(commands, self._known(session, commands))
            storable = [
                command for command, outcome in zip(commands, outcomes, strict=True) if outcome is None
            ]
            stored: Iterator[Outcome] = iter(())
            if storable:
                stored = iter(_outcomes(self._insert(session, storable), storable))
            return [next(stored) if outcome is None else outcome for outcome in outcomes]

    def _insert(self, session: Session, commands: Sequence[Command]) -> int:
        """Insert the events and the keys, and return the position before the events."""
        rows = [row for command in commands for row in command.rows]
        clocks = session.execute(self._table.clocks).fetchone()
        if clocks is not None:
            self._watch.appending(clocks[1], clocks[0])
        is_correction = any(command.corrects_clock for command in commands)  # which is then alone
        insert = self._table.insert_correction if is_correction else self._table.insert
        before = session.execute(insert, array_literals(rows), prepare=True).fetchone()
        keys = [command.key for command in commands if command.key is not None]
        if keys:
            session.execute(
                self._insert_keys,
                (
                    [key.key for key in keys],
                    [key.fingerprint for key in keys],
                    [key.deployment_id for key in keys],
                    [key.version for key in keys],
                ),
            )
        session.execute(self._table.notify)
        return int(before[0]) if before else 0

    def _known(self, session: Session, commands: Sequence[Command]) -> Known:
        streams = list({row.originator_id for command in commands for row in command.rows})
        firsts = [command.rows[0] for command in commands]
        keys = [command.key.key for command in commands if command.key is not None]
        event_ids = session.execute(
            self._select_event_ids,
            ([row.originator_id for row in firsts], [row.originator_version for row in firsts]),
        )
        return Known(
            versions=dict(session.execute(self._select_versions, (streams,)).fetchall()),
            event_ids={(row[0], row[1]): (row[2], row[3]) for row in event_ids},
            keys={row[0]: CommandKey(*row) for row in session.execute(self._select_keys, (keys,))}
            if keys
            else {},
        )

    def close(self) -> None:
        """Close the connection; it is opened again when it is needed."""
        with self._plugging:
            if self._plug is not None:
                self._plug.close()
                self._plug = None
        if self._session is not None:
            self._session.close()
            self._session = None


def _outcomes(before: int, commands: Sequence[Command]) -> list[Outcome]:
    position = before + 1
    outcomes: list[Outcome] = []
    for command in commands:
        outcomes.append(Stored(position))
        position += len(command.rows)
    return outcomes


def _check(result: PGresult, session: Session) -> None:
    """Raise the driver's error for a result that is one."""
    if result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        return
    encoding = session.info.encoding
    primary = result.error_field(DiagnosticField.MESSAGE_PRIMARY)
    message = primary.decode(encoding, "replace") if primary else result.get_error_message(encoding)
    state = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    if not state or session.pgconn.status != ConnStatus.OK:
        raise psycopg.OperationalError(message)
    raise psycopg.errors.lookup(state)(message)
