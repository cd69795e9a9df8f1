"""What a client of the gateway sees when servers end with its request: real sockets, failing servers."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from deployledger.gateway import exchange
from deployledger.gateway.exchange import RequestMemory
from deployledger.gateway.forwarding import LOSSES_PER_SERVER, ClientConnection

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


def response(body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def request(body: bytes = b"", *headers: bytes) -> bytes:
    lines = [b"POST /infer HTTP/1.1", b"host: x", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as the kernel does for a process that was killed with bytes unread."""
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


def echoes(name: bytes) -> Serve:
    """A server that answers each request with its name and the request's body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, _, body = (await read_request(reader)).partition(b"\r\n\r\n")
            writer.write(response(name + b":" + body))

    return serve


def loses(*, by_reset: bool = False, after: bytes = b"") -> Serve:
    """A server that takes a request, says ``after``, and is gone."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(after)
        await writer.drain()
        reset(writer) if by_reset else writer.close()

    return serve


@dataclass(eq=False)
class Server:
    """A replica, and what it was asked."""

    serve: Serve
    connections: set[ClientConnection] = field(default_factory=set)
    taken: int = 0
    port: int = 0

    @property
    def process(self) -> object:
        return self

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        try:
            await self.serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass
class Fleet:
    """Replicas that are ready, in the order in which they are picked."""

    ready: list[Server]

    @property
    def count(self) -> int:
        return len(self.ready)

    async def pick(self, losses: Mapping[object, int]) -> Server | None:
        left = [server for server in self.ready if losses.get(server, 0) < LOSSES_PER_SERVER]
        return min(left, key=lambda server: losses.get(server, 0), default=None)


@dataclass
class Client:
    """A client's connection to the gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> tuple[int, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            return await self.answer()
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head.split(b" ")[1]), await self.reader.readexactly(length)

    async def ask(self, body: bytes = b"", *headers: bytes) -> tuple[int, bytes]:
        self.writer.write(request(body, *headers))
        return await self.answer()


@asynccontextmanager
async def gateway(*servers: Serve) -> AsyncIterator[tuple[Client, Fleet]]:
    """A gateway in front of servers, and a client that is connected to it."""
    fleet = Fleet([Server(serve) for serve in servers])
    listeners = []
    for server in fleet.ready:
        listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
        server.port = listener.sockets[0].getsockname()[1]
        listeners.append(listener)
    memory = RequestMemory()
    connections: list[ClientConnection] = []

    def connection() -> ClientConnection:
        connections.append(ClientConnection(fleet, memory))
        return connections[-1]

    front = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*front.sockets[0].getsockname())
    try:
        async with asyncio.timeout(60):
            yield Client(reader, writer), fleet
    finally:
        writer.close()
        for each in connections:
            each.close()
        for listener in (front, *listeners):
            listener.close()
    async with asyncio.timeout(60):
        while memory.left != exchange.REPEATED_REQUESTS_MEMORY:
            await asyncio.sleep(0)


def error_of(body: bytes) -> str:
    error: str = json.loads(body)["error"]
    return error


class TestUnansweredRequests:
    @pytest.mark.parametrize("by_reset", [False, True])
    async def test_a_request_that_a_server_lost_goes_to_the_next_one(self, by_reset: bool) -> None:
        async with gateway(loses(by_reset=by_reset), echoes(b"b")) as (client, fleet):
            assert await client.ask(b"x" * 100_000) == (200, b"b:" + b"x" * 100_000)
            assert [server.taken for server in fleet.ready] == [1, 1]
            # and the connection is good for more
            assert await client.ask(b"2") == (200, b"b:2")

    async def test_a_request_on_a_kept_connection_that_the_server_closes(self) -> None:
        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(response(b"a"))
            await read_request(reader)  # and is gone

        async with gateway(once) as (client, fleet):
            assert await client.ask(b"1") == (200, b"a")
            assert await client.ask(b"2") == (200, b"a")
            assert fleet.ready[0].taken == 2

    async def test_an_idle_connection_stays_when_its_server_closes_it(self) -> None:
        closed = asyncio.Event()

        async def impatient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(response(b"a"))
            writer.close()
            await writer.wait_closed()
            closed.set()

        async with gateway(impatient) as (client, _):
            for _ in range(3):
                closed.clear()
                assert await client.ask() == (200, b"a")
                await closed.wait()
            assert not client.reader.at_eof()

    async def test_a_body_that_is_being_sent_goes_on_to_the_next_server(self) -> None:
        half = asyncio.Event()

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"first half")
            reset(writer)
            half.set()

        async with gateway(cut, echoes(b"b")) as (client, fleet):
            whole = request(b"first half, second half")
            client.writer.write(whole[:-13])
            await half.wait()
            while not fleet.ready[1].taken:
                await asyncio.sleep(0)
            client.writer.write(whole[-13:])
            assert await client.answer() == (200, b"b:first half, second half")

    async def test_a_chunked_body_goes_to_the_next_server(self) -> None:
        async def chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n0\r\n\r\n")
            writer.write(response(b"b"))

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"3\r\nabc\r\n")

        async with gateway(cut, chunks) as (client, _):
            head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            client.writer.write(head + b"3\r\nabc\r\n0\r\n\r\n")
            assert await client.answer() == (200, b"b")

    async def test_a_request_that_was_only_told_to_continue_is_unanswered(self) -> None:
        go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        async with gateway(loses(after=go_on), echoes(b"b")) as (client, _):
            assert await client.ask(b"x", b"expect: 100-continue") == (200, b"b:x")

    async def test_pipelined_requests_are_each_answered_once(self) -> None:
        async def one_of_two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, _, body = (await read_request(reader)).partition(b"\r\n\r\n")
            writer.write(response(b"a:" + body))
            await read_request(reader)

        async with gateway(one_of_two) as (client, fleet):
            client.writer.write(request(b"1") + request(b"2") + request(b"3"))
            assert [await client.answer() for _ in range(3)] == [(200, b"a:%d" % n) for n in (1, 2, 3)]
            assert fleet.ready[0].taken == 3

    async def test_a_client_that_ends_its_side_still_gets_its_answer(self) -> None:
        async with gateway(loses(), echoes(b"b")) as (client, _):
            client.writer.write(request(b"x"))
            client.writer.write_eof()
            assert await client.answer() == (200, b"b:x")
            assert await client.reader.read() == b""

    async def test_a_server_that_hangs_up_at_once_is_given_up(self) -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reset(writer)

        async with gateway(hang_up, echoes(b"b")) as (client, _):
            assert await client.ask(b"x") == (200, b"b:x")


class TestLostRequests:
    @pytest.mark.parametrize("replicas", [1, 2, 3])
    async def test_a_request_that_every_server_loses_is_refused(self, replicas: int) -> None:
        async with gateway(*[loses()] * replicas) as (client, fleet):
            status, body = await client.ask(b"poison")
            assert status == 502
            assert "Every server that accepted this request exited" in error_of(body)
            assert sum(server.taken for server in fleet.ready) == max(2, replicas)

    async def test_a_request_that_is_too_large_to_keep_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exchange, "LARGEST_REPEATED_REQUEST", 1000)
        async with gateway(loses(), echoes(b"b")) as (client, fleet):
            status, body = await client.ask(b"x" * 1001)
            assert status == 502
            assert "too large to be passed to another one: over 4 MiB" in error_of(body)
            assert fleet.ready[1].taken == 0

    async def test_requests_are_kept_within_one_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # given a gateway whose memory other connections use up
        monkeypatch.setattr(exchange, "REPEATED_REQUESTS_MEMORY", 100)
        monkeypatch.setattr(RequestMemory, "__init__", lambda self: setattr(self, "left", 100))
        async with gateway(loses(), echoes(b"b")) as (client, _):
            status, _ = await client.ask(b"x" * 101)
            assert status == 502

    async def test_no_server_at_all_is_another_error(self) -> None:
        async with gateway() as (client, _):
            status, body = await client.ask()
            assert (status, error_of(body)) == (503, "No replica of this deployment is ready.")

    @pytest.mark.parametrize("by_reset", [False, True])
    @pytest.mark.parametrize(
        "begun",
        [
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            b"HTTP/1.1 2",
        ],
    )
    async def test_an_answer_that_was_begun_is_cut_and_not_asked_for_again(
        self, begun: bytes, by_reset: bool
    ) -> None:
        async with gateway(loses(by_reset=by_reset, after=begun), echoes(b"b")) as (client, fleet):
            client.writer.write(request())
            try:
                received = await client.reader.read()
            except ConnectionResetError:
                received = b""
            assert begun.startswith(received)
            assert fleet.ready[1].taken == 0

    async def test_an_answer_without_a_length_is_reset_when_it_is_cut(self) -> None:
        written = asyncio.Event()

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            await written.wait()
            reset(writer)

        async with gateway(cut) as (client, _):
            client.writer.write(request())
            assert await client.reader.readuntil(b"half")
            written.set()
            with pytest.raises(ConnectionResetError):
                await client.reader.read()

    async def test_the_rest_of_a_body_is_no_request(self) -> None:
        # given a server that answers before it has the whole body, and closes
        async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"half")
            writer.write(response(b"no"))
            await reader.readuntil(b"rest")

        async with gateway(refuses, echoes(b"b")) as (client, fleet):
            whole = request(b"half" + request(b"rest"))
            client.writer.write(whole[: whole.index(b"half") + 4])
            assert await client.answer() == (200, b"no")
            client.writer.write(whole[whole.index(b"half") + 4 :])
            assert await client.reader.read() == b""
            assert fleet.ready[1].taken == 0


class TestPassedOn:
    @pytest.mark.parametrize(
        ("sent", "answered"),
        [
            (b"not HTTP at all\r\n\r\n", b"hello"),
            (request(b"", b"connection: upgrade", b"upgrade: echo"), b"HTTP/1.1 101 Switching\r\n\r\nhello"),
            (b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
            (b"GET / HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\nuntil the end"),
            (request(), b"HTTP/1.1 204 No Content\r\n\r\n"),
            (request(), b"HTTP/1.1 103 Early Hints\r\n\r\n" + response(b"x", b"connection: close")),
        ],
    )
    async def test_what_the_server_says_reaches_the_client(self, sent: bytes, answered: bytes) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(sent))
            writer.write(answered)

        async with gateway(serve) as (client, _):
            client.writer.write(sent)
            assert await client.reader.readexactly(len(answered)) == answered

    async def test_a_connection_of_another_protocol_ends_with_its_server(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")

        async with gateway(serve, echoes(b"b")) as (client, fleet):
            client.writer.write(b"not HTTP at all\r\n\r\n")
            assert await client.reader.read() == b""
            assert fleet.ready[1].taken == 0


async def test_a_connection_is_not_quiet_before_its_answer_has_ended() -> None:
    # given a server that pauses in the middle of its answer
    half = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(response(b"both halves")[:-6])
        await half.wait()
        writer.write(b"halves")

    async with gateway(slow) as (client, fleet):
        client.writer.write(request())
        await client.reader.readuntil(b"both ")
        (connection,) = fleet.ready[0].connections
        assert connection.quiet_seconds() == 0
        half.set()
        assert await client.reader.readexactly(6) == b"halves"
