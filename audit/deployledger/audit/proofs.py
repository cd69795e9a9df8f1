"""Proofs of inclusion and of consistency; the latter also as files that are checked without the database."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployledger.audit import merkle
from deployledger.audit.canonical_base64 import decode_base64, encode_base64
from deployledger.domain.exceptions import ConfigurationError

_TITLE = "deployledger consistency proof"
_VERSION = 1
_TREE = re.compile(r"(first|second) (0|[1-9][0-9]{0,18}) (\S+)")
_LARGEST_BYTES = 1 << 20
_LARGEST_SIZE = (1 << 63) - 1
_FIELDS = ["format", "version", "first_size", "first_root", "second_size", "second_root", "path"]


@dataclass(frozen=True)
class InclusionProof:
    """A proof that an event is in the log whose root a checkpoint signed (RFC 6962, 2.1.1).

    Attributes:
        position: the event's position in the log; the index of its leaf is one less.
        leaf: the event's leaf, as docs/ledger.md encodes it.
        size: how many leaves the tree has.
        root: its root, 32 bytes.
        path: the hashes from the leaf to the root.
    """

    position: int
    leaf: bytes
    size: int
    root: bytes
    path: tuple[bytes, ...]

    @property
    def leaf_hash(self) -> bytes:
        """The hash of the leaf, 32 bytes."""
        return merkle.leaf_hash(self.leaf)

    def holds(self) -> bool:
        """Return whether the path leads from the leaf to the root."""
        try:
            root = merkle.root_from_inclusion(self.position - 1, self.size, self.leaf_hash, self.path)
        except ValueError:
            return False
        return root == self.root


@dataclass(frozen=True)
class ConsistencyProof:
    """A proof that one tree extends another one (RFC 6962, 2.1.2).

    Attributes:
        first_size: how many events the earlier tree has.
        first_root: its root, 32 bytes.
        second_size: how many events the later tree has.
        second_root: its root, 32 bytes.
        path: the hashes that lead from the one to the other.
    """

    first_size: int
    first_root: bytes
    second_size: int
    second_root: bytes
    path: tuple[bytes, ...]

    def __str__(self) -> str:
        lines = [
            _TITLE,
            f"version {_VERSION}",
            f"first {self.first_size} {encode_base64(self.first_root)}",
            f"second {self.second_size} {encode_base64(self.second_root)}",
            *map(encode_base64, self.path),
        ]
        return "\n".join(lines) + "\n"

    def holds(self) -> bool:
        """Return whether the later tree extends the earlier one; the roots identify the trees."""
        return merkle.is_consistent(
            self.first_size, self.first_root, self.second_size, self.second_root, self.path
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {
            "format": _TITLE,
            "version": _VERSION,
            "first_size": self.first_size,
            "first_root": encode_base64(self.first_root),
            "second_size": self.second_size,
            "second_root": encode_base64(self.second_root),
            "path": [*map(encode_base64, self.path)],
        }

    @classmethod
    def parse(cls, content: bytes) -> "ConsistencyProof":
        """Return the proof that a file has, as text or as JSON.

        Raises:
            ConfigurationError: if it has none.
        """
        try:
            text = content.decode()
            return _of_json(text) if text.lstrip().startswith("{") else _of_text(text)
        except (ValueError, TypeError, RecursionError):
            raise ConfigurationError(
                "Not a consistency proof.",
                hint="`deployledger audit prove --consistency FIRST SECOND` prints one, as text or as JSON.",
            ) from None

    @classmethod
    def read(cls, path: Path) -> "ConsistencyProof":
        """Return the proof in a file.

        Raises:
            ConfigurationError: if there is none in it.
        """
        try:
            with path.open("rb") as file:
                content = file.read(_LARGEST_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(f"The proof {path} cannot be read: {error.strerror}.") from error
        try:
            return cls.parse(content if len(content) <= _LARGEST_BYTES else b"")
        except ConfigurationError as error:
            raise ConfigurationError(f"{path} is not a consistency proof.", hint=error.hint) from None


def _of_text(text: str) -> ConsistencyProof:
    title, version, first, second, *path = text.removesuffix("\n").split("\n")
    one, other = _TREE.fullmatch(first), _TREE.fullmatch(second)
    if (title, version) != (_TITLE, f"version {_VERSION}") or one is None or other is None:
        raise ValueError
    proof = _proof(int(one[2]), one[3], int(other[2]), other[3], path)
    if str(proof) != text:
        raise ValueError
    return proof


def _of_json(text: str) -> ConsistencyProof:
    fields = json.loads(text, object_pairs_hook=_once)
    if [*fields] != _FIELDS or fields["format"] != _TITLE or fields["version"] != _VERSION:
        raise ValueError
    sizes = (fields["first_size"], fields["second_size"], fields["version"])
    if any(type(size) is not int for size in sizes) or not isinstance(fields["path"], list):
        raise TypeError
    return _proof(
        fields["first_size"],
        fields["first_root"],
        fields["second_size"],
        fields["second_root"],
        fields["path"],
    )


def _proof(
    first_size: int, first_root: str, second_size: int, second_root: str, path: list[str]
) -> ConsistencyProof:
    hashes = [decode_base64(text) for text in (first_root, second_root, *path)]
    if any(len(digest) != merkle.HASH_BYTES for digest in hashes):
        raise ValueError
    if not (0 <= first_size <= _LARGEST_SIZE and 0 <= second_size <= _LARGEST_SIZE):
        raise ValueError
    return ConsistencyProof(first_size, hashes[0], second_size, hashes[1], tuple(hashes[2:]))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError
    return fields
