"""What hostile clients do to a running gateway and its model server, over raw sockets.

After each attack the endpoint still serves, and neither process has taken more memory than its limits allow.
"""

import asyncio
import json
import shutil
import socket
import uuid
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from deployledger.adapters.local import LocalProcessOrchestrator
from deployledger.domain.ports import ProvisionRequest
from deployledger.domain.requests import DeploymentTargetConfig
from deployledger.domain.values import Image
from deployledger.service.files.listing import FileEntry, list_files
from tests.adapters.files import artifact_of
from tests.serving import onnx_models
from tests.serving.codings import zstd
from tests.serving.open_inference import LENGTH, decode, encode

MEBIBYTE = 1 << 20
INFER = b"/v2/models/attacked/infer"
TENSOR = np.array([1.5, -2.0], np.float32)


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A client's socket, read response by response."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=60)
        self._unread = b""

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """Send data; return whether the server still takes them."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def give_up_sending_after(self, seconds: float) -> None:
        """Let `send` raise TimeoutError when the server takes nothing for this long."""
        self._socket.settimeout(seconds)

    def finish(self) -> None:
        """Say that nothing more comes."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def response(self) -> Response | None:
        """Return the next response, or None if the server has closed the connection."""
        while b"\r\n\r\n" not in self._unread:
            if not self._receive():
                assert self._unread == b""
                return None
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        while len(self._unread) < length:
            assert self._receive()
        body, self._unread = self._unread[:length], self._unread[length:]
        return Response(int(status.split()[1]), headers, body)

    def _receive(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            return False
        self._unread += data
        return bool(data)


@dataclass(frozen=True)
class Endpoint:
    """The attacked model, and the processes between it and a client."""

    address: tuple[str, int]
    processes: dict[str, int]

    def connect(self) -> Connection:
        return Connection(self.address)

    def ask(self, data: bytes) -> list[Response]:
        """Return all responses to what is sent on one connection."""
        with self.connect() as connection:
            connection.send(data)
            connection.finish()
            return list(iter(connection.response, None))

    def check_that_it_serves(self) -> None:
        identity = uuid.uuid4().hex
        with self.connect() as connection:
            connection.send(inference(id=identity))
            response = connection.response()
        assert response is not None
        answer, outputs = decode(response.headers, response.body)
        assert answer["id"] == identity
        assert outputs["FP32_out"].tolist() == TENSOR.tolist()

    def reset_peaks(self) -> dict[str, int]:
        """Return the memory of the processes in bytes, and count their peaks from now on."""
        for process in self.processes.values():
            Path(f"/proc/{process}/clear_refs").write_text("5")
        return self.peaks()

    def peaks(self) -> dict[str, int]:
        return {name: peak(process) for name, process in self.processes.items()}


def peak(process: int) -> int:
    """Return the most memory that a process has had resident, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def head(*fields: bytes, method: bytes = b"POST", path: bytes = INFER) -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: attacked", *fields]) + b"\r\n\r\n"


def inference(**more: Any) -> bytes:
    request = encode({"FP32": TENSOR}, **more)
    return head(b"Content-Length: %d" % len(request.body)) + request.body


BODY = encode({"FP32": TENSOR}).body
LENGTH_FIELD = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKED_BODY = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = b"GET /v2/models/attacked HTTP/1.1\r\nHost: attacked\r\n\r\n"


def extract(reference: str, destination: Path) -> list[FileEntry]:
    shutil.copytree(reference, destination)
    return list_files(destination)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("model")
    onnx_models.identities(folder / "model.onnx", ["FP32"])
    root = tmp_path_factory.mktemp("root")
    orchestrator = LocalProcessOrchestrator(root, extract_model=extract)
    deployment = uuid.uuid4()
    request = ProvisionRequest(
        deployment_id=deployment,
        deployment_name="attacked",
        revision=1,
        artifact=artifact_of(folder),
        image=Image(reference=str(folder), digest=f"sha256:{'0' * 64}", size_bytes=1),
        target=DeploymentTargetConfig(type="api_service"),
        resources=None,
    )
    try:
        target = asyncio.run(orchestrator.provision(request, lambda done, total, unit: None))
        assert target.endpoint_url is not None
        host, _, port = target.endpoint_url.removeprefix("http://").partition(":")
        yield Endpoint((host, int(port)), processes_of(root))
    finally:
        asyncio.run(orchestrator.prune(deployment, None))


def processes_of(root: Path) -> dict[str, int]:
    """Return the gateway and the model server that have the folder in their command lines."""
    processes = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(root).encode() in command:
            name = "server" if b"onnx_server" in command else "gateway"
            processes[name] = int(entry.name)
    assert set(processes) == {"gateway", "server"}
    return processes


class TestFraming:
    """Two programs that find the end of a request differently let one client speak for another."""

    @pytest.mark.parametrize(
        "request_head",
        [
            head(LENGTH_FIELD, CHUNKED),
            head(CHUNKED, LENGTH_FIELD),
            head(LENGTH_FIELD, b"Content-Length: 0"),
            head(b"Content-Length: 0", LENGTH_FIELD),
            head(b"Content-Length: 0, %d" % len(BODY)),
            head(b"Content-Length: +%d" % len(BODY)),
            head(b"Content-Length: -1"),
            head(b"Content-Length: 0x10"),
            head(b"Content-Length: 1_0"),
            head(b"Content-Length: 1 0"),
            head(b"Content-Length: 99999999999999999999999"),
            head(b"Content-Length:"),
            head(b"Content-Length : 0"),
            head(b"Content-Length\t: 0"),
            head(b"Transfer-Encoding : chunked"),
            head(b"Transfer-Encoding: xchunked"),
            head(b"Transfer-Encoding: chunked, identity"),
            head(b"Transfer-Encoding: identity"),
            head(b"Transfer-Encoding: gzip"),
            head(b"Transfer-Encoding:\x0bchunked"),
            head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
            head(b"Transfer-Encoding: chunked, chunked"),
            head(b"Transfer-Encoding:\r\n chunked"),
            head(b"X: 1\r\n folded", LENGTH_FIELD),
            head(b"X: a\nContent-Length: 0"),
            head(b"X: a\rContent-Length: 0"),
            head(b"X: \0", LENGTH_FIELD),
            head(b"X\0: 1", LENGTH_FIELD),
            head(b" X: 1", LENGTH_FIELD),
            head(b": 1", LENGTH_FIELD),
            head(b"no colon", LENGTH_FIELD),
            head(b"Host: other", LENGTH_FIELD),
            head(path=b"/v2/models/ attacked/infer"),
            head(path=b"/\0"),
            head(method=b"P(ST"),
            b"POST " + INFER + b" HTTP/1.1\r\n" + LENGTH_FIELD + b"\r\n\r\n",
            b"POST " + INFER + b" HTTP/1.1\nHost: a\n" + LENGTH_FIELD + b"\n\n",
            b"POST " + INFER + b" HTTP/9.9\r\nHost: a\r\n\r\n",
            b"POST " + INFER + b"\r\n\r\n",
            head(LENGTH_FIELD, method=b"CONNECT", path=b"a:1"),
            head(CHUNKED, method=b"CONNECT", path=b"a:1"),
            head(LENGTH_FIELD, path=b"http://[::1"),
            head(LENGTH_FIELD, path=b"/\xff"),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500),
        ],
        ids=range(45),
    )
    def test_an_ambiguous_request_is_refused_and_closes(
        self, endpoint: Endpoint, request_head: bytes
    ) -> None:
        responses = endpoint.ask(request_head + BODY + SMUGGLED)
        assert len(responses) == 1
        assert responses[0].status == 400
        assert responses[0].headers["connection"] == "close"
        assert json.loads(responses[0].body)["error"]
        endpoint.check_that_it_serves()

    @pytest.mark.parametrize(
        "chunks",
        [
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY) - 1, BODY),
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY) + 1, BODY),
            b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
            b"+%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
            b"-1\r\n%b\r\n0\r\n\r\n" % BODY,
            b"\r\n%b\r\n0\r\n\r\n" % BODY,
            b"%x\n%b\n0\n\n" % (len(BODY), BODY),
            b"%x \r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
            b"fffffffffffffffff\r\n%b\r\n0\r\n\r\n" % BODY,
            b"%x;\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
            b"%x\r\n%b0\r\n\r\n" % (len(BODY), BODY),
            b"%x;a=\0\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
        ],
        ids=range(12),
    )
    def test_a_wrong_chunk_is_refused_and_closes(self, endpoint: Endpoint, chunks: bytes) -> None:
        responses = endpoint.ask(head(CHUNKED) + chunks + SMUGGLED)
        assert len(responses) == 1
        assert responses[0].status == 400
        assert json.loads(responses[0].body)["error"]
        endpoint.check_that_it_serves()

    @pytest.mark.parametrize(
        "extensions",
        [b"", b";a", b";a=b", b';a="x;y"', b";" + b"a" * 1000],
        ids=["none", "name", "value", "quoted", "long"],
    )
    def test_chunk_extensions_are_not_part_of_the_body(self, endpoint: Endpoint, extensions: bytes) -> None:
        chunks = b"%x%b\r\n%b\r\n0\r\nTrailer: field\r\n\r\n" % (len(BODY), extensions, BODY)
        responses = endpoint.ask(head(CHUNKED) + chunks + inference(id="second"))
        assert [response.status for response in responses] == [200, 200]
        assert json.loads(responses[1].body)["id"] == "second"

    def test_nobody_gets_the_answer_to_what_another_smuggles(self, endpoint: Endpoint) -> None:
        attacks = [
            head(CHUNKED) + b"0\r\n\r\n" + SMUGGLED[:40],
            head(b"Content-Length: %d" % (len(BODY) + len(SMUGGLED))) + BODY + SMUGGLED,
            head(LENGTH_FIELD, b"Connection: Content-Length") + BODY,
            head(LENGTH_FIELD, b"Connection: Transfer-Encoding, Host") + BODY,
            head(LENGTH_FIELD, b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings") + BODY,
            head(b"Expect: 100-continue", LENGTH_FIELD) + BODY[:5],
            head(b"Content-Length: 0", method=b"GET") + SMUGGLED[:30],
            head(LENGTH_FIELD, method=b"GET") + BODY + SMUGGLED,
            head(LENGTH_FIELD, method=b"HEAD") + BODY,
        ]
        for attack in attacks:
            for _ in range(3):
                with endpoint.connect() as connection:
                    connection.send(attack)
                    connection.finish()
                    endpoint.check_that_it_serves()


class TestSizes:
    @pytest.mark.parametrize(
        "fields",
        [[b"X: " + b"a" * MEBIBYTE], [b"X-%d: %b" % (number, b"a" * 100) for number in range(10_000)]],
        ids=["one", "many"],
    )
    def test_a_megabyte_of_headers(self, endpoint: Endpoint, fields: list[bytes]) -> None:
        (response,) = endpoint.ask(head(*fields, LENGTH_FIELD) + BODY)
        assert response.status == 431
        assert "DEPLOYLEDGER_SERVING_" in json.loads(response.body)["error"]
        endpoint.check_that_it_serves()

    def test_a_megabyte_of_path(self, endpoint: Endpoint) -> None:
        (response,) = endpoint.ask(head(path=b"/" + b"a" * MEBIBYTE))
        assert response.status in (414, 431)

    @pytest.mark.parametrize(
        ("start", "piece"),
        [(b"1;", b"a" * MEBIBYTE), (b"1\r\n{\r\n0\r\n", b"X: 1\r\n" * 100_000)],
        ids=["extension", "trailers"],
    )
    def test_endless_chunk_extensions_and_trailers(
        self, endpoint: Endpoint, start: bytes, piece: bytes
    ) -> None:
        before = endpoint.reset_peaks()
        with endpoint.connect() as connection:
            connection.send(head(CHUNKED))
            connection.send(start)
            for _ in range(130):
                if not connection.send(piece):
                    break
            response = connection.response()
        assert response is not None
        assert 400 <= response.status < 500
        assert_flat(endpoint, before, 4 * MEBIBYTE)
        endpoint.check_that_it_serves()

    @pytest.mark.parametrize("expects", [False, True])
    def test_a_body_of_1500_megabytes_is_refused_unread(self, endpoint: Endpoint, expects: bool) -> None:
        before = endpoint.reset_peaks()
        fields = [b"Expect: 100-continue"] if expects else []
        with endpoint.connect() as connection:
            connection.send(head(b"Content-Length: 1500000000", *fields))
            response = connection.response()
        assert response is not None
        assert response.status == 413
        assert "DEPLOYLEDGER_SERVING_MAX_BODY_BYTES" in json.loads(response.body)["error"]
        assert_flat(endpoint, before, 4 * MEBIBYTE)

    @pytest.mark.parametrize("chunked", [False, True])
    def test_a_body_of_1500_megabytes_that_is_sent_all_the_same(
        self, endpoint: Endpoint, chunked: bool
    ) -> None:
        piece = bytes(MEBIBYTE)
        if chunked:
            start, piece = head(CHUNKED), b"%x\r\n%b\r\n" % (len(piece), piece)
        else:
            start = head(b"Content-Length: 1500000000")
        before = endpoint.reset_peaks()
        with endpoint.connect() as connection:
            connection.send(start)
            for _ in range(1500):
                if not connection.send(piece):
                    break
            response = connection.response()
        assert response is None or response.status == 413
        # Up to its limit a chunked body goes to the server, which takes it apart.
        assert_flat(endpoint, before, (220 if chunked else 8) * MEBIBYTE)
        endpoint.check_that_it_serves()

    def test_json_that_is_nested_20000_deep(self, endpoint: Endpoint) -> None:
        for body in (
            b"[" * 20_000 + b"]" * 20_000,
            BODY.replace(b"[1.5", b"[" * 20_000 + b"1.5"),
            b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
            b'{"inputs":[],"parameters":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001,
        ):
            (response,) = endpoint.ask(head(b"Content-Length: %d" % len(body)) + body)
            assert response.status == 400
            assert json.loads(response.body)["error"]
        endpoint.check_that_it_serves()

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
    def test_a_small_body_that_unpacks_to_gigabytes(self, endpoint: Endpoint, encoding: str) -> None:
        body = bomb(encoding)
        assert len(body) < 8 * MEBIBYTE
        before = endpoint.reset_peaks()
        request = head(b"Content-Encoding: " + encoding.encode(), b"Content-Length: %d" % len(body)) + body
        (response,) = endpoint.ask(request)
        assert response.status == 413
        assert "decompressed" in json.loads(response.body)["error"]
        assert_flat(endpoint, before, 450 * MEBIBYTE)
        endpoint.check_that_it_serves()

    def test_a_tensor_that_is_larger_than_its_data(self, endpoint: Endpoint) -> None:
        before = endpoint.reset_peaks()
        for shape in ([2**40], [2**63 - 1], [2**64], [2**31, 2**31]):
            described = {"name": "FP32", "shape": shape, "datatype": "FP32"}
            text = json.dumps({"inputs": [{**described, "data": [1.0]}]}).encode()
            (response,) = endpoint.ask(head(b"Content-Length: %d" % len(text)) + text)
            assert response.status == 400
            text = json.dumps({"inputs": [{**described, "parameters": {"binary_data_size": 4}}]}).encode()
            fields = [f"{LENGTH}: {len(text)}".encode(), b"Content-Length: %d" % (len(text) + 4)]
            (response,) = endpoint.ask(head(*fields) + text + bytes(4))
            assert response.status == 400
        assert_flat(endpoint, before, 4 * MEBIBYTE)


class TestManyConnections:
    def test_500_slow_clients_leave_the_others_served(self, endpoint: Endpoint) -> None:
        starts = [
            b"",
            b"POST /v2/mod",
            head(LENGTH_FIELD)[:-2],
            head(LENGTH_FIELD) + BODY[:10],
            head(CHUNKED) + CHUNKED_BODY[:10],
        ]
        with ExitStack() as stack:
            slow = [stack.enter_context(endpoint.connect()) for _ in range(500)]
            for number, connection in enumerate(slow):
                connection.send(starts[number % len(starts)])
            for _ in range(20):
                endpoint.check_that_it_serves()
            for number, connection in enumerate(slow):
                rest = inference() if number % len(starts) == 0 else None
                if number % len(starts) == 3:
                    rest = BODY[10:]
                if rest:
                    connection.send(rest)
                    response = connection.response()
                    assert response is not None
                    assert response.status == 200
        endpoint.check_that_it_serves()

    def test_clients_that_never_read_leave_the_memory_flat(self, endpoint: Endpoint) -> None:
        tensor = np.zeros(MEBIBYTE // 4, np.float32)
        request = encode({"FP32": tensor}, binary=True, binary_output=True)
        data = head(
            f"{LENGTH}: {dict(request.headers)[LENGTH]}".encode(), b"Content-Length: %d" % len(request.body)
        )
        data += request.body
        before = endpoint.reset_peaks()
        with ExitStack() as stack:
            for _ in range(8):
                connection = stack.enter_context(endpoint.connect())
                connection.give_up_sending_after(0.1)
                try:
                    for _ in range(50):
                        connection.send(data)
                except TimeoutError:
                    pass  # nothing more is read from it until it reads
            endpoint.check_that_it_serves()
            assert_flat(endpoint, before, 64 * MEBIBYTE)


def assert_flat(endpoint: Endpoint, before: dict[str, int], most: int) -> None:
    for name, reached in endpoint.peaks().items():
        grown = reached - before[name]
        assert grown < most, f"the {name} has grown by {grown / MEBIBYTE:.0f} MiB"


def bomb(encoding: str) -> bytes:
    """Return a body that unpacks to gigabytes of zeros."""
    if encoding == "zstd":
        frame = zstd.ZstdCompressor()
        return b"".join(frame.compress(bytes(64 * MEBIBYTE)) for _ in range(16)) + frame.flush()
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    start = compressor.compress(bytes(MEBIBYTE)) + compressor.flush(zlib.Z_FULL_FLUSH)
    middle = compressor.compress(bytes(MEBIBYTE)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return start + middle * 4095


def test_the_reference_answer_is_onnx_runtimes(tmp_path: Path) -> None:
    path = onnx_models.identities(tmp_path / "model.onnx", ["FP32"])
    (answer,) = onnxruntime.InferenceSession(path).run(None, {"FP32": TENSOR})
    assert answer.tolist() == TENSOR.tolist()
