"""The gateway's commands, and which replica a request goes to."""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from deployledger.gateway.backend import Backend, least_loaded
from deployledger.gateway.forwarding import Frontend
from deployledger.gateway.limits import Limits
from deployledger.gateway.messages import GatewayError, RevisionSpec
from deployledger.gateway.ports import Listeners
from deployledger.gateway.revision import Revision, RevisionState

_PICK_SECONDS = 10.0
_POLL_SECONDS = 0.02
_CHECK_SECONDS = 1.0


class Gateway:
    """Holds the public ports and the revisions of one deployment.

    Attributes:
        closed: set when the gateway has nothing left to do and is to end.
    """

    def __init__(self, host: str) -> None:
        self.closed = asyncio.Event()
        self._frontend = Frontend(self)
        self._listeners = Listeners(host, self._frontend.accept)
        self._revisions: dict[int, Revision] = {}
        self._current: Revision | None = None
        # Nobody ever writes to it: the kernel closes the write end when this process ends, in whatever way.
        self._parent_pipe, self._write_end = os.pipe()
        self._check()

    def begin(self, spec: RevisionSpec, limits: Limits) -> dict[str, Any]:
        """Start a revision's replicas; if they run or are being started, only hurry those that died.

        Args:
            spec: how the revision is to be served.
            limits: what its endpoint accepts, from now on if it serves already.

        Raises:
            GatewayError: the public port is unavailable; nothing was started.
        """
        revision = self._revisions.get(spec.number)
        if revision is None or revision.state is RevisionState.FAILED:
            port = self._listeners.claim(spec.port, fixed=spec.port_is_fixed)
            revision = Revision(spec, port, self._parent_pipe)
            self._revisions[spec.number] = revision
        revision.limits = limits
        if revision is self._current:
            self._frontend.limits = limits
        for replica in revision.replicas:
            replica.hurry()
        return {"port": revision.port}

    async def ready(self, number: int, progress: Callable[[int], None]) -> dict[str, Any]:
        """Wait until a revision is ready.

        Raises:
            GatewayError: it is not going to be.
        """
        revision = self._find(number)
        await revision.wait_until_ready(progress)
        return {"port": revision.port}

    async def switch(self, number: int) -> dict[str, Any]:
        """Send requests to a revision that is ready, and open its port.

        Raises:
            GatewayError: it is not ready, or its port was taken by another program meanwhile.
        """
        revision = self._find(number)
        if revision.state is not RevisionState.READY:
            raise GatewayError("server_not_ready", f"Revision {number} is {revision.state}, not ready.")
        await self._listeners.open(revision.port)
        if self._revisions.get(number) is not revision:  # it was stopped while the port was being opened
            self._keep_ports()
            raise GatewayError("server_exited", f"Revision {number} was stopped.")
        self._current = revision
        self._frontend.limits = revision.limits
        return {"port": revision.port}

    async def stop(self, keep: int) -> dict[str, Any]:
        """Send traffic to the revision ``keep``, and stop all others."""
        kept = self._revisions.get(keep)
        if kept is not None and kept.state is RevisionState.READY:
            await self.switch(keep)
        elif self._current is not None and self._current.number != keep:
            self._current = None
        doomed = [self._revisions.pop(number) for number in list(self._revisions) if number != keep]
        self._keep_ports()
        await self._stop_all(doomed)
        return {}

    async def shut_down(self, *, only_if_idle: bool) -> dict[str, Any]:
        """Stop everything and end; with ``only_if_idle``, only if no revision runs or starts."""
        running = [each for each in self._revisions.values() if each.state is not RevisionState.FAILED]
        if only_if_idle and running:
            return {"ended": False}
        self._current = None
        doomed, self._revisions = list(self._revisions.values()), {}
        self._keep_ports()
        await self._stop_all(doomed)
        self.closed.set()
        return {"ended": True}

    def describe(self) -> dict[str, Any]:
        """Return what runs now."""
        return {
            "current": None if self._current is None else self._current.number,
            "revisions": {
                str(revision.number): {
                    "state": revision.state.value,
                    "ready": len(revision.ready_replicas),
                    "replicas": len(revision.replicas),
                    "restarts": sum(replica.restarts for replica in revision.replicas),
                    "damaged": any(replica.damaged for replica in revision.replicas),
                    "port": revision.port,
                }
                for revision in self._revisions.values()
            },
        }

    @property
    def count(self) -> int:
        """How many replicas the current revision has, ready or not."""
        return 0 if self._current is None else len(self._current.replicas)

    def pick_now(self, losses: Mapping[object, int]) -> Backend | None:
        """Return the replica of the current revision for a request, as `least_loaded` does."""
        if self._current is None:
            return None
        return least_loaded([each.backend for each in self._current.replicas if each.ready], losses)

    async def pick(self, losses: Mapping[object, int]) -> Backend | None:
        """Return a ready replica as `pick_now` does; wait a while for the first one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PICK_SECONDS
        while (picked := self.pick_now(losses)) is None:
            if self._current is None or loop.time() > deadline:
                return None
            await asyncio.sleep(_POLL_SECONDS)
        return picked

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._frontend.check(loop.time())
        for revision in self._revisions.values():
            for replica in revision.replicas:
                replica.backend.close_idle(loop.time())
        loop.call_later(_CHECK_SECONDS, self._check)

    def _keep_ports(self) -> None:
        self._listeners.keep({revision.port for revision in self._revisions.values()})

    async def _stop_all(self, revisions: list[Revision]) -> None:
        await asyncio.gather(*(revision.stop() for revision in revisions))

    def _find(self, number: int) -> Revision:
        if number not in self._revisions:
            raise GatewayError("server_exited", f"Revision {number} was stopped.")
        return self._revisions[number]
