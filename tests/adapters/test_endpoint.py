"""Endpoints as their clients see them: descriptions, answers, and what is wrong instead."""

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deployledger.adapters.endpoint import Endpoint
from deployledger.domain.exceptions import ConfigurationError, ExternalServiceError
from deployledger.serving import ModelDescription

METADATA = {"name": "m", "versions": ["3"], "inputs": [], "outputs": []}


class Server(ThreadingHTTPServer):
    """Answers as it is told: a status and a body for each path; bytes instead of a status are sent raw."""

    answers: dict[str, tuple[int, bytes]]

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.server_port}", timeout=30)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        status, body = self.server.answers.get(self.path, (404, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + (1 if status == 206 else 0)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running: Server) -> Server:
    running.answers = {}
    return running


def test_an_endpoint_describes_its_model(server: Server) -> None:
    model = ModelDescription.of_metadata(METADATA, "sha256:ab")
    server.answers = {"/": (200, json.dumps(asdict(model)).encode())}
    assert server.endpoint.describe("other") == model


@pytest.mark.parametrize("root", [(404, b"{}"), (200, b"<html>"), (200, b'{"name": "m"}')])
def test_another_server_describes_it_by_the_protocol(server: Server, root: tuple[int, bytes]) -> None:
    server.answers = {"/": root, "/v2/models/m": (200, json.dumps(METADATA).encode())}
    assert server.endpoint.describe("m") == ModelDescription.of_metadata(METADATA)


@pytest.mark.parametrize("metadata", [(404, b"{}"), (200, b"[]"), (200, b"\xff"), (200, b'{"name": "m"}')])
def test_a_server_that_describes_no_model_is_not_an_error(
    server: Server, metadata: tuple[int, bytes]
) -> None:
    server.answers = {"/v2/models/m": metadata}
    assert server.endpoint.describe("m") is None


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (
            400,
            b'{"error": "no input x"}',
            ConfigurationError,
            "refused the request with status 400: no input x",
        ),
        (413, b'{"error_code": "A", "message": "too large"}', ConfigurationError, "status 413: too large"),
        (404, b"", ConfigurationError, "status 404: Not Found"),
        (
            400,
            b'{"message": "Failed to predict data \'  a\\n0 x\'. \\nError: a is no number"}',
            ConfigurationError,
            "status 400: a is no number",
        ),
        (422, b"\xff[1]", ConfigurationError, "status 422: \ufffd[1]"),
        (500, b'{"error": 1}', ExternalServiceError, 'failed with status 500: {"error": 1}'),
        (206, b"cut", ExternalServiceError, "cannot be reached: "),
    ],
)
def test_the_reason_of_a_server_is_reported(
    server: Server, status: int, body: bytes, error: type[Exception], message: str
) -> None:
    server.answers = {"/invocations": (status, body)}
    with pytest.raises(error, match=message.replace("[", r"\[")):
        server.endpoint.predict("invocations", b"{}", "application/json")


def test_an_endpoint_that_is_gone_is_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.endpoint.url)  # not for this machine
    with pytest.raises(ExternalServiceError, match=r"127\.0\.0\.1:9 cannot be reached: Connection refused"):
        Endpoint("http://127.0.0.1:9", 30).describe("m")
