"""Parsing of what clients send, within the limits."""

from collections.abc import Callable
from http import HTTPStatus
from typing import NoReturn

import httptools

from deployledger.gateway.headers import Headers, end_to_end, serialize, values_of
from deployledger.gateway.limits import Limits, RefusedError
from deployledger.gateway.request import Request, RequestMemory


class RequestParser:
    """Parses what a client sends, and rewrites it for the server.

    llhttp, on which httptools builds, refuses what two programs might read differently: a length together
    with a transfer coding, two lengths, lines that end without CR, folded fields, control characters.

    Args:
        memory: what buffers the requests.
        begun: called with each request when its head is complete.

    Attributes:
        after_tunnel_request: what followed a request that asks for a tunnel; it is not parsed until `go_on`.
    """

    def __init__(self, memory: RequestMemory, begun: Callable[[Request], None]) -> None:
        self._limits = Limits()
        self._memory = memory
        self._begun = begun
        self._parser = httptools.HttpRequestParser(self)
        self._request: Request | None = None
        self._is_last = False
        self._refusal: RefusedError | None = None
        self._url = b""
        self._headers: Headers = []
        self._head_bytes = 0
        self._bytes_before_head = 0
        self._length = self._body_left = self._framed_bytes = 0
        self._without_upgrade: bytes | None = None
        self.after_tunnel_request = b""

    @property
    def is_in_head(self) -> bool:
        """Whether a head has begun and is not complete."""
        return self._request is None and self._bytes_before_head > 0

    def feed(self, data: bytes, limits: Limits) -> None:
        """Parse what the client sent.

        Raises:
            RefusedError: it is not a valid request, or exceeds a limit; nothing more is to be fed.
        """
        if self._body_left:
            data = self._take_body(data)
        if self._is_last or not data:
            return
        self._limits = limits
        if self._request is None:
            self._bytes_before_head += len(data)
        elif self._request.is_chunked:
            self._framed_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._request is not None and not self._request.is_chunked:
                self._body_left = self._length - self._request.body_bytes
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._refusal is not None:
                raise self._refusal from None
            if isinstance(error, httptools.HttpParserCallbackError):
                raise
            if not self._is_last:
                reason = "HTTP/2 is unsupported" if data.startswith(b"PRI * HTTP/2") else error
                raise RefusedError(HTTPStatus.BAD_REQUEST, f"Not valid HTTP/1.1: {reason}.") from None
        if self._bytes_before_head > limits.max_head_bytes:
            raise self._head_too_large()
        if self._framed_bytes > limits.max_body_bytes + limits.max_head_bytes:
            raise self._body_too_large()  # the framing of chunks would otherwise be unlimited

    def go_on(self) -> None:
        """Parse what followed a request for a tunnel, which the server did not open.

        Raises:
            RefusedError: as `feed` does.
        """
        data, self.after_tunnel_request = self.after_tunnel_request, b""
        self._parser = httptools.HttpRequestParser(self)
        if data:
            self.feed(data, self._limits)

    # Called by httptools.

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._url, self._headers, self._head_bytes = b"", [], 0

    def on_url(self, url: bytes) -> None:
        """Take the request's target, which may come in parts."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; those after a body are counted but not forwarded."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes + len(self._url) > self._limits.max_head_bytes:
            self._refuse(self._head_too_large())
        self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """Begin the request."""
        self._bytes_before_head = 0
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(
                RefusedError(HTTPStatus.BAD_REQUEST, f"HTTP/{version} is unsupported; use HTTP/1.1.")
            )
        request = Request(self._parser.get_method(), self._memory)
        request.is_http_1_0 = version == "1.0"
        request.keeps_alive = self._parser.should_keep_alive()
        has_body = self._frame(request)
        if request.method != b"CONNECT" and not _is_valid(self._url):
            self._refuse(RefusedError(HTTPStatus.BAD_REQUEST, "The target of the request is not valid."))
        if request.method == b"CONNECT" and has_body:  # it has no meaning (RFC 9110, section 9.3.6)
            self._refuse(RefusedError(HTTPStatus.BAD_REQUEST, "A CONNECT request may not have a body."))
        headers = end_to_end(self._headers)
        hosts = len(values_of(headers, b"host"))
        if hosts > 1 or not (hosts or request.is_http_1_0):
            self._refuse(RefusedError(HTTPStatus.BAD_REQUEST, f"Expected one Host field, got {hosts}."))
        if not hosts:
            headers.append((b"host", b"localhost"))
        if request.is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        start_line = b"%b %b HTTP/1.1" % (request.method, self._url)
        if self._parser.should_upgrade():
            if has_body or request.method not in (b"GET", b"CONNECT"):
                # httptools would take the body for the other protocol; a server may ignore Upgrade.
                self._without_upgrade = serialize(start_line, headers)
                return
            request.asks_for_tunnel = True
            headers = self._headers
        request.add(serialize(start_line, headers))
        self._request = request
        self._begun(request)

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        if self._request is None:
            return
        self._request.add_to_body(data)
        if self._request.body_bytes > self._limits.max_body_bytes:
            self._refuse(self._body_too_large())

    def on_message_complete(self) -> None:
        """End the request."""
        if self._request is not None:
            self._request.complete()
            self._framed_bytes = 0
            self._is_last = not self._request.keeps_alive
            self._request = None

    def _frame(self, request: Request) -> bool:
        """Determine how the body is framed (RFC 9112, section 6.3), and return whether there is one."""
        codings = values_of(self._headers, b"transfer-encoding")
        if codings:
            if request.is_http_1_0 or codings[0].lower() != b"chunked":
                self._refuse(
                    RefusedError(
                        HTTPStatus.BAD_REQUEST,
                        "Unsupported Transfer-Encoding: send a body chunked in HTTP/1.1, or with a length.",
                    )
                )
            request.is_chunked = True
            return True
        self._length = int(next(iter(values_of(self._headers, b"content-length")), b"0"))
        if self._length > self._limits.max_body_bytes:
            self._refuse(self._body_too_large())
        request.expect(self._length)
        return self._length > 0

    def _take_body(self, data: bytes) -> bytes:
        """Take more of a body of known length as it is, without a copy; return what follows it."""
        body, rest = data[: self._body_left], data[self._body_left :]  # a whole slice is the object itself
        self._body_left -= len(body)
        self.on_body(body)
        if not self._body_left:
            self.on_message_complete()
            self._parser = httptools.HttpRequestParser(self)
        return rest

    def _feed_after_upgrade(self, data: bytes) -> None:
        if self._without_upgrade is None:
            self.after_tunnel_request = data
            return
        head, self._without_upgrade = self._without_upgrade, None
        self._parser = httptools.HttpRequestParser(self)
        self.feed(head + data, self._limits)

    def _refuse(self, refusal: RefusedError) -> NoReturn:
        self._refusal = refusal
        raise refusal

    def _head_too_large(self) -> RefusedError:
        most = self._limits.max_head_bytes
        return RefusedError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"The head of a request may have up to {most} bytes.",
            "max_head_bytes",
        )

    def _body_too_large(self) -> RefusedError:
        most = self._limits.max_body_bytes
        return RefusedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"The body of a request may have up to {most} bytes.",
            "max_body_bytes",
        )


def _is_valid(target: bytes) -> bool:
    try:
        httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        return False
    return target.isascii()
