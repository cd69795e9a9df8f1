"""The bodies of requests: complete, decompressed and within limits before an application sees them."""

import argparse
import asyncio
from contextlib import suppress
from dataclasses import dataclass

from deployledger.serving.asgi import App, HttpError, Message, Receive, Scope, Send, respond_with_error
from deployledger.serving.content_coding import (
    CODINGS,
    Buffer,
    DecompressedTooLargeError,
    InvalidCodingError,
    decompress,
)

_MEBIBYTE = 1024 * 1024
_SETTING = "DEPLOYLEDGER_SERVING_MAX_BODY_BYTES"

SMALL_BODY = 64 * 1024
"""Bodies up to this size, in bytes, are neither counted nor moved out of the event loop."""


@dataclass(frozen=True)
class Limits:
    """How large bodies may be, in bytes.

    Attributes:
        body: the body of one request, as it is sent.
        decompressed: the body of one request, decompressed.
        in_flight: all bodies that are being received or answered; further ones are read when there is room.
    """

    body: int = 100 * _MEBIBYTE
    decompressed: int = 100 * _MEBIBYTE
    in_flight: int = 256 * _MEBIBYTE

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Let a command take limits."""
        default = Limits()
        for name, value, which in (
            ("--max-body", default.body, "the body of one request"),
            ("--max-decompressed", default.decompressed, "one body, decompressed"),
            ("--max-in-flight", default.in_flight, "all bodies at the same time"),
        ):
            parser.add_argument(name, type=int, default=value, help=f"the most bytes of {which}")

    @staticmethod
    def from_arguments(arguments: argparse.Namespace) -> "Limits":
        """Return the limits that a command was given."""
        return Limits(arguments.max_body, arguments.max_decompressed, arguments.max_in_flight)


class RequestBodies:
    """An ASGI application that gives another one each request with the whole of its body.

    The first message that the other application receives has the body; those with a ``Content-Encoding`` are
    decompressed. A body that is refused is answered here, by 413, 415 or 400.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._room = _Room(limits.in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; the signature is ASGI's."""
        if scope["method"] in ("GET", "HEAD"):  # a body has no meaning there (RFC 9110, section 9.3.1)
            await self._app(scope, receive, send)
            return
        reservation = _Reservation(self._room)
        try:
            headers = dict(scope["headers"])
            coding = _coding(headers)
            body = await self._read(receive, int(headers.get(b"content-length", -1)), coding, reservation)
            if coding is not None:
                body = await self._decompressed(body, coding, reservation)
                scope = {**scope, "headers": _headers_of(body, scope)}
            await self._app(scope, _Replay(body, receive), send)
        except HttpError as error:
            await respond_with_error(send, error)
        except _DisconnectedError:
            pass
        finally:
            await reservation.release()

    async def _read(
        self, receive: Receive, length: int, coding: str | None, reservation: "_Reservation"
    ) -> Buffer:
        self._check(length)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _DisconnectedError
            chunk: bytes = message.get("body", b"")
            self._check(len(body) + len(chunk))
            is_last = not message.get("more_body")
            if is_last and not body:
                return chunk
            body += chunk
            if is_last:
                return body
            if max(length, len(body)) > SMALL_BODY:
                size = length if length >= 0 else self._limits.body
                await reservation.take(size + (self._limits.decompressed if coding else 0))

    def _check(self, size: int) -> None:
        if size > self._limits.body:
            raise HttpError(
                413, f"the body is larger than {self._limits.body} bytes; {_SETTING} sets this limit"
            )

    async def _decompressed(self, body: Buffer, coding: str, reservation: "_Reservation") -> Buffer:
        limit = self._limits.decompressed
        try:
            if len(body) <= SMALL_BODY:
                with suppress(DecompressedTooLargeError):
                    return decompress(body, coding, limit=min(SMALL_BODY, limit))
            await reservation.take(limit)
            return await asyncio.to_thread(decompress, body, coding, limit=limit)
        except InvalidCodingError as error:
            raise HttpError(400, str(error)) from error
        except DecompressedTooLargeError:
            raise HttpError(
                413, f"the decompressed body is larger than {limit} bytes; {_SETTING} sets this limit"
            ) from None


class _DisconnectedError(Exception):
    """The client is gone before its body was complete."""


class _Room:
    """The bytes that bodies may still take."""

    def __init__(self, size: int) -> None:
        self.size = self.free = size
        self.changed = asyncio.Condition()


class _Reservation:
    """What one request has of the room for bodies.

    It is taken once, for all that the body may need: two that took more as they grew could wait for each
    other.
    """

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._size = 0

    async def take(self, size: int) -> None:
        """Wait until there is room, unless some has been taken already."""
        if self._size:
            return
        size = min(size, self._room.size)
        async with self._room.changed:
            await self._room.changed.wait_for(lambda: self._room.free >= size)
            self._room.free -= size
        self._size = size

    async def release(self) -> None:
        """Give everything back."""
        if self._size:
            async with self._room.changed:
                self._room.free += self._size
                self._room.changed.notify_all()


class _Replay:
    """Receives a body that has been read already, and then what comes after it."""

    def __init__(self, body: Buffer, receive: Receive) -> None:
        self._message: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self._receive = receive

    async def __call__(self) -> Message:
        message, self._message = self._message, None
        return await self._receive() if message is None else message


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
