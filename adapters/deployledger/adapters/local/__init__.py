"""Serves models on this machine: a process for every replica, and one gateway process a deployment.

How the parts talk::

    client ──TCP──▶ gateway (one a deployment, owns the public port)
                      ├─TCP─▶ replica 0 of the current revision      (own private port on 127.0.0.1)
                      ├─TCP─▶ replica 1 of the current revision
                      └─ ─ ─▶ replicas of an older revision, until it is pruned

    LocalProcessOrchestrator ──JSON lines over loopback, with a token──▶ gateway

The orchestrator keeps nothing in memory. Everything it knows is under ``root/<deployment id>/``, so that any
process with the same root can provision, prune, observe and read logs:

* ``operate.lock``: held while a process changes the deployment.
* ``gateway.lock``: held by the gateway for its life. A free lock means that it is dead, whatever
  ``gateway.json`` (its pid, the port of its control socket, and the token) says.
* ``port.json``: the public port, so that a new gateway takes the old one's.
* ``revisions/<n>/``: the extracted ``model/``, the ``server.log``; for a batch job ``job.lock`` (held by the
  job for its life), ``status.json`` and ``job.log``.

A gateway outlives the command that started it, and ends when its deployment is pruned or its folder is gone.
A replica holds the read end of a pipe that only its gateway can write to, and exits when that pipe closes: a
gateway that is killed leaves nothing behind.

What is not enforced here: memory and GPU requests. ``cpu_request`` sets the threads of ONNX Runtime.
"""

from typing import TYPE_CHECKING

from deployledger.adapters.local.target_types import LocalTargetType

if TYPE_CHECKING:
    from deployledger.adapters.local.orchestrator import LocalProcessOrchestrator

__all__ = ["LocalProcessOrchestrator", "LocalTargetType"]


def __getattr__(name: str) -> object:
    # Lazily: the command line needs the types alone, and starts without what serves models.
    if name == "LocalProcessOrchestrator":
        from deployledger.adapters.local.orchestrator import LocalProcessOrchestrator

        return LocalProcessOrchestrator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
