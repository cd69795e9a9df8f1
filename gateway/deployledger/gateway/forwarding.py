"""One client's connection, and the connection to a replica that it is forwarded to.

A server may take a request and end before it answers. A request that was not answered with a single byte goes
to the next server, if `Exchange` has kept all of it: requests are inferences, which change nothing.
"""

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Protocol, cast

from deployledger.gateway.exchange import LARGEST_REPEATED_REQUEST, Exchange, RequestMemory

LOSSES_PER_SERVER = 2
"""How often one server process may lose a request: the first time it may just have closed that connection."""

_CONNECT_SECONDS = 10.0
_RETRY_SECONDS = 0.05
_LINGER_SECONDS = 1.0
# A client's connection that no server has is closed after this; longer than clients keep idle ones.
_IDLE_SECONDS = 120.0

_MEBIBYTE = 1024 * 1024


def _error(status: str, message: str) -> bytes:
    body = json.dumps({"error": message}).encode()
    return (
        b"HTTP/1.1 %b\r\nconnection: close\r\nretry-after: 1\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (status.encode("ascii"), len(body), body)
    )


_UNAVAILABLE = _error("503 Service Unavailable", "No replica of this deployment is ready.")
_LOST = _error(
    "502 Bad Gateway",
    "Every server that accepted this request exited before it answered. "
    "If smaller requests fail, too, `deployledger logs` shows why.",
)
_LOST_AND_TOO_LARGE = _error(
    "502 Bad Gateway",
    "The server that accepted this request exited before it answered, and the request was too large to be "
    f"passed to another one: over {LARGEST_REPEATED_REQUEST // _MEBIBYTE} MiB, or too many at once. "
    "Send it again.",
)


class Backend(Protocol):
    """What a connection is forwarded to."""

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        ...

    @property
    def process(self) -> object:
        """What tells its server process from the one before, which ended, and from those of others."""
        ...

    @property
    def connections(self) -> set["ClientConnection"]:
        """The connections that are forwarded to it, or are being."""
        ...


class Backends(Protocol):
    """Where connections are forwarded to."""

    @property
    def count(self) -> int:
        """How many backends there are, ready or not."""
        ...

    async def pick(self, losses: Mapping[object, int]) -> Backend | None:
        """Return the backend for a new connection, or None when there is none for too long.

        Args:
            losses: how often a process has lost the request; one that did `LOSSES_PER_SERVER` times is out of
                the question, and those that did less often come first.
        """
        ...


class ClientConnection(asyncio.Protocol):
    """The client's side; it opens the replica's side, and opens another one if it was moved or lost.

    Args:
        memory: what keeps the requests that are on their way.
    """

    def __init__(self, backends: Backends, memory: RequestMemory) -> None:
        self._backends = backends
        self._loop = asyncio.get_running_loop()
        self._client: asyncio.Transport | None = None
        self._client_ended = False
        self._client_is_full = False
        self._backend: Backend | None = None
        self._process: object = None
        self._upstream: _Upstream | None = None
        self._opening: asyncio.Task[None] | None = None
        self._exchange = Exchange(memory)
        self._unsent: list[bytes] = []
        self._losses: Counter[object] = Counter()
        self._refused = False
        self._answer_ended = False
        self._leaves_at_next_request = False
        self._idle: asyncio.TimerHandle | None = None
        self._last_active = self._loop.time()

    def quiet_seconds(self) -> float:
        """For how long nothing has been on its way in either direction; 0 while an answer is due."""
        if self._upstream is None or self._exchange.is_open:
            return 0.0
        return self._loop.time() - self._last_active

    def leave_at_next_request(self) -> None:
        """Leave the replica as soon as the client has its answer and sends something more."""
        self._leaves_at_next_request = True

    def detach(self) -> None:
        """Leave the replica; the client's next bytes go to whichever replica is then right."""
        self._leave_upstream()
        if self._client is None:
            return
        if self._client_ended or self._answer_ended or self._exchange.is_opaque:
            self._client.close()
        else:
            self.resume_reading()
            self._idle = self._loop.call_later(_IDLE_SECONDS, self.close)

    def close(self) -> None:
        """Close both sides, after what was received has been passed on."""
        if self._client is not None:
            self._client.close()

    # The client's side, called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to open the replica's side; nothing is read before that is done."""
        self._client = cast(asyncio.Transport, transport)
        self._open_upstream()

    def data_received(self, data: bytes) -> None:
        """Pass on what the client sent."""
        if self._refused:
            return
        if self._leaves_at_next_request and self._upstream is not None and not self._exchange.is_open:
            self.detach()
        self._stop_idling()
        self._last_active = self._loop.time()
        self._exchange.sent(data)
        if self._upstream is not None:
            self._upstream.write(data)
            return
        self._unsent.append(data)
        self._open_upstream()

    def eof_received(self) -> bool:
        """Pass on that the client sends nothing more; it may still wait for an answer."""
        self._client_ended = True
        if self._answer_ended:
            return False  # both have ended: asyncio closes the client's side, and that closes the replica's
        if self._upstream is not None:
            self._upstream.write_eof()
            return True
        return self._opening is not None and bool(self._unsent)

    def pause_writing(self) -> None:
        """Take nothing from the replica until the client has caught up."""
        self._client_is_full = True
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        """Go on taking from the replica."""
        self._client_is_full = False
        if self._upstream is not None:
            self._upstream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hang up on the replica too."""
        self._client = None
        self._stop_idling()
        if self._opening is not None:
            self._opening.cancel()
        self._leave_upstream()
        self._exchange.release()

    # The replica's side, called by `_Upstream`.

    def answer_received(self, upstream: "_Upstream", data: bytes) -> None:
        """Pass on what the replica sent."""
        if upstream is not self._upstream or self._client is None:
            return
        self._last_active = self._loop.time()
        self._exchange.answered(data)
        self._client.write(data)
        while self._exchange.is_over:
            self._exchange = self._exchange.following()
            self._losses.clear()

    def answer_ended(self, upstream: "_Upstream") -> None:
        """Pass on that the replica sends nothing more; when the client has ended too, that is all."""
        if upstream is not self._upstream or self._client is None or self._is_mended():
            return
        self._answer_ended = True
        self._exchange.answer_ended()
        if self._client_ended or self._exchange.is_cut or not self._client.can_write_eof():
            self._client.close()
        else:
            self._client.write_eof()

    def replica_lost(self, upstream: "_Upstream", error: Exception | None) -> None:
        """Hang up if the replica did; one that was left before is of no interest."""
        if upstream is not self._upstream or self._client is None or self._is_mended():
            return
        if error is not None and self._exchange.is_cut:
            _reset(self._client)  # an answer without a length would seem complete otherwise
        else:
            self._client.close()

    def pause_reading(self) -> None:
        """Take nothing from the client until the replica has caught up."""
        if self._client is not None:
            self._client.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking from the client."""
        if self._client is not None and not self._client.is_closing():
            self._client.resume_reading()

    # A replica that has gone.

    def _is_mended(self) -> bool:
        """Say whether the replica that hangs up is of no consequence to the client, or is replaced."""
        if self._answer_ended or self._exchange.is_opaque:
            return False
        if not self._exchange.is_open:
            self.detach()
            return True
        if self._exchange.is_unanswered:
            self._repeat()
            return True
        return False

    def _repeat(self) -> None:
        """Send a request that was not answered to the next server, or answer that it is lost."""
        self._losses[self._process] += 1
        self._leave_upstream()
        if self._exchange.is_too_large:
            self._refuse(_LOST_AND_TOO_LARGE)
        elif len(self._losses) >= max(2, self._backends.count):
            self._refuse(_LOST)
        else:
            self._unsent = self._exchange.kept
            self._open_upstream()

    # Opening the replica's side.

    def _open_upstream(self) -> None:
        if self._opening is None:
            self.pause_reading()
            self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        upstream = await self._connect()
        self._opening = None
        if upstream is None:
            self._refuse(_LOST if self._losses else _UNAVAILABLE)
            return
        self._upstream = upstream
        if upstream.has_ended:  # while it was being opened, when nobody listened to that
            self.replica_lost(upstream, None)
            return
        self._last_active = self._loop.time()
        if self._client_is_full:
            upstream.pause_reading()
        for data in self._unsent:
            upstream.write(data)
        self._unsent = []
        if self._client_ended:
            upstream.write_eof()
        self.resume_reading()

    async def _connect(self) -> "_Upstream | None":
        deadline = self._loop.time() + _CONNECT_SECONDS
        while self._loop.time() < deadline:
            backend = await self._backends.pick(self._losses)
            if backend is None:
                break
            # Before it is made, so that a drain that begins meanwhile waits for it.
            self._backend, self._process = backend, backend.process
            backend.connections.add(self)
            upstream = _Upstream(self)
            try:
                await self._loop.create_connection(partial(_same, upstream), "127.0.0.1", backend.port)
            except OSError:
                self._leave_backend()
                await asyncio.sleep(_RETRY_SECONDS)
            except asyncio.CancelledError:
                upstream.close()  # the client may hang up just when the connection has been made
                raise
            else:
                return upstream
        return None

    def _leave_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        self._leaves_at_next_request = False
        self._leave_backend()
        if upstream is not None:
            upstream.close()

    def _leave_backend(self) -> None:
        if self._backend is not None:
            self._backend.connections.discard(self)
            self._backend = None

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _refuse(self, answer: bytes) -> None:
        if self._client is None:
            return
        # The request is read and dropped: closing over unread bytes would reset the connection, and the
        # client might never see the answer.
        self._refused = True
        self._exchange.release()
        self._client.write(answer)
        self.resume_reading()
        self._loop.call_later(_LINGER_SECONDS, self.close)


def _same(protocol: asyncio.Protocol) -> asyncio.Protocol:
    return protocol


def _reset(transport: asyncio.Transport) -> None:
    """Close a connection so that the other side gets an error, not an end."""
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class _Upstream(asyncio.Protocol):
    """The replica's side of a connection."""

    def __init__(self, owner: ClientConnection) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self.has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._owner.answer_received(self, data)

    def eof_received(self) -> bool:
        self.has_ended = True
        self._owner.answer_ended(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self.has_ended = None, True
        self._owner.replica_lost(self, exc)

    def pause_writing(self) -> None:
        self._owner.pause_reading()

    def resume_writing(self) -> None:
        self._owner.resume_reading()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def write_eof(self) -> None:
        if self._transport is not None:
            self._transport.write_eof()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
