"""Somebody with every right on the database of a log and of its ledger, and with none of the keys."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from deployledger.adapters.event_log import DatabaseEventLog
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit.ledger_store import StoredCheckpoint
from deployledger.domain.event_records import EventRecord, undamaged

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = (
    "position",
    "originator_id",
    "originator_version",
    "topic",
    "state",
    "event_id",
    "recorded_at",
    "actor",
    "correlation_id",
    "causation_id",
)
"""The columns of an event, as the fields of `EventRecord` come."""

_IDS = ("originator_id", "event_id", "correlation_id", "causation_id")
_SQLITE_TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"

Rewrite = Callable[[EventRecord], EventRecord]


class Attacker:
    """Changes what is stored, past everything that keeps others from it.

    Values are written as `EventRecord` has them: ids as 16 bytes, times as microseconds.
    """

    def __init__(self, url: str, log: DatabaseEventLog) -> None:
        self._url = url
        self._log = log
        self._path = url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None

    @contextmanager
    def _session(self) -> Iterator[Callable[..., Any]]:
        """Enter a transaction in which nothing is refused; afterwards everything looks as before."""
        if self._path is None:
            with psycopg.connect(self._url) as session:
                session.execute("SET search_path TO deployledger")
                session.execute("SET session_replication_role = replica")  # no trigger fires
                yield lambda query, *values: session.execute(query.replace("?", "%b").encode(), values)
            return
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("ATTACH ? AS its_ledger", (f"{self._path}.ledger",))
            connection.execute("BEGIN IMMEDIATE")
            triggers = connection.execute(_SQLITE_TRIGGERS).fetchall()
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            yield lambda query, *values: connection.execute(query, values)
            for _, statement in triggers:
                connection.execute(statement)
            connection.execute("COMMIT")

    def execute(self, query: str, *values: Any) -> None:
        """Do anything; marks are those of SQLite."""
        with self._session() as execute:
            execute(query, *values)

    # The log ---------------------------------------------------------------------------------------------

    def record(self, position: int) -> EventRecord:
        """Return an event as the log has it."""
        (record,) = self.records(position - 1, position)
        return record

    def records(self, after: int, until: int) -> list[EventRecord]:
        """Return events as the log has them."""
        return [
            record
            for page in undamaged(self._log.records(after=after, until=until, metadata=True))
            for record in page
        ]

    def change(self, place: int, **columns: Any) -> None:
        """Change some columns of the event at a position."""
        names = ", ".join(f"{name} = ?" for name in columns)
        values = [self._stored(name, value) for name, value in columns.items()]
        self.execute(f"UPDATE events SET {names} WHERE position = ?", *values, place)

    def delete(self, first: int, last: int) -> None:
        """Remove events."""
        self.execute("DELETE FROM events WHERE position BETWEEN ? AND ?", first, last)

    def renumber(self, first: int, by: int) -> None:
        """Move all events from a position on, up or down."""
        with self._session() as execute:  # by way of numbers that no event has
            execute("UPDATE events SET position = -position - ? WHERE position >= ?", by, first)
            execute("UPDATE events SET position = -position WHERE position < 0")

    def swap(self, one: int, other: int) -> None:
        """Let two events change places."""
        with self._session() as execute:
            for old, new in ((one, -1), (other, one), (-1, other)):
                execute("UPDATE events SET position = ? WHERE position = ?", new, old)

    def insert(self, *records: EventRecord) -> None:
        """Add events at the positions that they say."""
        names, marks = ", ".join(COLUMNS), ", ".join("?" * len(COLUMNS))
        with self._session() as execute:
            for record in records:
                values = [self._stored(*it) for it in zip(COLUMNS, record, strict=True)]
                execute(f"INSERT INTO events ({names}) VALUES ({marks})", *values)

    def rewrite(self, rewritten: Rewrite) -> None:
        """Make every event anew."""
        records = [rewritten(it) for it in self.records(0, 1 << 62)]
        self.delete(0, 1 << 62)
        self.insert(*records)

    def _stored(self, name: str, value: Any) -> Any:
        if name in _IDS and isinstance(value, bytes):
            return value.hex() if self._path else UUID(bytes=value)
        if name == "recorded_at" and self._path is None:
            return _EPOCH + timedelta(microseconds=value)
        return value

    # The ledger ------------------------------------------------------------------------------------------

    def tile(self, level: int, number: int) -> bytes:
        """Return a tile of the stored tree."""
        with self._session() as execute:
            query = "SELECT hashes FROM ledger_tiles WHERE level = ? AND number = ?"
            return bytes(execute(query, level, number).fetchone()[0])

    def set_tile(self, level: int, number: int, hashes: bytes) -> None:
        """Put another tile in its place."""
        self.execute(
            "UPDATE ledger_tiles SET hashes = ? WHERE level = ? AND number = ?", hashes, level, number
        )

    def make_tree_again(self) -> None:
        """Make the stored tree that of the log as it is now."""
        with self._session() as execute:
            execute("DELETE FROM ledger_tiles")
            execute("UPDATE ledger SET size = 0")
        ledger = open_ledger(self._log)
        ledger.integrate()
        ledger.store.close()

    def remove_checkpoints(self, above: int = 0) -> None:
        """Remove the stored checkpoints of more than so many events."""
        self.execute("DELETE FROM ledger_checkpoints WHERE size > ?", above)

    def change_checkpoint(self, place: int, **columns: Any) -> None:
        """Change some columns of the stored checkpoint of so many events."""
        names = ", ".join(f"{name} = ?" for name in columns)
        self.execute(f"UPDATE ledger_checkpoints SET {names} WHERE size = ?", *columns.values(), place)

    def add_checkpoints(self, checkpoints: Sequence[StoredCheckpoint]) -> None:
        """Store checkpoints beside those that there are."""
        store = self._log.open_ledger_store()
        for it in checkpoints:
            store.add_checkpoint(it)
        store.close()
