"""The database that a URL names for read models."""

from typing import TYPE_CHECKING

from deployledger.adapters.database_url import DatabaseUrl

if TYPE_CHECKING:
    from deployledger.adapters.event_log.log import DatabaseEventLog
    from deployledger.projections.store import ReadModelStore


def open_store(log: "DatabaseEventLog", url: str | None, pool_size: int = 8) -> "ReadModelStore":
    """Return the store of read models in a database; None means the one of the log.

    Raises:
        ConfigurationError: if the URL is not supported.
    """
    if url is None or url == log.url:
        return log.open_read_model_store()
    place = DatabaseUrl.parse(url, "of the read models")
    if place.parameters is not None:
        from deployledger.adapters.postgres import PostgresDatabase
        from deployledger.adapters.read_models.postgres import PostgresReadModels

        store = PostgresReadModels(
            PostgresDatabase(url, pool_size, log.patience), events=None, owns_database=True
        )
        log.check_before_appending(store.check_rights)
        return store
    from deployledger.adapters.read_models.sqlite import SQLiteReadModels

    return SQLiteReadModels(place.file)
