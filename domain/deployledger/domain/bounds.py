"""Bounds of the texts, numbers and times in events.

Events are kept permanently and every read model repeats them, so each text, number and time has a bound.
A request beyond a bound is refused. Messages from outside are cut visibly; names from outside
(URIs, references, versions) are never cut, because they would name something else: the step fails.

Lengths are characters, as users count them; in JSON a character takes at most six bytes (``\\u0001``).
"""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # who only verifies evidence has no pydantic
    from pydantic import BaseModel

LONGEST_LINE = 2_048
"""Characters of a URI, the name of an image, an actor: of every text but messages."""

LONGEST_MESSAGE = 8_192
"""Characters of what a failure says, and of its hint."""

LARGEST_TAGS_BYTES = 65_536
"""Bytes of the tags as JSON in UTF-8."""

DEEPEST_TAGS = 16

LARGEST_INTEGER = 2**63 - 1
"""The largest number that a database counts to."""

LARGEST_EVENT_BYTES = 1 << 18
"""No event that a deployment accepts takes more bytes as JSON: that follows from the bounds of its fields."""

LARGEST_ROW_BYTES = 1 << 19
"""No row that is made of such events takes more bytes as JSON: it holds what two revisions say."""

_YEARS = range(1970, 9999)
_FAILURE = "failure"


def bounded(text: str, most: int = LONGEST_MESSAGE) -> str:
    """Return a text as it is, or its beginning and its end with the number of characters cut between them.

    The end of a message is often its cause, as in a traceback.

    Args:
        most: how many characters the answer has at most; 200 or more.
    """
    if len(text) <= most:
        return text
    room = most - len(_mark(len(text), len(text)))
    end = room // 2
    begin = room - end
    return f"{text[:begin]}{_mark(len(text) - room, len(text))}{text[-end:]}"


def _mark(cut: int, length: int) -> str:
    return f"… [cut: {cut:,} of {length:,} characters] …"


def check_tags(tags: dict[str, Any]) -> None:
    """Check that tags are JSON, and neither too large nor too deep.

    Raises:
        ValueError: if they are not.
    """
    try:
        size = len(json.dumps(tags, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError too
        raise ValueError(f"they are not JSON: {error}") from None
    if size > LARGEST_TAGS_BYTES:
        raise ValueError(f"they take {size:,} bytes as JSON; at most {LARGEST_TAGS_BYTES:,} are allowed")
    if _depth(tags) > DEEPEST_TAGS:
        raise ValueError(f"they are nested more than {DEEPEST_TAGS} deep")


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list | tuple):
        return 1 + max(map(_depth, value), default=0)
    return 0


def check(model: "BaseModel", path: str = "", longest: int = LONGEST_LINE) -> None:
    """Check every field of what an event says, however deep, but for tags, which a request has checked.

    Raises:
        ValueError: if one of them is out of bounds; it names the field and the bound.
    """
    for name, value in model.__dict__.items():
        if isinstance(value, str):
            if len(value) > longest:
                raise ValueError(
                    f"{path}{name} has {len(value):,} characters; at most {longest:,} are allowed"
                )
            if "\0" in value and longest == LONGEST_LINE:
                raise ValueError(f"{path}{name} has a NUL character, which databases cannot store")
            if not value.isascii():
                _check_unicode(path + name, value)
        elif isinstance(value, int):
            if not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
                raise ValueError(f"{path}{name} does not fit in 64 bits")
        elif isinstance(value, datetime):
            _check_time(path + name, value)
        elif hasattr(value, "model_copy"):  # a part of it that is a model itself
            check(value, f"{path}{name}.", LONGEST_MESSAGE if name == _FAILURE else LONGEST_LINE)


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not Unicode text: it has an unpaired surrogate") from None


def _check_time(name: str, time: datetime) -> None:
    if time.tzinfo is None:
        raise ValueError(f"{name} is {time}, which has no time zone")
    try:
        year = time.astimezone(UTC).year
    except OverflowError:
        year = 0
    if year not in _YEARS:
        raise ValueError(f"{name} is {time}; it must be in the years {_YEARS[0]} to {_YEARS[-1]}")
