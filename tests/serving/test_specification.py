"""The examples and the rules of the protocol's documents, asked by hand and by curl.

Each answer is checked against what ONNX Runtime alone computes.
"""

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.programs import program
from tests.serving import onnx_models
from tests.serving.codings import COMPRESS, DECOMPRESS
from tests.serving.in_process import Headers
from tests.serving.open_inference import LENGTH, Encoded, Tensor, decode, encode
from tests.serving.served import model_app, served

NUMBERS = np.array([[1, 2], [3, 4]], np.uint32)
FLAGS = np.array([True, False, True])
INPUTS = {"input0": NUMBERS, "input1": FLAGS}
INFER = "/v2/models/mymodel/infer"

JSON_EXAMPLE = b"""{
  "id" : "42",
  "inputs" : [
    {
      "name" : "input0",
      "shape" : [ 2, 2 ],
      "datatype" : "UINT32",
      "data" : [ 1, 2, 3, 4 ]
    },
    {
      "name" : "input1",
      "shape" : [ 3 ],
      "datatype" : "BOOL",
      "data" : [ true, false, true ]
    }
  ],
  "outputs" : [
    {
      "name" : "output0"
    }
  ]
}"""

BINARY_EXAMPLE = b"""{
  "model_name" : "mymodel",
  "inputs" : [
    {
      "name" : "input0",
      "shape" : [ 2, 2 ],
      "datatype" : "UINT32",
      "parameters" : {
        "binary_data_size" : 16
      }
    },
    {
      "name" : "input1",
      "shape" : [ 3 ],
      "datatype" : "BOOL",
      "parameters" : {
        "binary_data_size" : 3
      }
    }
  ],
  "outputs" : [
    {
      "name" : "output0",
      "parameters" : {
        "binary_data" : true
      }
    }
  ]
}"""
NINETEEN_BYTES = bytes.fromhex("01000000 02000000 03000000 04000000") + bytes([1, 0, 1])


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> str:
        answer = json.loads(self.body)
        assert list(answer) == ["error"]
        assert isinstance(answer["error"], str)
        return str(answer["error"])

    def outputs(self) -> dict[str, Tensor]:
        assert self.status == 200, self.body
        return decode(self.headers, self.body)[1]


class Endpoint:
    """The model of the documents, served."""

    def __init__(self, address: str, model: Path) -> None:
        self.address = address
        self.session = onnxruntime.InferenceSession(model)

    def expected(self) -> Tensor:
        """Return what ONNX Runtime alone answers."""
        return np.asarray(self.session.run(None, INPUTS)[0])

    def request(self, method: str, path: str, body: bytes = b"", headers: Headers = ()) -> Response:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            lower = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, lower, response.read())
        finally:
            connection.close()

    def infer(self, body: bytes, headers: Headers = ()) -> Response:
        return self.request("POST", INFER, body, headers)

    def send(self, data: bytes) -> bytes:
        """Return all that comes back for these bytes, until the server closes the connection."""
        host, port = self.address.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(data)
            answer = bytearray()
            while piece := connection.recv(65536):
                answer += piece
        return bytes(answer)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    path = onnx_models.mymodel(tmp_path_factory.mktemp("model") / "model.onnx")
    with served(model_app("mymodel", "1", path)) as address:
        yield Endpoint(address, path)


class TestJson:
    def test_the_example_of_the_specification(self, endpoint: Endpoint) -> None:
        response = endpoint.infer(JSON_EXAMPLE, [("Content-Type", "application/json")])
        assert response.headers["content-type"] == "application/json"
        assert json.loads(response.body) == {
            "model_name": "mymodel",
            "model_version": "1",
            "id": "42",
            "outputs": [
                {
                    "name": "output0",
                    "shape": [3, 2],
                    "datatype": "FP32",
                    "data": endpoint.expected().reshape(-1).tolist(),
                }
            ],
        }

    def test_fewer_elements_than_the_shape_are_refused(self, endpoint: Endpoint) -> None:
        response = endpoint.infer(JSON_EXAMPLE.replace(b"[ true, false, true ]", b"[ true ]"))
        assert response.status == 400
        assert "input1" in response.error()

    def test_every_path_of_the_specification(self, endpoint: Endpoint) -> None:
        assert endpoint.request("GET", "/v2/health/live").status == 200
        assert endpoint.request("GET", "/v2/health/ready").status == 200
        server = json.loads(endpoint.request("GET", "/v2").body)
        assert set(server) == {"name", "version", "extensions"}
        for version in ("", "/versions/1"):
            path = f"/v2/models/mymodel{version}"
            assert json.loads(endpoint.request("GET", f"{path}/ready").body) == {
                "name": "mymodel",
                "ready": True,
            }
            assert json.loads(endpoint.request("GET", path).body) == {
                "name": "mymodel",
                "versions": ["1"],
                "platform": "onnx_onnxv1",
                "inputs": [
                    {"name": "input0", "datatype": "UINT32", "shape": [2, 2]},
                    {"name": "input1", "datatype": "BOOL", "shape": [3]},
                ],
                "outputs": [{"name": "output0", "datatype": "FP32", "shape": [3, 2]}],
            }
            answer = endpoint.request("POST", f"{path}/infer", JSON_EXAMPLE)
            assert answer.outputs()["output0"].tolist() == endpoint.expected().tolist()

    def test_data_may_be_nested(self, endpoint: Endpoint) -> None:
        nested = JSON_EXAMPLE.replace(b"[ 1, 2, 3, 4 ]", b"[ [ 1, 2 ], [ 3, 4 ] ]")
        assert endpoint.infer(nested).outputs()["output0"].tolist() == endpoint.expected().tolist()

    def test_head_tells_what_get_would(self, endpoint: Endpoint) -> None:
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/mymodel"):
            head, get = endpoint.request("HEAD", path), endpoint.request("GET", path)
            assert head.status == get.status
            assert head.body == b""

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "JSON"),
            (b"{", "JSON"),
            (b"[]", "object"),
            (b"null", "object"),
            (b"\xef\xbb\xbf" + JSON_EXAMPLE, "JSON"),
            (JSON_EXAMPLE.replace(b"42", b"\xff"), "JSON"),
            (JSON_EXAMPLE.replace(b"1, 2, 3, 4", b"1, 2, 3, NaN"), "JSON"),
            (JSON_EXAMPLE + b"x", "JSON"),
            (JSON_EXAMPLE.replace(b'"42"', b"42"), "id"),
            (JSON_EXAMPLE.replace(b"1, 2, 3, 4", b"1, 2, 3, 4294967296"), "input0"),
            (JSON_EXAMPLE.replace(b"1, 2, 3, 4", b"1, 2, 3, -1"), "input0"),
            (JSON_EXAMPLE.replace(b"1, 2, 3, 4", b"1, 2, 3, 4.0"), "input0"),
            (JSON_EXAMPLE.replace(b"1, 2, 3, 4", b"1, 2, 3, true"), "input0"),
            (JSON_EXAMPLE.replace(b"true, false, true", b"1, 0, 1"), "input1"),
            (JSON_EXAMPLE.replace(b"[ 2, 2 ]", b"[ 18446744073709551615, 2 ]"), "input0"),
            (JSON_EXAMPLE.replace(b"UINT32", b"UINT33"), "UINT33"),
            (JSON_EXAMPLE.replace(b'"name" : "input1"', b'"name" : "input0"'), "input0"),
            (JSON_EXAMPLE.replace(b'"name" : "output0"', b'"name" : "output1"'), "output1"),
            (b"[" * 20_000 + b"]" * 20_000, ""),
            (JSON_EXAMPLE.replace(b"[ 1, 2, 3, 4 ]", b"[" * 20_000 + b"]" * 20_000), ""),
        ],
        ids=range(20),
    )
    def test_a_request_at_fault_is_refused(self, endpoint: Endpoint, body: bytes, message: str) -> None:
        response = endpoint.infer(body)
        assert response.status == 400
        assert message in response.error()


class TestBinary:
    def test_the_example_of_the_extension(self, endpoint: Endpoint) -> None:
        length = len(BINARY_EXAMPLE)
        answer = endpoint.send(
            b"POST /v2/models/mymodel/infer HTTP/1.1\r\n"
            b"Host: localhost:8000\r\n"
            b"Content-Type: application/octet-stream\r\n"
            b"Connection: close\r\n"
            b"Inference-Header-Content-Length: %d\r\n"
            b"Content-Length: %d\r\n\r\n" % (length, length + 19) + BINARY_EXAMPLE + NINETEEN_BYTES
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert status == "HTTP/1.1 200 OK"
        assert headers["content-type"] == "application/octet-stream"
        assert int(headers["content-length"]) == int(headers[LENGTH.lower()]) + 24
        assert body[-24:] == endpoint.expected().tobytes()
        answered, outputs = decode(headers, body)
        assert answered["outputs"] == [
            {
                "name": "output0",
                "shape": [3, 2],
                "datatype": "FP32",
                "parameters": {"binary_data_size": 24},
            }
        ]
        assert outputs["output0"].tolist() == endpoint.expected().tolist()

    @pytest.mark.parametrize("binary", [False, ["input0"], ["input1"], True])
    @pytest.mark.parametrize(
        ("asked", "is_binary"),
        [
            ({}, False),
            ({"binary_output": True}, True),
            ({"outputs": [{"name": "output0"}]}, False),
            ({"outputs": [{"name": "output0"}], "binary_output": True}, True),
            ({"outputs": [{"name": "output0", "parameters": {"binary_data": True}}]}, True),
            (
                {
                    "outputs": [{"name": "output0", "parameters": {"binary_data": False}}],
                    "binary_output": True,
                },
                False,
            ),
        ],
    )
    def test_outputs_are_binary_where_asked(
        self, endpoint: Endpoint, binary: bool | Sequence[str], asked: dict[str, Any], is_binary: bool
    ) -> None:
        request = encode(INPUTS, binary=binary, id="7", **asked)
        response = endpoint.infer(request.body, request.headers)
        assert response.outputs()["output0"].tolist() == endpoint.expected().tolist()
        assert (LENGTH.lower() in response.headers) == is_binary
        assert decode(response.headers, response.body)[0]["id"] == "7"

    def test_a_length_that_covers_the_body_is_plain_json(self, endpoint: Endpoint) -> None:
        response = endpoint.infer(JSON_EXAMPLE, [(LENGTH, str(len(JSON_EXAMPLE)))])
        assert response.outputs()["output0"].tolist() == endpoint.expected().tolist()

    @pytest.mark.parametrize(
        ("length", "replaced", "data", "message"),
        [
            (0, {}, NINETEEN_BYTES, ""),
            (-1, {}, NINETEEN_BYTES, LENGTH),
            (10**6, {}, NINETEEN_BYTES, LENGTH),
            (10**30, {}, NINETEEN_BYTES, LENGTH),
            ("+5", {}, NINETEEN_BYTES, LENGTH),
            ("x", {}, NINETEEN_BYTES, LENGTH),
            ("1_0", {}, NINETEEN_BYTES, LENGTH),
            (None, {}, NINETEEN_BYTES[:-1], "input1"),
            (None, {}, NINETEEN_BYTES[:7], "input0"),
            (None, {}, b"", "input0"),
            (None, {}, NINETEEN_BYTES + b"x", ""),
            (None, {b": 16": b": 15"}, NINETEEN_BYTES[1:], "input0"),
            (None, {b": 16": b": 20"}, NINETEEN_BYTES + b"xxxx", "input0"),
            (None, {b": 16": b": -16"}, NINETEEN_BYTES, "input0"),
            (None, {b": 16": b": true"}, NINETEEN_BYTES, "input0"),
            (None, {b": 16": b": 16.0"}, NINETEEN_BYTES, "input0"),
            (None, {b": 16": b': "16"'}, NINETEEN_BYTES, "input0"),
            (None, {b": 16": b": 99999999999999999999"}, NINETEEN_BYTES, "input0"),
            (None, {b'"UINT32",': b'"UINT32", "data": [1, 2, 3, 4],'}, NINETEEN_BYTES, "input0"),
            (None, {b"[ 2, 2 ]": b"[ 4 ]"}, NINETEEN_BYTES, "input0"),
            (None, {b"binary_data\" : true": b'binary_data" : 1'}, NINETEEN_BYTES, "binary_data"),
            (None, {}, NINETEEN_BYTES[:-1] + b"\x02", "input1"),
        ],
    )  # fmt: skip
    def test_sizes_that_do_not_fit_are_refused(
        self,
        endpoint: Endpoint,
        length: int | str | None,
        replaced: dict[bytes, bytes],
        data: bytes,
        message: str,
    ) -> None:
        head = BINARY_EXAMPLE
        for old, new in replaced.items():
            assert old in head
            head = head.replace(old, new)
        response = endpoint.infer(head + data, [(LENGTH, str(len(head) if length is None else length))])
        assert response.status == 400
        assert message.lower() in response.error().lower()

    def test_without_the_length_binary_data_is_refused(self, endpoint: Endpoint) -> None:
        assert endpoint.infer(BINARY_EXAMPLE + NINETEEN_BYTES).status == 400
        response = endpoint.infer(BINARY_EXAMPLE)
        assert response.status == 400
        assert LENGTH.lower() in response.error().lower()


class TestCompression:
    @pytest.mark.parametrize("binary", [False, True])
    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "identity", "GZIP", "x-gzip"])
    def test_compressed_requests(self, endpoint: Endpoint, encoding: str, binary: bool) -> None:
        request = encode(INPUTS, binary=binary)
        body = compressed(request, encoding)
        response = endpoint.infer(body, [*request.headers, ("Content-Encoding", encoding)])
        assert response.outputs()["output0"].tolist() == endpoint.expected().tolist()

    @pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "nonsense"])
    def test_unknown_encodings_are_refused_with_those_known(self, endpoint: Endpoint, encoding: str) -> None:
        response = endpoint.infer(JSON_EXAMPLE, [("Content-Encoding", encoding)])
        assert response.status == 415
        assert "gzip" in response.headers["accept-encoding"]
        assert "gzip" in response.error()

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
    def test_damaged_compression_is_refused(self, endpoint: Endpoint, encoding: str) -> None:
        body = compressed(Encoded(JSON_EXAMPLE, []), encoding)
        for damaged in (b"x" + body, body[:-5], body + b"x", body[: len(body) // 2]):
            response = endpoint.infer(damaged, [("Content-Encoding", encoding)])
            assert (damaged, response.status) == (damaged, 400)
            assert encoding in response.error()
        assert endpoint.infer(b"", [("Content-Encoding", encoding)]).status == 400


class TestCurl:
    """As a user types it; the form's content type that curl sends by itself is no obstacle."""

    def curl(self, endpoint: Endpoint, *arguments: str) -> bytes:
        command = [program("curl"), "--silent", "--show-error", "--fail-with-body", *arguments]
        return subprocess.run(
            [*command, f"http://{endpoint.address}{INFER}"], check=True, capture_output=True, timeout=60
        ).stdout

    def test_json_and_binary(self, endpoint: Endpoint, tmp_path: Path) -> None:
        plain = json.loads(self.curl(endpoint, "--data", JSON_EXAMPLE.decode()))
        assert plain["outputs"][0]["data"] == endpoint.expected().reshape(-1).tolist()
        (tmp_path / "request").write_bytes(BINARY_EXAMPLE + NINETEEN_BYTES)
        options = ["--header", f"{LENGTH}: {len(BINARY_EXAMPLE)}"]
        options += ["--data-binary", f"@{tmp_path / 'request'}"]
        assert self.curl(endpoint, *options)[-24:] == endpoint.expected().tobytes()
        chunked = ["--header", "Transfer-Encoding: chunked", "--compressed"]
        assert self.curl(endpoint, *options, *chunked)[-24:] == endpoint.expected().tobytes()


def compressed(request: Encoded, encoding: str) -> bytes:
    coding = encoding.lower().removeprefix("x-")
    return request.body if coding == "identity" else COMPRESS[coding](request.body)


def test_responses_are_compressed_where_it_is_worth_it(tmp_path: Path) -> None:
    model = onnx_models.identities(tmp_path / "model.onnx", ["FP32"])
    request = encode({"FP32": np.zeros(100_000, np.float32)}, binary=True, binary_output=True)
    accepted = {
        "gzip": "gzip",
        "deflate": "deflate",
        "zstd": "zstd",
        "gzip;q=0, deflate;q=0.5": "deflate",
        "gzip;q=0.2, deflate;q=0.1": "gzip",
        "br, GZIP;q=0.5": "gzip",
        "": None,
        "identity": None,
        "br": None,
        "gzip;q=0": None,
        "gzip;q=0.0, identity": None,
    }
    with served(model_app("m", "1", model)) as address:
        endpoint = Endpoint(address, model)
        for accept, expected in accepted.items():
            headers = [*request.headers, ("Accept-Encoding", accept)]
            response = endpoint.request("POST", "/v2/models/m/infer", request.body, headers)
            assert response.status == 200
            assert (accept, response.headers.get("content-encoding")) == (accept, expected)
            body = DECOMPRESS[expected](response.body) if expected else response.body
            _, outputs = decode(response.headers, body)
            assert outputs["FP32_out"].tobytes() == bytes(400_000)
            if expected:
                assert len(response.body) < 40_000
                assert response.headers["vary"].lower() == "accept-encoding"
