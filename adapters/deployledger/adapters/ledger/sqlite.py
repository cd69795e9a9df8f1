"""The ledger in an SQLite file of its own beside the event log's, or in memory."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

from deployledger.adapters.dialect import SQLITE, SQLiteStatements, Statements
from deployledger.adapters.ledger.store import DatabaseLedgerStore
from deployledger.adapters.sqlite import (
    advice,
    copy_in_memory,
    integrity,
    is_in_use,
    is_unwritable,
    transaction,
)
from deployledger.audit.ledger_store import StoredCheckpoint
from deployledger.domain.exceptions import EventLogError, EventLogUnavailableError
from deployledger.domain.findings import Finding
from deployledger.service.files.writing import write_new

SCHEMA_VERSION = 1
"""The version of what is in a file; its ``user_version``."""

_BUSY_SECONDS = 10
_REMOVE = (
    "If it is damaged, remove it: the tree is rebuilt from the log; its checkpoints then exist only where "
    "they were published."
)
_TABLES = (
    "CREATE TABLE ledger (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), size INTEGER NOT NULL)",
    "INSERT INTO ledger VALUES (1, 0)",
    "CREATE TABLE ledger_tiles (level INTEGER, number INTEGER, hashes BLOB NOT NULL, "
    "PRIMARY KEY (level, number)) WITHOUT ROWID",
    "CREATE TABLE ledger_checkpoints (id INTEGER PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, "
    "note TEXT NOT NULL, created_at INTEGER NOT NULL)",
    "CREATE INDEX ledger_checkpoints_by_size ON ledger_checkpoints (size, id)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class SQLiteLedgerStore(DatabaseLedgerStore):
    """The store of a ledger; see the port.

    Args:
        path: a file that has nothing else in it; None keeps the ledger in memory until it is closed.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(SQLITE, str(path or "memory"))
        self._path = path
        self._memory: sqlite3.Connection | None = None
        self._memory_lock = threading.RLock()
        self._unwritable = ""
        """Why the ledger grows in memory, from a copy of the file."""

    @contextmanager
    def _statements(self, *, writes: bool = False) -> Iterator[Statements | None]:
        with self._connection() as connection, transaction(connection) if writes else nullcontext():
            yield SQLiteStatements(connection)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Enter with a connection in autocommit mode; errors are ours."""
        try:
            if self._path is not None and not self._unwritable:
                with suppress(OSError):  # SQLite says why
                    write_new(self._path)
                try:
                    opened = self._connect(str(self._path))
                except sqlite3.OperationalError as error:
                    if not is_unwritable(error):
                        raise
                    self._copy_in_memory(self._path, error)
                else:
                    with closing(opened) as connection:
                        yield connection
                    return
            with self._memory_lock:
                if self._memory is None:
                    self._memory = self._connect(":memory:")
                yield self._memory
        except sqlite3.Error as error:
            kind = EventLogUnavailableError if is_in_use(error) else EventLogError
            raise kind(
                f"The ledger in {self._described_as} cannot be used: {error}.",
                hint=advice(error, f"Check that it can be written. {_REMOVE}"),
            ) from error

    def _copy_in_memory(self, path: Path, error: sqlite3.Error) -> None:
        """Go on in memory, as for who may not write: there are roots and proofs of the newest events."""
        with self._memory_lock:
            if not self._unwritable and path.exists():
                copy = copy_in_memory(path)
                if int(copy.execute("PRAGMA user_version").fetchone()[0]) == SCHEMA_VERSION:
                    self._memory = copy
            self._unwritable = str(error)

    def _connect(self, name: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            name, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version > SCHEMA_VERSION:
                raise EventLogError(
                    f"The ledger in {name} has version {version}; this version of deployledger knows "
                    f"version {SCHEMA_VERSION}.",
                    hint="Upgrade deployledger.",
                )
            if version == 0:
                with transaction(connection):
                    if not int(connection.execute("PRAGMA user_version").fetchone()[0]):
                        for statement in _TABLES:
                            connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Store a checkpoint."""
        self.size()  # this finds out whether it can be written
        if self._unwritable:
            raise EventLogError(
                f"The ledger in {self._path} cannot be written: {self._unwritable}.",
                hint="Make its folder writable, or free space on its disk, and try again.",
            )
        super().add_checkpoint(checkpoint)

    def findings(self, *, whole: bool = True) -> list[Finding]:
        """Check the file for damage; there is none to check before it is first used."""
        if not whole or self._path is None or not self._path.exists():
            return []
        with self._connection() as connection:
            return [integrity(connection, f"the ledger, {self._path},", _REMOVE)]

    def close(self) -> None:
        """Close every connection."""
        with self._memory_lock:
            if self._memory is not None:
                self._memory.close()
                self._memory = None
