"""The files by which a gateway is found, and those that it writes; the orchestrator uses both."""

from pathlib import Path

PROGRAMS = 2
"""Which commands gateways start replicas with; raised when the modules of earlier commands are gone.

A gateway writes its own number down. Without one it is of a version before 2, and can start no replica again.
"""


class GatewayFiles:
    """The gateway's files in a deployment's folder.

    Attributes:
        folder: the deployment's folder.
        lock: held by the gateway for its life.
        state: its pid, the port of its control socket, the token that opens it, and its `PROGRAMS`.
        log: what the gateway itself logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = folder / "gateway.lock"
        self.state = folder / "gateway.json"
        self.log = folder / "gateway.log"


def earlier(log: Path) -> Path:
    """Return what a log is renamed to when it is rotated."""
    return log.with_name(f"{log.name}.1")
