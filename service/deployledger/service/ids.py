"""Random ids, made from randomness that is read from the system in larger pieces.

A call of the system for each id can cost more than everything else that a command does.
"""

import os
from threading import Lock
from uuid import UUID, SafeUUID

_IDS_AT_ONCE = 256
_VERSION_4 = 0x4 << 76 | 0b10 << 62
_RANDOM_BITS = ~(0xF << 76 | 0b11 << 62)


class RandomIds:
    """Makes random UUIDs (RFC 9562, version 4); safe in threads and after a fork."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._left: list[bytes] = []
        os.register_at_fork(after_in_child=self._left.clear)

    def __call__(self) -> UUID:
        """Return a new id."""
        with self._lock:
            if not self._left:
                randomness = os.urandom(16 * _IDS_AT_ONCE)
                self._left.extend(randomness[start : start + 16] for start in range(0, len(randomness), 16))
            return uuid_of(self._left.pop())


def uuid_of(randomness: bytes) -> UUID:
    """Return the random UUID made of 16 bytes; UUID's own constructor checks what needs no check here."""
    number = int.from_bytes(randomness, "big") & _RANDOM_BITS | _VERSION_4
    uuid = object.__new__(UUID)
    object.__setattr__(uuid, "int", number)
    object.__setattr__(uuid, "is_safe", SafeUUID.unknown)
    return uuid


new_id = RandomIds()
"""Returns a new id."""
