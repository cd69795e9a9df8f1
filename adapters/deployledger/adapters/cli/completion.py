"""Completion in a shell: of commands and options by Typer, of names and values from the database.

It is quick, prints no errors, and makes no files: what cannot be found out is not offered. Nothing that is
offered means more than a word to a shell, because the scripts for some shells evaluate it.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypeVar

import typer

from deployledger.adapters.cli import streams

if TYPE_CHECKING:
    from deployledger.service.deployment_service import DeploymentService

_T = TypeVar("_T")

_PROGRAM = "deployledger"
_ASKED = "_DEPLOYLEDGER_COMPLETE"
"""The environment variable in which a shell asks for completions (Typer's protocol)."""
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST = 1000
_SETTINGS = {
    "DEPLOYLEDGER_CREATE_SCHEMA": "false",
    "DEPLOYLEDGER_DATABASE_PATIENCE": "1",
    "COLUMNS": "10000",  # Typer wraps descriptions, and each line would be offered
}
_DEADLINE_SECONDS = 5.0


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="The shell.")],
) -> None:
    """Print the completion script for a shell.

    Examples:
        deployledger completion bash
        deployledger completion zsh
        deployledger completion fish
    """
    protocol = import_module("typer.completion")  # its types name private modules
    script = protocol.get_completion_script(prog_name=_PROGRAM, complete_var=_ASKED, shell=shell)
    streams.answer().write(f"{script}\n")


def is_asked() -> bool:
    """Return whether a shell runs this command to get completions."""
    return _ASKED in os.environ


def complete(commands: typer.Typer) -> NoReturn:
    """Print completions and exit, whatever happens, and without waiting for threads.

    Args:
        commands: the command line.
    """
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, _DEADLINE_SECONDS)
    os.environ.update(_SETTINGS)
    import_module("typer.completion").completion_init()
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # until the end of the process
    code: object
    try:
        try:
            code = commands(standalone_mode=False, prog_name=_PROGRAM, complete_var=_ASKED)
        except SystemExit as end:
            code = end.code
        streams.answer().flush()
    except Exception:  # a shell has no place for a message
        code = 1
    os._exit(int(bool(code)))


def deployments(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the names with this prefix, with their statuses."""

    async def question(service: "DeploymentService") -> list[tuple[str, str]]:
        page = await service.list_deployments(
            _MOST, name_contains=incomplete or None, sort="name", consistency="eventual"
        )
        return [(deployment.deployment_name, deployment.status) for deployment in page]

    nothing: list[tuple[str, str]] = []
    return [(name, status) for name, status in _ask(question, nothing) if _is_word(name, incomplete)]


def revisions(context: typer.Context, incomplete: str) -> list[str]:
    """Return the revisions of the deployment of the command, as moments are written: ``r1``."""
    return _words((f"r{number}" for number in _revisions(context)), incomplete)


def revision_numbers(context: typer.Context, incomplete: str) -> list[str]:
    """Return the numbers of the revisions of the deployment of the command."""
    return _words(map(str, _revisions(context)), incomplete)


def projections(context: typer.Context, incomplete: str) -> list[str]:
    """Return the names of projections."""

    async def question(service: "DeploymentService") -> list[str]:
        return list(service.read_models.projections)

    return _words(_ask(question, []), incomplete)


def topics(context: typer.Context, incomplete: str) -> list[str]:
    """Return the topics of events."""
    from deployledger.adapters.cli.event_words import TOPICS

    return _words(TOPICS, incomplete)


def _revisions(context: typer.Context) -> Iterable[int]:
    # Behind an option that has no value yet, arguments are left as they are.
    reference = context.params.get("deployment") or next(iter(context.args), None)
    if not isinstance(reference, str):
        return []

    async def question(service: "DeploymentService") -> int:
        return (await service.find_deployment(reference)).revision

    return range(1, _ask(question, 0) + 1)


def _words(candidates: Iterable[str], incomplete: str) -> list[str]:
    return [candidate for candidate in candidates if _is_word(candidate, incomplete)]


def _is_word(text: str, incomplete: str) -> bool:
    return text.startswith(incomplete) and _WORD.fullmatch(text) is not None


def _ask(question: "Callable[[DeploymentService], Awaitable[_T]]", nothing: _T) -> _T:
    """Return the answer of the service, if there is a database, it is there, and nothing goes wrong."""
    from deployledger.adapters.cli.session import session_for

    async def ask() -> _T:
        async with session_for().open_service() as service:
            return await question(service)

    try:
        with redirect_stdout(sys.stderr):  # for what modules of users print
            return asyncio.run(ask()) if _is_there() else nothing
    except Exception:  # see `complete`
        return nothing


def _is_there() -> bool:
    from deployledger.adapters.database_url import DatabaseUrl
    from deployledger.adapters.settings import load_settings

    settings = load_settings()
    file = DatabaseUrl.parse(settings.database).file
    return settings.home.exists() and (file is None or file.exists())
