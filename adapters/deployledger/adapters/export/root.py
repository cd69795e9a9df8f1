"""The Merkle root of a whole log, of which only little is kept in memory."""

from collections.abc import Sequence

from deployledger.audit.leaf import encode_leaf
from deployledger.audit.merkle import Peaks, leaf_hash, root_of
from deployledger.domain.event_records import EventRecord

_HEIGHT = 10
_WIDTH = 1 << _HEIGHT


class GrowingRoot:
    """The root of the events that were added, from the first one of the log on."""

    def __init__(self) -> None:
        self._peaks = Peaks()
        self._hashes: list[bytes] = []

    def add(self, page: Sequence[EventRecord]) -> None:
        """Add the next events.

        Raises:
            ValueError, TypeError, struct.error: if one of them has what no event can have.
        """
        self._hashes.extend([leaf_hash(encode_leaf(*record)) for record in page])
        while len(self._hashes) >= _WIDTH:
            self._peaks.add(root_of(self._hashes[:_WIDTH]), _HEIGHT)
            del self._hashes[:_WIDTH]

    def root(self) -> bytes:
        """Return the root of all that was added."""
        return self._peaks.root(self._hashes)
