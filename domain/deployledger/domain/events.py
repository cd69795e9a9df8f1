"""What can happen to a deployment: the events, as they are stored for ever.

An event's topic and the meaning of its fields never change once released. A change makes a new
``class_version`` and an ``upcast_v1_v2`` that turns the stored state of the old version into the new one.
Events are plain immutable pydantic models; `eventsourcing` works with them because they have what its
``CanMutateProtocol`` asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from eventsourcing.domain import OriginatorIDError, OriginatorVersionError
from eventsourcing.utils import register_topic
from pydantic import BaseModel, ConfigDict, Field

from deployledger.domain.lifecycle import Subject, Trigger
from deployledger.domain.schemas import DeploymentTargetConfig, ResourceConfig
from deployledger.domain.values import Artifact, Failure, Image

if TYPE_CHECKING:
    from deployledger.domain.deployment import Deployment


@dataclass(frozen=True)
class CommandContext:
    """Who commands, when, and as part of what. Time and ids come from outside, so that tests can set them.

    Attributes:
        actor: who gave the command.
        at: when, as an aware datetime in UTC.
        new_id: makes the ids of events.
        correlation_id: shared by everything that one command set off.
        causation_id: the event that caused this command, if one did.
    """

    actor: str
    at: datetime
    new_id: Callable[[], UUID]
    correlation_id: UUID
    causation_id: UUID | None = None


class Event(BaseModel):
    """Base of all events.

    Attributes:
        originator_id: the stream (the aggregate) that the event belongs to.
        originator_version: its place in that stream, counted from 1.
        timestamp: when it happened, in UTC.
        event_id: unique to this event.
        actor: who caused it.
        correlation_id: shared by everything that one command set off.
        causation_id: the event that caused it, if one did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    TOPIC: ClassVar[str]
    class_version: ClassVar[int] = 1

    originator_id: UUID = Field(exclude=True)
    originator_version: int = Field(exclude=True)
    timestamp: datetime
    event_id: UUID
    actor: str
    correlation_id: UUID
    causation_id: UUID | None = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Register the event's topic, so that stored events find their class."""
        super().__pydantic_init_subclass__(**kwargs)
        if "TOPIC" in cls.__dict__:
            register_topic(cls.TOPIC, cls)

    def check_follows(self, stream_id: UUID, version: int) -> None:
        """Check that the event is the next one of the stream.

        Raises:
            OriginatorIDError: if it belongs to another stream.
            OriginatorVersionError: if events are missing before it, or it was applied already.
        """
        if self.originator_id != stream_id:
            raise OriginatorIDError(self.originator_id, stream_id)
        if self.originator_version != version + 1:
            raise OriginatorVersionError(self.originator_version, version + 1)


class DeploymentEvent(Event):
    """Base of a deployment's events; ``revision`` says which revision each is about."""

    trigger: ClassVar[Trigger]

    revision: int

    def trigger_for(self, deployment: Subject) -> Trigger:
        """Return the lifecycle's trigger that this event is, for a deployment as it is before the event."""
        return self.trigger

    def mutate(self, deployment: Deployment | None) -> Deployment:
        """Return the deployment as it is after this event."""
        if deployment is None:
            raise OriginatorVersionError(self.originator_version, 1)
        deployment.apply(self)
        return deployment


class _Specified(DeploymentEvent):
    """What a revision was asked to be."""

    name: str
    model_uri: str
    target: DeploymentTargetConfig
    resources: ResourceConfig | None = None
    tags: dict[str, Any] = Field(default_factory=dict)


class Requested(_Specified):
    """A new deployment was asked for, of an orchestrator that from now on looks after it."""

    TOPIC: ClassVar[str] = "deployment.requested"

    revision: int = 1
    orchestrator: str

    def mutate(self, deployment: Deployment | None) -> Deployment:
        """Return the new deployment."""
        from deployledger.domain.deployment import Deployment

        if deployment is not None:
            raise OriginatorVersionError(self.originator_version, deployment.version + 1)
        return Deployment(self)


class ArtifactsFetched(DeploymentEvent):
    """The model's files are in the artifact store, under their digest."""

    TOPIC: ClassVar[str] = "deployment.artifacts_fetched"
    trigger: ClassVar[Trigger] = Trigger.ARTIFACTS_FETCHED

    artifact: Artifact
    simulated: bool = False


class Packaged(DeploymentEvent):
    """The model's image is built and stored."""

    TOPIC: ClassVar[str] = "deployment.packaged"
    trigger: ClassVar[Trigger] = Trigger.PACKAGED

    image: Image
    simulated: bool = False


class Provisioned(DeploymentEvent):
    """The revision is ready and serves; or, for a batch job, the job was started."""

    TOPIC: ClassVar[str] = "deployment.provisioned"
    trigger: ClassVar[Trigger] = Trigger.PROVISIONED

    endpoint_url: str | None = None
    simulated: bool = False


class Completed(DeploymentEvent):
    """The batch job wrote its output."""

    TOPIC: ClassVar[str] = "deployment.completed"
    trigger: ClassVar[Trigger] = Trigger.COMPLETED

    output_uri: str
    rows: int
    simulated: bool = False


class Failed(DeploymentEvent):
    """The job failed."""

    TOPIC: ClassVar[str] = "deployment.failed"
    trigger: ClassVar[Trigger] = Trigger.FAIL

    failure: Failure


class UpdateRequested(_Specified):
    """A new revision was asked for; ``rollback_to`` names the earlier revision that it repeats."""

    TOPIC: ClassVar[str] = "deployment.update_requested"
    trigger: ClassVar[Trigger] = Trigger.REQUEST_UPDATE

    rollback_to: int | None = None


class RetryRequested(DeploymentEvent):
    """The same revision is to be tried again."""

    TOPIC: ClassVar[str] = "deployment.retry_requested"
    trigger: ClassVar[Trigger] = Trigger.RETRY

    attempt: int


class Cancelled(DeploymentEvent):
    """The job was called off; if an earlier revision serves, it goes on serving."""

    TOPIC: ClassVar[str] = "deployment.cancelled"
    trigger: ClassVar[Trigger] = Trigger.CANCEL

    def trigger_for(self, deployment: Subject) -> Trigger:
        """Return which of the two ways of being cancelled this is."""
        return Trigger.CANCEL_UPDATE if deployment.is_serving else Trigger.CANCEL


class DeletionRequested(DeploymentEvent):
    """The deployment is to be stopped and deleted."""

    TOPIC: ClassVar[str] = "deployment.deletion_requested"
    trigger: ClassVar[Trigger] = Trigger.REQUEST_DELETION


class DeletionFailed(DeploymentEvent):
    """The deployment could not be deleted; deleting can be asked for again."""

    TOPIC: ClassVar[str] = "deployment.deletion_failed"
    trigger: ClassVar[Trigger] = Trigger.DELETION_FAILED

    failure: Failure


class Deleted(DeploymentEvent):
    """Nothing of the deployment runs any more, and its name is free."""

    TOPIC: ClassVar[str] = "deployment.deleted"
    trigger: ClassVar[Trigger] = Trigger.DELETED

    simulated: bool = False


COMMANDS = frozenset(
    it.TOPIC for it in (Requested, UpdateRequested, RetryRequested, Cancelled, DeletionRequested)
)
"""The topics of events that somebody asked for; the others are what came of that."""
