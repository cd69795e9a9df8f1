"""What the adapters share that use SQLite: transactions, the check for damage, and hints for errors."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from deployledger.domain.findings import Finding, Outcome

_UNWRITABLE = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
)

INTEGRITY = "integrity"
"""The name of the check for damage."""


@contextmanager
def transaction(
    connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE"
) -> Iterator[sqlite3.Connection]:
    """Enter a transaction with its connection: all that is done in it is stored, or nothing.

    Args:
        begin: the statement that begins it, which says what lock it takes.
    """
    connection.execute(begin)
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_unwritable(error: BaseException) -> bool:
    """Return whether an error says that a file, or its folder, cannot be written: it may be full."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE


def read_only(path: Path) -> tuple[sqlite3.Connection, str]:
    """Return a connection that reads a file which cannot be written, and the URI that it is opened by.

    Where nobody else has the file open, SQLite cannot make what it needs beside it, and is told that the file
    does not change.

    Raises:
        sqlite3.Error: if it cannot be read either.
    """
    uri = f"{path.as_uri()}?mode=ro"
    try:
        return _readable(uri), uri
    except sqlite3.OperationalError as error:
        if not is_unwritable(error) or _size(path.with_name(f"{path.name}-wal")):
            raise
    uri += "&immutable=1"
    return _readable(uri), uri


def _readable(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def state_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file, or its write-ahead log, is written.

    Raises:
        OSError: if there is no such file.
    """
    file = path.stat()
    return (file.st_ino, file.st_size, file.st_mtime_ns, _size(path.with_name(f"{path.name}-wal")))


def copy_in_memory(path: Path) -> sqlite3.Connection:
    """Return a database in memory with what is in a file that cannot be written, if it can be read.

    Raises:
        sqlite3.Error: if it cannot.
    """
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        with closing(read_only(path)[0]) as file:
            file.backup(memory)
    except BaseException:
        memory.close()
        raise
    return memory


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def advice(error: BaseException, otherwise: str) -> str:
    """Return what to do about a file in use or a full disk, and otherwise what is given."""
    if is_in_use(error):
        return "Another process has been writing to it for a long time. Try again."
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return "Free space on its disk, then try again."
    return otherwise


def is_in_use(error: BaseException) -> bool:
    """Return whether an error says that another process has the file locked, so that waiting helps."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def damage(connection: sqlite3.Connection) -> str:
    """Return what SQLite's own check of the whole file finds first; an empty text if all is well.

    It reads every page: whether each is where it belongs, and whether the indexes have what the tables have.
    """
    try:
        result = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return str(error)
        raise
    return "" if result == "ok" else result.removeprefix("*** in database main ***\n")


def is_damage(error: BaseException) -> bool:
    """Return whether an error says that what is in the file is not what SQLite, or we, wrote."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # The driver has no code for a text that is not UTF-8, nor for a schema that does not parse.
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "decode to UTF-8" in str(error)


def integrity(connection: sqlite3.Connection, described_as: str, hint: str) -> Finding:
    """Return what the check of a whole file found.

    Args:
        described_as: what is in the file, and where it is.
        hint: what to do about damage.
    """
    if problem := damage(connection):
        message = f"The SQLite file of {described_as} is damaged: {problem}."
        return Finding(INTEGRITY, Outcome.PROBLEM, message, hint)
    return Finding(INTEGRITY, Outcome.OK, f"The SQLite file of {described_as} is undamaged.")
