"""The command line as a whole: which commands there are, in the order in which they are listed."""

import signal
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, Literal, NoReturn

import typer

from deployledger.adapters.cli import (
    artifact_commands,
    audit_commands,
    clock_command,
    completion,
    deployment_commands,
    disk_commands,
    evidence_commands,
    log_commands,
    parked_commands,
    past_commands,
    predict_command,
    projection_commands,
    replay_command,
    status_commands,
    streams,
    verify_command,
)
from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.session import ExitCode, OpenService, Output, Session, session_for, use

_SUMMARY = "Deploy machine-learning models, and keep a provable history of every change."
_START = """\
Deploy:  deployledger deploy model.onnx --name my-model
Inspect: deployledger status my-model
Learn:   deployledger demo, deployledger --help
"""
_WIDEST_HELP = 100
_PLAIN_WORDS = {
    "\n\t": " ",
    ": Value error, ": ": ",
    ": Input should be greater than or equal to ": ": it must be at least ",
    ": Input should be less than or equal to ": ": it must be at most ",
}
"""What stands for the words of libraries in errors of usage; choices come a line each."""
_ELSEWHERE = {"--selector": "--tag", "--label": "--tag", "--labels": "--tag", "-l": "--tag"}
"""What options of ours are called in tools that people know."""

app = Commands(
    name="deployledger",
    help=_SUMMARY,
    epilog="Commands wait up to DEPLOYLEDGER_DATABASE_PATIENCE seconds (30 unless set) for an unavailable "
    "database.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": _WIDEST_HELP},
)


_USAGE_ERROR: type = typer.BadParameter.__mro__[1]
"""What is wrong with a command as it was typed; Typer has no public name for it."""


def run(open_service: OpenService) -> NoReturn:
    """Run the command line on a service, and exit."""
    use(open_service)
    streams.guard()
    if completion.is_asked():
        completion.complete(app)
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
    context = error.ctx
    if type(error).__name__ == "NoArgsIsHelpError":
        from rich.text import Text

        session_for().show(Text.from_ansi(context.get_help()))
        raise SystemExit(int(ExitCode.USAGE))
    command = context.command_path if context is not None else "deployledger"
    option = _ELSEWHERE.get(getattr(error, "option_name", ""))
    if (
        option
        and context is not None
        and any(option in parameter.opts for parameter in context.command.params)
    ):
        error.possibilities = [option]
    hint = getattr(error, "hint", "") or f"Run `{command} --help` for its usage."
    message = error.format_message()
    for before, after in _PLAIN_WORDS.items():
        message = message.replace(before, after)
    _session().fail(message, hint, ExitCode.USAGE, "usage")


def _print_version(context: typer.Context, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        from importlib.metadata import version

        streams.answer().write(f"deployledger {version('deployledger')}\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Say what to do first, if there is no command."""
    if context.invoked_subcommand is None:
        streams.answer().write(_START)
        raise typer.Exit(int(ExitCode.USAGE))


def lifecycle(
    output: Annotated[
        Literal["mermaid", "json"], typer.Option("--output", "-o", help="Print a diagram or the table.")
    ] = "mermaid",
) -> None:
    """Print the lifecycle that every deployment follows.

    Examples:
        deployledger lifecycle
        deployledger lifecycle -o json
    """
    from deployledger.domain.lifecycle import LIFECYCLE
    from deployledger.domain.lifecycle_chart import mermaid, table

    if output == "json":
        session_for(Output.JSON).print_json(table(LIFECYCLE))
    else:
        streams.answer().write(mermaid(LIFECYCLE))


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the deployment running at the end.")] = False,
) -> None:
    """Deploy a sample model, query it, update it under load, show its history, and delete it.

    Examples:
        deployledger demo
        deployledger demo --keep
    """
    from deployledger.adapters.cli.demo import run_demo

    run_demo(session_for(), keep=keep)


_COMMANDS: dict[str, tuple[Callable[..., None] | Commands, ...]] = {
    "Deploy": (
        deployment_commands.deploy,
        deployment_commands.update,
        deployment_commands.rollback,
        deployment_commands.retry,
        deployment_commands.cancel,
        deployment_commands.delete,
        deployment_commands.resume,
        demo,
    ),
    "Inspect": (
        status_commands.status,
        status_commands.list_,
        status_commands.logs,
        predict_command.predict,
        lifecycle,
    ),
    "History": (past_commands.history, past_commands.diff),
    "Audit": (audit_commands.audit, replay_command.replay),
    "Operate": (
        log_commands.database,
        log_commands.log,
        projection_commands.projections,
        artifact_commands.artifacts,
        disk_commands.df,
        disk_commands.gc,
        completion.completion,
    ),
}
"""The commands, grouped by purpose, in the order in which help lists them."""

audit_commands.audit.command()(verify_command.verify)
audit_commands.audit.command()(evidence_commands.export)
audit_commands.audit.command()(evidence_commands.verify_evidence)
log_commands.log.command()(clock_command.correct_clock)
projection_commands.projections.add_typer(parked_commands.parked)
for _panel, _commands in _COMMANDS.items():
    for _command in _commands:
        if isinstance(_command, Commands):
            app.add_typer(_command, rich_help_panel=_panel)
        else:
            app.command(_command.__name__.rstrip("_"), rich_help_panel=_panel)(_command)
