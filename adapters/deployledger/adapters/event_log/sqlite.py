"""The event log in an SQLite file, or in memory."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from uuid import UUID, uuid4

from eventsourcing.persistence import ApplicationRecorder
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from deployledger.adapters.event_log.base import SCHEMA_VERSION, RecorderEventLog, SchemaState
from deployledger.domain.exceptions import EventLogError

_TABLE = "deployment_events"
_LOCK_TIMEOUT_SECONDS = 30


class SQLiteEventLog(RecorderEventLog):
    """An event log in one SQLite file; ``None`` keeps it in memory for as long as it is open.

    Ownership is an flock on a file of its own beside the database: the kernel gives it up when the
    process that holds it dies, however it dies.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(str(path) if path else "memory")
        self._path = path.expanduser().absolute() if path else None
        self._name = (
            str(self._path) if self._path else f"file:deployledger-{uuid4().hex}?mode=memory&cache=shared"
        )
        self._datastore: SQLiteDatastore | None = None
        self._owned: set[UUID] = set()
        self._owned_lock = Lock()

    @property
    def _creates_schema(self) -> bool:
        return True

    def _connect(self) -> ApplicationRecorder:
        if self._path:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise EventLogError(
                    f"The folder of the event log {self._path} cannot be made: {error.strerror}.",
                    hint="Choose another place with DEPLOYLEDGER_HOME or DEPLOYLEDGER_DATABASE_URL.",
                ) from error
        self._datastore = SQLiteDatastore(self._name, lock_timeout=_LOCK_TIMEOUT_SECONDS)
        return SQLiteApplicationRecorder(self._datastore, events_table_name=_TABLE)

    def schema_state(self) -> SchemaState:
        """Return which schema the file has; a file that is not there yet has none."""
        if self._datastore is None:
            if self._path is None or not self._path.exists():
                return SchemaState(0)
            try:
                with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)) as connection:
                    return SchemaState(int(connection.execute("PRAGMA user_version").fetchone()[0]))
            except sqlite3.Error as error:
                raise EventLogError(f"{self._path} cannot be read as an SQLite database: {error}.") from error
        with self._datastore.transaction(commit=False) as cursor:
            cursor.execute("PRAGMA user_version")
            return SchemaState(int(cursor.fetchone()[0]))

    def _create_schema(self, recorder: ApplicationRecorder) -> None:
        assert isinstance(recorder, SQLiteApplicationRecorder)  # noqa: S101
        assert self._datastore is not None  # noqa: S101
        recorder.create_table()
        with self._datastore.transaction(commit=True) as cursor:
            cursor.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def ownership(self, stream_id: UUID) -> Iterator[bool]:
        """Try to become the one that works on a stream; see the port."""
        if self._path is None:
            with self._owned_lock:
                if stream_id in self._owned:
                    yield False
                    return
                self._owned.add(stream_id)
            try:
                yield True
            finally:
                with self._owned_lock:
                    self._owned.discard(stream_id)
            return
        folder = self._path.with_name(f"{self._path.name}.locks")
        try:
            folder.mkdir(exist_ok=True)
            lock = _try_flock(folder / str(stream_id))
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

    def close(self) -> None:
        """Close every connection; a log in memory is gone."""
        if self._datastore is not None:
            self._datastore.close()
            self._datastore = None
            self._opened = None


def _try_flock(path: Path) -> int | None:
    """Return the descriptor of the file at ``path``, locked, or None if somebody else has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last owner removes the file: what was locked may no longer be the file at that path.
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            os.close(descriptor)
