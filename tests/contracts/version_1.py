"""Databases that schema version 1 filled, and what is in them, read without our own code."""

import json
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import sql

DATA = Path(__file__).parents[1] / "data"


class Stored(NamedTuple):
    """An event as both versions of the schema store it."""

    originator_id: UUID
    originator_version: int
    topic: str
    state: bytes

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.state)
        return fields


class Row(NamedTuple):
    """An event as version 2 of the schema stores it; the time is in seconds since 1970."""

    position: int
    stored: Stored
    event_id: UUID
    recorded_at: float
    actor: str
    correlation_id: UUID
    causation_id: UUID | None


@dataclass(frozen=True)
class Database:
    """One database, whose tables are read and changed as an outsider would."""

    url: str

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite")

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute one statement in a transaction of its own; ``{}.`` stands for the schema."""
        if self.is_sqlite:
            connection = sqlite3.connect(self.url.removeprefix("sqlite:///"))
            try:
                with connection:
                    return connection.execute(statement.replace("{}.", ""), values).fetchall()
            finally:
                connection.close()
        query = sql.SQL(statement.replace("?", "%s")).format(sql.Identifier("deployledger"))
        with psycopg.connect(self.url) as session:
            cursor = session.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def version(self) -> int:
        """Return the version of the schema."""
        statement = "PRAGMA user_version" if self.is_sqlite else "SELECT version FROM {}.schema_version"
        return int(self.execute(statement)[0][0])

    def set_version(self, version: int) -> None:
        """Say that the schema is of another version."""
        if self.is_sqlite:
            self.execute(f"PRAGMA user_version = {version}")
        else:
            self.execute("UPDATE {}.schema_version SET version = ?", (version,))

    def version_1_rows(self) -> list[Stored]:
        """Return the events of a database of version 1, in the order in which they were stored."""
        order = "rowid" if self.is_sqlite else "notification_id"
        rows = self.execute(
            "SELECT originator_id, originator_version, topic, state "
            f"FROM {{}}.deployment_events ORDER BY {order}"
        )
        return [Stored(_uuid(row[0]), row[1], row[2], bytes(row[3])) for row in rows]

    def version_2_rows(self) -> list[Row]:
        """Return the events of a database of version 2, in the order of their positions."""
        time = "recorded_at / 1e6" if self.is_sqlite else "extract(epoch FROM recorded_at)"
        rows = self.execute(
            f"SELECT position, originator_id, originator_version, topic, state, event_id, {time}, actor, "
            "correlation_id, causation_id FROM {}.events ORDER BY position"
        )
        return [
            Row(
                row[0],
                Stored(_uuid(row[1]), row[2], row[3], bytes(row[4])),
                _uuid(row[5]),
                float(row[6]),
                row[7],
                _uuid(row[8]),
                row[9] and _uuid(row[9]),
            )
            for row in rows
        ]

    def add_version_1_row(self, stored: Stored) -> None:
        """Add an event as version 1 did."""
        stream = stored.originator_id.hex if self.is_sqlite else stored.originator_id
        self.execute(
            "INSERT INTO {}.deployment_events (originator_id, originator_version, topic, state) "
            "VALUES (?, ?, ?, ?)",
            (stream, stored.originator_version, stored.topic, stored.state),
        )


def load_version_1(url: str) -> Database:
    """Fill a fresh database with what version 1 stored."""
    if url.startswith("sqlite"):
        shutil.copy(DATA / "schema-1.sqlite", url.removeprefix("sqlite:///"))
    else:
        with psycopg.connect(url) as session:
            session.execute((DATA / "schema-1.postgresql.sql").read_bytes())
    return Database(url)


def _uuid(value: UUID | str) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)
