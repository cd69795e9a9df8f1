"""Recorders for PostgreSQL with our columns and our lock: any application of `eventsourcing` can use them.

``PERSISTENCE_MODULE=deployledger.adapters.event_log.postgres.recorders`` makes an application do so.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID

from eventsourcing import postgres
from eventsourcing.persistence import Notification, ProgrammingError, StoredEvent
from eventsourcing.postgres import (
    PostgresApplicationRecorder,
    PostgresDatastore,
    PostgresProcessRecorder,
)
from psycopg import Cursor
from psycopg.rows import DictRow
from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from deployledger.adapters.event_log.commands import EventRow, plain_row

_COLUMN_TYPES = [SQL(kind) for kind in ("uuid", "bigint", "text", "bytea", "uuid", "text", "uuid", "uuid")]
"""The types of the columns of `EventRow`, in order."""

_ARGUMENT_TYPES = [*_COLUMN_TYPES, SQL("uuid"), SQL("bigint")]
"""Those of the append function: the columns, and which streams must have reached which versions."""


EVENT_COLUMNS: Mapping[str, LiteralString] = {
    "position": "bigint NOT NULL",
    "originator_id": "uuid NOT NULL",
    "originator_version": "bigint NOT NULL",
    "topic": "text NOT NULL",
    "state": "bytea NOT NULL",
    "event_id": "uuid NOT NULL",
    "recorded_at": "timestamp with time zone NOT NULL",
    "actor": "text",
    "correlation_id": "uuid",
    "causation_id": "uuid",
}
"""The columns of a table of events, as the server writes their types."""

REFUSE_CHANGE = "refuse_change"
"""The name of the trigger that makes a table one that can only be added to."""

_LAST_TIME = SQL(
    """(SELECT recorded_at FROM {}
                                                    ORDER BY position DESC LIMIT 1)"""
)
_TABLE_KEYS = ("PRIMARY KEY (position)", "UNIQUE (originator_id, originator_version)")


class EventTable:
    """The SQL of one table of events.

    Appending takes an advisory lock that ends with the transaction, not a lock of the table: VACUUM,
    ANALYZE and CREATE INDEX CONCURRENTLY neither wait for appends nor hold them up.
    """

    refuse_body: LiteralString = (
        "BEGIN RAISE EXCEPTION 'events are only ever added: % is refused', TG_OP; END"
    )
    """What the function does that the trigger calls."""

    def __init__(self, schema: str, table: str) -> None:
        self.name = Identifier(schema, table)
        self.channel = f"{schema}.{table}"
        number = hashlib.sha256(f"deployledger append {schema}.{table}".encode()).digest()[:8]
        self._lock_number = Literal(int.from_bytes(number, "big", signed=True))
        self.lock = SQL("SELECT pg_advisory_xact_lock({})").format(self._lock_number)
        self.barrier = SQL("SELECT pg_advisory_xact_lock_shared({})").format(self._lock_number)
        self.notify = SQL("NOTIFY {}").format(Identifier(self.channel))
        self.append_function = Identifier(schema, f"{table}_append")
        self._refuse_function = Identifier(schema, f"{table}_refuse_change")
        self.insert = self._insert([SQL("%s")] * len(_COLUMN_TYPES))
        self.insert_correction = self._insert([SQL("%s")] * len(_COLUMN_TYPES), may_fall=True)
        self.clocks = SQL("SELECT {clocks}, (SELECT max(position) FROM {table})").format(
            clocks=self._clocks(), table=self.name
        )

    def _clocks(self) -> Composed:
        """Return the columns with the server's clock and the last event's time, in microseconds since 1970.

        Where that time is infinite, it is NULL.
        """
        return SQL(
            "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint, "
            "(SELECT (extract(epoch FROM CASE WHEN isfinite(recorded_at) THEN recorded_at END) "
            "* 1000000)::bigint FROM {table} ORDER BY position DESC LIMIT 1)"
        ).format(table=self.name)

    def _insert(self, values: Sequence[Composable], *, may_fall: bool = False) -> Composed:
        """Return the statement that adds arrays of columns, and gives the position before them.

        Args:
            may_fall: whether they may be recorded earlier than the last event: they correct the clock.
        """
        # Databases have the append function in these very words.
        last = SQL("NULL") if may_fall else _LAST_TIME.format(self.name)
        arrays = SQL(", ").join(
            SQL("{}::{}[]").format(value, kind) for value, kind in zip(values, _COLUMN_TYPES, strict=True)
        )
        return SQL(
            """
            WITH last AS MATERIALIZED (
                SELECT coalesce(max(position), 0) AS position,
                       greatest(clock_timestamp(), {last}) AS recorded_at
                FROM {table}
            ), added AS (
                INSERT INTO {table} (position, originator_id, originator_version, topic, state, event_id,
                                     recorded_at, actor, correlation_id, causation_id)
                SELECT last.position + new.number, new.originator_id, new.originator_version, new.topic,
                       new.state, new.event_id, last.recorded_at, new.actor, new.correlation_id,
                       new.causation_id
                FROM last, unnest({arrays}) WITH ORDINALITY
                     AS new (originator_id, originator_version, topic, state, event_id, actor,
                             correlation_id, causation_id, number)
            )
            SELECT last.position FROM last
            """
        ).format(table=self.name, arrays=arrays, last=last)

    def create_append_function(self) -> Composed:
        """Return the statement that creates the function that appends in one call: lock, insert, notify.

        Each statement of it sees what was committed before that statement began, so what it inserts
        comes behind everything that held the lock before.
        """
        arguments = [_argument(number) for number in range(1, len(_ARGUMENT_TYPES) + 1)]
        return SQL(
            """CREATE OR REPLACE FUNCTION {function}({types}) RETURNS bigint LANGUAGE plpgsql
            -- Plans are kept, and the first may be made while the table is empty.
            SET enable_seqscan = off
            AS $append$
            DECLARE before bigint;
            BEGIN
                PERFORM pg_advisory_xact_lock({lock});
                IF EXISTS (
                    SELECT FROM unnest({ids}, {versions}) AS reached (id, version)
                    LEFT JOIN LATERAL (
                        SELECT TRUE AS is_there FROM {table}
                        WHERE originator_id = reached.id AND originator_version = reached.version LIMIT 1
                    ) AS found ON TRUE
                    WHERE found.is_there IS NULL
                ) THEN
                    RAISE unique_violation USING MESSAGE = 'a stream is not at the version before';
                END IF;
                {insert} INTO before;
                PERFORM pg_notify({channel}, '');
                RETURN before;
            END $append$"""
        ).format(
            function=self.append_function,
            types=SQL(", ").join(SQL("{}[]").format(kind) for kind in _ARGUMENT_TYPES),
            lock=self._lock_number,
            ids=arguments[-2],
            versions=arguments[-1],
            table=self.name,
            insert=self._insert(arguments[: len(_COLUMN_TYPES)]),
            channel=Literal(self.channel),
        )

    def call_append_function(self) -> Composed:
        """Return the statement that calls it, with numbered parameters.

        Beside what it returns are the clocks; the last event is then the one before those that it adds.
        """
        arguments = [_argument(number) for number in range(1, len(_ARGUMENT_TYPES) + 1)]
        return SQL("SELECT {}({}), {}").format(
            self.append_function, SQL(", ").join(arguments), self._clocks()
        )

    def create_statements(self) -> list[Composed]:
        """Return the statements that create the table, which can only be added to."""
        return [
            self.create_table(),
            SQL(
                "CREATE OR REPLACE FUNCTION {refuse}() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"
            ).format(refuse=self._refuse_function, body=SQL(self.refuse_body)),
            self.create_trigger(self.name),
        ]

    def create_table(self, *, with_keys: bool = True) -> Composed:
        """Return the statement that creates the table alone; without keys it has no index."""
        return SQL(
            """CREATE TABLE IF NOT EXISTS {table} ({columns}{keys})
                WITH (autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05)"""
        ).format(
            table=self.name,
            columns=columns_of(EVENT_COLUMNS),
            keys=SQL(f", {', '.join(_TABLE_KEYS)}" if with_keys else ""),
        )

    def add_keys(self) -> Composed:
        """Return the statement that adds the keys to a table that was created without them."""
        return SQL("ALTER TABLE {} {}").format(self.name, SQL(", ".join(f"ADD {key}" for key in _TABLE_KEYS)))

    def create_trigger(self, table: Identifier) -> Composed:
        """Return the statement that makes a table one that can only be added to."""
        return SQL(
            "CREATE OR REPLACE TRIGGER {name} BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION {refuse}()"
        ).format(name=Identifier(REFUSE_CHANGE), table=table, refuse=self._refuse_function)


def columns_of(columns: Mapping[str, LiteralString]) -> Composed:
    """Return the definitions of columns."""
    return SQL(", ").join(SQL("{} {}").format(Identifier(name), SQL(kind)) for name, kind in columns.items())


def _argument(number: int) -> Composable:
    """Return the server's own name of a numbered argument."""
    return SQL("${}").format(Literal(number))


def array_literals(rows: Iterable[EventRow]) -> list[str]:
    """Return the columns of the rows as PostgreSQL's array literals, which is far cheaper than lists."""
    columns = list(zip(*rows, strict=True))
    ids, versions, topics, states, event_ids, actors, correlation_ids, causation_ids = columns
    return [
        _array([value.hex for value in ids]),
        _array([str(value) for value in versions]),
        _array([_quoted(value) for value in topics]),
        _array([f'"\\\\x{value.hex()}"' for value in states]),
        _array([value.hex for value in event_ids]),
        _array(["NULL" if value is None else _quoted(value) for value in actors]),
        _array(["NULL" if value is None else value.hex for value in correlation_ids]),
        _array(["NULL" if value is None else value.hex for value in causation_ids]),
    ]


def reached_literals(versions: Mapping[UUID, int]) -> list[str]:
    """Return streams, and the versions that they must have reached, as array literals."""
    return [
        _array([stream_id.hex for stream_id in versions]),
        _array([str(version) for version in versions.values()]),
    ]


def _array(elements: list[str]) -> str:
    return f"{{{','.join(elements)}}}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class PostgresLogRecorder(PostgresApplicationRecorder):
    """The library's application recorder, on a table with our columns.

    ``insert_events(…, metadata=rows)`` stores the metadata of ``rows``, one `EventRow` an event.

    Raises:
        ProgrammingError: if the datastore has the library's database functions switched on, which take
            no lock, and lose events for readers that follow.
    """

    def __init__(self, datastore: PostgresDatastore, *, events_table_name: str = "stored_events") -> None:
        if datastore.enable_db_functions:
            raise ProgrammingError(
                "POSTGRES_ENABLE_DB_FUNCTIONS is refused: the library's functions take no lock, so that "
                "readers that follow the log miss events. Leave it unset."
            )
        super().__init__(datastore, events_table_name=events_table_name)
        self.table = EventTable(datastore.schema, events_table_name)
        self.channel_name = self.table.channel
        self.lock_table_statements = [self.table.lock]
        self.max_notification_id_statement = SQL("SELECT max(position) AS max FROM {}").format(
            self.table.name
        )
        # Of what the library creates, only what is not about its own table of events is wanted.
        self.sql_create_statements = self.table.create_statements()
        datastore.db_type_names.discard(self.stored_event_type_name)

    def _insert_stored_events(
        self, curs: Cursor[DictRow], stored_events: Sequence[StoredEvent], **kwargs: Any
    ) -> None:
        self._lock_table(curs)
        self._notify_channel(curs)
        rows: Sequence[EventRow] = kwargs.get("metadata") or [plain_row(stored) for stored in stored_events]
        curs.execute(self.table.insert, array_literals(rows), prepare=True)

    def _fetch_ids_after_insert_events(
        self, curs: Cursor[DictRow], stored_events: Sequence[StoredEvent], **_: Any
    ) -> Sequence[int]:
        # The results of the lock and of the notification come first.
        while curs.nextset():
            pass
        row = curs.fetchone()
        if row is None:
            raise ProgrammingError("the positions of the stored events were not returned")
        return list(range(row["position"] + 1, row["position"] + 1 + len(stored_events)))

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
        conditions, values = [SQL("TRUE")], list[Any]()
        if start is not None:
            conditions.append(SQL("position >= %s") if inclusive_of_start else SQL("position > %s"))
            values.append(start)
        if stop is not None:
            conditions.append(SQL("position <= %s"))
            values.append(stop)
        if topics:
            conditions.append(SQL("topic = ANY(%s)"))
            values.append(list(topics))
        query = SQL(
            "SELECT position, originator_id, originator_version, topic, state FROM {} "
            "WHERE {} ORDER BY position LIMIT %s"
        ).format(self.table.name, SQL(" AND ").join(conditions))
        with self.datastore.get_connection() as connection, connection.cursor() as cursor:
            cursor.execute(query, (*values, limit), prepare=True)
            return [
                Notification(
                    originator_id=row["originator_id"],
                    originator_version=row["originator_version"],
                    topic=row["topic"],
                    state=bytes(row["state"]),
                    id=row["position"],
                )
                for row in cursor.fetchall()
            ]


class PostgresLogProcessRecorder(PostgresProcessRecorder, PostgresLogRecorder):
    """The library's process recorder, on a table with our columns."""


class Factory(postgres.PostgresFactory):
    """Makes an application of the library use these recorders; it looks for the one factory of a module."""

    application_recorder_class = PostgresLogRecorder
    process_recorder_class = PostgresLogProcessRecorder
