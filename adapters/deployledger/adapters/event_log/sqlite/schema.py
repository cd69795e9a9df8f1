"""The schema of an SQLite event log; its version is the file's ``user_version``."""

import json
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from deployledger.adapters.event_log.opening import SCHEMA_VERSION
from deployledger.adapters.event_log.reading import EVENTS_TABLE, KEYS_TABLE
from deployledger.adapters.event_log.sqlite.recorders import create_statements
from deployledger.adapters.sqlite import transaction
from deployledger.domain.exceptions import EventLogError

_VERSION_1_TABLE = "deployment_events"
_IDS = ("event_id", "correlation_id", "causation_id")


def found_version(connection: sqlite3.Connection) -> int:
    """Return the version of the schema; 0 if there is none."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def create(connection: sqlite3.Connection) -> None:
    """Create the schema, unless another process did meanwhile."""
    with transaction(connection, "BEGIN EXCLUSIVE"):
        if found_version(connection) == 0:
            _create_tables(connection)


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring the schema from version 1 to version 2, unless another process did meanwhile.

    Version 1 had the library's table, with the metadata in the stored state only.
    """
    with transaction(connection, "BEGIN EXCLUSIVE"):
        if found_version(connection) != 1:
            return
        _create_tables(connection)
        connection.executemany(
            f"INSERT INTO {EVENTS_TABLE} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # a name of ours
            _version_2_rows(connection),
        )
        connection.execute(f"DROP TABLE {_VERSION_1_TABLE}")


def restore_triggers(connection: sqlite3.Connection) -> None:
    """Create the triggers that refuse changes to events again."""
    with transaction(connection, "BEGIN EXCLUSIVE"):
        for name in ("update", "delete"):
            connection.execute(f"DROP TRIGGER IF EXISTS {EVENTS_TABLE}_{name}")
        for statement in create_statements(EVENTS_TABLE)[1:]:
            connection.execute(statement)


def _create_tables(connection: sqlite3.Connection) -> None:
    for statement in create_statements(EVENTS_TABLE):
        connection.execute(statement)
    connection.execute(create_keys_table(KEYS_TABLE))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def create_keys_table(table: str) -> str:
    """Return the statement that creates the table of idempotency keys, under a name."""
    return f"""CREATE TABLE {table} (
            key TEXT PRIMARY KEY,
            fingerprint TEXT NOT NULL,
            deployment_id TEXT NOT NULL,
            version INTEGER NOT NULL,
            recorded_at INTEGER NOT NULL
        ) WITHOUT ROWID"""


def _version_2_rows(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    recorded_at = 0
    stored = connection.execute(
        f"SELECT originator_id, originator_version, topic, state FROM {_VERSION_1_TABLE} ORDER BY rowid"  # noqa: S608
    )
    for position, (stream, version, topic, state) in enumerate(stored, start=1):
        try:
            fields = json.loads(state)
            timestamp = datetime.fromisoformat(fields["timestamp"])
            recorded_at = max(recorded_at, round(timestamp.timestamp() * 1_000_000))
            ids = [fields[name] and UUID(fields[name]).hex for name in _IDS]
            actor = fields["actor"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EventLogError(
                f"Event {version} of stream {UUID(stream)} cannot be upgraded: "
                f"it does not decode ({type(error).__name__}: {error}).",
                hint="Nothing was changed. Restore the database from a backup, and upgrade that.",
            ) from error
        event_id, correlation_id, causation_id = ids
        yield (
            position,
            stream,
            version,
            topic,
            state,
            event_id,
            recorded_at,
            actor,
            correlation_id,
            causation_id,
        )
