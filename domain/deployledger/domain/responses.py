"""The response schemas of the usage guide, and those of the history."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from deployledger.domain.requests import DeploymentTargetConfig, ResourceConfig
from deployledger.domain.values import Digest, Failure, Progress, Step


class DeploymentStatus(StrEnum):
    """A deployment's status in the words of the usage guide."""

    CREATING = "creating"
    UPDATING = "updating"
    ACTIVE = "active"
    FAILED = "failed"
    DELETING = "deleting"
    DELETE_FAILED = "delete_failed"
    INACTIVE = "inactive"


class DeploymentStatusResponse(BaseModel):
    """The complete status of a deployment at one moment.

    Attributes:
        deployment_id: the deployment's id.
        deployment_name: its name.
        model_uri: the URI that the newest revision was requested with.
        status: the status in the words of the usage guide.
        endpoint_url: the endpoint of the serving revision, if one serves.
        message: what is happening, or what went wrong and what to do.
        created_at: when the deployment was requested (UTC).
        updated_at: when its last event happened (UTC). The log recorded it a little later, and moments of the
            past count by that: it is in the history.
        deployed_model_version: the pinned URI of the model that serves (or was run).
        revision: the newest revision, counted from 1.
        serving_revision: the revision that serves, if one does.
        state: the state of the lifecycle.
        version: how many events the deployment has; the value for ``expected_version``.
        progress: the progress of the job, while there is one.
        deployment_target_config: the newest revision's target.
        resource_allocation: the newest revision's resources.
        tags: the newest revision's tags.
        artifact_digest: what the newest revision's model files hash to, once fetched.
        image_digest: the digest of the newest revision's image, once packaged.
        serving_artifact_digest: what the model files of the revision that serves hash to.
        serving_image_digest: the digest of its image.
        requested_by: who asked for the newest revision; a retry does not change it.
        serving_requested_by: who asked for the revision that serves.
        failure: why the last job failed, if it did.
        failed_at: when it failed (UTC), likewise.
        simulated: whether any step of the newest revision was simulated.
        parked_events: how many of its events could not be applied, so that this is the state before them.
        warning: why the answer is not current and what to do, or an empty string.
        position: up to which position of the event log this is true, where it was asked for as it is; of a
            moment of the past that is no position, that of the deployment's last event by then.
    """

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    deployment_name: str
    model_uri: str
    status: DeploymentStatus
    endpoint_url: str | None = None
    message: str = ""
    created_at: datetime
    updated_at: datetime
    deployed_model_version: str | None = None
    revision: int = 1
    serving_revision: int | None = None
    state: str
    version: int
    progress: Progress | None = None
    deployment_target_config: DeploymentTargetConfig
    resource_allocation: ResourceConfig | None = None
    tags: dict[str, Any] = Field(default_factory=dict)
    artifact_digest: Digest | None = None
    image_digest: Digest | None = None
    serving_artifact_digest: Digest | None = None
    serving_image_digest: Digest | None = None
    requested_by: str = ""
    serving_requested_by: str | None = None
    failure: Failure | None = None
    failed_at: datetime | None = None
    simulated: bool = False
    parked_events: int = 0
    position: int | None = None
    warning: str = ""


class DeploymentPage(list[DeploymentStatusResponse]):
    """A page of a list of deployments: a list with further attributes.

    Attributes:
        total: how many deployments there are on all pages.
        next_cursor: the cursor of the next page; None on the last page.
        position: the position of the event log that the page reflects.
        warning: why deployments may be missing or out of place and what to do, or an empty string.
    """

    def __init__(
        self,
        deployments: Iterable[DeploymentStatusResponse] = (),
        *,
        total: int = 0,
        next_cursor: str | None = None,
        position: int = 0,
        warning: str = "",
    ) -> None:
        super().__init__(deployments)
        self.total = total
        self.next_cursor = next_cursor
        self.position = position
        self.warning = warning


class Change(BaseModel):
    """A difference in one field between two results of ``get_deployment_status``.

    Attributes:
        field: the field's name; a field within a field is written ``tags.team``.
        before: its value before, as a JSON value; None if it had none.
        after: its value after.
    """

    model_config = ConfigDict(frozen=True)

    field: str
    before: Any = None
    after: Any = None


class DeploymentHistoryEntry(BaseModel):
    """One event of a deployment's history.

    Attributes:
        version: its place in the deployment's history, counted from 1.
        event: what happened, for example ``Requested``.
        topic: the stored event's type, for example ``deployment.requested``.
        timestamp: when (UTC).
        actor: who caused it.
        revision: the revision that it is about.
        event_id: unique to the event.
        correlation_id: shared by everything that one command caused.
        causation_id: the event that caused it, if one did.
        data: what else the event says, as JSON values.
        position: its place in the order of the whole log.
        recorded_at: when the log stored it (UTC), by the clock that it had.
        happened_at: when it counts as happened (UTC), if that clock was wrong; None if it was right.
        step: the step of the job that ended with it, if one did.
        attempt: how often the job of the revision was started by then.
        duration: seconds from the event before, if this one is the result of work; None for commands.
        cause: the version of the event of this history that caused it; None for commands.
        changes: what differs between the deployment's status before and after it.
        error: why it could not be applied, so that what it changed is not known; else empty. An event that
            does not decode has no data, and is of the revision that was the newest one before it.
    """

    model_config = ConfigDict(frozen=True)

    version: int
    event: str
    topic: str
    timestamp: datetime
    actor: str
    revision: int
    event_id: UUID
    correlation_id: UUID | None
    causation_id: UUID | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    position: int
    recorded_at: datetime
    happened_at: datetime | None = None
    step: Step | None = None
    attempt: int = 1
    duration: float | None = None
    cause: int | None = None
    changes: list[Change] = Field(default_factory=list)
    error: str = ""


class PastMoment(BaseModel):
    """A moment of a deployment's past.

    Attributes:
        asked_for: the moment in words: a time, a position, a revision, or ``now``.
        position: the position that it means, as in the status.
        recorded_at: when the deployment's last event by then was recorded (UTC), or counts as happened if the
            clock was wrong.
        revision: the newest revision then.
    """

    model_config = ConfigDict(frozen=True)

    asked_for: str
    position: int
    recorded_at: datetime
    revision: int


class DeploymentDifference(BaseModel):
    """The differences in a deployment between two moments.

    Attributes:
        deployment_id: the deployment's id.
        deployment_name: its name at the second moment.
        before: the first moment.
        after: the second one.
        changes: what differs; empty if nothing does.
    """

    model_config = ConfigDict(frozen=True)

    deployment_id: UUID
    deployment_name: str
    before: PastMoment
    after: PastMoment
    changes: list[Change]
