"""The command line as a whole: which commands there are, in the order in which they are listed."""

import signal
import sys
from itertools import pairwise
from typing import Annotated, Any, Literal, NoReturn

import typer

from deployledger.adapters.cli import (
    artifact_commands,
    audit_commands,
    clock_command,
    deployment_commands,
    evidence_commands,
    log_commands,
    past_commands,
    projection_commands,
    replay_command,
    status_commands,
    streams,
)
from deployledger.adapters.cli.session import ExitCode, OpenService, Output, Session, session_for, use

app = typer.Typer(
    name="deployledger",
    help="Deploy machine-learning models, with a complete history of how that came to be.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_USAGE_ERROR: type = typer.BadParameter.__mro__[1]
"""What is wrong with a command as it was typed; Typer has no public name for it."""


def run(open_service: OpenService) -> NoReturn:
    """Run the command line on a service, and exit."""
    use(open_service)
    streams.guard()
    code: object = int(ExitCode.DONE)
    try:
        try:
            code = _run()
        except SystemExit as end:
            code = end.code
        streams.answer().flush()
    except streams.OutputError as error:
        code = code or _unwritten(error)
    raise SystemExit(code)


def _run() -> Any:
    try:
        return app(standalone_mode=False)
    except typer.Abort:  # the end of the input, where one is asked for
        return int(ExitCode.FAILED)
    except Exception as error:
        if not isinstance(error, _USAGE_ERROR):
            raise
        _refuse(error)


def _session() -> Session:
    return session_for(Output.JSON if _asks_for_json(sys.argv[1:]) else Output.TABLE)


def _unwritten(error: streams.OutputError) -> int:
    """Report that the output could not be written, unless its reader is gone; return the exit code."""
    if error.is_unwanted:
        return 128 + signal.SIGPIPE
    try:
        _session().fail(
            f"The answer could not be written to standard output: {error.reason}.",
            "Fix the output, then run the command again.",
            ExitCode.FAILED,
            "output_failed",
        )
    except SystemExit as end:
        return int(ExitCode.FAILED) if end.code is None else int(end.code)


def _asks_for_json(arguments: list[str]) -> bool:
    return not {"--output=json", "-ojson"}.isdisjoint(arguments) or any(
        option in ("--output", "-o") and value == "json" for option, value in pairwise(arguments)
    )


def _refuse(error: Any) -> NoReturn:
    """Print what is wrong with the command as it was typed, as other errors are printed."""
    if type(error).__name__ == "NoArgsIsHelpError":  # its help is printed
        raise SystemExit(int(ExitCode.USAGE))
    context = error.ctx
    command = context.command_path if context is not None else "deployledger"
    hint = getattr(error, "hint", "") or f"Run `{command} --help` for its usage."
    _session().fail(error.format_message(), hint, ExitCode.USAGE, "usage")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        streams.answer().write(f"deployledger {version('deployledger')}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Deploy machine-learning models, with a complete history of how that came to be."""


def lifecycle(
    output: Annotated[
        Literal["mermaid", "json"], typer.Option("--output", "-o", help="A diagram, or the table.")
    ] = "mermaid",
) -> None:
    """Print the lifecycle that every deployment follows."""
    from deployledger.domain.lifecycle import LIFECYCLE
    from deployledger.domain.lifecycle_chart import mermaid, table

    if output == "json":
        session_for(Output.JSON).print_json(table(LIFECYCLE))
    else:
        streams.answer().write(mermaid(LIFECYCLE))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it serving at the end.")] = False,
) -> None:
    """Deploy a real model, predict with it, update it under load, look at its history, delete it."""
    from deployledger.adapters.cli.demo import run_demo

    run_demo(session_for(), keep=keep)


for _command in (
    deployment_commands.deploy,
    deployment_commands.update,
    deployment_commands.rollback,
    deployment_commands.retry,
    deployment_commands.cancel,
    deployment_commands.delete,
    deployment_commands.resume,
    status_commands.status,
    status_commands.list_,
    past_commands.history,
    past_commands.diff,
    replay_command.replay,
    status_commands.logs,
    lifecycle,
    demo,
):
    app.command(_command.__name__.rstrip("_"))(_command)
audit_commands.audit.command()(evidence_commands.export)
audit_commands.audit.command()(evidence_commands.verify_evidence)
log_commands.log.command()(clock_command.correct_clock)
app.add_typer(artifact_commands.artifacts, name="artifacts")
app.add_typer(log_commands.database, name="db")
app.add_typer(log_commands.log, name="log")
app.add_typer(projection_commands.projections, name="projections")
app.add_typer(audit_commands.audit, name="audit")
