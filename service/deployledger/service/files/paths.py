"""Files on this machine, as users name them."""

import os
from pathlib import Path

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.handles import path_of
from deployledger.domain.redaction import shown


def local_path(uri: str) -> Path | None:
    """Return the path that a path or ``file://`` URI names, or None for another kind of URI.

    In a path, ``~`` and ``~user`` stand for home folders; in a URI for themselves.

    Raises:
        ConfigurationError: if it is malformed, on another host, or there is no such user.
    """
    path = path_of(uri)
    if path is None or path != uri:
        return None if path is None else Path(path)
    return expanded(path)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path in which ``~`` and ``~user`` stand for home folders.

    Raises:
        ConfigurationError: if there is no such user, or this one has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigurationError(
            f"{shown(str(path))} is not a valid path: {error}",
            hint="Write the full path; for a folder that is called ~name, write ./~name.",
        ) from error
