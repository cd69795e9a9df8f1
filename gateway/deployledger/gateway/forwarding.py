"""Clients' connections: each request is forwarded to the server with the least work.

A server may accept a request and exit before it responds. As long as nothing of the response has been passed
on, the request is repeated on the next server, if all of it is buffered: inference requests change nothing.
"""

import asyncio
import socket
import struct
from collections import deque
from http import HTTPStatus
from typing import cast

from deployledger.gateway.backend import Backends
from deployledger.gateway.headers import chunk, end_to_end, serialize
from deployledger.gateway.limits import Limits, RefusedError
from deployledger.gateway.ports import LOOPBACK
from deployledger.gateway.request import LARGEST_REPEATED_REQUEST, Request, RequestMemory
from deployledger.gateway.request_parser import RequestParser
from deployledger.gateway.upstream import ResponseHead, Upstream

_CONNECT_SECONDS = 10.0
_RETRY_SECONDS = 0.05
_LINGER_SECONDS = 2.0

_MEBIBYTE = 1024 * 1024

_UNAVAILABLE = RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "No replica of this deployment is ready.")
_LOST = RefusedError(
    HTTPStatus.BAD_GATEWAY,
    "Every server that accepted this request exited before it responded. "
    "If smaller requests fail, too, `deployledger logs` shows why.",
)
_LOST_AND_TOO_LARGE = RefusedError(
    HTTPStatus.BAD_GATEWAY,
    "The server that accepted this request exited before it responded, and the request was too large to be "
    f"passed to another one: over {LARGEST_REPEATED_REQUEST // _MEBIBYTE} MiB, or too many at once. "
    "Send it again.",
)
_MALFORMED = RefusedError(
    HTTPStatus.BAD_GATEWAY, "The model's server sent something other than an HTTP/1.1 response."
)


class Frontend:
    """All connections of a gateway's clients.

    Args:
        backends: where their requests go.

    Attributes:
        limits: what is accepted from clients.
        memory: what buffers the requests that are on their way.
        connections: those that are open.
    """

    def __init__(self, backends: Backends) -> None:
        self.backends = backends
        self.limits = Limits()
        self.memory = RequestMemory()
        self.connections: set[ClientConnection] = set()

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return ClientConnection(self)

    def check(self, now: float) -> None:
        """End what takes longer than the limits allow."""
        for connection in list(self.connections):
            connection.check(now)


class ClientConnection(asyncio.Protocol):
    """A client's connection, on which requests come one after another."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._loop = asyncio.get_running_loop()
        self._client: asyncio.Transport | None = None
        self._client_ended = False
        self._client_is_full = False
        self._is_paused = False
        self._is_ending = False
        self._parser = RequestParser(frontend.memory, self._request_begun)
        # The first one is being answered; those behind it came before its response had ended.
        self._requests: deque[Request] = deque()
        self._refusal: RefusedError | None = None
        self._opening: asyncio.Task[None] | None = None
        self._upstream: Upstream | None = None
        self._response: list[bytes] = []
        self._has_begun = self._is_chunking = self._is_tunnel = False
        self._last_progress = self._loop.time()

    def close(self) -> None:
        """Close it, after what was received from the server has been passed on."""
        if self._client is not None:
            self._client.close()

    def check(self, now: float) -> None:
        """End it if the client or the model takes longer than the limits allow."""
        limits, seconds = self._frontend.limits, now - self._last_progress
        if self._is_ending or self._is_tunnel:
            return
        if not self._requests:
            if self._parser.is_in_head and seconds > limits.head_timeout:
                self._refuse(_too_slow("The head of the request", limits.head_timeout, "head_timeout"))
            elif not self._parser.is_in_head and seconds > limits.idle_timeout:
                self.close()
        elif self._client_is_full:
            if seconds > limits.body_timeout:
                self._cut()
        elif not self._requests[0].is_complete:
            if seconds > limits.body_timeout and not self._is_paused:
                self._refuse(_too_slow("More of the body", limits.body_timeout, "body_timeout"))
        elif limits.response_timeout is not None and seconds > limits.response_timeout:
            self._fail(
                RefusedError(
                    HTTPStatus.GATEWAY_TIMEOUT,
                    f"The model did not respond within {limits.response_timeout:g} seconds.",
                    "response_timeout",
                )
            )

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, unless there are too many."""
        self._client = cast(asyncio.Transport, transport)
        most = self._frontend.limits.max_connections
        if len(self._frontend.connections) < most:
            self._frontend.connections.add(self)
        else:
            message = f"{most} clients are already connected."
            self._end(RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, message, "max_connections"), linger=False)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent, and forward it."""
        if self._is_tunnel and self._upstream is not None:
            self._upstream.write([data])
            return
        if self._is_ending or self._refusal is not None:
            return  # it is dropped: closing over unread bytes would reset the connection
        if not self._parser.is_in_head:  # a head has to be complete in time, however often a byte comes
            self._last_progress = self._loop.time()
        try:
            self._parser.feed(data, self._frontend.limits)
        except RefusedError as refusal:
            self._refuse(refusal)
        else:
            self._forward()

    def eof_received(self) -> bool:
        """Handle the end of what the client sends; it may still wait for responses."""
        self._client_ended = True
        if self._is_tunnel and self._upstream is not None:
            self._upstream.write_eof()
            return True
        return bool(self._requests) and self._requests[-1].is_complete

    def pause_writing(self) -> None:
        """Read nothing from the server until the client has caught up."""
        self._client_is_full = True
        if self._upstream is not None:
            self._upstream.stop_reading()

    def resume_writing(self) -> None:
        """Resume reading from the server."""
        self._client_is_full = False
        if self._upstream is not None:
            self._upstream.go_on_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the connection to the server, too."""
        self._client = None
        self._frontend.connections.discard(self)
        self._drop_requests()

    # Called by the connection to the server.

    def response_begun(self, head: ResponseHead) -> bool:
        """Rewrite the head for the client; return whether a tunnel follows."""
        request = self._requests[0]
        if head.is_interim:
            if not request.is_http_1_0:
                self._response.append(serialize(head.start_line, end_to_end(head.headers)))
            return False
        request.release()
        self._has_begun = True
        if head.status == 101 or (request.method == b"CONNECT" and 200 <= head.status < 300):
            self._response.append(serialize(head.start_line, head.headers))
            self._open_tunnel()
            return True
        headers = end_to_end(head.headers)
        if not head.has_known_end:
            self._is_chunking = not request.is_http_1_0
            if self._is_chunking:
                headers.append((b"transfer-encoding", b"chunked"))
        keeps_alive = (
            request.keeps_alive and request.is_complete and (head.has_known_end or self._is_chunking)
        )
        if not keeps_alive:
            headers.append((b"connection", b"close"))
        elif request.is_http_1_0:
            headers.append((b"connection", b"keep-alive"))
        request.keeps_alive = keeps_alive
        self._response.append(serialize(head.start_line, headers))
        return False

    def response_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if data:
            self._response.append(chunk(data) if self._is_chunking else data)

    def response_complete(self, *, reusable: bool) -> None:
        """Go on to the next request, or end the connection."""
        request = self._requests.popleft()
        if self._is_chunking:
            self._response.append(chunk(b""))
        upstream, self._upstream = self._upstream, None
        if upstream is not None and request.backend is not None and reusable and request.is_complete:
            request.backend.keep(upstream)
        elif upstream is not None:
            upstream.close()
        request.leave()
        self._has_begun = self._is_chunking = False
        if not request.keeps_alive:
            self._end(linger=not request.is_complete)
            return
        self.flush()
        self._last_progress = self._loop.time()
        try:
            if request.asks_for_tunnel:
                self._parser.go_on()
        except RefusedError as refusal:
            self._refuse(refusal)
        else:
            self._forward()

    def response_malformed(self) -> None:
        """Respond in place of a server that does not speak HTTP."""
        self._fail(_MALFORMED)

    def upstream_lost(self) -> None:
        """Repeat the request if nothing of its response was passed on."""
        request = self._requests[0]
        self._upstream = None
        if self._is_tunnel:
            self.flush()
            self.close()
        elif self._has_begun or request.is_too_large:
            self._fail(_LOST_AND_TOO_LARGE)
        else:
            request.lose()
            if len(request.losses) >= max(2, self._frontend.backends.count):
                self._fail(_LOST)
            else:
                self._response.clear()
                self._forward()

    def flush(self) -> None:
        """Pass on to the client what was taken from the server."""
        data, self._response = self._response, []
        if self._client is not None and data:
            self._last_progress = self._loop.time()
            self._client.writelines(data)

    def update_reading(self) -> None:
        """Read from the client what can be sent on: of one request, while its server keeps up."""
        if self._client is None or self._client.is_closing():
            return
        is_paused = bool(self._requests) and (
            self._upstream is None
            or self._upstream.is_full
            or len(self._requests) > 1
            or (self._requests[0].asks_for_tunnel and not self._is_tunnel)
        )
        if is_paused and not self._is_paused:
            self._client.pause_reading()
        elif self._is_paused and not is_paused:
            self._last_progress = self._loop.time()
            self._client.resume_reading()
        self._is_paused = is_paused

    # Requests on their way.

    def _request_begun(self, request: Request) -> None:
        self._requests.append(request)

    def _forward(self) -> None:
        """Send what was parsed of the first request to its server: the one with the least work."""
        if self._requests:
            request = self._requests[0]
            if self._upstream is not None:
                self._upstream.write(request.take_unsent())
            elif self._opening is None:
                self._send(request)
        elif self._refusal is not None:
            self._end(self._refusal)
        elif self._client_ended:
            self.close()
        self.update_reading()

    def _send(self, request: Request) -> None:
        backend = self._frontend.backends.pick_now(request.losses)
        # A server may close a kept connection at any moment: what can be sent only once gets a new one.
        if backend is not None and not (request.is_too_large or request.losses):
            upstream = backend.kept_connection()
            if upstream is not None:
                request.assign(backend)
                self._attach(upstream)
                return
        self._opening = self._loop.create_task(self._open(request))

    async def _open(self, request: Request) -> None:
        upstream = await self._connect(request)
        self._opening = None
        if upstream is None:
            self._fail(_LOST if request.losses else _UNAVAILABLE)
        else:
            self._attach(upstream)
            self.update_reading()

    async def _connect(self, request: Request) -> Upstream | None:
        deadline = self._loop.time() + _CONNECT_SECONDS
        while self._loop.time() < deadline:
            backend = await self._frontend.backends.pick(request.losses)
            if backend is None:
                break
            request.assign(backend)  # already now, so that a drain that begins meanwhile waits for it
            upstream = Upstream()
            try:
                await self._loop.create_connection(lambda: upstream, LOOPBACK, backend.port)  # noqa: B023
            except OSError:
                request.assign(None)
                await asyncio.sleep(_RETRY_SECONDS)
            except asyncio.CancelledError:
                upstream.close()  # the client may hang up just when the connection has been made
                raise
            else:
                return upstream
        return None

    def _attach(self, upstream: Upstream) -> None:
        request = self._requests[0]
        self._upstream = upstream
        if not upstream.is_open:  # it ended while it was being opened, when nobody listened to that
            self.upstream_lost()
            return
        upstream.begin(self, request.method)
        if self._client_is_full:
            upstream.stop_reading()
        upstream.write(request.take_unsent())

    def _open_tunnel(self) -> None:
        self._is_tunnel = True
        if self._upstream is not None:
            self._upstream.write([self._parser.after_tunnel_request])
        self.update_reading()

    # Requests that are not answered by a server.

    def _refuse(self, refusal: RefusedError) -> None:
        """Refuse what is being received, after the requests before it have been answered."""
        if self._requests and not self._requests[-1].is_complete:
            if len(self._requests) == 1:
                self._fail(refusal)
                return
            self._requests.pop().leave()
        self._refusal = refusal
        self._forward()

    def _fail(self, refusal: RefusedError) -> None:
        """Answer the first request with an error, or cut its response if that has begun."""
        if self._has_begun:
            self._cut()
        else:
            self._response.clear()
            self._end(refusal)

    def _end(self, refusal: RefusedError | None = None, *, linger: bool = True) -> None:
        """Send the last response and close the connection: later if the client may still be sending."""
        self._is_ending = True
        self._drop_requests()
        if refusal is not None:
            self._response.append(refusal.response)
        self.flush()
        self.update_reading()
        if linger:
            self._loop.call_later(_LINGER_SECONDS, self.close)
        else:
            self.close()

    def _drop_requests(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
        for request in self._requests:
            request.leave()
        self._requests.clear()

    def _cut(self) -> None:
        """Close the connection so that the client gets an error, not an end."""
        if self._client is not None:
            connection: socket.socket = self._client.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._client.abort()


def _too_slow(what: str, seconds: float, limit: str) -> RefusedError:
    return RefusedError(
        HTTPStatus.REQUEST_TIMEOUT, f"{what} did not arrive within {seconds:g} seconds.", limit
    )
