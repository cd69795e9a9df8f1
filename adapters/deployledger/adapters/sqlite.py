"""What the adapters share that use SQLite: transactions, and what to say of errors."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


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
    if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "Another process has been writing to it for long. Try again."
    return otherwise
