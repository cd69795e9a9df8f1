"""Verifying evidence, without the database it is from, and without trust in who brings it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from deployledger.audit import merkle
from deployledger.audit.checkpoints import Checkpoint, open_checkpoint
from deployledger.audit.evidence import archive, cloud_events, readme, report
from deployledger.audit.evidence.archive import (
    Archive,
    DamagedMemberError,
    MemberReader,
    UnreadableEvidenceError,
)
from deployledger.audit.evidence.checks import Check, EvidenceProblem
from deployledger.audit.evidence.continuity import Continuity, shown
from deployledger.audit.evidence.kept_checkpoints import LARGEST_NOTE, EarlierState
from deployledger.audit.evidence.limits import limits
from deployledger.audit.evidence.manifest import (
    BOUNDS,
    CHECKPOINT,
    CONSISTENCY,
    EVENTS,
    KEY,
    MANIFEST,
    MAPPING,
    PROOFS,
    README,
    REPORT,
    VERSION,
    EvidenceSelection,
    MalformedManifestError,
    Manifest,
    NewerFormatError,
    files,
    in_archive,
)
from deployledger.audit.evidence.ordering import Ordering, problem_of_bound
from deployledger.audit.evidence.proof_lines import Proof
from deployledger.audit.evidence.story import Story
from deployledger.audit.keys import Verifier
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.proofs import ConsistencyProof
from deployledger.audit.signed_notes import NoteError
from deployledger.audit.signed_notes import opened as opened_note
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.times import TOLERANCE
from deployledger.domain.timestamps import rfc3339


@dataclass(frozen=True)
class EvidenceReport:
    """The result of verifying evidence.

    Attributes:
        path: the file.
        key: the public key that it was verified with.
        checks: everything that was to be checked, in order.
        manifest: what the evidence says of itself, if that can be read.
        limits: what it does not show, even if all is well.
    """

    path: Path
    key: Verifier
    checks: tuple[Check, ...]
    manifest: Manifest | None
    limits: tuple[str, ...]

    @property
    def is_verified(self) -> bool:
        """Whether everything was checked, and nothing is wrong."""
        return all(check.is_passed for check in self.checks)

    @property
    def problems(self) -> list[EvidenceProblem]:
        """Everything that is wrong."""
        return [problem for check in self.checks for problem in check.problems]


def verify_evidence(
    path: Path,
    verifiers: Verifier | Sequence[Verifier],
    *,
    earlier: Sequence[EarlierState] = (),
    proofs: Sequence[ConsistencyProof] = (),
    most_bytes: int = archive.MOST_BYTES,
) -> EvidenceReport:
    """Verify a file of evidence.

    Args:
        path: the ZIP file.
        verifiers: the public key of the one whose evidence it is, as you got it from that one; after a change
            of keys, several.
        earlier: checkpoints that you kept, which the log has to continue.
        proofs: that it does, if the evidence itself has no proof of it.
        most_bytes: how many bytes all files in it may have together.

    Raises:
        UnreadableEvidenceError: if it cannot be read as evidence.
        ConfigurationError: if no key is given.
    """
    keys = (verifiers,) if isinstance(verifiers, Verifier) else tuple(verifiers)
    if not keys:
        raise ConfigurationError("Evidence is verified with a public key, and none was given.")
    with archive.opened(path, most_bytes) as opened:
        return _Verification(path, opened, keys, earlier, proofs).report()


class _Verification:
    """One run through a file of evidence."""

    def __init__(
        self,
        path: Path,
        opened: Archive,
        verifiers: tuple[Verifier, ...],
        earlier: Sequence[EarlierState],
        proofs: Sequence[ConsistencyProof],
    ) -> None:
        self.path = path
        self.archive = opened
        self.known = verifiers
        self.verifiers = verifiers
        self.verifier = verifiers[0]
        self.earlier = earlier
        self.proofs = proofs
        self.story = Story()
        self.read_members: dict[str, MemberReader] = {}
        self.archived = Check("the files are those that evidence has, and nothing else")
        self.signed = Check("the manifest is signed")
        self.digests = Check("the files are those of the manifest")
        self.checkpointed = Check("the checkpoint is signed, and of this ledger")
        self.events = Check("the events are what their stored bytes say")
        self.proven = Check("the events are in the tree of the checkpoint")
        self.ordered = Check("the events are in order, and none is missing between them")
        self.pages = Check("README, mapping and report match the events")
        self.continued = Check("the log continues its earlier checkpoints")

    def report(self) -> EvidenceReport:
        """Check everything."""
        manifest = self._check_manifest()
        checkpoint = self._check_checkpoint(manifest)
        self._check_members(manifest)
        if manifest is not None:
            self._check_events(manifest, checkpoint)
            if checkpoint is not None:
                self._check_continued(manifest, checkpoint)
            self._check_digests(manifest)
            self._check_pages(manifest)
        checks = [
            self.archived,
            self.signed,
            self.digests,
            self.checkpointed,
            self.events,
            self.proven,
            self.ordered,
            self.pages,
        ]
        if self.earlier or self.proofs or (manifest is not None and manifest.is_continuing):
            checks.append(self.continued)
        shown = limits(
            manifest.selection if manifest else None,
            manifest.version if manifest else VERSION,
            is_compared=bool(self.earlier) and self.continued.is_passed,
        )
        return EvidenceReport(
            self.path, self.verifier, tuple(checks), manifest, (*shown, *self._wrong_times())
        )

    def _wrong_times(self) -> Iterator[str]:
        """Yield what recorded times do not show because a clock was wrong, a sentence each."""
        yield from map(str, self.story.wrong_times)
        latest, now = self.story.last_at, datetime.now(UTC)
        if latest is not None and latest - now > TOLERANCE:
            yield (
                f"Its last event was recorded at {rfc3339(latest)}, which is in the future: "
                f"it is {rfc3339(now)} here. If this clock is right, that of the log was ahead."
            )

    def _check_manifest(self) -> Manifest | None:
        check = self.signed
        note = self._note(check, MANIFEST)
        if note is None:
            return None
        try:
            text, self.verifier = opened_note(note, self.verifiers)
            self.verifiers = (self.verifier,)  # one key signs all of it
            if note.count(b"\n") != text.count("\n") + 2:  # a blank line, and a signature
                check.add(MANIFEST, "it has more than a text and one signature")
        except NoteError as error:
            check.add(MANIFEST, str(error))
            text = _text_of(note)  # what is in it tells where else to look
        try:
            manifest = Manifest.parse(text)
        except NewerFormatError as error:
            raise UnreadableEvidenceError(
                f"{self.path} is evidence in format {error.version}, and this software supports format "
                f"{VERSION}.",
                hint="Verify it with a newer version of deployledger.",
            ) from error
        except MalformedManifestError as error:
            check.add(MANIFEST, str(error))
            return None
        if manifest.origin != self.verifier.name:
            check.add(MANIFEST, f"it is of {manifest.origin}, not of {self.verifier.name}")
        check.count, check.is_done = 1, True
        return manifest

    def _check_checkpoint(self, manifest: Manifest | None) -> Checkpoint | None:
        check = self.checkpointed
        note = self._note(check, CHECKPOINT)
        if note is None:
            return None
        try:
            checkpoint = open_checkpoint(note, self.verifiers)
        except NoteError as error:
            check.add(CHECKPOINT, str(error))
            return None
        if manifest is not None and (manifest.size, manifest.root) != (checkpoint.size, checkpoint.root):
            check.add(CHECKPOINT, "it is not the checkpoint that the manifest names")
        check.count, check.is_done = 1, manifest is not None
        return checkpoint

    def _note(self, check: Check, member: str) -> bytes | None:
        try:
            return self.archive.read(member, LARGEST_NOTE) if member in self.archive.names else None
        except DamagedMemberError as error:
            check.add(member, str(error))
            return None

    def _check_members(self, manifest: Manifest | None) -> None:
        check = self.archived
        for name, problem in self.archive.problems:
            check.add(shown(name), problem)
        selection = (
            manifest.selection if manifest else EvidenceSelection(0, 0)
        )  # that of a range has the most files
        expected = files(selection, is_continuing=manifest.is_continuing if manifest else True)
        for name in self.archive.names:
            if name not in expected:
                check.add(shown(name), "evidence has no file of this name")
        for name in expected:
            if name not in self.archive.names:
                check.add(name, "it is missing")
        if manifest is not None and not check.problem_count and self.archive.names != in_archive(expected):
            check.add("", "the files are not in the order of the format")
        check.count, check.is_done = len(self.archive.names), manifest is not None

    def _check_digests(self, manifest: Manifest) -> None:
        check = self.digests
        listed = files(manifest.selection, is_continuing=manifest.is_continuing)
        expected = [name for name in listed if name != MANIFEST]
        if [member.name for member in manifest.members] != expected:
            check.add(MANIFEST, "it does not have the digests of all files that evidence has")
        for member in manifest.members:
            if member.name not in self.archive.names:
                check.add(member.name, "it is missing")
                continue
            try:
                reader = self._drained(member.name)
            except DamagedMemberError as error:
                check.add(member.name, str(error))
                continue
            if (reader.sha256, reader.size) != (member.sha256, member.size):
                check.add(member.name, "it was changed: its digest is not the one in the manifest")
            check.count += 1
        if KEY in self.archive.names and self._note(check, KEY) != f"{self.verifier}\n".encode():
            check.add(KEY, "it is not the key that you gave")
        check.is_done = True

    def _drained(self, name: str) -> MemberReader:
        reader = self.read_members.get(name) or self.archive.open(name)
        reader.drain()
        self.read_members[name] = reader
        return reader

    def _check_events(self, manifest: Manifest, checkpoint: Checkpoint | None) -> None:
        if EVENTS not in self.archive.names:
            return
        order = Ordering(manifest.selection, self.ordered)
        proofs = _proofs(self._lines(PROOFS, self.proven))
        number = 0
        for number, line in self._lines(EVENTS, self.events):
            self.events.count = number
            place = next(proofs, None)
            try:
                event = cloud_events.decode(line, manifest.origin)
                leaf = encode_leaf(*event)
            except ValueError as error:  # one that is not canonical, or could be no leaf
                self.events.add(EVENTS, str(error), number)
                order.skip()
                continue
            order.add(event, number)
            self.story.add(event)
            if contradiction := cloud_events.contradiction(event):
                self.events.add(EVENTS, contradiction, number)
            self._check_proof(place, event.position, merkle.leaf_hash(leaf), number, checkpoint, PROOFS)
        self.events.is_done = EVENTS in self.read_members
        if next(proofs, None) is not None:
            self.proven.add(PROOFS, "there are more proofs than events", number + 1)
        if number != manifest.events:
            self.events.add(EVENTS, f"it has {number:,} events, and the manifest says {manifest.events:,}")
        is_bounded = self._check_bounds(manifest, checkpoint)
        self.proven.is_done = checkpoint is not None and PROOFS in self.read_members and is_bounded
        order.end(manifest)
        self.ordered.count = number
        self.ordered.is_done = self.events.is_done and is_bounded

    def _check_proof(
        self,
        proof: Proof | None,
        position: int,
        leaf_hash: bytes,
        line: int,
        checkpoint: Checkpoint | None,
        member: str,
    ) -> None:
        check = self.proven
        if proof is None:
            check.add(member, f"there is no proof of the event at position {position}", line)
        elif proof.position == _NOT_A_PROOF.position:
            check.add(member, "the line is not a proof", line)
        elif proof.position != position:
            check.add(member, f"the proof is of position {proof.position}, and the event at {position}", line)
        elif proof.leaf != leaf_hash:
            check.add(member, f"the event at position {position} is not the one that the proof is of", line)
        elif checkpoint is not None:
            try:
                root = merkle.root_from_inclusion(position - 1, checkpoint.size, leaf_hash, proof.path)
            except ValueError as error:
                check.add(member, f"the event at position {position} is not proven: {error}", line)
                return
            if root != checkpoint.root:
                check.add(
                    member,
                    f"the event at position {position} is not in the tree of the checkpoint, "
                    "or its proof was changed",
                    line,
                )
            check.count += 1

    def _check_bounds(self, manifest: Manifest, checkpoint: Checkpoint | None) -> bool:
        """Check that nothing is missing at the ends of a range, by the events beside it."""
        selection = manifest.selection
        if not selection.is_range:
            return True
        if BOUNDS not in self.archive.names or checkpoint is None:
            return False
        expected = selection.beside(manifest.size)
        bounds = [*self._lines(BOUNDS, self.proven)]
        if len(bounds) != len(expected):
            self.ordered.add(
                BOUNDS, f"it has {len(bounds)} events beside the range, and there are {len(expected)}"
            )
            return True
        for position, (line, written) in zip(expected, bounds, strict=True):
            try:
                bound = Proof.parse(written)
            except ValueError:
                self.proven.add(BOUNDS, "the line is not the proof of an event beside the range", line)
                continue
            digest = merkle.leaf_hash(bound.leaf)
            proof = Proof(bound.position, digest, bound.path)
            self._check_proof(proof, position, digest, line, checkpoint, BOUNDS)
            if problem := problem_of_bound(bound.leaf, position, selection):
                self.ordered.add(BOUNDS, problem, line)
        return True

    def _check_pages(self, manifest: Manifest) -> None:
        """Make again what was made from the events, and compare it."""
        check, verifier, selection = self.pages, self.verifier, manifest.selection
        if manifest.version == 1:
            check.what = "the README and the mapping are those of format 1, whose report is not compared"
        made = {
            README: readme.readme(
                selection,
                manifest.origin,
                is_continuing=manifest.is_continuing,
                version=manifest.version,
            ),
            MAPPING: readme.mapping(),
        }
        can_make_report = manifest.version > 1 and self.events.is_passed and self.checkpointed.is_passed
        if can_make_report:
            made[REPORT] = report.render(self.story, selection, manifest.size, manifest.root, verifier)
        for name, expected in made.items():
            read = self.read_members.get(name)
            if read is None:
                continue
            if (read.sha256, read.size) != (sha256(expected).hexdigest(), len(expected)):
                check.add(name, "it does not match the events and the manifest")
            check.count += 1
        check.is_done = check.count == len(made) and (can_make_report or manifest.version == 1)

    def _check_continued(self, manifest: Manifest, checkpoint: Checkpoint) -> None:
        """Check that the log continues the checkpoints that it has proofs for, and those that were kept."""
        continuity = Continuity(self.continued, checkpoint)
        if manifest.is_continuing:
            continuity.add_lines(self._lines(CONSISTENCY, self.continued))
        continuity.add_proofs(self.proofs)
        continuity.check_states(self.earlier, self.known)
        self.continued.is_done = True

    def _lines(self, member: str, check: Check) -> Iterator[tuple[int, bytes]]:
        if member not in self.archive.names:
            return
        number = 0
        try:
            reader = self.archive.open(member)
            self.read_members[member] = reader
            while (line := reader.line()) is not None:
                number += 1
                yield number, line
        except DamagedMemberError as error:
            check.add(member, str(error), number + 1)


_NOT_A_PROOF = Proof(-1, b"", ())
"""What stands for a line that is none."""


def _proofs(lines: Iterator[tuple[int, bytes]]) -> Iterator[Proof]:
    for _, line in lines:
        try:
            yield Proof.parse(line)
        except ValueError:
            yield _NOT_A_PROOF


def _text_of(note: bytes) -> str:
    text, _, _ = note.decode(errors="replace").rpartition("\n\n")
    return f"{text}\n"


def as_json(report: EvidenceReport) -> dict[str, Any]:
    """Return the result of verifying evidence as a JSON value."""
    manifest = report.manifest
    return {
        "file": str(report.path),
        "format": manifest.version if manifest else None,
        "verified": report.is_verified,
        "key": str(report.key),
        "origin": manifest.origin if manifest else None,
        "selection": str(manifest.selection) if manifest else None,
        "events": manifest.events if manifest else None,
        "checkpoint_size": manifest.size if manifest else None,
        "checks": [
            {
                "what": check.what,
                "state": check.state,
                "checked": check.count,
                "results": list(check.results),
                "problems": [vars(problem) for problem in check.problems],
                "problem_count": check.problem_count,
            }
            for check in report.checks
        ],
        "limits": list(report.limits),
    }
