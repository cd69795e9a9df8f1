"""The home: one folder for everything that deployledger keeps, private or shared with a group."""

import grp
import os
import stat
from contextlib import suppress
from pathlib import Path

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.logs import logger
from deployledger.service.files.private import SHARED_FOLDER, make_folder, user_name

LOGGER = logger("home")

DATABASE = "deployledger.db"
"""The database file in the home."""

_FOLDERS = frozenset({"artifacts", "images", "serving", "downloads", "inputs"})
_OTHERS = 0o077


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
        if status.st_uid != os.geteuid() or status.st_mode & SHARED_FOLDER == SHARED_FOLDER:
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
        if status.st_gid == group_id and status.st_mode & 0o7777 == SHARED_FOLDER:
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
        owner = user_name(home)
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
