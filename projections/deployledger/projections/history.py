"""The history of a deployment: for each event its changes, its duration and its cause."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from deployledger.domain import events, topics
from deployledger.domain.event_records import EventRecord
from deployledger.domain.event_records import time_of as recorded_time
from deployledger.domain.events import DeploymentEvent, Event
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.domain.lifecycle import STEP_DONE_BY
from deployledger.domain.responses import Change, DeploymentHistoryEntry, DeploymentStatusResponse
from deployledger.domain.values import Step
from deployledger.projections.folding import LONGEST_ERROR
from deployledger.projections.status import DEPLOYMENT_STATUS, StatusRow, respond

_OWN_FIELDS = {"timestamp", "actor", "revision", "event_id", "correlation_id", "causation_id"}
_NOT_COMPARED = {
    "deployment_id",
    "created_at",
    "updated_at",
    "failed_at",
    "version",
    "progress",
    "message",
    "parked_events",
    "position",
    "warning",
}
_TAKEN_APART = {"deployment_target_config", "resource_allocation", "tags"}
_AFTER_ANOTHER = "An earlier event could not be applied."


@dataclass(frozen=True)
class Applied:
    """An event of a deployment, and what it made of the status.

    Attributes:
        record: the event as it is stored.
        event: the event, or None if it does not decode.
        row: the row after it; as it was before if the event, or an earlier one, could not be applied.
        is_parked: whether that is so.
        error: why this very event could not be applied, if it could not.
    """

    record: EventRecord
    event: DeploymentEvent | None
    row: StatusRow | None
    is_parked: bool
    error: str = ""


def apply_all(
    records: Iterable[EventRecord], decode: Callable[[EventRecord], Event], *, largest_row: int
) -> Iterator[Applied]:
    """Apply the events of one deployment, as the read model of the status does.

    Args:
        largest_row: as for `deployledger.projections.folding.Folding`.
    """
    largest_row = max(largest_row, DEPLOYMENT_STATUS.row_bytes)
    row: StatusRow | None = None
    is_parked, size = False, 0
    for record in records:
        event: DeploymentEvent | None = None
        error = ""
        try:
            size += len(record.state)
            event = cast("DeploymentEvent", decode(record))
            if not is_parked:
                after = DEPLOYMENT_STATUS.apply(row, event)
                if size > largest_row // 2:  # a row seldom takes more than its events do
                    _check_size(after, largest_row)
                row = after
        except UndecodableEventError as problem:
            is_parked, error = True, problem.message
        except Exception as problem:  # what it refuses, and how, is the fold's own
            is_parked, error = True, f"{type(problem).__name__}: {problem}"
        yield Applied(record, event, row, is_parked, error[:LONGEST_ERROR])


def _check_size(row: StatusRow | None, largest: int) -> None:
    size = len(DEPLOYMENT_STATUS.encode(row)[1]) if row is not None else 0
    if size > largest:
        raise ValueError(f"the row takes {size:,} bytes as JSON; {largest:,} is the most")


def past_status(past: Sequence[Applied], position: int) -> DeploymentStatusResponse | None:
    """Return the status after some events; None if the first one could not be applied.

    Args:
        position: the position that is meant.
    """
    row = past[-1].row
    if row is None:
        return None
    answer = respond(row).model_copy(update={"position": position})
    parked = [applied for applied in past if applied.is_parked]
    if not parked:
        return answer
    return with_parked(answer, len(parked), parked[0].record.position, parked[0].error)


def with_parked(
    answer: DeploymentStatusResponse, count: int, position: int, error: str
) -> DeploymentStatusResponse:
    """Return a status that says that it does not have the deployment's last events in it.

    Args:
        count: how many events those are.
        position: that of the first of them, which could not be applied for the ``error``.
    """
    what = f"{count} later event{'s' if count != 1 else ''} could not be applied, from position {position} on"
    return answer.model_copy(
        update={
            "message": f"{answer.message} {what}: {error}",
            "parked_events": count,
            "warning": f"Not current: {what}. {parked_hint(DEPLOYMENT_STATUS.name)}",
        }
    )


def parked_hint(projection: str) -> str:
    """Return what to do about parked events of a projection."""
    return (
        f"`deployledger projections parked list {projection}` says why; if newer software wrote the event, "
        f"upgrade deployledger. Then `deployledger projections parked retry {projection}` applies them."
    )


def differences(
    before: DeploymentStatusResponse | None, after: DeploymentStatusResponse | None
) -> list[Change]:
    """Return what differs between two answers, but for what differs always: times, versions, messages."""
    one, other = _comparable(before), _comparable(after)
    changes: list[Change] = []
    for name in {**one, **other}:
        old, new = one.get(name), other.get(name)
        if name in _TAKEN_APART:
            old, new = old or {}, new or {}
            changes += [
                Change(field=f"{name}.{key}", before=old.get(key), after=new.get(key))
                for key in {**old, **new}
                if _differ(old.get(key), new.get(key))
            ]
        elif _differ(old, new):
            changes.append(Change(field=name, before=old, after=new))
    return changes


def _differ(one: Any, other: Any) -> bool:
    """Return whether two JSON values differ; 1 and true are the same to Python, and not in JSON."""
    return one != other or json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)


def _comparable(answer: DeploymentStatusResponse | None) -> dict[str, Any]:
    return answer.model_dump(mode="json", exclude=_NOT_COMPARED) if answer is not None else {}


def entries(
    past: Iterable[Applied], time_of: Callable[[int], datetime | None] = lambda position: None
) -> list[DeploymentHistoryEntry]:
    """Return the events of one deployment as the entries of its history.

    Args:
        time_of: returns when the event at a position happened whose recorded time is wrong; else None.
    """
    listed: list[DeploymentHistoryEntry] = []
    versions: dict[bytes, int] = {}
    status: DeploymentStatusResponse | None = None
    attempt, began_at = 1, None
    for past_event in past:
        record, recorded_at = past_event.record, recorded_time(past_event.record)
        if isinstance(past_event.event, events.Requested | events.UpdateRequested):
            attempt = 1
        elif isinstance(past_event.event, events.RetryRequested):
            attempt = past_event.event.attempt
        before, status = status, respond(past_event.row) if past_event.row is not None else None
        duration = None
        happened_at = time_of(record.position)
        ended_at = happened_at or recorded_at
        if began_at is not None and record.topic not in topics.COMMANDS:
            duration = (ended_at - began_at).total_seconds()
        listed.append(
            DeploymentHistoryEntry(
                **_told(past_event),
                version=record.stream_version,
                topic=record.topic,
                position=record.position,
                recorded_at=recorded_at,
                happened_at=happened_at,
                step=_step(past_event.event),
                attempt=attempt,
                duration=duration,
                cause=versions.get(record.causation_id) if record.causation_id is not None else None,
                changes=[] if past_event.is_parked else differences(before, status),
            )
        )
        versions[record.event_id] = record.stream_version
        began_at = ended_at
    return listed


def _told(applied: Applied) -> dict[str, Any]:
    """Return what an event says itself; of one that does not decode, what the log keeps beside it."""
    event, error = applied.event, applied.error or (_AFTER_ANOTHER if applied.is_parked else "")
    if event is not None:
        try:
            return {
                "event": type(event).__name__,
                "data": event.model_dump(mode="json", exclude=_OWN_FIELDS),
                "timestamp": event.timestamp,
                "actor": event.actor,
                "revision": event.revision,
                "event_id": event.event_id,
                "correlation_id": event.correlation_id,
                "causation_id": event.causation_id,
                "error": error,
            }
        except UndecodableEventError as problem:  # ids and actors are read late
            error = problem.message
    record = applied.record
    return {
        "event": event_name(record.topic),
        "timestamp": recorded_time(record),
        "actor": record.actor or "",
        "revision": applied.row.revision if applied.row is not None else 1,
        "event_id": _uuid(record.event_id or bytes(16)),
        "correlation_id": _uuid(record.correlation_id),
        "causation_id": _uuid(record.causation_id),
        "error": error,
    }


def _step(event: DeploymentEvent | None) -> Step | None:
    if isinstance(event, events.Failed | events.DeletionFailed):
        return event.failure.step
    if event is None or event.TOPIC in topics.COMMANDS:
        return None
    return STEP_DONE_BY.get(event.trigger)


def event_name(topic: str) -> str:
    """Return what the class of an event would be called that may be nobody's."""
    return "".join(part.capitalize() for part in topic.rpartition(".")[2].split("_"))


def _uuid(id_: bytes | None) -> UUID | None:
    return None if id_ is None else UUID(bytes=id_)
