"""What to do where a name is in use: who holds it, how that one is, and with which command to go on."""

import shlex
from typing import TYPE_CHECKING

from deployledger.adapters.cli import units

if TYPE_CHECKING:
    from deployledger.domain.exceptions import NameInUseError
    from deployledger.domain.responses import DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService


async def explain(error: "NameInUseError", service: "DeploymentService", model_uri: str | None) -> None:
    """Put into an error how the holder of the name is, and the commands that help.

    Args:
        model_uri: what was to be deployed under the name; None if a deployment was to be renamed.
    """
    from deployledger.domain.exceptions import MachineLearningServiceError
    from deployledger.domain.redaction import shown

    try:
        holder = await service.get_deployment_status(error.holder)
    except MachineLearningServiceError:  # what is known already stays
        return
    name = holder.deployment_name
    error.message = f"The name {shown(name)} is in use by a deployment {_how(holder)}."
    delete = f"`deployledger delete {name}` frees the name"
    if holder.state == "deleting":
        error.hint = f"Try again when it is deleted; `deployledger status {name} --watch` shows when."
    elif holder.state == "delete_failed":
        error.hint = f"{delete}."
    elif model_uri is None:
        error.hint = f"Choose another name, or delete that deployment: {delete}."
    else:
        update = f"deployledger update {name} --model-uri {shlex.quote(model_uri)}"
        error.hint = f"Run `{update}` to deploy the model there, or choose another name; {delete}."


def _how(holder: "DeploymentStatusResponse") -> str:
    """Return how a deployment is, as the end of a sentence about it."""
    failure, failed_at = holder.failure, holder.failed_at
    if failure is not None:
        ago = f" {units.age(failed_at)} ago" if failed_at else ""
        serving = holder.serving_revision
        of_what = f"whose update failed{ago}" if serving else f"that failed{ago}"
        if holder.state == "delete_failed":
            of_what = f"whose deletion failed{ago}"
        return f"{of_what} ({failure.reason.replace('_', ' ')})"
    word = holder.state.replace("_", " ") if holder.status == "inactive" else holder.status
    return f"that is {word}"
