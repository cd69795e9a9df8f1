"""The command that asks a served model: ``predict``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli import streams
from deployledger.adapters.cli.files import file_to_read
from deployledger.adapters.cli.options import Reference, SessionOptions
from deployledger.adapters.cli.usage import UsageError

if TYPE_CHECKING:
    from deployledger.adapters.prediction_request import Data
    from deployledger.domain.responses import DeploymentStatusResponse

_FORMATS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


def predict(
    deployment: Reference,
    *,
    data: Annotated[
        str | None,
        typer.Option(help="Values or a request, as JSON; @FILE reads a file, @- standard input."),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option("--input", help="A file of rows: JSON, JSON lines or CSV; - reads standard input."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="The seconds after which a silent endpoint is given up.")
    ] = 60,
    session: SessionOptions,
) -> None:
    """Query the model that a deployment serves, and print its predictions.

    Values are a number, a text, a row, an array of rows, or an object with a value for each input. A
    complete request of the model's protocol is sent as it is. `-o json` prints the answer as it came.

    Examples:
        deployledger predict iris --data '[5.1, 3.5, 1.4, 0.2]'
        deployledger predict iris --data @request.json -o json
        deployledger predict iris --input flowers.csv
    """
    with session.errors():
        given = _data(data, input_)
    status = session.run(lambda service: service.find_deployment(deployment))
    with session.errors():
        text = _predicted(status, given, timeout)
    if session.is_json:
        streams.answer().write(_inert(text) + "\n")
        return
    from deployledger.adapters.cli.prediction_table import prediction_table

    session.show(prediction_table(text, is_whole=session.is_wide))


def _data(data: str | None, input_: str | None) -> "Data":
    from deployledger.adapters.prediction_request import Data

    if (data is None) == (input_ is None):
        raise UsageError(
            "Give either --data or --input." if data is None else "--data and --input contradict each other.",
            hint="For example --data '[5.1, 3.5, 1.4, 0.2]', or --input rows.csv.",
        )
    if data is not None and not data.startswith("@"):
        return Data(data)
    option, name = ("--input", input_ or "") if data is None else ("--data", data[1:])
    file = file_to_read(name)
    try:
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{name!r} cannot be read: {error.strerror}.", option=option) from None
    except UnicodeDecodeError:
        raise UsageError(f"{name!r} is not UTF-8.", option=option) from None
    if name == "-":
        return Data(text, source="standard input")
    suffix = Path(name).suffix.lower()
    if suffix not in _FORMATS and data is None:
        raise UsageError(
            f"{name!r} has the suffix {suffix!r}.",
            hint=f"Use one of {', '.join(_FORMATS)}, or - for standard input.",
            option=option,
        )
    return Data(text, _FORMATS.get(suffix, ""), name)


def _predicted(status: "DeploymentStatusResponse", data: "Data", timeout: float) -> str:
    """Return the answer of the serving revision."""
    from deployledger.adapters.endpoint import Endpoint
    from deployledger.adapters.prediction_request import prediction_request

    endpoint = Endpoint(_url(status), timeout)
    model = endpoint.describe(status.deployment_name)
    request = prediction_request(data, model, status.deployment_name)
    takes = f"The model takes {model.takes}." if model is not None and model.inputs else ""
    return endpoint.predict(request.path, request.body, request.content_type, hint=takes)


def _url(status: "DeploymentStatusResponse") -> str:
    from deployledger.domain.exceptions import ConflictError

    url, name = status.endpoint_url or "", status.deployment_name
    if url.startswith(("http://", "https://")) and not status.simulated:
        return url
    if status.deployment_target_config.is_batch_job:
        raise ConflictError(
            f"Deployment {name!r} is a batch job; it has no endpoint.",
            hint="`deployledger deploy` with --type api_service serves a model.",
        )
    if status.simulated and url:
        raise ConflictError(f"Deployment {name!r} is simulated: nothing serves at {url}.")
    raise ConflictError(
        f"Deployment {name!r} serves nothing: its status is {status.status}.",
        hint=f"`deployledger status {name}` says why.",
    )


def _inert(text: str) -> str:
    """Return JSON in which no control character acts on a terminal; the few that JSON allows are in texts."""
    return "".join(f"\\u{ord(each):04x}" if "\x7f" <= each <= "\x9f" else each for each in text).rstrip("\n")
