"""Checkpoints of a ledger, as C2SP specifies them: https://c2sp.org/tlog-checkpoint."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deployledger.audit.canonical_base64 import decode_base64, encode_base64
from deployledger.audit.keys import Signer, Verifier
from deployledger.audit.merkle import HASH_BYTES
from deployledger.audit.signed_notes import NoteError, opened, parsed, sign
from deployledger.domain.exceptions import ConfigurationError

_CONTINUES = "continues "
_CONTINUATION = re.compile(r"continues ([^ +]+)\+([0-9a-f]{8}) (\S+) (\S+)")
_LARGEST_SIZE = (1 << 63) - 1


@dataclass(frozen=True)
class Continuation:
    """The last checkpoint of an earlier key, as the first one of a new key names it.

    Attributes:
        origin: the name of the earlier key.
        key_id: the four bytes that tell it from other keys of that name.
        size: how many events that checkpoint covers.
        root: its root, 32 bytes.
    """

    origin: str
    key_id: bytes
    size: int
    root: bytes

    def __str__(self) -> str:
        root = encode_base64(self.root)
        return f"{_CONTINUES}{self.origin}+{self.key_id.hex()} {self.size} {root}"

    @classmethod
    def parse(cls, line: str) -> "Continuation":
        """Return what such a line says.

        Raises:
            ValueError: if it is none.
        """
        match = _CONTINUATION.fullmatch(line)
        if match is None:
            raise ValueError("no continuation")
        return cls(match[1], bytes.fromhex(match[2]), _size(match[3]), _root(match[4]))


@dataclass(frozen=True)
class Checkpoint:
    """The state of a ledger: the number of leaves, and their root.

    Attributes:
        origin: which ledger; the name of the key that signs.
        size: how many events, which is the position of the last one.
        root: the root of the tree, 32 bytes.
        continues: in the first checkpoint of a new key, the last one of the key before it.
    """

    origin: str
    size: int
    root: bytes
    continues: Continuation | None = None

    def __str__(self) -> str:
        more = f"{self.continues}\n" if self.continues is not None else ""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n{more}"

    def signed(self, signer: Signer) -> str:
        """Return it as a signed note.

        Raises:
            ConfigurationError: if the key has another name than the origin.
        """
        if signer.name != self.origin:
            raise ConfigurationError(f"The key {signer.name} does not sign checkpoints of {self.origin}.")
        return sign(str(self), signer)

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Return the checkpoint in the text of a note; other lines after the third one are ignored.

        Raises:
            NoteError: if there is none.
        """
        lines = text.split("\n")
        try:
            origin, size, root = lines[0], _size(lines[1]), _root(lines[2])
            named = [Continuation.parse(line) for line in lines[3:] if line.startswith(_CONTINUES)]
            if (
                not origin
                or len(lines) < 4
                or len(named) > 1
                or any(continuation.size > size for continuation in named)
            ):
                raise ValueError
        except (ValueError, IndexError):
            raise NoteError("It is not a checkpoint: origin, size and root, a line each.") from None
        return cls(origin, size, root, named[0] if named else None)

    @classmethod
    def unverified(cls, note: str | bytes) -> "Checkpoint":
        """Return the checkpoint in a signed note, whoever signed it.

        Raises:
            NoteError: if it is none.
        """
        text, _ = parsed(note)
        return cls.parse(text)


def _size(text: str) -> int:
    if not text.isascii() or str(int(text)) != text or not 0 <= int(text) <= _LARGEST_SIZE:
        raise ValueError
    return int(text)


def _root(text: str) -> bytes:
    root = decode_base64(text)
    if len(root) != HASH_BYTES:
        raise ValueError
    return root


def open_checkpoint(note: str | bytes, verifiers: Sequence[Verifier]) -> Checkpoint:
    """Return the checkpoint in a signed note.

    Raises:
        NoteError: if it is none, none of the keys signed it, or it is of another origin than its key.
    """
    text, verifier = opened(note, verifiers)
    checkpoint = Checkpoint.parse(text)
    if checkpoint.origin != verifier.name:
        raise NoteError(
            f"The checkpoint is of another origin: of {checkpoint.origin}, not of {verifier.name}."
        )
    return checkpoint


@dataclass(frozen=True)
class Claim:
    """What a checkpoint says, whether or not its signature is right.

    Attributes:
        checkpoint: the checkpoint.
        key_id: the four bytes of the key that it says it is signed with.
    """

    checkpoint: Checkpoint
    key_id: bytes

    @classmethod
    def of(cls, note: str | bytes) -> "Claim":
        """Return what a signed note claims.

        Raises:
            NoteError: if it is no checkpoint, or none that names a key of its origin.
        """
        text, signatures = parsed(note)
        checkpoint = Checkpoint.parse(text)
        for name, signature in signatures:
            if name == checkpoint.origin:
                return cls(checkpoint, signature[:4])
        raise NoteError(f"It is not a checkpoint: it has no signature of its origin, {checkpoint.origin}.")
