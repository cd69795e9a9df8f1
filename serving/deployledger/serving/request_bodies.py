"""Request bodies: complete, decompressed and within limits before an application sees them."""

import asyncio
from contextlib import AsyncExitStack, suppress

from deployledger.serving.asgi import App, HttpError, Message, Receive, Scope, Send, respond_with_error
from deployledger.serving.content_coding import (
    CODINGS,
    Buffer,
    DecompressedTooLargeError,
    InvalidCodingError,
    decompress,
)

MAX_BODY = 100 * 1024 * 1024
"""The default limit of a body, in bytes."""

SMALL_BODY = 64 * 1024
"""Bodies up to this size, in bytes, are decompressed in the event loop."""

_SETTING = "DEPLOYLEDGER_SERVING_MAX_BODY_BYTES"


class RequestBodies:
    """ASGI middleware that hands over each request with its complete body.

    The first message that the application receives has the whole body, without its ``Content-Encoding``.
    Bodies are refused here, with 413, 415 or 400. While the bodies in memory exceed twice the largest size,
    only one of them is read at a time, and the others wait.

    Args:
        app: the application.
        max_body: the largest size of a body in bytes, both as sent and decompressed.
    """

    def __init__(self, app: App, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._max_body = max_body
        # Only bytes that have arrived count, not those announced: slow clients keep nobody waiting.
        self._received = 0
        self._turn = asyncio.Lock()
        self._decompressing = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the signature is ASGI's."""
        if scope["method"] in ("GET", "HEAD"):  # a body has no meaning there (RFC 9110, section 9.3.1)
            await self._app(scope, receive, send)
            return
        try:
            async with AsyncExitStack() as held:
                headers = dict(scope["headers"])
                coding = _coding(headers)
                body = await self._read(receive, int(headers.get(b"content-length", -1)), held)
                if coding is not None:
                    body = await self._decompressed(body, coding, held)
                    scope = {**scope, "headers": _headers_of(body, scope)}
                messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
                del body

                async def receive_body() -> Message:
                    return messages.pop() if messages else await receive()

                await self._app(scope, receive_body, send)
        except HttpError as error:
            await respond_with_error(send, error)
        except _DisconnectedError:
            pass

    async def _read(self, receive: Receive, length: int, held: AsyncExitStack) -> Buffer:
        if length > self._max_body:
            raise self._too_large("body")
        body = bytearray()
        has_turn = False
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _DisconnectedError
            chunk: bytes = message.get("body", b"")
            if len(body) + len(chunk) > self._max_body:
                raise self._too_large("body")
            is_last = not message.get("more_body")
            if is_last and not body:
                return chunk
            body += chunk
            self._received += len(chunk)
            held.callback(self._forget, len(chunk))
            if is_last:
                return body
            if not has_turn and self._received > 2 * self._max_body:
                await held.enter_async_context(self._turn)
                has_turn = True

    async def _decompressed(self, body: Buffer, coding: str, held: AsyncExitStack) -> Buffer:
        try:
            if len(body) <= SMALL_BODY:
                with suppress(DecompressedTooLargeError):
                    return decompress(body, coding, limit=min(SMALL_BODY, self._max_body))
            await held.enter_async_context(self._decompressing)
            return await asyncio.to_thread(decompress, body, coding, limit=self._max_body)
        except InvalidCodingError as error:
            raise HttpError(400, str(error)) from error
        except DecompressedTooLargeError:
            raise self._too_large("decompressed body") from None

    def _forget(self, size: int) -> None:
        self._received -= size

    def _too_large(self, what: str) -> HttpError:
        return HttpError(413, f"the {what} is larger than {self._max_body} bytes; {_SETTING} sets this limit")


class _DisconnectedError(Exception):
    """The client disconnected before its body was complete."""


def _coding(headers: dict[bytes, bytes]) -> str | None:
    coding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if coding in ("", "identity"):
        return None
    coding = coding.removeprefix("x-")  # of old, RFC 9110 section 8.4.1.3
    if coding not in CODINGS:
        accepted = ", ".join(CODINGS)
        raise HttpError(
            415,
            f"unsupported Content-Encoding {coding!r}; use one of {accepted}",
            [(b"accept-encoding", accepted.encode())],
        )
    return coding


def _headers_of(body: Buffer, scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request whose body has been decompressed."""
    outdated = (b"content-encoding", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in outdated]
    return [*headers, (b"content-length", str(len(body)).encode())]
