"""What is wrong with a request, in the words of the options that it was typed with."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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


@contextmanager
def named_by_options() -> Iterator[None]:
    """Name options, where the service's refusal of a request names fields."""
    from pydantic import ValidationError

    from deployledger.domain.exceptions import ConfigurationError

    try:
        yield
    except ConfigurationError as error:
        if isinstance(error.__cause__, ValidationError):
            problems = error.__cause__.errors(include_url=False)
            error.message = " ".join(f"{_problem(it)}." for it in problems)
        else:
            error.message, error.hint = _with_options(error.message), _with_options(error.hint)
        raise


def _problem(problem: "ErrorDetails") -> str:
    """Return what is wrong with the value of an option, without a full stop."""
    from deployledger.domain.redaction import without_credentials
    from deployledger.domain.schemas import problem_of

    text = problem_of(problem)
    option = next((_OPTIONS[str(it)] for it in reversed(problem["loc"]) if str(it) in _OPTIONS), "")
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
    return "".join(
        part if number % 2 else _FIELD.sub(lambda found: _IN_SENTENCES[found[1]], part)
        for number, part in enumerate(parts)
    )
