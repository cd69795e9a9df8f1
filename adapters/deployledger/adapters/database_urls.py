"""Database URLs that cannot be used: of those, nothing but the scheme is shown."""

import re

from deployledger.domain.exceptions import ConfigurationError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://")


def unsupported(url: str, of: str = "") -> ConfigurationError:
    """Return the error for a URL that names no database we know.

    It does not repeat the URL: where a password in it begins and ends is not certain.

    Args:
        of: whose URL it is, as in "of the read models".
    """
    scheme = _SCHEME.match(url)
    begins = f"begins with {scheme[0]!r}" if scheme else "does not begin as a URL does"
    whose = f" {of}" if of else ""
    return ConfigurationError(
        f"Unsupported database URL{whose}: it {begins}.",
        hint="Use sqlite:///path/to/file.db, sqlite:// (memory) or postgresql://user@host/database.",
    )
