"""The destination of requests: the load of a server process, and the connections to it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from deployledger.gateway.upstream import Upstream

LOSSES_PER_SERVER = 2
"""How often one server process may lose a request: the first time it may just have closed that connection."""

REQUEST_WORK = 64 * 1024
"""How many bytes of a body weigh as much as a request by itself."""

_KEPT_SECONDS = 4.0
"""For how long a connection is kept idle: less than servers do (uvicorn by default 5 s)."""

_turns = count(1)


@dataclass(eq=False)
class Backend:
    """One replica, whichever process it is at the moment.

    Attributes:
        port: where it listens, on 127.0.0.1.
        process: identifies its current server process among those before it and those of other replicas.
        work: the requests on their way, each as `REQUEST_WORK`, and the bytes of their bodies.
        last_turn: orders backends by when they got their last request.
    """

    port: int
    process: object = None
    work: int = 0
    last_turn: int = 0
    _idle: list[Upstream] = field(default_factory=list)

    def begin(self, work: int) -> None:
        """Count a request that is sent there."""
        self.work += work
        self.last_turn = next(_turns)

    def kept_connection(self) -> Upstream | None:
        """Take the idle connection that was used last."""
        while self._idle:
            upstream = self._idle.pop()
            if upstream.is_open:
                return upstream
        return None

    def keep(self, upstream: Upstream) -> None:
        """Keep a connection for the next request."""
        self._idle.append(upstream)

    def close_idle(self, now: float) -> None:
        """Close connections that have been idle so long that the server may be about to close them."""
        used_before = now - _KEPT_SECONDS
        old = [upstream for upstream in self._idle if upstream.last_used < used_before]
        self._idle = [upstream for upstream in self._idle if upstream.last_used >= used_before]
        for upstream in old:
            upstream.close()


def least_loaded(backends: Iterable[Backend], losses: Mapping[object, int]) -> Backend | None:
    """Return the backend for a request: the one with the least work; those with equal work in turn.

    Args:
        backends: those that are ready.
        losses: how often each server process has lost the request; one that did `LOSSES_PER_SERVER` times is
            out of the question, and those that did less often come first.
    """
    possible = [each for each in backends if losses.get(each.process, 0) < LOSSES_PER_SERVER]
    return min(
        possible, key=lambda each: (losses.get(each.process, 0), each.work, each.last_turn), default=None
    )


class Backends(Protocol):
    """The destinations of requests; ``losses`` are those of `least_loaded`."""

    @property
    def count(self) -> int:
        """How many backends there are, ready or not."""
        ...

    def pick_now(self, losses: Mapping[object, int]) -> Backend | None:
        """Return the ready backend for a request, if there is one."""
        ...

    async def pick(self, losses: Mapping[object, int]) -> Backend | None:
        """Wait for a ready backend; return None if none becomes ready in time."""
        ...
