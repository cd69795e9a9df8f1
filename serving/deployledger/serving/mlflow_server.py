"""The server of MLflow models: ``python -m deployledger.serving.mlflow_server``.

It speaks the protocol of MLflow's scoring server,
https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/, and leaves what makes up that protocol to
MLflow: parsing inputs, enforcing the model's signature, and writing predictions.
"""

import asyncio
import ctypes
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from deployledger.serving.asgi import App, Receive, Scope, Send
from deployledger.serving.description import ModelDescription
from deployledger.serving.mlflow_model import load_mlflow_model
from deployledger.serving.model_files import ModelFiles
from deployledger.serving.page import Page
from deployledger.serving.server_process import argument_parser, serve

_CAP_DAC_OVERRIDE = 1  # linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522  # the same
_PR_CAPBSET_DROP = 24  # linux/prctl.h

# MLflow puts what it could not read, or predict, into its message.
_LONGEST_MESSAGE = 16 * 1024


def main() -> int:
    """Serve one MLflow model, as `serve` says."""
    parser = argument_parser("deployledger.serving.mlflow_server")
    parser.add_argument("--model", type=Path, required=True, help="the folder with the MLmodel file")
    arguments = parser.parse_args()
    files = ModelFiles.from_arguments(arguments)

    def load() -> App:
        _lose_the_right_to_write_read_only_files()
        model = load_mlflow_model(arguments.model, arguments.threads, files)
        contents: dict[str, Any] = model.metadata.to_dict()
        description = ModelDescription.of_mlflow(
            arguments.name, arguments.version, arguments.digest, contents, arguments.model
        )
        return make_app(model, Page(description))

    return serve(arguments, load)


class _Answer(NamedTuple):
    status: int
    media_type: str
    content: bytes


def make_app(model: Any, page: App) -> App:
    """Return the application that serves a `mlflow.pyfunc.PyFuncModel`, and the page that is at ``/``."""
    from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
    from mlflow.version import VERSION

    # Models ask for it by MLflow's functions; its own server sets it too once the model is loaded.
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
    schema = model.metadata.get_input_schema()
    timeout = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
    healthy = _Answer(200, "application/json", b"\n")
    answers = {
        "/ping": healthy,
        "/health": healthy,
        "/version": _Answer(200, "application/json", VERSION.encode()),
    }

    async def answer(scope: Scope, receive: Receive) -> _Answer:
        path, method = scope["path"], scope["method"]
        if path != "/invocations" and path not in answers:
            return _error(404, f"There is no {path!r} here; predictions are at /invocations.")
        allowed = "GET" if path in answers else "POST"
        if method != allowed:
            return _error(405, f"{method} {path} is not supported; use {allowed}.")
        if path in answers:
            return answers[path]
        body = await _read(receive)
        content_type = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
        try:
            # In a thread: a slow model does not keep the health answers waiting.
            async with asyncio.timeout(timeout):
                return await asyncio.to_thread(_invoke, model, schema, body, content_type)
        except TimeoutError:
            return _Answer(504, "application/json", b"Request processing time exceeded limit")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/" and scope["method"] in ("GET", "HEAD"):
            await page(scope, receive, send)
            return
        status, media_type, content = await answer(scope, receive)
        headers = [
            (b"content-type", media_type.encode("latin-1")),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


class _Observed:
    """A model, and whether it has been asked: what fails before is the fault of the request."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.metadata = model.metadata
        self.is_asked = False

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        self.is_asked = True
        return self._model.predict(data, params=params)


def _invoke(model: Any, schema: Any, body: bytes, content_type: str) -> _Answer:
    """Return MLflow's answer to a request, without stack traces, which name files of this machine."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import invocations

    observed = _Observed(model)
    try:
        response = invocations(_decoded(body, content_type), content_type, observed, schema)
    except MlflowException as error:
        answer = json.loads(error.serialize_as_json())
        sys.stdout.write(answer.pop("stack_trace", ""))
        answer["message"] = _shortened(answer["message"])
        return _Answer(error.get_http_status_code(), "application/json", json.dumps(answer).encode())
    except Exception as error:  # MLflow lets some pass, and a model returns whatever it likes
        if not observed.is_asked:
            return _error(400, _shortened(f"Invalid input: {type(error).__name__}: {error}"))
        traceback.print_exc()
        return _error(500, "The predictions cannot be written as JSON. The log of the deployment says why.")
    media_type = response.mimetype + ("; charset=utf-8" if response.mimetype.startswith("text/") else "")
    return _Answer(response.status, media_type, response.response.encode())


def _decoded(body: bytes, content_type: str) -> bytes | dict[str, Any]:
    """Return a large JSON object decoded, and any other body as it is.

    Raises:
        MlflowException: a large body is not JSON; MLflow would send it back in its message.
    """
    from mlflow.utils.proto_json_utils import MlflowInvalidInputException

    if len(body) < _LONGEST_MESSAGE or content_type.partition(";")[0].strip() != "application/json":
        return body
    try:
        decoded = json.loads(body)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MlflowInvalidInputException(
            f"Ensure that input is a valid JSON formatted string. Error: '{error}'"
        ) from error
    return decoded if isinstance(decoded, dict) else body


def _shortened(message: str) -> str:
    if len(message) <= _LONGEST_MESSAGE:
        return message
    half = _LONGEST_MESSAGE // 2
    return f"{message[:half]} … {message[-half:]}"


def _error(status: int, message: str) -> _Answer:
    codes = {404: "ENDPOINT_NOT_FOUND", 500: "INTERNAL_ERROR"}
    content = json.dumps({"error_code": codes.get(status, "BAD_REQUEST"), "message": message})
    return _Answer(status, "application/json", content.encode())


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


def _lose_the_right_to_write_read_only_files() -> None:
    """Respect the modes of files also as root: a model may be links to the stored one (capabilities(7)).

    It is for this thread and those that it starts. With the capability out of the bounding set no program
    that is executed has it either.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and the three for higher numbers
    libc.capget(header, sets)
    for which in range(3):
        sets[which] &= ~(1 << _CAP_DAC_OVERRIDE)
    libc.capset(header, sets)


if __name__ == "__main__":
    sys.exit(main())
