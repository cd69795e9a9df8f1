"""Earlier states of a log: a checkpoint that was kept, or evidence that contains one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deployledger.audit.checkpoints import Checkpoint, open_checkpoint
from deployledger.audit.evidence import archive
from deployledger.audit.evidence.manifest import CHECKPOINT
from deployledger.audit.keys import Verifier
from deployledger.audit.signed_notes import NoteError
from deployledger.domain.exceptions import ConfigurationError

LARGEST_NOTE = 1 << 20
CHECKPOINT_SUFFIX = ".checkpoint"
"""How the names of checkpoints in a folder end."""

_HINT = "Give the file of a checkpoint, or of evidence (a ZIP file)."
_ZIP = b"PK\3\4"


@dataclass(frozen=True)
class EarlierState:
    """A checkpoint that an auditor kept. Its signature has not been verified yet.

    Attributes:
        source: where it is from.
        note: the signed note.
        size: how many events it covers.
        root: the root of their tree, 32 bytes.
    """

    source: str
    note: str | bytes
    size: int
    root: bytes

    @classmethod
    def of(cls, source: str, note: str | bytes) -> "EarlierState":
        """Return the state that a signed note is of.

        Raises:
            ConfigurationError: if it is not a checkpoint.
        """
        try:
            checkpoint = Checkpoint.unverified(note)
        except NoteError as error:
            raise ConfigurationError(
                f"{source} is not a checkpoint. {error.message}", hint=error.hint or _HINT
            ) from error
        return cls(source, note, checkpoint.size, checkpoint.root)

    @classmethod
    def read_all(cls, path: Path, most_bytes: int = archive.MOST_BYTES) -> "list[EarlierState]":
        """Return the states in a folder of checkpoints, the smallest first; or the one in a file, as `read`.

        Raises:
            ConfigurationError: if there is none in it.
        """
        if not path.is_dir():
            return [cls.read(path, most_bytes)]
        files = sorted(file for file in path.iterdir() if file.name.endswith(CHECKPOINT_SUFFIX))
        if not files:
            raise ConfigurationError(
                f"There is no checkpoint in {path}: no file ends with {CHECKPOINT_SUFFIX}.", hint=_HINT
            )
        return [cls.read(file, most_bytes) for file in files]

    @classmethod
    def read(cls, path: Path, most_bytes: int = archive.MOST_BYTES) -> "EarlierState":
        """Return the state in a file: a checkpoint, or the one in evidence.

        Raises:
            ConfigurationError: if there is none in it.
        """
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST_NOTE + 1)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}.", hint=_HINT) from error
        if not content.startswith(_ZIP):
            return cls.of(str(path), content)
        with archive.opened(path, most_bytes) as opened:
            if CHECKPOINT not in opened.names:
                raise ConfigurationError(f"{path} is not evidence: there is no {CHECKPOINT} in it.")
            try:
                return cls.of(f"{path} ({CHECKPOINT})", opened.read(CHECKPOINT, LARGEST_NOTE))
            except archive.DamagedMemberError as error:
                raise ConfigurationError(f"The {CHECKPOINT} in {path} cannot be read: {error}.") from error


def problem_of_signed(state: EarlierState, verifiers: Sequence[Verifier], size: int, root: bytes) -> str:
    """Return why a checkpoint is not signed by one of the keys, or not of a tree; empty if it is both."""
    try:
        checkpoint = open_checkpoint(state.note, verifiers)
    except NoteError as error:
        return f"proves nothing. {error.message}"
    if checkpoint.size != size:
        return f"covers {checkpoint.size:,} events, but the proof covers {size:,}."
    if checkpoint.root != root:
        return f"contradicts the proof: the roots of {size:,} events differ. Keep both files."
    return ""
