"""Given some events, when a command, then an event or a refusal: how the domain's tests read.

Time and ids are counted, so that every test is deterministic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Self
from uuid import UUID

import pytest

from deployledger.domain import events
from deployledger.domain.deployment import Deployment
from deployledger.domain.events import CommandContext, DeploymentEvent
from deployledger.domain.exceptions import MachineLearningServiceError
from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import DeploymentRequest, DeploymentTargetConfig, ResourceConfig
from deployledger.domain.values import Artifact, Failure, Image, Step

NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
DEPLOYMENT_ID = UUID("d0000000-0000-4000-8000-000000000001")

SERVICE = DeploymentTargetConfig(type="api_service", replicas=2)
BATCH_JOB = DeploymentTargetConfig(type="batch_inference_job", input_uri="in.csv", output_uri="out.csv")
ARTIFACT = Artifact(
    digest=f"sha256:{'a' * 64}", size_bytes=7, file_count=1, resolved_uri="models:/iris/1", model_version="1"
)
OTHER_ARTIFACT = Artifact(
    digest=f"sha256:{'b' * 64}", size_bytes=8, file_count=2, resolved_uri="models:/iris/2", model_version="2"
)
IMAGE = Image(reference="images/iris@sha256:" + "c" * 64, digest=f"sha256:{'c' * 64}", size_bytes=9)
OTHER_IMAGE = Image(reference="images/iris@sha256:" + "d" * 64, digest=f"sha256:{'d' * 64}", size_bytes=9)
FAILURE = Failure(
    step=Step.PROVISION, reason=FailureReason.SERVER_EXITED, message="It exited.", hint="Read its log."
)

_numbers = count(1)


def new_id() -> UUID:
    """Return an id that no other test has."""
    return UUID(int=next(_numbers))


def context(actor: str = "ann", at: datetime = NOON) -> CommandContext:
    """Return who commands, and when."""
    return CommandContext(actor=actor, at=at, correlation_id=new_id(), causation_id=new_id(), new_id=new_id)


def request(**changes: Any) -> DeploymentRequest:
    """Return a legal request, changed as told."""
    fields: dict[str, Any] = {
        "model_uri": "models:/iris/1",
        "deployment_name": "iris",
        "deployment_target_config": SERVICE,
        "resource_allocation": ResourceConfig(cpu_request="500m"),
        "tags": {"team": "flora"},
    }
    return DeploymentRequest(**{**fields, **changes})


Happening = Callable[[UUID, int], DeploymentEvent]
"""An event that waits for the stream and the version to happen at."""


def happened(event_class: type[DeploymentEvent], **fields: Any) -> Happening:
    """Return an event of a deployment, without its place in the history."""

    def at(stream: UUID, version: int) -> DeploymentEvent:
        return event_class(
            originator_id=stream,
            originator_version=version,
            event_id=new_id(),
            correlation_id=new_id(),
            **{"timestamp": NOON + timedelta(seconds=version), "revision": 1, "actor": "ann", **fields},
        )

    return at


def _specified() -> dict[str, Any]:
    return {
        "name": "iris",
        "model_uri": "models:/iris/1",
        "target": SERVICE,
        "resources": ResourceConfig(cpu_request="500m"),
        "tags": {"team": "flora"},
    }


def requested(**fields: Any) -> Happening:
    """Return the beginning of a history."""
    return happened(events.Requested, **{**_specified(), "orchestrator": "local", **fields})


def fetched(revision: int = 1, artifact: Artifact = ARTIFACT, simulated: bool = False) -> Happening:
    """Return that the artifacts of a revision were fetched."""
    return happened(events.ArtifactsFetched, revision=revision, artifact=artifact, simulated=simulated)


def packaged(revision: int = 1, image: Image = IMAGE, simulated: bool = False) -> Happening:
    """Return that a revision was packaged."""
    return happened(events.Packaged, revision=revision, image=image, simulated=simulated)


def provisioned(
    revision: int = 1, endpoint_url: str | None = "http://one", simulated: bool = False
) -> Happening:
    """Return that a revision was provisioned."""
    return happened(events.Provisioned, revision=revision, endpoint_url=endpoint_url, simulated=simulated)


def failed(revision: int = 1, failure: Failure = FAILURE) -> Happening:
    """Return that the job of a revision failed."""
    return happened(events.Failed, revision=revision, failure=failure)


def update_requested(revision: int = 2, **fields: Any) -> Happening:
    """Return that a new revision was asked for."""
    return happened(
        events.UpdateRequested,
        **{**_specified(), "model_uri": "models:/iris/2", "revision": revision, **fields},
    )


def cancelled(revision: int = 1) -> Happening:
    """Return that the job of a revision was called off."""
    return happened(events.Cancelled, revision=revision)


def deletion_requested(revision: int = 1) -> Happening:
    """Return that the deployment is to be deleted."""
    return happened(events.DeletionRequested, revision=revision)


SERVING = (requested(), fetched(), packaged(), provisioned())
"""The history of a deployment whose first revision serves."""

RUNNING_JOB = (
    requested(target=BATCH_JOB),
    fetched(),
    packaged(),
    provisioned(endpoint_url=None),
)
"""The history of a batch inference job that was started."""


def history(*happenings: Happening, stream: UUID = DEPLOYMENT_ID) -> list[DeploymentEvent]:
    """Return the events in their places."""
    return [happening(stream, version) for version, happening in enumerate(happenings, start=1)]


def replay(past: list[DeploymentEvent]) -> Deployment:
    """Return the deployment that a history makes."""
    return Deployment.replay(past)


Command = Callable[[Deployment, CommandContext], None]


@dataclass
class Scenario:
    """A deployment with a past, and perhaps a command that waits to be given."""

    deployment: Deployment
    command: Command | None = None

    def when(self, command: Command) -> Self:
        """Name the command."""
        self.command = command
        return self

    def then(self, event_class: type[DeploymentEvent], **fields: Any) -> Deployment:
        """Give the command and check the one event that it causes; return the deployment after it."""
        assert self.command is not None
        version, by = self.deployment.version, context("bob", NOON + timedelta(hours=1))
        self.command(self.deployment, by)
        (event,) = self.deployment.collect_events()
        assert type(event) is event_class
        assert {name: getattr(event, name) for name in fields} == fields
        assert (event.originator_id, event.originator_version) == (self.deployment.id, version + 1)
        assert (event.actor, event.timestamp) == ("bob", by.at)
        assert (event.correlation_id, event.causation_id) == (by.correlation_id, by.causation_id)
        assert self.deployment.version == version + 1
        assert self.deployment.modified_on == by.at
        return self.deployment

    def then_refused(self, error_class: type[MachineLearningServiceError], says: str) -> None:
        """Give the command and check that it is refused, and that nothing changed."""
        assert self.command is not None
        before = _snapshot(self.deployment)
        with pytest.raises(error_class) as refusal:
            self.command(self.deployment, context())
        assert says in str(refusal.value)
        assert _snapshot(self.deployment) == before
        assert self.deployment.collect_events() == []


def given(*happenings: Happening) -> Scenario:
    """Return a scenario that begins after these events."""
    return Scenario(replay(history(*happenings)))


def _snapshot(deployment: Deployment) -> str:
    return repr(vars(deployment))
