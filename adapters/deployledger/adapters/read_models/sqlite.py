"""Read models in an SQLite file of their own, or in memory."""

import errno
import fcntl
import mmap
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path

from deployledger.adapters.dialect import SQLITE, SQLiteStatements, Statements, quoted
from deployledger.adapters.read_models.catalog import MODELS, PARKED, TABLES
from deployledger.adapters.read_models.records import DamageError, RecordTable, check
from deployledger.adapters.read_models.row_table import RowTable, labels_of, table_label
from deployledger.adapters.read_models.selecting import Query
from deployledger.adapters.read_models.store import DatabaseReadModels, Moment
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
from deployledger.domain.exceptions import ReadModelError, ReadModelsUnavailableError
from deployledger.domain.findings import Finding, Outcome
from deployledger.domain.logs import logger
from deployledger.projections.rows import PastRow, StoredRow
from deployledger.projections.store import MissingReadModelError, UnreliableReadModelsError
from deployledger.service.files.paths import expanded
from deployledger.service.files.private import make_folder, open_file
from deployledger.service.files.writing import write_new

LOGGER = logger("read_models")

SCHEMA_VERSION = 3
"""The version of what is in a file; its ``user_version``. A file of an earlier one is replaced."""

CHECKED_WHOLE_BYTES = 8 << 20
"""Up to this size a file is checked whole when a process first opens it; a larger one as it is read."""

_BUSY_SECONDS = 10
_CACHE_KIB = 16_384
_STATEMENTS_KEPT = 256
_IDLE_CONNECTIONS = 8
_DELETED_AT_ONCE = 5_000
_DROPPED_AT_ONCE = 250_000
_REPLACED = (
    "It is replaced and rebuilt from the log when it is next read, for example by `deployledger list`."
)
_OTHERWISE = (
    "Check that it and its folder can be written. If it is damaged, remove it: it is rebuilt from the log."
)
"""What to do about an error, where there is nothing better to say."""


class OutdatedError(Exception):
    """A file was made by an earlier release."""


class SQLiteReadModels(DatabaseReadModels):
    """The store of read models; see the port.

    Who writes, in whichever process, holds an flock on a file beside the database: those who wait for it
    get it in turn, which those who wait for a lock of SQLite do not.

    Args:
        path: a file that has nothing else in it; None keeps the read models in memory until they are closed.
        described_as: the database, for messages.
    """

    def __init__(self, path: Path | None, *, described_as: str | None = None) -> None:
        super().__init__(SQLITE)
        self._path = expanded(path).absolute() if path else None
        self.described_as = described_as or str(self._path or "memory")
        self.is_in_memory = path is None
        self._process = os.getpid()
        self._is_closed = False
        self._idle: list[tuple[tuple[int, int], sqlite3.Connection]] = []
        self._memory: sqlite3.Connection | None = None
        self._memory_lock = threading.RLock()
        self._checked: tuple[int, int] | None = None
        """Which file was checked when it was opened."""

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
            except (DamageError, OutdatedError) as error:
                connection.close()
                raise self._unreliable(error, file) from error
            except sqlite3.Error as error:
                connection.close()
                if _is_damage(error):
                    raise self._unreliable(error, file) from error
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
            raise self._unusable(f"the folder cannot be created: {error.strerror}") from error
        with suppress(OSError):  # SQLite says why
            write_new(path)
        try:
            connection = self._connect(str(path))
        except sqlite3.Error as error:
            if (damaged := _identity(path)) is not None and _is_damage(error):
                raise self._unreliable(error, damaged) from error
            raise
        identity = _identity(path)
        if identity is None:
            connection.close()
            raise self._unusable("the file was removed while it was opened")
        return identity, connection

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
                self._path, self.unwritable, self.is_in_memory = None, reason, True
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

    def _check_whole(self, file: tuple[int, int], connection: sqlite3.Connection) -> None:
        """Check a file that this process has not checked yet, if that does not take long.

        Raises:
            DamageError: if it is damaged.
            OutdatedError: if it was made by an earlier release.
        """
        if self._checked == file:
            return
        if self._found_version(connection) < SCHEMA_VERSION:
            raise OutdatedError
        pages, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
        )
        if pages * size <= CHECKED_WHOLE_BYTES:
            with transaction(connection, "BEGIN"):
                if problem := damage(connection) or damaged_record(connection):
                    raise DamageError(problem)
        self._checked = file

    def _unreliable(self, error: Exception, file: tuple[int, int]) -> UnreliableReadModelsError:
        if isinstance(error, OutdatedError):
            message = (
                f"The read models in {self.described_as} were made by an earlier version of deployledger."
            )
            return UnreliableReadModelsError(message, token=file, hint=_OTHERWISE, is_outdated=True)
        message = f"The read models in {self.described_as} are damaged: {error}."
        return UnreliableReadModelsError(message, token=file, hint=_OTHERWISE)

    def renew(self, error: UnreliableReadModelsError) -> None:
        """Put an empty file in the place of a damaged one, unless another process did.

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
                    self._create_tables(connection)
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
            # Rows can be rebuilt from the log: a commit need not wait for the disk.
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
                hint="Upgrade deployledger, or remove the file: it is rebuilt from the log.",
            )
        return version

    def _create(self, connection: sqlite3.Connection) -> None:
        with self._alone():
            self._create_tables(connection)

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
    def reading(self) -> Iterator[SQLiteStatements]:
        """Enter with a connection on which each statement is by itself."""
        with self._connection() as connection:
            yield SQLiteStatements(connection)

    @contextmanager
    def snapshot(self) -> Iterator[SQLiteStatements]:
        """Enter with a connection that sees what there is at one moment, for statements that take long."""
        with self._connection() as connection, transaction(connection, "BEGIN"):
            yield SQLiteStatements(connection)

    @contextmanager
    def transaction(self) -> Iterator[SQLiteStatements]:
        """Enter a transaction; nobody else writes meanwhile."""
        with self._connection() as connection, self._alone(), transaction(connection):
            yield SQLiteStatements(connection)

    def _execute_long(self, statements: Sequence[str]) -> None:
        for statement in statements:
            with self.transaction() as sql:
                sql.execute(statement)

    def _create_tables(self, connection: sqlite3.Connection) -> None:
        """Create what a file has before it has any read model, unless another process did meanwhile."""
        connection.execute("PRAGMA journal_mode = WAL")
        with transaction(connection):
            if not connection.execute("PRAGMA user_version").fetchone()[0]:
                for statement in self._create_statements():
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _at_once(
        self,
        sql: Statements,
        tables: Sequence[RowTable],
        query: Query,
        order: str = "",
        numbers: Sequence[Query] = (),
    ) -> Moment | None:
        """Return what there is at one moment, by several statements in a transaction: no server is asked."""
        assert isinstance(sql, SQLiteStatements)  # noqa: S101  # as all of this store are
        with transaction(sql.connection, "BEGIN"):
            heads = []
            for table in tables:
                head = self.head(sql, table.projection)
                if head is None or head.generation != table.generation:
                    return None
                heads.append(head)
            statement, values = query
            rows = sql.query(f"{statement}{order}", values)
            found_numbers = [sql.query(f"SELECT {number}", of_number)[0][0] for number, of_number in numbers]
            return Moment(heads, rows, found_numbers, None)

    def _is_missing_table(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.OperationalError) and str(error).startswith("no such table")

    def _unusable(
        self, reason: str, hint: str = _OTHERWISE, kind: type[ReadModelError] = ReadModelError
    ) -> ReadModelError:
        return kind(f"The read models in {self.described_as} cannot be used: {reason}.", hint=hint)

    def _failed(self, error: sqlite3.Error) -> ReadModelError:
        kind = ReadModelsUnavailableError if is_in_use(error) else ReadModelError
        return self._unusable(str(error), advice(error, _OTHERWISE), kind)

    # Tables -----------------------------------------------------------------------------------------

    def store_rows(
        self, sql: Statements, table: RecordTable, new: list[StoredRow], changed: list[StoredRow]
    ) -> None:
        """Store rows that the table does not have, and rows that it may have."""
        records = (table.stored(RowTable.record(row)) for row in chain(new, changed))
        sql.execute_many(table.upsert, records)

    def insert_past(self, sql: Statements, table: RecordTable, rows: list[PastRow]) -> None:
        """Store rows of the past, which the table does not have."""
        sql.execute_many(table.insert, (table.stored(RowTable.record(row)) for row in rows))

    def _check_definition(self, sql: Statements, table: RowTable) -> None:
        """Check that tables and indexes are as they were created: statements would mean something else."""
        statements = sql.query(
            f"SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND {SQLITE.is_any('tbl_name')}",  # noqa: S608
            [SQLITE.array(labels_of(table.label))],
        )
        if {statement for (statement,) in statements} != {
            *table.create_statements(),
            *table.index_statements(),
        }:
            raise DamageError(f"the table {table.label} no longer has the definition it was created with")

    def _drop(self, label: str, generation: int, *, is_needed: bool = False) -> None:
        # A big table is dropped by parts, its indexes first: nobody waits for long to write.
        is_done = False
        while not is_done:
            with self.transaction() as sql:
                is_done = self._is_read(sql, generation)
                if not is_done and not any(_made_smaller(sql, name) for name in labels_of(label)):
                    self._drop_tables(sql, label, generation)
                    is_done = True

    # Damage -----------------------------------------------------------------------------------------

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
                        if problem := damaged_record(connection):
                            message = f"The SQLite file of {described_as} is damaged: {problem}."
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
        status = os.stat(path)  # noqa: PTH116  # half as long as Path.stat
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_ours(path: Path) -> bool:
    """Return whether a file, however damaged, is one of read models: it has the name of a table of theirs."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(TABLES.encode()) >= 0


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


def damaged_record(connection: sqlite3.Connection) -> str:
    """Return which record of the read models that are read has changed since it was stored; else an empty
    text."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    try:
        models = connection.execute(
            f"SELECT name, version, generation FROM {MODELS} WHERE generation IS NOT NULL"  # noqa: S608
        ).fetchall()
        labels = [table_label(*model) for model in models]
        past = [name for label in labels for name in labels_of(label) if name != label and name in tables]
        for name in (MODELS, PARKED, *labels, *past):
            for record in connection.execute(f"SELECT * FROM {quoted(name)}"):  # noqa: S608
                check(record, name)
    except DamageError as error:
        return str(error)
    except sqlite3.Error as error:
        if _is_damage(error):
            return str(error)
        raise
    return ""


def _made_smaller(sql: SQLiteStatements, label: str) -> bool:
    """Drop a part of a table, if it is too big to be dropped at once."""
    if index := sql.query(_AN_INDEX, [label]):
        sql.execute(f"DROP INDEX {quoted(index[0][0])}")
        return True
    if not sql.query("SELECT 1 FROM sqlite_master WHERE name = ?", [label]):
        return False
    table = quoted(label)
    first, last = (f"(SELECT {function}(rowid) FROM {table})" for function in ("min", "max"))  # noqa: S608
    if not sql.query(f"SELECT 1 WHERE {last} - {first} > ?", [_DROPPED_AT_ONCE]):
        return False
    sql.execute(f"DELETE FROM {table} WHERE rowid < {first} + ?", [_DELETED_AT_ONCE])  # noqa: S608
    return True


_AN_INDEX = "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL LIMIT 1"
