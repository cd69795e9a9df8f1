"""Signed notes and checkpoints, as C2SP specifies them.

https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from deployledger.domain.exceptions import ConfigurationError
from deployledger.projections.ledger.keys import Signer, Verifier
from deployledger.projections.ledger.merkle import HASH_BYTES

_DASH = "\N{EM DASH} "
_LONGEST_NOTE = 1 << 20
_MOST_SIGNATURES = 100
_LARGEST_SIZE = (1 << 63) - 1


class NoteError(ConfigurationError):
    """A signed note is malformed, or not signed by the key that was asked for."""


class OtherSignerError(NoteError):
    """A signed note is not signed by any of the keys that were asked for."""


def sign(text: str, signer: Signer) -> str:
    """Return a text, which ends with a line break, as a signed note."""
    if not text.endswith("\n") or any(ord(it) < 32 and it != "\n" for it in text):
        raise ValueError("only lines of text can be signed")
    signature = signer.verifier.key_id + signer.sign(text.encode())
    return f"{text}\n{_DASH}{signer.name} {base64.b64encode(signature).decode()}\n"


def opened(note: str | bytes, verifiers: Sequence[Verifier]) -> tuple[str, Verifier]:
    """Return the text of a signed note, and the first of the keys that signed it.

    Signatures of other keys are ignored; one that names a known key and is not its own refuses the note.

    Raises:
        NoteError: if it is no signed note, or none of the keys signed it (an `OtherSignerError`).
    """
    text, lines = _split(note)
    for line in lines:
        name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
        try:
            signature = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            signature = b""
        if not line.startswith(_DASH) or not name or len(signature) < 5:
            raise NoteError(f"The line {line!r} is no signature of a signed note.")
        for verifier in verifiers:
            if (verifier.name, verifier.key_id) == (name, signature[:4]):
                if not verifier.is_signed(signature[4:], text.encode()):
                    raise NoteError(
                        f"The signature of {name} is wrong: the note was changed since, or forged."
                    )
                return text, verifier
    signers = ", ".join(sorted({line.removeprefix(_DASH).rpartition(" ")[0] for line in lines}))
    wanted = ", ".join(f"{it.name} ({it.key_id.hex()})" for it in verifiers) or "no key at all"
    raise OtherSignerError(
        f"It is not signed by {wanted}, but by {signers}.",
        hint="Give the public key of the one who signed it, if you trust that one.",
    )


def _split(note: str | bytes) -> tuple[str, list[str]]:
    if len(note) > _LONGEST_NOTE:
        raise NoteError(f"A signed note of {len(note):,} bytes is too large: 1 MiB is the most.")
    try:
        whole = note.decode() if isinstance(note, bytes) else note
    except UnicodeDecodeError:
        raise NoteError("It is no signed note: it is not UTF-8.") from None
    text, blank, signatures = whole.rpartition("\n\n")
    lines = signatures.split("\n")
    if not blank or not text or not signatures.endswith("\n") or not 1 < len(lines) <= _MOST_SIGNATURES:
        raise NoteError("It is no signed note: text, a blank line, and signatures.")
    return f"{text}\n", lines[:-1]


@dataclass(frozen=True)
class Checkpoint:
    """The state of a ledger: how many leaves, and their root.

    Attributes:
        origin: which ledger; the name of the key that signs.
        size: how many events, which is the position of the last one.
        root: the root of the tree, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

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
        """Return the checkpoint in the text of a note; lines behind the third one are left to others.

        Raises:
            NoteError: if there is none.
        """
        lines = text.split("\n")
        try:
            origin, size, root = lines[0], lines[1], base64.b64decode(lines[2], validate=True)
            if not origin or not size.isascii() or str(int(size)) != size or len(lines) < 4:
                raise ValueError
            number = int(size)
            if not 0 <= number <= _LARGEST_SIZE or len(root) != HASH_BYTES:
                raise ValueError
        except (ValueError, IndexError, binascii.Error):
            raise NoteError("It is no checkpoint: origin, size and root, a line each.") from None
        return cls(origin, number, root)


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


def signed_by(note: str) -> str:
    """Return the ids of the keys that claim to have signed a note, in hexadecimal digits."""
    _, lines = _split(note)
    return "-".join(base64.b64decode(line.rpartition(" ")[2])[:4].hex() for line in lines)
