"""What is wrong with a command as it was typed, and what to type instead."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_OPTIONS = {
    "model_uri": "the model URI",
    "deployment_name": "--name",
    "type": "--type",
    "replicas": "--replicas",
    "port": "--port",
    "serving_image": "--serving-image",
    "input_uri": "--input",
    "output_uri": "--output-uri",
    "workers": "--workers",
    "on_error": "--on-error",
    "errors_uri": "--errors",
    "column_types": "--schema",
    "null_values": "--null-value",
    "misfit": "--misfit",
    "cpu_request": "--cpu",
    "memory_request": "--memory",
    "gpu_request": "--gpu",
    "tags": "--tag",
}
_IN_SENTENCES = {field: option for field, option in _OPTIONS.items() if "_" in field}
_QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_FIELD = re.compile(
    rf"(?<![\w/.-])(?:\w+_(?:config|allocation)\.)?({'|'.join(_IN_SENTENCES)})(?![\w/-]|\.\w)"
)


class UsageError(typer.BadParameter):
    """A command as it was typed cannot be run; nothing was changed.

    Attributes:
        hint: what to type instead, in a sentence of its own; empty if the command's help says it best.
    """

    def __init__(self, message: str, *, hint: str = "", option: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self._option = option

    def format_message(self) -> str:
        """Return what is wrong, with the option or the argument that it is about."""
        if self._option:
            return f"Invalid value for '{self._option}': {self.message}"
        return super().format_message() if self.param is not None else self.message


@contextmanager
def fields_as_options() -> Iterator[None]:
    """Name options where an error about a request names fields."""
    from pydantic import ValidationError

    from deployledger.domain.exceptions import ConfigurationError

    try:
        yield
    except ConfigurationError as error:
        if isinstance(error.__cause__, ValidationError):
            problems = error.__cause__.errors(include_url=False)
            error.message = " ".join(f"{_problem(problem)}." for problem in problems)
        else:
            error.message, error.hint = _with_options(error.message), _with_options(error.hint)
        raise


def _problem(problem: "ErrorDetails") -> str:
    from deployledger.domain.redaction import without_credentials
    from deployledger.domain.requests import problem_of

    text = problem_of(problem)
    option = next((_OPTIONS[str(part)] for part in reversed(problem["loc"]) if str(part) in _OPTIONS), "")
    if not option:  # the request as a whole, which begins with the field
        field, _, rest = text.partition(": ")
        option, text = _OPTIONS.get(field, ""), rest if field in _OPTIONS else text
    limits = problem.get("ctx", {})
    match problem["type"]:
        case "greater_than_equal":
            text = f"it must be at least {limits['ge']}"
        case "less_than_equal":
            text = f"it must be at most {limits['le']}"
        case "string_too_long":
            text = f"it has more than {limits['max_length']:,} characters"
    text = without_credentials(text).removesuffix(".")
    if option.startswith("-"):
        option = f"'{option}'"
    return f"Invalid value for {option}: {text}" if option else f"Invalid request: {text}"


def _with_options(text: str) -> str:
    """Return a text with options for the fields that it names; what it quotes stays as it is."""
    parts = _QUOTED.split(text)
    parts[::2] = [_FIELD.sub(lambda match: _IN_SENTENCES[match[1]], part) for part in parts[::2]]
    return "".join(parts)
