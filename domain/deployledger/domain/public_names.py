"""The public names of a package, each imported when it is first used.

Importing a package then imports no library, and only the names that are used need theirs. Type checkers read
the stub beside the package (``__init__.pyi``), which is generated from the same table.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def public_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return what a package assigns to ``__getattr__``, ``__dir__`` and ``__all__`` (PEP 562).

    Args:
        package: the package's ``__name__``.
        modules: the public names by the module below the package that defines them.
    """
    module_of = {name: f"{package}.{module}" for module, names in modules.items() for name in names}

    def getattr_(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return getattr_, lambda: sorted({*vars(sys.modules[package]), *module_of}), sorted(module_of)
