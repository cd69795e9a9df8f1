"""Signed notes and checkpoints, as C2SP specifies them.

https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deployledger.audit.canonical_base64 import decode_base64, encode_base64
from deployledger.audit.keys import Signer, Verifier
from deployledger.audit.merkle import HASH_BYTES
from deployledger.domain.exceptions import ConfigurationError

_DASH = "\N{EM DASH} "
_CONTINUES = "continues "
_CONTINUATION = re.compile(r"continues ([^ +]+)\+([0-9a-f]{8}) (\S+) (\S+)")
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
    return f"{text}\n{_DASH}{signer.name} {encode_base64(signature)}\n"


def opened(note: str | bytes, verifiers: Sequence[Verifier]) -> tuple[str, Verifier]:
    """Return the text of a signed note, and the first of the keys that signed it.

    Signatures of other keys are ignored; one that names a known key and is not its own refuses the note.

    Raises:
        NoteError: if it is no signed note, or none of the keys signed it (an `OtherSignerError`).
    """
    text, lines = _split(note)
    signatures = [_signature(line) for line in lines]
    for name, signature in signatures:
        for verifier in verifiers:
            if (verifier.name, verifier.key_id) == (name, signature[:4]):
                if not verifier.is_signed(signature[4:], text.encode()):
                    raise NoteError(
                        f"The signature of {name} is wrong: the note was changed since, or forged."
                    )
                return text, verifier
    signers = ", ".join(sorted({name for name, _ in signatures}))
    if not verifiers:
        raise OtherSignerError(
            f"No public key was given, and it is signed by {signers}.",
            hint="Pass the public key of that signer.",
        )
    wanted = ", ".join(f"{it.name} ({it.key_id.hex()})" for it in verifiers)
    raise OtherSignerError(
        f"It is not signed by {wanted}, but by {signers}.",
        hint="Pass the signer's public key if you trust it.",
    )


def _signature(line: str) -> tuple[str, bytes]:
    """Return the name in a line of a note, and the key's id with the signature behind it."""
    name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
    try:
        signature = decode_base64(encoded)
    except ValueError:
        signature = b""
    if not line.startswith(_DASH) or not name or len(signature) < 5:
        raise NoteError(f"The line {line[:100]!r} is not a signature line of a signed note.")
    return name, signature


def _split(note: str | bytes) -> tuple[str, list[str]]:
    """Return the text of a note, and its lines of signatures."""
    if len(note) > _LONGEST_NOTE:
        raise NoteError(f"A signed note of {len(note):,} bytes is too large: 1 MiB is the most.")
    try:
        whole = note.decode() if isinstance(note, bytes) else note
    except UnicodeDecodeError:
        raise NoteError("It is not a signed note: it is not UTF-8.") from None
    text, blank, signatures = whole.rpartition("\n\n")
    lines = signatures.split("\n")
    if problem := _damage(whole):
        raise NoteError(f"It is not a signed note: {problem}.", hint=_COPY_AGAIN)
    if not blank or not text or not signatures.endswith("\n") or not 1 < len(lines) <= _MOST_SIGNATURES:
        raise NoteError("It is not a signed note: text, a blank line, and signatures.")
    return f"{text}\n", lines[:-1]


_COPY_AGAIN = "Copy the file again, byte for byte, from where it was published."


def _damage(note: str) -> str:
    """Return what happened to a note on its way, where that can be seen; else an empty text."""
    if not note.strip():
        return "it is empty"
    if note.startswith("\ufeff"):
        return "it begins with a byte order mark"
    if "\r" in note:
        return "its lines end with CR LF instead of LF"
    if "\0" in note:
        return "it is binary"
    lines = note.split("\n")
    if any(line != line.strip() for line in lines if not line.startswith(_DASH)) or any(
        line != line.rstrip() for line in lines
    ):
        return "a line in it begins or ends with spaces"
    if f"\n\n{_DASH}" in note.partition(f"\n\n{_DASH}")[2]:
        return "it has several signed notes; each one needs a file of its own"
    if note.endswith("\n\n") and f"\n\n{_DASH}" in note:
        return "it has empty lines after its signatures"
    return ""


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
        found = _CONTINUATION.fullmatch(line)
        if found is None:
            raise ValueError("no continuation")
        return cls(found[1], bytes.fromhex(found[2]), _size(found[3]), _root(found[4]))


@dataclass(frozen=True)
class Checkpoint:
    """The state of a ledger: how many leaves, and their root.

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
        """Return the checkpoint in the text of a note; other lines behind the third one are left to others.

        Raises:
            NoteError: if there is none.
        """
        lines = text.split("\n")
        try:
            origin, size, root = lines[0], _size(lines[1]), _root(lines[2])
            named = [Continuation.parse(it) for it in lines[3:] if it.startswith(_CONTINUES)]
            if not origin or len(lines) < 4 or len(named) > 1 or any(it.size > size for it in named):
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
        text, lines = _split(note)
        for line in lines:
            _signature(line)
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


def signed_by(note: str) -> str:
    """Return the ids of the keys that claim to have signed a note, in hexadecimal digits."""
    _, lines = _split(note)
    return "-".join(_signature(line)[1][:4].hex() for line in lines)


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
        checkpoint = Checkpoint.unverified(note)
        _, lines = _split(note)
        for name, signature in map(_signature, lines):
            if name == checkpoint.origin:
                return cls(checkpoint, signature[:4])
        raise NoteError(f"It is not a checkpoint: it has no signature of its origin, {checkpoint.origin}.")
