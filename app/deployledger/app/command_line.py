"""The command ``deployledger``: the command line's adapter, given the composed service."""

import gc
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployledger.service.deployment_service import DeploymentService


def main() -> None:
    """Run the command line."""
    gc.disable()  # importing is most of a short command, and makes no garbage
    from deployledger.adapters.environment import forget_empty_variables
    from deployledger.adapters.garbage import collect_rarely

    forget_empty_variables()
    collect_rarely()
    try:
        from deployledger.adapters.cli import run
    except ModuleNotFoundError as error:  # installed without what it depends on, to verify evidence
        if (error.name or "").startswith("deployledger"):
            raise
        sys.exit(
            f"Error: the package {error.name!r} is missing from this installation of deployledger.\n"
            "Install deployledger with its dependencies, without --no-deps; `deployledger-verify-evidence` "
            "needs none of them."
        )
    run(_open_service)


def _open_service() -> "DeploymentService":
    from deployledger.app.composed_service import MLModelDeploymentService

    gc.freeze()
    gc.enable()
    return MLModelDeploymentService.local(resume=False)
