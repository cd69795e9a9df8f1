"""The options of batch inference jobs."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deployledger.adapters.cli.files import no_stream
from deployledger.adapters.cli.usage import UsageError
from deployledger.service.files.paths import local_path

_FORM = 'Write name:type,name:type, or a path to a JSON file such as {"zip": "string"}.'


class OnError(StrEnum):
    """What a job does about a row that cannot be scored."""

    FAIL = "fail"
    SKIP = "skip"


class Misfit(StrEnum):
    """What a job does about a prediction that does not fit the columns of the output."""

    FAIL = "fail"
    NULL = "null"


@dataclass(frozen=True, kw_only=True)
class BatchArguments:
    """The options of a batch job as they were typed; None for those left out."""

    input_uri: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="The input of a batch job: a file, a folder, a pattern or a URI; - copies standard input.",
        ),
    ] = None
    output_uri: Annotated[
        str | None,
        typer.Option(
            help="Where a batch job writes its predictions: a file, or a folder if it ends with /.",
            parser=no_stream,
        ),
    ] = None
    workers: Annotated[
        int | None, typer.Option(help="The number of processes of a batch job; 1 by default.")
    ] = None
    on_error: Annotated[
        OnError | None,
        typer.Option(help="What a batch job does about rows that cannot be scored; fail by default."),
    ] = None
    errors: Annotated[
        str | None,
        typer.Option(
            help="The CSV file in which a batch job lists the rows that it skips.", parser=no_stream
        ),
    ] = None
    schema: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:TYPE,…|FILE",
            help="Types of a batch job's columns, such as zip:string; those of the model take precedence.",
        ),
    ] = None
    null_value: Annotated[
        list[str] | None,
        typer.Option(help="A text that marks a missing cell in CSV; repeatable; pandas' markers by default."),
    ] = None
    misfit: Annotated[
        Misfit | None,
        typer.Option(
            help="What a batch job does about predictions that do not fit the output; fail by default."
        ),
    ] = None

    def places(self) -> dict[str, Any]:
        """Return the fields of the target that say where the files are."""
        return _given(input_uri=_absolute(_kept(self.input_uri)), output_uri=_absolute(self.output_uri))

    def options(self) -> dict[str, Any]:
        """Return the fields of the target's options.

        Raises:
            UsageError: if the schema is invalid.
        """
        return _given(
            workers=self.workers,
            on_error=self.on_error,
            errors_uri=_absolute(self.errors),
            column_types=None if self.schema is None else _schema(self.schema),
            null_values=self.null_value or None,
            misfit=self.misfit,
        )


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _schema(text: str) -> dict[str, str]:
    if ":" in text and not Path(text).exists():
        pairs = [pair.rpartition(":") for pair in text.split(",")]
        types = {name.strip(): type_.strip() for name, _, type_ in pairs}
        if "" not in types and "" not in types.values():
            return types
    try:
        types = json.loads(Path(text).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"Expected types of columns or a JSON file: {error}.", hint=_FORM, option="--schema"
        ) from None
    if not isinstance(types, dict) or not all(isinstance(type_, str) for type_ in types.values()):
        raise UsageError(
            "The file is not a JSON object with a type for each column.", hint=_FORM, option="--schema"
        )
    return types


def _kept(uri: str | None) -> str | None:
    """Return the input of a batch job: for standard input, the path of a copy."""
    if uri != "-":
        return uri
    from deployledger.adapters.cli.files import kept_input
    from deployledger.adapters.settings import load_settings

    return str(kept_input(load_settings().home / "inputs"))


def _absolute(uri: str | None) -> str | None:
    """Return a relative path as an absolute one: the job may run in another folder."""
    path = local_path(uri) if uri is not None else None
    if uri is None or path is None or path.is_absolute():
        return uri
    return str(path.absolute()) + "/" * uri.endswith("/")
