"""Tells records that are as they were stored from damaged ones.

SQLite finds damage of its own structures, and not of what is in them: a flipped bit of a number is another
number. So every row has a checksum, and what is changed by SQL alone has a guard that the same SQL keeps.
"""

import zlib
from collections.abc import Sequence
from typing import Any

PLACE_GUARD = "3 * block + value"
"""What is added to a count to make its guard: so it is that of its own place."""

GUARDED = (
    "shape",
    "generation",
    "position",
    "marker",
    "updated_at",
    "rebuilt_at",
    "rebuild_seconds",
    "rebuild_events",
    "follower",
)
"""The columns of a read model's record that its guard is made of, by triggers."""


def guard(record: str) -> str:
    """Return the expression of the guard of a read model's record, by its name in a statement."""
    return " || ',' || ".join(f"quote({record}.{name})" for name in GUARDED)


IS_INTACT = f"({guard('m')}) IS m.guard"
"""Whether a read model's record ``m`` is as it was stored."""


class DamageError(Exception):
    """A stored record is not the one that was stored."""


def checksum(record: Sequence[Any]) -> int:
    """Return the CRC-32 of the values of a record, each of exactly the type that SQLite gives back."""
    return zlib.crc32(repr(tuple(record)).encode(errors="surrogatepass"))


def checked(record: Sequence[Any], table: str) -> Sequence[Any] | None:
    """Return a record without its checksum, which is its last value; None if it is an empty one of a join.

    Raises:
        DamageError: if the checksum is another one.
    """
    if record[-1] is None and not any(it is not None for it in record):
        return None
    *values, expected = record
    if checksum(values) != expected:
        raise DamageError(f"a row of table {table} does not match its checksum (its key reads {values[0]!r})")
    return values
