"""Hypothesis strategies for events and what they carry."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from deployledger.domain import events, names
from deployledger.domain.events import Event
from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import BatchOptions, DeploymentTargetConfig, ResourceConfig
from deployledger.domain.values import Artifact, Failure, Image, Step

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
lines = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
counts = st.integers(0, 2**53)
digests = st.binary(min_size=32, max_size=32).map(lambda it: f"sha256:{it.hex()}")
line = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=12)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
artifacts = st.builds(
    Artifact,
    digest=digests,
    size_bytes=counts,
    file_count=counts,
    resolved_uri=text,
    model_version=st.none() | text,
)
images = st.builds(Image, reference=text, digest=digests, size_bytes=counts)
failures = st.builds(
    Failure,
    step=st.sampled_from(Step),
    reason=st.sampled_from(FailureReason),
    message=text,
    hint=text,
)
targets = st.builds(
    DeploymentTargetConfig,
    type=st.sampled_from(["api_service", "batch_inference_job", "edge_device"]),
    serving_image=st.none() | lines,
    replicas=st.integers(1, 1000),
    port=st.none() | st.integers(1, 65535),
    input_uri=st.none() | lines,
    batch=st.none()
    | st.builds(
        BatchOptions,
        workers=st.integers(1, 256),
        column_types=st.none() | st.dictionaries(text, text, max_size=3),
    ),
)
quantities = st.none() | st.sampled_from(["500m", "2", "1.5Gi", "1e3"])
resources = st.builds(ResourceConfig, cpu_request=quantities, memory_request=quantities)

_common: dict[str, st.SearchStrategy[Any]] = {
    "originator_id": st.uuids(),
    "originator_version": st.integers(1, 2**31),
    "timestamp": st.datetimes(min_value=datetime(2000, 1, 1), timezones=st.just(UTC)),
    "event_id": st.uuids(),
    "actor": text,
    "correlation_id": st.uuids(),
    "causation_id": st.none() | st.uuids(),
}
_simulated = {"simulated": st.booleans()}
_specified = {
    "name": text,
    "model_uri": text,
    "target": targets,
    "resources": st.none() | resources,
    "tags": st.dictionaries(text, json_values, max_size=3),
}

FIELDS: dict[type[Event], dict[str, st.SearchStrategy[Any]]] = {
    events.Requested: {**_specified, "orchestrator": text},
    events.ArtifactsFetched: {"artifact": artifacts, **_simulated},
    events.Packaged: {"image": images, **_simulated},
    events.Provisioned: {"endpoint_url": st.none() | text, **_simulated},
    events.Completed: {"output_uri": text, "rows": counts, **_simulated},
    events.Failed: {"failure": failures},
    events.UpdateRequested: {**_specified, "rollback_to": st.none() | counts},
    events.RetryRequested: {"attempt": counts},
    events.Cancelled: {},
    events.DeletionRequested: {},
    events.DeletionFailed: {"failure": failures},
    events.Deleted: {**_simulated},
}
NAME_EVENTS: list[type[Event]] = [names.NameReserved, names.NameReleased]


def of_class(event_class: type[Event]) -> st.SearchStrategy[Event]:
    """Return events of one class, with every field that the class has."""
    if event_class in NAME_EVENTS:
        return st.builds(event_class, **_common, name=text, deployment_id=st.uuids())
    return st.builds(event_class, **_common, revision=st.integers(1, 99), **FIELDS[event_class])
