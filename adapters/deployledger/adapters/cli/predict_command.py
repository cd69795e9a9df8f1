"""The command that queries a served model: ``predict``."""

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

_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv")


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
    timeout: Annotated[float, typer.Option(min=0.001, help="How many seconds to wait for a response.")] = 60,
    session: SessionOptions,
) -> None:
    """Query the model that a deployment serves, and print its predictions.

    Values are a number, a text, a row, an array of rows, or an object with a value for each input. A
    complete request of the model's protocol is sent unchanged. `-o json` prints the whole response.

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
            "Neither --data nor --input was given."
            if data is None
            else "--data and --input contradict each other.",
            hint="Give one of them: for example --data '[5.1, 3.5, 1.4, 0.2]', or --input rows.csv.",
        )
    if data is not None and not data.startswith("@"):
        return Data(data)
    option, name = ("--input", input_ or "") if data is None else ("--data", data[1:])
    suffix = Path(name).suffix.lower()
    hint = "Give JSON, JSON lines or CSV; batch inference jobs score Parquet and compressed files, too."
    if suffix not in _SUFFIXES and name != "-" and data is None:
        raise UsageError(
            f"{name!r} does not end with one of {', '.join(_SUFFIXES)}.", hint=hint, option=option
        )
    file = file_to_read(name)
    try:
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{name!r} cannot be read: {error.strerror}.", option=option) from None
    except UnicodeDecodeError:
        raise UsageError(f"{name!r} is not UTF-8.", hint=hint, option=option) from None
    if name == "-":
        is_json = text.lstrip().startswith(("[", "{")) or "\n" not in text.strip()
        return Data(text, "standard input", "json" if is_json else "csv")
    return Data(text, name, "csv" if suffix == ".csv" else "json")


def _predicted(status: "DeploymentStatusResponse", data: "Data", timeout: float) -> str:
    """Return the response of the serving revision."""
    from deployledger.adapters.endpoint import Endpoint
    from deployledger.adapters.prediction_request import prediction_request
    from deployledger.domain.exceptions import ConflictError

    url, name, reason = status.endpoint_url or "", status.deployment_name, ""
    if status.deployment_target_config.is_batch_job:
        reason = "it is a batch job"
    elif status.simulated:
        reason = "it is simulated"
    elif not url.startswith(("http://", "https://")):
        reason = f"its status is {status.status}"
    if reason:
        hint = f"`deployledger status {name}` shows more."
        raise ConflictError(f"Deployment {name!r} has no endpoint to query: {reason}.", hint=hint)
    endpoint = Endpoint(url, timeout)
    model = endpoint.describe(name)
    if model is None:
        hint = f"Run `deployledger update {name}` to start one that does, or query it with another client."
        raise ConflictError(f"The server of {name!r} does not describe its model.", hint=hint)
    takes = f"The model takes {model.takes}." if model.inputs else ""
    return endpoint.predict(model.path, *prediction_request(data, model), hint=takes)


def _inert(text: str) -> str:
    """Return JSON without control characters, which JSON allows in strings and terminals act on."""
    return "".join(f"\\u{ord(each):04x}" if "\x7f" <= each <= "\x9f" else each for each in text).rstrip("\n")
