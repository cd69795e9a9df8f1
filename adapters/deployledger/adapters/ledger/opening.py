"""Opens the ledger of an event log, whose parts are checked in several processes at once."""

from collections.abc import Callable, Sequence
from functools import partial

from deployledger.adapters.event_log.log import DatabaseEventLog
from deployledger.adapters.parallel import run_in_workers
from deployledger.audit.keys import Signer
from deployledger.audit.ledger import CheckpointPlace, Ledger
from deployledger.audit.ledger_store import LedgerStore
from deployledger.audit.log_parts import CheckedPart, Part, check_here, check_part


def open_ledger(
    log: DatabaseEventLog, *, signer: Signer | None = None, place: CheckpointPlace | None = None
) -> Ledger:
    """Return the ledger of an event log; its database is first used when a method is called.

    Args:
        signer: what signs checkpoints.
        place: where checkpoints are published, out of reach of who can change the database: a
            ``publishing.Place``, for example.
    """
    return Ledger(
        log,
        log.open_ledger_store(),
        signer=signer,
        place=place,
        check=lambda _, store, parts, progress: _check_parts(log, store, parts, progress),
    )


def _check_parts(
    log: DatabaseEventLog, store: LedgerStore, parts: Sequence[Part], progress: Callable[[int], None]
) -> list[CheckedPart]:
    """Check parts in processes of their own, if there are several, but the first one here.

    A process takes as long to start as it does to check 100,000 events.
    """
    if len(parts) == 1 or log.is_in_memory:
        return check_here(log, store, parts, progress)
    first, *others = parts
    here: list[CheckedPart] = []
    there = run_in_workers(
        partial(_check_part, log),
        others,
        progress,
        lambda tell: here.extend(check_here(log, store, [first], tell)),
    )
    return [*here, *there]


def _check_part(log: DatabaseEventLog, part: Part, tell: Callable[[int], None]) -> CheckedPart:
    store = log.open_ledger_store()
    log.position()  # this opens the database
    checked = check_part(log, store, part, tell)
    store.close()
    log.close()
    return checked
