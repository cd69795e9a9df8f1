"""The graph of imports, function-local ones and those for type checkers included."""

from collections.abc import Iterator

import grimp
import pytest

ROOTS = [
    f"deployledger.{name}"
    for name in (
        "adapters",
        "app",
        "audit",
        "domain",
        "gateway",
        "projections",
        "service",
        "serving",
        "testing",
    )
]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOTS, "core_ai_layer", cache_dir=None)


def test_no_package_and_its_modules_import_one_another(graph: grimp.ImportGraph) -> None:
    """Import-linter's contract compares siblings alone."""
    assert not set(_imports_of_own_package(graph))


def _imports_of_own_package(graph: grimp.ImportGraph) -> Iterator[str]:
    for package in graph.modules:
        below = graph.find_descendants(package)
        reached = graph.find_upstream_modules(package) if below else set()
        for module in graph.find_modules_that_directly_import(package) & below & reached:
            yield f"{module} imports {package}, which imports it"
