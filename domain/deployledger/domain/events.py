"""The events of a deployment, as they are stored permanently.

An event's topic and the meaning of its fields never change once released. A change makes a new
``class_version`` and an ``upcast_v1_v2`` that turns the stored state of the old version into the new one.
Events are plain immutable pydantic models, which `eventsourcing` can store. The aggregate alone defines the
effect of an event, in its ``apply``.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, TypeVar
from uuid import UUID

from eventsourcing.domain import OriginatorIDError, OriginatorVersionError
from eventsourcing.utils import register_topic
from pydantic import BaseModel, ConfigDict, Field

from deployledger.domain import ids, topics
from deployledger.domain.exceptions import IllegalTransitionError
from deployledger.domain.lifecycle import Subject, Trigger
from deployledger.domain.requests import DeploymentTargetConfig, ResourceConfig
from deployledger.domain.values import Artifact, Failure, Image

_E = TypeVar("_E", bound="Event")

EVENT_CLASSES: dict[str, type[Event]] = {}
"""The class of each topic's events; defining a class adds it."""


@dataclass(frozen=True)
class CommandContext:
    """Who commands, when, and as part of what. Time and ids come from outside, so that tests can set them.

    Attributes:
        actor: who gave the command.
        at: when, as an aware datetime in UTC.
        correlation_id: shared by everything that one command caused.
        causation_id: the event that caused this command, if one did.
        new_id: makes the ids of events.
    """

    actor: str
    at: datetime
    correlation_id: UUID = field(default_factory=ids.new_id)
    causation_id: UUID | None = None
    new_id: Callable[[], UUID] = ids.new_id

    def event(self, event_class: type[_E], originator_id: UUID, originator_version: int, **fields: Any) -> _E:
        """Return an event that the command caused."""
        return event_class(
            originator_id=originator_id,
            originator_version=originator_version,
            timestamp=self.at,
            event_id=self.new_id(),
            actor=self.actor,
            correlation_id=self.correlation_id,
            causation_id=self.causation_id,
            **fields,
        )


class Event(BaseModel):
    """Base of all events.

    Attributes:
        originator_id: the stream (the aggregate) that the event belongs to.
        originator_version: its version in that stream, counted from 1.
        timestamp: when it happened, in UTC.
        event_id: unique to this event.
        actor: who caused it.
        correlation_id: shared by everything that one command caused.
        causation_id: the event that caused it, if one did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    TOPIC: ClassVar[str]
    SINCE: ClassVar[tuple[str, ...]]
    """The releases that introduced the versions, from version 1 on."""
    class_version: ClassVar[int] = 1
    reads_version_1: ClassVar[bool] = False
    """Whether states of version 1 are read as they are, because later versions only added optional fields."""

    originator_id: UUID = Field(exclude=True)
    originator_version: int = Field(exclude=True)
    timestamp: datetime
    event_id: UUID
    actor: str
    correlation_id: UUID
    causation_id: UUID | None = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Register the event's topic, so that stored events find their class.

        Raises:
            TypeError: if the class lacks what every event of its kind needs.
        """
        super().__pydantic_init_subclass__(**kwargs)
        if ABC not in cls.__bases__:
            cls._check_definition()
            register_topic(cls.TOPIC, cls)
            EVENT_CLASSES[cls.TOPIC] = cls

    @classmethod
    def _check_definition(cls) -> None:
        topic: object = vars(cls).get("TOPIC")
        if not isinstance(topic, str) or not topic:
            raise TypeError(
                f"{cls.__name__} needs a TOPIC of its own, a text by which stored events find their class. "
                "A common base of several events has none, and derives from abc.ABC, too."
            )
        if topic.startswith(topics.OUR_PREFIXES) and not cls.__module__.startswith("deployledger."):
            raise TypeError(
                f"{cls.__name__} needs another TOPIC than {topic!r}: topics that begin with "
                f"{', '.join(topics.OUR_PREFIXES)} are reserved for deployledger's own events."
            )
        for version in range(1, cls.class_version):
            if not callable(getattr(cls, f"upcast_v{version}_v{version + 1}", None)):
                raise TypeError(
                    f"{cls.__name__} has class_version {cls.class_version} and needs "
                    f"upcast_v{version}_v{version + 1}, which turns the stored state of version {version} "
                    f"into that of version {version + 1}."
                )

    @property
    def stored_version(self) -> int:
        """The version that the event is stored as: one that has all of its fields."""
        return self.class_version

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


class DeploymentEvent(Event, ABC):
    """Base of a deployment's events.

    Attributes:
        revision: the revision concerned, counted from 1.
    """

    trigger: ClassVar[Trigger]

    revision: int

    @classmethod
    def _check_definition(cls) -> None:
        super()._check_definition()
        if not hasattr(cls, "trigger") and "trigger_for" not in vars(cls):
            raise TypeError(
                f"{cls.__name__} needs a trigger, the transition of the lifecycle that it records. An event "
                "without one does not belong to a deployment: derive it from Event, for a stream of its own."
            )

    def trigger_for(self, deployment: Subject) -> Trigger:
        """Return the lifecycle's trigger that this event is, for a deployment as it is before the event."""
        return self.trigger


class _Specified(DeploymentEvent, ABC):
    """The specification of a revision.

    Attributes:
        name: the deployment's name from then on.
        model_uri: what to deploy, without credentials.
        target: where and how to run it.
        resources: the resources of each replica.
        tags: any JSON values.
    """

    name: str
    model_uri: str
    target: DeploymentTargetConfig
    resources: ResourceConfig | None = None
    tags: dict[str, Any] = Field(default_factory=dict)

    class_version: ClassVar[int] = 2
    reads_version_1: ClassVar[bool] = True

    @property
    def stored_version(self) -> int:
        """Version 1 without options of batch jobs, so that the release before can read it."""
        return 1 if self.target.batch is None else 2

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Version 2 may have options of batch jobs in the target."""


class Requested(_Specified):
    """A new deployment was requested from an orchestrator, which manages it from then on.

    Attributes:
        orchestrator: the name of the orchestrator.
    """

    TOPIC: ClassVar[str] = topics.REQUESTED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0", "0.1.0")

    revision: int = 1
    orchestrator: str

    def trigger_for(self, deployment: Subject) -> Trigger:
        """Refuse: this event begins a history, and nothing leads to it.

        Raises:
            IllegalTransitionError: always.
        """
        raise IllegalTransitionError(f"{deployment} was requested already.")


class ArtifactsFetched(DeploymentEvent):
    """The model's files are in the artifact store, under their digest.

    Attributes:
        artifact: the files, and the pinned URI of their source.
        simulated: whether the step was only simulated, because it had no client.
    """

    TOPIC: ClassVar[str] = topics.ARTIFACTS_FETCHED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.ARTIFACTS_FETCHED

    artifact: Artifact
    simulated: bool = False


class Packaged(DeploymentEvent):
    """The model's image is built and stored.

    Attributes:
        image: the image.
        simulated: whether the step was only simulated, because it had no client.
    """

    TOPIC: ClassVar[str] = topics.PACKAGED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.PACKAGED

    image: Image
    simulated: bool = False


class Provisioned(DeploymentEvent):
    """The revision is ready and serves; or, for a batch job, the job was started.

    Attributes:
        endpoint_url: where the revision serves; null for a batch job.
        simulated: whether the step was only simulated, because it had no client.
    """

    TOPIC: ClassVar[str] = topics.PROVISIONED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.PROVISIONED

    endpoint_url: str | None = None
    simulated: bool = False


class Completed(DeploymentEvent):
    """The batch job wrote its output.

    Attributes:
        output_uri: where the predictions are.
        rows: how many rows were scored.
        simulated: whether the step was only simulated, because it had no client.
    """

    TOPIC: ClassVar[str] = topics.COMPLETED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.COMPLETED

    output_uri: str
    rows: int
    simulated: bool = False


class Failed(DeploymentEvent):
    """The job failed.

    Attributes:
        failure: at which step, why, and what to do.
    """

    TOPIC: ClassVar[str] = topics.FAILED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.FAIL

    failure: Failure


class UpdateRequested(_Specified):
    """A new revision was requested.

    Attributes:
        rollback_to: the earlier revision that it repeats, from the same bytes; null for an update.
    """

    TOPIC: ClassVar[str] = topics.UPDATE_REQUESTED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0", "0.1.0")
    trigger: ClassVar[Trigger] = Trigger.REQUEST_UPDATE

    rollback_to: int | None = None


class RetryRequested(DeploymentEvent):
    """A retry of the same revision was requested.

    Attributes:
        attempt: the number of this attempt at the revision, counted from 1.
    """

    TOPIC: ClassVar[str] = topics.RETRY_REQUESTED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.RETRY

    attempt: int


class Cancelled(DeploymentEvent):
    """The job was cancelled; an earlier revision that serves keeps serving."""

    TOPIC: ClassVar[str] = topics.CANCELLED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.CANCEL

    def trigger_for(self, deployment: Subject) -> Trigger:
        """Return which of the two ways of being cancelled this is."""
        return Trigger.CANCEL_UPDATE if deployment.is_serving else Trigger.CANCEL


class DeletionRequested(DeploymentEvent):
    """Deletion of the deployment was requested."""

    TOPIC: ClassVar[str] = topics.DELETION_REQUESTED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.REQUEST_DELETION


class DeletionFailed(DeploymentEvent):
    """The deployment could not be deleted; deletion can be requested again.

    Attributes:
        failure: why, and what to do.
    """

    TOPIC: ClassVar[str] = topics.DELETION_FAILED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.DELETION_FAILED

    failure: Failure


class Deleted(DeploymentEvent):
    """The deployment has stopped completely, and its name is free.

    Attributes:
        simulated: whether the step was only simulated, because it had no client.
    """

    TOPIC: ClassVar[str] = topics.DELETED
    SINCE: ClassVar[tuple[str, ...]] = ("0.1.0",)
    trigger: ClassVar[Trigger] = Trigger.DELETED

    simulated: bool = False
