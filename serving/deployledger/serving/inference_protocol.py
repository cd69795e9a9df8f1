"""Requests and answers of the Open Inference Protocol v2, apart from HTTP.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import json
from typing import Any

from deployledger.serving.onnx_model import OnnxModel, TensorSpec, labels_as_text
from deployledger.serving.tensors import Array, InvalidTensorError, to_array, to_json


class InvalidRequestError(ValueError):
    """A request that the protocol or the model does not allow; its text says what was expected and given."""


def model_metadata(name: str, version: str, model: OnnxModel) -> dict[str, Any]:
    """Return the answer to a request for a model's metadata."""

    def describe(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}

    return {
        "name": name,
        "versions": [version],
        "platform": "onnx_onnxv1",
        "inputs": [describe(spec) for spec in model.inputs.values()],
        "outputs": [describe(spec) for spec in model.outputs.values()],
    }


def infer(name: str, version: str, model: OnnxModel, body: bytes) -> bytes:
    """Return the answer to an inference request; both are JSON texts.

    Raises:
        InvalidRequestError: the request is at fault.
        PredictionFailedError: ONNX Runtime could not compute the outputs.
    """
    request = _object(body)
    inputs = _inputs(request, model)
    outputs = _requested_outputs(request, model)
    answer: dict[str, Any] = {"model_name": name, "model_version": version}
    if "id" in request:
        answer["id"] = request["id"]
    answer["outputs"] = [
        {
            "name": output.name,
            "datatype": output.datatype.name,
            "shape": list(output.array.shape),
            **({"parameters": {"labels": labels_as_text(output.labels)}} if output.labels else {}),
            "data": to_json(output.array),
        }
        for output in model.predict(inputs, outputs)
    ]
    return json.dumps(answer, allow_nan=False).encode()


def _object(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise InvalidRequestError("the body is not a JSON object")
    if not isinstance(request.get("id", ""), str):
        raise InvalidRequestError('"id" is not a string')
    return request


def _inputs(request: dict[str, Any], model: OnnxModel) -> dict[str, Array]:
    tensors = {}
    for each in _objects(request, "inputs"):
        name = each["name"]
        if name not in model.inputs:
            raise InvalidRequestError(f"the model has no input {name!r}; it has {_names(model.inputs)}")
        if name in tensors:
            raise InvalidRequestError(f"the input {name!r} is given twice")
        tensors[name] = _tensor(each, model.inputs[name])
    missing = model.inputs.keys() - tensors.keys()
    if missing:
        raise InvalidRequestError(f"missing inputs: {_names(sorted(missing))}")
    return tensors


def _tensor(tensor: dict[str, Any], spec: TensorSpec) -> Array:
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    if datatype != spec.datatype.name:
        raise InvalidRequestError(
            f"input {spec.name!r}: expected datatype {spec.datatype.name}, given {datatype!r}"
        )
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidRequestError(
            f"input {spec.name!r}: expected a shape of integers from 0 up, given {shape!r}"
        )
    fits = len(shape) == len(spec.shape) and all(
        expected in (-1, size) for expected, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidRequestError(f"input {spec.name!r}: expected shape {spec.shape}, given {shape}")
    if "data" not in tensor:
        raise InvalidRequestError(f'input {spec.name!r} has no "data"')
    try:
        return to_array(tensor["data"], spec.datatype, shape)
    except InvalidTensorError as error:
        raise InvalidRequestError(f"input {spec.name!r}: {error}") from error


def _requested_outputs(request: dict[str, Any], model: OnnxModel) -> list[str] | None:
    if not request.get("outputs"):
        return None
    names = [each["name"] for each in _objects(request, "outputs")]
    for name in names:
        if name not in model.outputs:
            raise InvalidRequestError(f"the model has no output {name!r}; it has {_names(model.outputs)}")
    return names


def _objects(request: dict[str, Any], field: str) -> list[dict[str, Any]]:
    objects = request.get(field)
    if not isinstance(objects, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in objects
    ):
        raise InvalidRequestError(f'"{field}" is not an array of objects with a "name"')
    return objects


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
