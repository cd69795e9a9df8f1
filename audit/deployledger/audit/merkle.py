"""The Merkle tree of RFC 6962 (and RFC 9162): hashes, roots, proofs. Pure, with the standard library alone.

https://www.rfc-editor.org/rfc/rfc6962#section-2.1
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

HASH_BYTES = 32

EMPTY_ROOT = sha256(b"").digest()
"""The root of the tree without leaves."""

HashOf = Callable[[int, int], bytes]
"""Gives the root of the leaves from the first number up to, and without, the second one."""


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node from those of its children."""
    return sha256(b"\x01" + left + right).digest()


def split(size: int) -> int:
    """Return the largest power of two that is smaller than a size of 2 or more."""
    return 1 << ((size - 1).bit_length() - 1)


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the root of a tree from the hashes of its leaves."""
    if not hashes:
        return EMPTY_ROOT
    # Neighbours are joined level by level; one that is left over goes up as it is.
    level = list(hashes)
    while len(level) > 1:
        pairs = iter(level)
        joined = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=False)]
        if len(level) % 2:
            joined.append(level[-1])
        level = joined
    return level[0]


def inclusion_proof(index: int, size: int, hash_of: HashOf) -> list[bytes]:
    """Return the path from a leaf to the root of the first ``size`` leaves (RFC 6962, 2.1.1).

    Args:
        index: which leaf, counted from 0.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path: list[bytes] = []
    first, last = 0, size
    while last - first > 1:
        middle = first + split(last - first)
        if index < middle:
            path.append(hash_of(middle, last))
            last = middle
        else:
            path.append(hash_of(first, middle))
            first = middle
    return path[::-1]


def root_from_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """Return the root that an inclusion proof leads to (RFC 9162, 2.1.3.2).

    Raises:
        ValueError: if the proof is too short or too long for the place of the leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    node, last, root = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ValueError("the proof is too long")
        if node % 2 or node == last:
            root = node_hash(sibling, root)
            while node % 2 == 0 and node:
                node >>= 1
                last >>= 1
        else:
            root = node_hash(root, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise ValueError("the proof is too short")
    return root


def consistency_proof(first: int, second: int, hash_of: HashOf) -> list[bytes]:
    """Return what proves that the tree of ``second`` leaves only adds to that of ``first`` (2.1.2)."""
    if not 0 < first <= second:
        raise ValueError(f"there is no consistency proof from {first} to {second} leaves")
    proof: list[bytes] = []
    begin, end, is_whole = 0, second, True
    while first != end:
        middle = begin + split(end - begin)
        if first <= middle:
            proof.append(hash_of(middle, end))
            end = middle
        else:
            proof.append(hash_of(begin, middle))
            begin, is_whole = middle, False
    if not is_whole:
        proof.append(hash_of(begin, end))
    return proof[::-1]


def is_consistent(
    first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Return whether a consistency proof holds (RFC 9162, 2.1.4.2)."""
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    if first == second:
        return not proof and first_root == second_root
    if not 0 < first < second or not proof:
        return False
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    node, last = first - 1, second - 1
    while node % 2:
        node >>= 1
        last >>= 1
    older = newer = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node % 2 or node == last:
            older, newer = node_hash(sibling, older), node_hash(sibling, newer)
            while node % 2 == 0 and node:
                node >>= 1
                last >>= 1
        else:
            newer = node_hash(newer, sibling)
        node >>= 1
        last >>= 1
    return last == 0 and older == first_root and newer == second_root


class Peaks:
    """The roots of the complete subtrees of a tree that grows: all that adding to it needs."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[tuple[int, bytes]] = []  # height and root, the largest first

    def add(self, root: bytes, height: int = 0) -> None:
        """Add a complete subtree of 2 to the power of ``height`` leaves behind all others."""
        self.size += 1 << height
        while self._peaks and self._peaks[-1][0] == height:
            root = node_hash(self._peaks.pop()[1], root)
            height += 1
        self._peaks.append((height, root))

    def root(self, behind: Sequence[bytes] = ()) -> bytes:
        """Return the root of the whole tree, as if it had some more leaves with these hashes.

        The leaves may fill no more than the smallest subtree that there is.
        """
        roots = [root for _, root in self._peaks]
        if behind:
            roots.append(root_of(behind))
        if not roots:
            return EMPTY_ROOT
        node = roots.pop()
        while roots:
            node = node_hash(roots.pop(), node)
        return node
