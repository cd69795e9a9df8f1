"""Refuses requests that hold a credential: events are kept permanently, and so would it be.

A URI is stored without the part before the ``@`` and without secret parameters, and is refused only if it is
not certain where they end. A reference to a credential is not one.
"""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from typing import Any

from pydantic import BaseModel

from deployledger.domain.credentials.finding import Where, credentials_in
from deployledger.domain.credentials.names import holds_credential, is_plural, name_within
from deployledger.domain.credentials.values import is_credential, is_reference, is_reference_object
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.reasons import FailureReason
from deployledger.domain.redaction import URI_FIELDS, is_uri, without_credentials

_MOST_NAMED = 5
_LONGEST_KEY = 64
_PLAIN_KEY = re.compile(r"[\w-]+")

# The fields of a pair such as {"name": "DB_PASSWORD", "value": "…"}.
_NAMES = ("name", "k", "key", "field", "header", "variable", "parameter")
_VALUES = ("value", "v", "val", "content", "default")


_HINT = (
    "Leave it out, or put a reference in its place: an environment variable (${DB_PASSWORD}), a file "
    "(/run/secrets/db), an entry of a secret store (vault:db/reader), or its name under a key such "
    "as password_ref."
)


def refuse_credentials(described_as: str, fields: Mapping[str, Any], *, hint: str = _HINT) -> None:
    """Check that no field holds a credential.

    Args:
        described_as: whose fields they are: the beginning of the sentence.
        fields: by name; texts, JSON values and schemas.
        hint: what to do, where a reference to the credential makes no sense.

    Raises:
        ConfigurationError: if one does, with the reason ``credential_in_request``; it names the fields, and
            repeats none of what is in them.
    """
    paths = list(dict.fromkeys(islice(_paths(fields), _MOST_NAMED)))
    if not paths:
        return
    raise ConfigurationError(
        f"{without_credentials(described_as)} is refused, because a credential would be stored permanently: "
        f"in {', '.join(paths)}.",
        reason=FailureReason.CREDENTIAL_IN_REQUEST,
        hint=hint,
    )


def _paths(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, BaseModel):
            for path in _paths(value.__dict__):
                yield f"{name}.{path}"
        elif isinstance(value, str):
            if _is_refused(value, is_whole_uri=True) if name in URI_FIELDS else credentials_in(value):
                yield name
        else:
            for path in _paths_in(value):
                yield f"{name}{path}"


def _is_refused(text: str, *, is_whole_uri: bool) -> bool:
    return any(credential.where is Where.TEXT for credential in credentials_in(text, is_uri=is_whole_uri))


def _paths_in(value: Any, *, name: str = "") -> Iterator[str]:
    """Yield where in a JSON value credentials are, as what follows the path of the value itself.

    Args:
        name: the name of the credential that the value stands under, if it does.
    """
    match value:
        case str():
            if _is_refused_text(value, name=name):
                yield ""
        case bool() | None:
            return
        case int() | float():
            if name and is_credential(str(value), name):
                yield ""
        case dict():
            yield from _paths_in_object(value, name="" if is_reference_object(value) else name)
        case list() | tuple():
            if _is_pair(value):
                yield "[1]"
                return
            for number, (option, item) in enumerate(pairwise(value), 1):
                if _is_option(option, item):
                    yield f"[{number}]"
            for number, item in enumerate(value):
                for path in _paths_in(item, name=name):
                    yield f"[{number}]{path}"
        case _:
            return


def _is_refused_text(value: str, *, name: str) -> bool:
    # Under another name, "secret:x" is a pair; only with a path is it surely a reference.
    if is_reference(value) and (name or "/" in value):
        return False
    if (name and is_credential(value, name)) or _is_refused(value, is_whole_uri=is_uri(value)):
        return True
    return any(True for _ in _paths_in(_parsed(value), name=name))


def _paths_in_object(value: dict[Any, Any], *, name: str) -> Iterator[str]:
    by_lower = {str(key).lower(): item for key, item in value.items()}
    named = next(
        (by_lower[name_field] for name_field in _NAMES if isinstance(by_lower.get(name_field), str)), ""
    )
    is_key = value.get("kty") is not None  # a JSON Web Key
    for key, item in value.items():
        text = str(key)
        if credentials_in(text):
            yield _step(text)
            continue
        inner = name_within(text, name)
        is_value = text.lower() in _VALUES and holds_credential(named)
        if not holds_credential(text) and (is_value or (is_key and text in ("d", "k", "p", "q"))):
            inner = named or "secret"
        for path in _paths_in(item, name=inner):
            yield f"{_step(text)}{path}"


def _step(key: str) -> str:
    shown = without_credentials(key, is_uri=is_uri(key))
    if len(shown) > _LONGEST_KEY:
        shown = f"{shown[:_LONGEST_KEY]}…"
    return f".{shown}" if _PLAIN_KEY.fullmatch(shown) else f"[{shown!r}]"


def _is_pair(value: Any) -> bool:
    """Return whether a list is a header or a setting: the name of a credential, and a value like one."""
    return (
        len(value) == 2
        and all(isinstance(item, str) for item in value)
        and holds_credential(value[0])
        and not is_plural(value[0])
        and is_credential(value[1], value[0])
        and not (value[1].isalpha() and value[1].islower())
    )


def _is_option(option: Any, value: Any) -> bool:
    """Return whether two arguments of a command are an option and the credential it has."""
    is_option = isinstance(option, str) and isinstance(value, str) and option.startswith("-")
    return is_option and bool(credentials_in(f"'{option}', '{value}'"))


def _parsed(text: str) -> Any:
    """Return what a text holds as JSON, if it holds an object or a list."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
