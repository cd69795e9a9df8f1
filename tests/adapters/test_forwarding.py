"""What a client of the gateway sees when servers end with its request: real sockets, failing servers."""

import asyncio

import pytest

from deployledger.gateway import forwarding
from deployledger.gateway import request as requests
from deployledger.gateway.backend import REQUEST_WORK, Backend, least_loaded
from deployledger.gateway.request import RequestMemory
from tests.adapters.gateways import echoes, error_of, gateway, loses, read_request, request, reset, response


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
        monkeypatch.setattr(requests, "LARGEST_REPEATED_REQUEST", 1000)
        async with gateway(loses(), echoes(b"b")) as (client, fleet):
            status, body = await client.ask(b"x" * 1001)
            assert status == 502
            assert "too large to be passed to another one: over 4 MiB" in error_of(body)
            assert fleet.ready[1].taken == 0

    async def test_requests_are_kept_within_one_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # given a gateway whose memory other connections use up
        monkeypatch.setattr(requests, "REPEATED_REQUESTS_MEMORY", 100)
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

    @pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
    async def test_an_answer_without_a_length_is_reset_when_it_is_cut(self, version: bytes) -> None:
        written = asyncio.Event()

        async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
            await written.wait()
            reset(writer)

        async with gateway(cut) as (client, _):
            client.writer.write(request().replace(b"HTTP/1.1", version))
            assert await client.reader.readuntil(b"half")
            written.set()
            with pytest.raises(ConnectionResetError):
                await client.reader.read()

    async def test_half_a_head_is_no_answer(self) -> None:
        async with gateway(loses(after=b"HTTP/1.1 2"), echoes(b"b")) as (client, _):
            assert await client.ask(b"x") == (200, b"b:x")

    async def test_a_server_of_another_protocol(self) -> None:
        async with gateway(loses(after=b"+OK ready\r\n"), echoes(b"b")) as (client, _):
            status, body = await client.ask(b"x")
            assert (status, "other than an HTTP/1.1 response" in error_of(body)) == (502, True)

    async def test_the_rest_of_a_body_is_no_request(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forwarding, "_LINGER_SECONDS", 0.05)

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


UPGRADE = (b"connection: upgrade", b"upgrade: echo")


class TestPassedOn:
    @pytest.mark.parametrize(
        ("sent", "answered", "received"),
        [
            (b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", None),
            (request(), b"HTTP/1.1 204 No Content\r\n\r\n", None),
            (request(), b"HTTP/1.1 103 Early Hints\r\n\r\n" + response(b"x"), None),
            (request(), b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", None),
            (
                request(),
                b"HTTP/1.0 200 OK\r\n\r\nto the end",
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nto the end\r\n0\r\n\r\n",
            ),
            (
                b"GET / HTTP/1.0\r\n\r\n",
                b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\nto the end",
                b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nto the end",
            ),
            (
                b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
                response(b"x"),
                response(b"x", b"connection: keep-alive"),
            ),
            # what a server says of its connection is not about the client's
            (request(), response(b"x", b"connection: close", b"keep-alive: timeout=5"), response(b"x")),
        ],
    )
    async def test_what_the_server_says_reaches_the_client(
        self, sent: bytes, answered: bytes, received: bytes | None
    ) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answered)

        expected = answered if received is None else received
        async with gateway(serve) as (client, _):
            client.writer.write(sent)
            assert await client.reader.readexactly(len(expected)) == expected

    async def test_fields_for_the_next_hop_stay_behind(self) -> None:
        async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(response(await reader.readuntil(b"\r\n\r\n")))

        async with gateway(tell) as (client, _):
            fields = (b"Connection: x-hop, content-length, host", b"X-Hop: 1", b"TE: trailers", b"X-End:  2 ")
            _, head = await client.ask(b"", *fields)
            assert head == b"POST /infer HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nx-end: 2\r\n\r\n"

    @pytest.mark.parametrize(
        ("sent", "answered"),
        [
            (
                b"GET / HTTP/1.1\r\nhost: x\r\n%b\r\n%b\r\n\r\n" % UPGRADE,
                b"HTTP/1.1 101 Switching\r\n%b\r\n%b",
            ),
            (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: %.0b%.0b1"),
        ],
    )
    async def test_another_protocol_that_the_server_agrees_to(self, sent: bytes, answered: bytes) -> None:
        head = answered % UPGRADE + b"\r\n\r\n"

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + b"hello ")
            while data := await reader.read(100):
                writer.write(data)

        async with gateway(serve) as (client, _):
            client.writer.write(sent + b"early ")
            assert await client.reader.readuntil(b"early ") == head + b"hello early "
            client.writer.write(b"late")
            client.writer.write_eof()
            assert await client.reader.read() == b"late"

    async def test_another_protocol_that_the_server_ignores(self) -> None:
        async with gateway(echoes(b"a")) as (client, _):
            get = request().replace(b"POST", b"GET")[:-2]
            client.writer.write(get + b"\r\n".join(UPGRADE) + b"\r\n\r\n" + request(b"2"))
            assert [await client.answer() for _ in range(2)] == [(200, b"a:"), (200, b"a:2")]
            # Java's client offers HTTP/2 with each request, also with those that have a body
            assert await client.ask(b"3", *UPGRADE) == (200, b"a:3")
            assert await client.ask(b"4") == (200, b"a:4")


class TestLoad:
    def test_equal_work_takes_turns_and_losses_count_first(self) -> None:
        backends = [Backend(number, process=number) for number in (1, 2, 3)]
        for expected in [*backends, *backends]:
            assert least_loaded(backends, {}) is expected
            expected.begin(5)
        backends[1].work -= 5
        assert least_loaded(backends, {}) is backends[1]
        backends[0].work -= 10
        assert least_loaded(backends, {2: 1, 3: 1}) is backends[0]
        assert least_loaded(backends, {1: 2, 2: 2, 3: 1}) is backends[2]
        assert least_loaded(backends, {1: 2, 2: 2, 3: 2}) is None
        assert least_loaded([], {}) is None

    async def test_requests_of_one_connection_go_to_the_least_work(self) -> None:
        # given a server that is busy with the request of one client
        proceed = asyncio.Event()

        async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            await proceed.wait()
            writer.write(response(b"a"))

        async with gateway(waits, echoes(b"b")) as (client, fleet):
            client.writer.write(request(b"x"))
            while not fleet.ready[0].taken:
                await asyncio.sleep(0)
            # when another one asks three times, then the other server answers, on one connection
            other = await client.another()
            assert [await other.ask(b"y") for _ in range(3)] == [(200, b"b:y")] * 3
            assert [server.taken for server in fleet.ready] == [1, 1]
            proceed.set()
            assert await client.answer() == (200, b"a")
            other.writer.close()

    @pytest.mark.parametrize("sent", [request(b"x" * 1_000_000), None])
    async def test_a_large_body_weighs_more_than_many_small_ones(self, sent: bytes | None) -> None:
        received = asyncio.Event()
        chunked = (
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nf4240\r\n" + b"x" * 1_000_000
        )
        sent = sent or chunked + b"\r\n0\r\n\r\n"

        async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(1_000_000)
            received.set()
            await reader.read()

        async with gateway(takes, takes) as (client, fleet):
            client.writer.write(sent)
            await received.wait()
            first, second = (server.backend for server in fleet.ready)
            others = [await client.another() for _ in range(10)]
            for other in others:
                other.writer.write(request(b"y"))
            while second.work < 10 * REQUEST_WORK:
                await asyncio.sleep(0)
            assert first.work == REQUEST_WORK + 1_000_000
            for other in others:
                other.writer.close()

    async def test_a_request_is_work_until_its_answer_has_ended(self) -> None:
        half = asyncio.Event()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(response(b"both halves")[:-6])
            await half.wait()
            writer.write(b"halves")
            await reader.read()

        async with gateway(slow) as (client, fleet):
            client.writer.write(request())
            await client.reader.readuntil(b"both ")
            assert fleet.ready[0].backend.work == REQUEST_WORK
            half.set()
            assert await client.reader.readexactly(6) == b"halves"
            assert fleet.ready[0].backend.work == 0

    async def test_an_idle_connection_is_closed_before_the_server_does(self) -> None:
        ended = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(response(b"a"))
            await reader.read()
            ended.set()

        async with gateway(serve) as (client, fleet):
            assert await client.ask() == (200, b"a")
            now = asyncio.get_running_loop().time()
            fleet.ready[0].backend.close_idle(now)
            await asyncio.sleep(0)
            assert not ended.is_set()
            fleet.ready[0].backend.close_idle(now + 5)
            await ended.wait()

    async def test_a_request_that_is_sent_once_gets_a_connection_of_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(requests, "LARGEST_REPEATED_REQUEST", 1000)
        async with gateway(echoes(b"a")) as (client, fleet):
            for body, taken in [(b"1", 1), (b"2", 1), (b"x" * 1001, 2)]:
                assert await client.ask(body) == (200, b"a:" + body)
                assert fleet.ready[0].taken == taken
