"""The command ``deployledger``: the command line's adapter, given the composed service.

A package beside the service's own, so that ``--help`` does not import the service.
"""

from typing import TYPE_CHECKING

from deployledger.adapters.cli import run

if TYPE_CHECKING:
    from deployledger.service.deployment_service import DeploymentService


def main() -> None:
    """Run the command line."""
    run(_open_service)


def _open_service() -> "DeploymentService":
    from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService

    return MLModelDeploymentService.local(resume=False)
