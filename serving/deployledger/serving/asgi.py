"""ASGI applications without a framework, https://asgi.readthedocs.io/en/latest/specs/main.html."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")


class HttpError(Exception):
    """A request that is answered with an error: its text says what was wrong and what to do."""

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


async def respond(send: Send, status: int, headers: Headers, *parts: bytes | memoryview) -> None:
    """Send a whole response; its body is sent part by part, which copies none of them."""
    length = str(sum(map(len, parts))).encode()
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [*headers, (b"content-length", length)]})
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1]})


async def respond_with_error(send: Send, error: HttpError) -> None:
    """Send an error as the Open Inference Protocol has them: an object with its text."""
    await respond(send, error.status, [JSON, *error.headers], orjson.dumps({"error": str(error)}))
