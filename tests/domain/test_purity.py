"""The domain and the projections do no I/O: they load nothing that does."""

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

FORBIDDEN = [
    "asyncio",
    "sqlite3",
    "psycopg",
    "psycopg_pool",
    "mlflow",
    "fastapi",
    "onnxruntime",
    "uvicorn",
    "typer",
    "rich",
    "deployledger.service",
    "deployledger.adapters",
    "core_ai_layer",
]

_PRINT_LOADED = """
import importlib, json, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(*modules: str) -> set[str]:
    answer = subprocess.run(
        [sys.executable, "-c", _PRINT_LOADED, *modules],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return set(json.loads(answer.stdout))


@pytest.mark.parametrize("package", ["deployledger.domain", "deployledger.projections"])
def test_a_pure_package_loads_nothing_that_does_io(package: str) -> None:
    folders = importlib.import_module(package).__path__
    modules = [module.name for module in pkgutil.walk_packages(folders, prefix=f"{package}.")]
    assert modules
    # What other packages load for themselves is theirs: pydantic and eventsourcing may load asyncio.
    theirs = loaded_by("pydantic", "eventsourcing.domain", "eventsourcing.utils", "transitions")
    loaded = loaded_by(package, *modules)
    assert set(modules) <= loaded
    assert (loaded - theirs).isdisjoint(FORBIDDEN)
    assert loaded.isdisjoint(set(FORBIDDEN) - {"asyncio"})
