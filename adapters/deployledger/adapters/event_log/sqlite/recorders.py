"""Recorders for SQLite with our columns: any application of `eventsourcing` can use them.

``PERSISTENCE_MODULE=deployledger.adapters.event_log.sqlite.recorders`` makes an application do so.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from eventsourcing import sqlite
from eventsourcing.persistence import Notification, StoredEvent, Subscription
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteCursor,
    SQLiteDatastore,
    SQLiteProcessRecorder,
)

from deployledger.adapters.event_log import clock
from deployledger.adapters.event_log.commands import EventRow, plain_row
from deployledger.adapters.event_log.sqlite.subscription import SQLiteSubscription

_COLUMNS = 9
"""How many columns an event has, without its position."""


def create_statements(table: str) -> list[str]:
    """Return the statements that create the table of events, which can only be added to.

    ``position`` is contiguous; ``recorded_at`` is in microseconds since 1970 (UTC), and falls only
    at a correction of the clock.
    """
    return [
        f"""CREATE TABLE IF NOT EXISTS {table} (
            position INTEGER PRIMARY KEY,
            originator_id TEXT NOT NULL,
            originator_version INTEGER NOT NULL,
            topic TEXT NOT NULL,
            state BLOB NOT NULL,
            event_id TEXT NOT NULL,
            recorded_at INTEGER NOT NULL,
            actor TEXT,
            correlation_id TEXT,
            causation_id TEXT,
            UNIQUE (originator_id, originator_version)
        )""",
        f"""CREATE TRIGGER IF NOT EXISTS {table}_update BEFORE UPDATE ON {table}
            BEGIN SELECT RAISE(ABORT, 'events are only ever added: UPDATE is refused'); END""",
        f"""CREATE TRIGGER IF NOT EXISTS {table}_delete BEFORE DELETE ON {table}
            BEGIN SELECT RAISE(ABORT, 'events are only ever added: DELETE is refused'); END""",
    ]


_MILLISECOND = "CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER) * 1000"
"""The begin of the millisecond, in microseconds, in which a statement got the write lock.

A statement may have waited for the lock since its own time was taken.
"""


@cache
def insert_statement(table: str, size: int, *, may_fall: bool = False) -> str:
    """Return the statement that adds up to ``size`` events behind the last one; `insert` fills it.

    Position and time come from the statement itself, which holds the write lock: no other process can
    come in between. One statement for many events gives up the interpreter's lock once, which an event
    loop that is busy may not give back soon.
    """
    marks = ", ".join(f"({number}, {', '.join('?' * _COLUMNS)})" for number in range(1, size + 1))
    last = f"coalesce((SELECT recorded_at FROM {table} ORDER BY position DESC LIMIT 1), 0)"  # noqa: S608
    return (
        f"INSERT INTO {table} "  # noqa: S608  # a name of ours
        f"SELECT (SELECT coalesce(max(position), 0) FROM {table}) + column1, column2, column3, column4, "
        f"column5, column6, max(column7, {_MILLISECOND}, {0 if may_fall else last}), "
        "column8, column9, column10 "
        f"FROM (VALUES {marks}) WHERE column2 IS NOT NULL"
    )


def insert(
    execute: Callable[[str, list[Any]], object],
    table: str,
    rows: Sequence[EventRow],
    *,
    may_fall: bool = False,
) -> None:
    """Add the events behind the last one. The last row id is then the position of the last of them.

    Args:
        may_fall: whether they may be recorded earlier than the last one: they correct the clock.
    """
    # Powers of two, so that few statements have to be compiled; rows of NULL are none.
    size = 1 << (len(rows) - 1).bit_length()
    now = clock.now_microseconds()
    values = [value for row in rows for value in _columns(row, now)]
    execute(
        insert_statement(table, size, may_fall=may_fall), values + [None] * (_COLUMNS * (size - len(rows)))
    )


def _columns(row: EventRow, now: int) -> tuple[Any, ...]:
    return (
        row.originator_id.hex,
        row.originator_version,
        row.topic,
        row.state,
        row.event_id.hex,
        now,
        row.actor,
        row.correlation_id and row.correlation_id.hex,
        row.causation_id and row.causation_id.hex,
    )


class SQLiteLogRecorder(SQLiteApplicationRecorder):
    """The library's application recorder, on a table with our columns.

    ``insert_events(…, metadata=rows)`` stores the metadata of ``rows``, one `EventRow` an event.
    """

    def __init__(self, datastore: SQLiteDatastore, events_table_name: str = "stored_events") -> None:
        super().__init__(datastore, events_table_name)
        self.select_max_notification_id_statement = f"SELECT MAX(position) FROM {events_table_name}"  # noqa: S608

    def construct_create_table_statements(self) -> list[str]:
        """Return the statements that create what the recorder needs."""
        return create_statements(self.events_table_name)

    def _insert_events(
        self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> Sequence[int] | None:
        rows: Sequence[EventRow] = kwargs.get("metadata") or [plain_row(stored) for stored in stored_events]
        if not rows:
            return []
        insert(c.execute, self.events_table_name, rows)
        return list(range(c.lastrowid - len(rows) + 1, c.lastrowid + 1))

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        """Return the next events in the order of the log; see the library."""
        conditions, values = ["TRUE"], list[int | str]()
        if start is not None:
            conditions.append("position >= ?" if inclusive_of_start else "position > ?")
            values.append(start)
        if stop is not None:
            conditions.append("position <= ?")
            values.append(stop)
        if topics:
            conditions.append(f"topic IN ({', '.join('?' * len(topics))})")
            values.extend(topics)
        query = (
            "SELECT position, originator_id, originator_version, topic, state "  # noqa: S608
            f"FROM {self.events_table_name} WHERE {' AND '.join(conditions)} ORDER BY position LIMIT ?"
        )
        with self.datastore.transaction(commit=False) as c:
            c.execute(query, (*values, limit))
            return [
                Notification(
                    originator_id=self.convert_originator_id(row[1]),
                    originator_version=row[2],
                    topic=row[3],
                    state=row[4],
                    id=row[0],
                )
                for row in c.fetchall()
            ]

    def subscribe(
        self, gt: int | None = None, topics: Sequence[str] = ()
    ) -> Subscription["SQLiteLogRecorder"]:
        """Return an iterator over the events behind ``gt``, which waits for further ones."""
        return SQLiteSubscription(self, gt, topics)


class SQLiteLogProcessRecorder(SQLiteProcessRecorder, SQLiteLogRecorder):
    """The library's process recorder, on a table with our columns."""


class Factory(sqlite.SQLiteFactory):
    """Makes an application of the library use these recorders; it looks for the one factory of a module."""

    application_recorder_class = SQLiteLogRecorder
    process_recorder_class = SQLiteLogProcessRecorder
