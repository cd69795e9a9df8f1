"""The ledger in an SQLite file of its own beside the event log's, or in memory."""

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

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
from deployledger.domain.timestamps import from_microseconds, to_microseconds
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


class SQLiteLedgerStore:
    """The store of a ledger; see the port.

    Args:
        path: a file that has nothing else in it; None keeps the ledger in memory until it is closed.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._memory: sqlite3.Connection | None = None
        self._memory_lock = threading.RLock()
        self._unwritable = ""
        """Why the ledger grows in memory, from a copy of the file."""

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
                f"The ledger in {self._path or 'memory'} cannot be used: {error}.",
                hint=advice(
                    error,
                    f"Check that it can be written. {_REMOVE}",
                ),
            ) from error

    def _copy_in_memory(self, path: Path, error: sqlite3.Error) -> None:
        """Go on in memory, as for who may not write: roots and proofs can be had of the newest events."""
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
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found > SCHEMA_VERSION:
                raise EventLogError(
                    f"The ledger in {name} has version {found}; this version of deployledger knows "
                    f"version {SCHEMA_VERSION}.",
                    hint="Upgrade deployledger.",
                )
            if found == 0:
                with transaction(connection):
                    if not int(connection.execute("PRAGMA user_version").fetchone()[0]):
                        for statement in _TABLES:
                            connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def size(self) -> int:
        """Return how many leaves the tree has."""
        with self._connection() as connection:
            row = connection.execute("SELECT size FROM ledger").fetchone()
            return int(row[0]) if row else 0

    def tiles(self, level: int, first: int, last: int) -> dict[int, bytes]:
        """Return the tiles of a level, by number, from the first to the last one, as far as there are any."""
        with self._connection() as connection:
            found = connection.execute(
                "SELECT number, hashes FROM ledger_tiles WHERE level = ? AND number BETWEEN ? AND ?",
                (level, first, last),
            )
            # SQLite lets anything be in a column; what is no hashes is as good as missing.
            return {number: hashes for number, hashes in found if isinstance(hashes, bytes)}

    def extend(self, before: int, after: int, tiles: Mapping[tuple[int, int], bytes]) -> bool:
        """Store tiles, by level and number, of a tree that grew; False if it had not the size before."""
        with self._connection() as connection, transaction(connection):
            grown = connection.execute("UPDATE ledger SET size = ? WHERE size = ?", (after, before))
            if grown.rowcount != 1:
                return False
            connection.executemany(
                "INSERT OR REPLACE INTO ledger_tiles VALUES (?, ?, ?)",
                [(level, number, hashes) for (level, number), hashes in tiles.items()],
            )
            return True

    def checkpoints(self, limit: int | None = None) -> list[StoredCheckpoint]:
        """Return the checkpoints, the smallest first; with a limit, only so many of the largest."""
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT size, root, note, created_at FROM ledger_checkpoints "
                "ORDER BY size DESC, id DESC LIMIT ?",
                (-1 if limit is None else limit,),
            ).fetchall()
        try:
            return [
                StoredCheckpoint(size, root, note, from_microseconds(created_at))
                for size, root, note, created_at in reversed(rows)
            ]
        except (TypeError, OverflowError) as error:
            raise EventLogError(
                f"A checkpoint in {self._path or 'memory'} is damaged: {error}.",
                hint="Remove it; those that were published are not lost.",
            ) from error

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Store a checkpoint."""
        self.size()
        if self._unwritable:
            raise EventLogError(
                f"The ledger in {self._path} cannot be written: {self._unwritable}.",
                hint="Make its folder writable, or free space on its disk, and try again.",
            )
        created_at = to_microseconds(checkpoint.created_at)
        with self._connection() as connection:
            connection.execute(
                "INSERT INTO ledger_checkpoints (size, root, note, created_at) VALUES (?, ?, ?, ?)",
                (checkpoint.size, checkpoint.root, checkpoint.note, created_at),
            )

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
