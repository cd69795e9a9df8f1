"""The status of read models."""

from dataclasses import dataclass
from datetime import UTC, datetime

from deployledger.domain.event_log import EventLog, recorded_at
from deployledger.projections.applying import Applier


@dataclass(frozen=True)
class ReadModelStatus:
    """How a read model stands.

    Attributes:
        name: the projection.
        version: the version of its rows.
        is_current: whether it is the version that this software reads.
        position: up to where the log is applied; 0 if there is no table yet.
        lag_events: how many events are not.
        lag_seconds: for how long the oldest of them has been in the log.
        rows: how many rows there are.
        parked: how many events are parked.
        rebuilt_at: when it was last rebuilt (UTC), if it was.
        rebuild_seconds: how long that took.
        rebuild_events: how many events it read.
        follower: the process that follows now, if one does.
        is_being_rebuilt: whether a rebuild runs now.
    """

    name: str
    version: int
    is_current: bool
    position: int = 0
    lag_events: int = 0
    lag_seconds: float = 0.0
    rows: int = 0
    parked: int = 0
    rebuilt_at: datetime | None = None
    rebuild_seconds: float | None = None
    rebuild_events: int | None = None
    follower: str | None = None
    is_being_rebuilt: bool = False


def read_model_statuses(applier: Applier) -> list[ReadModelStatus]:
    """Return the status of all read models: those of this software, and remaining older versions."""
    end = applier.log.position()
    applier.store.prepare([])
    records = {(record.name, record.version): record for record in applier.store.records()}
    current = {
        (projection.name, projection.version): projection for projection in applier.projections.values()
    }
    statuses: list[ReadModelStatus] = []
    for name, version in sorted({*records, *current}):
        record, projection = records.get((name, version)), current.get((name, version))
        position = record.position if record else 0
        is_followed = projection is not None and applier.is_held("follow", applier.group(projection)[0])
        statuses.append(
            ReadModelStatus(
                name=name,
                version=version,
                is_current=projection is not None,
                position=position,
                lag_events=max(0, end - position),
                lag_seconds=_lag_seconds(applier.log, position, end),
                rows=record.rows if record else 0,
                parked=record.parked if record else 0,
                rebuilt_at=record.rebuilt_at if record else None,
                rebuild_seconds=record.rebuild_seconds if record else None,
                rebuild_events=record.rebuild_events if record else None,
                follower=record.follower if record and is_followed else None,
                is_being_rebuilt=projection is not None and applier.is_held("rebuild", projection),
            )
        )
    return statuses


def _lag_seconds(log: EventLog, position: int, end: int) -> float:
    since = recorded_at(log, position + 1) if position < end else None
    return max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0.0
