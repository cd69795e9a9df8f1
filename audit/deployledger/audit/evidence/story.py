"""What a report tells of events: what each changed, and which revision served when, from which bytes.

It reads the events as they are stored, as JSON: also those that this version of the software does not know.
"""

import json
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from deployledger.audit.evidence.cloud_events import Recorded
from deployledger.domain import topics
from deployledger.domain.redaction import without_credentials
from deployledger.domain.target_types import BATCH_JOB
from deployledger.domain.times import Correction, WrongTimes, corrects_clock, wrong_times

MOST_SHOWN = 250
"""How many events a report shows of the first ones, and how many of the last ones; of revisions likewise."""

_WHAT: Final = {
    topics.REQUESTED: "Deployment requested",
    topics.ARTIFACTS_FETCHED: "Artifacts fetched",
    topics.PACKAGED: "Packaged",
    topics.PROVISIONED: "Provisioned",
    topics.COMPLETED: "Batch job completed",
    topics.FAILED: "Failed",
    topics.UPDATE_REQUESTED: "Update requested",
    topics.RETRY_REQUESTED: "Retry requested",
    topics.CANCELLED: "Cancelled",
    topics.DELETION_REQUESTED: "Deletion requested",
    topics.DELETION_FAILED: "Deletion failed",
    topics.DELETED: "Deleted",
    topics.NAME_RESERVED: "Name reserved",
    topics.NAME_RELEASED: "Name released",
    topics.CLOCK_CORRECTED: "Clock corrected",
}
_NESTED: Final = {
    "artifact": {
        "digest": "artifact",
        "resolved_uri": "resolved to",
        "model_version": "model version",
        "size_bytes": "artifact size in bytes",
    },
    "image": {"digest": "image", "reference": "image reference"},
    "failure": {"step": "failed step", "reason": "reason", "message": "message"},
}
_FIELDS: Final = {
    "endpoint_url": "endpoint",
    "output_uri": "output",
    "rows": "rows",
    "rollback_to": "rolled back to revision",
    "deployment_id": "deployment",
    "first_position": "recorded times are wrong from position",
    "recorded_until": "latest of the wrong times",
    "not_before": "the event before was recorded at",
}


@dataclass(frozen=True)
class ValueChange:
    """A value that an event changed; ``before`` is None where there was none, or it is not known."""

    what: str
    before: str | None
    after: str | None


@dataclass
class RevisionStory:
    """One revision of a deployment.

    Attributes:
        served_from: when it began to serve; likewise ``served_until``, if it ended.
        outcome: how it ended, if it did not serve.
    """

    deployment_id: UUID
    name: str
    number: int
    model_uri: str = ""
    requested_at: datetime | None = None
    requested_by: str = ""
    resolved_uri: str = ""
    model_version: str = ""
    artifact: str = ""
    image: str = ""
    endpoint: str = ""
    served_from: datetime | None = None
    served_until: datetime | None = None
    outcome: str = ""
    is_simulated: bool = False


@dataclass(frozen=True)
class Entry:
    """One event, as the report has it.

    Attributes:
        deployment_id: the deployment that it is an event of; None for the reservation of a name.
        name: the deployment's name by then, as far as it is known.
        duration: seconds since the event of the deployment before it, if it is the result of work.
    """

    event: Recorded
    what: str
    deployment_id: UUID | None
    name: str
    revision: str
    attempt: int
    duration: float | None
    changes: tuple[ValueChange, ...]
    is_simulated: bool

    @property
    def stated_at(self) -> datetime | None:
        """When the event says itself that it happened (UTC); None if it does not say."""
        data = self.event.data
        try:
            stated = datetime.fromisoformat(data["timestamp"])
            return stated.replace(tzinfo=UTC) if stated.tzinfo is None else stated.astimezone(UTC)
        except (ValueError, TypeError, KeyError, OverflowError):
            return None


@dataclass
class _Deployment:
    """What is known of one deployment after some of its events."""

    name: str = ""
    attempt: int = 1
    last_at: datetime | None = None
    serving: RevisionStory | None = None
    is_batch_job: bool = False
    values: dict[str, str] = field(default_factory=dict)


class Story:
    """The story of events, added one after the other.

    Attributes:
        events: how many there were.
        happened: how many there were of each topic.
        actors: how many each one caused.
        revisions: by deployment and number, in the order in which they were first heard of.
        first_at: when the first event was recorded; ``last_at`` likewise.
    """

    def __init__(self) -> None:
        self.events = 0
        self.happened: Counter[str] = Counter()
        self.actors: Counter[str] = Counter()
        self.revisions: dict[tuple[UUID, int], RevisionStory] = {}
        self.first_at: datetime | None = None
        self.last_at: datetime | None = None
        self._corrections: list[Correction] = []
        self._deployments: dict[UUID, _Deployment] = {}
        self._first: list[Entry] = []
        self._last: deque[Entry] = deque(maxlen=MOST_SHOWN)

    @property
    def deployments(self) -> int:
        """How many deployments the events are about."""
        return len(self._deployments)

    @property
    def wrong_times(self) -> tuple[WrongTimes, ...]:
        """The events of the log whose recorded times are wrong, as corrections among the events say."""
        return wrong_times(self._corrections)

    @property
    def left_out(self) -> int:
        """How many events are not shown."""
        return self.events - len(self._first) - len(self._last)

    def shown(self) -> tuple[Sequence[Entry], Sequence[Entry]]:
        """Return the events that are shown: the first, and the last ones."""
        return self._first, [*self._last]

    def add(self, event: Recorded) -> None:
        """Tell of the next event."""
        self.events += 1
        self.happened[event.topic] += 1
        self.actors[_clean(event.actor or "-")] += 1
        self.first_at = self.first_at or event.time
        self.last_at = event.time
        if corrects_clock(event.topic, event.stream_id) and (correction := _correction(event)):
            self._corrections.append(correction)
        entry = self._entry(event)
        if len(self._first) < MOST_SHOWN:
            self._first.append(entry)
        else:
            self._last.append(entry)

    def _entry(self, event: Recorded) -> Entry:
        fields = event.data
        data: dict[str, Any] = fields if isinstance(fields, dict) else {}
        what = _WHAT.get(event.topic, event.topic)
        simulated = data.get("simulated") is True
        if not topics.is_of_deployment(event.topic):
            name = _text(data.get("name"))
            return Entry(event, what, None, name, "", 1, None, tuple(_changes({}, _values(data))), simulated)
        deployment_id = UUID(bytes=event.stream_id)
        deployment = self._deployments.setdefault(deployment_id, _Deployment())
        duration = None
        if deployment.last_at is not None and event.topic not in topics.COMMANDS:
            duration = (event.time - deployment.last_at).total_seconds()
        deployment.last_at = event.time
        if event.topic in topics.SPECIFYING:
            deployment.attempt = 1
            deployment.name = _text(data.get("name"))
            deployment.is_batch_job = _part(data, "target").get("type") == BATCH_JOB
        elif event.topic == topics.RETRY_REQUESTED and isinstance(data.get("attempt"), int):
            deployment.attempt = data["attempt"]
        values = _values(data)
        changes = tuple(_changes(deployment.values, values, is_whole=event.topic in topics.SPECIFYING))
        deployment.values = _after(deployment.values, values, event.topic)
        self._add_revision(event, data, deployment_id, deployment)
        revision = _text(data.get("revision"))
        return Entry(
            event,
            what,
            deployment_id,
            deployment.name,
            revision,
            deployment.attempt,
            duration,
            changes,
            simulated,
        )

    def _add_revision(
        self, event: Recorded, data: dict[str, Any], deployment_id: UUID, deployment: _Deployment
    ) -> None:
        number = data.get("revision")
        if type(number) is not int:
            return
        key = (deployment_id, number)
        revision = self.revisions.get(key) or RevisionStory(deployment_id, deployment.name, number)
        self.revisions[key] = revision
        revision.name = deployment.name or revision.name
        revision.is_simulated |= data.get("simulated") is True
        match event.topic:
            case topics.REQUESTED | topics.UPDATE_REQUESTED:
                revision.model_uri = _text(data.get("model_uri"))
                revision.requested_at, revision.requested_by = event.time, _clean(event.actor or "-")
            case topics.ARTIFACTS_FETCHED:
                artifact = _part(data, "artifact")
                revision.artifact = _text(artifact.get("digest"))
                revision.resolved_uri = _text(artifact.get("resolved_uri"))
                revision.model_version = _text(artifact.get("model_version"))
            case topics.PACKAGED:
                revision.image = _text(_part(data, "image").get("digest"))
            case topics.PROVISIONED if not deployment.is_batch_job:
                if deployment.serving is not None and deployment.serving is not revision:
                    deployment.serving.served_until = event.time
                revision.served_from = revision.served_from or event.time
                revision.served_until, revision.outcome = None, ""
                revision.endpoint = _text(data.get("endpoint_url"))
                deployment.serving = revision
            case topics.COMPLETED:
                revision.outcome = "batch job completed"
            case topics.FAILED if revision.served_from is None:
                revision.outcome = f"failed ({_text(_part(data, 'failure').get('reason'))})"
            case topics.CANCELLED if revision.served_from is None:
                revision.outcome = "cancelled"
            case topics.RETRY_REQUESTED:
                revision.outcome = ""
            case topics.DELETED if deployment.serving is not None:
                deployment.serving.served_until = event.time
                deployment.serving = None


def _correction(event: Recorded) -> Correction | None:
    """Return what a correction of the clock says; None if it does not say it as it should."""
    data = event.data
    try:
        first, not_before, until = data["first_position"], data["not_before"], data["recorded_until"]
        if type(first) is not int:
            return None
        before = None if not_before is None else datetime.fromisoformat(not_before).astimezone(UTC)
        return Correction(
            event.position, event.time, first, before, datetime.fromisoformat(until).astimezone(UTC)
        )
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def _values(data: dict[str, Any]) -> dict[str, str]:
    """Return what an event says, by names that people read."""
    values: dict[str, str] = {}
    for name in ("name", "model_uri"):
        if name in data:
            values[name.replace("_", " ")] = _text(data[name])
    for name in ("target", "resources", "tags"):
        for key, value in _part(data, name).items():
            if value is not None:
                values[f"{name}.{_clean(key)}"] = _text(value)
    for name, parts in _NESTED.items():
        for key, label in parts.items():
            if (value := _part(data, name).get(key)) is not None:
                values[label] = _text(value)
    for name, label in _FIELDS.items():
        if data.get(name) is not None:
            values[label] = _text(data[name])
    return values


def _changes(
    before: dict[str, str], after: dict[str, str], *, is_whole: bool = False
) -> Iterator[ValueChange]:
    for what, value in after.items():
        if before.get(what) != value:
            yield ValueChange(what, before.get(what), value)
    if is_whole:
        for what in before:
            if what not in after and _is_specified(what):
                yield ValueChange(what, before[what], None)


def _after(before: dict[str, str], values: dict[str, str], topic: str) -> dict[str, str]:
    values = {what: value for what, value in values.items() if what not in _NESTED["failure"].values()}
    if topic not in topics.SPECIFYING:
        return before | values
    # The new revision has nothing yet of what was made for the one before; where it is served is kept.
    kept = {"endpoint", "artifact", "image", "resolved to", "model version"}
    return {what: value for what, value in before.items() if what in kept} | values


def _is_specified(what: str) -> bool:
    return what.partition(".")[0] in ("target", "resources", "tags")


def _part(data: dict[str, Any], name: str) -> dict[str, Any]:
    part = data.get(name)
    return part if isinstance(part, dict) else {}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _clean(value)
    return _clean(json.dumps(value, ensure_ascii=False))


def _clean(text: str) -> str:
    """Return a text without credentials, for what was stored by other software."""
    return without_credentials(text)
