"""The canonical encoding of an event as a leaf of the ledger.

docs/ledger.md has the encoding with test vectors.
"""

from functools import lru_cache
from hashlib import sha256
from struct import Struct, error

ENCODING = 1
"""The version of the encoding; it is the first byte of each leaf."""

_FIXED = Struct(">BQ16sQq16s32s")
_LONGEST_TOPIC = 0xFFFF


def encode_leaf(
    position: int,
    stream_id: bytes,
    stream_version: int,
    topic: str,
    state: bytes,
    event_id: bytes,
    recorded_at: int,
    actor: str | None,
    correlation_id: bytes | None,
    causation_id: bytes | None,
) -> bytes:
    """Return an event as the leaf of the ledger at its position.

    Args:
        position: its place in the log, from 1; the leaf's index in the tree is one less.
        stream_id: 16 bytes; so are ``event_id``, ``correlation_id`` and ``causation_id``.
        state: its fields as they are stored; the leaf has their SHA-256.
        recorded_at: microseconds since 1970-01-01, UTC.

    Raises:
        ValueError: if a number or a text is none that a leaf has room for.
        TypeError: if something is of another type.
    """
    try:
        fixed = _FIXED.pack(
            ENCODING, position, stream_id, stream_version, recorded_at, event_id, sha256(state).digest()
        )
    except error as reason:  # which is no ValueError
        raise ValueError(str(reason)) from reason
    return (
        fixed
        + _topic(topic)
        + _text(actor)
        + (b"\x00" if correlation_id is None else b"\x01" + correlation_id)
        + (b"\x00" if causation_id is None else b"\x01" + causation_id)
    )


def read_head(leaf: bytes) -> tuple[int, int]:
    """Return the position of the event that a leaf is of, and when it was recorded, in microseconds.

    Raises:
        ValueError: if it is no leaf, or one in an encoding that is not known.
    """
    if len(leaf) < _FIXED.size or leaf[0] != ENCODING:
        raise ValueError("it is not a leaf of a ledger")
    _, position, _, _, recorded_at, _, _ = _FIXED.unpack_from(leaf)
    return position, recorded_at


@lru_cache(1024)
def _topic(topic: str) -> bytes:
    encoded = topic.encode()
    if len(encoded) > _LONGEST_TOPIC:
        raise ValueError(f"a topic of {len(encoded):,} bytes is too long")
    return len(encoded).to_bytes(2, "big") + encoded


@lru_cache(1024)
def _text(text: str | None) -> bytes:
    if text is None:
        return b"\x00"
    encoded = text.encode()
    return b"\x01" + len(encoded).to_bytes(4, "big") + encoded
