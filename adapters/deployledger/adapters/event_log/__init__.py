"""Event logs on SQLite and PostgreSQL; a database URL chooses.

``sqlite:///path`` is a file, ``sqlite://`` memory that lives as long as the log, ``postgresql://…`` a server.

Appending goes through `group_commit`: what waits at the same time shares a transaction. Positions are given
under a lock that lasts until the commit, so they are contiguous and become visible in order; a reader that
follows them (`following`) misses nothing. The recorders of `eventsourcing`, with our columns, are in
``sqlite.recorders`` and ``postgres.recorders``.
"""

import copyreg
import os
from functools import partial
from threading import Lock
from typing import Any

from deployledger.adapters.database_url import DatabaseUrl
from deployledger.adapters.event_log.log import DatabaseEventLog
from deployledger.projections.patience import Patience

__all__ = ["DatabaseEventLog", "open_event_log"]

_open: dict[tuple[object, ...], DatabaseEventLog] = {}
_lock = Lock()


def _forget_after_fork() -> None:
    """Take a lock that nobody holds: the one who held the other is not in this process."""
    global _lock
    _lock = Lock()


os.register_at_fork(after_in_child=_forget_after_fork)


def open_event_log(
    database_url: str, *, create: bool = False, pool_size: int = 8, patience: float = 30.0
) -> DatabaseEventLog:
    """Return the event log that a database URL names; the database is first used when a method is called.

    Within a process, callers that open the same log share it, its connections and transactions; it is closed
    when the last of them closes it.

    Args:
        create: create the schema on a PostgreSQL server that has none. On SQLite it always is.
        pool_size: how many connections read at the same time, at most (PostgreSQL).
        patience: how many seconds a command or a query waits for an unavailable database before it fails.

    Raises:
        ConfigurationError: if the URL is not supported.
    """
    url = DatabaseUrl.parse(database_url)
    if url.is_memory:
        return _make(url, create, pool_size, patience)
    key = (os.getpid(), url.file or url.url, create, pool_size, patience)
    with _lock:
        log = _open.get(key)
        if log is None or not log.share():
            log = _open[key] = _make(url, create, pool_size, patience)
        return log


def _make(url: DatabaseUrl, create: bool, pool_size: int, patience: float) -> DatabaseEventLog:
    if url.parameters is not None:
        from deployledger.adapters.event_log.postgres.log import PostgresEventLog

        copyreg.pickle(PostgresEventLog, _reopened)
        return PostgresEventLog(url.url, create=create, pool_size=pool_size, patience=Patience(patience))
    from deployledger.adapters.event_log.sqlite.log import SQLiteEventLog

    copyreg.pickle(SQLiteEventLog, _reopened)
    return SQLiteEventLog(url.file, patience=Patience(patience))


def _reopened(log: DatabaseEventLog) -> tuple[Any, ...]:
    """Another process, to which a log is pickled, opens it itself."""
    return partial(open_event_log, patience=log.patience.seconds), (log.url,)
