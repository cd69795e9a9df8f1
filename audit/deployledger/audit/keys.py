"""Ed25519 keys, as the signed notes of C2SP have them: a name, and a key of its own.

https://c2sp.org/signed-note says how the keys are written. Signing needs the extra ``audit``.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from deployledger.audit.canonical_base64 import decode_base64, encode_base64
from deployledger.domain.exceptions import ConfigurationError, ConflictError

_ED25519 = b"\x01"
_PRIVATE = "PRIVATE+KEY+"
_LONGEST_KEY_FILE = 4096
_KEY_BYTES = 32
_MISSING = {
    "public": "Ask the owner of the private key for it.",
    "private": "Check the path that was given: --key, or DEPLOYLEDGER_AUDIT_KEY. A new key, which "
    "`deployledger audit keygen` makes, is another identity: it does not verify what the old one signed.",
}


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ConfigurationError(
            "Signing and verifying need the package cryptography, which is not installed.",
            hint="Install it with `pip install 'deployledger[audit]'`.",
        ) from error
    return ed25519


def _key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def check_name(name: str) -> str:
    """Check that a key can have this name, and return it.

    Raises:
        ConfigurationError: if it cannot.
    """
    is_text = isinstance(name, str) and name.isprintable() and len(name) <= 200
    if not name or not is_text or "+" in name or any(character.isspace() for character in name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a key.",
            hint="Use a name without spaces and plus signs, like that of the service: "
            "example.com/deployments.",
        )
    return name


@dataclass(frozen=True)
class Verifier:
    """A public key, and the name of its owner.

    Attributes:
        name: the name of the key's owner; the origin of the checkpoints that it signs.
        public: the key, 32 bytes.
    """

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """Four bytes that tell keys with the same name apart."""
        return _key_id(self.name, self.public)

    def __str__(self) -> str:
        encoded = encode_base64(_ED25519 + self.public)
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def is_signed(self, signature: bytes, text: bytes) -> bool:
        """Return whether a signature is this key's for a text."""
        from cryptography.exceptions import InvalidSignature

        try:
            _ed25519().Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text)
        except InvalidSignature:
            return False
        return True

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """Return a public key, written ``name+id+key``.

        Raises:
            ConfigurationError: if it is none.
        """
        if text.strip().startswith(_PRIVATE):
            raise ConfigurationError(
                "This is a private key; the public one is needed.",
                hint="It is in the file beside it, whose name ends with .pub.",
            )
        name, key_id, public = _parts(text.strip(), "public")
        verifier = cls(check_name(name), public)
        if verifier.key_id != key_id:
            raise ConfigurationError(f"The public key of {name!r} is damaged: its parts do not match.")
        _ed25519()  # who cannot verify learns it now
        return verifier

    @classmethod
    def load(cls, path: Path) -> "Verifier":
        """Return the public key in a file.

        Raises:
            ConfigurationError: if there is none.
        """
        text = _read(path, "public")
        with _in_file(path):
            return cls.parse(text)


@dataclass(frozen=True)
class Signer:
    """A signer: a key in this process, or a function that signs with it elsewhere.

    Attributes:
        verifier: the public key that its signatures are verified with.
        sign: returns the Ed25519 signature, 64 bytes, of a text.
    """

    verifier: Verifier
    sign: Callable[[bytes], bytes] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the key's owner; the origin of the checkpoints that it signs."""
        return self.verifier.name

    @classmethod
    def parse(cls, text: str) -> "Signer":
        """Return the signer of a private key, written ``PRIVATE+KEY+name+id+key``.

        Raises:
            ConfigurationError: if it is none.
        """
        text = text.strip()
        _refuse_public(text)
        if not text.startswith(_PRIVATE):
            raise ConfigurationError("This is not a private key.", hint=_MISSING["private"])
        name, key_id, secret = _parts(text.removeprefix(_PRIVATE), "private")
        signer = _signer(check_name(name), secret)
        if signer.verifier.key_id != key_id:
            raise ConfigurationError(f"The private key of {name!r} is damaged: its parts do not match.")
        return signer

    @classmethod
    def load(cls, path: Path) -> "Signer":
        """Return the signer of the private key in a file, which only its owner may read.

        Raises:
            ConfigurationError: if there is none, or others may read it.
        """
        text = _read(path, "private")
        with _in_file(path):
            _refuse_public(text)  # which others may read
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigurationError(
                f"The private key {path} can be read or written by others (mode {mode:04o}).",
                hint=f"Restrict it: chmod 600 {path}. If others may have read it, make a new one.",
            )
        with _in_file(path):
            return cls.parse(text)


def _refuse_public(text: str) -> None:
    try:
        Verifier.parse(text)
    except ConfigurationError:
        return
    raise ConfigurationError(
        "This is a public key; the private one is needed.",
        hint="It is in the file beside it, whose name has no .pub at its end.",
    )


def _signer(name: str, secret: bytes) -> Signer:
    key = _ed25519().Ed25519PrivateKey.from_private_bytes(secret)
    return Signer(Verifier(name, key.public_key().public_bytes_raw()), key.sign)


def _parts(text: str, kind: str) -> tuple[str, bytes, bytes]:
    try:
        name, key_id, encoded = text.split("+", 2)
        key = decode_base64(encoded)
        if key[:1] != _ED25519 or len(key) != 1 + _KEY_BYTES or bytes.fromhex(key_id).hex() != key_id:
            raise ValueError
        return name, bytes.fromhex(key_id), key[1:]
    except ValueError:
        raise ConfigurationError(
            f"This is not an Ed25519 {kind} key in the format of signed notes.",
            hint=f"It is one line: name+id+key. {_MISSING[kind]}",
        ) from None


def _read(path: Path, kind: str) -> str:
    """Return the one line that a file of a key has."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_KEY_FILE + 1)
    except OSError as error:
        raise ConfigurationError(
            f"The {kind} key {path} cannot be read: {error.strerror}.",
            hint=_MISSING[kind],
        ) from error
    try:
        lines = content.decode().strip().splitlines()
    except UnicodeDecodeError:
        lines = []
    if not content.strip():
        problem = "it is empty"
    elif len(content) > _LONGEST_KEY_FILE:
        problem = f"it has more than {_LONGEST_KEY_FILE:,} bytes"
    elif not lines:
        problem = "it is not UTF-8"
    elif lines[0].startswith("\ufeff"):
        problem = "it begins with a byte order mark"
    elif len(lines) > 1:
        problem = f"it has {len(lines)} lines instead of one; each key needs a file of its own"
    else:
        return lines[0]
    raise ConfigurationError(
        f"The file {path} does not contain a {kind} key: {problem}.", hint=_MISSING[kind]
    )


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Let errors name the file."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}", hint=error.hint) from error


def generate(name: str) -> tuple[str, str]:
    """Return a new key pair in its written form: the private key, and the public one.

    Raises:
        ConfigurationError: if no key can have this name.
    """
    check_name(name)
    secret = os.urandom(_KEY_BYTES)
    verifier = _signer(name, secret).verifier
    encoded = encode_base64(_ED25519 + secret)
    return f"{_PRIVATE}{name}+{verifier.key_id.hex()}+{encoded}", str(verifier)


def write_pair(name: str, path: Path) -> Verifier:
    """Make a pair of keys: the private one at a path, for its owner alone, the public one at ``path.pub``.

    Raises:
        ConflictError: if either is there already.
        ConfigurationError: if either cannot be written, or no key can have the name.
    """
    private, public = generate(name)
    public_path = path.with_name(f"{path.name}.pub")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The key {path} cannot be written: {error.strerror}.") from error
    for target, text, mode in ((path, private, 0o600), (public_path, public, 0o644)):
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            if target is public_path:
                path.unlink()
            raise ConflictError(
                f"{target} already exists; a key is never overwritten.", hint="Choose another path."
            ) from None
        except OSError as error:
            if target is public_path:
                path.unlink()
            raise ConfigurationError(f"The key {target} cannot be written: {error.strerror}.") from error
    return Verifier.parse(public)
