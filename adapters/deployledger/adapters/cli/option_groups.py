"""Groups of options that commands share: several options, and one parameter of the function."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, get_type_hints


class GroupOf:
    """Marks a parameter whose value is made from options, as in ``Annotated[Filters, GroupOf(Filters)]``.

    Args:
        make: a class or function; its parameters are the options.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make
        hints = get_type_hints(make, include_extras=True)
        self.options = [
            parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
            for parameter in inspect.signature(make).parameters.values()
        ]


def expanded(function: Callable[..., None]) -> Callable[..., None]:
    """Return a function with the options of its groups in their place, as Typer needs them."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, GroupOf] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        marks = getattr(hints[name], "__metadata__", ())
        group = next((mark for mark in marks if isinstance(mark, GroupOf)), None)
        if group is None:
            parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))
        else:
            groups[name] = group
            parameters += group.options

    @wraps(function)
    def command(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group.make(**{option.name: values.pop(option.name) for option in group.options})
        function(**values)

    command.__dict__["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
