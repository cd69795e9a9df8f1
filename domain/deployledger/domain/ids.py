"""Random ids, without a call of the system for each, which costs more than the rest of a command."""

import os
from random import Random
from uuid import UUID

# Its own, so that an application that seeds `random` does not make ids come twice.
_random = Random()  # noqa: S311  # ids are unique, not secret
os.register_at_fork(after_in_child=_random.seed)


def new_id() -> UUID:
    """Return a random id (RFC 9562, version 4), from a generator that the system seeds in each process."""
    return UUID(int=_random.getrandbits(128), version=4)
