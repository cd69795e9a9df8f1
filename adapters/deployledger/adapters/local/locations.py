"""The files that a batch job reads and writes."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from deployledger.domain.exceptions import ConfigurationError

_LONGEST_NAME_BYTES = 200


def local_path(uri: str | None, field: str) -> Path:
    """Return the absolute path that ``uri`` names: a path, or a ``file://`` URI without a host.

    A relative path is relative to the current folder of the process that provisions.

    Raises:
        ConfigurationError: there is none, or it is no local file.
    """
    if not uri:
        raise ConfigurationError(
            f"A batch inference job needs {field}, and none was given.",
            hint=f"Set deployment_target_config.{field} to a local path or a file:// URI.",
        )
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return _usable(Path(unquote(parts.path)).absolute(), field)
    if "://" in uri:
        raise ConfigurationError(
            f"{field} has the scheme {parts.scheme!r}, and batch jobs on this machine use local files.",
            hint="Copy the data to a local path, or give a file:/// URI.",
        )
    return _usable(Path(uri).expanduser().absolute(), field)


def _usable(path: Path, field: str) -> Path:
    # The output is first written under a longer name beside it.
    if len(path.name.encode()) > _LONGEST_NAME_BYTES:
        raise ConfigurationError(
            f"The file name of {field} is longer than {_LONGEST_NAME_BYTES} bytes.",
            hint="Choose a shorter name.",
        )
    return path
