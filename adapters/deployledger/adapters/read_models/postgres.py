"""Read models in a PostgreSQL database, in the schema of the event log."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from threading import Lock
from typing import Any
from uuid import UUID

import psycopg

from deployledger.adapters.dialect import POSTGRES, PostgresStatements, Statements, in_postgres, upsert
from deployledger.adapters.pooling import refuse_shared
from deployledger.adapters.postgres import DENIED, SCHEMA, PostgresDatabase, advice, reason
from deployledger.adapters.read_models.catalog import MODELS, PARKED, TABLES, Head, is_of
from deployledger.adapters.read_models.records import RecordTable
from deployledger.adapters.read_models.row_table import RowTable
from deployledger.adapters.read_models.selecting import Query
from deployledger.adapters.read_models.store import DatabaseReadModels, Moment
from deployledger.adapters.relations import TABLES as TABLES_CHECK
from deployledger.adapters.relations import relations, strange
from deployledger.adapters.rights import hint_to_write, rights_of
from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import ReadModelError, ReadModelsUnavailableError
from deployledger.domain.findings import Finding, Outcome
from deployledger.projections.projection import Projection
from deployledger.projections.rows import PastRow, StoredRow
from deployledger.projections.store import MissingReadModelError, UnreliableReadModelsError

_MAKE_AGAIN = (
    "Find out who changed it and remove it; `deployledger projections rebuild` rebuilds read models from "
    "the event log."
)
_UNWRITABLE = (
    "A read-only user can keep read models elsewhere: set "
    "DEPLOYLEDGER_READ_MODELS_URL=sqlite:///read-models.db. For a service, `deployledger db check` lists the "
    "GRANTs that it needs; only the owner of the schema can create tables, as a rebuild does. "
    "docs/database.md lists the rights of every role."
)
# By the catalog alone: the tables that list the others may be what was replaced. Those ending in "_counts" or
# "_turns" are of earlier releases.
_TABLE_NAMES = f"""
    SELECT relname::text FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE nspname = '{SCHEMA}' AND relkind NOT IN ('i', 'I', 't', 'c')
          AND (relname IN ('{MODELS}', '{TABLES}', '{PARKED}')
               OR relname ~ '_v[0-9]+_[0-9]+(_counts|_past|_turns)*$')
"""  # noqa: S608
_IS_CURRENT = f"""
    SELECT count(*) FROM pg_catalog.pg_attribute
    WHERE attrelid = to_regclass('{SCHEMA}.{MODELS}') AND attname = 'event_marker'
"""  # noqa: S608
_CREATE_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('deployledger read models', 0))"
_SPARSE = " WITH (fillfactor = 20)"
"""So that the records of read models, which change with each event, stay in their page."""

# The end of the log: its last position, and the marker that `domain.event_log.marker` makes.
_END = (
    "coalesce((SELECT position || ' ' || originator_id || ':' || originator_version || ':' "
    "|| encode(sha256(state), 'hex') FROM {} ORDER BY position DESC LIMIT 1), '0 ')"
)

_COPIED_FROM = 200
_DROP_SECONDS = 2
_LOCK_SECONDS = 30


class PostgresReadModels(DatabaseReadModels):
    """The store of read models; see the port.

    Args:
        database: the database.
        events: the table of events, if it is in the same database: reads then see in the same statement
            how far the log is.
        owns_database: whether the database's pool is opened and closed here; else somebody else does.
    """

    _for_update = " FOR UPDATE"

    def __init__(
        self, database: PostgresDatabase, *, events: str | None, owns_database: bool = False
    ) -> None:
        super().__init__(POSTGRES)
        self._database = database
        self.described_as = database.described_as
        self._owns_database = owns_database
        self._opening = Lock()
        self._log_end = _END.format(events) if events else "NULL"
        self._is_created = False

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.UndefinedTable as error:
            self._is_created = False
            self._live.clear()
            raise MissingReadModelError(
                f"The read models in {self.described_as} no longer exist.",
                hint="Try again: they are rebuilt from the event log.",
            ) from error
        except psycopg.Error as error:
            kind = ReadModelsUnavailableError if self._database.is_outage(error) else ReadModelError
            raise kind(
                f"The read models in {self.described_as} cannot be used: {reason(error)}.",
                hint=_UNWRITABLE if isinstance(error, DENIED) else advice(error),
            ) from error

    @contextmanager
    def reading(self) -> Iterator[PostgresStatements]:
        """Enter with a connection on which each statement is by itself."""
        with self._errors(), self._database.pooled() as session:
            yield PostgresStatements(session)

    @contextmanager
    def snapshot(self) -> Iterator[PostgresStatements]:
        """Enter with a connection that sees what there is at one moment, for statements that take long."""
        with self._errors(), self._database.session(is_long=True) as session:
            session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            with session.transaction():
                yield PostgresStatements(session)

    @contextmanager
    def transaction(self) -> Iterator[PostgresStatements]:
        """Enter a transaction."""
        milliseconds = round(min(_LOCK_SECONDS, self._database.patience.seconds) * 1000)
        with self._errors(), self._database.pooled() as session, session.transaction():
            # Rows can be rebuilt from the log: a commit need not wait for the disk.
            session.execute(
                "SELECT set_config('synchronous_commit', 'off', true), "
                "set_config('lock_timeout', %s::text, true)",
                (f"{milliseconds}ms",),
            )
            yield PostgresStatements(session)
            self._database.was_written = True

    def _execute_long(self, statements: Sequence[str]) -> None:
        with self._errors(), self._database.session(is_long=True) as session:
            session.execute("SET synchronous_commit = off")
            for statement in statements:
                session.execute(statement.encode())

    def _check_definition(self, sql: Statements, table: RowTable) -> None:
        """Check nothing: `findings` looks at the server's catalog."""

    def _at_once(
        self,
        sql: Statements,
        tables: Sequence[RowTable],
        query: Query,
        order: str = "",
        numbers: Sequence[Query] = (),
    ) -> Moment | None:
        """Return what there is at one moment, by one statement: each would take a round trip."""
        heads = ", ".join(f"m{at}.{name}" for at in range(len(tables)) for name in Head._fields)
        models = ", ".join(f"{self.models.name} m{at}" for at in range(len(tables)))
        where = " AND ".join(is_of(table.projection, f"m{at}") for at, table in enumerate(tables))
        statement, values = query
        expressions = "".join(f", {expression}" for expression, _ in numbers)
        found = sql.query(
            f"SELECT {self._log_end}, q.key IS NOT NULL, {heads}{expressions}, q.* "  # noqa: S608
            f"FROM {models} LEFT JOIN ({statement}) q ON TRUE WHERE {where}{order}",
            [*(value for _, of_number in numbers for value in of_number), *values],
        )
        if not found:
            return None
        end, is_row, *others = found[0]
        width = len(Head._fields)
        found_heads = [Head(*others[at * width : (at + 1) * width]) for at in range(len(tables))]
        if [head.generation for head in found_heads] != [table.generation for table in tables]:
            return None
        behind_heads = len(tables) * width
        found_numbers = others[behind_heads : behind_heads + len(numbers)]
        start = 2 + behind_heads + len(numbers)
        rows = [record[start:] for record in found] if is_row else []
        return Moment(found_heads, rows, found_numbers, _mark(end))

    def _is_missing_table(self, error: Exception) -> bool:
        return isinstance(error, psycopg.errors.UndefinedTable)

    # Tables -----------------------------------------------------------------------------------------

    def prepare(self, projections: Iterable[Projection[Any]]) -> list[Projection[Any]]:
        """Create what the database lacks but the tables, and return the projections that have none."""
        self._open()
        if not self._is_created:
            self._create()
        return super().prepare(projections)

    def _open(self) -> None:
        with self._opening:
            if self._owns_database and not self._database.is_open:
                with self._errors():
                    # It says at once what is wrong; the pool tries for long.
                    with self._database.session() as session:
                        refuse_shared(session, self._database.session, self.described_as)
                self._database.open()

    def check_rights(self) -> None:
        """Check that the user may keep the read models, unless the server is unavailable.

        Raises:
            ReadModelError: if a right is missing; the hint names the GRANT.
        """
        with suppress(psycopg.OperationalError), self._database.session() as session:
            user_rights = rights_of(session)
            if missing := user_rights.to_keep_read_models():
                raise ReadModelError(
                    f"The user {user_rights.user!r} lacks rights on the read models in "
                    f"{self.described_as}; nothing was stored.",
                    hint=hint_to_write(user_rights, missing),
                )

    def _create(self) -> None:
        with self._errors(), self._database.pooled() as session:
            sql = PostgresStatements(session)
            if not sql.query(_IS_CURRENT)[0][0]:
                with session.transaction():
                    session.execute(_CREATE_ALONE)
                    if not rights_of(session).has_schema:
                        session.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}".encode())
                    if not sql.query(_IS_CURRENT)[0][0]:
                        self._recreate(sql)
        self._is_created = True

    def _recreate(self, sql: PostgresStatements) -> None:
        """Create what a database has before it has any read model; that of an earlier release is dropped."""
        for (name,) in sql.query(_TABLE_NAMES):
            sql.execute(f"DROP TABLE {POSTGRES.table(name)}")
        for statement in self._create_statements():
            sql.execute(statement)

    def _create_statements(self) -> list[str]:
        return [self.models.create(_SPARSE), *super()._create_statements()[1:]]

    def complete(self, projection: Projection[Any], generation: int) -> None:
        """Make the indexes of a table that was filled, and tell the planner what is in it."""
        super().complete(projection, generation)
        table = self.row_table(projection, generation)
        self._execute_long(
            [f"ANALYZE {records.name}" for records in (table.rows, table.past) if records is not None]
        )

    def store_rows(
        self, sql: Statements, table: RecordTable, new: list[StoredRow], changed: list[StoredRow]
    ) -> None:
        """Store rows that the table does not have, and rows that it may have."""
        if len(new) > _COPIED_FROM:
            self._copy(sql, table, new)
            new = []
        rows = [*new, *changed]
        if rows:
            by_column = [list(values) for values in zip(*map(RowTable.record, rows), strict=True)]
            arrays = ", ".join(f"?::{_TYPES[kind]}[]" for kind in table.fields.values())
            values = f"SELECT * FROM unnest({arrays})"  # noqa: S608
            sql.execute(upsert(table.name, table.columns, table.key, values), by_column)

    def insert_past(self, sql: Statements, table: RecordTable, rows: list[PastRow]) -> None:
        """Store rows of the past, which the table does not have."""
        self._copy(sql, table, rows)

    def _copy(self, sql: Statements, table: RecordTable, rows: Sequence[StoredRow | PastRow]) -> None:
        assert isinstance(sql, PostgresStatements)  # noqa: S101  # as all of this store are
        statement = f"COPY {table.name} ({', '.join(table.columns)}) FROM STDIN (FORMAT BINARY)"
        with sql.session.cursor() as cursor, cursor.copy(in_postgres(statement)) as copy:
            copy.set_types([_TYPES[kind] for kind in table.fields.values()])
            write = copy.write_row
            for row in rows:
                write(RowTable.record(row))

    def _drop(self, label: str, generation: int, *, is_needed: bool = False) -> None:
        # Nobody who still reads it is cut off, and those who wait for this do not wait for long.
        can_wait = (
            () if is_needed else (psycopg.errors.LockNotAvailable, psycopg.errors.InsufficientPrivilege)
        )
        seconds = _LOCK_SECONDS if is_needed else _DROP_SECONDS
        with self._errors(), self._database.session(is_long=True) as session:
            session.execute(f"SET lock_timeout = '{seconds}s'".encode())
            with suppress(*can_wait), session.transaction():
                sql = PostgresStatements(session)
                if not self._is_read(sql, generation):
                    self._drop_tables(sql, label, generation)

    # What there is ----------------------------------------------------------------------------------

    def renew(self, error: UnreliableReadModelsError) -> None:
        """Raise the error, which no method here raises: damage is found, and mended, by the server."""
        raise error

    def findings(self) -> list[Finding]:  # pages are the server's
        """Check that the tables, those that there are, are plain ones that show every row."""
        try:
            with self._errors(), self._database.session() as session:  # the pool need not be open yet
                names = [name for (name,) in PostgresStatements(session).query(_TABLE_NAMES)]
                by_name = relations(session, names)
        except ReadModelError as error:  # the log can be checked without them
            return [Finding(TABLES_CHECK, Outcome.WARNING, error.message, error.hint or "")]
        return [finding for name in sorted(by_name) for finding in strange(by_name[name], _MAKE_AGAIN)]

    def close(self) -> None:
        """Close every connection of the store's own."""
        if self._owns_database:
            self._database.close()


def _mark(text: str | None) -> Mark | None:
    """Return the end of the log as it is selected."""
    if text is None:
        return None
    position, _, marker = text.partition(" ")
    return Mark(int(position), marker)


_TYPES = {str: "text", int: "int8", float: "float8", bool: "bool", datetime: "timestamptz", UUID: "uuid"}
"""The names by which the driver knows the types of columns."""
