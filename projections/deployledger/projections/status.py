"""The status of deployments, as a pure fold of their events into one row each."""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from deployledger.domain import events
from deployledger.domain.bounds import LARGEST_ROW_BYTES, LONGEST_LINE, LONGEST_MESSAGE, bounded
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.lifecycle import LIFECYCLE, State, Subject, job_steps, step_in
from deployledger.domain.requests import DeploymentTargetConfig, ResourceConfig
from deployledger.domain.responses import DeploymentStatus, DeploymentStatusResponse
from deployledger.domain.sentences import with_hint
from deployledger.domain.values import Artifact, Failure, Image, Progress, Step
from deployledger.projections.projection import Projection, changed_row, new_row


class StatusRow(BaseModel):
    """What is known of one deployment after some number of its events.

    Attributes:
        requested_by: who asked for the newest revision; a retry does not change it.
        serving_revision: the revision that serves, if one does; likewise the next five.
        has_served: whether any revision ever served.
        cancelled_revision: the newest revision, if it was cancelled.
        simulated_steps: the steps of the newest revision that were simulated.
    """

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    version: int
    name: str
    orchestrator: str
    state: State
    revision: int
    rollback_to: int | None = None
    model_uri: str
    target: DeploymentTargetConfig
    resources: ResourceConfig | None = None
    tags: dict[str, Any]
    requested_by: str
    created_at: datetime
    updated_at: datetime
    artifact: Artifact | None = None
    image: Image | None = None
    serving_revision: int | None = None
    serving_artifact: Artifact | None = None
    serving_image: Image | None = None
    serving_requested_by: str | None = None
    endpoint_url: str | None = None
    deployed_model_version: str | None = None
    has_served: bool = False
    cancelled_revision: int | None = None
    output_uri: str | None = None
    rows: int | None = None
    failure: Failure | None = None
    simulated_steps: tuple[Step, ...] = ()

    @property
    def is_batch_job(self) -> bool:
        """Whether its target is a batch inference job."""
        return self.target.is_batch_job

    @property
    def is_serving(self) -> bool:
        """Whether a revision of it serves."""
        return self.serving_revision is not None


def apply(row: StatusRow | None, event: DeploymentEvent) -> StatusRow:
    """Return the row as it is after the event."""
    if isinstance(event, events.Requested):
        return new_row(
            StatusRow,
            {
                "deployment_id": event.originator_id,
                "version": event.originator_version,
                "name": event.name,
                "orchestrator": bounded(event.orchestrator, LONGEST_LINE),
                "state": State.REQUESTED,
                "revision": 1,
                "model_uri": event.model_uri,
                "target": event.target,
                "resources": event.resources,
                "tags": event.tags,
                "requested_by": event.actor,
                "created_at": event.timestamp,
                "updated_at": event.timestamp,
            },
        )
    if row is None:
        raise ValueError(f"The history of deployment {event.originator_id} does not begin with Requested.")
    if event.originator_version != row.version + 1:
        raise ValueError(f"Event {event.originator_version} does not follow event {row.version}.")
    change = _CHANGES.get(event.TOPIC)
    changes = change(row, event) if change is not None else {}
    changes["version"] = event.originator_version
    changes["updated_at"] = event.timestamp
    changes["state"] = next_state(row, event)
    return changed_row(row, changes)


def next_state(row: Subject, event: DeploymentEvent) -> State:
    """Return the state that an event leads to.

    Raises:
        IllegalTransitionError: if the lifecycle does not allow it.
    """
    trigger = event.trigger_for(row)
    state = LIFECYCLE.next_state(row, trigger)
    if state is None:
        return LIFECYCLE.require(row, trigger, f"Deployment {event.originator_id}")
    return state


def _specified(row: StatusRow, event: events.UpdateRequested) -> dict[str, Any]:
    return {
        "name": event.name,
        "revision": event.revision,
        "rollback_to": event.rollback_to,
        "model_uri": event.model_uri,
        "target": event.target,
        "resources": event.resources,
        "tags": event.tags,
        "requested_by": event.actor,
        "artifact": None,
        "image": None,
        "failure": None,
        "cancelled_revision": None,
        "output_uri": None,
        "rows": None,
        "simulated_steps": (),
    }


def _provisioned(row: StatusRow, event: events.Provisioned) -> dict[str, Any]:
    changes = _simulated(row, Step.PROVISION, event.simulated)
    changes["deployed_model_version"] = row.artifact.resolved_uri if row.artifact else row.model_uri
    if not row.is_batch_job:
        changes["serving_revision"] = event.revision
        changes["serving_artifact"] = row.artifact
        changes["serving_image"] = row.image
        changes["serving_requested_by"] = row.requested_by
        changes["endpoint_url"] = event.endpoint_url and bounded(event.endpoint_url, LONGEST_LINE)
        changes["has_served"] = True
    return changes


# Events that earlier releases stored may say more than a deployment accepts now; rows never do.


def _bounded_failure(failure: Failure) -> Failure:
    if len(failure.message) <= LONGEST_MESSAGE and len(failure.hint) <= LONGEST_MESSAGE:
        return failure
    texts = {"message": bounded(failure.message), "hint": bounded(failure.hint)}
    return failure.model_copy(update=texts)


def _bounded_artifact(artifact: Artifact) -> Artifact:
    uri, version = artifact.resolved_uri, artifact.model_version or ""
    if len(uri) <= LONGEST_LINE and len(version) <= LONGEST_LINE:
        return artifact
    texts = {
        "resolved_uri": bounded(uri, LONGEST_LINE),
        "model_version": artifact.model_version and bounded(version, LONGEST_LINE),
    }
    return artifact.model_copy(update=texts)


def _bounded_image(image: Image) -> Image:
    if len(image.reference) <= LONGEST_LINE:
        return image
    return image.model_copy(update={"reference": bounded(image.reference, LONGEST_LINE)})


def _simulated(row: StatusRow, step: Step, simulated: bool) -> dict[str, Any]:
    return {"simulated_steps": (*row.simulated_steps, step)} if simulated else {}


_CHANGES: dict[str, Callable[[StatusRow, Any], dict[str, Any]]] = {
    events.UpdateRequested.TOPIC: _specified,
    events.RetryRequested.TOPIC: lambda row, event: {
        "failure": None,
        "cancelled_revision": None,
        "simulated_steps": (),
    },
    events.ArtifactsFetched.TOPIC: lambda row, event: {
        "artifact": _bounded_artifact(event.artifact),
        **_simulated(row, Step.FETCH, event.simulated),
    },
    events.Packaged.TOPIC: lambda row, event: {
        "image": _bounded_image(event.image),
        **_simulated(row, Step.PACKAGE, event.simulated),
    },
    events.Provisioned.TOPIC: _provisioned,
    events.Completed.TOPIC: lambda row, event: {
        "output_uri": bounded(event.output_uri, LONGEST_LINE),
        "rows": event.rows,
        **_simulated(row, Step.RUN, event.simulated),
    },
    events.Failed.TOPIC: lambda row, event: {"failure": _bounded_failure(event.failure)},
    events.DeletionFailed.TOPIC: lambda row, event: {"failure": _bounded_failure(event.failure)},
    events.Cancelled.TOPIC: lambda row, event: {"cancelled_revision": event.revision},
    events.DeletionRequested.TOPIC: lambda row, event: {"failure": None},
    events.Deleted.TOPIC: lambda row, event: {
        "serving_revision": None,
        "serving_artifact": None,
        "serving_image": None,
        "serving_requested_by": None,
        "endpoint_url": None,
        **_simulated(row, Step.DELETE, event.simulated),
    },
}
"""What each event changes in the row, besides its version, its time and the state."""


def fold(history: Iterable[DeploymentEvent]) -> StatusRow:
    """Return the row of one deployment's whole history."""
    row: StatusRow | None = None
    for event in history:
        row = apply(row, event)
    if row is None:
        raise ValueError("A history has at least one event.")
    return row


# What the row says, in the words of the usage guide ------------------------------------------------

_STATUS = {
    State.REQUESTED: DeploymentStatus.CREATING,
    State.ARTIFACTS_FETCHED: DeploymentStatus.CREATING,
    State.PACKAGED: DeploymentStatus.CREATING,
    State.ACTIVE: DeploymentStatus.ACTIVE,
    State.COMPLETED: DeploymentStatus.INACTIVE,
    State.FAILED: DeploymentStatus.FAILED,
    State.CANCELLED: DeploymentStatus.INACTIVE,
    State.DELETING: DeploymentStatus.DELETING,
    State.DELETE_FAILED: DeploymentStatus.DELETE_FAILED,
    State.DELETED: DeploymentStatus.INACTIVE,
}


def status(state: State, has_served: bool) -> DeploymentStatus:
    """Return the status that the usage guide gives a state."""
    status = _STATUS[state]
    return DeploymentStatus.UPDATING if has_served and status is DeploymentStatus.CREATING else status


def progress(row: StatusRow) -> Progress | None:
    """Return how far the job is, or None where there is none."""
    return _progress(row.state, row.is_batch_job)


@cache
def _progress(state: State, is_batch_job: bool) -> Progress | None:
    step = step_in(state, is_batch_job=is_batch_job)
    if step is None:
        return None
    steps = job_steps(step, is_batch_job=is_batch_job)
    return Progress(step=step, steps_done=steps.index(step), steps_total=len(steps))


def message(row: StatusRow) -> str:
    """Return one or two sentences that say what is going on."""
    sentences = [_what_happens(row)]
    if row.serving_revision is not None and row.serving_revision != row.revision:
        sentences.append(f"Revision {row.serving_revision} keeps serving at {row.endpoint_url}.")
    if row.simulated_steps:
        sentences.append(f"Simulated: {', '.join(row.simulated_steps)}.")
    return " ".join(sentences)


def _what_happens(row: StatusRow) -> str:
    failure = row.failure
    replicas = f"{row.target.replicas} replica{'s' if row.target.replicas != 1 else ''}"
    match row.state:
        case State.REQUESTED:
            return f"Fetching the model's artifacts from {row.model_uri}."
        case State.ARTIFACTS_FETCHED:
            return "Packaging the model."
        case State.PACKAGED:
            return "Starting the job." if row.is_batch_job else f"Starting {replicas}."
        case State.ACTIVE if row.is_batch_job:
            return f"Scoring {row.target.input_uri}."
        case State.ACTIVE if row.cancelled_revision is not None:
            return f"The update to revision {row.cancelled_revision} was cancelled."
        case State.ACTIVE:
            return f"Serving at {row.endpoint_url}."
        case State.COMPLETED:
            return f"Scored {row.rows} rows into {row.output_uri}."
        case State.CANCELLED:
            return f"Revision {row.revision} was cancelled before it served."
        case State.DELETING:
            return "Stopping it."
        case State.DELETED:
            return "Deleted."
        case State.FAILED | State.DELETE_FAILED:
            if failure is None:
                return "Failed."
            return with_hint(f"Step {failure.step} failed: {failure.message}", failure.hint)


def respond(row: StatusRow) -> DeploymentStatusResponse:
    """Return the row as what the service answers."""
    artifact, image = row.artifact, row.image
    serving_artifact, serving_image = row.serving_artifact, row.serving_image
    return new_row(
        DeploymentStatusResponse,
        {
            "deployment_id": row.deployment_id,
            "deployment_name": row.name,
            "model_uri": row.model_uri,
            "status": status(row.state, row.has_served),
            "endpoint_url": row.endpoint_url,
            "message": message(row),
            "created_at": row.created_at,
            "updated_at": row.updated_at,
            "deployed_model_version": row.deployed_model_version,
            "revision": row.revision,
            "serving_revision": row.serving_revision,
            "state": row.state,
            "version": row.version,
            "progress": progress(row),
            "deployment_target_config": row.target,
            "resource_allocation": row.resources,
            "tags": row.tags,
            "artifact_digest": artifact.digest if artifact else None,
            "image_digest": image.digest if image else None,
            "serving_artifact_digest": serving_artifact.digest if serving_artifact else None,
            "serving_image_digest": serving_image.digest if serving_image else None,
            "requested_by": row.requested_by,
            "serving_requested_by": row.serving_requested_by,
            "failure": row.failure,
            "failed_at": row.updated_at if row.failure else None,  # it was its last event
            "simulated": bool(row.simulated_steps),
        },
    )


DEPLOYMENT_STATUS = Projection(
    name="deployment_status",
    version=4,
    row_type=StatusRow,
    apply=apply,
    row_bytes=LARGEST_ROW_BYTES,  # no setting makes a status one that is not current
)
"""One row a deployment: everything that its status says."""
