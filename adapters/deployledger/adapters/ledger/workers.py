"""Checks parts of a log in several processes at once."""

from collections.abc import Callable, Sequence
from typing import Any

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.workers import run_in_workers
from deployledger.audit import checking
from deployledger.audit.checking import Checked, CheckParts, Part
from deployledger.audit.ledger_store import LedgerStore
from deployledger.domain.event_log import EventLog
from deployledger.projections.garbage import rare_collections

_CHECK = f"{__name__}:check_part"


def check_with_workers(log_url: str, patience: float) -> CheckParts:
    """Return what checks parts in processes of their own, if there are several, but the first one here.

    A process takes as long to start as it does to check 100,000 events.

    Args:
        log_url: the database of the event log.
        patience: how many seconds to wait for it if it is away.
    """

    def check(
        log: EventLog, store: LedgerStore, parts: Sequence[Part], progress: Callable[[int], None]
    ) -> list[Checked]:
        if len(parts) == 1 or log_url == "sqlite://":  # no other process sees memory
            return checking.check_here(log, store, parts, progress)
        first, *others = parts
        here: list[Checked] = []
        tasks = [{"log_url": log_url, "patience": patience, "part": list(part)} for part in others]
        there = run_in_workers(
            _CHECK, tasks, progress, lambda tell: here.extend(checking.check_here(log, store, [first], tell))
        )
        return [*here, *map(Checked.from_json, there)]

    return check


def check_part(task: dict[str, Any], tell: Callable[[int], None]) -> dict[str, Any]:
    """Check a part, as a worker."""
    log = open_event_log(task["log_url"], patience=task["patience"])
    store = log.open_ledger_store()
    log.position()  # this opens the database
    after, until, sizes = task["part"]
    with rare_collections:
        checked = checking.check_part(log, store, Part(after, until, tuple(sizes)), tell)
    store.close()
    log.close()
    return checked.to_json()
