"""The public names: all exist, cost nothing until they are used, and are what the documentation uses."""

import ast
import builtins
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from docs.public_api import LAYERS, modules_of

REPOSITORY = Path(__file__).parents[2]
HEAVY = (
    "cryptography eventsourcing fastapi jinja2 mlflow numpy onnxruntime "
    "psycopg pydantic pytest rich transitions typer"
)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_public_name_is_the_one_of_its_module(layer: str) -> None:
    package = import_module(f"deployledger.{layer}")
    for module, names in modules_of(layer).items():
        for name in names:
            defined = getattr(import_module(f"deployledger.{layer}.{module}"), name)
            assert getattr(package, name) is defined
            assert name in package.__all__
            assert name in dir(package)


@pytest.mark.parametrize(
    ("layer", "name"), [("service", "DeploymentService"), ("projections", "ReadModels"), ("audit", "Ledger")]
)
def test_what_public_methods_return_is_public(layer: str, name: str) -> None:
    public = {name for each in LAYERS for name in import_module(f"deployledger.{each}").__all__}
    members = inspect.getmembers(getattr(import_module(f"deployledger.{layer}"), name))
    methods = [getattr(member, "fget", member) for key, member in members if not key.startswith("_")]
    returned = [str(inspect.signature(method).return_annotation) for method in methods if callable(method)]
    names = {path.split(".")[-1] for text in returned for path in re.findall(r"deployledger[\w.]+", text)}
    assert names - public == set()


@pytest.mark.parametrize("layer", LAYERS)
def test_no_public_name_is_that_of_a_module(layer: str) -> None:
    """The import of a module sets the package's attribute of its name."""
    package = import_module(f"deployledger.{layer}")
    assert not {module.name for module in pkgutil.iter_modules(package.__path__)} & set(package.__all__)


def test_every_capability_of_a_client_is_public() -> None:
    page = (REPOSITORY / "docs" / "clients.md").read_text()
    names = re.findall(r"^\| `(\w+)` \(", page, re.M)
    assert {"ChecksTargets", "KeepsFiles", "FreesFiles"} <= set(names)
    assert set(names) <= set(import_module("deployledger.domain").__all__)


def test_every_exception_that_the_documentation_names_is_public() -> None:
    public = {name for each in LAYERS for name in import_module(f"deployledger.{each}").__all__}
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]:
        names = set(re.findall(r"`([A-Z]\w+Error)\b", page.read_text()))
        assert names <= public | set(vars(builtins)), page.name


def test_an_unknown_name_of_a_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'deployledger\.domain' has no attribute 'Nothing'"):
        _ = import_module("deployledger.domain").Nothing


def test_importing_the_layers_imports_no_library() -> None:
    program = (
        "import sys\n" + "".join(f"import deployledger.{layer}\n" for layer in LAYERS) + "print(*sys.modules)"
    )
    imported = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert not set(HEAVY.split()) & set(imported.split())


def _programs() -> dict[str, str]:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    blocks = {
        f"{page.name}:{number}": block
        for page in pages
        for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
    }
    return blocks | {path.name: path.read_text() for path in sorted((REPOSITORY / "examples").glob("*.py"))}


@pytest.mark.parametrize("program", _programs().values(), ids=list(_programs()))
def test_documentation_uses_public_names_alone(program: str) -> None:
    for node in ast.walk(ast.parse(program)):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            if module.startswith("deployledger"):
                assert isinstance(node, ast.ImportFrom), f"import the names, not {module}"
                assert module.removeprefix("deployledger.") in LAYERS, f"{module} is private"
                assert {alias.name for alias in node.names} <= set(import_module(module).__all__)
