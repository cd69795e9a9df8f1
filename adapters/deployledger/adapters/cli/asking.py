"""How to query a model that was just deployed: a command to paste, with an input that fits the model.

What an ONNX model takes is asked of its server (Open Inference Protocol, version 2); what an MLflow model
takes is in its files. Nothing is predicted here.
"""

import asyncio
import json
import shlex
import urllib.request
from collections.abc import Iterator
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from deployledger.domain.schemas import DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

_SECONDS = 2.0
_LARGEST_ANSWER = 100_000
_LARGEST_BODY = 1_000
_MOST_NUMBERS = 64
"""The most numbers in an example input; a larger input is described instead of written out."""
_ZEROS: dict[str, Any] = {"BOOL": False, "BYTES": "", "FP16": 0.0, "BF16": 0.0, "FP32": 0.0, "FP64": 0.0}
_MLFLOW_ZEROS: dict[str, Any] = {
    "boolean": False,
    "integer": 0,
    "long": 0,
    "float": 0.0,
    "double": 0.0,
    "string": "",
    "datetime": "2026-01-01T00:00:00",
}


class Request(NamedTuple):
    """An example of a request.

    Attributes:
        url: where it goes.
        body: the body, as JSON in pieces between which a line may end; none if the request is only for what
            the model takes.
        has_type: whether the server insists on the body's type.
    """

    url: str
    body: tuple[str, ...] = ()
    has_type: bool = False

    def command(self, width: int) -> str:
        """Return it as a command of a shell; its lines are no wider than that where they may end."""
        url = shlex.quote(self.url)
        if not self.body:
            return f"curl {url}"
        lines = [f"curl {url} -d \\"]
        if self.has_type:
            lines = [f"curl {url} \\", "  -H content-type:application/json -d \\"]
        lines.append("  '" + self.body[0])
        for piece in self.body[1:]:
            if len(lines[-1]) + len(piece) + 1 < width:
                lines[-1] += f" {piece}"
            else:
                lines.append(f"    {piece}")
        return "\n".join(lines) + "'"


async def example_request(
    service: "DeploymentService", deployment: "DeploymentStatusResponse"
) -> Request | None:
    """Return a request for a deployment that serves; None if it cannot be told what its model takes."""
    from deployledger.domain.exceptions import MachineLearningServiceError

    endpoint = deployment.endpoint_url or ""
    if not endpoint.startswith(("http://", "https://")):
        return None
    url = f"{endpoint}/v2/models/{deployment.deployment_name}"
    described = await asyncio.to_thread(_described_inputs, url)
    if described is not None:
        return described
    try:
        folder = await service.serving_files(deployment.deployment_id)
    except MachineLearningServiceError:  # whoever verifies the stored models is told
        return None
    return await asyncio.to_thread(mlflow_request, endpoint, folder) if folder is not None else None


def _described_inputs(url: str) -> Request | None:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310  # checked above
            described = json.loads(answer.read(_LARGEST_ANSWER))
        return request_of(url, described["inputs"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # it speaks another protocol
        return None


def request_of(url: str, inputs: list[dict[str, Any]]) -> Request:
    """Return a request with zeros for what a model takes; one for its description if that is too much.

    Args:
        url: where the server describes the model.
        inputs: the inputs in that description.
    """
    tensors: list[str] = []
    numbers = 0
    for each in inputs:
        shape = [1 if size < 0 else int(size) for size in each["shape"]]
        numbers += prod(shape)
        if numbers > _MOST_NUMBERS:
            return Request(url)
        data = [_ZEROS.get(each["datatype"], 0)] * prod(shape)
        tensors += [
            f'{{"name": {_quoted(each["name"])},',
            f'"datatype": {_quoted(each["datatype"])},',
            f'"shape": {json.dumps(shape)},',
            f'"data": {json.dumps(data)}}},',
        ]
    body = [f'{{"inputs": [{tensors[0]}', *tensors[1:-1], f"{tensors[-1][:-1]}]}}"]
    return Request(f"{url}/infer", tuple(body))


def mlflow_request(endpoint: str, folder: Path) -> Request | None:
    """Return a request with the example that was logged with an MLflow model, or zeros for its signature."""
    found = min(folder.rglob("MLmodel"), key=lambda path: len(path.parts), default=None)
    if found is None:
        return None
    try:
        body = _logged_example(found.parent) or _signature_example(found)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError):
        return None  # it is not as MLflow writes it
    return Request(f"{endpoint}/invocations", body, has_type=True) if body else None


def _logged_example(model: Path) -> tuple[str, ...]:
    logged = model / "serving_input_example.json"
    if not logged.is_file() or logged.stat().st_size > _LARGEST_BODY:
        return ()
    return tuple(_pieces(json.loads(logged.read_text("utf-8"))))


def _signature_example(mlmodel: Path) -> tuple[str, ...]:
    yaml: Any = import_module("yaml")  # MLflow's own dependency
    try:
        signature = yaml.safe_load(mlmodel.read_text("utf-8")).get("signature") or {}
    except yaml.YAMLError:
        return ()
    inputs = json.loads(signature.get("inputs") or "[]")
    if len(inputs) == 1 and inputs[0]["type"] == "tensor" and "name" not in inputs[0]:
        shape = [1 if size < 0 else int(size) for size in inputs[0]["tensor-spec"]["shape"]]
        if prod(shape) > _MOST_NUMBERS:
            return ()
        return tuple(_pieces({"inputs": _zeros(shape, inputs[0]["tensor-spec"]["dtype"])}))
    if not inputs or len(inputs) > _MOST_NUMBERS:
        return ()
    row = [_MLFLOW_ZEROS[column["type"]] for column in inputs]
    if any("name" not in column for column in inputs):
        return tuple(_pieces({"inputs": [row]}))
    columns = [column["name"] for column in inputs]
    return tuple(_pieces({"dataframe_split": {"columns": columns, "data": [row]}}))


def _zeros(shape: list[int], dtype: str) -> Any:
    if not shape:
        return 0.0 if dtype.startswith("float") else False if dtype == "bool" else "" if dtype == "str" else 0
    return [_zeros(shape[1:], dtype)] * shape[0]


def _pieces(value: Any) -> Iterator[str]:
    """Yield a JSON value in pieces; none ends within a text."""
    match value:
        case dict() if value:
            parts = [(f"{_quoted(key)}: ", each) for key, each in value.items()]
            begin, end = "{", "}"
        case list() if value:
            parts = [("", each) for each in value]
            begin, end = "[", "]"
        case _:
            yield _quoted(value)
            return
    for number, (key, each) in enumerate(parts):
        pieces = list(_pieces(each))
        pieces[0] = f"{begin if number == 0 else ''}{key}{pieces[0]}"
        pieces[-1] += end if number == len(parts) - 1 else ","
        yield from pieces


def _quoted(value: Any) -> str:
    """Return a value as JSON that can stand between single quotes in a shell."""
    return json.dumps(value).replace("'", r"\u0027")
