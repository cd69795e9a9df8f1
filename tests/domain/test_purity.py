"""The domain and the projections do no I/O: they load nothing that does."""

import json
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

MODULES = {
    "deployledger.domain": [
        "deployment",
        "event_log",
        "events",
        "exceptions",
        "lifecycle",
        "lifecycle_chart",
        "names",
        "ports",
        "redaction",
        "schemas",
        "values",
    ],
    "deployledger.projections": ["directory", "history", "status"],
}

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


@pytest.mark.parametrize("package", MODULES)
def test_a_pure_package_loads_nothing_that_does_io(package: str) -> None:
    modules = [f"{package}.{module}" for module in MODULES[package]]
    # What other packages load for themselves is theirs: pydantic and eventsourcing may load asyncio.
    theirs = loaded_by("pydantic", "eventsourcing.domain", "eventsourcing.utils", "transitions")
    loaded = loaded_by(package, *modules)
    assert set(modules) <= loaded
    assert (loaded - theirs).isdisjoint(FORBIDDEN)
    assert loaded.isdisjoint(set(FORBIDDEN) - {"asyncio"})


@pytest.mark.parametrize("package", MODULES)
def test_every_module_of_a_pure_package_is_in_the_list(package: str) -> None:
    import importlib
    import pkgutil

    found = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    assert sorted(found) == sorted(MODULES[package])
