"""Fills tables by several processes at once, each for a range of streams."""

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.parallel import run_in_workers
from deployledger.adapters.read_models.databases import open_store
from deployledger.adapters.read_models.references import load_projections, reference_to
from deployledger.domain.exceptions import MachineLearningServiceError, ReadModelError
from deployledger.projections.applying import Applier
from deployledger.projections.rebuilding import Fill, Task, fill, fill_here


class _Order(NamedTuple):
    """A task as another process gets it: with the names of its projections, and how to open the databases."""

    log_url: str
    read_models_url: str | None
    patience_seconds: float
    largest_row: int
    tables: list[tuple[str, int]]
    until: int
    streams: tuple[UUID, UUID] | None


def fill_with_workers(log_url: str, read_models_url: str | None, patience_seconds: float) -> Fill:
    """Return what does tasks in processes of their own, if there are several.

    Args:
        log_url: the database of the event log.
        read_models_url: the database of the read models; None is the one of the log.
    """

    def fill_all(applier: Applier, tasks: Sequence[Task], progress: Callable[[int], None]) -> None:
        # No other process sees memory.
        if len(tasks) == 1 or applier.store.is_in_memory or log_url == "sqlite://":
            fill_here(applier, tasks, progress)
            return
        orders = [
            _Order(
                log_url,
                read_models_url,
                patience_seconds,
                applier.largest_row,
                [(reference_to(projection), generation) for projection, generation in task.tables],
                task.until,
                task.streams,
            )
            for task in tasks
        ]
        try:
            run_in_workers(_fill, orders, progress)
        except MachineLearningServiceError as error:
            raise ReadModelError(error.message, hint="The rows in use are unchanged. Try again.") from error

    return fill_all


def _fill(order: _Order, progress: Callable[[int], None]) -> None:
    """Fill tables, in a worker."""
    tables = tuple((load_projections(reference)[0], generation) for reference, generation in order.tables)
    log = open_event_log(order.log_url, patience=order.patience_seconds)
    store = open_store(log, order.read_models_url)
    log.position()
    store.prepare([])
    groups = [[projection for projection, _ in tables]]
    applier = Applier(log, store, groups, process="", largest_row=order.largest_row)
    fill(applier, Task(tables, order.until, order.streams), progress)
    store.close()
    log.close()
