"""The drawing of the layers in docs/architecture.md, made from the imports between them."""

import importlib
import inspect
import re
from pathlib import Path

import grimp

LAYERS = ("app", "adapters", "gateway", "serving", "service", "audit", "projections", "domain")


def with_drawing(page: Path) -> str:
    """Return the page with the drawing as it is now."""
    block = f"```mermaid\n{mermaid()}```"
    return re.sub(r"```mermaid\n.*?```", lambda _: block, page.read_text(), flags=re.DOTALL)


def mermaid() -> str:
    """Return a diagram with an arrow from each layer to those that it imports."""
    graph = grimp.build_graph(*(f"deployledger.{layer}" for layer in LAYERS), cache_dir=None)
    lines = [f'    {layer}["<b>{layer}</b><br>{_purpose(layer)}"]' for layer in LAYERS]
    for layer in LAYERS:
        imported = _imported_layers(graph, layer)
        lines += [f"    {layer} --> {other}" for other in LAYERS if other in imported]
    return "\n".join(["flowchart TD", *lines]) + "\n"


def _imported_layers(graph: grimp.ImportGraph, layer: str) -> set[str]:
    modules = {f"deployledger.{layer}", *graph.find_descendants(f"deployledger.{layer}")}
    imported = {name for module in modules for name in graph.find_modules_directly_imported_by(module)}
    return {name.split(".")[1] for name in imported} - {layer}


def _purpose(layer: str) -> str:
    docstring = inspect.getdoc(importlib.import_module(f"deployledger.{layer}")) or ""
    return re.split(r"[:.]", docstring)[0].lower()
