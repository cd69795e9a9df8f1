"""What every command needs: the service, a place to print, and errors as exit codes."""

import asyncio
import enum
import json
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from deployledger.adapters.cli import streams
from deployledger.domain.visible import visible, visible_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

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
    INTERRUPTED = 128 + signal.SIGINT


_OF_STATUS_CODE = {400: ExitCode.USAGE, 404: ExitCode.NOT_FOUND, 409: ExitCode.CONFLICT}


class Output(enum.StrEnum):
    """How answers are printed on standard output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


_open_service: list[OpenService] = []


def use(open_service: OpenService) -> None:
    """Make every session open its service so."""
    _open_service[:] = [open_service]


def session_for(output: Output = Output.TABLE, verbose: bool = False) -> "Session":
    """Return the session of one command."""
    return Session(_open_service[0], output, verbose)


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

    # Answers ------------------------------------------------------------------------------------------

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

    def say(self, *parts: "str | Text | tuple[str, str]") -> None:
        """Print a line of the answer, which is not wrapped.

        Args:
            parts: texts, which may be foreign, some with a style.
        """
        from deployledger.adapters.cli.terminal import assembled

        self.stdout.print(assembled(*parts), soft_wrap=True)

    def print_lines(self, text: str) -> None:
        """Print lines as they are, but for what would act on a terminal; they are not held back."""
        self._answer.write(visible_lines(text) + "\n")
        self._answer.flush()

    def print_json(self, answer: Any, *, is_line: bool = False) -> None:
        """Print an answer as JSON: models, dataclasses, times and whatever JSON has, nested.

        Args:
            is_line: whether it is one of many answers, on a line each.
        """
        self._answer.write(_json(answer, None if is_line else 2) + "\n")
        if is_line:
            self._answer.flush()

    @contextmanager
    def reporting(self, code: ExitCode = ExitCode.DONE) -> Iterator[None]:
        """Print the answer to a command that has taken effect: what came of it decides the exit code.

        Args:
            code: the exit code that tells the outcome, whether or not the answer can be written.
        """
        try:
            yield
            streams.answer().flush()
        except streams.OutputError as error:
            self.note(
                "The command took effect, but its answer could not be written to standard output: "
                f"{error.reason}."
            )
        self.exit_if(code is not ExitCode.DONE, code)

    def exit_if(self, is_bad: bool, code: ExitCode = ExitCode.FAILED) -> None:
        """End the command with an exit code if its outcome is bad."""
        if is_bad:
            raise SystemExit(int(code))

    @property
    def _answer(self) -> streams.Stream:
        return streams.remarks() if self.is_aside else streams.answer()

    # Remarks ------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Print a line on standard error; it may have foreign text in it."""
        streams.remarks().write(f"{visible(text)}\n")

    async def note_if_empty(self, log: "EventLog") -> None:
        """Name the database of a log without events: it may not be the one that was meant."""
        if await asyncio.to_thread(log.position) == 0:
            state = await asyncio.to_thread(log.schema_state)
            self.note(f"The event log in {state.database} has no events.")

    # The service --------------------------------------------------------------------------------------

    def run(self, use: "Callable[[DeploymentService], Awaitable[_T]]") -> _T:
        """Open the service, use it, close it; errors of the service end the command with their exit code."""
        _log(verbose=self.verbose, reports_clock=self.reports_clock)

        async def opened() -> _T:
            async with self.open_service() as service:
                return await use(service)

        with self.errors():
            return asyncio.run(opened())

    def work(self, work: "Callable[[DeploymentService], _T]") -> _T:
        """Do work of the service that blocks, as `run` does; Ctrl-C ends it at once."""

        async def use(service: "DeploymentService") -> _T:
            end_at_once_on_ctrl_c()
            return work(service)

        return self.run(use)

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
        code = _OF_STATUS_CODE.get(error.status_code, ExitCode.FAILED)
        self.fail(error.message, error.hint, code, error.reason)

    def fail(self, message: str, hint: str, code: ExitCode, reason: str = "") -> NoReturn:
        """Print what went wrong and what to do, without credentials, and end the command."""
        from deployledger.domain.bounds import bounded
        from deployledger.domain.redaction import without_credentials
        from deployledger.domain.sentences import sentence

        message, hint = (sentence(bounded(without_credentials(text))) for text in (message, hint))
        if self.is_json:
            report = {"error": {"message": message, "hint": hint, "reason": reason, "exit_code": int(code)}}
            streams.remarks().write(_json(report) + "\n")
        else:
            from rich.text import Text

            # A message of several lines goes on below its first one: none of them is taken for one of ours.
            lines = "\n  ".join(map(visible, message.split("\n")))
            self.stderr.print(Text.assemble(("Error:", "bold red"), f" {lines}"), soft_wrap=True)
            if hint:
                self.note(hint)
        raise SystemExit(int(code))


def end_at_once_on_ctrl_c() -> None:
    """Let Ctrl-C end work that blocks this thread: the handler of asyncio would wait for its end."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _json(answer: Any, indent: int | None = None) -> str:
    text = json.dumps(answer, default=_plain, indent=indent)
    return text.replace("\x7f", r"\u007f")  # the only control character that JSON may have as it is


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "to_json"):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


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
    # Users see warnings about unavailable databases, automatic rebuilds, state kept nowhere else, wrong
    # clocks and ambiguous names.
    for name in ("artifacts", "database", "read_models", "checkpoints", "clock", "home", "handles"):
        logging.getLogger(f"ml_model_deployment_service.{name}").addHandler(handler)


def _console(*, stderr: bool) -> "Console":
    from deployledger.adapters.cli.terminal import Terminal

    return Terminal(stderr=stderr)
