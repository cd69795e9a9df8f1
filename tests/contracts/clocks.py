"""A clock that tests can set: this machine's, as the log reads it, and that of a PostgreSQL server."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Literal

from deployledger.adapters import postgres
from deployledger.adapters.event_log import clock
from deployledger.domain.event_log import EventLog
from tests.domain.given import requested

_FAKE = """
    CREATE SCHEMA fake;
    CREATE TABLE fake.clock (ahead interval NOT NULL);
    INSERT INTO fake.clock VALUES ('0');
    CREATE FUNCTION fake.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
        AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM fake.clock';
"""


class Clock:
    """The clock by which a log records events, and that of whoever writes it.

    Args:
        url: the database; a PostgreSQL server looks up its own time in the test's stead.
    """

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = timedelta(0)
        self._url = url if url.startswith("postgres") else None
        really = clock.now_microseconds
        monkeypatch.setattr(
            clock, "now_microseconds", lambda: really() + self.ahead // timedelta(microseconds=1)
        )
        if self._url is not None:
            with psycopg.connect(self._url, autocommit=True) as session:
                session.execute(_FAKE)
            settings = f"{postgres._SESSION_SETTINGS}; SET search_path TO fake, pg_catalog"
            monkeypatch.setattr(postgres, "_SESSION_SETTINGS", settings)

    def now(self) -> datetime:
        """Return what it says."""
        return datetime.now(UTC) + self.ahead

    def set_ahead(self, ahead: timedelta = timedelta(0)) -> None:
        """Set it ahead of the true time; without an argument, right."""
        self.ahead = ahead
        if self._url is not None:
            with psycopg.connect(self._url, autocommit=True) as session:
                session.execute(SQL("UPDATE fake.clock SET ahead = {}").format(Literal(ahead)))

    def request(self, log: EventLog, **changes: Any) -> UUID:
        """Append the request of a new deployment, which says that it happened now, and return its id."""
        stream = uuid4()
        changes.setdefault("timestamp", self.now())
        log.append([requested(**changes)(stream, 1)])
        return stream
