"""The lines of proofs in evidence: JSON objects, each of which can be written in one way only."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deployledger.audit import merkle
from deployledger.audit.canonical_base64 import decode_base64, encode_base64
from deployledger.audit.proofs import ConsistencyProof


@dataclass(frozen=True)
class Proof:
    """That an event is in a tree.

    Attributes:
        position: the event's position in the log.
        leaf: in ``proofs.jsonl`` the hash of its leaf, in ``bounds.jsonl`` the leaf itself.
        path: the hashes from there to the root.
    """

    position: int
    leaf: bytes
    path: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        return _line(
            {"position": self.position, "leaf": encode_base64(self.leaf), "path": _hashes(self.path)}
        )

    @classmethod
    def parse(cls, line: bytes) -> "Proof":
        """Return the proof that a line is.

        Raises:
            ValueError: if it is none, or is written in another way.
        """
        fields = _fields(line, ["position", "leaf", "path"])
        proof = cls(_number(fields["position"]), decode_base64(_text(fields["leaf"])), _path(fields["path"]))
        if bytes(proof) != line:
            raise ValueError("not canonical")
        return proof


def consistency_line(proof: ConsistencyProof) -> bytes:
    """Return a consistency proof as a line; to which tree it leads, the checkpoint beside it says."""
    return _line(
        {"size": proof.first_size, "root": encode_base64(proof.first_root), "path": _hashes(proof.path)}
    )


def parse_consistency(line: bytes, size: int, root: bytes) -> ConsistencyProof:
    """Return the proof that a line is, which leads to the tree of a size and root.

    Raises:
        ValueError: if it is none, or is written in another way.
    """
    fields = _fields(line, ["size", "root", "path"])
    first_size, first_root = _number(fields["size"]), _hash(fields["root"])
    proof = ConsistencyProof(first_size, first_root, size, root, _path(fields["path"]))
    if consistency_line(proof) != line:
        raise ValueError("not canonical")
    return proof


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _fields(line: bytes, names: list[str]) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(fields, dict) or [*fields] != names:
        raise ValueError("other fields")
    return fields


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("no number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")  # callers know what is no proof by ValueError
    return value


def _hash(value: Any) -> bytes:
    digest = decode_base64(_text(value))
    if len(digest) != merkle.HASH_BYTES:
        raise ValueError("no hash")
    return digest


def _path(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list):
        raise ValueError("no path")  # as above
    return tuple(map(_hash, value))


def _hashes(path: Sequence[bytes]) -> list[str]:
    return [encode_base64(digest) for digest in path]
