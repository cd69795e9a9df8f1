"""Names of projections, as settings and other processes find them: ``package.module:NAME``."""

import sys
from importlib import import_module
from typing import Any

from deployledger.domain.exceptions import ConfigurationError
from deployledger.projections import built_in
from deployledger.projections.projection import Projection


def load_projections(references: str) -> list[Projection[Any]]:
    """Return the projections that are named as ``package.module:NAME``, with commas between them.

    Raises:
        ConfigurationError: if one of them is not there.
    """
    return [_load(reference) for text in references.split(",") if (reference := text.strip())]


def _load(reference: str) -> Projection[Any]:
    module, colon, name = reference.partition(":")
    try:
        projection = getattr(import_module(module), name) if colon and module else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"The projection {reference!r} cannot be imported: {error}.",
            hint="Name it package.module:NAME, in a package that Python finds.",
        ) from error
    if not isinstance(projection, Projection):
        raise ConfigurationError(f"{reference!r} is not a projection.", hint="Name it package.module:NAME.")
    return projection


def reference_to(projection: Projection[Any]) -> str:
    """Return the name by which another process finds a projection.

    Raises:
        ConfigurationError: if there is none.
    """
    for module in (built_in, sys.modules.get(projection.apply.__module__)):
        for name, value in vars(module).items() if module is not None else ():
            if value is projection and module is not None and module.__name__ != "__main__":
                return f"{module.__name__}:{name}"
    raise ConfigurationError(
        f"Projection {projection.name} cannot be passed to worker processes: they cannot import it.",
        hint="Define it, and its fold, in a module that can be imported, under a name; or use one worker.",
    )
