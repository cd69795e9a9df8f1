"""The page of the documentation that has every event, made from the events' classes and their docstrings."""

import inspect
import re
import types
from datetime import datetime
from enum import Enum
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel

from deployledger.domain import clock_corrections, events, names, topics
from deployledger.domain.events import DeploymentEvent, Event
from deployledger.domain.lifecycle import LIFECYCLE
from deployledger.domain.lifecycle_chart import table

_HEAD = """# Event reference

This page is generated from the classes in `deployledger.domain`; a check keeps it current. It describes what
[projections](projections.md) and other readers of the log find in each event. Readers always see the newest
version of an event; [How to change an event](events.md) describes how to add versions.

The fields of an event are stored as JSON: ids as text, times as ISO 8601 in UTC, absent values as `null`, and
`class_version` from version 2 on. The topic, the stream, the position and `recorded_at`, the time at which
the log stored the event, are separate columns. `deployledger log tail --output json` prints all of them.

| topic | what happened |
|---|---|
"""
_PLAIN = {UUID: "UUID", datetime: "time", str: "text", int: "integer", bool: "boolean"}


def markdown() -> str:
    """Return the page.

    Raises:
        LookupError: if the docstring of a class does not have the meaning of a field.
    """
    modules = (events, names, clock_corrections)
    classes = [event_class for module in modules for event_class in _concrete(module)]
    contents = "".join(
        f"| [`{each.TOPIC}`](#{re.sub(r'[^a-z_]', '', each.TOPIC)}) | {_summary(each)} |\n"
        for each in classes
    )
    parts = [_HEAD + contents, _common(), *map(_event, classes)]
    seen: list[type] = []
    for event_class in classes:
        for name in event_class.model_fields:
            _collect(event_class.model_fields[name].annotation, seen)
    parts += [
        "## Values\n",
        *(_enumeration(value) if issubclass(value, Enum) else _value(value) for value in seen),
    ]
    return "\n".join(parts)


def _concrete(module: types.ModuleType) -> list[type[Event]]:
    """Return the events that a module defines, in its order."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Event) and "TOPIC" in vars(value)
    ]


def _common() -> str:
    return f"""## Fields of every event

{_table(Event, list(Event.model_fields))}"""


def _event(event_class: type[Event]) -> str:
    own = [name for name in event_class.model_fields if name not in Event.model_fields]
    versions = ", ".join(
        f"{version} since {release}" for version, release in enumerate(event_class.SINCE, start=1)
    )
    lines = [f"class: `{event_class.__module__}.{event_class.__name__}`", f"version: {versions}"]
    if issubclass(event_class, DeploymentEvent):
        lines.append(f"state: {_states(event_class)}")
        lines.append(
            "recorded: when it is asked for"
            if event_class.TOPIC in topics.COMMANDS
            else "recorded: when the work is done"
        )
    facts = "\n".join(f"- {line}" for line in lines)
    return f"""## `{event_class.TOPIC}`

{_prose(event_class)}

{facts}

{_table(event_class, own)}"""


def _states(event_class: type[DeploymentEvent]) -> str:
    """Return the changes of state that an event is."""
    if event_class is events.Requested:
        return "the beginning → requested"
    subjects = (SimpleNamespace(is_serving=serves) for serves in (False, True))
    triggers = {event_class.trigger_for(event_class, subject) for subject in subjects}  # type: ignore[arg-type]
    changes: dict[str, list[str]] = {}
    for row in table(LIFECYCLE):
        if row["trigger"] in triggers:
            guard = f" ({row['when']})" if row["when"] else ""
            changes.setdefault(f"{row['to']}{guard}", []).append(row["from"])
    return "; ".join(f"{', '.join(sources)} → {end}" for end, sources in changes.items())


def _value(value_class: type[BaseModel]) -> str:
    return f"""### {value_class.__name__}

{_prose(value_class)}

{_table(value_class, list(value_class.model_fields))}"""


def _enumeration(enumeration: type[Enum]) -> str:
    values = ", ".join(f"`{member.value}`" for member in enumeration)
    return f"### {enumeration.__name__}\n\n{_prose(enumeration)}\n\nOne of {values}.\n"


def _table(model: type[BaseModel], fields: list[str]) -> str:
    if not fields:
        return ""
    rows = "".join(
        f"| `{name}` | {_type(model.model_fields[name].annotation)} | {_meaning(model, name)} |\n"
        for name in fields
    )
    return f"| field | type | meaning |\n|---|---|---|\n{rows}"


def _meaning(model: type[BaseModel], field: str) -> str:
    for base in model.__mro__:
        attributes = _attributes(base)
        if field in attributes:
            return attributes[field]
    raise LookupError(f"The docstring of {model.__name__} does not describe {field}.")


def _attributes(model: type) -> dict[str, str]:
    """Return what a docstring has under ``Attributes:``."""
    _, _, section = (inspect.cleandoc(model.__doc__ or "")).partition("Attributes:\n")
    section = section.partition("\n\n")[0]
    parts = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)
    return {name: _markdown(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def _prose(model: type) -> str:
    text = inspect.cleandoc(model.__doc__ or "").partition("\n\nAttributes:")[0]
    return "\n\n".join(_markdown(paragraph) for paragraph in text.split("\n\n"))


def _summary(model: type) -> str:
    return _prose(model).split("\n\n")[0]


def _markdown(text: str) -> str:
    return re.sub(r"\bNone\b", "null", " ".join(text.split())).replace("``", "`").replace("|", r"\|")


def _type(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return " or ".join(
            "null" if argument is type(None) else _type(argument) for argument in get_args(annotation)
        )
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in get_args(annotation))
    if origin is dict:
        return "object"
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    return f"[{annotation.__name__}](#{annotation.__name__.lower()})"


def _collect(annotation: Any, seen: list[type]) -> None:
    """Add the values and enumerations in a type to those seen, in the order in which they come up."""
    for part in get_args(annotation):
        _collect(part, seen)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel | Enum) and annotation not in seen:
        seen.append(annotation)
        for field in getattr(annotation, "model_fields", {}).values():
            _collect(field.annotation, seen)
