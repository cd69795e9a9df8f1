"""The files that a batch job reads and writes."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from deployledger.domain.exceptions import ConfigurationError


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
        return Path(unquote(parts.path)).absolute()
    if "://" in uri:
        raise ConfigurationError(
            f"{field} has the scheme {parts.scheme!r}, and batch jobs on this machine use local files.",
            hint="Copy the data to a local path, or give a file:/// URI.",
        )
    return Path(uri).expanduser().absolute()
