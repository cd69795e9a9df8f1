"""What every command needs: the service, a place to print, and errors as exit codes."""

import asyncio
import enum
import json
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, cast

import typer

from deployledger.adapters.cli import completion, streams
from deployledger.domain.visible import visible_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from deployledger.domain.event_log import EventLog
    from deployledger.domain.exceptions import MachineLearningServiceError
    from deployledger.service.deployment_service import DeploymentService

_T = TypeVar("_T")

OpenService = Callable[[], "DeploymentService"]


class ExitCode(enum.IntEnum):
    """What the command's exit status means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4


class Output(enum.StrEnum):
    """How answers are printed on standard output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


Reference = Annotated[
    str,
    typer.Argument(
        metavar="DEPLOYMENT",
        autocompletion=completion.deployments,
        help="A name, an id, or the first 4 or more characters of an id.",
        show_default=False,
    ),
]
OptionalReference = Annotated[
    str | None,
    typer.Argument(
        metavar="DEPLOYMENT",
        autocompletion=completion.deployments,
        help="A name, an id, or the first 4 or more characters of an id; or give filters.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="The output format; wide shows more than table.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")]

DeploymentOption = Annotated[
    str | None,
    typer.Option(
        metavar="DEPLOYMENT",
        autocompletion=completion.deployments,
        help="Only this deployment: a name, an id, or the first 4 or more characters of an id.",
        show_default=False,
    ),
]

_open_service: list[OpenService] = []


def use(open_service: OpenService) -> None:
    """Make every session open its service so."""
    _open_service[:] = [open_service]


def session_for(output: Output = Output.TABLE, verbose: bool = False) -> "Session":
    """Return the session of one command."""
    return Session(_open_service[0], output, verbose)


class Interruptible:
    """A context in which Ctrl-C ends the command without a traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt:
            raise SystemExit(128 + signal.SIGINT)


def end_at_once_on_ctrl_c() -> None:
    """Let Ctrl-C end work that blocks this thread: the handler of asyncio would wait for its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Session:
    """One run of the command line."""

    open_service: OpenService
    output: Output = Output.TABLE
    verbose: bool = False
    is_aside: bool = False
    """Whether standard output is for a file that the command writes, so that its answer goes beside it."""
    reports_clock: bool = False
    """Whether the command's answer reports times in the future, so that no warning has to."""

    @property
    def stdout(self) -> "Console":
        """Where answers go. Piped output is never cut to a width."""
        return _console(stderr=self.is_aside)

    @property
    def stderr(self) -> "Console":
        """Where everything goes that is not the answer."""
        return _console(stderr=True)

    @property
    def is_wide(self) -> bool:
        """Whether a table is to show everything, whatever its width."""
        return self.output is Output.WIDE

    @property
    def is_json(self) -> bool:
        """Whether answers are JSON."""
        return self.output is Output.JSON

    def show(self, answer: "RenderableType") -> None:
        """Print a table or lines: nothing is cropped, and no line of what is piped ends with spaces."""
        console = self.stdout
        if console.is_terminal:
            console.print(answer, crop=False)
            return
        with console.capture() as captured:
            console.print(answer)
        lines = captured.get().removesuffix("\n").split("\n")
        self._answer.write("".join(f"{line.rstrip()}\n" for line in lines))

    def print_lines(self, text: str) -> None:
        """Print lines as they are, but for what would act on a terminal; they are not held back."""
        self._answer.write(visible_lines(text) + "\n")
        self._answer.flush()

    def print_json(self, answer: Any, *, is_line: bool = False) -> None:
        """Print an answer as JSON: pydantic models, lists of them, or JSON values.

        Args:
            is_line: whether it is one of many answers, on a line each.
        """
        self._answer.write(_json(answer, None if is_line else 2) + "\n")
        if is_line:
            self._answer.flush()

    @contextmanager
    def reporting(self, code: "ExitCode" = ExitCode.DONE) -> Iterator[None]:
        """Print the answer to a command that has taken effect: what came of it decides the exit code.

        Args:
            code: the exit code that tells the outcome, whether or not the answer can be written.
        """
        try:
            yield
            streams.answer().flush()
        except streams.OutputError as error:
            self.stderr.print(
                f"The command took effect, but its answer could not be written to standard output: "
                f"{escaped(error.reason)}.",
                highlight=False,
                soft_wrap=True,
            )
        if code is not ExitCode.DONE:
            raise SystemExit(int(code))

    @property
    def _answer(self) -> streams.Stream:
        return streams.remarks() if self.is_aside else streams.answer()

    async def say_if_empty(self, log: "EventLog") -> None:
        """Say of a log without events in which database it is: it may not be the one that was meant."""
        if await asyncio.to_thread(log.position) == 0:
            state = await asyncio.to_thread(log.schema_state)
            self.stderr.print(
                f"The event log in {escaped(state.database)} has no events.", highlight=False, soft_wrap=True
            )

    def run(self, use: "Callable[[DeploymentService], Awaitable[_T]]") -> _T:
        """Open the service, use it, close it; errors of the service end the command with their exit code."""
        _log(verbose=self.verbose, reports_clock=self.reports_clock)

        async def opened() -> _T:
            async with self.open_service() as service:
                return await use(service)

        with self.errors():
            return asyncio.run(opened())

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Let errors end the command with their exit code, where no service is needed."""
        from deployledger.domain.exceptions import MachineLearningServiceError

        try:
            yield
        except MachineLearningServiceError as error:
            self.fail_with(error)

    def fail_with(self, error: "MachineLearningServiceError") -> NoReturn:
        """Print an error of the service and end the command."""
        self.fail(error.message, error.hint, exit_code(error.status_code), error.reason)

    def fail(self, message: str, hint: str, code: ExitCode, reason: str = "") -> NoReturn:
        """Print what went wrong and what to do, without credentials, and end the command."""
        from deployledger.domain.bounds import bounded
        from deployledger.domain.redaction import without_credentials
        from deployledger.domain.sentences import sentence

        message, hint = (sentence(bounded(without_credentials(it))) for it in (message, hint))
        if self.is_json:
            report = {"error": {"message": message, "hint": hint, "reason": reason, "exit_code": int(code)}}
            streams.remarks().write(_json(report) + "\n")
        else:
            # A message of several lines goes on below its first one: none of them is taken for one of ours.
            lines = "\n  ".join(map(escaped, message.split("\n")))
            self.stderr.print(f"[bold red]Error:[/] {lines}", highlight=False, soft_wrap=True)
            if hint:
                self.stderr.print(escaped(hint), highlight=False, soft_wrap=True)
        raise SystemExit(int(code))


def exit_code(status_code: int) -> ExitCode:
    """Return the exit code for the HTTP status code of an error."""
    codes = {400: ExitCode.USAGE, 404: ExitCode.NOT_FOUND, 409: ExitCode.CONFLICT}
    return codes.get(status_code, ExitCode.FAILED)


def escaped(text: object) -> str:
    """Return foreign text on one line, in which Rich sees no markup."""
    from deployledger.adapters.cli import terminal

    return terminal.escaped(text)


def as_json(answer: Any) -> dict[str, Any]:
    """Return a dataclass as a JSON object; times are in ISO 8601."""
    fields: dict[str, Any] = asdict(answer)
    return cast("dict[str, Any]", _plain(fields))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(it) for name, it in value.items()}
    return value.isoformat() if isinstance(value, datetime) else value


def _json(answer: Any, indent: int | None = None) -> str:
    text = json.dumps(answer, default=lambda model: model.model_dump(mode="json"), indent=indent)
    return text.replace("\x7f", r"\u007f")  # the only control character that JSON may have as it is


def _log(*, verbose: bool, reports_clock: bool) -> None:
    from deployledger.adapters.cli.terminal import LogFormatter

    ahead = logging.getLogger("ml_model_deployment_service.clock.ahead")
    ahead.setLevel(logging.ERROR if reports_clock else logging.NOTSET)

    handler = logging.StreamHandler()
    if verbose:
        handler.setFormatter(LogFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        return
    handler.setFormatter(LogFormatter())
    logging.getLogger("ml_model_deployment_service").addHandler(logging.NullHandler())
    # Users see warnings about databases that are away, automatic rebuilds, state kept nowhere else, wrong
    # clocks and ambiguous names.
    for name in ("artifacts", "database", "read_models", "checkpoints", "clock", "home", "handles"):
        logging.getLogger(f"ml_model_deployment_service.{name}").addHandler(handler)


def _console(*, stderr: bool) -> "Console":
    from deployledger.adapters.cli.terminal import Terminal

    return Terminal(stderr=stderr)
