"""Opens read models on SQLite and PostgreSQL; a database URL chooses, by default that of the event log.

On PostgreSQL they are in the schema of the event log, in the same database or another one. On SQLite they are
in a file of their own beside the log's, so that neither waits for the other's writers.
"""

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deployledger.adapters.database_url import DatabaseUrl
from deployledger.adapters.read_models.databases import open_store
from deployledger.adapters.read_models.filling import fill_with_workers
from deployledger.domain.exceptions import ConfigurationError
from deployledger.projections.built_in import BUILT_IN, BUILT_IN_GROUPS
from deployledger.projections.folding import DEFAULT_LARGEST_ROW_BYTES
from deployledger.projections.projection import Projection
from deployledger.projections.read_models import ReadModels

if TYPE_CHECKING:
    from deployledger.adapters.event_log.log import DatabaseEventLog


def open_read_models(
    log: "DatabaseEventLog",
    *,
    url: str | None = None,
    projections: Sequence[Projection[Any]] = (),
    largest_row: int = DEFAULT_LARGEST_ROW_BYTES,
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
            raise ConfigurationError(f"{projection!r} is not a Projection.")
        if any(projection.is_same_as(other) for other in (*BUILT_IN, *distinct)):
            continue  # as when an application gives it, and the setting names it for the command line
        projection.check_storable()
        distinct.append(projection)

    def elsewhere(other: str) -> ReadModels:
        beside = [f"{log.url}.read-models", f"{log.url}.ledger"] if log.url.startswith("sqlite:///") else []
        place = DatabaseUrl.parse(other, "of the read models")
        if any(
            place.is_same_database(DatabaseUrl.parse(other)) for other in (log.url, url or log.url, *beside)
        ):
            raise ConfigurationError(
                f"The database {place.described_as} is that of the event log or its read models.",
                hint="`deployledger projections rebuild --all` rebuilds them.",
            )
        return open_read_models(
            log, url=other, projections=projections, largest_row=largest_row, pool_size=pool_size
        )

    return ReadModels(
        log,
        open_store(log, url, pool_size),
        [*BUILT_IN_GROUPS, *((projection,) for projection in distinct)],
        process=f"{socket.gethostname()}:{os.getpid()}",
        largest_row=largest_row,
        fill=fill_with_workers(log.url, url, log.patience.seconds),
        elsewhere=elsewhere,
        patience=log.patience,
    )
