"""The bodies of requests: complete, decompressed and within limits before an application sees them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from deployledger.serving.asgi import App, HttpError, Message, Receive, Scope, Send, respond_with_error
from deployledger.serving.content_coding import (
    CODINGS,
    Buffer,
    DecompressedTooLargeError,
    InvalidCodingError,
    decompress,
)

MAX_BODY = 100 * 1024 * 1024
"""How many bytes a body may have by default."""

SMALL_BODY = 64 * 1024
"""Bodies up to this size, in bytes, are neither counted nor moved out of the event loop."""

_BODIES_AT_A_TIME = 3
_SETTING = "DEPLOYLEDGER_SERVING_MAX_BODY_BYTES"


class RequestBodies:
    """An ASGI application that gives another one each request with the whole of its body.

    The first message that the other application receives has the body; those with a ``Content-Encoding`` are
    decompressed. A body that is refused is answered here, by 413, 415 or 400. There is room for three bodies
    of the largest size, or for more smaller ones; others are not read until there is.

    Args:
        app: the other application.
        max_body: the largest size of a body in bytes, as it is sent and decompressed.
    """

    def __init__(self, app: App, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._max_body = max_body
        self._room = _BODIES_AT_A_TIME * max_body
        self._room_changed = asyncio.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the signature is ASGI's."""
        if scope["method"] in ("GET", "HEAD"):  # a body has no meaning there (RFC 9110, section 9.3.1)
            await self._app(scope, receive, send)
            return
        try:
            async with AsyncExitStack() as held:
                headers = dict(scope["headers"])
                coding = _coding(headers)
                body = await self._read(receive, headers, coding, held)
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

    async def _read(
        self, receive: Receive, headers: dict[bytes, bytes], coding: str | None, held: AsyncExitStack
    ) -> Buffer:
        length = int(headers.get(b"content-length", -1))
        if length > self._max_body:
            raise self._too_large("body")
        body = bytearray()
        is_reserved = False
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
            if is_last:
                return body
            if not is_reserved and max(length, len(body)) > SMALL_BODY:
                size = length if length >= 0 else self._max_body
                await held.enter_async_context(self._reserved(size + (self._max_body if coding else 0)))
                is_reserved = True

    async def _decompressed(self, body: Buffer, coding: str, held: AsyncExitStack) -> Buffer:
        try:
            if len(body) <= SMALL_BODY:
                with suppress(DecompressedTooLargeError):
                    return decompress(body, coding, limit=min(SMALL_BODY, self._max_body))
                await held.enter_async_context(self._reserved(self._max_body))
            return await asyncio.to_thread(decompress, body, coding, limit=self._max_body)
        except InvalidCodingError as error:
            raise HttpError(400, str(error)) from error
        except DecompressedTooLargeError:
            raise self._too_large("decompressed body") from None

    @asynccontextmanager
    async def _reserved(self, size: int) -> AsyncIterator[None]:
        """Wait until there is room for all that a body may need.

        Nothing is reserved later: two bodies that took more as they grew could wait for each other.
        """
        async with self._room_changed:
            await self._room_changed.wait_for(lambda: self._room >= size)
            self._room -= size
        try:
            yield
        finally:
            async with self._room_changed:
                self._room += size
                self._room_changed.notify_all()

    def _too_large(self, what: str) -> HttpError:
        return HttpError(413, f"the {what} is larger than {self._max_body} bytes; {_SETTING} sets this limit")


class _DisconnectedError(Exception):
    """The client is gone before its body was complete."""


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
    """Return a request's headers as they are without the coding."""
    outdated = (b"content-encoding", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in outdated]
    return [*headers, (b"content-length", str(len(body)).encode())]
