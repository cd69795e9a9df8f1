"""Keeps credentials out of messages: those of the configured addresses, and those in any URL."""

import re
from urllib.parse import parse_qsl, unquote

_USERINFO = re.compile(r"(?<=://)[^/\s'\"]*@")
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?'\"]+)\?[^\s'\"]+", re.IGNORECASE)
_SECRET_PARAMETER = re.compile(r"pass|pwd|secret|token|key|sig|cred", re.IGNORECASE)


def shown(uri: str) -> str:
    """Return the address without user, password, query and fragment."""
    return _USERINFO.sub("", uri.partition("?")[0].partition("#")[0])


def secrets_of(uri: str) -> frozenset[str]:
    """Return what must not be shown of a configured address: passwords and tokens, raw and decoded."""
    _, separator, rest = uri.partition("://")
    userinfo = rest.rpartition("@")[0] if separator else ""
    user, colon, password = userinfo.partition(":")
    secrets = {password if colon else user}
    secrets |= {value for name, value in parse_qsl(uri.partition("?")[2]) if _SECRET_PARAMETER.search(name)}
    secrets |= {unquote(secret) for secret in secrets}
    return frozenset(secret for secret in secrets if secret)


def redacted(text: str, secrets: frozenset[str]) -> str:
    """Return the text without the secrets, and with its URLs without userinfo and query."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _QUERY.sub(r"\1", _USERINFO.sub("", text))
