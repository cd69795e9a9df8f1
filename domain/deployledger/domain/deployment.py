"""The Deployment aggregate: what a deployment is, and which commands it accepts.

It is a plain object; docs/decisions says why it is not a subclass of `eventsourcing`'s ``Aggregate``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from deployledger.domain import bounds, events, topics
from deployledger.domain.credential_refusal import refuse_credentials
from deployledger.domain.credentials.finding import may_hold_credentials
from deployledger.domain.events import CommandContext, DeploymentEvent
from deployledger.domain.exceptions import (
    ConfigurationError,
    ConflictError,
    DeploymentError,
    IllegalTransitionError,
    RevisionNotFoundError,
    StaleVersionError,
)
from deployledger.domain.lifecycle import LIFECYCLE, State, Trigger, step_in
from deployledger.domain.reasons import FailureReason
from deployledger.domain.redaction import fields_without_credentials, storable
from deployledger.domain.requests import DeploymentRequest, DeploymentTargetConfig, ResourceConfig
from deployledger.domain.values import Artifact, Failure, Image, Step


@dataclass
class Revision:
    """One revision of a deployment: what was requested, and the results so far.

    Attributes:
        number: counted from 1.
        rollback_to: the earlier revision that this one repeats, if it does.
        artifact: the model's files, once they are fetched.
        image: the model's image, once it is built.
        attempt: how often its job was started.
    """

    number: int
    model_uri: str
    target: DeploymentTargetConfig
    resources: ResourceConfig | None
    tags: dict[str, Any]
    rollback_to: int | None = None
    artifact: Artifact | None = None
    image: Image | None = None
    attempt: int = 1


class Deployment:
    """A model's deployment, rebuilt from its events.

    Attributes:
        id: the deployment's id.
        version: how many events it has.
        name: its name.
        orchestrator: the name of the orchestrator that manages it.
        state: where in the lifecycle it is.
        revisions: every revision by number; the newest is the current one.
        serving_revision: the number of the revision that serves, if one does.
        endpoint_url: the endpoint of that revision.
        failure: why the last job failed, if it did.
        created_on: when it was requested (UTC).
        modified_on: when its last event happened (UTC).
        correlation_id: of the last command that set off a job.
        last_event_id: the last event, for the causation of what follows.
        last_actor: who caused it.
    """

    def __init__(self, requested: events.Requested) -> None:
        self.id: UUID = requested.originator_id
        self.version: int = requested.originator_version
        self.name: str = requested.name
        self.orchestrator: str = requested.orchestrator
        self.state: State = State.REQUESTED
        self.revisions: dict[int, Revision] = {1: _revision(requested, None)}
        self.serving_revision: int | None = None
        self.endpoint_url: str | None = None
        self.failure: Failure | None = None
        self.created_on: datetime = requested.timestamp
        self.modified_on: datetime = requested.timestamp
        self.correlation_id: UUID = requested.correlation_id
        self.last_event_id: UUID = requested.event_id
        self.last_actor: str = requested.actor
        self._pending: list[DeploymentEvent] = []

    @classmethod
    def request(
        cls, deployment_id: UUID, request: DeploymentRequest, *, orchestrator: str, by: CommandContext
    ) -> Self:
        """Return a new deployment."""
        fields = _specification(request)
        requested = by.event(events.Requested, deployment_id, 1, orchestrator=orchestrator, **fields)
        _check_bounds(requested, request.deployment_name)
        deployment = cls(requested)
        deployment._pending.append(requested)
        return deployment

    @classmethod
    def replay(cls, history: Iterable[DeploymentEvent]) -> Self:
        """Return the deployment that its events make.

        Args:
            history: all of its events, or those up to a moment, in their order.

        Raises:
            IllegalTransitionError: if the first one is not `Requested`, or the lifecycle does not allow one.
            OriginatorVersionError: if an event is missing or comes twice.
        """
        following = iter(history)
        requested = next(following, None)
        if not isinstance(requested, events.Requested):
            began_with = requested.TOPIC if requested is not None else "nothing"
            raise IllegalTransitionError(f"The history begins with {began_with}.")
        deployment = cls(requested)
        for event in following:
            deployment.apply(event)
        return deployment

    def __str__(self) -> str:
        return f"Deployment {self.name!r} ({self.id})"

    @property
    def revision(self) -> Revision:
        """The newest revision."""
        return self.revisions[len(self.revisions)]

    @property
    def is_batch_job(self) -> bool:
        """Whether its target is a batch inference job."""
        return self.revision.target.is_batch_job

    @property
    def is_serving(self) -> bool:
        """Whether a revision of it serves."""
        return self.serving_revision is not None

    @property
    def next_step(self) -> Step | None:
        """The step of its job that is to be done, or None if there is nothing to do."""
        return step_in(self.state, is_batch_job=self.is_batch_job)

    @property
    def is_in_progress(self) -> bool:
        """Whether the service has work to do on it."""
        return self.next_step is not None

    def images_of(self, artifact: Artifact) -> list[Image]:
        """Return the images that were built from an artifact's files, for any revision, the oldest first."""
        return [
            revision.image
            for revision in self.revisions.values()
            if revision.image is not None
            and revision.artifact is not None
            and revision.artifact.digest == artifact.digest
        ]

    def earlier_image(self, artifact: Artifact, image: Image) -> Image | None:
        """Return the image that was first built from an artifact's files, if one was.

        Only images of the same builder count, which references begin with (``oci:``): another builder
        may make another image of the same files.
        """
        of_builder = (built for built in self.images_of(artifact) if builder(built) == builder(image))
        return next(of_builder, None)

    def image_references(self, artifact: Artifact) -> list[str]:
        """Return the images that were built from an artifact's files, each once, the newest first."""
        return list(dict.fromkeys(image.reference for image in reversed(self.images_of(artifact))))

    def expect_version(self, expected: int | None) -> None:
        """Check that the deployment has not changed since the caller read it.

        Raises:
            StaleVersionError: if the deployment is at another version; None expects nothing.
        """
        if expected is not None and expected != self.version:
            raise StaleVersionError(str(self), expected=expected, found=self.version, actor=self.last_actor)

    # Commands ---------------------------------------------------------------------------------------

    def artifacts_fetched(
        self, revision: int, artifact: Artifact, *, simulated: bool, by: CommandContext
    ) -> None:
        """Record that the model's files are in the artifact store."""
        self._trigger(
            events.ArtifactsFetched, by, of_revision=revision, artifact=artifact, simulated=simulated
        )

    def packaged(self, revision: int, image: Image, *, simulated: bool, by: CommandContext) -> None:
        """Record that the model's image is built."""
        self._trigger(events.Packaged, by, of_revision=revision, image=image, simulated=simulated)

    def provisioned(
        self, revision: int, endpoint_url: str | None, *, simulated: bool, by: CommandContext
    ) -> None:
        """Record that the revision is ready and serves, or that the batch job was started."""
        self._trigger(
            events.Provisioned, by, of_revision=revision, endpoint_url=endpoint_url, simulated=simulated
        )

    def completed(
        self, revision: int, output_uri: str, rows: int, *, simulated: bool, by: CommandContext
    ) -> None:
        """Record that the batch job wrote its output."""
        self._trigger(
            events.Completed, by, of_revision=revision, output_uri=output_uri, rows=rows, simulated=simulated
        )

    def fail(self, revision: int, failure: Failure, *, by: CommandContext) -> None:
        """Record that the job, or the deletion, failed; long messages are truncated."""
        texts = {"message": storable(failure.message), "hint": storable(failure.hint)}
        failure = failure.model_copy(update=texts)
        event = events.DeletionFailed if self.state is State.DELETING else events.Failed
        self._trigger(event, by, of_revision=revision, failure=failure)

    def request_update(self, request: DeploymentRequest, *, by: CommandContext) -> None:
        """Ask for a new revision, which supersedes a job in progress."""
        LIFECYCLE.require(self, Trigger.REQUEST_UPDATE, self)
        if request.deployment_target_config.type != self.revision.target.type:
            raise ConfigurationError(
                f"{self} is of type {self.revision.target.type!r}: an update cannot make it "
                f"{request.deployment_target_config.type!r}.",
                hint="Deploy under another name, or delete it first.",
            )
        self._trigger(
            events.UpdateRequested, by, revision=self.revision.number + 1, **_specification(request)
        )

    def request_rollback(self, to_revision: int, *, by: CommandContext) -> None:
        """Ask for a new revision that repeats an earlier one, from the same bytes."""
        LIFECYCLE.require(self, Trigger.REQUEST_UPDATE, self)
        target = self.revisions.get(to_revision)
        if target is None:
            raise RevisionNotFoundError(self.name, to_revision, newest=self.revision.number)
        if to_revision == self.revision.number:
            raise ConflictError(
                f"Revision {to_revision} is the newest revision of {self}.",
                hint="Use retry to try it again, or name an earlier one.",
            )
        if target.artifact is None:
            raise ConflictError(
                f"Revision {to_revision} of {self} never had its artifacts fetched.",
                hint="Choose a revision that did, or update with its model URI.",
            )
        self._trigger(
            events.UpdateRequested,
            by,
            revision=self.revision.number + 1,
            name=self.name,
            model_uri=target.model_uri,
            target=target.target,
            resources=target.resources,
            tags=target.tags,
            rollback_to=to_revision,
        )

    def retry(self, *, by: CommandContext) -> None:
        """Ask for the same revision to be tried again."""
        self._trigger(events.RetryRequested, by, attempt=self.revision.attempt + 1)

    def cancel(self, *, by: CommandContext) -> None:
        """Cancel the job; an earlier revision that serves keeps serving."""
        self._trigger(events.Cancelled, by)

    def request_deletion(self, *, by: CommandContext) -> None:
        """Request that the deployment is stopped and deleted."""
        self._trigger(events.DeletionRequested, by)

    def deleted(self, *, simulated: bool, by: CommandContext) -> None:
        """Record that nothing of it is running."""
        self._trigger(events.Deleted, by, simulated=simulated)

    # Events -----------------------------------------------------------------------------------------

    def collect_events(self) -> list[DeploymentEvent]:
        """Return the events since the last call, to be stored."""
        pending, self._pending = self._pending, []
        return pending

    def _trigger(
        self,
        event_class: type[DeploymentEvent],
        by: CommandContext,
        *,
        of_revision: int | None = None,
        **fields: Any,
    ) -> None:
        if of_revision is not None and of_revision != self.revision.number:
            raise ConflictError(
                f"{self} is at revision {self.revision.number}: "
                f"a result of revision {of_revision} is refused."
            )
        fields = {"revision": self.revision.number, **fields_without_credentials(fields)}
        event = by.event(event_class, self.id, self.version + 1, **fields)
        _check_bounds(event, self.name)
        self.apply(event)
        self._pending.append(event)

    def apply(self, event: DeploymentEvent) -> None:
        """Apply an event to the state.

        Raises:
            IllegalTransitionError: if the lifecycle does not allow it; nothing was changed.
        """
        event.check_follows(self.id, self.version)
        self.state = LIFECYCLE.require(self, event.trigger_for(self), self)
        self.version = event.originator_version
        self.modified_on = event.timestamp
        self.last_event_id = event.event_id
        self.last_actor = event.actor
        match event:
            case events.UpdateRequested():
                origin = self.revisions.get(event.rollback_to) if event.rollback_to is not None else None
                self.name = event.name
                self.revisions[event.revision] = _revision(event, origin)
                self.failure = None
                self.correlation_id = event.correlation_id
            case events.RetryRequested():
                self.revision.attempt = event.attempt
                self.failure = None
                self.correlation_id = event.correlation_id
            case events.ArtifactsFetched():
                self.revision.artifact = event.artifact
            case events.Packaged():
                self.revision.image = event.image
            case events.Provisioned():
                if not self.is_batch_job:
                    self.serving_revision = event.revision
                    self.endpoint_url = event.endpoint_url
            case events.Failed() | events.DeletionFailed():
                self.failure = event.failure
            case events.DeletionRequested():
                self.failure = None
                self.correlation_id = event.correlation_id
            case events.Deleted():
                self.serving_revision = None
                self.endpoint_url = None
            case _:
                pass


def _check_bounds(event: DeploymentEvent, name: str) -> None:
    """Check that everything an event says is within bounds.

    Raises:
        ConfigurationError: if a request is not.
        DeploymentError: if what a client reported is not.
    """
    try:
        bounds.check(event)
    except ValueError as error:
        if event.TOPIC in topics.COMMANDS:
            raise ConfigurationError(
                f"The request for deployment {name!r} is invalid: {error}.",
                hint="Shorten it, or keep it elsewhere and refer to it.",
            ) from None
        raise DeploymentError(
            name,
            f"A client's report about deployment {name!r} cannot be recorded: {error}.",
            reason=FailureReason.EXTERNAL_SERVICE_FAILED,
            hint="Fix the client, or where it reads this from, then retry.",
        ) from None


def builder(image: Image) -> str:
    """Return what tells the builder of an image from others: how its reference begins, as in ``oci:``."""
    return image.reference.partition(":")[0]


def _may_hold_credentials(request: DeploymentRequest) -> bool:
    """Return whether any text of a request is worth reading closely: one look for most requests."""
    try:
        return may_hold_credentials(request.model_dump_json(exclude_defaults=True, warnings=False))
    except (ValueError, TypeError):  # a value that is not JSON is refused later, with its reason
        return True


def _specification(request: DeploymentRequest) -> dict[str, Any]:
    """Return the fields of an event that say what was asked for.

    Raises:
        ConfigurationError: if a field holds a credential, or what is to be stored is out of bounds.
    """
    is_suspect = _may_hold_credentials(request)
    if is_suspect:
        refuse_credentials(f"Deployment {request.deployment_name!r}", request.__dict__)
    # What is stored is checked, not what was asked for: a blanked password may be longer than it was, and
    # `model_copy` checks nothing.
    fields = {**request.__dict__, "tags": request.tags or {}}
    fields = fields_without_credentials(fields) if is_suspect else fields
    target, resources = fields["deployment_target_config"], request.resource_allocation
    stored = DeploymentRequest(
        **{
            **fields,
            "deployment_target_config": target.__dict__,
            "resource_allocation": resources and resources.__dict__,
        }
    )
    return {
        "name": stored.deployment_name,
        "model_uri": stored.model_uri,
        "target": stored.deployment_target_config,
        "resources": stored.resource_allocation,
        "tags": stored.tags,
    }


def _revision(event: events.Requested | events.UpdateRequested, origin: Revision | None) -> Revision:
    return Revision(
        number=event.revision,
        model_uri=event.model_uri,
        target=event.target,
        resources=event.resources,
        tags=event.tags,
        rollback_to=origin.number if origin else None,
        artifact=origin.artifact if origin else None,
    )
