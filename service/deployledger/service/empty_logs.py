"""Why a deployment has no log lines, which an empty answer alone does not show."""

from dataclasses import dataclass

from deployledger.domain.lifecycle import State
from deployledger.domain.ports import Observation
from deployledger.domain.responses import DeploymentStatusResponse


@dataclass(frozen=True)
class EmptyLogs:
    """Why logs have no lines.

    Attributes:
        message: why there are none.
        hint: what to do, or where else to look.
    """

    message: str
    hint: str


_BEFORE = {
    State.REQUESTED: "its model is being fetched",
    State.ARTIFACTS_FETCHED: "its image is being packaged",
    State.PACKAGED: "its server is being started",
}


def explain_empty_logs(deployment: DeploymentStatusResponse, observed: Observation) -> EmptyLogs:
    """Return why a deployment has no log lines, from its status and what its orchestrator sees of it."""
    name = deployment.deployment_name
    state = State(deployment.state)
    is_job = deployment.deployment_target_config.is_batch_job
    look = f"`deployledger status {name}` shows more."
    if state is State.DELETED:
        return EmptyLogs(
            f"Deployment {name!r} was deleted, and its logs with it.",
            f"Its history is kept: `deployledger history {deployment.deployment_id}` shows it.",
        )
    if state is State.DELETING:
        return EmptyLogs(f"Deployment {name!r} is being deleted, and its logs with it.", look)
    if state in _BEFORE and deployment.serving_revision is None:
        return EmptyLogs(
            f"Deployment {name!r} has not started yet: {_BEFORE[state]}.",
            f"`deployledger status {name} --watch` shows when it has.",
        )
    if state is State.COMPLETED:
        return EmptyLogs(
            f"The batch job {name!r} is complete, and its logs were removed when it ended.",
            f"Its predictions are in {deployment.deployment_target_config.output_uri}.",
        )
    if state in (State.FAILED, State.CANCELLED) and deployment.serving_revision is None:
        what = "failed" if state is State.FAILED else "was cancelled"
        return EmptyLogs(
            f"Deployment {name!r} {what}, and nothing is running.",
            f"`deployledger status {name}` shows why; `deployledger retry {name}` tries it again.",
        )
    if not observed.running:
        detail = observed.detail.rstrip(".")
        return EmptyLogs(
            f"Deployment {name!r} is not running, and has left no logs{f': {detail}' if detail else ''}.",
            f"`deployledger resume {name}` starts it again.",
        )
    what = "job" if is_job else "server"
    return EmptyLogs(f"The {what} of deployment {name!r} has logged nothing yet.", look)
