"""A request as it is forwarded, buffered so that it can be repeated on another server."""

from collections import Counter
from dataclasses import dataclass

from deployledger.gateway.backend import REQUEST_WORK, Backend
from deployledger.gateway.headers import chunk

LARGEST_REPEATED_REQUEST = 4 * 1024 * 1024
"""The largest request, in bytes, that is buffered to be repeated on another server."""

REPEATED_REQUESTS_MEMORY = 64 * 1024 * 1024
"""The most bytes that a gateway buffers for all requests in flight."""


@dataclass
class RequestMemory:
    """The memory for requests in flight, over all connections of a gateway.

    Attributes:
        left: how many bytes are free.
    """

    left: int = REPEATED_REQUESTS_MEMORY


class Request:
    """One request, from the end of its head to the end of its response.

    Attributes:
        method: its method.
        is_http_1_0: whether the client speaks HTTP/1.0, and so no chunks.
        keeps_alive: whether the client may send another request on its connection.
        asks_for_tunnel: whether another protocol may follow (Upgrade, CONNECT).
        is_chunked: whether the length of the body is unknown beforehand.
        is_complete: whether all of it has been received.
        is_too_large: whether it is no longer buffered, and cannot be repeated.
        body_bytes: how much of the body has been received.
        losses: how often each server process has lost it.
        backend: the backend that it is sent to.
    """

    def __init__(self, method: bytes, memory: RequestMemory) -> None:
        self.method = method
        self.is_http_1_0 = False
        self.keeps_alive = True
        self.asks_for_tunnel = False
        self.is_chunked = False
        self.is_complete = False
        self.is_too_large = False
        self.body_bytes = 0
        self.losses: Counter[object] = Counter()
        self.backend: Backend | None = None
        self._unsent: list[bytes] = []
        self._work = REQUEST_WORK
        self._memory = memory
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    def expect(self, length: int) -> None:
        """Record the announced length of the body."""
        self._weigh(length)
        if length > LARGEST_REPEATED_REQUEST:
            self._forget()

    def add(self, data: bytes) -> None:
        """Add what is to be sent to the server next."""
        self._unsent.append(data)
        if self.is_too_large:
            return
        if self._kept_bytes + len(data) > LARGEST_REPEATED_REQUEST or len(data) > self._memory.left:
            self._forget()
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        self._memory.left -= len(data)

    def add_to_body(self, data: bytes) -> None:
        """Add a part of the body."""
        self.body_bytes += len(data)
        if self.is_chunked:
            self._weigh(len(data))
            data = chunk(data)
        self.add(data)

    def complete(self) -> None:
        """Record the end of the body."""
        self.is_complete = True
        if self.is_chunked:
            self.add(chunk(b""))

    def take_unsent(self) -> list[bytes]:
        """Return what has not been sent to the server; it counts as sent afterwards."""
        data, self._unsent = self._unsent, []
        return data

    def lose(self) -> None:
        """Record that the server lost it; all that was received is sent again."""
        if self.backend is not None:
            self.losses[self.backend.process] += 1
        self.assign(None)
        self._unsent = list(self._kept)

    def assign(self, backend: Backend | None) -> None:
        """Count it as work of a backend, and no longer of the one before."""
        if self.backend is not None:
            self.backend.work -= self._work
        self.backend = backend
        if backend is not None:
            backend.begin(self._work)

    def leave(self) -> None:
        """Take it off its server, and discard what was buffered."""
        self.assign(None)
        self.release()

    def release(self) -> None:
        """Discard what was buffered: it will not be repeated."""
        self._kept.clear()
        self._memory.left += self._kept_bytes
        self._kept_bytes = 0

    def _forget(self) -> None:
        self.is_too_large = True
        self.release()

    def _weigh(self, length: int) -> None:
        self._work += length
        if self.backend is not None:
            self.backend.work += length
