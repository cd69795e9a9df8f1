"""What the adapters share that use SQLite: transactions, the check for damage, and hints for errors."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.findings import Finding, Outcome
from deployledger.domain.redaction import without_credentials
from deployledger.service.local_files import expanded

INTEGRITY = "integrity"
"""The name of the check for damage."""


def file_of(url: str) -> Path | None:
    """Return the file that a ``sqlite:///path`` URL names, or None for a URL of something else.

    Raises:
        ConfigurationError: if there is more in it than a path.
    """
    path = url.removeprefix("sqlite:///")
    if path in (url, "", ":memory:"):
        return None
    if "?" in path or "#" in path or path.startswith("file:"):
        raise ConfigurationError(
            f"The database URL {without_credentials(url)!r} contains more than a file path.",
            hint="Use sqlite:///path/to/file.db, without parameters.",
        )
    return expanded(path).absolute()


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


def advice(error: BaseException, otherwise: str) -> str:
    """Return what to do about an error: try again if the file is in use, and what is given else."""
    if is_in_use(error):
        return "Another process has been writing to it for long. Try again."
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
        found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return str(error)
        raise
    return "" if found == "ok" else found.removeprefix("*** in database main ***\n")


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
    if found := damage(connection):
        message = f"The SQLite file of {described_as} is damaged: {found}."
        return Finding(INTEGRITY, Outcome.PROBLEM, message, hint)
    return Finding(INTEGRITY, Outcome.OK, f"The SQLite file of {described_as} is undamaged.")
