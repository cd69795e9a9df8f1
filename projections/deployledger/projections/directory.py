"""The list of all deployments, kept in memory and brought up to date by every read."""

from threading import Lock
from uuid import UUID

from deployledger.domain.event_log import EventLog
from deployledger.domain.events import DeploymentEvent
from deployledger.projections.status import StatusRow, apply

_BATCH = 1000


class Directory:
    """Every deployment's status row, in the order in which the deployments were requested.

    A read first applies what was appended since the last one, so it shows every write that was
    acknowledged before it began, whichever process made it.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._rows: dict[UUID, StatusRow] = {}
        self._position = 0
        self._lock = Lock()

    def rows(self) -> list[StatusRow]:
        """Return all rows as of now."""
        with self._lock:
            while (batch := self._log.read(after=self._position, limit=_BATCH)).events:
                for recorded in batch.events:
                    if isinstance(recorded.event, DeploymentEvent):
                        key = recorded.event.originator_id
                        self._rows[key] = apply(self._rows.get(key), recorded.event)
                self._position = batch.position
            return list(self._rows.values())
