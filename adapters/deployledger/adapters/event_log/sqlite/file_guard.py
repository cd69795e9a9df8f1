"""Detects that the files of an open SQLite database were deleted, replaced or overwritten.

SQLite trusts that nobody does. A backup that is moved or copied over the file of an open database meets the
write-ahead log of the former one, which SQLite then applies to it; without its write-ahead log or its index a
database loses what was acknowledged. https://www.sqlite.org/howtocorrupt.html has the list.
"""

import ctypes
import fcntl
import os
import shutil
import sqlite3
import struct
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple, NoReturn

from deployledger.adapters.sqlite import damage, is_damage
from deployledger.domain.exceptions import EventLogError

_Identity = tuple[int, int]

_WAL, _SHM = "-wal", "-shm"
_PAGE = 512
"""The part of the first page that is compared: any change of the file's size, or its schema, changes it."""

_CHECKED_BYTES = 256 << 20
"""The largest database that is checked against a leftover write-ahead log."""

# https://www.sqlite.org/walformat.html: the salts, how many pages were copied into the file, and how many
# a checkpoint is about to copy.
_INDEX_BYTES = 136
_SALTS = struct.Struct("=2I")
_SALTS_AT, _COPIED_AT, _TO_COPY_AT = 32, 96, 128
_NUMBER = struct.Struct("=I")

# The index begins with two equal copies of its header, unless somebody is writing it; in each are the size of
# a page and the number of frames. The write-ahead log has the salts in its header and in that of each frame.
_INDEX_HEADER_BYTES = 48
_PAGE_AND_FRAMES = struct.Struct("=HI")
_PAGE_AND_FRAMES_AT = 14
_LOG_HEADER_BYTES, _LOG_SALTS = 32, slice(16, 24)
_FRAME_HEADER_BYTES, _FRAME_SALTS = 24, slice(8, 16)

_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510
"""The byte range that is locked while the database is open; https://www.sqlite.org/src/file/src/os.h."""

_open: dict[_Identity, int] = {}
"""How many guards of this process watch a file: its locks are lost when any descriptor of it is closed."""

_open_lock = Lock()

_open_before_fork: set[_Identity] = set()
"""The files that the parent process had open when this one was forked."""


def _inherit() -> None:
    """Remember which files were open: SQLite has locks on them for held that only the parent has."""
    global _open_lock
    _open_lock = Lock()
    _open_before_fork.update(file for file, guards in _open.items() if guards)
    _open.clear()


os.register_at_fork(after_in_child=_inherit)


class _Look(NamedTuple):
    """The state of the file while no checkpoint was running."""

    written_at: int
    size: int
    checkpoint: tuple[int, ...]


class _Frame(NamedTuple):
    """A frame of the write-ahead log that belongs to it until SQLite begins a new one, with other salts."""

    salts: bytes
    place: int
    header: bytes


class FileGuard:
    """Watches the three files of an open database: the main file, its write-ahead log, and the log's index.

    Args:
        path: the database's file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._paths = [(name, f"{path}{name}") for name in ("", _WAL, _SHM)]
        self._files: dict[str, _Identity | None] = {}
        self._look: _Look | None = None
        self._log_written_at: tuple[int, int] = (0, 0)
        self._last_frame: _Frame | None = None
        self._first_page = b""
        self._lost: EventLogError | None = None
        self._must_stay_open = False
        self._descriptors: dict[_Identity | None, int] = {}

    def begin(self) -> None:
        """Open the database, and watch its files from now on."""
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # which opens the other two
        self._files = {name: _identity(path) for name, path in self._paths}
        self._connection = connection
        with _open_lock:
            main = self._files[""]
            if main is not None:
                _open[main] = _open.get(main, 0) + 1
        self._first_page = self._read(self._files[""], _PAGE)

    def check(self, *, writes: bool = False) -> None:
        """Check that the files are still those that were opened, and were written by SQLite alone.

        Args:
            writes: whether a transaction comes next, or is over: what SQLite has written is then noted.

        Raises:
            EventLogError: if they are not, from then on. What was acknowledged is then in the file that was
                opened, wherever it is now, unless it was overwritten; nothing of it is beside another one.
        """
        if self._connection is None:
            return
        with self._lock:
            if self._lost is not None:
                raise EventLogError(self._lost.message, hint=self._lost.hint)
            log_written_at = self._log_written_at
            for name, path in self._paths:
                status = _stat(path)
                if (None if status is None else (status.st_dev, status.st_ino)) != self._files[name]:
                    self._lose(name, "deleted" if status is None else "replaced")
                if name == _WAL and status is not None:
                    log_written_at = (status.st_mtime_ns, status.st_size)
            if (writes or self._is_written()) and self._is_overwritten():
                self._lose("", "overwritten")
            if (writes or log_written_at != self._log_written_at) and self._is_log_overwritten():
                self._lose(_WAL, "overwritten")
            self._log_written_at = log_written_at

    def close(self) -> None:
        """Stop watching."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with _open_lock:
            main = self._files[""]
            if main is not None:
                _open[main] -= 1
        if self._must_stay_open:
            # SQLite's last close removes the write-ahead log by its name: that of the file there now.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        else:
            connection.close()

    def _beside(self, name: str) -> str:
        return f"{self._path}{name}"

    def _lose(self, name: str, how: str) -> NoReturn:
        """Remove whatever could be applied to another file, and raise this error from now on."""
        assert self._connection is not None  # noqa: S101  # the caller looked
        if how == "overwritten":  # its write-ahead log is of what was there before
            self._remove(_WAL, keep_name=True)
        elif name != _SHM or how == "deleted":  # else others have gone on with an index of their own
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if not name and how != "overwritten":
            self._remove(_WAL)
            self._remove(_SHM)
        self._must_stay_open = (not name and how != "overwritten") or (name == _SHM and how == "replaced")
        self._lost = EventLogError(
            f"The event log in {self._path} can no longer be used: the file {self._beside(name)} was {how} "
            "while it was open.",
            hint="Stop every process that has it open, restore the log from a backup if this was not "
            "intended, and start them again; `deployledger audit verify` checks it.",
        )
        raise self._lost

    def _remove(self, name: str, *, keep_name: bool = False) -> None:
        """Remove a file beside the database that belongs to the one which was opened."""
        path = self._beside(name)
        with suppress(OSError):
            if _identity(path) == self._files[name]:
                if keep_name:
                    os.truncate(path, 0)  # whoever has it open finds nothing to copy
                else:
                    Path(path).unlink()

    def _is_written(self) -> bool:
        """Return whether anybody, SQLite included, wrote to the file since it was last checked."""
        status = os.stat(self._path)  # noqa: PTH116  # half as long as Path.stat
        return self._look is None or self._look[:2] != (status.st_mtime_ns, status.st_size)

    def _is_overwritten(self) -> bool:
        """Return whether anybody other than SQLite wrote to the file."""
        now = self._looked()
        last, self._look = self._look, now
        if now is None or last is None or now[:2] == last[:2]:
            return False
        first_page = self._read(self._files[""], _PAGE)
        if now.checkpoint != last.checkpoint:  # which wrote into it
            self._first_page = first_page
            return False
        if now.size == last.size and first_page == self._first_page:  # as after a `touch`
            assert self._connection is not None  # noqa: S101  # the caller looked
            try:
                return bool(damage(self._connection))
            except sqlite3.Error as error:
                return is_damage(error)
        return True

    def _is_log_overwritten(self) -> bool:
        """Return whether the write-ahead log is not the one that its index is of."""
        index = self._read(self._files[_SHM], 2 * _INDEX_HEADER_BYTES)
        header = index[:_INDEX_HEADER_BYTES]
        if len(index) < 2 * _INDEX_HEADER_BYTES or index[_INDEX_HEADER_BYTES:] != header:
            return False
        page, frames = _PAGE_AND_FRAMES.unpack_from(header, _PAGE_AND_FRAMES_AT)
        if not frames:
            return False
        salts = header[_SALTS_AT : _SALTS_AT + _SALTS.size]
        place = _LOG_HEADER_BYTES + (frames - 1) * (_FRAME_HEADER_BYTES + (65_536 if page == 1 else page))
        log = self._files[_WAL]
        frame = _Frame(salts, place, self._read(log, _FRAME_HEADER_BYTES, place))
        is_ours = self._read(log, _LOG_HEADER_BYTES)[_LOG_SALTS] == salts == frame.header[_FRAME_SALTS]
        last = self._last_frame
        if last is not None and last.salts == salts:
            is_ours = is_ours and self._read(log, _FRAME_HEADER_BYTES, last.place) == last.header
        if self._read(self._files[_SHM], _INDEX_HEADER_BYTES) != header:  # another process wrote meanwhile
            return False
        self._last_frame = frame
        return not is_ours

    def _looked(self) -> _Look | None:
        """Return the state of the file; None while a checkpoint is running, or where that cannot be seen."""
        first = os.stat(self._path)  # noqa: PTH116  # half as long as Path.stat
        index = self._read(self._files[_SHM], _INDEX_BYTES)
        if len(index) < _INDEX_BYTES:
            return None
        copied, to_copy = (_NUMBER.unpack_from(index, at)[0] for at in (_COPIED_AT, _TO_COPY_AT))
        second = os.stat(self._path)  # noqa: PTH116  # as above
        if copied != to_copy or first.st_mtime_ns != second.st_mtime_ns:
            return None
        checkpoint = (*_SALTS.unpack_from(index, _SALTS_AT), copied)
        return _Look(first.st_mtime_ns, first.st_size, checkpoint)

    def _read(self, file: _Identity | None, size: int, place: int = 0) -> bytes:
        """Return a part of a file that SQLite has open, by SQLite's own descriptor.

        To close another one would give up the locks that this process has on the file.
        """
        descriptors = self._descriptors
        number = descriptors.get(file)
        if number is None or _identity_of(number) != file:
            descriptors.clear()
            for entry in Path("/dev/fd").iterdir():
                descriptors[_identity_of(int(entry.name))] = int(entry.name)
            number = descriptors.get(file)
        try:
            return b"" if number is None else os.pread(number, size, place)
        except OSError:
            return b""


def check_not_inherited(path: Path) -> None:
    """Check that a database was not open in the process from which this one was forked off.

    Raises:
        EventLogError: if it was: SQLite would wait for locks that nobody gives up, and have others for held
            that are not, which damages the file.
    """
    if _open_before_fork and _identity(str(path)) in _open_before_fork:
        raise EventLogError(
            f"The event log in {path} was open when this process was forked, and SQLite cannot reopen "
            "it here.",
            hint="Start processes with multiprocessing's start method 'spawn' or 'forkserver', or fork "
            "before the log is opened.",
        )


def check_left_files(path: Path) -> None:
    """Check that a leftover write-ahead log belongs to its database, if nobody has it open.

    After a crash it does, and SQLite applies it. Beside a backup that was put in the place of the database it
    does not, and SQLite applies it all the same.

    Raises:
        EventLogError: if it does not belong to the database; nothing was changed.
    """
    left = Path(f"{path}{_WAL}")
    try:
        size = path.stat().st_size
        if not size or not left.stat().st_size or size + left.stat().st_size > _CHECKED_BYTES:
            return
        with _open_lock:  # while it is held, nobody in this process opens the database
            if _open.get(_identity(str(path)) or (0, 0)):
                return
            with path.open("rb+") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
                reason = _what_does_not_fit(path, left)
    except OSError:  # somebody has it open, or SQLite says what is wrong
        return
    if reason:
        raise EventLogError(
            f"The write-ahead log {left} does not belong to the event log in {path}: {reason}.",
            hint=f"If {path} was restored from a backup, move {left} and {path}{_SHM} away (they hold the "
            "lost events), and try again. If not, restore it and its write-ahead log together.",
        )


def _what_does_not_fit(path: Path, left: Path) -> str:
    """Return how a database and a write-ahead log contradict each other; an empty text if they do not."""
    with tempfile.TemporaryDirectory(prefix="deployledger-") as folder:
        alone, both = Path(folder, "alone.db"), Path(folder, "both.db")
        shutil.copyfile(path, alone)
        shutil.copyfile(path, both)
        shutil.copyfile(left, f"{both}{_WAL}")
        with (
            closing(sqlite3.connect(f"file:{alone}?immutable=1", uri=True)) as before,
            closing(sqlite3.connect(both)) as after,
        ):
            try:
                if damage(before):  # as where a checkpoint was interrupted, whose log mends it
                    return ""
                last = before.execute(_LAST_EVENT).fetchone()
            except sqlite3.Error:
                return ""
            try:
                if problem := damage(after):
                    return f"together they are damaged ({problem})"
                if last is not None and after.execute(_EVENT_AT, last[:1]).fetchone() != last:
                    return f"event {last[0]:,} is a different one in it"
            except sqlite3.Error as error:
                return f"together they are damaged ({error})"
    return ""


_LAST_EVENT = "SELECT position, event_id FROM events ORDER BY position DESC LIMIT 1"
_EVENT_AT = "SELECT position, event_id FROM events WHERE position = ?"


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116  # half as long as Path.stat
    except FileNotFoundError:
        return None


def _identity(path: str) -> _Identity | None:
    """Return which file is at a path; None if there is none."""
    status = _stat(path)
    return None if status is None else (status.st_dev, status.st_ino)


def _identity_of(descriptor: int) -> _Identity | None:
    """Return which file a descriptor is of; None if it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
