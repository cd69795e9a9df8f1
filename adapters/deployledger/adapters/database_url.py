"""What a database URL means: a database on a PostgreSQL server, an SQLite file, or memory."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.redaction import without_credentials
from deployledger.service.files.paths import expanded

_FILE = "sqlite:///"
_MEMORY = ("sqlite://", "sqlite://:memory:", "sqlite:///:memory:")
_POSTGRES = ("postgresql://", "postgres://")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://")
# A second "@", or a "/" before it, is of a password: the driver would take its rest for a host.
_POSTGRES_URL = re.compile(r"postgres(?:ql)?://(?:[^@/]*+@[^@?]*+|[^@?]*+)(?:\?.*)?", re.DOTALL)
_PORTS = re.compile(r"[0-9]{0,5}(?:,[0-9]{0,5})*")  # one for each host


@dataclass(frozen=True)
class DatabaseUrl:
    """A database that a URL names.

    Attributes:
        url: the URL, as it was given; it may have a password.
        file: the SQLite file, as an absolute path; None for another database.
        parameters: what the driver of PostgreSQL connects with; None for another database.
    """

    url: str
    file: Path | None = None
    parameters: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, url: str, of: str = "") -> "DatabaseUrl":
        """Return the database that a URL names.

        Args:
            of: whose URL it is, for messages, as in "of the read models".

        Raises:
            ConfigurationError: if the URL is malformed, or not supported.
        """
        if url in _MEMORY:
            return cls(url)
        if url.startswith(_POSTGRES):
            return cls(url, parameters=_parameters(url))
        path = url.removeprefix(_FILE)
        if path in (url, ""):
            raise _unsupported(url, of)
        if "?" in path or "#" in path or path.startswith("file:"):
            raise ConfigurationError(
                f"The database URL {without_credentials(url)!r} contains more than a file path.",
                hint="Use sqlite:///path/to/file.db, without parameters.",
            )
        return cls(url, file=expanded(path).absolute())

    @property
    def is_memory(self) -> bool:
        """Whether it is in memory, where no other process sees it."""
        return self.file is None and self.parameters is None

    @property
    def described_as(self) -> str:
        """The database, for messages; without user and password."""
        if self.parameters is None:
            return str(self.file or "memory")
        host = str(self.parameters.get("host") or "")
        port = f":{self.parameters['port']}" if self.parameters.get("port") else ""
        path = self.parameters.get("dbname") or ""
        if host.startswith("/"):
            return f"postgresql://{port}/{path}?host={host}"
        return f"postgresql://{host}{port}/{path}"

    def is_same_database(self, other: "DatabaseUrl") -> bool:
        """Return whether another URL names the same database."""
        if self.parameters is None or other.parameters is None:
            files = [url.file.resolve() if url.file else url.url for url in (self, other)]
            return files[0] == files[1]
        names = ("host", "port", "dbname")
        return all(self.parameters.get(name) == other.parameters.get(name) for name in names)


def _parameters(url: str) -> dict[str, Any]:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    parameters: dict[str, Any] | None = None
    if _POSTGRES_URL.fullmatch(url):
        with suppress(psycopg.ProgrammingError, ValueError):
            parameters = dict(conninfo_to_dict(url))
    if parameters is None or not _PORTS.fullmatch(str(parameters.get("port", ""))):
        # Neither the URL nor the driver's message is shown: a part of the password may be in either.
        raise ConfigurationError(
            "The database URL that begins with 'postgresql://' is malformed.",
            hint=(
                "It reads postgresql://user:password@host:port/database; in the password, write @ as %40, "
                "/ as %2F and : as %3A."
            ),
        )
    return parameters


def _unsupported(url: str, of: str) -> ConfigurationError:
    # The URL is not repeated: where a password in it begins and ends is not certain.
    scheme = _SCHEME.match(url)
    begins = f"begins with {scheme[0]!r}" if scheme else "does not begin as a URL does"
    whose = f" {of}" if of else ""
    return ConfigurationError(
        f"Unsupported database URL{whose}: it {begins}.",
        hint="Use sqlite:///path/to/file.db, sqlite:// (memory) or postgresql://user@host/database.",
    )
