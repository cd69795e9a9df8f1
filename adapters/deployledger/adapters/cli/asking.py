"""How to ask a model that was just deployed: a command with the model's own input, which can be pasted.

What the model takes is asked of its server (Open Inference Protocol, version 2); nothing is predicted here.
"""

import asyncio
import json
import shlex
import urllib.request
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from deployledger.domain.schemas import DeploymentStatusResponse

_SECONDS = 2.0
_LARGEST_ANSWER = 100_000
_MOST_NUMBERS = 64
"""How many numbers a command may have; the input of a model that takes more is described, not written."""
_ZEROS: dict[str, Any] = {"BOOL": False, "BYTES": "", "FP16": 0.0, "BF16": 0.0, "FP32": 0.0, "FP64": 0.0}


class Request(NamedTuple):
    """An example of a request.

    Attributes:
        url: where it goes.
        body: the body, as JSON in pieces between which a line may end; none if the request is only for what
            the model takes.
    """

    url: str
    body: tuple[str, ...] = ()

    def command(self, width: int) -> str:
        """Return it as a command of a shell; its lines are no wider than that where they may end."""
        url = shlex.quote(self.url)
        if not self.body:
            return f"curl {url}"
        lines = [f"curl {url} -d \\", "  '" + self.body[0]]
        for piece in self.body[1:]:
            if len(lines[-1]) + len(piece) + 1 < width:
                lines[-1] += f" {piece}"
            else:
                lines.append(f"    {piece}")
        return "\n".join(lines) + "'"


async def example_request(deployment: "DeploymentStatusResponse") -> Request | None:
    """Return a request for a deployment that serves; None if its server does not say what it takes."""
    return await asyncio.to_thread(_example_request, deployment)


def _example_request(deployment: "DeploymentStatusResponse") -> Request | None:
    url = f"{deployment.endpoint_url}/v2/models/{deployment.deployment_name}"
    if not url.startswith(("http://", "https://")):
        return None
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310  # checked above
            described = json.loads(answer.read(_LARGEST_ANSWER))
        return request_of(url, described["inputs"])
    except (OSError, ValueError, LookupError, TypeError):  # it speaks another protocol
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
        head = f'{{"name": {_quoted(each["name"])},'
        tensors += [head, f'"datatype": {_quoted(each["datatype"])},', f'"shape": {json.dumps(shape)},']
        tensors += [f'"data": {json.dumps(data)}}},']
    body = [f'{{"inputs": [{tensors[0]}', *tensors[1:-1], f"{tensors[-1][:-1]}]}}"]
    return Request(f"{url}/infer", tuple(body))


def _quoted(text: str) -> str:
    """Return a text as JSON that can stand between single quotes in a shell."""
    return json.dumps(text).replace("'", r"\u0027")
