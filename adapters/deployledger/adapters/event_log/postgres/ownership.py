"""Who works on what: advisory locks of one session, which the server gives up when the session ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from uuid import UUID

import psycopg

from deployledger.adapters.postgres import Session
from deployledger.domain.exceptions import EventLogUnavailableError
from deployledger.projections.patience import Patience


class AdvisoryLocks:
    """Locks by stream, in one session that is opened when the first is taken."""

    def __init__(self, connect: Callable[[], Session], described_as: str, patience: Patience) -> None:
        self._connect = connect
        self._described_as = described_as
        self._patience = patience
        self._session: Session | None = None
        self._owned: set[UUID] = set()
        self._lock = Lock()

    @contextmanager
    def ownership(self, stream_id: UUID) -> Iterator[bool]:
        """Enter with whether the lock was had."""
        key = int.from_bytes(stream_id.bytes[:8], "big", signed=True)

        def take() -> bool:
            with self._turn():  # the session would be granted a lock that it has already
                is_owner = stream_id not in self._owned and self._try(key)
                if is_owner:
                    self._owned.add(stream_id)
                return is_owner

        is_owner = self._patience.call(take)
        try:
            yield is_owner
        finally:
            if is_owner:
                with self._lock:
                    self._owned.discard(stream_id)
                    self._release(key)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Enter with the session for this thread alone."""
        if not self._lock.acquire(timeout=self._patience.limit()):
            raise self._away()
        try:
            yield
        finally:
            self._lock.release()

    def _away(self) -> EventLogUnavailableError:
        return EventLogUnavailableError(
            f"The database {self._described_as} cannot be reached.", hint="Check that the server is up."
        )

    def _try(self, key: int) -> bool:
        if self._session is not None and not self._session.closed:
            try:
                return self._is_granted(self._session, key)
            except psycopg.Error:  # it broke while it was idle, and its locks went with it
                self._session.close()
        self._session = self._connect()
        try:
            return self._is_granted(self._session, key)
        except psycopg.Error as error:
            self._session.close()
            raise self._away() from error

    def _is_granted(self, session: Session, key: int) -> bool:
        row = session.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
        return bool(row and row[0])

    def _release(self, key: int) -> None:
        if self._session is not None:
            try:
                self._session.execute("SELECT pg_advisory_unlock(%s)", (key,))
            except psycopg.Error:  # the lock went with the session
                self._session.close()

    def close(self) -> None:
        """End the session, and with it every lock."""
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None
