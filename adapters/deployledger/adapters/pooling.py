"""Connection poolers in front of PostgreSQL: one that shares sessions between clients is refused.

Prepared statements, advisory locks, LISTEN and settings belong to a session. A pooler that hands each
transaction, or each statement, to whichever session is free takes them apart: locks stay behind, and
notifications go to others.
"""

from collections.abc import Callable

from psycopg.rows import tuple_row

from deployledger.adapters.postgres import Session
from deployledger.domain.exceptions import EventLogError

_LOOKS = 3


def refuse_shared(session: Session, connect: Callable[[], Session], described_as: str) -> None:
    """Check that statements of a session are all executed by the same server process, and by no other's.

    A server tells its process when a client connects. A pooler tells something else, as it has not chosen a
    process yet; only then this needs a second session. Where other clients take the free processes at each
    look, sharing may not be noticed.

    Args:
        session: closed if it is refused.
        connect: returns another session.
        described_as: the database.

    Raises:
        EventLogError: if sessions are shared.
    """
    process = _process(session)
    if process == session.info.backend_pid:
        return
    with connect() as other:
        is_shared = any(_process(other) == process or _process(session) != process for _ in range(_LOOKS))
    if is_shared:
        session.close()
        raise EventLogError(
            f"The connection pooler in front of {described_as} shares sessions between clients: it pools "
            "transactions or statements.",
            hint="Set its pool_mode to session for this database, or connect to the server itself; "
            "docs/database.md describes what a pooler must preserve.",
        )


def _process(session: Session) -> int:
    with session.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute("SELECT pg_catalog.pg_backend_pid()").fetchall()
    return int(rows[0][0])
