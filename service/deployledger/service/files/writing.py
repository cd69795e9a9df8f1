"""Files that appear whole or not at all, and damaged ones moved aside; links are replaced, not followed."""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from deployledger.service.files.private import is_shared, make_folder, make_read_only, open_file, share
from deployledger.service.files.reading import exists, is_folder, read_stored


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once; it survives a power failure.

    Raises:
        OSError: it cannot be written, or a folder in its place cannot be moved aside.
    """
    temporary = _write_temporary(path, content)
    try:
        put(temporary, path, aside=_damaged(path))
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_new(path: Path, content: bytes = b"") -> None:
    """Make a file unless there is one, which is never opened.

    Closing a descriptor of a file frees all locks that the process has on it, among them those of SQLite.

    Raises:
        OSError: it cannot be made.
    """
    if path.exists():
        return
    temporary = _write_temporary(path, content)
    with suppress(FileExistsError):
        try:
            os.link(temporary, path)  # which replaces nothing
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with open(path, "xb", opener=open_file) as file:
                file.write(content)
        finally:
            temporary.unlink()


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Replace a file by a JSON object at once; only its owner, or the group of the home, can read it."""
    write_whole(path, json.dumps(content).encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in ``path``, or None if there is no such file, or it cannot be read as one."""
    try:
        content = json.loads(read_stored(path))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def make_way(path: Path) -> None:
    """Remove the file at ``path``; a folder in its place is moved beside it."""
    if is_folder(path):
        move_aside(path, _damaged(path))
    else:
        path.unlink(missing_ok=True)


def make_durable(staged: Path) -> None:
    """Make a staged file read-only, and let its contents survive a power failure."""
    make_read_only(staged)
    sync(staged)


def sync(path: Path) -> None:
    """Let a file's contents, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(staged: Path, target: Path, *, aside: Path) -> None:
    """Give a complete file its final name; a folder that is in its place is moved to ``aside``.

    Raises:
        OSError: it cannot be moved there.
    """
    try:
        staged.replace(target)
    except IsADirectoryError:
        move_aside(target, aside)
        staged.replace(target)


def move_aside(path: Path, target: Path) -> Path:
    """Move something damaged to ``target``, or beside it if that is taken, and return where it is now.

    Whoever calls it holds the lock of the store.

    Raises:
        OSError: it cannot be moved.
    """
    make_folder(target.parent)
    free = target
    for number in count(2):
        if not exists(free):
            break
        free = target.with_name(f"{target.name}.{number}")
    path.rename(free)
    return free


def _write_temporary(path: Path, content: bytes) -> Path:
    # mkstemp makes the file with mode 0600.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if is_shared(path.parent):
                share(file.fileno())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return Path(temporary)


def _damaged(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")
