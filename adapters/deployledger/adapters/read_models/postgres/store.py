"""Read models in a PostgreSQL database, in the schema of the event log."""

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, TypeVar

import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Composable, Identifier, Literal

from deployledger.adapters.pooling import refuse_shared
from deployledger.adapters.postgres import DENIED, SCHEMA, PostgresDatabase, Session, advice, reason
from deployledger.adapters.read_models.postgres.past import past_row
from deployledger.adapters.read_models.postgres.tables import (
    MODELS,
    PARKED,
    TABLES,
    RowTable,
    SessionTable,
    drop_statements,
    stored_row,
)
from deployledger.adapters.read_models.shapes import check_shape, shape_of
from deployledger.adapters.relations import TABLES as TABLES_CHECK
from deployledger.adapters.relations import relations, strange
from deployledger.adapters.rights import hint_to_write, rights_of
from deployledger.domain.event_log import Mark
from deployledger.domain.exceptions import ReadModelError, ReadModelsUnavailableError
from deployledger.domain.findings import Finding, Outcome
from deployledger.projections.projection import Projection
from deployledger.projections.store import (
    Found,
    MissingReadModelError,
    ParkedEvent,
    PastRow,
    ReadModelRecord,
    Selected,
    SelectedRow,
    Selection,
    StoredRow,
    UnreliableReadModelsError,
)

_MAKE_AGAIN = (
    "Find out who changed it and remove it; `deployledger projections rebuild` makes read models again from "
    "the event log."
)
_UNWRITABLE = (
    "Whoever may only read gets answers from rows of their own: set "
    "DEPLOYLEDGER_READ_MODELS_URL=sqlite:///read-models.db. For a service, `deployledger db check` names the "
    "GRANTs that it needs; what creates tables, as a rebuild does, is for the owner of the schema. "
    "docs/database.md lists the rights of every role."
)
# By the catalog alone: the tables that list the others may be what was replaced.
_TABLE_NAMES = """
    SELECT relname::text FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE nspname = %s AND relkind NOT IN ('i', 'I', 't', 'c')
          AND (relname IN ('read_models', 'read_model_tables', 'read_model_parked')
               OR relname ~ '_v[0-9]+_[0-9]+(_counts|_past|_turns)?$')
"""

# The end of the log as one text: its last position, and the marker that `domain.event_log.marker` makes.
_END = SQL(
    "coalesce((SELECT position || ' ' || originator_id || ':' || originator_version || ':' "
    "|| encode(sha256(state), 'hex') FROM {} ORDER BY position DESC LIMIT 1), '0 ')"
)

_T = TypeVar("_T")
_ATTEMPTS = 5
_DROP_SECONDS = 2
_LOCK_SECONDS = 30


class PostgresReadModels:
    """The store of read models; see the port.

    Args:
        database: the database.
        events: the table of events, if it is in the same database: reads then see in the same statement
            how far the log is.
        owns_database: whether the database's pool is opened and closed here; else somebody else does.
    """

    def __init__(
        self, database: PostgresDatabase, *, events: Identifier | None, owns_database: bool = False
    ) -> None:
        self._database = database
        self._owns_database = owns_database
        self._opening = Lock()
        self._end: Composable = _END.format(events) if events else SQL("NULL::text")
        self._live: dict[str, RowTable] = {}
        self._get_statements: dict[int, bytes] = {}
        self._is_created = False

    @property
    def described_as(self) -> str:
        """The database, for messages; without credentials."""
        return self._database.described_as

    @property
    def unwritable(self) -> str:
        """An empty text: what cannot be stored here is an error."""
        return ""

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
    def _transaction(self) -> Iterator[Session]:
        with self._errors(), self._database.pooled() as session, session.transaction():
            # Rows can be had again from the log: a commit need not wait for the disk.
            session.execute("SET LOCAL synchronous_commit = off", prepare=True)
            milliseconds = round(min(_LOCK_SECONDS, self._database.patience.seconds) * 1000)
            session.execute(
                SQL("SET LOCAL lock_timeout = {}").format(Literal(f"{milliseconds}ms")), prepare=True
            )
            yield session
            self._database.was_written = True

    @contextmanager
    def _own_session(self) -> Iterator[Session]:
        with self._errors(), self._database.session(is_long=True) as session:
            session.execute("SET synchronous_commit = off")
            yield session

    # Which tables there are -------------------------------------------------------------------------

    def prepare(self, projections: Iterable[Projection[Any]]) -> list[Projection[Any]]:
        """Create what the database lacks but the tables, and return the projections that have none."""
        wanted = list(projections)
        self._open()
        with self._errors(), self._database.pooled() as session:
            if not self._is_created:
                self._create(session)
            missing = []
            for projection in wanted:
                shape = shape_of(projection)
                generation, found = self._known(session, projection) or (None, None)
                if found is None:
                    session.execute(
                        SQL(
                            "INSERT INTO {} (name, version, shape) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
                        ).format(MODELS),
                        (projection.name, projection.version, shape),
                    )
                    generation, found = self._known(session, projection) or (None, shape)
                check_shape(projection, found, shape)
                if generation is None:
                    missing.append(projection)
            return missing

    def _known(self, session: Session, projection: Projection[Any]) -> tuple[int | None, str] | None:
        """Return the number of the table that is read, and the shape of its rows, if it was ever prepared."""
        query = SQL("SELECT generation, shape FROM {} WHERE name = %s AND version = %s").format(MODELS)
        with session.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(query, (projection.name, projection.version)).fetchone()

    def _open(self) -> None:
        with self._opening:
            if self._owns_database and not self._database.is_open:
                with self._errors():
                    # It says at once what is wrong; the pool tries for long.
                    with self._database.session() as session:
                        refuse_shared(session, self._database.session, self.described_as)
                self._database.open()

    def check_rights(self) -> None:
        """Check that the user may keep the read models, unless the server is away.

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

    def _create(self, session: Session) -> None:
        exists = _one(session, "SELECT to_regclass(%s)", (f"{SCHEMA}.read_model_parked",))[0]
        if exists is None:
            with session.transaction():
                session.execute(_CREATE_ALONE)
                if not rights_of(session).has_schema:
                    session.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(SCHEMA)))
                for statement in _CREATE:
                    session.execute(statement)
        self._is_created = True

    def marker(self, projection: Projection[Any]) -> Mark:
        """Return up to where the log is applied to what is read, and which event is there."""
        with self._errors(), self._database.pooled() as session:
            position, marker = _one(
                session,
                SQL("SELECT position, marker FROM {} WHERE name = %s AND version = %s").format(MODELS),
                (projection.name, projection.version),
            )
            return Mark(position, marker)

    def forget(self, projection: Projection[Any], mark: Mark) -> bool:
        """Leave a projection without a table that is read, if it is of this mark; see the port."""
        with self._transaction() as session:
            updated = session.execute(
                SQL(
                    "UPDATE {} SET generation = NULL, position = 0, marker = '' WHERE name = %s "
                    "AND version = %s AND generation IS NOT NULL AND position = %s AND marker = %s"
                ).format(MODELS),
                (projection.name, projection.version, *mark),
            )
            return updated.rowcount > 0

    def begin_empty(self, projections: Sequence[Projection[Any]]) -> None:
        """Give projections that have none an empty table to be read."""
        with self._transaction() as session:
            for projection in projections:
                generation = _one(
                    session,
                    SQL("SELECT generation FROM {} WHERE name = %s AND version = %s FOR UPDATE").format(
                        MODELS
                    ),
                    (projection.name, projection.version),
                )[0]
                if generation is None:
                    table = self._make(session, projection)
                    for statement in table.complete_statements():
                        session.execute(statement)
                    session.execute(
                        SQL(
                            "UPDATE {} SET generation = %s, position = 0, marker = '', updated_at = now() "
                            "WHERE name = %s AND version = %s"
                        ).format(MODELS),
                        (table.generation, projection.name, projection.version),
                    )

    def _make(self, session: Session, projection: Projection[Any]) -> RowTable:
        by = f"{socket.gethostname()}:{os.getpid()}"
        generation = _one(
            session,
            SQL("INSERT INTO {} (name, version, begun_by) VALUES (%s, %s, %s) RETURNING generation").format(
                TABLES
            ),
            (projection.name, projection.version, by),
        )[0]
        table = RowTable(projection, generation)
        for statement in table.create_statements():
            session.execute(statement)
        return table

    def _live_table(self, projection: Projection[Any]) -> RowTable:
        table = self._live.get(projection.name)
        return table if table is not None else self._look_up(projection)

    def _look_up(self, projection: Projection[Any]) -> RowTable:
        with self._errors(), self._database.pooled() as session:
            generation = _one(
                session,
                SQL("SELECT max(generation) FROM {} WHERE name = %s AND version = %s").format(MODELS),
                (projection.name, projection.version),
            )[0]
        if generation is None:
            raise _gone(projection)
        table = self._live[projection.name] = RowTable(projection, generation)
        return table

    # Reading ----------------------------------------------------------------------------------------

    def _read(self, read: Callable[[Session], _T | None], *projections: Projection[Any]) -> _T:
        """Read; again, if another table has become the one that is read."""
        for projection in projections:  # not while the session is held that reads: it may be the only one
            self._live_table(projection)
        for _ in range(_ATTEMPTS):
            with self._errors():
                try:
                    found = self._database.read(read)
                except psycopg.errors.UndefinedTable:
                    found = None
            if found is not None:
                return found
            for projection in projections:
                self._look_up(projection)
        raise ReadModelError(
            f"The tables of the read models in {self.described_as} are gone, or change all the time.",
            hint="Try again; if they were removed, `deployledger projections rebuild --all` rebuilds them.",
        )

    def get(self, projection: Projection[Any], key: str) -> Found:
        """Return one row."""

        def read(session: Session) -> Found | None:
            table = self._live_table(projection)
            statement = self._get_statements.get(table.generation)
            if statement is None:
                statement = self._get_statements[table.generation] = table.get_statement(self._end)
            with session.cursor(binary=True, row_factory=tuple_row) as cursor:
                record = cursor.execute(statement, (key,), prepare=True).fetchone()
            if record is None or record[0] != table.generation:
                return None
            return Found(stored_row(record[4:]), record[1], _mark(record[3]), record[2])

        return self._read(read, projection)

    def select(self, projection: Projection[Any], selection: Selection, answer: Projection[Any]) -> Selected:
        """Return rows of one read model that those of another one with the same keys select."""

        def read(session: Session) -> Selected | None:
            table, other = self._live_table(projection), self._live_table(answer)
            statement, values = table.select_statement(selection, other, self._end)
            with session.cursor(binary=True, row_factory=tuple_row) as cursor:
                records = cursor.execute(statement, values, prepare=True).fetchall()
            if not records or records[0][:2] != (table.generation, other.generation):
                return None
            rows = [
                SelectedRow(record[8], record[9], row)
                for record in records
                if (row := stored_row(record[10:])) is not None
            ]
            first = records[0]
            position, marker = min(first[2:4], first[4:6])
            return Selected(rows, first[7], position, _mark(first[6]), marker)

        return self._read(read, projection, answer)

    def select_as_of(self, projection: Projection[Any], selection: Selection, as_of: int) -> Selected:
        """Return rows of a temporal read model as they were at a position."""

        def read(session: Session) -> Selected | None:
            table = self._live_table(projection)
            assert table.past is not None  # noqa: S101  # only of a temporal projection
            statement, values = table.past.select_statement(selection, as_of)
            with session.cursor(binary=True, row_factory=tuple_row) as cursor:
                records = cursor.execute(statement, values).fetchall()
            if not records or records[0][0] != table.generation:
                return None
            rows = [
                SelectedRow(record[4], record[6], row)
                for record in records
                if (row := stored_row(record[5:])) is not None
            ]
            return Selected(rows, records[0][3], records[0][1], None, records[0][2])

        return self._read(read, projection)

    # Applying ---------------------------------------------------------------------------------------

    @contextmanager
    def applying(self, projections: Sequence[Projection[Any]]) -> Iterator["_Applying"]:
        """Enter a transaction in which nobody else applies events to these read models."""
        with self._transaction() as session:
            names = sorted((it.name, it.version) for it in projections)
            records = {}
            if names:
                with session.cursor(row_factory=tuple_row) as cursor:
                    found = cursor.execute(
                        SQL(
                            "SELECT name, generation, position, marker FROM {} WHERE (name, version) IN "
                            "(SELECT * FROM unnest(%s::text[], %s::integer[])) ORDER BY name FOR UPDATE"
                        ).format(MODELS),
                        ([name for name, _ in names], [version for _, version in names]),
                        prepare=True,
                    )
                    records = {record[0]: (record[1], Mark(record[2], record[3])) for record in found}
            for projection in projections:
                if projection.name not in records:
                    raise _gone(projection)
            yield _Applying(session, records)

    def build(self, projection: Projection[Any]) -> int:
        """Make a new table beside the one that is read, and return its number; drop unfinished ones."""
        with self._errors(), self._database.pooled() as session:
            query = SQL(
                "SELECT t.generation FROM {tables} t JOIN {models} m USING (name, version) "
                "WHERE name = %s AND version = %s AND m.generation IS DISTINCT FROM t.generation"
            ).format(tables=TABLES, models=MODELS)
            with session.cursor(row_factory=tuple_row) as cursor:
                left = cursor.execute(query, (projection.name, projection.version)).fetchall()
        for (generation,) in left:
            self.drop(projection, generation)
        with self._transaction() as session:
            return self._make(session, projection).generation

    @contextmanager
    def building(self, projection: Projection[Any], generation: int) -> Iterator[SessionTable]:
        """Enter with a table that is being built; each `Rows.save` is a transaction."""
        with self._own_session() as session:
            yield SessionTable(session, RowTable(projection, generation))

    def complete(self, projection: Projection[Any], generation: int) -> None:
        """Make the indexes of a table that was filled."""
        with self._own_session() as session:
            for statement in RowTable(projection, generation).complete_statements():
                session.execute(statement)

    def record_rebuild(self, projection: Projection[Any], seconds: float, events: int) -> None:
        """Record how a rebuild went."""
        with self._errors(), self._database.pooled() as session:
            session.execute(
                SQL(
                    "UPDATE {} SET rebuilt_at = now(), rebuild_seconds = %s, rebuild_events = %s "
                    "WHERE name = %s AND version = %s"
                ).format(MODELS),
                (seconds, events, projection.name, projection.version),
            )

    def drop(self, projection: Projection[Any], generation: int) -> None:
        """Drop a table, unless it is read.

        One that somebody still has open, or that is another user's, is left to the next rebuild.
        """
        table = RowTable(projection, generation)
        with self._own_session() as session:
            # Who still reads it is not cut off, and those who wait for this do not wait for long.
            session.execute(SQL("SET lock_timeout = {}").format(Literal(f"{_DROP_SECONDS}s")))
            left = (psycopg.errors.LockNotAvailable, psycopg.errors.InsufficientPrivilege)
            with suppress(*left), session.transaction():
                is_read = _one(
                    session,
                    SQL("SELECT count(*) FROM {} WHERE generation = %s").format(MODELS),
                    (generation,),
                )[0]
                if not is_read:
                    for statement in table.drop_statements():
                        session.execute(statement)

    # Comparing --------------------------------------------------------------------------------------

    @contextmanager
    def compare(self, projection: Projection[Any], generation: int) -> Iterator["_Comparison"]:
        """Enter with what compares the table that is read with another one, both as they are on entering."""
        with self._own_session() as session:
            session.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            with session.transaction():
                live, position = _one(
                    session,
                    SQL("SELECT generation, position FROM {} WHERE name = %s AND version = %s").format(
                        MODELS
                    ),
                    (projection.name, projection.version),
                )
                yield _Comparison(
                    session, RowTable(projection, live), RowTable(projection, generation), position
                )

    # What there is ----------------------------------------------------------------------------------

    def records(self) -> list[ReadModelRecord]:
        """Return what there is, of every version."""
        query = SQL(
            "SELECT name, version, generation, position, updated_at, rebuilt_at, rebuild_seconds, "
            "rebuild_events, follower FROM {} WHERE generation IS NOT NULL ORDER BY name, version"
        ).format(MODELS)
        with self._errors(), self._database.session(is_long=True) as session:  # it counts every row
            with session.cursor(row_factory=tuple_row) as cursor:
                found = cursor.execute(query).fetchall()
                records = []
                for record in found:
                    label = f"{record[0]}_v{record[1]}_{record[2]}"
                    rows = _one(session, SQL("SELECT count(*) FROM {}").format(Identifier(SCHEMA, label)))[0]
                    parked = _one(
                        session,
                        SQL("SELECT count(*) FROM {} WHERE generation = %s").format(PARKED),
                        (record[2],),
                    )[0]
                    records.append(_record(record, rows, parked))
                return records

    def parked(
        self, projection: Projection[Any], key: str | None = None, limit: int = 1000
    ) -> list[ParkedEvent]:
        """Return parked events in the order of the log, of one row or of all."""
        query = SQL(
            "SELECT p.key, p.position, stream_id, stream_version, topic, error, parked_at FROM {parked} p "
            "JOIN {models} m USING (generation) WHERE name = %s AND version = %s "
            "AND (%s::text IS NULL OR key = %s) ORDER BY p.position LIMIT %s"
        ).format(parked=PARKED, models=MODELS)
        values = (projection.name, projection.version, key, key, limit)
        with (
            self._errors(),
            self._database.pooled() as session,
            session.cursor(row_factory=tuple_row) as cursor,
        ):
            return [ParkedEvent(*record) for record in cursor.execute(query, values).fetchall()]

    def follow_as(self, projections: Sequence[Projection[Any]], who: str) -> None:
        """Record who follows."""
        with self._errors(), self._database.pooled() as session:
            for projection in projections:
                session.execute(
                    SQL("UPDATE {} SET follower = %s WHERE name = %s AND version = %s").format(MODELS),
                    (who, projection.name, projection.version),
                )

    def renew(self, error: UnreliableReadModelsError) -> None:
        """Raise the error, which no method here raises: damage is found, and mended, by the server."""
        raise error

    def findings(self) -> list[Finding]:  # pages are the server's
        """Check that the tables, those that there are, are plain ones that show every row."""
        try:
            with self._errors(), self._database.session() as session:  # the pool need not be open yet
                with session.cursor(row_factory=tuple_row) as cursor:
                    names = [name for (name,) in cursor.execute(_TABLE_NAMES, (SCHEMA,)).fetchall()]
                found = relations(session, names)
        except ReadModelError as error:  # the log can be checked without them
            return [Finding(TABLES_CHECK, Outcome.WARNING, error.message, error.hint or "")]
        return [it for name in sorted(found) for it in strange(found[name], _MAKE_AGAIN)]

    def remove(self, name: str, version: int) -> None:
        """Remove a read model with everything that belongs to it."""
        with self._transaction() as session:
            session.execute(
                SQL("DELETE FROM {} WHERE name = %s AND version = %s").format(MODELS), (name, version)
            )
            with session.cursor(row_factory=tuple_row) as cursor:
                found = cursor.execute(
                    SQL("SELECT generation FROM {} WHERE name = %s AND version = %s").format(TABLES),
                    (name, version),
                ).fetchall()
            for (generation,) in found:
                label = f"{name}_v{version}_{generation}"
                for statement in drop_statements(label):
                    session.execute(statement)
                session.execute(SQL("DELETE FROM {} WHERE generation = %s").format(PARKED), (generation,))
                session.execute(SQL("DELETE FROM {} WHERE generation = %s").format(TABLES), (generation,))

    def close(self) -> None:
        """Close every connection of the store's own."""
        if self._owns_database:
            self._database.close()


class _Applying:
    """A transaction in which nobody else applies events; see the port."""

    def __init__(self, session: Session, records: dict[str, tuple[int | None, Mark]]) -> None:
        self._session = session
        self._records = records

    def is_there(self, projection: Projection[Any]) -> bool:
        """Return whether there is a table that is read."""
        return self._records[projection.name][0] is not None

    def position(self, projection: Projection[Any]) -> int:
        """Return up to where the log is applied; 0 if there is no table."""
        return self._records[projection.name][1].position

    def mark(self, projection: Projection[Any]) -> Mark:
        """Return the same, and which event is there."""
        return self._records[projection.name][1]

    def table(self, projection: Projection[Any], generation: int | None = None) -> SessionTable:
        """Return the table that is read, or the one with a number."""
        number = self._records[projection.name][0] if generation is None else generation
        if number is None:
            raise _gone(projection)
        return SessionTable(self._session, RowTable(projection, number))

    def advance(self, projection: Projection[Any], position: int, marker: str) -> None:
        """Record that the log is applied up to a position, and which event is there."""
        self._session.execute(
            SQL(
                "UPDATE {} SET position = %s, marker = %s, updated_at = clock_timestamp() "
                "WHERE name = %s AND version = %s"
            ).format(MODELS),
            (position, marker, projection.name, projection.version),
            prepare=True,
        )
        self._records[projection.name] = (self._records[projection.name][0], Mark(position, marker))

    def switch(self, projection: Projection[Any], generation: int, position: int, marker: str) -> int | None:
        """Make another table the one that is read; return the number of the one before, if there was one."""
        before = self._records[projection.name][0]
        self._session.execute(
            SQL("UPDATE {} SET generation = %s WHERE name = %s AND version = %s").format(MODELS),
            (generation, projection.name, projection.version),
        )
        self._records[projection.name] = (generation, Mark(position, marker))
        self.advance(projection, position, marker)
        return before


class _Comparison:
    """Two tables in one snapshot; see the port."""

    def __init__(self, session: Session, found: RowTable, expected: RowTable, position: int) -> None:
        self._session = session
        self._found = found
        self._expected = expected
        self.position = position

    def differences(
        self, keys: tuple[str, str] | None = None
    ) -> Iterator[tuple[StoredRow | None, StoredRow | None]]:
        """Yield the expected and the found row wherever they are not the same."""
        columns = self._found.row_columns()
        for record in self._unequal(columns, ("key",), self._expected.rows, self._found.rows, keys):
            yield stored_row(record[: len(columns)]), stored_row(record[len(columns) :])

    def _unequal(
        self,
        columns: Sequence[Composable],
        identity: Sequence[str],
        expected: Identifier,
        found: Identifier,
        keys: tuple[str, str] | None,
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the expected and the found columns side by side wherever they are not the same."""
        where, values = _between(keys)
        query = SQL(
            "SELECT {e}, {f} FROM (SELECT * FROM {expected} WHERE {where}) e "
            "FULL JOIN (SELECT * FROM {found} WHERE {where}) f ON {same} "
            "WHERE ({e}) IS DISTINCT FROM ({f})"
        ).format(
            e=SQL(", ").join(SQL("e.{}").format(it) for it in columns),
            f=SQL(", ").join(SQL("f.{}").format(it) for it in columns),
            expected=expected,
            found=found,
            where=where,
            same=SQL(" AND ").join(SQL("f.{0} = e.{0}").format(Identifier(it)) for it in identity),
        )
        with self._session.cursor(row_factory=tuple_row) as cursor:
            yield from cursor.stream(query, [*values, *values], size=500)

    def rows(self, keys: tuple[str, str] | None = None) -> int:
        """Return how many rows the table that is read has."""
        where, values = _between(keys)
        query = SQL("SELECT count(*) FROM {} WHERE {}").format(self._found.rows, where)
        return int(_one(self._session, query, values)[0])

    def miscounted(self) -> list[tuple[int, bool, int, int]]:
        """Return block, value, the expected number of rows, and the one kept at hand, where they differ."""
        if self._found.projection.counted is None:
            return []
        return self._miscounted(self._expected.recounted(), self._found.counts, "rows")

    def _miscounted(
        self, recounted: Composable, kept: Identifier, column: str
    ) -> list[tuple[int, bool, int, int]]:
        query = SQL(
            "SELECT block, value, coalesce(r.{column}, 0), coalesce(c.{column}, 0) FROM ({recounted}) r "
            "FULL JOIN {kept} c USING (block, value) "
            "WHERE coalesce(r.{column}, 0) <> coalesce(c.{column}, 0) ORDER BY block, value"
        ).format(recounted=recounted, kept=kept, column=Identifier(column))
        with self._session.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(query).fetchall()

    def past_differences(
        self, keys: tuple[str, str] | None = None
    ) -> Iterator[tuple[PastRow | None, PastRow | None]]:
        """Yield the expected and the found past row wherever they are not the same."""
        found, expected = self._found.past, self._expected.past
        if found is None or expected is None:
            return
        columns = found.row_columns
        for record in self._unequal(columns, ("key", "position"), expected.rows, found.rows, keys):
            yield past_row(record[: len(columns)]), past_row(record[len(columns) :])

    def misturned(self) -> list[tuple[int, bool, int, int]]:
        """Return block, value, the expected change of the count, and the one at hand, where they differ."""
        found, expected = self._found.past, self._expected.past
        if found is None or expected is None or self._found.projection.counted is None:
            return []
        return self._miscounted(expected.returned(), found.turns, "change")


def _record(record: Sequence[Any], rows: int, parked: int) -> ReadModelRecord:
    name, version, generation, position, updated_at, rebuilt_at, seconds, events, follower = record
    return ReadModelRecord(
        name, version, generation, position, updated_at, rebuilt_at, seconds, events, follower, rows, parked
    )


def _between(keys: tuple[str, str] | None) -> tuple[Composable, list[str]]:
    if keys is None:
        return SQL("TRUE"), []
    return SQL("key BETWEEN %s AND %s"), list(keys)


def _mark(text: str | None) -> Mark | None:
    """Return the end of the log as `_END` selects it."""
    if text is None:
        return None
    position, _, marker = text.partition(" ")
    return Mark(int(position), marker)


def _gone(projection: Projection[Any]) -> ReadModelError:
    return MissingReadModelError(
        f"Read model {projection.label} no longer exists.",
        hint="Open the service again: it is made when it is read.",
    )


def _one(session: Session, query: Any, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    with session.cursor(row_factory=tuple_row) as cursor:
        record = cursor.execute(query, values).fetchone()
        assert record is not None  # noqa: S101  # what is selected is always there
        return record


_CREATE_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended('deployledger read models', 0))"
_CREATE = [
    SQL(
        """CREATE TABLE IF NOT EXISTS {} (
            name text NOT NULL,
            version integer NOT NULL,
            shape text NOT NULL,
            generation bigint,
            position bigint NOT NULL DEFAULT 0,
            marker text NOT NULL DEFAULT '',
            updated_at timestamptz,
            rebuilt_at timestamptz,
            rebuild_seconds double precision,
            rebuild_events bigint,
            follower text,
            PRIMARY KEY (name, version)
        ) WITH (fillfactor = 20)"""
    ).format(MODELS),
    SQL(
        """CREATE TABLE IF NOT EXISTS {} (
            generation bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            name text NOT NULL,
            version integer NOT NULL,
            begun_at timestamptz NOT NULL DEFAULT now(),
            begun_by text NOT NULL
        )"""
    ).format(TABLES),
    SQL(
        """CREATE TABLE IF NOT EXISTS {} (
            generation bigint NOT NULL,
            key text COLLATE "C" NOT NULL,
            position bigint NOT NULL,
            stream_id text NOT NULL,
            stream_version bigint NOT NULL,
            topic text NOT NULL,
            error text NOT NULL,
            parked_at timestamptz NOT NULL,
            PRIMARY KEY (generation, position)
        )"""
    ).format(PARKED),
]
