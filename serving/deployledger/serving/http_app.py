"""The HTTP side of the ONNX model server."""

import re
from functools import partial
from typing import Any

import orjson

from deployledger.serving.asgi import (
    JSON,
    App,
    HttpError,
    Receive,
    Scope,
    Send,
    always,
    respond,
    router,
)
from deployledger.serving.content_coding import Buffer, compress, negotiate
from deployledger.serving.description import ModelDescription
from deployledger.serving.executor import RequestExecutor
from deployledger.serving.inference_protocol import (
    BINARY_EXTENSION,
    InvalidRequestError,
    infer,
    model_metadata,
)
from deployledger.serving.onnx_model import OnnxModel, PredictionFailedError
from deployledger.serving.page import Page
from deployledger.serving.request_bodies import MAX_BODY, RequestBodies

_JSON_SIZE = b"inference-header-content-length"
_MOST_DIGITS = 18
_BINARY = (b"content-type", b"application/octet-stream")
_MODEL_PATH = re.compile(r"/v2/models/(?!stats$)([^/]+)(?:/versions/([^/]+))?(?:/(?:ready|infer))?")


def make_app(
    name: str, version: str, model: OnnxModel, max_body: int = MAX_BODY, digest: str | None = None
) -> App:
    """Return the ASGI application that serves one version of one model, whose files have the digest."""
    return RequestBodies(_InferenceApp(name, version, model, digest).app, max_body)


class _InferenceApp:
    """Serves one version of one model.

    Attributes:
        app: the application; requests have their bodies as `RequestBodies` gives them.
    """

    def __init__(self, name: str, version: str, model: OnnxModel, digest: str | None) -> None:
        self._name = name
        self._version = version
        self._model = model
        self._executor = RequestExecutor(is_work_bounded=model.is_work_bounded)
        metadata = model_metadata(name, version, model)
        page = Page(ModelDescription.of_metadata(metadata, digest))
        server = {"name": "deployledger-onnx", "version": version, "extensions": [BINARY_EXTENSION]}
        routes: dict[str, dict[str, App]] = {
            "/": {"GET": page, "HEAD": page},
            "/ping": _get(b""),
            "/v2": _get_json(server),
            "/v2/health/live": _get_json({"live": True}),
            "/v2/health/ready": _get_json({"ready": True}),
        }
        for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{version}"):
            routes[path] = _get_json(metadata)
            routes[f"{path}/ready"] = _get_json({"name": name, "ready": True})
            routes[f"{path}/infer"] = {"POST": self._infer}
        self.app = router(routes, self._not_found)

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        coding = negotiate(headers.get(b"accept-encoding", b"").decode("latin-1"))
        json_size = _json_size(headers)
        body: Buffer = (await receive())["body"]
        try:
            response_headers, parts = await self._executor.run(
                len(body), partial(self._compute, body, json_size, coding)
            )
        except InvalidRequestError as error:
            raise HttpError(400, str(error)) from error
        except PredictionFailedError as error:
            raise HttpError(400 if error.is_input_invalid else 500, str(error)) from error
        await respond(send, 200, response_headers, *parts)

    def _compute(
        self, body: Buffer, json_size: int | None, coding: str | None
    ) -> tuple[list[tuple[bytes, bytes]], list[bytes | memoryview]]:
        """Return the headers of a response, and the parts of its body."""
        text, binary = infer(self._name, self._version, self._model, body, json_size)
        headers: list[tuple[bytes, bytes]] = (
            [_BINARY, (_JSON_SIZE, str(len(text)).encode())] if binary else [JSON]
        )
        parts: list[bytes | memoryview] = [text, *binary]
        if coding is not None:
            headers.append((b"vary", b"accept-encoding"))
            compressed = compress(parts, coding)
            if compressed is not None:
                return [*headers, (b"content-encoding", coding.encode())], [compressed]
        return headers, parts

    def _not_found(self, path: str) -> str:
        here = f"this endpoint serves {self._name!r} version {self._version!r}"
        match = _MODEL_PATH.fullmatch(path)
        if match is None:
            return f"there is nothing at {path!r}; {here}, with the extension {BINARY_EXTENSION} and no other"
        version = f" version {match[2]!r}" if match[2] else ""
        return f"Request for unknown model: {match[1]!r}{version} is not served here; {here}"


def _get(content: bytes, *headers: tuple[bytes, bytes]) -> dict[str, App]:
    return dict.fromkeys(("GET", "HEAD"), always(content, *headers))


def _get_json(content: dict[str, Any]) -> dict[str, App]:
    return _get(orjson.dumps(content), JSON)


def _json_size(headers: dict[bytes, bytes]) -> int | None:
    size = headers.get(_JSON_SIZE)
    if size is None:
        return None
    if not size.isdigit() or len(size) > _MOST_DIGITS:
        given = size.decode("latin-1")
        raise HttpError(400, f"Inference-Header-Content-Length is not a number of bytes: {given!r}")
    return int(size)
