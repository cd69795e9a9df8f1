"""A client of an ASGI application in the same process: no socket, and the exact bytes both ways."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from deployledger.serving.asgi import App, Message

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """A response: its headers are in lower case, its body is as it was sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class InProcessClient:
    """Sends requests to an application, and checks that the application keeps to ASGI."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()

    def request(
        self, method: str, path: str, body: bytes | Sequence[bytes] = b"", headers: Headers = ()
    ) -> Answer:
        """Return the response; a body that is a sequence arrives in these pieces, without a length.

        Whatever the application raises is raised here.
        """
        pieces = [body] if isinstance(body, bytes) else list(body)
        given = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        if isinstance(body, bytes) and not any(name == b"content-length" for name, _ in given):
            given.append((b"content-length", str(len(body)).encode()))
        return self._runner.run(self._exchange(method, path, pieces, given))

    def post(self, path: str, body: bytes | Sequence[bytes], headers: Headers = ()) -> Answer:
        return self.request("POST", path, body, headers)

    async def _exchange(
        self, method: str, path: str, pieces: list[bytes], headers: list[tuple[bytes, bytes]]
    ) -> Answer:
        sent: list[Message] = []
        number = 0

        async def receive() -> Message:
            nonlocal number
            number += 1
            if number > max(1, len(pieces)):
                return {"type": "http.disconnect"}
            piece = pieces[number - 1] if pieces else b""
            return {"type": "http.request", "body": piece, "more_body": number < len(pieces)}

        async def send(message: Message) -> None:
            sent.append(message)

        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 123),
            "scheme": "http",
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"model.example"), *headers],
            "state": {},
        }
        await self._app(scope, receive, send)
        start, *rest = sent
        assert start["type"] == "http.response.start"
        assert rest
        assert all(message["type"] == "http.response.body" for message in rest)
        assert [message.get("more_body", False) for message in rest] == [True] * (len(rest) - 1) + [False]
        answer = Answer(
            start["status"],
            {name.decode().lower(): value.decode() for name, value in start.get("headers", ())},
            b"".join(bytes(message.get("body", b"")) for message in rest),
        )
        if method != "HEAD" and "content-length" in answer.headers:
            assert int(answer.headers["content-length"]) == len(answer.body)
        return answer
