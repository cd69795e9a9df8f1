"""How the streams of a log are divided among worker processes."""

from collections.abc import Callable
from itertools import pairwise
from uuid import UUID

from deployledger.domain.exceptions import ConfigurationError

MOST_WORKERS = 64
LARGEST_ID = (1 << 128) - 1

Progress = Callable[[int, int], None]
"""Is called with how many events were read, of how many."""


def check_workers(workers: int) -> None:
    """Check a number of worker processes.

    Raises:
        ConfigurationError: if it is out of range.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise ConfigurationError(
            f"{workers} workers are out of range: 1 to {MOST_WORKERS}.",
            hint="More than the number of cores does not help.",
        )


def ranges(number: int) -> list[tuple[UUID, UUID]]:
    """Return all stream ids, in so many ranges, with the first and the last id of each."""
    edges = [LARGEST_ID * i // number for i in range(number + 1)]
    return [
        (UUID(int=first + (1 if i else 0)), UUID(int=last)) for i, (first, last) in enumerate(pairwise(edges))
    ]
