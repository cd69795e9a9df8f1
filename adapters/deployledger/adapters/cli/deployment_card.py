"""Everything about one deployment, for ``-o wide``."""

import json
from typing import TYPE_CHECKING, Any

from rich.text import Text

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.layout import Labelled
from deployledger.adapters.cli.terminal import shown, shown_lines
from deployledger.domain.timestamps import rfc3339

if TYPE_CHECKING:
    from datetime import datetime

    from deployledger.domain.ports import Observation
    from deployledger.domain.responses import DeploymentStatusResponse


def deployment_card(
    deployment: "DeploymentStatusResponse",
    observation: "Observation | None" = None,
    *,
    as_of: str | None = None,
    recorded: "tuple[datetime, datetime] | None" = None,
) -> Labelled:
    """Return everything about one deployment, a line each; what is not known is left out.

    Args:
        as_of: the moment of the past, in words, if it is not how things are now.
        recorded: when the log recorded its first and its last event, by which moments of the past count.
    """
    created, updated = recorded or (deployment.created_at, deployment.updated_at)
    target = deployment.deployment_target_config
    resources = deployment.resource_allocation
    failure = deployment.failure
    serves_another = deployment.serving_revision not in (None, deployment.revision)
    lines: list[tuple[str, Any]] = [
        ("Name", deployment.deployment_name),
        ("Id", deployment.deployment_id),
        ("As of", as_of),
        ("Status", shown(deployment.status, marks.of_status(deployment).style)),
        ("Warning", shown_lines(deployment.warning, "red") if deployment.warning else None),
        ("Failed", failure and f"in {failure.step}: {failure.reason}"),
        ("Failed at", deployment.failed_at and rfc3339(deployment.failed_at)),
        ("Message", shown_lines(deployment.message) if deployment.message else None),
        ("Running", _running(observation)),
        ("Endpoint", deployment.endpoint_url),
        ("Revision", _revision(deployment)),
        ("Requested by", deployment.requested_by),
        ("Model", deployment.model_uri),
        ("Version", deployment.version),
        ("Deployed model", None if serves_another else deployment.deployed_model_version),
        ("Artifact", deployment.artifact_digest),
        ("Image", deployment.image_digest),
        ("Serving requested by", deployment.serving_requested_by if serves_another else None),
        ("Serving model", deployment.deployed_model_version if serves_another else None),
        ("Serving artifact", deployment.serving_artifact_digest if serves_another else None),
        ("Serving image", deployment.serving_image_digest if serves_another else None),
        ("Target", f"{target.type}, {units.number(target.replicas, 'replica')}"),
        ("Port", target.port),
        ("Container image", target.serving_image),
        ("Input", target.input_uri),
        ("Output", target.output_uri),
        ("CPU", resources and resources.cpu_request),
        ("Memory", resources and resources.memory_request),
        ("GPU", resources and resources.gpu_request),
        (
            "Tags",
            ", ".join(f"{_tag(key, is_key=True)}={_tag(value)}" for key, value in deployment.tags.items()),
        ),
        ("Created", rfc3339(created)),
        ("Updated", rfc3339(updated)),
        ("Simulated", "yes" if deployment.simulated else None),
    ]
    return Labelled(
        [
            (label, value if isinstance(value, Text) else shown(value))
            for label, value in lines
            if value is not None and value != ""
        ]
    )


def _tag(value: Any, *, is_key: bool = False) -> str:
    """Return a tag's key or value; as JSON if it is not text, or reads like several tags."""
    signs = ',="' if is_key else ',"'
    if isinstance(value, str) and value and value == value.strip() and not set(signs).intersection(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _running(observation: "Observation | None") -> str | None:
    if observation is None:
        return None
    return (
        f"{'yes' if observation.running else 'NO'}{f' ({observation.detail})' if observation.detail else ''}"
    )


def _revision(deployment: "DeploymentStatusResponse") -> str:
    serving = deployment.serving_revision
    if serving is not None and serving != deployment.revision:
        return f"{deployment.revision} (revision {serving} serves)"
    return str(deployment.revision)
