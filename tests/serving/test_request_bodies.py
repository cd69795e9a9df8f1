"""Bodies of requests: whole, decompressed and within limits before an application sees them."""

import asyncio
import gzip
import json
from collections.abc import Iterable

import pytest

from deployledger.serving.asgi import Message, Receive, Scope, Send, respond
from deployledger.serving.request_bodies import SMALL_BODY, RequestBodies

MAX_BODY = 4 * SMALL_BODY


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    assert not message["more_body"]
    await respond(send, 200, scope["headers"], bytes(message["body"]))


class Exchange:
    """One request and its answer; chunks of the body may be given one by one."""

    def __init__(self, app: RequestBodies, headers: dict[str, str], method: str = "POST") -> None:
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._scope = {"type": "http", "method": method, "path": "/", "headers": encoded}
        self._app = app
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self.read = 0
        self.sent: list[Message] = []

    def give(self, chunks: Iterable[bytes], *, more: bool = False) -> None:
        chunks = list(chunks)
        for number, chunk in enumerate(chunks, 1):
            self._messages.put_nowait(
                {"type": "http.request", "body": chunk, "more_body": more or number < len(chunks)}
            )

    def hang_up(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def run(self) -> None:
        async def send(message: Message) -> None:
            self.sent.append(message)

        await self._app(self._scope, self._receive, send)

    async def _receive(self) -> Message:
        message = await self._messages.get()
        self.read += len(message.get("body", b""))
        return message

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])


async def answer(
    chunks: list[bytes], headers: dict[str, str] | None = None, *, max_body: int = MAX_BODY
) -> Exchange:
    exchange = Exchange(RequestBodies(echo, max_body), headers or {})
    exchange.give(chunks)
    await exchange.run()
    return exchange


def length(size: int) -> dict[str, str]:
    return {"content-length": str(size)}


class TestSizes:
    @pytest.mark.parametrize("chunks", [[b"abc"], [b"a", b"bc"], [b""]])
    async def test_the_body_is_whole(self, chunks: list[bytes]) -> None:
        assert (await answer(chunks)).body == b"".join(chunks)

    async def test_a_body_as_large_as_allowed(self) -> None:
        body = bytes(MAX_BODY)
        assert (await answer([body[:1], body[1:]], length(len(body)))).body == body

    async def test_a_declared_body_that_is_too_large_is_not_read(self) -> None:
        exchange = await answer([b"a"], length(MAX_BODY + 1))
        assert (exchange.status, exchange.read) == (413, 0)
        assert str(MAX_BODY) in json.loads(exchange.body)["error"]

    async def test_a_body_of_unknown_length_is_read_up_to_the_limit(self) -> None:
        exchange = await answer([bytes(SMALL_BODY)] * 100)
        assert exchange.status == 413
        assert exchange.read == MAX_BODY + SMALL_BODY

    async def test_the_limit_holds_for_a_body_in_one_piece(self) -> None:
        assert (await answer([b"abc"], max_body=3)).status == 200
        assert (await answer([b"abcd"], max_body=3)).status == 413

    async def test_a_client_that_hangs_up_gets_no_answer(self) -> None:
        exchange = Exchange(RequestBodies(echo, MAX_BODY), length(10))
        exchange.give([b"abc"], more=True)
        exchange.hang_up()
        await exchange.run()
        assert exchange.sent == []


class TestCodings:
    async def test_the_application_sees_a_body_without_coding(self) -> None:
        body = gzip.compress(b"abc")
        exchange = await answer([body], {"content-encoding": "gzip", **length(len(body))})
        assert exchange.body == b"abc"
        assert b"content-encoding" not in exchange.headers
        assert exchange.headers[b"content-length"] == b"3"

    @pytest.mark.parametrize("times", [2, 4])
    async def test_large_ones_are_decompressed_up_to_the_limit(self, times: int) -> None:
        content = bytes(times * SMALL_BODY)
        exchange = await answer([gzip.compress(content)], {"content-encoding": "gzip"})
        assert exchange.body == content

    async def test_a_bomb_is_refused(self) -> None:
        exchange = await answer([gzip.compress(bytes(MAX_BODY + 1))], {"content-encoding": "gzip"})
        assert exchange.status == 413
        assert "decompressed" in json.loads(exchange.body)["error"]

    async def test_the_codings_that_are_known_are_named(self) -> None:
        exchange = await answer([b"x"], {"content-encoding": "br"})
        assert exchange.status == 415
        assert exchange.headers[b"accept-encoding"] == b"zstd, gzip, deflate"


class TestRoom:
    async def test_bodies_wait_unread_while_there_is_no_room(self) -> None:
        app = RequestBodies(echo, MAX_BODY)
        exchanges = [Exchange(app, length(MAX_BODY)) for _ in range(5)]
        for exchange in exchanges:
            exchange.give([bytes(SMALL_BODY)] * 3, more=True)
        tasks = [asyncio.create_task(exchange.run()) for exchange in exchanges]
        await settle()
        assert 2 * MAX_BODY < sum(exchange.read for exchange in exchanges) < 3 * MAX_BODY
        small = Exchange(app, length(3))
        small.give([b"abc"])
        await small.run()
        assert small.body == b"abc"
        for exchange in exchanges:
            exchange.give([bytes(SMALL_BODY)])
        await asyncio.gather(*tasks)
        assert [len(exchange.body) for exchange in exchanges] == [MAX_BODY] * 5

    async def test_large_bodies_that_hardly_arrive_keep_nobody_waiting(self) -> None:
        app = RequestBodies(echo, MAX_BODY)
        slow = [Exchange(app, length(MAX_BODY)) for _ in range(100)]
        for exchange in slow:
            exchange.give([b"a"], more=True)
        tasks = [asyncio.create_task(exchange.run()) for exchange in slow]
        await settle()
        exchange = Exchange(app, length(MAX_BODY))
        exchange.give([bytes(SMALL_BODY)] * 4)
        await exchange.run()
        assert len(exchange.body) == MAX_BODY
        for task in tasks:
            task.cancel()

    async def test_a_client_that_hangs_up_gives_its_room_back(self) -> None:
        app = RequestBodies(echo, MAX_BODY)
        for _ in range(9):
            exchange = Exchange(app, length(MAX_BODY))
            exchange.give([bytes(SMALL_BODY)] * 3, more=True)
            exchange.hang_up()
            await exchange.run()
        slow, fast = (Exchange(app, length(MAX_BODY)) for _ in range(2))
        slow.give([bytes(SMALL_BODY)] * 3, more=True)
        fast.give([bytes(SMALL_BODY)] * 4)
        waiting = asyncio.create_task(slow.run())
        await settle()
        finished = asyncio.create_task(fast.run())
        await settle()
        assert finished.done()
        waiting.cancel()


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)
