"""The columns that lists of deployments select and sort by, as a pure fold into one row per deployment."""

import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployledger.domain import events
from deployledger.domain.bounds import LONGEST_LINE, bounded
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.lifecycle import State, is_in_progress
from deployledger.domain.responses import DeploymentStatus
from deployledger.domain.target_types import BATCH_JOB
from deployledger.projections import status
from deployledger.projections.projection import Projection, changed_row, new_row

_BETWEEN_TAGS = "\x1f"


class ListRow(BaseModel):
    """What lists select and sort a deployment by.

    Attributes:
        orchestrator: the orchestrator that looks after it.
        tags: the tags of the newest revision, as `tag_pattern` finds them.
        in_progress: whether there is a job to do.
        is_serving: whether a revision serves.
        has_served: whether any revision ever served.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    status: DeploymentStatus
    model_uri: str
    target_type: str
    orchestrator: str
    tags: str
    created_at: datetime
    updated_at: datetime
    deleted: bool
    state: State
    in_progress: bool
    is_serving: bool
    has_served: bool

    @property
    def is_batch_job(self) -> bool:
        """Whether its target is a batch inference job."""
        return self.target_type == BATCH_JOB


def apply(row: ListRow | None, event: DeploymentEvent) -> ListRow:
    """Return the row as it is after the event."""
    if isinstance(event, events.Requested):
        return new_row(
            ListRow,
            {
                "status": DeploymentStatus.CREATING,
                "created_at": _with_zone(event.timestamp),
                "updated_at": _with_zone(event.timestamp),
                "deleted": False,
                "state": State.REQUESTED,
                "orchestrator": _stored(bounded(event.orchestrator, LONGEST_LINE)),
                "in_progress": True,
                "is_serving": False,
                "has_served": False,
                **_specified(event),
            },
        )
    if row is None:
        raise ValueError(f"The history of deployment {event.originator_id} does not begin with Requested.")
    state = status.next_state(row, event)
    is_batch_job, has_served = row.is_batch_job, row.has_served
    changes: dict[str, Any] = {}
    if isinstance(event, events.Provisioned):
        if not is_batch_job:
            has_served = True
            changes = {"has_served": True, "is_serving": True}
    elif isinstance(event, events.UpdateRequested):
        changes = _specified(event)
    elif isinstance(event, events.Deleted):
        changes = {"is_serving": False, "deleted": True}
    changes["state"] = state
    changes["updated_at"] = _with_zone(event.timestamp)
    changes["status"] = status.status(state, has_served)
    changes["in_progress"] = is_in_progress(state, is_batch_job=is_batch_job)
    return changed_row(row, changes)


def _specified(event: events.Requested | events.UpdateRequested) -> dict[str, Any]:
    return {
        "name": _stored(event.name),
        "model_uri": _stored(event.model_uri),
        "target_type": event.target.type,
        "tags": _tags(event.tags),
    }


def _tags(tags: dict[str, Any]) -> str:
    if not tags:
        return ""
    pairs = (_pair(name, value) for name, value in sorted(tags.items()))
    return f"{_BETWEEN_TAGS}{_BETWEEN_TAGS.join(pairs)}{_BETWEEN_TAGS}"


def _pair(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return _stored(f"{name}={text}").replace(_BETWEEN_TAGS, "\ufffd")  # which separates them


def _stored(text: str) -> str:
    return text.replace("\0", "\ufffd")  # no database stores NUL in text


def _with_zone(time: datetime) -> datetime:
    """Return a time, which is in UTC if it was stored without a zone, as earlier releases let it be."""
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def tag_pattern(name: str, value: Any = None) -> str:
    """Return what the tags of a row contain if it has this tag; without a value, with any value."""
    if value is None:
        return f"{_BETWEEN_TAGS}{_pair(name, '')}"
    return f"{_BETWEEN_TAGS}{_pair(name, value)}{_BETWEEN_TAGS}"


DEPLOYMENT_LIST = Projection(
    name="deployment_list",
    version=1,
    row_type=ListRow,
    apply=apply,
    columns=tuple(ListRow.model_fields),
    indexes=(("name",), ("status",), ("updated_at",)),
    counted="deleted",
)
"""One row a deployment: what lists select and sort by."""
