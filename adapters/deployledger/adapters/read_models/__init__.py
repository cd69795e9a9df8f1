"""Read models on SQLite and PostgreSQL; a database URL chooses, by default that of the event log.

On PostgreSQL they are in the schema of the event log, in the same database or another one. On SQLite they are
in a file of their own beside the log's, so that neither waits for the other's writers.
"""

import os
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from deployledger.adapters.database_url import DatabaseUrl
from deployledger.domain.exceptions import ConfigurationError
from deployledger.projections.deployment_list import DEPLOYMENT_LIST
from deployledger.projections.deployment_timeline import DEPLOYMENT_TIMELINE
from deployledger.projections.folding import LARGEST_ROW_BYTES
from deployledger.projections.projection import Projection
from deployledger.projections.read_models import ReadModels
from deployledger.projections.reports import Task
from deployledger.projections.status import DEPLOYMENT_STATUS

if TYPE_CHECKING:
    from deployledger.adapters.event_log.log import DatabaseEventLog
    from deployledger.projections.store import ReadModelStore

BUILT_IN_GROUPS = ((DEPLOYMENT_STATUS, DEPLOYMENT_LIST), (DEPLOYMENT_TIMELINE,))
"""What the service's questions are answered from; those of a group are applied together."""

BUILT_IN = tuple(projection for group in BUILT_IN_GROUPS for projection in group)
"""The same, one by one."""


def open_read_models(
    log: "DatabaseEventLog",
    *,
    url: str | None = None,
    projections: Sequence[Projection[Any]] = (),
    largest_row: int = LARGEST_ROW_BYTES,
    pool_size: int = 8,
) -> ReadModels:
    """Return the read models of an event log: those of the service, and of the projections that are given.

    Args:
        url: the database that they are in; None is the one of the log.
        largest_row: how many bytes a row may take as JSON.
        pool_size: how many connections read at the same time, at most (another PostgreSQL database).

    Raises:
        ConfigurationError: if the URL is not supported, or two different projections have the same name.
    """
    distinct: list[Projection[Any]] = []
    for projection in projections:
        if not isinstance(projection, Projection):
            raise ConfigurationError(f"{projection!r} is no Projection.")
        if any(projection.is_same_as(other) for other in (*BUILT_IN, *distinct)):
            continue  # as when an application gives it, and the setting names it for the command line
        projection.check_storable()
        distinct.append(projection)

    def fill(models: ReadModels, tasks: Sequence[Task], progress: Callable[[int], None]) -> None:
        from deployledger.adapters.read_models.workers import fill_with_workers

        fill_with_workers(log.url, url)(models, tasks, progress)

    def elsewhere(other: str) -> ReadModels:
        beside = [f"{log.url}.read-models", f"{log.url}.ledger"] if log.url.startswith("sqlite:///") else []
        place = DatabaseUrl.parse(other, "of the read models")
        if any(place.is_same_database(DatabaseUrl.parse(it)) for it in (log.url, url or log.url, *beside)):
            raise ConfigurationError(
                f"The database {place.described_as} is that of the event log or its read models.",
                hint="`deployledger projections rebuild --all` rebuilds them.",
            )
        return open_read_models(
            log, url=other, projections=projections, largest_row=largest_row, pool_size=pool_size
        )

    return ReadModels(
        log,
        _open_store(log, url, pool_size),
        [*BUILT_IN_GROUPS, *((projection,) for projection in distinct)],
        process=f"{socket.gethostname()}:{os.getpid()}",
        largest_row=largest_row,
        fill=fill,
        elsewhere=elsewhere,
        patience=log.patience,
    )


def _open_store(log: "DatabaseEventLog", url: str | None, pool_size: int) -> "ReadModelStore":
    if url is None or url == log.url:
        return log.open_read_model_store()
    place = DatabaseUrl.parse(url, "of the read models")
    if place.parameters is not None:
        from deployledger.adapters.postgres import PostgresDatabase
        from deployledger.adapters.read_models.postgres.store import PostgresReadModels

        database = PostgresDatabase(url, pool_size, log.patience)
        store = PostgresReadModels(database, events=None, owns_database=True)
        log.check_before_appending(store.check_rights)
        return store
    from deployledger.adapters.read_models.sqlite.store import SQLiteReadModels

    return SQLiteReadModels(place.file)


def load_projections(references: str) -> list[Projection[Any]]:
    """Return the projections that are named as ``package.module:NAME``, with commas between them.

    Raises:
        ConfigurationError: if one of them is not there.
    """
    found: list[Projection[Any]] = []
    for reference in filter(None, (it.strip() for it in references.split(","))):
        module, mark, name = reference.partition(":")
        try:
            projection = getattr(import_module(module), name) if mark and module else None
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(
                f"The projection {reference!r} cannot be imported: {error}.",
                hint="Name it package.module:NAME, in a package that Python finds.",
            ) from error
        if not isinstance(projection, Projection):
            raise ConfigurationError(
                f"{reference!r} names no projection.", hint="Name it package.module:NAME."
            )
        found.append(projection)
    return found
