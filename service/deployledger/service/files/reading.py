"""The one way in which stored files are opened: no link is followed, and no pipe is waited for.

What a store has written is a regular file in a folder of its own. Anything else in its place was put there by
somebody else, and is damage like other contents are.
"""

import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from deployledger.service.files.stopping import sha256_of

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class NotAFileError(OSError):
    """There is a link, a folder, a pipe, a socket or a device where a stored file should be."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.EINVAL, "It is not a regular file", str(path))


def open_stored(path: Path) -> io.FileIO:
    """Open a stored file for reading, unbuffered.

    Raises:
        NotAFileError: there is something else than a regular file.
        FileNotFoundError: there is nothing.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # Of a link, of a socket, and of a device without a driver.
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.ENODEV):
            raise NotAFileError(path) from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFileError(path)
        return io.FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def read_stored(path: Path) -> bytes:
    """Return the contents of a stored file; raises as `open_stored` does."""
    with open_stored(path) as file:
        return file.readall()


def is_named_by_digest(path: Path) -> bool:
    """Return whether a file has the kind of name that we give to files and listings: a sha256."""
    return re.fullmatch(r"[0-9a-f]{64}", path.name) is not None


def has_sha256(path: Path, sha256: str) -> bool:
    """Return whether there is a stored file that can be read and has these contents.

    Raises:
        OSError: this process is out of memory or file descriptors, which says nothing of the file.
    """
    try:
        with open_stored(path) as file:
            return sha256_of(file) == sha256
    except OSError as error:
        if is_exhausted(error):
            raise
        return False


def is_exhausted(error: OSError) -> bool:
    """Return whether an error is one of this process or machine, and not of the file."""
    return error.errno in _EXHAUSTED


def file_status(path: Path) -> os.stat_result | None:
    """Return the status of a stored file, or None if there is none: links are not files."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def is_folder(path: Path) -> bool:
    """Return whether there is a folder, and no link to one."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def exists(path: Path) -> bool:
    """Return whether there is anything at the path, links to nothing included."""
    return os.path.lexists(path)


def walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield everything below a folder that is not a folder itself; links are not followed.

    Nothing is below a link, even if it leads to a folder.
    """
    if not is_folder(folder):
        return
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # a temporary file of another process that loads the same model
            if not stat.S_ISDIR(status.st_mode):
                yield path, status
