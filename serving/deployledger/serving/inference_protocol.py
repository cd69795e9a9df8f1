"""Requests and answers of the Open Inference Protocol v2, apart from HTTP.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
and its extension for binary data,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson

from deployledger.serving.content_coding import Buffer
from deployledger.serving.onnx_model import OnnxModel, Output, TensorSpec, labels_as_text
from deployledger.serving.tensors import (
    Array,
    InvalidTensorError,
    from_binary,
    from_json,
    to_binary,
    to_json,
)

BINARY_EXTENSION = "binary_tensor_data"

# What a parameter asks for that would change the answer, and that this server does not do.
_UNSUPPORTED = {
    "classification": "the classification extension",
    "sequence_id": "the sequence extension",
    "shared_memory_region": "the shared memory extension",
}


class InvalidRequestError(ValueError):
    """A request that the protocol or the model does not allow; its text says what was expected and given."""


_Parameters = dict[str, Any] | msgspec.UnsetType


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0)]]
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: _Parameters = msgspec.UNSET


class _RequestedOutput(msgspec.Struct):
    name: str
    parameters: _Parameters = msgspec.UNSET


class _Request(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_RequestedOutput] | msgspec.UnsetType = msgspec.UNSET
    id: str | msgspec.UnsetType = msgspec.UNSET
    parameters: _Parameters = msgspec.UNSET


_LARGE_TEXT = 16 * 1024
_DECODER = msgspec.json.Decoder(_Request)


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


def infer(
    name: str, version: str, model: OnnxModel, body: Buffer, json_size: int | None = None
) -> tuple[bytes, list[memoryview]]:
    """Return the answer to an inference request: JSON, and the binary data of the outputs sent so.

    Args:
        name: the model's name.
        version: the model's version.
        model: the model.
        body: a JSON text, followed by the binary data of the inputs sent so.
        json_size: the bytes of the JSON text, if something may follow; it is the whole body by default.

    Raises:
        InvalidRequestError: the request is at fault.
        PredictionFailedError: ONNX Runtime could not compute the outputs.
    """
    binary_inputs = memoryview(b"")
    if json_size is not None:
        if json_size > len(body):
            raise InvalidRequestError(
                f"the body has {len(body)} bytes, and Inference-Header-Content-Length is {json_size}"
            )
        binary_inputs = memoryview(body)[json_size:]
        body = body[:json_size]
    request = _decoded(body)
    inputs = _inputs(request, binary_inputs, model)
    wanted = _wanted_outputs(request, model)
    answer: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id is not msgspec.UNSET:
        answer["id"] = request.id
    binary: list[memoryview] = []
    answer["outputs"] = [
        _described(output, binary if wanted[output.name] else None)
        for output in model.predict(inputs, list(wanted))
    ]
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), binary


def _decoded(text: bytes | bytearray) -> _Request:
    try:
        request = _DECODER.decode(text)
        _check_text(text, request)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"the request is invalid: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply") from None
    return request


def _check_text(text: bytes | bytearray, request: _Request) -> None:
    """Refuse what is no JSON text, or is ambiguous, in parts that the decoder skips.

    Raises:
        InvalidRequestError: a key occurs twice in one object.
        UnicodeDecodeError: it is not UTF-8.
    """
    if len(text) > _LARGE_TEXT:
        text = _without_data(text, request)
    text.decode()
    keys = 1 + (request.outputs is not msgspec.UNSET) + (request.id is not msgspec.UNSET)
    for tensor in request.inputs:
        keys += 3 + (tensor.data is not msgspec.UNSET)
    for each in (request, *request.inputs, *(request.outputs or ())):
        if each.parameters is not msgspec.UNSET:
            keys += 1 + len(each.parameters)
    keys += len(request.outputs or ())
    # Each key has a colon. Any more of them are in texts, in unknown fields or nested parameters, or after a
    # key that is there already: the slower decoder can tell.
    if text.count(b":") == keys:
        return
    json.loads(text, object_pairs_hook=_refuse_twice)


def _without_data(text: bytes | bytearray, request: _Request) -> bytes:
    """Return a request's text without its inputs' data, which are checked when they are read."""
    first = _address(text)
    parts, end = [], 0
    for each in request.inputs:
        if each.data is not msgspec.UNSET:
            start = _address(each.data) - first
            parts.append(text[end:start])
            end = start + len(memoryview(each.data))
    parts.append(text[end:])
    return b"0".join(parts)


def _address(buffer: Buffer | msgspec.Raw) -> int:
    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise InvalidRequestError(f"the key {key!r} is given twice")


def _inputs(request: _Request, binary: memoryview, model: OnnxModel) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    position = 0
    for each in request.inputs:
        spec = model.inputs.get(each.name)
        if spec is None:
            raise InvalidRequestError(f"the model has no input {each.name!r}; it has {_names(model.inputs)}")
        if each.name in tensors:
            raise InvalidRequestError(f"the input {each.name!r} is given twice")
        try:
            _check_fits(each, spec)
            size = _binary_size(each)
            if size is not None:
                data = binary[position : position + size]
                if len(data) < size:
                    raise InvalidTensorError(
                        f"binary_data_size is {size}, and {len(data)} bytes are left of the body after its "
                        "JSON, whose size Inference-Header-Content-Length must say"
                    )
                tensors[each.name] = from_binary(data, spec.datatype, each.shape)
                position += size
            elif each.data is not msgspec.UNSET:
                tensors[each.name] = from_json(memoryview(each.data), spec.datatype, each.shape)
            else:
                raise InvalidTensorError('it has neither "data" nor the parameter "binary_data_size"')
        except InvalidTensorError as error:
            raise InvalidRequestError(f"input {each.name!r}: {error}") from error
    if position < len(binary):
        raise InvalidRequestError(
            f"{len(binary) - position} bytes follow the binary data of the inputs; is "
            "Inference-Header-Content-Length, the size of the JSON, right?"
        )
    missing = model.inputs.keys() - tensors.keys()
    if missing:
        raise InvalidRequestError(f"missing inputs: {_names(sorted(missing))}")
    return tensors


def _check_fits(tensor: _Input, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype.name:
        raise InvalidTensorError(f"expected datatype {spec.datatype.name}, given {tensor.datatype!r}")
    if not spec.fits(tensor.shape):
        raise InvalidTensorError(f"expected shape {spec.shape}, given {tensor.shape}")


def _binary_size(tensor: _Input) -> int | None:
    """Return how many bytes of binary data an input has; None if it has a JSON text."""
    parameters = _supported(tensor.parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidTensorError(f"binary_data_size is not an integer from 0 up: {size!r}")
    if tensor.data is not msgspec.UNSET:
        raise InvalidTensorError('it has both "data" and the parameter "binary_data_size"')
    return size


def _wanted_outputs(request: _Request, model: OnnxModel) -> dict[str, bool]:
    """Return the names of the wanted outputs, each with whether it is to be sent as binary data."""
    default = _flag(_supported(request.parameters), "binary_data_output", default=False)
    wanted: dict[str, bool] = {}
    for each in request.outputs or ():
        if each.name not in model.outputs:
            raise InvalidRequestError(
                f"the model has no output {each.name!r}; it has {_names(model.outputs)}"
            )
        if each.name in wanted:
            raise InvalidRequestError(f"the output {each.name!r} is requested twice")
        wanted[each.name] = _flag(_supported(each.parameters), "binary_data", default=default)
    return wanted or dict.fromkeys(model.outputs, default)


def _supported(parameters: _Parameters) -> dict[str, Any]:
    """Return parameters; those that are not known, or only say when to compute, are ignored."""
    if parameters is msgspec.UNSET:
        return {}
    for key, extension in _UNSUPPORTED.items():
        if key in parameters:
            raise InvalidRequestError(f"the parameter {key!r} is not supported: {extension} is not available")
    return parameters


def _flag(parameters: dict[str, Any], key: str, *, default: bool) -> bool:
    flag = parameters.get(key, default)
    if type(flag) is not bool:
        raise InvalidRequestError(f"the parameter {key!r} is not true or false: {flag!r}")
    return flag


def _described(output: Output, binary: list[memoryview] | None) -> dict[str, Any]:
    """Return an output as it is in the JSON of an answer; its data go to ``binary`` if there is one."""
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
