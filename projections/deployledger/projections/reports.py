"""What rebuilding and verifying are told, and what they tell."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from deployledger.projections.projection import Projection

COUNTS = "#counts"
"""What the key of a difference begins with that is not of a row, but of the number of rows in a block."""


class Task(NamedTuple):
    """Tables to fill from the log.

    Attributes:
        tables: the projections, and the numbers of their tables.
        until: up to which position.
        streams: only from streams whose ids are from the first to the second one.
    """

    tables: tuple[tuple[Projection[Any], int], ...]
    until: int
    streams: tuple[UUID, UUID] | None = None


Progress = Callable[[int, int], None]
"""Is told how many events were read, of how many."""


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did.

    Attributes:
        name: the projection.
        events: how many events were read.
        seconds: how long it took, until the new rows were read.
        position: up to where the log was applied then.
    """

    name: str
    events: int
    seconds: float
    position: int


@dataclass(frozen=True)
class Difference:
    """A field of a row that is not what the log says.

    Attributes:
        key: the row.
        field: the field; empty if the whole row is missing, or should not be there.
        expected: what the log says.
        found: what is read.
    """

    key: str
    field: str
    expected: Any
    found: Any


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    Attributes:
        name: the projection.
        position: the position at which rows and log were compared.
        events: how many events were read.
        rows: how many rows were compared.
        differences: where they are not the same.
        seconds: how long it took.
    """

    name: str
    position: int
    events: int
    rows: int
    differences: tuple[Difference, ...]
    seconds: float
