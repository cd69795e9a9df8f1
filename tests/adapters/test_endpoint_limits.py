"""What a gateway refuses: limits, and requests that two programs might read differently."""

import asyncio
import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from deployledger.adapters.settings import load_settings
from deployledger.gateway.limits import Limits
from deployledger.gateway.messages import RevisionSpec
from tests.adapters.gateways import (
    Client,
    Fleet,
    Serve,
    echoes,
    error_of,
    gateway,
    read_request,
    request,
    response,
)

HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def swallows(progress: list[int]) -> Serve:
    """A server that takes whatever comes, and answers nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            progress.append(len(data))

    return serve


async def refused(client: Client, sent: bytes) -> tuple[int, str]:
    """Send what is refused; return the status and the error, after which the connection is closed."""
    client.writer.write(sent)
    status, body = await client.answer()
    client.writer.close()
    assert await client.reader.read() == b""
    return status, error_of(body)


def later(fleet: Fleet, seconds: float) -> None:
    """Let the gateway check its connections as if so much time had passed."""
    fleet.frontend.check(asyncio.get_running_loop().time() + seconds)


class TestSettings:
    def test_each_limit_is_a_setting(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert load_settings(home=tmp_path).serving_limits == Limits()
        for number, limit in enumerate(fields(Limits), 2000):
            monkeypatch.setenv(f"DEPLOYLEDGER_SERVING_{limit.name.upper()}", str(number))
        assert list(asdict(load_settings(home=tmp_path).serving_limits).values()) == list(range(2000, 2007))

    def test_limits_of_another_version_are_read(self) -> None:
        limits = Limits(max_body_bytes=5, response_timeout=3.0)
        assert Limits.from_json({**limits.to_json(), "of a later version": 1}) == limits
        assert Limits.from_json({}) == Limits()

    def test_a_revision_of_another_version_is_read(self) -> None:
        earlier = {"number": 1, "command": ["x"], "replicas": 1, "ready_path": "/ping", "ready_timeout": 1.0}
        earlier |= {"drains": True, "port": 0, "port_is_fixed": False, "folder": "/f", "log": "/f/l"}
        # and gateways of earlier versions get just the keys that they know
        assert RevisionSpec.from_json(earlier).to_json() == {**earlier, "drains": False}


class TestSizes:
    async def test_a_length_is_refused_before_anything_of_it_is_sent(self) -> None:
        async with gateway(echoes(b"a"), max_body_bytes=1000) as (client, fleet):
            assert await client.ask(b"x" * 1000) == (200, b"a:" + b"x" * 1000)
            status, error = await refused(
                client, HEAD + b"content-length: 1001\r\nexpect: 100-continue\r\n\r\n"
            )
            assert status == 413
            assert error == (
                "The body of a request may have up to 1000 bytes. "
                "DEPLOYLEDGER_SERVING_MAX_BODY_BYTES sets this limit."
            )
            assert fleet.ready[0].taken == 1

    async def test_a_chunked_body_is_refused_when_it_exceeds_the_limit(self) -> None:
        progress: list[int] = []
        async with gateway(swallows(progress), max_body_bytes=1000) as (client, _):
            client.writer.write(CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            while sum(progress) < 1000:
                await asyncio.sleep(0)
            status, error = await refused(client, b"1\r\nx\r\n")
            assert (status, "MAX_BODY_BYTES" in error) == (413, True)

    @pytest.mark.parametrize("framing", [b"1;" + b"x" * 2000, b"1\r\nx\r\n" * 400])
    async def test_what_is_around_chunks_is_counted(self, framing: bytes) -> None:
        progress: list[int] = []
        async with gateway(swallows(progress), max_body_bytes=1000, max_head_bytes=1000) as (client, _):
            client.writer.write(CHUNKED + b"1\r\nx\r\n")
            while not progress:
                await asyncio.sleep(0)
            status, error = await refused(client, framing)
            assert (status, "MAX_BODY_BYTES" in error) == (413, True)

    async def test_a_body_of_any_size_is_passed_on_while_it_comes(self) -> None:
        # given a server that takes nothing more after a while
        full = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await full.wait()
            size = 0
            while size < 64_000_000:
                size += len(await reader.read(1 << 20))
            writer.write(response(b"%d" % size))

        async with gateway(slow) as (client, fleet):
            client.writer.write(HEAD + b"content-length: 64000000\r\n\r\n")
            sending = asyncio.create_task(self.send(client, 64))
            (connection,) = fleet.frontend.connections
            while not connection._is_paused:
                await asyncio.sleep(0)
            # then the client waits, and nothing was buffered to be repeated
            assert not sending.done()
            assert fleet.frontend.memory.left == 64 * 1024 * 1024
            later(fleet, 1000)  # nor is that the client's fault
            full.set()
            assert await client.answer() == (200, b"64000000")
            await sending

    @staticmethod
    async def send(client: Client, megabytes: int) -> None:
        for _ in range(megabytes):
            client.writer.write(bytes(1_000_000))
            await client.writer.drain()

    @pytest.mark.parametrize(
        "sent",
        [
            HEAD + b"a: " + b"x" * 2000 + b"\r\n\r\n",
            HEAD + b"a: b\r\n" * 200 + b"\r\n",
            HEAD + b"a: " + b"x" * 2000,
            b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
            CHUNKED + b"0\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        ],
        ids=["field", "fields", "unfinished", "target", "trailer"],
    )
    async def test_heads(self, sent: bytes) -> None:
        progress: list[int] = []
        async with gateway(swallows(progress), max_head_bytes=1024) as (client, _):
            status, error = await refused(client, sent)
            assert (status, "DEPLOYLEDGER_SERVING_MAX_HEAD_BYTES" in error) == (431, True)

    async def test_the_head_is_measured_and_not_what_comes_with_it(self) -> None:
        async with gateway(echoes(b"a"), max_head_bytes=1024) as (client, _):
            client.writer.write(request(b"x" * 5000) + request(b"y" * 5000) + request(b"z")[:-5])
            assert await client.answer() == (200, b"a:" + b"x" * 5000)
            assert await client.answer() == (200, b"a:" + b"y" * 5000)
            client.writer.write(request(b"z")[-5:])
            assert await client.answer() == (200, b"a:z")

    async def test_connections(self) -> None:
        async with gateway(echoes(b"a"), max_connections=2) as (client, _):
            assert await client.ask() == (200, b"a:")
            second, third = await client.another(), await client.another()
            status, body = await third.answer()
            assert (status, "DEPLOYLEDGER_SERVING_MAX_CONNECTIONS" in error_of(body)) == (503, True)
            assert await third.reader.read() == b""
            assert await second.ask() == await client.ask() == (200, b"a:")
            second.writer.close()
            third.writer.close()


class TestTimes:
    async def test_a_head_has_to_come_in_time_however_often_a_byte_comes(self) -> None:
        async with gateway(echoes(b"a"), head_timeout=20) as (client, fleet):
            (connection,) = fleet.frontend.connections
            client.writer.write(HEAD)
            while not connection._parser.is_in_head:
                await asyncio.sleep(0)
            began = connection._last_progress
            later(fleet, 10)
            client.writer.write(b"x: y\r\n")
            while connection._parser._bytes_before_head <= len(HEAD):
                await asyncio.sleep(0)
            assert connection._last_progress == began
            later(fleet, 21)
            status, error = await refused(client, b"")
            assert status == 408
            assert error.startswith("The head of the request did not arrive within 20 seconds.")
            assert "DEPLOYLEDGER_SERVING_HEAD_TIMEOUT" in error

    async def test_a_body_that_makes_no_progress(self) -> None:
        progress: list[int] = []
        async with gateway(swallows(progress)) as (client, fleet):
            client.writer.write(request(b"a body")[:-1])
            while not progress:
                await asyncio.sleep(0)
            later(fleet, 59)
            later(fleet, 61)
            status, error = await refused(client, b"")
            assert (status, "DEPLOYLEDGER_SERVING_BODY_TIMEOUT" in error) == (408, True)
            assert fleet.ready[0].backend.work == 0

    async def test_an_idle_connection(self) -> None:
        async with gateway(echoes(b"a")) as (client, fleet):
            assert await client.ask() == (200, b"a:")
            later(fleet, 119)
            assert await client.ask() == (200, b"a:")
            later(fleet, 121)
            assert await client.reader.read() == b""

    @pytest.mark.parametrize("limit", [None, 300])
    async def test_a_model_may_compute_for_long(self, limit: float | None) -> None:
        proceed = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await proceed.wait()
            writer.write(response(b"a"))

        more = {} if limit is None else {"response_timeout": limit}
        async with gateway(slow, **more) as (client, fleet):
            client.writer.write(request(b"x"))
            while not fleet.ready[0].taken:
                await asyncio.sleep(0)
            later(fleet, 299)
            later(fleet, 100_000)
            proceed.set()
            status, body = await client.answer()
            if limit is None:
                assert (status, body) == (200, b"a")
            else:
                assert (status, error_of(body)[:48]) == (
                    504,
                    "The model did not respond within 300 seconds. DE",
                )

    async def test_a_client_that_does_not_read_its_answer(self) -> None:
        async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(response(bytes(64_000_000)))
            await reader.read()

        async with gateway(large) as (client, fleet):
            (connection,) = fleet.frontend.connections
            client.writer.write(request(b"x"))
            while not connection._client_is_full:
                await asyncio.sleep(0)
            later(fleet, 59)
            assert fleet.frontend.connections
            later(fleet, 61)
            while fleet.frontend.connections:
                await asyncio.sleep(0)

    async def test_slow_clients_leave_the_others_served(self) -> None:
        async with gateway(echoes(b"a")) as (client, fleet):
            slow = [await client.another() for _ in range(100)]
            for number, each in enumerate(slow):
                each.writer.write(HEAD if number % 2 else request(b"xy")[:-1])
            while fleet.ready[0].taken < 50:
                await asyncio.sleep(0)
            assert await client.ask(b"1") == (200, b"a:1")
            later(fleet, 1000)
            for each in slow:
                assert (await each.answer())[0] == 408
                each.writer.close()


MALFORMED = {
    "length and coding": HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "list of lengths": HEAD + b"content-length: 3, 3\r\n\r\nabc",
    "signed length": HEAD + b"content-length: +3\r\n\r\nabc",
    "endless length": HEAD + b"content-length: 99999999999999999999999\r\n\r\nabc",
    "space before colon": HEAD + b"content-length : 3\r\n\r\nabc",
    "bare LF": b"POST / HTTP/1.1\nhost: x\n\n",
    "bare LF in head": b"POST / HTTP/1.1\r\nhost: x\na: b\r\n\r\n",
    "bare CR": HEAD + b"a: b\rc: d\r\n\r\n",
    "folded field": HEAD + b"a: b\r\n c\r\n\r\n",
    "NUL": HEAD + b"a: b\0c\r\n\r\n",
    "control character": HEAD + b"a: b\x01c\r\n\r\n",
    "no colon": HEAD + b"abc\r\n\r\n",
    "space in target": b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": HEAD + b"host: y\r\n\r\n",
    "coding after chunked": HEAD + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "not HTTP": b"not HTTP at all\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

BAD_CHUNKS = {
    "chunk size": b"zz\r\nabc\r\n0\r\n\r\n",
    "prefixed chunk size": b"0x3\r\nabc\r\n0\r\n\r\n",
    "endless chunk size": b"fffffffffffffffffff\r\nabc",
    "bare LF after chunk size": b"3\nabc\n0\n\n",
    "longer chunk": b"3\r\nabcd\r\n0\r\n\r\n",
}


class TestMalformed:
    @pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
    async def test_heads_never_reach_a_server(self, sent: bytes) -> None:
        async with gateway(echoes(b"a")) as (client, fleet):
            status, error = await refused(client, sent)
            assert status == 400
            assert re.match(r"Not valid HTTP/1\.1: .+\.|Expected one Host field, got \d\.", error)
            assert fleet.ready[0].taken == 0

    @pytest.mark.parametrize("chunks", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
    async def test_chunks(self, chunks: bytes) -> None:
        progress: list[int] = []
        async with gateway(swallows(progress)) as (client, fleet):
            assert (await refused(client, CHUNKED + chunks))[0] == 400
            assert fleet.ready[0].backend.work == 0

    @pytest.mark.parametrize(
        "sent",
        [
            HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
            b"GET /\r\n\r\n",
        ],
    )
    async def test_what_is_valid_but_unsupported(self, sent: bytes) -> None:
        async with gateway(echoes(b"a")) as (client, fleet):
            status, error = await refused(client, sent)
            assert (status, "nsupported" in error) == (400, True)
            assert fleet.ready[0].taken == 0

    @pytest.mark.parametrize("sent", [HEAD, request(b"body")[:-1], request(b"1") + HEAD, CHUNKED + b"3\r\na"])
    async def test_a_request_that_ends_in_the_middle_closes_the_connection(self, sent: bytes) -> None:
        async with gateway(echoes(b"a")) as (client, fleet):
            client.writer.write(sent)
            client.writer.write_eof()
            assert await client.reader.read() in (b"", response(b"a:1"))
            assert fleet.ready[0].backend.work == 0

    async def test_the_requests_before_it_are_answered(self) -> None:
        async with gateway(echoes(b"a")) as (client, _):
            client.writer.write(request(b"1") + request(b"2") + b"\0")
            assert await client.answer() == (200, b"a:1")
            assert await client.answer() == (200, b"a:2")
            assert (await refused(client, b"more"))[0] == 400

    async def test_nothing_is_read_after_the_last_request(self) -> None:
        async with gateway(echoes(b"a")) as (client, fleet):
            client.writer.write(request(b"1", b"connection: close") + request(b"2"))
            assert await client.answer() == (200, b"a:1")
            assert await client.reader.read() == b""
            assert fleet.ready[0].taken == 1
