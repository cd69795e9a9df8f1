"""Requests and responses of the Open Inference Protocol v2, apart from HTTP.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
and its extension for binary data,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson

from deployledger.serving.content_coding import Buffer
from deployledger.serving.onnx_model import OnnxModel, Output, TensorSpec, labels_as_text
from deployledger.serving.tensors import Array, InvalidTensorError, from_binary, from_json, to_binary, to_json

BINARY_EXTENSION = "binary_tensor_data"


class InvalidRequestError(ValueError):
    """A request that the protocol or the model does not allow; the message says what was expected instead."""


_Shape = Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=64)]


class _Parameters(msgspec.Struct):
    """The parameters of a request, an input or an output that affect the response; others are ignored."""

    binary_data_size: int | float | str | bool | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False
    classification: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    sequence_id: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    shared_memory_region: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        for name in ("classification", "sequence_id", "shared_memory_region"):
            if getattr(self, name) is not msgspec.UNSET:
                raise ValueError(f"the parameter {name!r} belongs to an unsupported extension")


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: _Shape
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)


class _RequestedOutput(msgspec.Struct):
    name: str
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)


class _Request(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_RequestedOutput] = []
    id: str | None = None
    parameters: _Parameters = msgspec.field(default_factory=_Parameters)


_LARGEST_DESCRIPTION = 1024 * 1024
"""How many bytes the JSON of a request may have besides its inputs' data, which takes far less memory."""

_DECODER = msgspec.json.Decoder(_Request)


def model_metadata(name: str, version: str, model: OnnxModel) -> dict[str, Any]:
    """Return the response to a request for a model's metadata."""

    def describe(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}

    return {
        "name": name,
        "versions": [version],
        "platform": "onnx_onnxv1",
        "inputs": [describe(spec) for spec in model.inputs.values()],
        "outputs": [describe(spec) for spec in model.outputs.values()],
    }


def infer(
    name: str, version: str, model: OnnxModel, body: Buffer, json_size: int | None = None
) -> tuple[bytes, list[memoryview]]:
    """Return the response to an inference request: JSON, and the binary data of the outputs sent so.

    Args:
        name: the model's name.
        version: the model's version.
        model: the model.
        body: a JSON text, followed by the binary data of the inputs sent so.
        json_size: the size of the JSON text in bytes; the whole body by default.

    Raises:
        InvalidRequestError: the request is invalid.
        PredictionFailedError: ONNX Runtime could not compute the outputs.
    """
    binary_inputs = memoryview(b"")
    if json_size is not None:
        if json_size > len(body):
            raise InvalidRequestError(
                f"Inference-Header-Content-Length is {json_size}, but the body has only {len(body)} bytes"
            )
        binary_inputs = memoryview(body)[json_size:]
        body = body[:json_size]
    request = _decoded(body)
    inputs = _inputs(request, binary_inputs, model)
    wanted = _wanted_outputs(request, model)
    response: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id is not None:
        response["id"] = request.id
    binary: list[memoryview] = []
    response["outputs"] = [
        _described(output, binary if wanted[output.name] else None)
        for output in model.predict(inputs, list(wanted))
    ]
    return orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY), binary


def _decoded(text: Buffer) -> _Request:
    try:
        request = _DECODER.decode(text)
        # It takes the last of keys that are given twice, and skips what it does not know.
        description = _without_data(text, request)
        if len(description) > _LARGEST_DESCRIPTION:
            raise InvalidRequestError(
                f"the JSON without data has {len(description)} bytes, more than {_LARGEST_DESCRIPTION}"
            )
        json.loads(description, object_pairs_hook=_refuse_twice)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"the request is invalid: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply") from None
    return request


def _without_data(text: Buffer, request: _Request) -> bytes:
    """Return a request's text without its inputs' data, which are checked when they are read."""
    first = _address(text)
    parts, end = [], 0
    for each in request.inputs:
        if each.data is not msgspec.UNSET:
            start = _address(each.data) - first
            parts.append(text[end:start])
            end = start + len(memoryview(each.data))
    return b"0".join([*parts, text[end:]])


def _address(buffer: Buffer | msgspec.Raw) -> int:
    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise InvalidRequestError(f"the key {Counter(keys).most_common(1)[0][0]!r} is given twice")


def _inputs(request: _Request, binary: memoryview, model: OnnxModel) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for each in request.inputs:
        spec = model.inputs.get(each.name)
        if spec is None:
            raise InvalidRequestError(f"the model has no input {each.name!r}; it has {_names(model.inputs)}")
        if each.name in tensors:
            raise InvalidRequestError(f"the input {each.name!r} is given twice")
        try:
            tensors[each.name], binary = _tensor(each, spec, binary)
        except InvalidTensorError as error:
            raise InvalidRequestError(f"input {each.name!r}: {error}") from error
    if binary:
        raise InvalidRequestError(
            f"{len(binary)} bytes follow the binary data of the inputs; check "
            "Inference-Header-Content-Length, the size of the JSON"
        )
    missing = model.inputs.keys() - tensors.keys()
    if missing:
        raise InvalidRequestError(f"missing inputs: {_names(sorted(missing))}")
    return tensors


def _tensor(tensor: _Input, spec: TensorSpec, binary: memoryview) -> tuple[Array, memoryview]:
    """Return an input's tensor, and the binary data that are left for other inputs."""
    if tensor.datatype != spec.datatype.name:
        raise InvalidTensorError(f"expected datatype {spec.datatype.name}, got {tensor.datatype!r}")
    if not spec.fits(tensor.shape):
        raise InvalidTensorError(f"expected shape {spec.shape}, got {tensor.shape}")
    size = tensor.parameters.binary_data_size
    if size is None and tensor.data is not msgspec.UNSET:
        return from_json(memoryview(tensor.data), spec.datatype, tensor.shape), binary
    if size is None or tensor.data is not msgspec.UNSET:
        raise InvalidTensorError('it needs either "data" or the parameter "binary_data_size"')
    if type(size) is not int or size < 0:
        raise InvalidTensorError(f"binary_data_size is not a non-negative integer: {size!r}")
    if size > len(binary):
        raise InvalidTensorError(
            f"binary_data_size is {size}, but only {len(binary)} bytes of binary data are left; check "
            "Inference-Header-Content-Length, the size of the JSON"
        )
    return from_binary(binary[:size], spec.datatype, tensor.shape), binary[size:]


def _wanted_outputs(request: _Request, model: OnnxModel) -> dict[str, bool]:
    """Return the names of the wanted outputs, each with whether it is to be sent as binary data."""
    default = request.parameters.binary_data_output
    wanted: dict[str, bool] = {}
    for each in request.outputs:
        if each.name not in model.outputs:
            raise InvalidRequestError(
                f"the model has no output {each.name!r}; it has {_names(model.outputs)}"
            )
        if each.name in wanted:
            raise InvalidRequestError(f"the output {each.name!r} is requested twice")
        is_binary = each.parameters.binary_data
        wanted[each.name] = default if is_binary is None else is_binary
    return wanted or dict.fromkeys(model.outputs, default)


def _described(output: Output, binary: list[memoryview] | None) -> dict[str, Any]:
    """Return an output as it is in the JSON of a response; its data go to ``binary`` if there is one."""
    parameters: dict[str, Any] = {}
    description: dict[str, Any] = {
        "name": output.name,
        "datatype": output.datatype.name,
        "shape": list(output.array.shape),
    }
    if output.labels:
        parameters["labels"] = labels_as_text(output.labels)
    if binary is None:
        description["data"] = to_json(output.array)
    else:
        binary.append(to_binary(output.array, output.datatype))
        parameters["binary_data_size"] = len(binary[-1])
    if parameters:
        description["parameters"] = parameters
    return description


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
