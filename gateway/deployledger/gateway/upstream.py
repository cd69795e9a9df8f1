"""A connection to a server, and the responses on it."""

import asyncio
from dataclasses import dataclass
from typing import Protocol, cast

import httptools

from deployledger.gateway.headers import Headers, values_of

# As much as is read at once: the client is read from while the server takes what came before.
_WRITE_BUFFER_BYTES = 256 * 1024


@dataclass(frozen=True)
class ResponseHead:
    """The head of a response.

    Attributes:
        status: its status code.
        reason: its reason phrase.
        headers: its fields.
        has_no_body: whether it ends with its head, whatever the fields say.
    """

    status: int
    reason: bytes
    headers: Headers
    has_no_body: bool

    @property
    def start_line(self) -> bytes:
        """The status line."""
        return b"HTTP/1.1 %d %b" % (self.status, self.reason)

    @property
    def is_interim(self) -> bool:
        """Whether the response proper follows."""
        return 100 <= self.status < 200 and self.status != 101

    @property
    def has_known_end(self) -> bool:
        """Whether the head says where the body ends."""
        return self.has_no_body or bool(values_of(self.headers, b"content-length"))

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return bool(values_of(self.headers, b"transfer-encoding"))


class ResponseReceiver(Protocol):
    """Receives the response that arrives on a connection."""

    def response_begun(self, head: ResponseHead) -> bool:
        """Take a head; return whether another protocol follows it."""
        ...

    def response_body(self, data: bytes) -> None:
        """Take a part of the body."""
        ...

    def response_complete(self, *, reusable: bool) -> None:
        """Handle the end; ``reusable`` is whether the server accepts another request on this connection."""
        ...

    def response_malformed(self) -> None:
        """Handle what is not an HTTP response."""
        ...

    def upstream_lost(self) -> None:
        """Handle the end of the connection before that of the response."""
        ...

    def flush(self) -> None:
        """Pass on what was taken."""
        ...

    def update_reading(self) -> None:
        """Handle that the server has fallen behind what is sent to it, or has caught up."""
        ...


class Upstream(asyncio.Protocol):
    """A connection to a server, for one request at a time.

    Attributes:
        is_full: whether the server has to catch up with what was sent to it.
        last_used: when it was last in use, by the event loop's clock.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._receiver: ResponseReceiver | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reason = b""
        self._headers: Headers = []
        self._is_head_request = False
        self._has_begun = self._is_complete = self._is_tunnel = False
        self._ends_with_connection = False
        self._is_reusable = True
        self.is_full = False
        self.last_used = self._loop.time()

    @property
    def is_open(self) -> bool:
        """Whether it can be written to, as far as is known."""
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, receiver: ResponseReceiver, method: bytes) -> None:
        """Let the next response go to the receiver."""
        self._receiver = receiver
        self._is_head_request = method == b"HEAD"
        self._has_begun = self._is_complete = False

    def write(self, data: list[bytes]) -> None:
        """Send a part of a request."""
        if self._transport is not None:
            self._transport.writelines(data)

    def write_eof(self) -> None:
        """Send nothing more."""
        if self._transport is not None:
            self._transport.write_eof()

    def stop_reading(self) -> None:
        """Read nothing from the server until the client has caught up."""
        if self._transport is not None:
            self._transport.pause_reading()

    def go_on_reading(self) -> None:
        """Resume reading from the server."""
        if self.is_open and self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close it without notifying the receiver."""
        self._receiver = None
        if self._transport is not None:
            self._transport.close()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_WRITE_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        """Parse what the server sent."""
        receiver = self._receiver
        if receiver is None:
            self.close()  # there was no request
        elif self._is_tunnel:
            receiver.response_body(data)
            receiver.flush()
        else:
            self._parse(receiver, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Notify the receiver; the end of the connection may be the end of the response."""
        self._transport = None
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if exc is None and self._ends_with_connection:
            receiver.response_complete(reusable=False)
        else:
            receiver.upstream_lost()

    def pause_writing(self) -> None:
        """Pause the client."""
        self.is_full = True
        if self._receiver is not None:
            self._receiver.update_reading()

    def resume_writing(self) -> None:
        """Resume the client."""
        self.is_full = False
        if self._receiver is not None:
            self._receiver.update_reading()

    # Called by httptools.

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._reason, self._headers = b"", []
        if self._is_complete:
            self._is_reusable = False  # a second response without a request

    def on_status(self, reason: bytes) -> None:
        """Take the reason phrase, which may come in parts."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; those after the body are not forwarded."""
        self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Pass the head on."""
        if self._receiver is None or self._is_complete:
            return
        status = self._parser.get_status_code()
        has_no_body = self._is_head_request or status in (204, 304)
        head = ResponseHead(status, self._reason, self._headers, has_no_body)
        self._is_tunnel = self._receiver.response_begun(head)
        if head.is_interim:
            return
        self._has_begun = True
        self._ends_with_connection = not (head.has_known_end or head.is_chunked or self._is_tunnel)
        if self._is_head_request:  # httptools cannot be told that no body follows
            self._is_complete, self._is_reusable = True, False

    def on_body(self, data: bytes) -> None:
        """Pass a part of the body on."""
        if self._receiver is not None and not self._is_complete:
            self._receiver.response_body(data)

    def on_message_complete(self) -> None:
        """End the response, unless it was an interim one."""
        if self._has_begun and not self._is_complete:
            self._is_complete = not self._is_tunnel
            self._is_reusable = self._is_reusable and self._parser.should_keep_alive()

    def _parse(self, receiver: ResponseReceiver, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            receiver.response_body(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError:
            if not self._is_complete:
                self.close()
                receiver.response_malformed()
                return
            self._is_reusable = False
        if self._is_complete:
            self._receiver = None
            self.last_used = self._loop.time()
            receiver.response_complete(reusable=self._is_reusable and self.is_open)
        else:
            receiver.flush()
