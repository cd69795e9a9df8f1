"""Hands a deployment's job to a process of its own, which outlives the command."""

import os
import subprocess
import sys
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from deployledger.service.deployment_service import DeploymentService


def resume_in_background(deployment_id: UUID) -> None:
    """Start ``deployledger resume`` detached from this terminal; it ends when the job is done."""
    command = [sys.executable, "-P", "-m", "deployledger.app"]
    subprocess.Popen(
        [*command, "resume", str(deployment_id), "--output", "json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ,
    )


async def stop_leftovers(service: "DeploymentService") -> None:
    """Have servers stopped that no revision needs: the process that was to stop them was killed before."""
    for deployment_id in await service.leftovers():
        resume_in_background(deployment_id)
