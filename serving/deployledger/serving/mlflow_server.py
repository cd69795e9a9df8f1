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

from deployledger.serving.asgi import JSON, App, Receive, Scope, Send, always, respond, router
from deployledger.serving.description import ModelDescription
from deployledger.serving.mlflow_model import load_mlflow_model
from deployledger.serving.model_files import ModelFiles
from deployledger.serving.page import Page
from deployledger.serving.request_bodies import MAX_BODY, RequestBodies
from deployledger.serving.server_process import argument_parser, serve

_CAP_DAC_OVERRIDE = 1  # linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522  # the same
_PR_CAPBSET_DROP = 24  # linux/prctl.h

# MLflow quotes the whole input in its message.
_LONGEST_MESSAGE = 16 * 1024
_, _JSON = JSON


def main() -> int:
    """Serve one MLflow model, as `serve` says."""
    parser = argument_parser("deployledger.serving.mlflow_server")
    parser.add_argument("--model", type=Path, required=True, help="the folder with the MLmodel file")
    arguments = parser.parse_args()
    files = ModelFiles.from_arguments(arguments)

    def load() -> App:
        _give_up_writing_read_only_files()
        model = load_mlflow_model(arguments.model, arguments.threads, files)
        contents: dict[str, Any] = model.metadata.to_dict()
        description = ModelDescription.of_mlflow(
            arguments.name, arguments.version, arguments.digest, contents, arguments.model
        )
        return make_app(model, Page(description), arguments.max_body)

    return serve(arguments, load)


def make_app(model: Any, page: App, max_body: int = MAX_BODY) -> App:
    """Return the application that serves a `mlflow.pyfunc.PyFuncModel`, and the page that is at ``/``."""
    return RequestBodies(_ScoringApp(model, page).app, max_body)


class _Response(NamedTuple):
    status: int
    media_type: bytes
    content: bytes


class _ScoringApp:
    """Serves a model.

    Attributes:
        app: the application; requests have their bodies as `RequestBodies` gives them.
    """

    def __init__(self, model: Any, page: App) -> None:
        from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
        from mlflow.version import VERSION

        # Models ask for it by MLflow's functions; its own server sets it too once the model is loaded.
        os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
        self._model = model
        self._timeout = MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get()
        healthy = {"GET": always(b"\n", JSON)}
        routes: dict[str, dict[str, App]] = {
            "/": {"GET": page, "HEAD": page},
            "/ping": healthy,
            "/health": healthy,
            "/version": {"GET": always(VERSION.encode(), JSON)},
            "/invocations": {"POST": self._invoke},
        }
        self.app = router(routes, lambda path: f"there is no {path} here; predictions are at /invocations")

    async def _invoke(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        content_type = headers.get(b"content-type", "")
        body = bytes((await receive())["body"])
        try:
            # In a thread, so that a slow model does not delay health checks.
            async with asyncio.timeout(self._timeout):
                response = await asyncio.to_thread(_score, self._model, body, content_type)
        except TimeoutError:
            response = _Response(504, _JSON, b"Request processing time exceeded limit")
        await respond(send, response.status, [(b"content-type", response.media_type)], response.content)


class _Observed:
    """A model, and whether it has been called: what fails before that is the fault of the request."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.metadata = model.metadata
        self.is_called = False

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        self.is_called = True
        return self._model.predict(data, params=params)


def _score(model: Any, body: bytes, content_type: str) -> _Response:
    """Return MLflow's response to a request, without stack traces, which name files of this machine."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import invocations

    observed = _Observed(model)
    schema = model.metadata.get_input_schema()
    try:
        response = invocations(_decoded(body, content_type), content_type, observed, schema)
    except MlflowException as error:
        contents = json.loads(error.serialize_as_json())
        sys.stdout.write(contents.pop("stack_trace", ""))
        contents["message"] = _shortened(contents["message"])
        return _error(error.get_http_status_code(), contents)
    except Exception as error:  # MLflow does not catch all, and a model returns whatever it likes
        if not observed.is_called:
            message = _shortened(f"Invalid input: {type(error).__name__}: {error}")
            return _error(400, {"error_code": "BAD_REQUEST", "message": message})
        traceback.print_exc()
        message = "The predictions cannot be written as JSON; the log of the deployment says why."
        return _error(500, {"error_code": "INTERNAL_ERROR", "message": message})
    media_type = response.mimetype + ("; charset=utf-8" if response.mimetype.startswith("text/") else "")
    return _Response(response.status, media_type.encode(), response.response.encode())


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


def _error(status: int, contents: dict[str, Any]) -> _Response:
    return _Response(status, _JSON, json.dumps(contents).encode())


def _give_up_writing_read_only_files() -> None:
    """Respect file modes even as root: a model may consist of links to the stored files (capabilities(7)).

    This applies to the calling thread and those that it starts. As the capability leaves the bounding set,
    programs that are executed do not have it either.
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
