"""A gateway in front of servers that a test makes up, and a client of it; all in this process."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from deployledger.gateway import request as requests
from deployledger.gateway.backend import Backend, least_loaded
from deployledger.gateway.forwarding import Frontend

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
    taken: int = 0
    backend: Backend = field(default_factory=lambda: Backend(0, object()))

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
    frontend: Frontend = field(init=False)

    @property
    def count(self) -> int:
        return len(self.ready)

    def pick_now(self, losses: Mapping[object, int]) -> Backend | None:
        return least_loaded([server.backend for server in self.ready], losses)

    async def pick(self, losses: Mapping[object, int]) -> Backend | None:
        return self.pick_now(losses)


@dataclass
class Client:
    """A client's connection to the gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def another(self) -> "Client":
        return Client(*await asyncio.open_connection(*self.writer.get_extra_info("peername")))

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
async def gateway(*servers: Serve, **limits: float) -> AsyncIterator[tuple[Client, Fleet]]:
    """A gateway with limits in front of servers, and a client that is connected to it."""
    fleet = Fleet([Server(serve) for serve in servers])
    listeners = []
    for server in fleet.ready:
        listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
        server.backend.port = listener.sockets[0].getsockname()[1]
        listeners.append(listener)
    frontend = fleet.frontend = Frontend(fleet)
    frontend.limits = replace(frontend.limits, **limits)
    front = await asyncio.get_running_loop().create_server(frontend.accept, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*front.sockets[0].getsockname())
    try:
        async with asyncio.timeout(60):
            yield Client(reader, writer), fleet
    finally:
        writer.close()
        for connection in list(frontend.connections):
            connection.close()
        for listener in (front, *listeners):
            listener.close()
    async with asyncio.timeout(60):
        while frontend.memory.left != requests.REPEATED_REQUESTS_MEMORY:
            await asyncio.sleep(0)


def error_of(body: bytes) -> str:
    error: str = json.loads(body)["error"]
    return error
