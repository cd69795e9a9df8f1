"""Read models in an SQLite file of their own, or in memory."""

import errno
import fcntl
import mmap
import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployledger.adapters.read_models.shapes import check_shape, shape_of
from deployledger.adapters.read_models.sqlite.records import (
    GUARDED,
    IS_INTACT,
    PLACE_GUARD,
    DamageError,
    checked,
    guard,
)
from deployledger.adapters.read_models.sqlite.tables import (
    MODELS,
    PARKED,
    TABLES,
    Comparison,
    ConnectionTable,
    RowTable,
    microseconds,
    moment,
    quoted,
    table_label,
)
from deployledger.adapters.sqlite import (
    INTEGRITY,
    advice,
    copy_in_memory,
    damage,
    integrity,
    is_damage,
    is_in_use,
    is_unwritable,
    transaction,
)
from deployledger.domain.event_log import Mark
from deployledger.domain.exceptions import ReadModelError, ReadModelsUnavailableError
from deployledger.domain.findings import Finding, Outcome
from deployledger.domain.logs import logger
from deployledger.projections.projection import Projection
from deployledger.projections.store import (
    Changes,
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
from deployledger.service.files.paths import expanded
from deployledger.service.files.private import make_folder, open_file
from deployledger.service.files.writing import write_new

LOGGER = logger("read_models")

SCHEMA_VERSION = 2
"""The version of what is in a file; its ``user_version``. Version 1 had no checksums."""

CHECKED_WHOLE_BYTES = 8 << 20
"""Up to this size a file is checked whole when a process first opens it; a larger one as it is read."""

_ATTEMPTS = 5
_BUSY_SECONDS = 10
_CACHE_KIB = 16_384
_STATEMENTS_KEPT = 256
_IDLE_CONNECTIONS = 8
_SAVED_AT_ONCE = 2_000
_DELETED_AT_ONCE = 5_000
_DROPPED_AT_ONCE = 250_000
_EARLIER = "earlier version of deployledger"
_REPLACED = (
    "It is replaced and rebuilt from the log when it is next read, for example by `deployledger list`."
)
_OTHERWISE = (
    "Check that it and its folder can be written. If it is damaged, remove it: it is made again from the log."
)
"""What to do about an error, where there is nothing better to say."""


class SQLiteReadModels:
    """The store of read models; see the port.

    Who writes, in whichever process, holds an flock on a file beside the database: those who wait for it
    get it in turn, which those who wait for a lock of SQLite do not.

    Args:
        path: a file that has nothing else in it; None keeps the read models in memory until they are closed.
        described_as: the database, for messages.
    """

    def __init__(self, path: Path | None, *, described_as: str | None = None) -> None:
        self._path = expanded(path).absolute() if path else None
        self._described_as = described_as or str(self._path or "memory")
        self._process = os.getpid()
        self._is_closed = False
        self._idle: list[tuple[tuple[int, int], sqlite3.Connection]] = []
        self._memory: sqlite3.Connection | None = None
        self._memory_lock = threading.RLock()
        self._unwritable = ""
        self._live: dict[tuple[str, int], RowTable] = {}
        self._checked: tuple[int, int] | None = None
        """Which file was checked when it was opened."""

    @property
    def described_as(self) -> str:
        """The database, for messages."""
        return self._described_as

    def close(self) -> None:
        """Close every connection; those that are in use, when they no longer are."""
        self._is_closed = True
        if self._process != os.getpid():  # connections of another process are not touched
            return
        while idle := self._pop_idle():
            idle[1].close()
        with self._memory_lock:
            if self._memory is not None:
                self._memory.close()
                self._memory = None

    # Connections and transactions -------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Enter with a connection that nobody else uses, in autocommit mode; errors are ours."""
        if self._process != os.getpid():
            raise ReadModelError(
                f"The read models in {self.described_as} were opened before this process was forked.",
                hint="Open the service in the new process: SQLite's connections do not survive a fork.",
            )
        try:
            if self._is_closed:
                raise sqlite3.ProgrammingError("they are closed")
            if self._path is None:
                with self._memory_lock:
                    if self._memory is None:
                        self._memory = self._connect(":memory:")
                    try:
                        yield self._memory
                    except DamageError as error:
                        raise self._unusable(str(error)) from error
                return
            try:
                file, connection = self._of_file(self._path)
            except sqlite3.OperationalError as error:
                if not is_unwritable(error):
                    raise
                raise self._moved_into_memory(self._path, str(error)) from error
            try:
                self._check_whole(file, connection)
                yield connection
            except DamageError as error:
                connection.close()
                raise self._unreliable(str(error), file) from error
            except sqlite3.Error as error:
                connection.close()
                if _is_damage(error):
                    raise self._unreliable(str(error), file) from error
                if is_unwritable(error):
                    raise self._moved_into_memory(self._path, str(error)) from error
                raise
            except BaseException:
                connection.close()  # which also ends what it was about to do
                raise
            if self._is_closed or len(self._idle) >= _IDLE_CONNECTIONS:
                connection.close()
            else:
                self._idle.append((file, connection))
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _of_file(self, path: Path) -> tuple[tuple[int, int], sqlite3.Connection]:
        """Return a connection to the file that is there now, and which file that is."""
        now = _identity(path)
        while idle := self._pop_idle():
            if idle[0] == now:
                return idle
            idle[1].close()  # the file was removed, to be made again
        try:
            make_folder(path.parent)
        except OSError as error:
            raise self._unusable(f"the folder cannot be made: {error.strerror}") from error
        with suppress(OSError):  # SQLite says why
            write_new(path)
        try:
            connection = self._connect(str(path))
        except sqlite3.Error as error:
            if (damaged := _identity(path)) is not None and _is_damage(error):
                raise self._unreliable(str(error), damaged) from error
            raise
        found = _identity(path)
        if found is None:
            connection.close()
            raise self._unusable("the file was removed while it was opened")
        return found, connection

    def _moved_into_memory(self, path: Path, reason: str) -> MissingReadModelError:
        """Go on with a copy in memory, as the file cannot be written; the error makes readers look again."""
        with self._memory_lock:
            if self._path is not None:
                with suppress(sqlite3.Error):
                    copy = copy_in_memory(path)
                    if self._found_version(copy) == SCHEMA_VERSION and not damage(copy):
                        self._memory = copy
                    else:
                        copy.close()
                self._path, self._unwritable = None, reason
                self._live.clear()
                LOGGER.warning(
                    "The read models in %s cannot be written: %s. Until the service is opened again, answers "
                    "come from a copy in memory. Make the folder writable, or free space on its disk.",
                    self.described_as,
                    reason,
                )
        return MissingReadModelError(
            f"The read models in {self.described_as} cannot be written: {reason}.", hint=_OTHERWISE
        )

    @property
    def unwritable(self) -> str:
        """Why rows are in memory although they were to be in a file; an empty text if they are not."""
        return self._unwritable

    @property
    def is_in_memory(self) -> bool:
        """Whether no other process sees the rows."""
        return self._path is None

    def _check_whole(self, file: tuple[int, int], connection: sqlite3.Connection) -> None:
        """Check a file that this process has not checked yet, if that does not take long.

        Raises:
            DamageError: if it is damaged, or has no checksums.
        """
        if self._checked == file:
            return
        if self._found_version(connection) < SCHEMA_VERSION:
            raise DamageError(_EARLIER)
        pages, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
        )
        if pages * size <= CHECKED_WHOLE_BYTES:
            with transaction(connection, "BEGIN"):
                if found := damage(connection) or damaged_record(connection):
                    raise DamageError(found)
        self._checked = file

    def _unreliable(self, reason: str, file: tuple[int, int]) -> UnreliableReadModelsError:
        if reason == _EARLIER:
            message = f"The read models in {self.described_as} were made by an {_EARLIER}."
        else:
            message = f"The read models in {self.described_as} are damaged: {reason}."
        return UnreliableReadModelsError(message, token=file, hint=_OTHERWISE)

    def renew(self, error: UnreliableReadModelsError) -> None:
        """Put an empty file in the place of a damaged one, unless somebody else did.

        Connections to the damaged file, of whichever process, are closed when they are used next. The path
        always has a file: what is beside it is removed first, so that no write-ahead log meets the new one.
        """
        path = self._path
        if path is None:
            return
        fresh = path.with_name(f"{path.name}.new")
        try:
            with self._alone():
                if _identity(path) != error.token:
                    return
                if not _is_ours(path):
                    raise self._unusable("it has never had read models")
                fresh.unlink(missing_ok=True)
                write_new(fresh)
                with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
                    _create_tables(connection)
                shutil.copymode(path, fresh)
                for ending in ("-wal", "-shm"):
                    path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)
                fresh.replace(path)
        except (OSError, ValueError, sqlite3.Error) as failure:
            raise self._unusable(
                f"{error.message.rstrip('.')}, and cannot be replaced: {failure}"
            ) from failure
        self._live.clear()

    def _pop_idle(self) -> tuple[tuple[int, int], sqlite3.Connection] | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self, name: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            name,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_STATEMENTS_KEPT,
        )
        try:
            # Rows can be had again from the log: a commit need not wait for the disk.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            # Nothing is deleted here that is not in the log: it need not be overwritten, which takes long.
            connection.execute("PRAGMA secure_delete = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            if self._found_version(connection) == 0:
                self._create(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _found_version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise ReadModelError(
                f"The read models in {self.described_as} were made by a newer version of deployledger.",
                hint="Upgrade deployledger, or remove the file: it is made again from the log.",
            )
        return version

    def _create(self, connection: sqlite3.Connection) -> None:
        with self._alone():
            _create_tables(connection)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Enter when nobody else writes, in any process."""
        if self._path is None:  # there is one connection, which one uses at a time
            yield
            return
        try:
            lock = _wait_for_flock(self._path.with_name(f"{self._path.name}.lock"))
        except OSError as error:
            if error.errno in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
                raise self._moved_into_memory(self._path, str(error.strerror)) from error
            raise self._unusable(f"the lock file beside it cannot be locked: {error.strerror}") from error
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # closing does not unlock it if the process was forked meanwhile
            os.close(lock)

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """Enter with a connection to read what there is at one moment."""
        with self._connection() as connection:
            with transaction(connection, "BEGIN"):
                yield connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Enter with a connection to write in one transaction."""
        with self._connection() as connection, self._alone():
            with transaction(connection, "BEGIN IMMEDIATE"):
                yield connection

    def _unusable(
        self, reason: str, hint: str = _OTHERWISE, kind: type[ReadModelError] = ReadModelError
    ) -> ReadModelError:
        return kind(f"The read models in {self.described_as} cannot be used: {reason}.", hint=hint)

    def _failed(self, error: sqlite3.Error) -> ReadModelError:
        kind = ReadModelsUnavailableError if is_in_use(error) else ReadModelError
        return self._unusable(str(error), advice(error, _OTHERWISE), kind)

    # Which tables there are -------------------------------------------------------------------------

    def prepare(self, projections: Iterable[Projection[Any]]) -> list[Projection[Any]]:
        """Create what the database lacks but the tables, and return the projections that have none."""
        missing = []
        for projection in projections:
            shape = shape_of(projection)
            with self._connection() as connection:
                record = self._model(connection, projection)
            if record is None:
                with self._writing() as connection:
                    connection.execute(
                        f"INSERT OR IGNORE INTO {MODELS} (name, version, shape) VALUES (?, ?, ?)",  # noqa: S608
                        (projection.name, projection.version, shape),
                    )
                    record = self._model(connection, projection)
            if record is None:
                raise _gone(projection)
            generation, _, found = record
            check_shape(projection, found, shape)
            if generation is None:
                missing.append(projection)
        return missing

    def _model(
        self, connection: sqlite3.Connection, projection: Projection[Any]
    ) -> tuple[int | None, Mark, str] | None:
        """Return the number of the table that is read, its mark, and the shape; None if not prepared."""
        found = connection.execute(
            f"SELECT generation, position, marker, shape, {IS_INTACT} FROM {MODELS} m "  # noqa: S608
            "WHERE name = ? AND version = ?",
            (projection.name, projection.version),
        ).fetchone()
        if found is None:
            return None
        _require_intact(found[4], projection)
        return found[0], Mark(found[1], found[2]), found[3]

    def marker(self, projection: Projection[Any]) -> Mark:
        """Return up to where the log is applied to what is read, and which event is there."""
        with self._connection() as connection:
            found = connection.execute(
                f"SELECT position, marker, {IS_INTACT} FROM {MODELS} m WHERE name = ? AND version = ?",  # noqa: S608
                (projection.name, projection.version),
            ).fetchone()
            if found is None:
                raise _gone(projection)
            _require_intact(found[2], projection)
            return Mark(found[0], found[1])

    def forget(self, projection: Projection[Any], mark: Mark) -> bool:
        """Leave a projection without a table that is read, if it is of this mark; see the port."""
        with self._writing() as connection:
            updated = connection.execute(
                f"UPDATE {MODELS} SET generation = NULL, position = 0, marker = '' "  # noqa: S608
                "WHERE name = ? AND version = ? AND generation IS NOT NULL AND position = ? AND marker = ?",
                (projection.name, projection.version, *mark),
            )
            return updated.rowcount > 0

    def begin_empty(self, projections: Sequence[Projection[Any]]) -> None:
        """Give projections that have none an empty table to be read."""
        if not projections:
            return
        with self._writing() as connection:
            for projection in projections:
                record = self._model(connection, projection)
                if record is None:
                    raise _gone(projection)
                if record[0] is None:
                    table = self._make(connection, projection)
                    for statement in table.complete_statements():
                        connection.execute(statement)
                    connection.execute(
                        f"UPDATE {MODELS} SET generation = ?, position = 0, updated_at = ? "  # noqa: S608
                        "WHERE name = ? AND version = ?",
                        (table.generation, _now(), projection.name, projection.version),
                    )

    def _make(self, connection: sqlite3.Connection, projection: Projection[Any]) -> RowTable:
        by = f"{socket.gethostname()}:{os.getpid()}"
        generation = connection.execute(
            f"INSERT INTO {TABLES} (name, version, begun_at, begun_by) VALUES (?, ?, ?, ?)",  # noqa: S608
            (projection.name, projection.version, _now(), by),
        ).lastrowid
        assert generation is not None  # noqa: S101  # a row was inserted
        table = RowTable(projection, generation)
        for statement in table.create_statements():
            connection.execute(statement)
        return table

    def _look_up(self, connection: sqlite3.Connection, projection: Projection[Any]) -> tuple[RowTable, Mark]:
        """Return the table that is read, and up to where the log is applied."""
        record = self._model(connection, projection)
        if record is None or record[0] is None:
            raise _gone(projection)
        place = (projection.name, projection.version)
        table = self._live.get(place)
        if table is None or table.generation != record[0]:
            table = RowTable(projection, record[0])
            table.check_definition(connection)
            self._live[place] = table
        return table, record[1]

    # Reading ----------------------------------------------------------------------------------------

    def get(self, projection: Projection[Any], key: str) -> Found:
        """Return one row."""
        place = (projection.name, projection.version)
        with self._connection() as connection:
            for _ in range(_ATTEMPTS):
                table = self._live.get(place) or self._look_up(connection, projection)[0]
                try:
                    record = connection.execute(table.get, (key, *place)).fetchone()
                except sqlite3.OperationalError as error:
                    if not str(error).startswith("no such table"):
                        raise
                    record = None
                if record is not None and record[0] == table.generation:
                    _require_intact(record[3], projection)
                    return Found(table.checked_row(record[4:]), record[1], None, record[2])
                self._look_up(connection, projection)  # another table has become the one that is read
        raise ReadModelError(
            f"The read models in {self.described_as} change all the time.", hint="Try again."
        )

    def select(self, projection: Projection[Any], selection: Selection, answer: Projection[Any]) -> Selected:
        """Return rows of one read model that those of another one with the same keys select."""
        with self._snapshot() as connection:
            table, mark = self._look_up(connection, projection)
            other, other_mark = self._look_up(connection, answer)
            total = _total(connection, *table.total(selection))
            position, marker = min(mark, other_mark)
            start = None
            if table.starts_at_block(selection):
                start = connection.execute(*table.start(selection)).fetchone()
                if start is None:  # there are not so many
                    return Selected([], total, position, None, marker)
            records = connection.execute(*table.page(selection, other, start)).fetchall()
            width = len(other.all_columns) + 3
            rows = [
                SelectedRow(
                    table.decode(selection.sort, record[0]) if selection.sort else record[0], record[1], row
                )
                for record in records
                if (row := other.checked_row(record[2:width])) is not None
                and (other is table or table.checked_row(record[width:]) is not None)
            ]
            _require_all(projection, selection, total, rows)
        return Selected(rows, total, position, None, marker)

    def select_as_of(self, projection: Projection[Any], selection: Selection, as_of: int) -> Selected:
        """Return rows of a temporal read model as they were at a position."""
        with self._snapshot() as connection:
            table, mark = self._look_up(connection, projection)
            assert table.past is not None  # noqa: S101  # only of a temporal projection
            total = _total(connection, *table.past.total(selection, as_of))
            records = connection.execute(*table.past.page(selection, as_of)).fetchall()
            rows = [
                SelectedRow(
                    table.decode(selection.sort, record[0]) if selection.sort else record[0], record[2], row
                )
                for record in records
                if (row := table.past.row_as_of(record[1:], as_of)) is not None
            ]
            _require_all(projection, selection, total, rows)
        return Selected(rows, total, mark.position, None, mark.marker)

    # Applying ---------------------------------------------------------------------------------------

    @contextmanager
    def applying(self, projections: Sequence[Projection[Any]]) -> Iterator["_Applying"]:
        """Enter a transaction in which nobody else applies events to these read models."""
        with self._writing() as connection:
            records = {}
            for projection in projections:
                record = self._model(connection, projection)
                if record is None:
                    raise _gone(projection)
                records[projection.name] = (record[0], record[1])
            yield _Applying(connection, records)

    def build(self, projection: Projection[Any]) -> int:
        """Make a new table beside the one that is read, and return its number; drop unfinished ones."""
        with self._connection() as connection:
            left = connection.execute(
                f"SELECT t.generation FROM {TABLES} t JOIN {MODELS} m USING (name, version) "  # noqa: S608
                "WHERE name = ? AND version = ? AND m.generation IS NOT t.generation",
                (projection.name, projection.version),
            ).fetchall()
        for (generation,) in left:
            self.drop(projection, generation)
        with self._writing() as connection:
            return self._make(connection, projection).generation

    @contextmanager
    def building(self, projection: Projection[Any], generation: int) -> Iterator["_BuildingTable"]:
        """Enter with a table that is being built; `Rows.save` is made of short transactions."""
        yield _BuildingTable(self, RowTable(projection, generation))

    def complete(self, projection: Projection[Any], generation: int) -> None:
        """Make the indexes of a table that was filled."""
        for statement in RowTable(projection, generation).complete_statements():
            with self._writing() as connection:
                connection.execute(statement)

    def record_rebuild(self, projection: Projection[Any], seconds: float, events: int) -> None:
        """Record how a rebuild went."""
        with self._writing() as connection:
            connection.execute(
                f"UPDATE {MODELS} SET rebuilt_at = ?, rebuild_seconds = ?, rebuild_events = ? "  # noqa: S608
                "WHERE name = ? AND version = ?",
                (_now(), seconds, events, projection.name, projection.version),
            )

    def drop(self, projection: Projection[Any], generation: int) -> None:
        """Drop a table, unless it is read."""
        self._drop(table_label(projection.name, projection.version, generation), generation)

    def _drop(self, label: str, generation: int) -> None:
        tables = [f"{label}{suffix}" for suffix in ("_past", "", "_counts", "_turns")]
        # A big table is dropped by parts, its indexes first: nobody waits for long to write.
        while True:
            with self._writing() as connection:
                if _one(connection, f"SELECT 1 FROM {MODELS} WHERE generation = ?", generation):  # noqa: S608
                    return
                if any(_made_smaller(connection, table) for table in tables[:2]):
                    continue
                for table in tables:
                    connection.execute(f"DROP TABLE IF EXISTS {quoted(table)}")
                connection.execute(f"DELETE FROM {PARKED} WHERE generation = ?", (generation,))  # noqa: S608
                connection.execute(f"DELETE FROM {TABLES} WHERE generation = ?", (generation,))  # noqa: S608
                return

    # Comparing --------------------------------------------------------------------------------------

    @contextmanager
    def compare(self, projection: Projection[Any], generation: int) -> Iterator[Comparison]:
        """Enter with what compares the table that is read with another one, both as they are on entering."""
        with self._snapshot() as connection:
            live, mark = self._look_up(connection, projection)
            yield Comparison(connection, live, RowTable(projection, generation), mark.position)

    # What there is ----------------------------------------------------------------------------------

    def records(self) -> list[ReadModelRecord]:
        """Return what there is, of every version."""
        query = (
            "SELECT name, version, generation, position, updated_at, rebuilt_at, rebuild_seconds, "  # noqa: S608
            f"rebuild_events, follower, {IS_INTACT} FROM {MODELS} m WHERE generation IS NOT NULL "
            "ORDER BY name, version"
        )
        with self._snapshot() as connection:
            records = []
            for name, version, generation, *others, is_intact in connection.execute(query).fetchall():
                _require_intact(is_intact, f"{name} version {version}")
                table = quoted(table_label(name, version, generation))
                rows = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
                parked = connection.execute(
                    f"SELECT count(*) FROM {PARKED} WHERE generation = ?",  # noqa: S608
                    (generation,),
                ).fetchone()[0]
                position, updated_at, rebuilt_at, seconds, events, follower = others
                records.append(
                    ReadModelRecord(
                        name=name,
                        version=version,
                        generation=generation,
                        position=position,
                        updated_at=moment(updated_at) if updated_at is not None else None,
                        rebuilt_at=moment(rebuilt_at) if rebuilt_at is not None else None,
                        rebuild_seconds=seconds,
                        rebuild_events=events,
                        follower=follower,
                        rows=rows,
                        parked=parked,
                    )
                )
            return records

    def parked(
        self, projection: Projection[Any], key: str | None = None, limit: int = 1000
    ) -> list[ParkedEvent]:
        """Return parked events in the order of the log, of one row or of all."""
        query = (
            "SELECT generation, key, p.position, stream_id, stream_version, topic, error, parked_at, "  # noqa: S608
            f"p.checksum FROM {PARKED} p JOIN {MODELS} m USING (generation) WHERE name = ?1 AND version = ?2 "
            "AND (?3 IS NULL OR key = ?3) ORDER BY p.position LIMIT ?4"
        )
        with self._connection() as connection:
            found = connection.execute(query, (projection.name, projection.version, key, limit)).fetchall()
            records = [checked(record, PARKED) or [] for record in found]
        return [
            ParkedEvent(key, position, stream, version, topic, error, moment(parked_at))
            for _, key, position, stream, version, topic, error, parked_at in records
        ]

    def follow_as(self, projections: Sequence[Projection[Any]], who: str) -> None:
        """Record who follows."""
        with self._writing() as connection:
            connection.executemany(
                f"UPDATE {MODELS} SET follower = ? WHERE name = ? AND version = ?",  # noqa: S608
                [(who, projection.name, projection.version) for projection in projections],
            )

    def findings(self) -> list[Finding]:
        """Check the file for damage; there is none to check before it is first used."""
        if self._path is None or not self._path.exists():
            return []
        described_as = f"the read models, {self._path},"
        try:
            with closing(self._to_check(self._path)) as connection:
                finding = integrity(connection, described_as, _REPLACED)
                if not finding.is_problem and self._found_version(connection) == SCHEMA_VERSION:
                    with transaction(connection, "BEGIN"):
                        if found := damaged_record(connection):
                            message = f"The SQLite file of {described_as} is damaged: {found}."
                            finding = Finding(INTEGRITY, Outcome.PROBLEM, message, _REPLACED)
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return [finding]

    def _to_check(self, path: Path) -> sqlite3.Connection:
        """Return a connection that is not checked and renewed, or a copy of a file that cannot be written."""
        try:
            return self._connect(str(path))
        except sqlite3.OperationalError as error:
            if not is_unwritable(error):
                raise
            return copy_in_memory(path)

    def remove(self, name: str, version: int) -> None:
        """Remove a read model with everything that belongs to it."""
        with self._writing() as connection:
            connection.execute(f"DELETE FROM {MODELS} WHERE name = ? AND version = ?", (name, version))  # noqa: S608
            found = connection.execute(
                f"SELECT generation FROM {TABLES} WHERE name = ? AND version = ?",  # noqa: S608
                (name, version),
            ).fetchall()
        for (generation,) in found:
            self._drop(table_label(name, version, generation), generation)


class _Applying:
    """A transaction in which nobody else applies events; see the port."""

    def __init__(self, connection: sqlite3.Connection, records: dict[str, tuple[int | None, Mark]]) -> None:
        self._connection = connection
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

    def table(self, projection: Projection[Any], generation: int | None = None) -> ConnectionTable:
        """Return the table that is read, or the one with a number."""
        number = self._records[projection.name][0] if generation is None else generation
        if number is None:
            raise _gone(projection)
        return ConnectionTable(self._connection, RowTable(projection, number))

    def advance(self, projection: Projection[Any], position: int, marker: str) -> None:
        """Record that the log is applied up to a position, and which event is there."""
        self._connection.execute(
            f"UPDATE {MODELS} SET position = ?, marker = ?, updated_at = ? WHERE name = ? AND version = ?",  # noqa: S608
            (position, marker, _now(), projection.name, projection.version),
        )
        self._records[projection.name] = (self._records[projection.name][0], Mark(position, marker))

    def switch(self, projection: Projection[Any], generation: int, position: int, marker: str) -> int | None:
        """Make another table the one that is read; return the number of the one before, if there was one."""
        before = self._records[projection.name][0]
        self._connection.execute(
            f"UPDATE {MODELS} SET generation = ? WHERE name = ? AND version = ?",  # noqa: S608
            (generation, projection.name, projection.version),
        )
        self._records[projection.name] = (generation, Mark(position, marker))
        self.advance(projection, position, marker)
        return before


class _BuildingTable:
    """A table that is being built: nobody reads it, so that much can be saved by parts."""

    def __init__(self, store: SQLiteReadModels, table: RowTable) -> None:
        self._store = store
        self._table = table

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        """Return the rows that there are among those with these keys."""
        with self._store._connection() as connection:
            return ConnectionTable(connection, self._table).load(keys)

    def parked_streams(self) -> list[str]:
        """Return the keys of what is parked by stream, not by row."""
        with self._store._connection() as connection:
            return ConnectionTable(connection, self._table).parked_streams()

    def past(self, key: str) -> list[PastRow]:
        """Return the past rows with a key, in order."""
        with self._store._connection() as connection:
            return ConnectionTable(connection, self._table).past(key)

    def save(self, changes: Changes) -> None:
        """Make the changes, in transactions for which nobody waits for long."""
        rows, past = [*changes.new, *changes.changed], list(changes.past)
        while len(rows) + len(past) > _SAVED_AT_ONCE:
            self._save(Changes(changed=rows[:_SAVED_AT_ONCE]))
            del rows[:_SAVED_AT_ONCE]
            self._save(Changes(past=past[:_SAVED_AT_ONCE]))
            del past[:_SAVED_AT_ONCE]
        self._save(replace(changes, new=[], changed=rows, past=past))

    def _save(self, changes: Changes) -> None:
        with self._store._writing() as connection:
            ConnectionTable(connection, self._table).save(changes)


def _wait_for_flock(path: Path) -> int:
    """Return a locked descriptor of a file; one for each use, so that threads exclude each other too."""
    descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file is there."""
    try:
        found = os.stat(path)  # noqa: PTH116  # half as long as Path.stat
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_ours(path: Path) -> bool:
    """Return whether a file, however damaged, is one of read models: it has the name of a table of theirs."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(TABLES.encode()) >= 0


def _create_tables(connection: sqlite3.Connection) -> None:
    """Create what a file has before it has any read model, unless somebody else did meanwhile."""
    connection.execute("PRAGMA journal_mode = WAL")
    with transaction(connection):
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            for statement in _CREATE:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error is of damage, as also where a statement of ours does not fit the tables."""
    return is_damage(error) or str(error).startswith(
        (
            "no such table",
            "no such column",
            "malformed",
            "unsupported file format",
            "table ",
            "index ",
            "trigger ",
            "there is already",
        )
    )


def _require_intact(is_intact: object, projection: object) -> None:
    if is_intact != 1:
        label = getattr(projection, "label", projection)
        raise DamageError(f"the record of {label} has changed since it was stored")


def _require_all(
    projection: Projection[Any], selection: Selection, total: int, rows: Sequence[SelectedRow]
) -> None:
    """Check that a page has as many rows as the counts say."""
    if projection.counted is None or selection.conditions or selection.after is not None:
        return
    if len(rows) != max(0, min(selection.limit, total - selection.offset)):
        raise DamageError(f"a page of {projection.label} has {len(rows)} rows, of {total} in all")


def _total(connection: sqlite3.Connection, query: str, values: Sequence[Any]) -> int:
    total, damaged = connection.execute(query, values).fetchone()
    if damaged:
        raise DamageError("a count has changed since it was stored")
    return int(total)


def damaged_record(connection: sqlite3.Connection) -> str:
    """Return which record of the read models that are read has changed since it was stored; else an empty
    text."""
    models = connection.execute(
        f"SELECT name, version, generation, {IS_INTACT} FROM {MODELS} m"  # noqa: S608
    ).fetchall()
    try:
        for name, version, generation, is_intact in models:
            _require_intact(is_intact, f"{name} version {version}")
            if generation is not None:
                _check_table(connection, table_label(name, version, generation))
        for record in connection.execute(f"SELECT * FROM {PARKED}"):  # noqa: S608
            checked(record, PARKED)
    except DamageError as error:
        return str(error)
    except sqlite3.Error as error:
        if _is_damage(error):
            return str(error)
        raise
    return ""


def _check_table(connection: sqlite3.Connection, label: str) -> None:
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for name in (label, f"{label}_past"):
        if name in there or name == label:
            for record in connection.execute(f"SELECT * FROM {quoted(name)}"):  # noqa: S608
                checked(record, name)
    for name, column in ((f"{label}_counts", "rows"), (f"{label}_turns", "change")):
        if name in there:
            _total(
                connection,
                f"SELECT 0, coalesce(sum({column} + {PLACE_GUARD} IS NOT guard), 0) "  # noqa: S608
                f"FROM {quoted(name)}",
                (),
            )


def _one(connection: sqlite3.Connection, query: str, value: int | str) -> tuple[Any, ...] | None:
    record: tuple[Any, ...] | None = connection.execute(query, (value,)).fetchone()
    return record


def _made_smaller(connection: sqlite3.Connection, label: str) -> bool:
    """Drop a part of a table, if it is too big to be dropped at once."""
    if index := _one(connection, _AN_INDEX, label):
        connection.execute(f"DROP INDEX {quoted(index[0])}")
        return True
    if not _one(connection, "SELECT 1 FROM sqlite_master WHERE name = ?", label):
        return False
    table = quoted(label)
    first, last = (f"(SELECT {it}(rowid) FROM {table})" for it in ("min", "max"))  # noqa: S608
    if not _one(connection, f"SELECT 1 WHERE {last} - {first} > ?", _DROPPED_AT_ONCE):
        return False
    connection.execute(f"DELETE FROM {table} WHERE rowid < {first} + ?", (_DELETED_AT_ONCE,))  # noqa: S608
    return True


def _now() -> int:
    return microseconds(datetime.now(UTC))


def _gone(projection: Projection[Any]) -> ReadModelError:
    return MissingReadModelError(
        f"Read model {projection.label} no longer exists.",
        hint="Open the service again: it is made when it is read.",
    )


_AN_INDEX = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL LIMIT 1"
_CREATE = [
    f"""CREATE TABLE {MODELS} (
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        shape TEXT NOT NULL,
        generation INTEGER,
        position INTEGER NOT NULL DEFAULT 0,
        marker TEXT NOT NULL DEFAULT '',
        updated_at INTEGER,
        rebuilt_at INTEGER,
        rebuild_seconds REAL,
        rebuild_events INTEGER,
        follower TEXT,
        guard TEXT,
        PRIMARY KEY (name, version)
    )""",
    *(
        f"""CREATE TRIGGER {MODELS}_{name} AFTER {name} {columns} ON {MODELS} BEGIN
        UPDATE {MODELS} SET guard = {guard("new")} WHERE rowid = new.rowid; END"""  # noqa: S608
        for name, columns in (("insert", ""), ("update", f"OF {', '.join(GUARDED)}"))
    ),
    f"""CREATE TABLE {TABLES} (
        generation INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        begun_at INTEGER NOT NULL,
        begun_by TEXT NOT NULL
    )""",
    f"""CREATE TABLE {PARKED} (
        generation INTEGER NOT NULL,
        key TEXT NOT NULL,
        position INTEGER NOT NULL,
        stream_id TEXT NOT NULL,
        stream_version INTEGER NOT NULL,
        topic TEXT NOT NULL,
        error TEXT NOT NULL,
        parked_at INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        PRIMARY KEY (generation, position)
    )""",
]
