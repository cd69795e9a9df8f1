"""The files by which a gateway is found; the orchestrator and the gateway both use them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GatewayFiles:
    """The gateway's files in a deployment's folder."""

    folder: Path

    @property
    def lock(self) -> Path:
        """Held by the gateway for its life."""
        return self.folder / "gateway.lock"

    @property
    def state(self) -> Path:
        """Its pid, the port of its control socket and the token that opens it."""
        return self.folder / "gateway.json"

    @property
    def log(self) -> Path:
        """What the gateway itself had to say."""
        return self.folder / "gateway.log"
