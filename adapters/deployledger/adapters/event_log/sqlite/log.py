"""The event log in an SQLite file, or in memory."""

import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from eventsourcing.persistence import ApplicationRecorder, StoredEvent
from eventsourcing.sqlite import SQLiteConnection, SQLiteDatastore

from deployledger.adapters.event_log import clock
from deployledger.adapters.event_log.damage import damaged, wrong_of
from deployledger.adapters.event_log.following import Tail
from deployledger.adapters.event_log.group_commit import BatchWriter
from deployledger.adapters.event_log.import_transaction import ImportTransaction
from deployledger.adapters.event_log.log import EVENTS_TABLE, KEYS_TABLE, DatabaseEventLog, StoredRow
from deployledger.adapters.event_log.sqlite.file_guard import FileGuard, check_left_files, check_not_inherited
from deployledger.adapters.event_log.sqlite.importing import SQLiteImport
from deployledger.adapters.event_log.sqlite.objects import TRIGGERS, objects
from deployledger.adapters.event_log.sqlite.recorders import SQLiteLogRecorder
from deployledger.adapters.event_log.sqlite.schema import create, found_version, restore_triggers, upgrade
from deployledger.adapters.event_log.sqlite.tail import SQLiteTail
from deployledger.adapters.event_log.sqlite.writer import SQLiteBatchWriter
from deployledger.adapters.sqlite import (
    advice,
    integrity,
    is_in_use,
    is_unwritable,
    read_only,
    state_of,
)
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
from deployledger.domain.exceptions import (
    VERIFY_HINT,
    EventLogError,
    EventLogUnavailableError,
    UndecodableEventError,
)
from deployledger.domain.findings import Finding
from deployledger.domain.timestamps import from_microseconds, to_microseconds
from deployledger.projections.patience import Patience
from deployledger.service.files.locks import try_lock
from deployledger.service.files.paths import expanded
from deployledger.service.files.private import make_folder, refusal
from deployledger.service.files.writing import write_new

if TYPE_CHECKING:
    from deployledger.audit.ledger_store import LedgerStore
    from deployledger.projections.store import ReadModelStore

_RESTORE = "Restore it from a backup, and verify that with `deployledger audit verify`."
_LOCK_TIMEOUT_SECONDS = 10
_WRITER_CACHE_KIB = 65_536
_MOST_PAGES_IN_LOG = 16_000
_SWITCH_PAUSE_SECONDS = 0.005
_SCANNED_AT_ONCE = 200
_TICK_SECONDS = 0.002
_SELECT_RAW = f"SELECT position, originator_id, originator_version, topic, state FROM {EVENTS_TABLE}"  # noqa: S608
_SELECT_RECORDS = (
    "SELECT position, originator_id, originator_version, topic, state, event_id, recorded_at, actor, "  # noqa: S608
    f"correlation_id, causation_id FROM {EVENTS_TABLE}"
)
_ID_BYTES = 16


class _LockedDatastore(SQLiteDatastore):
    """The library's datastore, with a lock around each use of a connection."""

    def __init__(
        self,
        db_name: str,
        *,
        lock_timeout: int,
        lock: AbstractContextManager[object],
        check: Callable[[], None],
    ) -> None:
        self._lock = lock
        self._check = check
        super().__init__(db_name, lock_timeout=lock_timeout)

    @contextmanager
    def get_connection(self, *, commit: bool) -> Iterator[SQLiteConnection]:
        self._check()
        with self._lock, super().get_connection(commit=commit) as connection:
            yield connection


class SQLiteEventLog(DatabaseEventLog):
    """An event log in one SQLite file; ``None`` keeps it in memory for as long as it is open.

    Ownership is an flock on a file of its own beside the database: the kernel gives it up when the
    process that holds it dies, however it dies.
    """

    def __init__(self, path: Path | None, *, patience: Patience) -> None:
        self._path = expanded(path).absolute() if path else None
        self._name = (
            str(self._path) if self._path else f"file:deployledger-{uuid4().hex}?mode=memory&cache=shared"
        )
        self._datastore: SQLiteDatastore | None = None
        self._kept_in_memory: sqlite3.Connection | None = None
        self._last_end: tuple[tuple[Any, ...], Mark] = ((), NOTHING_READ)
        # Connections to the same memory do not wait for each other's locks: they fail. So they take turns.
        self._memory_lock: AbstractContextManager[object] = nullcontext() if path else RLock()
        self._guard = FileGuard(self._path) if self._path else None
        self._is_left_checked = self._path is None
        self._unwritable = ""
        self._as_opened: tuple[int, ...] = ()
        """Why the file was opened for reading only, if it was, and its state then."""
        self._owned: set[UUID] = set()
        self._owned_lock = Lock()
        self._lock_timeout = min(_LOCK_TIMEOUT_SECONDS, patience.seconds)
        url = f"sqlite:///{self._path}" if self._path else "sqlite://"
        super().__init__(url, str(self._path or "memory"), patience=patience)

    def _connection(self) -> sqlite3.Connection:
        """Return a new connection, in autocommit mode."""
        if self._path is not None and not self._unwritable:
            try:
                make_folder(self._path.parent)
            except OSError as error:
                raise EventLogError(
                    f"The folder of the event log {self._path} cannot be made: {error.strerror}.",
                    hint="Choose another place with DEPLOYLEDGER_HOME or DEPLOYLEDGER_DATABASE_URL.",
                ) from error
            with suppress(OSError):  # SQLite says why
                write_new(self._path)
            check_not_inherited(self._path)
            if not self._is_left_checked:
                check_left_files(self._path)
                self._is_left_checked = True
        self._check_unchanged()
        connection = sqlite3.connect(
            self._name,
            uri=self._path is None or bool(self._unwritable),
            timeout=self._lock_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        if self._path is None or self._unwritable:
            return connection
        try:
            _switch_to_write_ahead_log(connection)
        except sqlite3.OperationalError as error:
            connection.close()
            if not is_unwritable(error) or self._recorder_or_none is not None or not self._path.exists():
                raise
            return self._read_only(self._path, error)
        return connection

    def _read_only(self, path: Path, error: sqlite3.Error) -> sqlite3.Connection:
        """Return a connection to a file that cannot be written, if it can be read; later ones are like it.

        Raises:
            sqlite3.Error: the error, if it cannot.
        """
        state = state_of(path)
        try:
            connection, uri = read_only(path)
        except sqlite3.Error:
            raise error from None
        self._name, self._unwritable, self._as_opened = uri, str(error), state
        return connection

    def _check_unchanged(self) -> None:
        """Check that a file that was opened for reading only is as it was: SQLite would not notice."""
        if self._unwritable and self._path is not None and state_of(self._path) != self._as_opened:
            raise EventLogError(
                f"The event log in {self._described_as} was opened read-only, and has been written to since.",
                hint="Reopen it.",
            )

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        """Enter with a connection for one use; errors are ours."""
        try:
            with self._memory_lock, closing(self._connection()) as connection:
                yield connection
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: BaseException) -> EventLogError:
        whose = refusal(self._path) if self._path is not None else ""
        if whose:
            return EventLogError(
                f"The event log in {self._described_as} cannot be used: {error}. {whose}",
                hint="Set DEPLOYLEDGER_HOME to a folder of your own, or have its owner share the home "
                "with a group (DEPLOYLEDGER_HOME_GROUP); docs/read-only.md says how to look at a copy.",
            )
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
            return EventLogError(
                f"The event log in {self._described_as} is damaged: {error}.",
                hint=f"`deployledger db check` says where. {_RESTORE}",
            )
        kind = EventLogUnavailableError if is_in_use(error) else EventLogError
        return kind(
            f"The event log in {self._described_as} cannot be used: {error}.",
            hint=advice(
                error,
                "Check that it is an SQLite database of deployledger, and that you may write it and its "
                "folder: SQLite needs that to read, too. Else look at a copy; docs/read-only.md says how.",
            ),
        )

    def _make_writer(self) -> BatchWriter:
        def connect() -> sqlite3.Connection:
            connection = self._connection()
            if self._unwritable and self._path is not None:
                connection.close()
                raise EventLogError(
                    f"The event log in {self._described_as} is open read-only: {self._unwritable}.",
                    hint=f"Make {self._path.parent} writable, or free space on its disk, and reopen the "
                    "log. To use another folder, set DEPLOYLEDGER_HOME.",
                )
            # Streams come in no order, so their index is written all over: it is kept in memory.
            connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
            # The writer copies the write-ahead log into the file while nobody waits; this bounds it.
            connection.execute(f"PRAGMA wal_autocheckpoint = {_MOST_PAGES_IN_LOG}")
            return connection

        return SQLiteBatchWriter(
            connect,
            EVENTS_TABLE,
            KEYS_TABLE,
            lock=self._memory_lock,
            watch=self._clock,
            check=lambda: self._guard.check(writes=True) if self._guard is not None else None,
        )

    def _check_usable(self) -> None:
        """Check that the files are still those that were opened: what is written to others is lost."""
        if self._guard is not None:
            self._guard.check()

    def _make_tail(self) -> Tail:
        return SQLiteTail(self._connection if self._path else None)

    def _connect(self) -> ApplicationRecorder:
        self._datastore = _LockedDatastore(
            self._name,
            lock_timeout=math.ceil(self._lock_timeout),
            lock=self._memory_lock,
            check=self._check_unchanged,
        )
        if self._guard is not None and not self._unwritable:
            try:
                self._guard.begin()
            except sqlite3.Error as error:
                raise self._unusable(error) from error
        return SQLiteLogRecorder(self._datastore, events_table_name=EVENTS_TABLE)

    def _disconnect(self) -> None:
        if self._datastore is not None:
            self._datastore.close()
            self._datastore = None
        if self._guard is not None:
            self._guard.close()
        if self._kept_in_memory is not None:
            self._kept_in_memory.close()
            self._kept_in_memory = None

    @property
    def _creates_schema(self) -> bool:
        return True

    def _found_schema(self) -> int:
        if self._path is not None and not self._path.exists():
            return 0
        with self._session() as connection:
            return found_version(connection)

    def _create_schema(self) -> None:
        if self._path is None and self._kept_in_memory is None:
            self._kept_in_memory = (
                self._connection()
            )  # memory is shared for as long as one connection is open
        with self._session() as connection:
            create(connection)

    def _upgrade_schema(self) -> None:
        with self._session() as connection:
            upgrade(connection)

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
        conditions, values = ["position > ?"], list[int | str]([after])
        if until is not None:
            conditions.append("position <= ?")
            values.append(until)
        if topics:
            conditions.append(f"topic IN ({', '.join('?' * len(topics))})")
            values.extend(topics)
        if stream_id is not None:
            conditions.append("originator_id = ?")
            values.append(stream_id.hex)
        selected = " AND ".join(conditions)
        if with_last:
            selected = f"position >= ? AND (position = ? OR {selected})"
            values = [after, after, *values]
        query = (
            "SELECT position, recorded_at, originator_id, originator_version, topic, state "  # noqa: S608
            f"FROM {EVENTS_TABLE} WHERE {selected} ORDER BY position LIMIT ?"
        )
        for position, recorded_at, originator_id, version, topic, state in self._select(
            query, *values, limit
        ):
            try:
                stream = UUID(originator_id)
            except (ValueError, TypeError, AttributeError) as error:
                raise _damaged(position, "the id of its stream is none") from error
            yield StoredRow(
                position, _time(position, recorded_at), StoredEvent(stream, version, topic, state)
            )

    def _end(self) -> Mark:
        rows = self._select(f"{_SELECT_RAW} ORDER BY position DESC LIMIT 1")
        if not rows:
            return NOTHING_READ
        row, mark = self._last_end
        if row != rows[0]:  # most questions find the log as it was: no digest is made for them
            mark = mark_of(_raw_events(rows)[0])
            self._last_end = rows[0], mark
        return mark

    def _wait_for_appends(self, moment: datetime) -> None:
        if self._unwritable:
            return
        # An append that has the lock later is recorded no more than a millisecond before that.
        time.sleep(max(0.0, (moment - clock.now()).total_seconds() + _TICK_SECONDS))
        try:
            with self._session() as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except EventLogError:
            if self._path is not None and os.access(self._path, os.W_OK):
                raise  # else it is not ours to write, and what others do is seen as it comes

    def _recorded_by(self, moment: datetime, first: int, last: int) -> int:
        query = f"""
            WITH RECURSIVE search (low, high) AS (
                SELECT ?2, ?3
                UNION ALL
                SELECT CASE WHEN recorded_at <= ?1 THEN (low + high + 1) / 2 ELSE low END,
                       CASE WHEN recorded_at <= ?1 THEN high ELSE (low + high + 1) / 2 - 1 END
                FROM search LEFT JOIN {EVENTS_TABLE} ON position = (low + high + 1) / 2
                WHERE low < high
            )
            SELECT low FROM search WHERE low = high"""  # noqa: S608  # a name of ours
        return int(self._select(query, to_microseconds(moment), first - 1, last)[0][0])

    def _clocks(self) -> tuple[int, int | None, int | None]:
        query = f"SELECT position, recorded_at FROM {EVENTS_TABLE} ORDER BY position DESC LIMIT 1"  # noqa: S608
        rows = self._select(query)
        position, recorded_at = rows[0] if rows else (0, None)
        return position, recorded_at if type(recorded_at) is int else None, None

    def _raw_events(self, after: int, limit: int) -> list[RawEvent]:
        query = f"{_SELECT_RAW} WHERE position > ? ORDER BY position LIMIT ?"
        return _raw_events(self._select(query, after, limit))

    def _events_of_streams(self, stream_ids: Sequence[UUID], until: int) -> list[RawEvent]:
        query = (
            f"{_SELECT_RAW} WHERE originator_id IN (SELECT value FROM json_each(?)) "  # noqa: S608
            "AND +position <= ? "
            "ORDER BY position"
        )
        ids = json.dumps([stream_id.hex for stream_id in stream_ids])
        return _raw_events(self._select(query, ids, until))

    def _stream_records(self, stream_id: UUID, until: int | None, limit: int | None) -> list[RawRecord]:
        condition, values = "", list[int | str]([stream_id.hex])
        if until is not None:
            condition = "AND position <= ?"
            values.append(until)
        query = (
            "SELECT position, originator_id, originator_version, topic, state, recorded_at, event_id, actor, "  # noqa: S608
            f"correlation_id, causation_id FROM {EVENTS_TABLE} "
            f"WHERE originator_id = ? {condition} ORDER BY originator_version LIMIT ?"
        )
        rows = self._select(query, *values, -1 if limit is None else limit)
        raws = _raw_events([row[:5] for row in rows])
        return [
            RawRecord(raw, _time(raw.position, row[5]), *row[6:]) for raw, row in zip(raws, rows, strict=True)
        ]

    def _scan(
        self, after: int, until: int, streams: tuple[UUID, UUID] | None
    ) -> Iterator[Sequence[RawEvent]]:
        if self._path is None:  # connections to the same memory take turns: none is kept for long
            yield from self._scan_memory(after, until, streams)
            return
        condition, values = "", list[int | str]([after, until])
        if streams is not None:
            condition = "AND originator_id BETWEEN ? AND ?"
            values.extend(stream.hex for stream in streams)
        query = f"{_SELECT_RAW} WHERE position > ? AND position <= ? {condition} ORDER BY position"
        with self._session() as connection:
            rows = connection.execute(query, values)
            while page := rows.fetchmany(_SCANNED_AT_ONCE):
                yield _raw_events(page)

    def _scan_memory(
        self, after: int, until: int, streams: tuple[UUID, UUID] | None
    ) -> Iterator[Sequence[RawEvent]]:
        while page := [
            raw for raw in self.read_raw(after=after, limit=_SCANNED_AT_ONCE) if raw.position <= until
        ]:
            after = page[-1].position
            yield [raw for raw in page if streams is None or streams[0] <= UUID(raw.stream_id) <= streams[1]]

    def _records(self, after: int, until: int) -> Iterator[Sequence[EventRecord]]:
        query = f"{_SELECT_RECORDS} WHERE position >= ? AND position <= ? ORDER BY position"
        if self._path is None:  # as above
            while rows := self._select(f"{query} LIMIT {_SCANNED_AT_ONCE}", after + 1, until):
                after = rows[-1][0]
                yield from _record_pages(rows)
            return
        with self._session() as connection:
            cursor = connection.execute(query, (after + 1, until))
            while rows := cursor.fetchmany(_SCANNED_AT_ONCE):
                yield from _record_pages(rows)

    def _keys(self, until: int, after: str) -> Iterator[Sequence[KeyRecord]]:
        # A key is stored with the events of its command, one of which it names.
        query = (
            "SELECT key, fingerprint, deployment_id, version, k.recorded_at "  # noqa: S608
            f"FROM {KEYS_TABLE} AS k LEFT JOIN {EVENTS_TABLE} ON originator_id = deployment_id "
            "AND originator_version = version WHERE key > ? AND coalesce(position, 0) <= ? "
            f"ORDER BY key LIMIT {_SCANNED_AT_ONCE}"
        )
        while rows := self._select(query, after, until):
            after = rows[-1][0]
            yield [_key_record(row) for row in rows]

    def _keyed_events(self, until: int) -> Iterator[Sequence[KeyedEvent]]:
        query = (
            "SELECT key, fingerprint, deployment_id, version, k.recorded_at, position, originator_id, "  # noqa: S608
            f"originator_version, topic, state, e.recorded_at FROM {KEYS_TABLE} AS k "
            f"LEFT JOIN {EVENTS_TABLE} AS e ON originator_id = deployment_id "
            "AND originator_version = version "
            f"WHERE key > ? AND coalesce(position, 0) <= ? ORDER BY key LIMIT {_SCANNED_AT_ONCE}"
        )
        after = ""
        while rows := self._select(query, after, until):
            after = rows[-1][0]
            yield [_keyed_event(row) for row in rows]

    @contextmanager
    def import_transaction(self) -> Iterator[ImportTransaction]:
        """Enter with the transaction that fills this log."""
        with self._session() as connection:
            with SQLiteImport.begun(connection, _all_records, self._described_as) as transaction:
                yield transaction

    def _select(self, query: str, *values: int | str) -> list[tuple[Any, ...]]:
        assert self._datastore is not None  # noqa: S101  # opened by the caller
        # Pages are read after the call that asked for them has returned: errors become ours here.
        with self._translated_errors(), self._datastore.transaction(commit=False) as cursor:
            cursor.execute(query, values)
            return [tuple(row) for row in cursor.fetchall()]

    def _find_command(self, key: str) -> CommandKey | None:
        query = f"SELECT key, fingerprint, deployment_id, version FROM {KEYS_TABLE} WHERE key = ?"  # noqa: S608
        assert self._datastore is not None  # noqa: S101  # opened by the caller
        with self._datastore.transaction(commit=False) as cursor:
            cursor.execute(query, (key,))
            row = cursor.fetchone()
        return CommandKey(row[0], row[1], UUID(row[2]), row[3]) if row else None

    def _count(self) -> tuple[int, dict[str, int], int]:
        assert self._datastore is not None  # noqa: S101  # opened by the caller
        with self._datastore.transaction(commit=False) as cursor:
            cursor.execute(f"SELECT count(DISTINCT originator_id) FROM {EVENTS_TABLE}")  # noqa: S608
            streams = int(cursor.fetchone()[0])
            cursor.execute(
                f"SELECT CAST(topic AS TEXT), count(*) FROM {EVENTS_TABLE} GROUP BY 1 ORDER BY 1"  # noqa: S608
            )
            topics = {row[0]: int(row[1]) for row in cursor.fetchall()}
            cursor.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
            return streams, topics, int(cursor.fetchone()[0])

    def _findings(self, *, whole: bool) -> Iterator[Finding]:
        with self._session() as connection:
            if whole and self._path is not None:
                yield integrity(
                    connection,
                    f"the event log, {self._described_as},",
                    _RESTORE,
                )
            yield from objects(connection, f"the event log in {self._described_as}")

    def _restore_triggers(self) -> None:
        with self._session() as connection:
            if any(it.check == TRIGGERS and it.is_problem for it in objects(connection, self._described_as)):
                restore_triggers(connection)

    def open_read_model_store(self) -> "ReadModelStore":
        """Return the store of read models in the file beside the log's."""
        from deployledger.adapters.read_models.sqlite import SQLiteReadModels

        return SQLiteReadModels(self._path and self._path.with_name(f"{self._path.name}.read-models"))

    def open_ledger_store(self) -> "LedgerStore":
        """Return the store of the ledger in the file beside the log's."""
        from deployledger.adapters.ledger.sqlite import SQLiteLedgerStore

        return SQLiteLedgerStore(self._path and self._path.with_name(f"{self._path.name}.ledger"))

    @contextmanager
    def ownership(self, stream_id: UUID) -> Iterator[bool]:
        """Try to become the one that works on a stream; see the port."""
        self._check_process()
        if self._path is None or self._unwritable:
            with self._owned_lock:
                is_owner = stream_id not in self._owned
                self._owned.add(stream_id)
            try:
                yield is_owner
            finally:
                if is_owner:
                    with self._owned_lock:
                        self._owned.discard(stream_id)
            return
        folder = self._path.with_name(f"{self._path.name}.locks")
        try:
            make_folder(folder)
            lock = try_lock(folder / str(stream_id))
        except OSError as error:
            raise EventLogError(
                f"The lock folder {folder} of the event log cannot be used: {error.strerror}.",
                hint="Check that the folder of the database is writable.",
            ) from error
        if lock is None:
            yield False
            return
        try:
            yield True
        finally:
            (folder / str(stream_id)).unlink(missing_ok=True)
            os.close(lock)


def _all_records(connection: sqlite3.Connection) -> Iterator[Sequence[EventRecord]]:
    cursor = connection.execute(f"{_SELECT_RECORDS} ORDER BY position")
    while rows := cursor.fetchmany(_SCANNED_AT_ONCE):
        yield from _record_pages(rows)


def _raw_events(rows: Sequence[tuple[Any, ...]]) -> list[RawEvent]:
    """Return events whose columns have the types that they should; a damaged one does not decode."""
    new = tuple.__new__  # which makes up for the time that looking at the types takes
    return [
        new(RawEvent, (position, _dashed(stream), version, topic, state))
        if type(state) is bytes and type(version) is int and type(topic) is str and type(stream) is str
        else damaged((position, _dashed(stream) if type(stream) is str else stream, version, topic, state))
        for position, stream, version, topic, state in rows
    ]


def _dashed(stream: str) -> str:
    """Return an id of 32 hexadecimal digits as UUIDs are written."""
    return f"{stream[:8]}-{stream[8:12]}-{stream[12:16]}-{stream[16:20]}-{stream[20:]}"


def _time(position: int, stored: Any) -> datetime:
    if type(stored) is not int:
        raise _damaged(position, "its time is not stored as a number")
    try:
        return from_microseconds(stored)
    except OverflowError as error:
        raise _damaged(position, "its time is not a valid date") from error


def _damaged(position: int, what: str) -> UndecodableEventError:
    return UndecodableEventError(f"Event {position} of the log is damaged: {what}.", hint=VERIFY_HINT)


def _record_pages(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[EventRecord]]:
    """Yield the events of a page; those in front of a damaged one before that is told."""
    records: list[EventRecord] = []
    try:
        for row in rows:
            records.append(_record(row))
    except UndecodableEventError:
        if records:
            yield records
        raise
    yield records


def _key_record(row: tuple[Any, ...]) -> KeyRecord:
    key, fingerprint, deployment, version, recorded_at = row
    try:
        if type(version) is not int or type(recorded_at) is not int:
            raise TypeError("its version or its time is no number")
        return KeyRecord(key, fingerprint, _id(deployment), version, recorded_at)
    except (ValueError, TypeError, AttributeError) as error:
        raise EventLogError(
            f"The idempotency key {key!r} is damaged: {error}.", hint="Restore the log from a backup."
        ) from error


def _keyed_event(row: tuple[Any, ...]) -> KeyedEvent:
    key, event, recorded_at = _key_record(row[:5]), row[5:10], row[10]
    if event[0] is None:
        return KeyedEvent(key, None, 0)
    return KeyedEvent(key, _raw_events([event])[0], recorded_at if type(recorded_at) is int else 0)


def _record(row: tuple[Any, ...]) -> EventRecord:
    position, stream, version, topic, state, event_id, recorded_at, actor, correlation, causation = row
    if (
        type(version) is not int
        or type(recorded_at) is not int
        or type(topic) is not str
        or type(state) is not bytes
        or (type(actor) is not str and actor is not None)
    ):
        raise _damaged(position, wrong_of(row))
    try:
        return EventRecord(
            position,
            _id(stream),
            version,
            topic,
            state,
            _id(event_id),
            recorded_at,
            actor,
            None if correlation is None else _id(correlation),
            None if causation is None else _id(causation),
        )
    except ValueError as error:
        raise _damaged(position, str(error)) from error
    except TypeError as error:
        raise _damaged(position, wrong_of(row)) from error


def _id(stored: str) -> bytes:
    """Return an id that is written in the one way in which streams are looked for."""
    found = bytes.fromhex(stored)
    if len(found) != _ID_BYTES or found.hex() != stored:
        raise ValueError(f"{stored!r} is no id")
    return found


def _switch_to_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Do what is done once for a file; of those that do it at the same time SQLite lets none wait."""
    latest = time.monotonic() + _LOCK_TIMEOUT_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > latest:
                raise
        time.sleep(_SWITCH_PAUSE_SECONDS)
