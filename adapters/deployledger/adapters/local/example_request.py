"""How to query a model that is being served: a command to paste, with an input that fits the model.

What an ONNX model takes is asked of its server (Open Inference Protocol, version 2); what an MLflow model
takes is in its files. Nothing is predicted here.
"""

import asyncio
import json
import re
import shlex
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from importlib import import_module
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, Json

if TYPE_CHECKING:
    from deployledger.domain.responses import DeploymentStatusResponse
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
_PIECE = re.compile(r'(?:"(?:[^"\\]|\\.)*"(?:: )?|[^\s"])+')
"""JSON between the places where a line may end: neither within a text nor after a key."""


@dataclass(frozen=True)
class ExampleRequest:
    """A request that a model answers.

    Attributes:
        url: where it goes.
        body: a JSON value; None if the request is only for what the model takes.
        has_type: whether the server insists on the body's type.
    """

    url: str
    body: Any = None
    has_type: bool = False

    def command(self, width: int) -> str:
        """Return it as a command of a shell; its lines are no wider than that where they may end."""
        url = shlex.quote(self.url)
        if self.body is None:
            return f"curl {url}"
        lines = [f"curl {url} -d \\"]
        if self.has_type:
            lines = [f"curl {url} \\", "  -H content-type:application/json -d \\"]
        first, *pieces = _PIECE.findall(json.dumps(self.body).replace("'", r"\u0027"))
        lines.append(f"  '{first}")
        for piece in pieces:
            if len(lines[-1]) + len(piece) + 1 < width:
                lines[-1] += f" {piece}"
            else:
                lines.append(f"    {piece}")
        return "\n".join(lines) + "'"


class _Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class _Model(BaseModel):
    inputs: list[_Tensor] = Field(min_length=1)


class _TensorSpec(BaseModel):
    dtype: str
    shape: list[int]


class _Column(BaseModel):
    name: str | None = None
    type: Literal["tensor", "boolean", "integer", "long", "float", "double", "string", "datetime"]
    tensor: _TensorSpec | None = Field(default=None, alias="tensor-spec")


class _Signature(BaseModel):
    inputs: Json[list[_Column]] | None = None


class _MLmodel(BaseModel):
    signature: _Signature | None = None


async def example_request(
    service: "DeploymentService", deployment: "DeploymentStatusResponse"
) -> ExampleRequest | None:
    """Return a request for a deployment that serves; None if it is unknown what its model takes."""
    from deployledger.domain.exceptions import MachineLearningServiceError

    endpoint = deployment.endpoint_url or ""
    if not endpoint.startswith(("http://", "https://")):
        return None
    described = await asyncio.to_thread(
        _described_by_server, f"{endpoint}/v2/models/{deployment.deployment_name}"
    )
    if described is not None:
        return described
    try:
        folder = await service.serving_files(deployment.deployment_id)
    except MachineLearningServiceError:  # `artifacts verify` reports it
        return None
    return await asyncio.to_thread(mlflow_request, endpoint, folder) if folder is not None else None


def _described_by_server(url: str) -> ExampleRequest | None:
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310  # checked above
            return inference_request(url, answer.read(_LARGEST_ANSWER))
    except (OSError, HTTPException, ValueError):  # it speaks another protocol
        return None


def inference_request(url: str, description: str | bytes) -> ExampleRequest:
    """Return a request with zeros for what a model takes; one for its description if that is too much.

    Args:
        url: where the server describes the model.
        description: that description, as JSON.

    Raises:
        ValueError: if it is none.
    """
    tensors = []
    for tensor in _Model.model_validate_json(description).inputs:
        shape = _of_one_row(tensor.shape)
        data = [_ZEROS.get(tensor.datatype, 0)] * min(prod(shape), _MOST_NUMBERS + 1)
        tensors.append({"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": data})
    if sum(len(tensor["data"]) for tensor in tensors) > _MOST_NUMBERS:
        return ExampleRequest(url)
    return ExampleRequest(f"{url}/infer", {"inputs": tensors})


def mlflow_request(endpoint: str, folder: Path) -> ExampleRequest | None:
    """Return a request with the example that was logged with an MLflow model, or zeros for its signature."""
    mlmodel = min(folder.rglob("MLmodel"), key=lambda path: len(path.parts), default=None)
    if mlmodel is None:
        return None
    try:
        body = _logged_example(mlmodel.parent) or _signature_example(mlmodel)
    except (OSError, ValueError, ImportError):  # it is not as MLflow writes it
        return None
    return ExampleRequest(f"{endpoint}/invocations", body, has_type=True) if body else None


def _logged_example(model: Path) -> Any:
    logged = model / "serving_input_example.json"
    if not logged.is_file() or logged.stat().st_size > _LARGEST_BODY:
        return None
    return json.loads(logged.read_text("utf-8"))


def _signature_example(mlmodel: Path) -> Any:
    yaml: Any = import_module("yaml")  # MLflow's own dependency
    try:
        signature = _MLmodel.model_validate(yaml.safe_load(mlmodel.read_text("utf-8"))).signature
    except yaml.YAMLError:
        return None
    columns = (signature and signature.inputs) or []
    if len(columns) == 1 and (tensor := columns[0].tensor) and columns[0].name is None:
        shape = _of_one_row(tensor.shape)
        return {"inputs": _zeros(shape, tensor.dtype)} if prod(shape) <= _MOST_NUMBERS else None
    if not 0 < len(columns) <= _MOST_NUMBERS or any(column.type == "tensor" for column in columns):
        return None
    row = [_MLFLOW_ZEROS[column.type] for column in columns]
    names = [column.name for column in columns]
    if None in names:
        return {"inputs": [row]}
    return {"dataframe_split": {"columns": names, "data": [row]}}


def _of_one_row(shape: list[int]) -> list[int]:
    return [1 if size < 0 else size for size in shape]


def _zeros(shape: list[int], dtype: str) -> Any:
    if not shape:
        return 0.0 if dtype.startswith("float") else False if dtype == "bool" else "" if dtype == "str" else 0
    return [_zeros(shape[1:], dtype)] * shape[0]
