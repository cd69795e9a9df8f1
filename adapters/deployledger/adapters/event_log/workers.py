"""Tasks on an event log that processes of their own do."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.workers import run_in_workers

if TYPE_CHECKING:
    from deployledger.adapters.event_log.log import DatabaseEventLog

_MEMORY = "sqlite://"


def do_tasks(
    log: "DatabaseEventLog", function: str, tasks: Sequence[dict[str, Any]], progress: Callable[[int], None]
) -> list[Any]:
    """Do each task in a process of its own; see the port ``EventLog``."""
    if log.url == _MEMORY:
        return [_named(function)(log, task, progress) for task in tasks]
    told = [
        {"url": log.url, "patience": log.patience.seconds, "function": function, "task": task}
        for task in tasks
    ]
    return run_in_workers(f"{__name__}:{do_task.__name__}", told, progress)


def do_task(told: dict[str, Any], tell: Callable[[int], None]) -> Any:
    """Do one task, in a worker."""
    log = open_event_log(told["url"], patience=told["patience"])
    try:
        return _named(told["function"])(log, told["task"], tell)
    finally:
        log.close()


def _named(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found
