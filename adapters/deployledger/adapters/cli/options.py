"""Arguments and options that several commands have."""

from typing import Annotated

import typer

from deployledger.adapters.cli import completion
from deployledger.adapters.cli.option_groups import GroupOf
from deployledger.adapters.cli.session import Output, Session, session_for

_REFERENCE = "a name, an id, or the first 4 or more characters of an id"
WHEN = (
    "a time with its zone (2026-03-03T12:00Z), an age (2h), a position of the log (1234) or a revision (r2)"
)

Reference = Annotated[
    str,
    typer.Argument(
        metavar="DEPLOYMENT", autocompletion=completion.deployments, help=f"{_REFERENCE.capitalize()}."
    ),
]
OptionalReference = Annotated[
    str | None,
    typer.Argument(
        metavar="DEPLOYMENT",
        autocompletion=completion.deployments,
        help=f"{_REFERENCE.capitalize()}; or give filters.",
    ),
]
DeploymentOption = Annotated[
    str | None,
    typer.Option(
        metavar="DEPLOYMENT",
        autocompletion=completion.deployments,
        help=f"Only this deployment: {_REFERENCE}.",
    ),
]
AsOfOption = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="WHEN",
        autocompletion=completion.revisions,
        help=f"A point in the past: {WHEN}.",
        show_default="now",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="The number of processes, 1 to 64.", show_default="one per core; 1 if the log is small"
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan, and change nothing.")]

_OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="The output format; wide shows more than table.")
]
_VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")]


def _session(output: _OutputOption = Output.TABLE, verbose: _VerboseOption = False) -> Session:
    return session_for(output, verbose)


def _offline(output: _OutputOption = Output.TABLE) -> Session:
    return session_for(output)


def _text(verbose: _VerboseOption = False) -> Session:
    return session_for(verbose=verbose)


SessionOptions = Annotated[Session, GroupOf(_session)]
OfflineOptions = Annotated[Session, GroupOf(_offline)]
"""Of commands that open no database."""
TextOptions = Annotated[Session, GroupOf(_text)]
"""Of commands whose answer is text in any case."""
