"""The tree of a ledger in its tiles: its hashes, and how it grows."""

from deployledger.audit import merkle
from deployledger.audit.ledger_store import TILE_HEIGHT, TILE_WIDTH, LedgerStore
from deployledger.audit.merkle import HASH_BYTES
from deployledger.domain.exceptions import VERIFY_HINT, LedgerError

_TILES_KEPT = 1_024
"""How many tiles of a tree are kept while many paths are asked for; each has up to 8 KiB."""


def hash_in(tile: bytes, number: int) -> bytes:
    """Return one of the hashes of a tile."""
    return tile[number * HASH_BYTES : (number + 1) * HASH_BYTES]


class GrowingTree:
    """The tiles at the right edge of a tree, to which leaves are added."""

    def __init__(self, store: LedgerStore, size: int) -> None:
        self._edges: list[tuple[int, list[bytes]]] = []  # of each level: the tile's number, and its hashes
        self._full: dict[tuple[int, int], bytes] = {}
        level, width = 0, size
        while width:
            number, count = divmod(width, TILE_WIDTH)
            tile = store.tiles(level, number, number).get(number, b"") if count else b""
            self._edges.append((number, [hash_in(tile, place) for place in range(count)]))
            level, width = level + 1, number

    def add(self, leaf: bytes) -> None:
        """Add a leaf by its hash."""
        level = 0
        while True:
            if level == len(self._edges):
                self._edges.append((0, []))
            number, hashes = self._edges[level]
            hashes.append(leaf)
            if len(hashes) < TILE_WIDTH:
                return
            self._full[level, number] = b"".join(hashes)
            self._edges[level] = (number + 1, [])
            leaf, level = merkle.root_of(hashes), level + 1

    def changed(self) -> dict[tuple[int, int], bytes]:
        """Return the tiles that were changed since the last time, by level and number."""
        changed, self._full = self._full, {}
        for level, (number, hashes) in enumerate(self._edges):
            if hashes:
                changed[level, number] = b"".join(hashes)
        return changed


class Tree:
    """The hashes of a tree, read from its tiles.

    Raises:
        LedgerError: if a tile is not there, or too small.
    """

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._tiles: dict[tuple[int, int], bytes] = {}

    def root(self, size: int) -> bytes:
        """Return the root of the first so many leaves."""
        return self.hash_of(0, size) if size else merkle.EMPTY_ROOT

    def hash_of(self, first: int, last: int) -> bytes:
        """Return the root of the leaves from the first number up to, and without, the last one."""
        count = last - first
        if count & (count - 1) == 0 and first % count == 0:
            return self._node(count.bit_length() - 1, first // count)
        middle = first + merkle.split(count)
        return merkle.node_hash(self.hash_of(first, middle), self.hash_of(middle, last))

    def _node(self, height: int, number: int) -> bytes:
        """Return the root of a complete subtree."""
        level, above = divmod(height, TILE_HEIGHT)
        first = number << above
        tile, begin = divmod(first, TILE_WIDTH)
        end = begin + (1 << above)
        if (level, tile) not in self._tiles:
            if len(self._tiles) >= _TILES_KEPT:
                del self._tiles[next(iter(self._tiles))]
            self._tiles[level, tile] = self._store.tiles(level, tile, tile).get(tile, b"")
        hashes = self._tiles[level, tile]
        if len(hashes) < end * HASH_BYTES:
            raise LedgerError(
                f"The ledger lacks a part of its tree (level {level}, tile {tile}).", hint=VERIFY_HINT
            )
        return merkle.root_of([hash_in(hashes, place) for place in range(begin, end)])
