"""The description that an endpoint gives of its model: inputs, outputs, and an example of a request.

It needs the standard library alone, because the command line reads descriptions, too.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

_MOST_NUMBERS = 64
"""The most elements of an example; larger inputs have no example."""
_LARGEST_EXAMPLE = 1_000
_OF_TYPE: dict[str, Any] = {
    "bool": False,
    **dict.fromkeys(("bytes", "str", "object"), ""),
    "datetime": "2026-01-01T00:00:00",
    **dict.fromkeys(("fp", "bf", "float", "double"), 0.0),
}
"""What stands for a missing example, by how a data type's name begins; 0 for the others."""
_SCALARS = ("boolean", "integer", "long", "float", "double", "string", "datetime")

Form = Literal["open_inference", "dataframe_split", "inputs"]
"""The format of a request: that of the Open Inference Protocol, or one of MLflow's."""


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model, or one column of a data frame.

    Attributes:
        name: its name; None if it has none.
        datatype: its data type, as the protocol names it.
        shape: its shape, where -1 is a dimension of any size; None if its values are not tensors.
        example: one row of it, nested as the shape is; None if that is unknown or large.
        is_optional: whether rows may lack it.
    """

    name: str | None
    datatype: str
    shape: list[int] | None
    example: Any = None
    is_optional: bool = False

    @property
    def type_and_shape(self) -> str:
        """Its data type and shape in words."""
        if self.shape is None:
            return self.datatype
        return f"{self.datatype} [{', '.join('any' if size < 0 else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class ModelDescription:
    """One version of a model, as its endpoint describes it.

    Attributes:
        name: its name, as in URLs.
        version: its version, which is the deployment's revision.
        digest: the digest of its files, if they have one.
        form: the format of requests.
        inputs: its inputs; empty if they are unknown.
        outputs: its outputs; empty if they are unknown.
        example: the body of a valid request; None if that is unknown or large.
    """

    name: str
    version: str
    digest: str | None
    form: Form
    inputs: list[Tensor]
    outputs: list[Tensor]
    example: Any = None

    @property
    def path(self) -> str:
        """The path to send requests to, relative to the endpoint."""
        if self.form == "open_inference":
            return f"v2/models/{quote(self.name, safe='')}/infer"
        return "invocations"

    @property
    def takes(self) -> str:
        """The inputs in words."""
        are_columns = self.form == "dataframe_split"
        return ", ".join(
            f"{each.name or 'one input'} ({each.datatype if are_columns else each.type_and_shape})"
            for each in self.inputs
        )

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, Any], digest: str | None = None) -> "ModelDescription":
        """Return the description of a model from its metadata in the Open Inference Protocol.

        Raises:
            KeyError, TypeError, ValueError: the metadata are invalid.
        """
        inputs, outputs = (
            [
                _with_example(str(each["name"]), str(each["datatype"]), list(map(int, each["shape"])))
                for each in metadata[field]
            ]
            for field in ("inputs", "outputs")
        )
        name, versions = str(metadata["name"]), metadata.get("versions") or ["1"]
        return cls(name, str(versions[-1]), digest, "open_inference", inputs, outputs)._with_zeros()

    @classmethod
    def of_mlflow(
        cls, name: str, version: str, digest: str | None, metadata: Mapping[str, Any], folder: Path
    ) -> "ModelDescription":
        """Return the description of an MLflow model.

        Args:
            metadata: the contents of its ``MLmodel`` file.
            folder: the folder of that file, which may also have an example that was logged with the model.
        """
        signature = metadata.get("signature") or {}
        form, inputs = _schema(signature.get("inputs"))
        _, outputs = _schema(signature.get("outputs"))
        description = cls(name, version, digest, form, inputs, outputs)
        logged = _logged_example(folder)
        if logged is None:
            return description._with_zeros()
        return replace(description, inputs=_with_logged(form, inputs, logged), example=logged)

    def request(self, values: Mapping[str | None, Any]) -> Any:
        """Return the body of a request, as JSON.

        Args:
            values: the value of each input by its name, nested as its shape is.
        """
        if self.form == "dataframe_split":
            columns = [values[each.name] for each in self.inputs]
            rows = [list(row) for row in zip(*columns, strict=True)]
            return {"dataframe_split": {"columns": [each.name for each in self.inputs], "data": rows}}
        if self.form == "inputs":
            return {"inputs": values[None] if None in values else dict(values)}
        pairs = [(each, values[each.name]) for each in self.inputs]
        inputs = [
            {"name": each.name, "datatype": each.datatype, "shape": shape_of(value), "data": _flat(value)}
            for each, value in pairs
        ]
        return {"inputs": inputs}

    def _with_zeros(self) -> "ModelDescription":
        values = {each.name: each.example for each in self.inputs}
        is_whole = values and None not in values.values()
        is_small = sum(len(_flat(value)) for value in values.values()) <= _MOST_NUMBERS
        return replace(self, example=self.request(values)) if is_whole and is_small else self


def shape_of(value: Any) -> list[int]:
    """Return the shape of nested lists, from the outermost in; a value that is not a list has none.

    Raises:
        ValueError: lists at the same depth differ in length.
    """
    if not isinstance(value, list):
        return []
    shapes = [shape_of(each) for each in value]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("the nested arrays are not all of the same length")
    return [len(value), *(shapes[0] if shapes else [])]


def _flat(value: Any) -> list[Any]:
    return [each for part in value for each in _flat(part)] if isinstance(value, list) else [value]


def _with_example(name: str | None, datatype: str, shape: list[int] | None) -> Tensor:
    if shape is None:
        return Tensor(name, datatype, shape)
    one_row = [1 if size < 0 else size for size in shape]
    zero = next((value for begin, value in _OF_TYPE.items() if datatype.lower().startswith(begin)), 0)
    is_small = prod(one_row) <= _MOST_NUMBERS
    return Tensor(name, datatype, shape, _nested(one_row, zero) if is_small else None)


def _nested(shape: list[int], value: Any) -> Any:
    return [_nested(shape[1:], value) for _ in range(shape[0])] if shape else value


def _schema(text: Any) -> tuple[Form, list[Tensor]]:
    """Return the inputs or outputs of a signature; columns without names are one tensor."""
    columns = json.loads(text) if isinstance(text, str) else []
    tensors = [_column(each) for each in columns]
    if any(each.get("type") == "tensor" for each in columns):
        return "inputs", tensors
    if columns and None not in [each.name for each in tensors]:
        return "dataframe_split", tensors
    if tensors and None not in [each.shape for each in tensors]:
        return "inputs", [_with_example(None, tensors[0].datatype, [-1, len(tensors)])]
    return "inputs", []


def _column(column: Mapping[str, Any]) -> Tensor:
    if column["type"] == "tensor":
        spec = column["tensor-spec"]
        return _with_example(column.get("name"), spec["dtype"], spec["shape"])
    datatype = column["type"]
    tensor = _with_example(column.get("name"), datatype, [-1] if datatype in _SCALARS else None)
    return replace(tensor, is_optional=column.get("required") is False)


def _logged_example(folder: Path) -> Any:
    path = folder / "serving_input_example.json"
    with suppress(OSError, ValueError):  # there is none, or it is not as MLflow writes it
        if path.stat().st_size <= _LARGEST_EXAMPLE:
            return json.loads(path.read_text("utf-8"))
    return None


def _with_logged(form: Form, inputs: list[Tensor], logged: Any) -> list[Tensor]:
    """Return the inputs with the first row of an example that was logged, if it has their form."""
    with suppress(KeyError, IndexError, TypeError):
        if form == "dataframe_split":
            frame = logged["dataframe_split"]
            row = dict(zip(frame["columns"], frame["data"][0], strict=False))
            return [replace(each, example=[row[each.name]]) for each in inputs]
        values = logged["inputs"]
        return [replace(each, example=(values[each.name] if each.name else values)[:1]) for each in inputs]
    return inputs
