"""Files and folders that only their owner can read, or also a group that a home is shared with.

A folder is shared if it has the set-group-ID bit and its group may do everything in it, as in a home with
``DEPLOYLEDGER_HOME_GROUP``. What is made in a shared folder is shared too, so nothing but the home knows of
the setting. Everywhere else folders are made with mode 0700, and files with 0600, whatever the umask is: a
library must not change the umask of the process that it is in.
"""

import os
import pwd
import stat
from pathlib import Path

_PRIVATE_FOLDER = 0o700
SHARED_FOLDER = 0o2770
"""The mode of folders that are shared with a group."""

_PRIVATE_FILE, _SHARED_FILE = 0o600, 0o660
_READ_ONLY, _SHARED_READ_ONLY = 0o400, 0o440


def is_shared(folder: Path) -> bool:
    """Return whether what is made in a folder is for its group, too."""
    try:
        return folder.stat().st_mode & SHARED_FOLDER == SHARED_FOLDER
    except OSError:
        return False


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing; do nothing if it is there.

    Raises:
        OSError: if it cannot be made.
    """
    try:
        folder.mkdir(mode=_PRIVATE_FOLDER)
    except FileNotFoundError:
        make_folder(folder.parent)
        make_folder(folder)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        if is_shared(folder.parent):
            folder.chmod(SHARED_FOLDER)


def open_file(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file as `os.open` does; as an ``opener``, it makes what `open` makes private.

    Raises:
        OSError: if it cannot be opened or made.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC, _PRIVATE_FILE)
    if flags & os.O_CREAT and is_shared(Path(path).parent):
        share(descriptor)
    return descriptor


def share(descriptor: int) -> None:
    """Let the group read and write a file of ours, which is open and was made private."""
    status = os.fstat(descriptor)
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == _PRIVATE_FILE:
        os.fchmod(descriptor, _SHARED_FILE)


def make_read_only(path: Path) -> None:
    """Let nobody write a file, and its owner, or also its group, read it."""
    path.chmod(_SHARED_READ_ONLY if is_shared(path.parent) else _READ_ONLY)


def folder_mode(parent: Path) -> int:
    """Return the mode of folders that are made in a folder."""
    return SHARED_FOLDER if is_shared(parent) else _PRIVATE_FOLDER


def refusal(path: Path) -> str:
    """Return whose a file or folder is that this user may not write, as a sentence; or an empty text."""
    while not path.exists() and path != path.parent:
        path = path.parent
    if os.access(path, os.W_OK):
        return ""
    return f"{path} belongs to {user_name(path)}, and this user may not write to it."


def user_name(path: Path) -> str:
    """Return who owns a file or folder."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return "another user"
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"
