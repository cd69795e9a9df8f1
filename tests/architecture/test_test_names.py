"""Names of tests say behaviour, briefly."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LONGEST = 69
FILES = [
    path
    for folder in ("tests", "testing", "examples")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_names_of_tests_are_short(path: Path) -> None:
    names = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > LONGEST] == []
