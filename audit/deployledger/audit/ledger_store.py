"""The port to the store of a ledger's tree and checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from deployledger.domain.findings import Finding

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
"""The tree is kept in tiles, as https://c2sp.org/tlog-tiles has them: 256 hashes of every eighth level."""


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint that was signed.

    Attributes:
        size: how many events it covers: all up to that position.
        root: the root of their tree, 32 bytes.
        note: the signed note.
        created_at: when it was signed, by the clock of who did (UTC); nothing proves it.
    """

    size: int
    root: bytes
    note: str
    created_at: datetime


class LedgerStore(Protocol):
    """A database with the hashes of a tree that grows, and checkpoints. Methods block, in any thread.

    Every method raises ``EventLogError`` when the database cannot be used.
    """

    def size(self) -> int:
        """Return how many leaves the tree has."""
        ...

    def tiles(self, level: int, first: int, last: int) -> dict[int, bytes]:
        """Return the tiles of a level, by number, from the first to the last one, as far as there are any."""
        ...

    def extend(self, before: int, after: int, tiles: Mapping[tuple[int, int], bytes]) -> bool:
        """Store tiles, by level and number, of a tree that grew; False if it had not the size before."""
        ...

    def checkpoints(self, limit: int | None = None) -> list[StoredCheckpoint]:
        """Return the checkpoints, the smallest first; with a limit, only so many of the largest."""
        ...

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Store a checkpoint."""
        ...

    def findings(self, *, whole: bool = True) -> list[Finding]:
        """Check the database of the ledger, as `EventLog.findings` checks that of the log."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...
