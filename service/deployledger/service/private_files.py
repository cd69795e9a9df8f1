"""Files and folders that only their owner can read, or also a group that a home is shared with.

A folder is shared if it has the set-group-ID bit and its group may do everything in it, as in a home with
``DEPLOYLEDGER_HOME_GROUP``. What is made in a shared folder is shared too, so nothing but the home knows of
the setting. Everywhere else folders are made with mode 0700, and files with 0600, whatever the umask is: a
library must not change the umask of the process that it is in.
"""

import grp
import os
import pwd
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.logs import logger

LOGGER = logger("home")

_PRIVATE_FOLDER, _SHARED_FOLDER = 0o700, 0o2770
_PRIVATE_FILE, _SHARED_FILE = 0o600, 0o660
_READ_ONLY, _SHARED_READ_ONLY = 0o400, 0o440
_OTHERS = 0o077

DATABASE = "deployledger.db"
"""The database file in the home."""

_FOLDERS = frozenset({"artifacts", "images", "serving", "downloads", "inputs"})


def is_shared(folder: Path) -> bool:
    """Return whether what is made in a folder is for its group, too."""
    try:
        return folder.stat().st_mode & _SHARED_FOLDER == _SHARED_FOLDER
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
            folder.chmod(_SHARED_FOLDER)


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


def make_file(path: Path) -> None:
    """Make an empty file if there is none, without ever opening the one at that path.

    Closing a descriptor of a file frees all locks that the process has on it, among them those of SQLite.

    Raises:
        OSError: if it cannot be made.
    """
    if path.exists():
        return
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        if is_shared(path.parent):
            share(descriptor)
        os.close(descriptor)
        try:
            os.link(temporary, path)  # which replaces nothing
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            with suppress(FileExistsError):
                os.close(open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    finally:
        Path(temporary).unlink()


def make_read_only(path: Path) -> None:
    """Let nobody write a file, and its owner, or also its group, read it."""
    path.chmod(_SHARED_READ_ONLY if is_shared(path.parent) else _READ_ONLY)


def folder_mode(parent: Path) -> int:
    """Return the mode of folders that are made in a folder."""
    return _SHARED_FOLDER if is_shared(parent) else _PRIVATE_FOLDER


def open_home(home: Path, group: str | None) -> None:
    """Make a home private, or share it with a group; without a group, one that is not there is not made.

    Homes of earlier releases could be read by everybody. What is not ours in them is left as it is.

    Args:
        group: the name or the number of the group.

    Raises:
        ConfigurationError: if there is no such group, or the home cannot be shared with it.
    """
    if group:
        _share_home(home, _group_id(group), group)
        return
    try:
        status = home.stat()
        if status.st_uid != os.geteuid() or status.st_mode & _SHARED_FOLDER == _SHARED_FOLDER:
            others = 0o007  # of a home that is shared, or somebody else's
        else:
            others = _OTHERS
        entries = list(home.iterdir())
    except OSError:
        return
    ours = [path for path in entries if _is_ours(path)]
    if ours and len(ours) == len(entries):
        ours.append(home)
    tightened = [path for path in ours if _tighten(path, others)]
    if tightened:
        LOGGER.warning(
            "Other users of this machine could read %s. Its files are now private; to share them with a "
            "group, set DEPLOYLEDGER_HOME_GROUP.",
            home,
        )


def _tighten(path: Path, others: int) -> bool:
    with suppress(OSError):
        status = path.lstat()
        if status.st_uid == os.geteuid() and status.st_mode & others and not stat.S_ISLNK(status.st_mode):
            path.chmod(stat.S_IMODE(status.st_mode) & ~others)
            return True
    return False


def _share_home(home: Path, group_id: int, group: str) -> None:
    try:
        make_folder(home)
        status = home.stat()
        if status.st_gid == group_id and status.st_mode & 0o7777 == _SHARED_FOLDER:
            return
        foreign = [path.name for path in home.iterdir() if not _is_ours(path)]
        if foreign:
            raise ConfigurationError(
                f"The home {home} is not shared with the group {group!r}: it has files that are not "
                f"deployledger's, such as {foreign[0]!r}.",
                hint="Set DEPLOYLEDGER_HOME to a folder of its own.",
            )
        for folder, _, names in os.walk(home, topdown=False):
            for path in (*(Path(folder, name) for name in names), Path(folder)):
                _share(path, group_id)
    except OSError as error:
        owner = _user_name(home)
        raise ConfigurationError(
            f"The home {home} cannot be shared with the group {group!r}: {error.strerror}.",
            hint=f"Its owner, {owner}, must be a member of that group and run any command with "
            "DEPLOYLEDGER_HOME_GROUP set.",
        ) from error


def _share(path: Path, group_id: int) -> None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return
    os.chown(path, -1, group_id)
    owners = stat.S_IMODE(status.st_mode) & 0o700
    path.chmod(owners | owners >> 3 | (stat.S_ISGID if stat.S_ISDIR(status.st_mode) else 0))


def _is_ours(path: Path) -> bool:
    return path.name in _FOLDERS or path.name.startswith(DATABASE) or path.name.startswith(f".{DATABASE}")


def _group_id(group: str) -> int:
    try:
        return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(
            f"There is no group {group!r} on this machine.", hint="Correct DEPLOYLEDGER_HOME_GROUP."
        ) from None


def refusal(path: Path) -> str:
    """Return whose a file or folder is that this user may not write, as a sentence; or an empty text."""
    while not path.exists() and path != path.parent:
        path = path.parent
    if os.access(path, os.W_OK):
        return ""
    return f"{path} belongs to {_user_name(path)}, and this user may not write to it."


def _user_name(path: Path) -> str:
    try:
        owner = path.stat().st_uid
    except OSError:
        return "another user"
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"
