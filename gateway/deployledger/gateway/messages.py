"""What the orchestrator and the gateway say to each other: one JSON object a line, over loopback TCP.

A request carries the token of ``gateway.json``, a ``command`` and its arguments. Each line of the answer is
either ``{"progress": {...}}`` or the last one: ``{"result": {...}}`` or ``{"error": {...}}``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

PORT = "{port}"
"""Stands for the replica's private port in a command."""

PARENT_FD = "{parent_fd}"
"""Stands for the descriptor that closes when the gateway ends."""


@dataclass(frozen=True)
class RevisionSpec:
    """How one revision is to be served.

    Attributes:
        number: the revision.
        command: the command line of a replica, with `PORT` and `PARENT_FD` where those belong.
        replicas: how many processes serve.
        ready_path: what a replica answers with 200 when it is ready.
        ready_timeout: how long a replica may take until then, in seconds.
        port: the public port.
        port_is_fixed: whether another port will not do.
        folder: the revision's folder: the replicas' current folder.
        log: where the replicas' output goes.
    """

    number: int
    command: list[str]
    replicas: int
    ready_path: str
    ready_timeout: float
    port: int
    port_is_fixed: bool
    folder: str
    log: str

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads, in this version and the ones before."""
        # Gateways of earlier versions require this key: whether a server is to be notified that it drains.
        return {**asdict(self), "drains": False}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the specification that this version or another one wrote; unknown keys are ignored."""
        return cls(**{each.name: values[each.name] for each in fields(cls) if each.name in values})


class GatewayError(Exception):
    """A command that the gateway could not carry out.

    Attributes:
        reason: the value of the domain's FailureReason that fits.
        message: what happened.
        exit_status: a replica's exit status, where one exited (negative: the signal that ended it).
        log: the last lines that the revision's replicas logged.
    """

    def __init__(
        self, reason: str, message: str, *, exit_status: int | None = None, log: list[str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.exit_status = exit_status
        self.log = log or []

    def to_json(self) -> dict[str, Any]:
        """Return what `GatewayError` is made from again with keyword arguments."""
        return {
            "reason": self.reason,
            "message": self.message,
            "exit_status": self.exit_status,
            "log": self.log,
        }
