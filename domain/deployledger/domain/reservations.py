"""Where a name is reserved. Verifying evidence needs this, and has nothing but the standard library."""

from uuid import UUID, uuid5

_NAMESPACE = UUID("6f1c7d0e-52a5-5f4f-9f0b-0d6c2f5a3e11")


def reservation_id(name: str) -> UUID:
    """Return the id of the stream in which a name is reserved: a UUID of version 5."""
    return uuid5(_NAMESPACE, name)
