"""Keeps credentials out of what is stored, logged and shown: texts that come from outside lose theirs.

A request that holds one is refused instead: `deployledger.domain.credential_refusal`.
"""

import re
from collections.abc import Mapping
from typing import Any

from deployledger.domain.bounds import LARGEST_INTEGER, bounded
from deployledger.domain.credentials.finding import BLANK, credentials_in
from deployledger.domain.credentials.names import name_within
from deployledger.domain.credentials.values import is_credential, is_reference_object

URI_FIELDS = frozenset(
    {
        "model_uri",
        "resolved_uri",
        "endpoint_url",
        "input_uri",
        "output_uri",
        "errors_uri",
        "serving_image",
        "reference",
    }
)
"""The fields of requests and events that are one URI, or the name of an image."""

_LONGEST_SHOWN = 256
"""Characters that an error repeats of what was given, from its beginning and its end."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*+://")


def is_uri(text: str) -> bool:
    """Return whether a text begins as a URI with an authority does."""
    return _SCHEME.match(text) is not None


def without_credentials(text: str, *, is_uri: bool = False) -> str:
    """Return a text with its credentials blanked: a URL without userinfo, anything else as ``***``.

    Args:
        is_uri: whether the whole text is one URI, so that quotes and spaces in it end nothing.
    """
    credentials = credentials_in(text, is_uri=is_uri)
    if not credentials:
        return text
    parts: list[str] = []
    end = 0
    for credential in credentials:
        parts += (text[end : credential.start], credential.blank)
        end = credential.end
    return "".join((*parts, text[end:]))


def json_without_credentials(value: Any, *, name: str = "") -> Any:
    """Return a JSON value without the credentials in its texts and under their names, however deep.

    Args:
        name: the name of the credential that the value stands under, if it does.
    """
    match value:
        case str():
            if name and is_credential(value, name):
                return BLANK
            return without_credentials(value, is_uri=is_uri(value))
        case dict():
            name = "" if is_reference_object(value) else name
            return {
                json_without_credentials(key): json_without_credentials(
                    item, name=name_within(key, name) if isinstance(key, str) else name
                )
                for key, item in value.items()
            }
        case list() | tuple():
            return [json_without_credentials(item, name=name) for item in value]
        case _:
            return value


def shown(value: object, *, is_uri: bool = False) -> str:
    """Return what a caller gave, as Python writes it: without credentials, and cut where it is long.

    Args:
        is_uri: whether it is one URI, as in `without_credentials`.
    """
    if isinstance(value, str):
        return repr(bounded(without_credentials(value, is_uri=is_uri), _LONGEST_SHOWN))
    # Python writes no decimal number of some thousands of digits.
    text = hex(value) if isinstance(value, int) and abs(value) > LARGEST_INTEGER else repr(value)
    return bounded(without_credentials(text), _LONGEST_SHOWN)


def storable(text: str) -> str:
    """Return a message as an event may have it: as `loggable` returns it, and cut where it is too long."""
    return bounded(loggable(text))


def loggable(text: str) -> str:
    """Return a message without credentials, and with what is not UTF-8 in it written as escapes."""
    return without_credentials(text).encode("utf-8", "backslashreplace").decode()


def fields_without_credentials(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an event, or of a value in it, with no credential in any text of them.

    Events are made of nothing else, so that no step of a job can forget it. What is of another type than its
    field stays as it is: the event refuses it.
    """
    return {name: _without_credentials(name, value) for name, value in fields.items()}


def _without_credentials(name: str, value: Any) -> Any:
    if type(value) is str:  # and no member of an enumeration
        return without_credentials(value, is_uri=name in URI_FIELDS)
    if hasattr(value, "model_copy"):  # a model of pydantic's, which who only verifies evidence has not
        fields = value.__dict__
        blanked = fields_without_credentials(fields)
        changed = {field: new for field, new in blanked.items() if new is not fields[field]}
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, dict | list | tuple):
        return json_without_credentials(value)
    return value
