"""Commands, ready to paste, that query a served model with an input that fits it."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployledger.serving import ModelDescription

_PIECE = re.compile(r'(?:"(?:[^"\\]|\\.)*"(?:: )?|[^\s"])+')
"""A piece of JSON after which a line may end: not within a string, nor between a key and its value."""


@dataclass(frozen=True)
class ExampleCommands:
    """Commands that query a deployment.

    Attributes:
        name: the deployment's name.
        endpoint: its URL.
        model: the model that it serves.
    """

    name: str
    endpoint: str
    model: "ModelDescription"

    def lines(self, width: int) -> Iterator[str]:
        """Yield the lines of the commands, wrapped to a width wherever the shell allows it."""
        values = {each.name: _plain(each.example) for each in self.model.inputs}
        if values and None not in values.values():
            value = values if len(values) > 1 else next(iter(values.values()))
            yield f"deployledger predict {self.name} --data {_quoted(value)}"
        else:
            yield f"deployledger predict {self.name} --input FILE"
        if self.model.example is not None:
            yield from self._curl(width)

    def _curl(self, width: int) -> Iterator[str]:
        url = shlex.quote(f"{self.endpoint}/{self.model.path}")
        if self.model.form == "open_inference":
            yield f"curl {url} -d \\"
        else:  # MLflow insists on the type
            yield from (f"curl {url} \\", "  -H content-type:application/json -d \\")
        first, *pieces = _PIECE.findall(_quoted(self.model.example))
        line = f"  {first}"
        for piece in pieces:
            if len(line) + len(piece) + 1 < width:
                line += f" {piece}"
            else:
                yield line
                line = f"    {piece}"
        yield line


def _plain(example: Any) -> Any:
    """Return one row without the dimensions that the command adds."""
    while isinstance(example, list) and len(example) == 1:
        (example,) = example
    return example


def _quoted(value: Any) -> str:
    return "'" + json.dumps(value).replace("'", r"\u0027") + "'"
