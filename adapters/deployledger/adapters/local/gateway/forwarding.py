"""One client's connection, and the connection to a replica that it is forwarded to."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, cast

_CONNECT_SECONDS = 10.0
_RETRY_SECONDS = 0.05
_LINGER_SECONDS = 1.0

_CONTINUE = b"HTTP/1.1 100 "
_BODY = json.dumps({"error": "No replica of this deployment is ready."}).encode()
_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class Backend(Protocol):
    """What a connection is forwarded to."""

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        ...

    @property
    def connections(self) -> set["ClientConnection"]:
        """The connections that are forwarded to it, or are being."""
        ...


class ClientConnection(asyncio.Protocol):
    """The client's side; it opens the replica's side, and opens another one if it was moved.

    ``pick`` returns the backend for a new connection, or None when there is none for too long.
    """

    def __init__(self, pick: Callable[[], Awaitable[Backend | None]]) -> None:
        self._pick = pick
        self._loop = asyncio.get_running_loop()
        self._client: asyncio.Transport | None = None
        self._client_ended = False
        self._backend: Backend | None = None
        self._upstream: _Upstream | None = None
        self._opening: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []
        self._refused = False
        self._answer_ended = False
        self._awaits_answer = False
        self._leaves_at_next_request = False
        self._last_active = self._loop.time()

    def quiet_seconds(self) -> float:
        """For how long nothing has been on its way in either direction; 0 while an answer is due."""
        if self._upstream is None or self._awaits_answer:
            return 0.0
        return self._loop.time() - self._last_active

    def leave_at_next_request(self) -> None:
        """Leave the replica as soon as the client has its answer and sends something more."""
        self._leaves_at_next_request = True

    def detach(self) -> None:
        """Leave the replica; the client's next bytes go to whichever replica is then right."""
        upstream, self._upstream = self._upstream, None
        self._leaves_at_next_request = False
        self._leave_backend()
        if upstream is not None:
            upstream.close()
        if self._client is not None:
            if self._client_ended or self._answer_ended:
                self._client.close()
            else:
                self.resume_reading()

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
        if self._leaves_at_next_request and self._upstream is not None and not self._awaits_answer:
            self.detach()
        self._last_active = self._loop.time()
        self._awaits_answer = True
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
        if self._upstream is not None:
            self._upstream.pause_reading()

    def resume_writing(self) -> None:
        """Go on taking from the replica."""
        if self._upstream is not None:
            self._upstream.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hang up on the replica too."""
        self._client = None
        if self._opening is not None:
            self._opening.cancel()
        upstream, self._upstream = self._upstream, None
        self._leave_backend()
        if upstream is not None:
            upstream.close()

    # The replica's side, called by `_Upstream`.

    def answer_received(self, data: bytes) -> None:
        """Pass on what the replica sent."""
        self._last_active = self._loop.time()
        # "100 Continue" asks for the rest of the same request.
        self._awaits_answer = data.startswith(_CONTINUE)
        if self._client is not None:
            self._client.write(data)

    def answer_ended(self) -> None:
        """Pass on that the replica sends nothing more; when the client has ended too, that is all."""
        self._answer_ended = True
        if self._client is None:
            return
        if self._client_ended or not self._client.can_write_eof():
            self._client.close()
        else:
            self._client.write_eof()

    def replica_lost(self, upstream: "_Upstream") -> None:
        """Hang up if the replica did; one that was left before is of no interest."""
        if upstream is self._upstream and self._client is not None:
            self._client.close()

    def pause_reading(self) -> None:
        """Take nothing from the client until the replica has caught up."""
        if self._client is not None:
            self._client.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking from the client."""
        if self._client is not None and not self._client.is_closing():
            self._client.resume_reading()

    # Opening the replica's side.

    def _open_upstream(self) -> None:
        if self._opening is None:
            self.pause_reading()
            self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        upstream = await self._connect()
        self._opening = None
        if upstream is None:
            self._refuse()
            return
        self._upstream = upstream
        self._last_active = self._loop.time()
        self._awaits_answer = bool(self._unsent)
        for data in self._unsent:
            upstream.write(data)
        self._unsent.clear()
        if self._client_ended:
            upstream.write_eof()
        self.resume_reading()

    async def _connect(self) -> "_Upstream | None":
        deadline = self._loop.time() + _CONNECT_SECONDS
        while self._loop.time() < deadline:
            backend = await self._pick()
            if backend is None:
                break
            # Before it is made, so that a drain that begins meanwhile waits for it.
            self._backend = backend
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

    def _leave_backend(self) -> None:
        if self._backend is not None:
            self._backend.connections.discard(self)
            self._backend = None

    def _refuse(self) -> None:
        if self._client is None:
            return
        # The request is read and dropped: closing over unread bytes would reset the connection, and the
        # client might never see the answer.
        self._refused = True
        self._client.write(_UNAVAILABLE)
        self.resume_reading()
        self._loop.call_later(_LINGER_SECONDS, self.close)


def _same(protocol: asyncio.Protocol) -> asyncio.Protocol:
    return protocol


class _Upstream(asyncio.Protocol):
    """The replica's side of a connection."""

    def __init__(self, owner: ClientConnection) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._owner.answer_received(data)

    def eof_received(self) -> bool:
        self._owner.answer_ended()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._owner.replica_lost(self)

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
