"""ASGI applications without a framework, https://asgi.readthedocs.io/en/latest/specs/main.html."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
_LONGEST_PATH = 200
"""How much of a path an error repeats, in characters."""


class HttpError(Exception):
    """A request that is answered with an error; the message says what is wrong and what to do."""

    def __init__(self, status: int, message: str, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


def router(routes: Mapping[str, Mapping[str, App]], not_found: Callable[[str], str]) -> App:
    """Return the application that answers by path and method; an `HttpError` of a handler is its answer.

    Args:
        routes: the handlers by path and method.
        not_found: returns what to say of another path.
    """

    def handler(path: str, method: str) -> App:
        handlers = routes.get(path)
        if handlers is None:
            raise HttpError(404, not_found(path[:_LONGEST_PATH]))
        if method not in handlers:
            allowed = ", ".join(handlers)
            reason = f"{path} does not have the method {method}; it has {allowed}"
            raise HttpError(405, reason, [(b"allow", allowed.encode())])
        return handlers[method]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await handler(scope["path"], scope["method"])(scope, receive, send)
        except HttpError as error:
            await respond_with_error(send, error)

    return app


def always(content: bytes, *headers: tuple[bytes, bytes]) -> App:
    """Return the handler that gives every request the same answer."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(send, 200, headers, content)

    return answer


async def respond(send: Send, status: int, headers: Headers, *parts: bytes | memoryview) -> None:
    """Send a whole response; its body is sent part by part, to copy none of them."""
    length = str(sum(map(len, parts))).encode()
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [*headers, (b"content-length", length)]})
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1]})


async def respond_with_error(send: Send, error: HttpError) -> None:
    """Send an error in the form of the Open Inference Protocol: an object with a message."""
    await respond(send, error.status, [JSON, *error.headers], orjson.dumps({"error": str(error)}))
