"""Random ids, made from randomness that is read from the system in larger pieces.

A call of the system for each id can cost more than everything else that a command does.
"""

import os
from uuid import UUID, SafeUUID

_IDS_AT_ONCE = 256
_VERSION_4 = 0x4 << 76 | 0b10 << 62
_RANDOM_BITS = ~(0xF << 76 | 0b11 << 62)
_UNKNOWN = SafeUUID.unknown


class RandomIds:
    """Makes random UUIDs (RFC 9562, version 4); safe in threads and after a fork."""

    def __init__(self) -> None:
        self._left: list[int] = []
        os.register_at_fork(after_in_child=self._left.clear)

    def __call__(self) -> UUID:
        """Return a new id."""
        try:
            number = self._left.pop()  # one thread gets each
        except IndexError:
            randomness = os.urandom(16 * _IDS_AT_ONCE)
            numbers = [
                int.from_bytes(randomness[start : start + 16], "big") & _RANDOM_BITS | _VERSION_4
                for start in range(0, len(randomness), 16)
            ]
            number = numbers.pop()
            self._left.extend(numbers)
        # UUID's own constructor checks what needs no check here.
        made = object.__new__(UUID)
        object.__setattr__(made, "int", number)
        object.__setattr__(made, "is_safe", _UNKNOWN)
        return made


new_id = RandomIds()
"""Returns a new id."""
