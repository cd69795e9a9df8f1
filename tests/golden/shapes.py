"""What an event class stores: its fields and their types, and what changed against what was stored before."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

Shape = dict[str, Any]

_PROSE = ("title", "description")
_ENUMERATION = ":enum"


def shape(model: type[BaseModel]) -> Shape:
    """Return the fields of a model and of the models in it: each path, and what is said about it.

    It is the model's JSON schema, with its references resolved and its prose left out, laid flat.
    """
    schema = model.model_json_schema()
    return dict(sorted(_leaves(schema, schema.get("$defs", {}), "")))


def _leaves(schema: dict[str, Any], definitions: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    if "$ref" in schema:
        schema = {**definitions[schema["$ref"].removeprefix("#/$defs/")], **schema}
    for keyword, value in schema.items():
        if keyword in ("$ref", "$defs", *_PROSE):
            continue
        if keyword == "properties":
            for name, field in value.items():
                yield from _leaves(field, definitions, f"{path}.{name}".removeprefix("."))
        elif keyword == "anyOf":
            for option in value:
                name = option.get("type") or option["$ref"].rpartition("/")[2]
                yield from _leaves(option, definitions, f"{path}|{name}")
        elif keyword in ("items", "additionalProperties") and isinstance(value, dict):
            yield from _leaves(value, definitions, f"{path}[{keyword}]")
        elif keyword in ("required", "enum"):
            yield f"{path}:{keyword}", sorted(value)
        else:
            yield f"{path}:{keyword}", value


def changes(stored: Shape, found: Shape) -> list[str]:
    """Return what is different, in words; an enumeration may have gained values."""
    said = []
    for path in sorted(stored.keys() | found.keys()):
        if path not in found:
            said.append(f"{path} is gone (it was {stored[path]!r})")
        elif path not in stored:
            said.append(f"{path} is new ({found[path]!r})")
        elif path.endswith(_ENUMERATION):
            lost = sorted(set(stored[path]) - set(found[path]))
            said += [f"{path} lost {', '.join(map(repr, lost))}"] if lost else []
        elif stored[path] != found[path]:
            said.append(f"{path} was {stored[path]!r}, and is {found[path]!r}")
    return said


def check_shape(topic: str, version: int, stored: Shape | None, found: Shape) -> None:
    """Check that what a version of an event stores is what it stored when it was released.

    Raises:
        AssertionError: if it is not; it says what to do.
    """
    if stored is None:
        raise AssertionError(
            f"Version {version} of {topic} has no fingerprint: run `python -m tests.golden.make` "
            "(docs/events.md)."
        )
    different = changes(stored, found)
    if different:
        raise AssertionError(
            f"{topic} changed, and version {version} of it is stored in users' databases:\n  "
            + "\n  ".join(different)
            + f"\nGive the class class_version = {version + 1} and an upcast_v{version}_v{version + 1}, then "
            "run `python -m tests.golden.make`; docs/events.md shows how."
        )
