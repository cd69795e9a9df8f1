"""Checks checkpoints against a log, and reports where log, stored tree and checkpoints disagree."""

from collections.abc import Sequence
from dataclasses import dataclass

from deployledger.audit import merkle
from deployledger.audit.checkpoints import Checkpoint, open_checkpoint
from deployledger.audit.joined_parts import Start
from deployledger.audit.keys import Verifier
from deployledger.audit.ledger_store import LedgerStore
from deployledger.audit.log_parts import LogProblem
from deployledger.audit.signed_notes import NoteError, OtherSignerError
from deployledger.audit.tiles import Tree
from deployledger.domain.exceptions import LedgerError

UNREADABLE = "unreadable"
"""The kind of the problem that a checkpoint is none, or that no given one is signed by a given key."""

DATABASE = "database"
"""Where a checkpoint is from that was not given."""

_CHANGED = "its state, topic, place or metadata was changed"


@dataclass(frozen=True)
class CheckpointResult:
    """What came of a checkpoint.

    Attributes:
        source: where it is from: a file, or ``database``.
        origin: which ledger it is of; empty if it cannot be read.
        size: how many events it covers.
        error: why it does not hold; empty if it does.
        is_of_another_key: whether it is signed by none of the keys that were given: it says nothing then.
        named_by: the origin of the checkpoint of a new key that names this one as the last of the old key;
            empty if it was read itself.
    """

    source: str
    origin: str
    size: int
    error: str
    is_of_another_key: bool = False
    named_by: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is signed by a key that was given, and the log is what it says."""
        return not self.error

    @property
    def is_from_outside(self) -> bool:
        """Whether it was kept where who can change the database cannot change it."""
        return self.source != DATABASE


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint, or why it is none."""

    source: str
    checkpoint: Checkpoint | None
    error: str = ""
    is_of_another_key: bool = False
    named_by: str = ""

    @classmethod
    def opened(
        cls, source: str, note: str | bytes, verifiers: Sequence[Verifier]
    ) -> "list[SignedCheckpoint]":
        """Return a checkpoint, and the one of an earlier key that it names: its signature is of both."""
        try:
            checkpoint = open_checkpoint(note, verifiers)
        except NoteError as error:
            return [cls(source, None, error.message, isinstance(error, OtherSignerError))]
        before = checkpoint.continues
        if before is None:
            return [cls(source, checkpoint)]
        named = Checkpoint(before.origin, before.size, before.root)
        return [cls(source, named, named_by=checkpoint.origin), cls(source, checkpoint)]

    @property
    def size(self) -> int:
        """How many events it covers; -1 if it is none."""
        return self.checkpoint.size if self.checkpoint else -1


def result(
    store: LedgerStore, signed: SignedCheckpoint, roots: dict[int, bytes], start: Start, end: int
) -> CheckpointResult:
    """Return the result for a checkpoint, by the root of the log at each size."""
    checkpoint = signed.checkpoint
    if checkpoint is None:
        return CheckpointResult(signed.source, "", 0, signed.error, signed.is_of_another_key)
    if checkpoint.size > end:
        error = too_new(checkpoint.size, end)
    elif checkpoint.size < start.size:
        error = "" if _is_before(store, checkpoint, start) else "It does not fit the checkpoint --since."
    else:
        fits = checkpoint.size == 0 or roots.get(checkpoint.size) == checkpoint.root
        error = "" if fits else f"The first {checkpoint.size:,} events differ from those that it signed."
    return CheckpointResult(
        signed.source, checkpoint.origin, checkpoint.size, error, named_by=signed.named_by
    )


def too_new(size: int, end: int) -> str:
    """Return why a checkpoint of more events than the log has does not hold."""
    return f"It covers {size:,} events, and the log has {end:,}: the log was truncated, or is another one."


def _is_before(store: LedgerStore, checkpoint: Checkpoint, start: Start) -> bool:
    if checkpoint.size == 0:
        return True
    proof = merkle.consistency_proof(checkpoint.size, start.size, Tree(store).hash_of)
    return merkle.is_consistent(checkpoint.size, checkpoint.root, start.size, start.root, proof)


def disagreements(
    store: LedgerStore,
    signed: Sequence[SignedCheckpoint],
    results: Sequence[CheckpointResult],
    changed: int | None,
    is_missing: bool,
    end: int,
) -> list[LogProblem]:
    """Return where log, stored tree and checkpoints do not agree, and which of them is wrong.

    Args:
        changed: the first event that is not the one in the stored tree.
        is_missing: whether that is because it is missing, which is already reported.
    """
    problems: list[LogProblem] = []
    outside = [result for result in results if result.is_from_outside]
    are_all_of_others = all(result.is_of_another_key for result in outside)
    covered = max((result.size for result in results if result.holds), default=0)
    failing: list[Checkpoint] = []
    for checked, result in zip(signed, results, strict=True):
        if checked.checkpoint is not None and result.error:
            failing.append(checked.checkpoint)
        if result.is_of_another_key and not (result.is_from_outside and are_all_of_others):
            continue  # anybody can put one into the database, and a folder has those of earlier keys
        if result.error:
            position = end + 1 if checked.size > end else None
            kind = "checkpoint" if checked.size <= end else "truncated"
            where = "in the database" if checked.source == DATABASE else checked.source
            if result.named_by:
                where += f", named by a checkpoint of {result.named_by}"
            what = f"of {checked.size:,} events ({result.origin}; {where}) does not hold"
            if checked.checkpoint is None:
                kind, what = UNREADABLE, f"{where} proves nothing"
            problems.append(LogProblem(position, kind, f"The checkpoint {what}: {result.error}"))
    broken = [checkpoint for checkpoint in failing if checkpoint.size <= end]
    if broken:
        first = min(broken, key=lambda checkpoint: checkpoint.size)
        if changed is not None and changed <= first.size and _leads_to(store, first):
            if not is_missing:
                message = f"Event {changed} is not the one that was signed: {_CHANGED}."
                problems.append(LogProblem(changed, "changed", message))
            changed = None
        elif changed is None or changed > first.size:
            held = (result.size for result in results if result.holds and result.size < first.size)
            lower = max(held, default=0)
            why = (
                "that checkpoint is of another log, or this one was rewritten, and signed by the key's owner"
                if first.size <= covered
                else "some were changed, the tree does not tell which; or that checkpoint is of another log"
            )
            message = f"Events {lower + 1:,} to {first.size:,} are not all those that were signed: {why}."
            problems.append(LogProblem(lower + 1, "changed", message))
    if changed is not None and not is_missing:
        if changed <= covered:
            message = (
                f"The stored tree has another event {changed} than the log, and checkpoints prove the log: "
                "the tree was changed."
            )
            problems.append(LogProblem(changed, "tree", message))
        else:
            message = f"Event {changed} is not the one that the ledger took in: {_CHANGED}, or the tree was."
            problems.append(LogProblem(changed, "changed", message))
    return problems


def _leads_to(store: LedgerStore, checkpoint: Checkpoint) -> bool:
    """Return whether the stored tree has the root that a checkpoint signed: then it has the true leaves."""
    try:
        return store.size() >= checkpoint.size and Tree(store).root(checkpoint.size) == checkpoint.root
    except LedgerError:
        return False
