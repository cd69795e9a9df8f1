"""Hands a deployment's job to a process of its own, which outlives the command."""

import os
import subprocess
import sys
from uuid import UUID


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
