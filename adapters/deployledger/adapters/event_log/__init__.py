"""Event logs on SQLite and PostgreSQL, on the recorders of `eventsourcing`; a database URL chooses.

``sqlite:///path`` is a file, ``sqlite://`` memory that lives as long as the log, ``postgresql://…`` a server.
"""

from pathlib import Path

from deployledger.adapters.event_log.base import RecorderEventLog, SchemaState
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.redaction import without_credentials

__all__ = ["RecorderEventLog", "SchemaState", "open_event_log"]


def open_event_log(database_url: str, *, create: bool = False) -> RecorderEventLog:
    """Return the event log that a database URL names; the database is first used when a method is called.

    Args:
        create: create the schema on a PostgreSQL server that has none. On SQLite it always is.

    Raises:
        ConfigurationError: if the URL is of no kind that is known.
    """
    if database_url.startswith(("postgresql://", "postgres://")):
        from deployledger.adapters.event_log.postgres import PostgresEventLog

        return PostgresEventLog(database_url, create=create)
    from deployledger.adapters.event_log.sqlite import SQLiteEventLog

    if database_url in ("sqlite://", "sqlite://:memory:", "sqlite:///:memory:"):
        return SQLiteEventLog(None)
    if database_url.startswith("sqlite:///") and len(database_url) > len("sqlite:///"):
        return SQLiteEventLog(Path(database_url.removeprefix("sqlite:///")))
    raise ConfigurationError(
        f"The database URL {without_credentials(database_url)!r} is of no kind that is known.",
        hint="Use sqlite:///path/to/file.db, sqlite:// (memory) or postgresql://user@host/database.",
    )
