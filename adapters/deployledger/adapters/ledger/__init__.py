"""Ledgers of event logs on SQLite and PostgreSQL: in the database of the log, or in a file beside its own."""

from typing import TYPE_CHECKING

from deployledger.projections.ledger.keys import Signer
from deployledger.projections.ledger.ledger import Ledger, Publish

if TYPE_CHECKING:
    from deployledger.adapters.event_log.log import DatabaseEventLog


def open_ledger(
    log: "DatabaseEventLog", *, signer: Signer | None = None, publish: Publish | None = None
) -> Ledger:
    """Return the ledger of an event log; its database is first used when a method is called.

    Args:
        signer: what signs checkpoints.
        publish: takes each new checkpoint to where who can change the database cannot change it.
    """
    return Ledger(log, log.open_ledger_store(), signer=signer, publish=publish)
