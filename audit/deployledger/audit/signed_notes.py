"""Signed notes, as C2SP specifies them: https://c2sp.org/signed-note."""

from collections.abc import Sequence

from deployledger.audit.canonical_base64 import decode_base64, encode_base64
from deployledger.audit.keys import Signer, Verifier
from deployledger.domain.exceptions import ConfigurationError

_DASH = "\N{EM DASH} "
_LONGEST_NOTE = 1 << 20
_MOST_SIGNATURES = 100


class NoteError(ConfigurationError):
    """A signed note is malformed, or not signed by the key that was asked for."""


class OtherSignerError(NoteError):
    """A signed note is not signed by any of the keys that were asked for."""


def sign(text: str, signer: Signer) -> str:
    """Return a text, which ends with a line break, as a signed note."""
    if not text.endswith("\n") or any(ord(character) < 32 and character != "\n" for character in text):
        raise ValueError("only lines of text can be signed")
    signature = signer.verifier.key_id + signer.sign(text.encode())
    return f"{text}\n{_DASH}{signer.name} {encode_base64(signature)}\n"


def opened(note: str | bytes, verifiers: Sequence[Verifier]) -> tuple[str, Verifier]:
    """Return the text of a signed note, and the first of the keys that signed it.

    Signatures of other keys are ignored; one that names a known key and is not its own refuses the note.

    Raises:
        NoteError: if it is no signed note, or none of the keys signed it (an `OtherSignerError`).
    """
    text, signatures = parsed(note)
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
    wanted = ", ".join(f"{verifier.name} ({verifier.key_id.hex()})" for verifier in verifiers)
    raise OtherSignerError(
        f"It is not signed by {wanted}, but by {signers}.",
        hint="Pass the signer's public key if you trust it.",
    )


def signed_by(note: str) -> str:
    """Return the ids of the keys that claim to have signed a note, in hexadecimal digits."""
    _, signatures = parsed(note)
    return "-".join(signature[:4].hex() for _, signature in signatures)


def parsed(note: str | bytes) -> tuple[str, list[tuple[str, bytes]]]:
    """Return the text of a note, and of each signature its name, and the id of the key with the signature.

    Raises:
        NoteError: if it is no signed note.
    """
    if len(note) > _LONGEST_NOTE:
        raise NoteError(f"A signed note of {len(note):,} bytes is too large: at most 1 MiB is allowed.")
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
    return f"{text}\n", [_signature(line) for line in lines[:-1]]


def _signature(line: str) -> tuple[str, bytes]:
    name, _, encoded = line.removeprefix(_DASH).rpartition(" ")
    try:
        signature = decode_base64(encoded)
    except ValueError:
        signature = b""
    if not line.startswith(_DASH) or not name or len(signature) < 5:
        raise NoteError(f"The line {line[:100]!r} is not a signature line of a signed note.")
    return name, signature


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
