"""The schema of a PostgreSQL event log; its version is in the table ``schema_version``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import LiteralString

import psycopg
from psycopg.sql import SQL, Composed, Identifier, Literal

from deployledger.adapters.event_log.opening import SCHEMA_VERSION
from deployledger.adapters.event_log.postgres.recorders import REFUSE_CHANGE, EventTable, columns_of
from deployledger.adapters.event_log.reading import EVENTS_TABLE, KEYS_TABLE
from deployledger.adapters.postgres import SCHEMA, Session
from deployledger.adapters.rights import rights_of

EVENTS = EventTable(SCHEMA, EVENTS_TABLE)
KEYS = Identifier(SCHEMA, KEYS_TABLE)
KEY_COLUMNS: Mapping[str, LiteralString] = {
    "key": "text NOT NULL",
    "fingerprint": "text NOT NULL",
    "deployment_id": "uuid NOT NULL",
    "version": "bigint NOT NULL",
    "recorded_at": "timestamp with time zone NOT NULL",
}
"""The columns of the table of idempotency keys, as the server writes their types."""

_SCHEMA_VERSION = Identifier(SCHEMA, "schema_version")
_VERSION_1_TABLE = Identifier(SCHEMA, "deployment_events")
# PostgreSQL cannot look into JSON with an escaped NUL, which tags may have. A pair of backslashes is
# matched, and kept, so that what it escapes is not taken for one.
_ESCAPED_NUL = r"(\\\\)|\\u0000"


def found_version(session: Session) -> int:
    """Return the version of the schema; 0 if there is none."""
    try:
        row = session.execute(SQL("SELECT version FROM {}").format(_SCHEMA_VERSION)).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return 0
    return int(row[0]) if row else 0


def create(session: Session) -> None:
    """Create the schema, unless another process did meanwhile."""
    with _alone(session):
        if not rights_of(session).has_schema:  # who was given it may not be allowed to create one
            session.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(SCHEMA)))
        session.execute(
            SQL("CREATE TABLE IF NOT EXISTS {} (version integer NOT NULL)").format(_SCHEMA_VERSION)
        )
        if found_version(session) == 0:
            _create_tables(session)
            session.execute(SQL("INSERT INTO {} VALUES (%s)").format(_SCHEMA_VERSION), (SCHEMA_VERSION,))


def upgrade(session: Session) -> None:
    """Bring the schema from version 1 to version 2, unless another process did meanwhile.

    Version 1 had the library's table, with the metadata in the stored state only.
    """
    with _alone(session):
        if found_version(session) != 1:
            return
        session.execute(SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(_VERSION_1_TABLE))
        _create_tables(session)
        session.execute(
            SQL(
                """INSERT INTO {events} (position, originator_id, originator_version, topic, state, event_id,
                                         recorded_at, actor, correlation_id, causation_id)
                SELECT row_number() OVER (ORDER BY notification_id), originator_id, originator_version, topic,
                       state, (fields ->> 'event_id')::uuid,
                       max((fields ->> 'timestamp')::timestamptz) OVER (ORDER BY notification_id),
                       fields ->> 'actor', (fields ->> 'correlation_id')::uuid,
                       (fields ->> 'causation_id')::uuid
                FROM {old}, LATERAL (SELECT regexp_replace(convert_from(state, 'UTF8'),
                                                           {nul}, {kept}, 'g')::json AS fields) AS decoded
                ORDER BY notification_id"""
            ).format(events=EVENTS.name, old=_VERSION_1_TABLE, nul=Literal(_ESCAPED_NUL), kept=Literal(r"\1"))
        )
        session.execute(SQL("DROP TABLE {}").format(_VERSION_1_TABLE))
        for kind in ("uuid", "text"):
            stored_event = Identifier(SCHEMA, f"stored_event_{kind}")
            session.execute(SQL("DROP TYPE IF EXISTS {} CASCADE").format(stored_event))
        session.execute(SQL("UPDATE {} SET version = 2").format(_SCHEMA_VERSION))


def restore_triggers(session: Session) -> None:
    """Create what refuses changes to events, and what appends them, again."""
    with _alone(session):
        for statement in (*EVENTS.create_statements()[1:], EVENTS.create_append_function()):
            session.execute(statement)
        session.execute(
            SQL("ALTER TABLE {} ENABLE TRIGGER {}").format(EVENTS.name, Identifier(REFUSE_CHANGE))
        )


def _create_tables(session: Session) -> None:
    for statement in (*EVENTS.create_statements(), EVENTS.create_append_function()):
        session.execute(statement)
    session.execute(create_keys_table(KEYS))


def create_keys_table(table: Identifier) -> Composed:
    """Return the statement that creates the table of idempotency keys, under a name."""
    return SQL("CREATE TABLE {} ({}, PRIMARY KEY (key))").format(table, columns_of(KEY_COLUMNS))


@contextmanager
def _alone(session: Session) -> Iterator[None]:
    """Enter a transaction that no other one like it runs beside."""
    with session.transaction():
        session.execute("SELECT pg_advisory_xact_lock(hashtextextended('deployledger schema', 0))")
        yield
