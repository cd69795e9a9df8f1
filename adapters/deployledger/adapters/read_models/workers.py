"""Fills tables by several processes at once, each for a range of streams."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.parallel import run_in_workers
from deployledger.adapters.read_models import BUILT_IN, load_projections, open_read_models
from deployledger.domain.exceptions import ConfigurationError, MachineLearningServiceError, ReadModelError
from deployledger.projections.garbage import rare_collections
from deployledger.projections.projection import Projection
from deployledger.projections.read_models import Fill, ReadModels
from deployledger.projections.rebuilding import fill, fill_here
from deployledger.projections.reports import Task


def fill_with_workers(log_url: str, read_models_url: str | None) -> Fill:
    """Return what does tasks in processes of their own, if there are several.

    Args:
        log_url: the database of the event log.
        read_models_url: the database of the read models; None is the one of the log.
    """

    def work(models: ReadModels, tasks: Sequence[Task], progress: Callable[[int], None]) -> None:
        # No other process sees memory.
        in_memory = "sqlite://" in (log_url, read_models_url) or getattr(models.store, "is_in_memory", False)
        if len(tasks) == 1 or in_memory:
            fill_here(models, tasks, progress)
            return
        told = [_told(log_url, read_models_url, models, task) for task in tasks]
        try:
            run_in_workers(do_task, told, progress)
        except MachineLearningServiceError as error:
            raise ReadModelError(error.message, hint="What is read has not changed. Try again.") from error

    return work


def do_task(told: dict[str, Any], progress: Callable[[int], None]) -> None:
    """Fill tables, in a worker."""
    built_in = {projection.name: projection for projection in BUILT_IN}
    given = [load_projections(name)[0] for name, _ in told["tables"] if name not in built_in]
    by_name = iter(given)
    tables = tuple((built_in.get(name) or next(by_name), generation) for name, generation in told["tables"])
    log = open_event_log(told["log_url"], patience=told["patience"])
    models = open_read_models(
        log, url=told["read_models_url"], projections=given, largest_row=told["largest_row"]
    )
    models.log.position()
    models.store.prepare([])
    with rare_collections:
        fill(models, Task(tables, told["until"], told["streams"]), progress)
    models.store.close()
    log.close()


def _told(log_url: str, read_models_url: str | None, models: ReadModels, task: Task) -> dict[str, Any]:
    """Return a task as the worker reads it."""
    return {
        "log_url": log_url,
        "read_models_url": read_models_url,
        "largest_row": models.largest_row,
        "patience": models.patience.seconds,
        "tables": [[_reference(projection), generation] for projection, generation in task.tables],
        "until": task.until,
        "streams": task.streams,
    }


def _reference(projection: Projection[Any]) -> str:
    """Return where another process finds a projection: ``package.module:NAME``."""
    if projection in BUILT_IN:
        return projection.name
    module = sys.modules.get(projection.apply.__module__)
    for name, value in vars(module).items() if module is not None else ():
        if value is projection and module is not None and module.__name__ != "__main__":
            return f"{module.__name__}:{name}"
    raise ConfigurationError(
        f"Projection {projection.name} cannot be given to several workers: other processes do not find it.",
        hint="Define it, and its fold, in a module that can be imported, under a name; or use one worker.",
    )
