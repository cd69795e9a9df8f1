"""The event log in an SQLite file, or in memory."""

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

from eventsourcing.persistence import ApplicationRecorder
from eventsourcing.sqlite import SQLiteConnection, SQLiteDatastore

from deployledger.adapters.dialect import SQLITE
from deployledger.adapters.event_log import clock
from deployledger.adapters.event_log.damage import id_of
from deployledger.adapters.event_log.following import Tail
from deployledger.adapters.event_log.group_commit import BatchWriter
from deployledger.adapters.event_log.import_transaction import ImportTransaction
from deployledger.adapters.event_log.log import DatabaseEventLog
from deployledger.adapters.event_log.reading import EVENTS_TABLE, KEYS_TABLE, READ_AT_ONCE, Statements
from deployledger.adapters.event_log.sqlite.file_guard import FileGuard, check_left_files, check_not_inherited
from deployledger.adapters.event_log.sqlite.importing import SQLiteImport
from deployledger.adapters.event_log.sqlite.objects import TRIGGERS, objects
from deployledger.adapters.event_log.sqlite.recorders import SQLiteLogRecorder
from deployledger.adapters.event_log.sqlite.records import records_of
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
from deployledger.domain.event_records import EventRecord
from deployledger.domain.exceptions import EventLogError, EventLogUnavailableError
from deployledger.domain.findings import Finding
from deployledger.domain.timestamps import to_microseconds
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
_TICK_SECONDS = 0.002
_STATEMENTS = Statements(SQLITE, lambda id_: id_.hex, id_column="{}", time_column="{}", binary_order="")


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
                    f"The folder of the event log {self._path} cannot be created: {error.strerror}.",
                    hint="Choose another folder with DEPLOYLEDGER_HOME or DEPLOYLEDGER_DATABASE_URL.",
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
                "folder: SQLite needs that to read, too. Otherwise read a copy; see docs/read-only.md.",
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

    @property
    def _statements(self) -> Statements:
        return _STATEMENTS

    def _query(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        assert self._datastore is not None  # noqa: S101  # opened by the caller
        with self._translated_errors(), self._datastore.transaction(commit=False) as cursor:
            cursor.execute(statement, values)
            return [tuple(row) for row in cursor.fetchall()]

    def _stream(
        self, statement: str, values: Sequence[Any], *, in_order: bool = False
    ) -> Iterator[Sequence[tuple[Any, ...]]]:
        if self._path is None:  # connections to the same memory take turns: none is kept for long
            rows = self._query(statement, values)
            yield from (rows[i : i + READ_AT_ONCE] for i in range(0, len(rows), READ_AT_ONCE))
            return
        with self._session() as connection:
            cursor = connection.execute(statement, values)
            while page := cursor.fetchmany(READ_AT_ONCE):
                yield page

    def _events(self, rows: Sequence[tuple[Any, ...]]) -> list[EventRecord]:
        return records_of(rows)

    def _id(self, stored: Any) -> bytes:
        return id_of(stored)

    def _size(self) -> int:
        size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        return int(self._query(size)[0][0])

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
        values = (to_microseconds(moment), first - 1, last)
        return int(self._query(_STATEMENTS.search_time, values)[0][0])

    def _clocks(self) -> tuple[int, int | None, int | None]:
        query = f"SELECT position, recorded_at FROM {EVENTS_TABLE} ORDER BY position DESC LIMIT 1"  # noqa: S608
        rows = self._query(query)
        position, recorded_at = rows[0] if rows else (0, None)
        return position, recorded_at if type(recorded_at) is int else None, None

    @contextmanager
    def import_transaction(self) -> Iterator[ImportTransaction]:
        """Enter with the transaction that fills this log."""
        with self._session() as connection:
            with SQLiteImport.begun(connection, _all_records, self._described_as) as transaction:
                yield transaction

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
            if any(
                finding.check == TRIGGERS and finding.is_problem
                for finding in objects(connection, self._described_as)
            ):
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
    rows = connection.execute(_STATEMENTS.select_all)
    while page := rows.fetchmany(READ_AT_ONCE):
        yield records_of(page)


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
