"""Messages say what happened, hints what to do, and neither runs into the other."""

import ast
import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from deployledger.domain import exceptions
from deployledger.domain.exceptions import MachineLearningServiceError
from deployledger.domain.sentences import sentence, with_hint

REPOSITORY = Path(__file__).parents[2]
ID = UUID(int=1)
NOON = datetime(2026, 3, 3, 12, tzinfo=UTC)
EXAMPLES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "NameInUseError": (("iris", ID), {}),
    "StaleVersionError": (("Deployment 'iris'",), {"expected": 1, "found": 2, "actor": "ann"}),
    "IdempotencyKeyReusedError": (("k",), {"first": "a", "second": "b"}),
    "ResourceNotFoundError": (("Deployment", "iris"), {}),
    "RevisionNotFoundError": (("iris", 7), {"newest": 2}),
    "NotYetRequestedError": ((ID, "position 1"), {"began_at": NOON, "position": 2}),
    "DeploymentError": (("iris", "Permission denied: /model"), {"hint": "Check its rights"}),
    "ExternalServiceError": (("registry", "Permission denied: /model"), {"hint": "Check its rights"}),
    "DatabaseUnavailableError": (("log", "Permission denied: /model"), {"hint": "Check its rights"}),
    "LogDivergedError": (("events.db",), {"position": 7}),
}
OTHERS = (("Permission denied: /model",), {"hint": "Check its rights"})
CLASSES = [
    it
    for it in vars(exceptions).values()
    if inspect.isclass(it) and issubclass(it, MachineLearningServiceError)
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("It exited", "It exited."),
        ("It exited.", "It exited."),
        ("It exited. ", "It exited."),
        ("Is it there?", "Is it there?"),
        ('It said "no."', 'It said "no."'),
        ("It has no 'x'", "It has no 'x'."),
        ("Run `pip install x`", "Run `pip install x`."),
        ("Its log ends with:\n  boom", "Its log ends with:\n  boom"),
        ("cut … [more]", "cut … [more]."),
    ],
)
def test_a_sentence_ends_with_a_full_stop(text: str, expected: str) -> None:
    assert sentence(text) == expected


def test_a_hint_goes_behind_one_line_and_below_several() -> None:
    assert with_hint("Permission denied: /model", "Check its rights") == (
        "Permission denied: /model. Check its rights."
    )
    assert with_hint("Permission denied: /model", "") == "Permission denied: /model"
    assert with_hint("Its log ends with:\nboom", "Read it.") == "Its log ends with:\nboom\nRead it."


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda it: it.__name__)
def test_an_error_as_text_is_its_message_and_its_hint_as_sentences(
    error_class: type[MachineLearningServiceError],
) -> None:
    arguments, options = EXAMPLES.get(error_class.__name__, OTHERS)
    error = error_class(*arguments, **options)
    text = str(error)
    assert text == with_hint(error.message, error.hint)
    assert error.hint == "" or text.removesuffix(sentence(error.hint)) == f"{sentence(error.message)} "
    assert text[0].isupper()


# Every message and every hint in the source ---------------------------------------------------------

ASKS = re.compile(
    r"(?:^|[.:;] )(?:Add|Ask|Check|Choose|Create|Delete|Fix|Give|Install|Look|Omit|Open|Pass|Remove|Repeat|"
    r"Restore|Retry|Run|See|Set|Try|Upgrade|Use|Wait) "
)
BEGINS = re.compile(r"[A-Z0-9{`'\"(]|--|\w+=|tags ")
MESSAGE_SECOND = {"DeploymentError", "ExternalServiceError", "DatabaseUnavailableError"}
CLAUSES = {"InsufficientStorageError"}
"""Their messages are put into a sentence by the step that fails."""


def written(node: ast.expr) -> Iterator[str]:
    """Yield the texts that an expression may be, with ``{}`` for what is put in."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            yield "".join(it.value if isinstance(it, ast.Constant) else "{}" for it in values)
        case ast.IfExp(body=body, orelse=orelse):
            yield from written(body)
            yield from written(orelse)


def texts() -> Iterator[tuple[str, str, str]]:
    """Yield each text of an error in the source: where it is, whether it is a hint, and the text."""
    names = {it.__name__ for it in CLASSES} - CLAUSES | {"UsageError"}
    with_own_texts = set(EXAMPLES) - MESSAGE_SECOND
    for folder in ("domain", "projections", "audit", "service", "serving", "gateway", "adapters", "app"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                    continue
                name = node.func.id
                if name not in names or name in with_own_texts:
                    continue
                where = f"{path.relative_to(REPOSITORY)}:{node.lineno}"
                for argument in node.args[name in MESSAGE_SECOND :][:1]:
                    yield from ((where, "message", it) for it in written(argument))
                for keyword in node.keywords:
                    if keyword.arg in ("message", "hint"):
                        yield from ((where, keyword.arg, it) for it in written(keyword.value))


def test_every_message_and_every_hint_is_a_sentence_of_its_own() -> None:
    found = list(texts())
    assert len(found) > 300, "the scan finds what there is"
    wrong = [
        f"{where}: {kind} {text!r}"
        for where, kind, text in found
        if text
        and (
            not BEGINS.match(text)
            or not (text.endswith("{}") or sentence(text) == text)
            or (kind == "message" and ASKS.search(text))
        )
    ]
    assert wrong == []
