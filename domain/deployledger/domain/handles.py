"""Parsing of ids and file URIs: each string means one thing, or is refused."""

import re
from urllib.parse import unquote, urlsplit
from uuid import UUID

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.redaction import shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]+:")
"""What a URI begins with; a path that begins so is written ``./like:this``."""

_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%00|%2[Ff]")
_LOCAL = ("", "localhost")
_FORM = "Give a path, or a URI like file:///folder/file, with %3F for '?', %23 for '#' and %25 for '%'."


def as_id(text: str) -> UUID | None:
    """Return the id that a text is, in whatever spelling (upper case, without dashes), or None."""
    try:
        return UUID(text)
    except ValueError:
        return None


def path_of(uri: str) -> str | None:
    """Return the path that a path or a ``file://`` URI names, or None for another kind of URI.

    A ``file://`` URI (https://www.rfc-editor.org/rfc/rfc8089) names an absolute path on this machine. Bytes
    in it that are not UTF-8 are as `os.fsencode` wants them.

    Raises:
        ConfigurationError: if it is a ``file://`` URI that names something else, or more than a path.
    """
    if uri[:5].lower() != "file:":
        return None if _SCHEME.match(uri) else uri
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets that hold no address
        raise _no_file(uri, "its host is malformed") from None
    if parts.netloc.lower() not in _LOCAL or parts.path.startswith("//"):
        raise ConfigurationError(
            f"{shown(uri, is_uri=True)} is a file on another host, but only files on this "
            "machine can be read.",
            hint="Copy it here, or mount the folder of the other machine, and give the path.",
        )
    if "?" in uri or "#" in uri:
        raise _no_file(uri, "a file URI has no query and no fragment")
    if not parts.path.startswith("/"):
        raise _no_file(uri, "its path is not absolute")
    if _NO_ESCAPE.search(parts.path):
        raise _no_file(uri, "it has an escape that cannot be part of a file name")
    return unquote(parts.path, errors="surrogateescape")


def _no_file(uri: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{shown(uri, is_uri=True)} is not a valid file URI: {why}.", hint=_FORM)
