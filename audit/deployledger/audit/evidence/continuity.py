"""Checks that evidence continues earlier checkpoints and earlier evidence."""

from collections.abc import Iterable, Sequence

from deployledger.audit import merkle
from deployledger.audit.checkpoints import Checkpoint, open_checkpoint
from deployledger.audit.evidence.checks import Check
from deployledger.audit.evidence.kept_checkpoints import EarlierState
from deployledger.audit.evidence.manifest import CONSISTENCY
from deployledger.audit.evidence.proof_lines import parse_consistency
from deployledger.audit.keys import Verifier
from deployledger.audit.proofs import ConsistencyProof
from deployledger.audit.signed_notes import NoteError


class Continuity:
    """Checks that the log of some evidence continues its earlier states.

    Args:
        check: what is found is added to it.
        checkpoint: that of the evidence.
    """

    def __init__(self, check: Check, checkpoint: Checkpoint) -> None:
        self._check = check
        self._checkpoint = checkpoint
        self._proven: dict[int, bytes] = {}
        """By size, the roots of earlier trees that the checkpoint's tree is proven to continue."""

    def add_lines(self, lines: Iterable[tuple[int, bytes]]) -> None:
        """Check the proofs that the evidence itself has."""
        check, checkpoint = self._check, self._checkpoint
        last = 0
        for number, line in lines:
            try:
                proof = parse_consistency(line, checkpoint.size, checkpoint.root)
            except ValueError:
                check.add(CONSISTENCY, "the line is not a consistency proof", number)
                continue
            since = f"from {proof.first_size:,} events"
            if not last < proof.first_size <= checkpoint.size:
                where = f"is not between {last:,} events and the checkpoint"
                check.add(CONSISTENCY, f"a proof {since} {where}", number)
                continue
            last = proof.first_size
            if proof.holds():
                self._proven[last] = proof.first_root
                check.count += 1
            else:
                check.add(CONSISTENCY, f"the proof {since} does not lead to the checkpoint", number)
        if not last:
            check.add(CONSISTENCY, "it has no proof")

    def add_proofs(self, proofs: Sequence[ConsistencyProof]) -> None:
        """Check proofs that were given beside the evidence."""
        check, checkpoint = self._check, self._checkpoint
        for proof in proofs:
            if (proof.second_size, proof.second_root) != (checkpoint.size, checkpoint.root):
                what = f"leads to another tree of {proof.second_size:,} events than the checkpoint's"
                check.add("", f"the given proof from {proof.first_size:,} events {what}")
            elif not proof.holds():
                check.add("", f"the given proof from {proof.first_size:,} events is invalid")
            else:
                self._proven.setdefault(proof.first_size, proof.first_root)
                check.count += 1

    def check_states(self, states: Sequence[EarlierState], verifiers: Sequence[Verifier]) -> None:
        """Check that the log continues the states that an auditor kept."""
        for state in states:
            if problem := self._problem_of(state, verifiers):
                self._check.add("", f"{shown(state.source)} {problem}")
            else:
                self._check.count += 1
                events = f"{state.size:,} event{'s' * (state.size != 1)}"
                self._check.results.append(f"{shown(state.source)} is continued: {events}")

    def _problem_of(self, state: EarlierState, verifiers: Sequence[Verifier]) -> str:
        """Return why the evidence does not show that it continues an earlier state; empty if it does."""
        checkpoint, proven = self._checkpoint, self._proven
        try:
            kept = open_checkpoint(state.note, verifiers)
        except NoteError as error:
            return f"proves nothing. {error.message}"
        if kept.size > checkpoint.size:
            return (
                f"covers {kept.size:,} events, and this evidence only {checkpoint.size:,}: this evidence "
                "is the earlier one"
            )
        signed = {checkpoint.size: checkpoint.root, **proven, 0: merkle.EMPTY_ROOT}
        if checkpoint.continues is not None:
            signed.setdefault(checkpoint.continues.size, checkpoint.continues.root)
        if signed.get(kept.size, kept.root) != kept.root:
            return (
                f"contradicts this evidence: the roots of the first {kept.size:,} events differ. Two "
                "different histories were signed; keep both files"
            )
        if kept.size not in (0, checkpoint.size) and kept.size not in proven:
            return (
                f"may be continued, but this evidence has no proof from {kept.size:,} events. Ask for "
                "evidence exported with --continues and this checkpoint, or for the output of "
                f"`deployledger audit prove --consistency {kept.size} {checkpoint.size}`"
            )
        return ""


def shown(name: str) -> str:
    """Return a name from evidence for messages: on one line, and not too long."""
    return name if name.isprintable() and len(name) < 100 else ascii(name[:100])
