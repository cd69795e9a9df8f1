"""What callers send and receive: the request and response schemas of the usage guide."""

import re
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from deployledger.domain.bounds import LONGEST_LINE, check_tags
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.handles import as_id, path_of
from deployledger.domain.redaction import shown
from deployledger.domain.target_types import BATCH_JOB, TargetType
from deployledger.domain.values import Digest, Failure, Progress, Step

DEPLOYMENT_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(
    r"^\+?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})(m|[numk]|[KMGTPE]i|[MGTPE]|[eE][+-]?\d{1,2})?$", re.ASCII
)

_LONGEST_FIELD = 64
_NO_TEXT = re.compile(r"[\x00-\x1f\ud800-\udfff]")


def _check_name(name: str) -> str:
    if not DEPLOYMENT_NAME.fullmatch(name):
        raise ValueError(
            f"{shown(name)} is not a legal deployment name: "
            "1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit"
        )
    if as_id(name) is not None:
        raise ValueError(f"{shown(name)} is an id; choose a name that cannot be mistaken for one")
    return name


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("it is blank")
    if _NO_TEXT.search(text):
        raise ValueError("it has control characters, or bytes that are not UTF-8")
    return text


def _check_tags(tags: dict[str, Any]) -> dict[str, Any]:
    check_tags(tags)
    return tags


def _check_quantity(quantity: str) -> str:
    if not _QUANTITY.fullmatch(quantity):
        raise ValueError(f"{shown(quantity)} is not a Kubernetes quantity such as '500m', '2' or '1.5Gi'")
    return quantity


Text = Annotated[str, Field(max_length=LONGEST_LINE), AfterValidator(_check_text)]
"""One line of text: a URI, the name of an image, an actor."""

Quantity = Annotated[str, AfterValidator(_check_quantity)]


if TYPE_CHECKING:  # pydantic does not export its metaclass
    from pydantic._internal._model_construction import ModelMetaclass
    from pydantic_core import ErrorDetails
else:
    ModelMetaclass = type(BaseModel)


def problem_of(error: "ErrorDetails") -> str:
    """Return what pydantic found, without its word for errors of ours."""
    return error["msg"].removeprefix("Value error, ").removesuffix(".")


def _step(part: str | int) -> str:
    if isinstance(part, int) or (part.isidentifier() and len(part) <= _LONGEST_FIELD):
        return str(part)
    return shown(part)


class _RequestMeta(ModelMetaclass):
    """Makes the constructors of requests raise what the usage guide says: ConfigurationError.

    Only the constructors: validation by pydantic itself, as in a FastAPI body, is pydantic's.
    """

    if not TYPE_CHECKING:  # type checkers go on seeing the fields as the constructor's parameters

        def __call__(self, *args: Any, **fields: Any) -> Any:
            try:
                return super().__call__(*args, **fields)
            except ValidationError as error:
                problems = "; ".join(
                    f"{'.'.join(map(_step, problem['loc']))}: {problem_of(problem)}"
                    for problem in error.errors(include_url=False)
                )
                problems = problems.removeprefix(": ")
                raise ConfigurationError(f"Invalid request: {problems}.") from error


class Schema(BaseModel, metaclass=_RequestMeta):
    """Base of request schemas: frozen, and a misspelt field is an error, not silence."""

    # An error that repeated its input would repeat a credential under a misspelt field.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class DeploymentTargetConfig(Schema):
    """Where and how a model is to run.

    Attributes:
        type: a server that answers requests, a job that scores a file once, or an edge device.
        serving_image: the container image to serve with, for orchestrators that run containers.
        replicas: how many copies serve the model.
        port: the TCP port to serve on; none asks for a free one.
        instance_type: the kind of machine, for orchestrators that offer several.
        input_uri: what a batch inference job reads (CSV or JSON lines).
        output_uri: where a batch inference job writes its predictions.
    """

    type: TargetType
    serving_image: Text | None = None
    replicas: int = Field(default=1, ge=1, le=1000)
    port: int | None = Field(default=None, ge=1, le=65535)
    instance_type: Text | None = None
    input_uri: Text | None = None
    output_uri: Text | None = None

    @property
    def is_batch_job(self) -> bool:
        """Whether it is a batch inference job."""
        return self.type == BATCH_JOB


class ResourceConfig(Schema):
    """The resources that a replica requests, as Kubernetes quantities (``500m``, ``2``, ``1.5Gi``).

    Attributes:
        cpu_request: CPU.
        memory_request: memory.
        gpu_request: GPUs.
    """

    cpu_request: Quantity | None = None
    memory_request: Quantity | None = None
    gpu_request: Quantity | None = None


class DeploymentRequest(Schema):
    """A request to deploy a model, or to update a deployment.

    Attributes:
        model_uri: what to deploy: a path, ``file://``, ``models:/``, ``runs:/`` or ``mlflow_runs:/`` URI.
        deployment_name: unique among the deployments that are not deleted.
        deployment_target_config: where and how to run it.
        resource_allocation: the resources of each replica.
        version_strategy: under a name in use, ``new`` is an error and ``update_existing`` an update.
        tags: anything JSON can hold; recorded, and shown with the status.
    """

    model_uri: Text
    deployment_name: Annotated[str, AfterValidator(_check_name)]
    deployment_target_config: DeploymentTargetConfig
    resource_allocation: ResourceConfig | None = None
    version_strategy: Literal["new", "update_existing"] = "new"
    tags: Annotated[dict[str, Any], AfterValidator(_check_tags)] | None = None

    @model_validator(mode="after")
    def _name_files(self) -> Self:
        """Refuse URIs of files that name none. Not in the parts, which stored events have as well."""
        target = self.deployment_target_config
        for name, uri in (
            ("model_uri", self.model_uri),
            ("input_uri", target.input_uri),
            ("output_uri", target.output_uri),
        ):
            try:
                path_of(uri or "")
            except ConfigurationError as error:
                raise ValueError(f"{name}: {error}") from None
        return self


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
    """Everything there is to know about a deployment at one moment.

    Attributes:
        deployment_id: the deployment's id.
        deployment_name: its name.
        model_uri: the URI that the newest revision was requested with.
        status: the status in the words of the usage guide.
        endpoint_url: where the serving revision answers, if one serves.
        message: what is going on, or what went wrong and what to do.
        created_at: when the deployment was requested (UTC).
        updated_at: when its last event happened (UTC). The log recorded it a little later, and moments of the
            past count by that: it is in the history.
        deployed_model_version: the pinned URI of the model that serves (or was run).
        revision: the newest revision, counted from 1.
        serving_revision: the revision that serves, if one does.
        state: the state of the lifecycle.
        version: how many events the deployment has; the value for ``expected_version``.
        progress: how far the job is, while there is one.
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
    """A page of a list of deployments: a list, which knows more.

    Attributes:
        total: how many deployments there are on all pages.
        next_cursor: what gives the page after this one, or None after the last one.
        position: up to which position of the event log the page is true.
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
    """What differs between two answers of ``get_deployment_status``, in one field.

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
        duration: seconds from the event before, if this one is what came of work; None for commands.
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
    """What differs in a deployment between two moments.

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
