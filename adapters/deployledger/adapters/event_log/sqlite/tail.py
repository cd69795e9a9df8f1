"""Sees what other processes add to an SQLite file."""

import sqlite3
from collections.abc import Callable
from contextlib import closing

from deployledger.adapters.event_log.following import SAFETY_POLL_SECONDS, Tail

_LOOK_SECONDS = 0.01


class SQLiteTail(Tail):
    """Looks at the file's ``data_version``, which changes with every commit of another connection.

    Memory is in one process, which announces what it adds: there is nothing to look at.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection] | None) -> None:
        super().__init__()
        self._connect = connect

    def _watch(self) -> None:
        self._watching.set()
        if self._connect is None:
            self._stopping.wait()
            return
        while not self._stopping.is_set():
            try:
                with closing(self._connect()) as connection:
                    seen = None
                    while not self._stopping.wait(_LOOK_SECONDS):
                        version = connection.execute("PRAGMA data_version").fetchone()
                        if version != seen:
                            seen = version
                            self.announce()
            except sqlite3.Error:  # the safety poll goes on; the reader says what is wrong
                self._stopping.wait(SAFETY_POLL_SECONDS)
