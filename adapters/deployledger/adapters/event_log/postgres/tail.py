"""Hears what other processes add to a PostgreSQL log."""

import os
import select
from collections.abc import Callable

import psycopg
from psycopg.sql import SQL, Identifier

from deployledger.adapters.event_log.following import SAFETY_POLL_SECONDS, Tail
from deployledger.adapters.postgres import Session
from deployledger.domain.exceptions import EventLogError
from deployledger.projections.patience import Patience, pauses

_LONGEST_PAUSE_SECONDS = 5.0


class PostgresTail(Tail):
    """Listens on the log's channel, on a connection of its own, which is made again when it breaks."""

    def __init__(self, connect: Callable[[], Session], channel: str, patience: Patience) -> None:
        super().__init__()
        self._connect = connect
        self._patience = patience
        self._listen = SQL("LISTEN {}").format(Identifier(channel))
        self._wake_read, self._wake_write = -1, -1

    def _wake_watcher(self) -> None:
        os.write(self._wake_write, b"x")

    def join(self) -> None:
        """Begin to follow; see the base class."""
        with self._changing:
            if self._wake_read < 0:
                self._wake_read, self._wake_write = os.pipe()
            super().join()

    def leave(self) -> None:
        """End following; see the base class."""
        with self._changing:
            super().leave()
            if self._thread is None and self._wake_read >= 0:
                os.close(self._wake_read)
                os.close(self._wake_write)
                self._wake_read, self._wake_write = -1, -1

    def _watch(self) -> None:
        self._patience.try_once()  # the thread tries again by itself
        pause = pauses(_LONGEST_PAUSE_SECONDS)
        while not self._stopping.is_set():
            try:
                with self._connect() as session:
                    session.execute(self._listen)
                    self._watching.set()
                    self.announce()  # what was added before LISTEN, or while there was no connection
                    pause = pauses(_LONGEST_PAUSE_SECONDS)
                    self._hear(session)
            except (psycopg.Error, OSError, EventLogError):  # the safety poll goes on meanwhile
                _wait([self._wake_read], next(pause))

    def _hear(self, session: Session) -> None:
        while not self._stopping.is_set():
            if session.fileno() in _wait([session.fileno(), self._wake_read], SAFETY_POLL_SECONDS):
                # At most one is waited for; reading it finds all that have arrived.
                for _ in session.notifies(timeout=0):
                    pass
                self.announce()


def _wait(descriptors: list[int], seconds: float) -> list[int]:
    """Return which can be read, after so many seconds at most; unlike select, with any number open."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(seconds * 1000)]
