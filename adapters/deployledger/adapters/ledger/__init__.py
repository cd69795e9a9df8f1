"""Ledgers of event logs on SQLite and PostgreSQL: in the database of the log, or in a file beside its own."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deployledger.audit.keys import Signer
from deployledger.audit.ledger import CheckpointPlace, Ledger
from deployledger.audit.log_parts import CheckedPart, Part

if TYPE_CHECKING:
    from deployledger.adapters.event_log.log import DatabaseEventLog
    from deployledger.audit.ledger_store import LedgerStore
    from deployledger.domain.event_log import EventLog


def open_ledger(
    log: "DatabaseEventLog", *, signer: Signer | None = None, place: CheckpointPlace | None = None
) -> Ledger:
    """Return the ledger of an event log; its database is first used when a method is called.

    Args:
        signer: what signs checkpoints.
        place: where checkpoints are published, out of reach of who can change the database: a
            ``publishing.Place``, for example.
    """

    def check(
        _: "EventLog", store: "LedgerStore", parts: Sequence[Part], progress: Callable[[int], None]
    ) -> list[CheckedPart]:
        from deployledger.adapters.ledger.workers import check_parts

        return check_parts(log, store, parts, progress)

    return Ledger(log, log.open_ledger_store(), signer=signer, place=place, check=check)
