"""Keeps credentials out of what is stored, logged and shown."""

import re
from typing import Any

from deployledger.domain.bounds import bounded

# The second form is a password with a slash in it; a number there is a port, with a path behind it.
_USERINFO = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#\s]*@|[^/?#\s:@]+:(?!\d+(?:/|$))[^@\s]*@)"
)
_SECRET_PARAMETER = re.compile(
    r"(?P<name>(?:x-amz-|x-goog-|aws)?(?:signature|credential|security-token|accesskeyid|access_key_id|"
    r"secret[a-z_-]*|token|access_token|api[-_]?key|password|passwd|pwd|sig|sas|auth)=)(?:'[^']*'|\"[^\"]*\"|[^&\s'\"]+)",
    re.IGNORECASE,
)


_SECRET_QUERY = re.compile(r"(?P<name>[?&](?:key|code)=)[^&\s'\"]+", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Return a URI, or a text that holds some, without userinfo and with secret parameters blanked."""
    if "://" not in text and "=" not in text:
        return text
    for pattern, kept in ((_USERINFO, "scheme"), (_SECRET_PARAMETER, "name"), (_SECRET_QUERY, "name")):
        blank = "" if kept == "scheme" else "***"
        text = pattern.sub(rf"\g<{kept}>{blank}", text)
    return text


def json_without_credentials(value: Any) -> Any:
    """Return a JSON value with every text in it, however deep, as `without_credentials` returns it."""
    match value:
        case str():
            return without_credentials(value)
        case dict():
            return {key: json_without_credentials(item) for key, item in value.items()}
        case list() | tuple():
            return [json_without_credentials(item) for item in value]
        case _:
            return value


def storable(text: str) -> str:
    """Return a message as an event may have it: as `loggable` returns it, and cut where it is too long."""
    return bounded(loggable(text))


def loggable(text: str) -> str:
    """Return a message without credentials, and with what is not UTF-8 in it written as escapes."""
    return without_credentials(text).encode("utf-8", "backslashreplace").decode()
