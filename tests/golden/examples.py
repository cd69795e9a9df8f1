"""One example of every event as it is now; `make` stores it when the event has a new version."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from deployledger.domain import clock_corrections, events, names
from deployledger.domain.events import Event
from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import BatchOptions, DeploymentTargetConfig, ResourceConfig
from deployledger.domain.values import Artifact, Failure, Image, Step

STREAM = UUID("5d1f0c1e-6a42-4f7e-9a0b-3c1d2e4f5a6b")
VERSION = 3

_COMMON: dict[str, Any] = {
    "timestamp": datetime(2026, 3, 3, 9, 30, 15, 123456, tzinfo=UTC),
    "event_id": UUID("0b5c7d1e-1111-4a4a-8b8b-000000000001"),
    "actor": "alice@example.org",
    "correlation_id": UUID("0b5c7d1e-2222-4a4a-8b8b-000000000002"),
    "causation_id": UUID("0b5c7d1e-3333-4a4a-8b8b-000000000003"),
}
_SPECIFIED: dict[str, Any] = {
    "name": "iris.v1_Prod-1",
    "model_uri": "models:/iris@champion",
    "target": DeploymentTargetConfig(
        type="batch_inference_job",
        serving_image="registry.example.org/serving:1",
        replicas=3,
        port=8080,
        instance_type="ml.m5.large",
        input_uri="/data/in.csv",
        output_uri="/data/out.csv",
        batch=BatchOptions(
            workers=4,
            on_error="skip",
            errors_uri="/data/rejected.csv",
            column_types={"zip": "string"},
            null_values=["", "?"],
            misfit="null",
        ),
    ),
    "resources": ResourceConfig(cpu_request="500m", memory_request="1.5Gi", gpu_request="1"),
    "tags": {"team": "flowers", "owner": {"name": "Zoë", "on call": [1, 2.5, True, None]}},
}
_FAILURE = Failure(
    step=Step.PROVISION,
    reason=FailureReason.SERVER_EXITED,
    message="The server of 'iris' ended with exit code 1.",
    hint="Read its log.",
)
_NAME: dict[str, Any] = {
    "name": "iris.v1_Prod-1",
    "deployment_id": UUID("0b5c7d1e-4444-4a4a-8b8b-000000000004"),
}

EXAMPLES: dict[type[Event], dict[str, Any]] = {
    events.Requested: {"revision": 1, **_SPECIFIED, "orchestrator": "local:3f2a"},
    events.ArtifactsFetched: {
        "revision": 2,
        "artifact": Artifact(
            digest=f"sha256:{'a' * 64}",
            size_bytes=2_748,
            file_count=3,
            resolved_uri="models:/iris/7",
            model_version="7",
        ),
        "simulated": True,
    },
    events.Packaged: {
        "revision": 2,
        "image": Image(
            reference=f"/images@sha256:{'b' * 64}", digest=f"sha256:{'b' * 64}", size_bytes=5_000_000_000
        ),
        "simulated": True,
    },
    events.Provisioned: {"revision": 2, "endpoint_url": "http://127.0.0.1:8080", "simulated": True},
    events.Completed: {"revision": 2, "output_uri": "/data/out.csv", "rows": 150, "simulated": True},
    events.Failed: {"revision": 2, "failure": _FAILURE},
    events.UpdateRequested: {"revision": 3, **_SPECIFIED, "rollback_to": 1},
    events.RetryRequested: {"revision": 2, "attempt": 2},
    events.Cancelled: {"revision": 2},
    events.DeletionRequested: {"revision": 2},
    events.DeletionFailed: {"revision": 2, "failure": _FAILURE.model_copy(update={"step": Step.DELETE})},
    events.Deleted: {"revision": 2, "simulated": True},
    names.NameReserved: _NAME,
    names.NameReleased: _NAME,
    clock_corrections.ClockCorrected: {
        "first_position": 1_234,
        "recorded_until": datetime(2027, 4, 7, 9, 30, tzinfo=UTC),
        "not_before": datetime(2026, 3, 3, 9, 29, 59, 5, tzinfo=UTC),
    },
}


def example(event_class: type[Event]) -> Event:
    """Return the example of an event."""
    return event_class(originator_id=STREAM, originator_version=VERSION, **_COMMON, **EXAMPLES[event_class])
