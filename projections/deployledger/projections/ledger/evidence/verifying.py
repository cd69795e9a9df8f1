"""Verifying evidence, without the database it is from, and without trust in who brings it."""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from deployledger.projections.ledger import merkle
from deployledger.projections.ledger.evidence import archive, cloud_events, manifest
from deployledger.projections.ledger.evidence.archive import (
    Archive,
    DamagedMemberError,
    MemberReader,
    UnreadableEvidenceError,
)
from deployledger.projections.ledger.evidence.cloud_events import Recorded, written
from deployledger.projections.ledger.evidence.manifest import (
    BOUNDS,
    CHECKPOINT,
    EVENTS,
    KEY,
    MANIFEST,
    PROOFS,
    Manifest,
    Selection,
)
from deployledger.projections.ledger.keys import Verifier
from deployledger.projections.ledger.leaf import encode_leaf, read_head
from deployledger.projections.ledger.notes import Checkpoint, NoteError, open_checkpoint
from deployledger.projections.ledger.notes import opened as opened_note

MOST_PROBLEMS = 100
"""How many problems of one check are kept; the others are counted."""

_LARGEST_NOTE = 1 << 20
_NAME_TOPICS = "deployment_name."


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and where.

    Attributes:
        member: the file in the evidence, or an empty string.
        line: which line of it, counted from 1, or None.
        message: what is wrong.
    """

    member: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.member if self.line is None else f"{self.member} line {self.line}"
        return f"{place}: {self.message}" if place else self.message


@dataclass
class Check:
    """One thing that was to be checked.

    Attributes:
        what: what, in a few words.
        count: how many of it were looked at.
        is_done: whether it could be checked to its end.
        problems: what is wrong, the first 100.
        problem_count: how many there are.
    """

    what: str
    count: int = 0
    is_done: bool = False
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0

    @property
    def is_passed(self) -> bool:
        """Whether it was checked, and nothing is wrong."""
        return self.is_done and not self.problem_count

    @property
    def state(self) -> str:
        """``passed``, ``failed`` or ``not checked``."""
        if self.is_passed:
            return "passed"
        return "failed" if self.problem_count else "not checked"

    def add(self, member: str, message: str, line: int | None = None) -> None:
        """Add a problem."""
        self.problem_count += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(member, line, message))


@dataclass(frozen=True)
class EvidenceReport:
    """What came of verifying evidence.

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
        return all(it.is_passed for it in self.checks)

    @property
    def problems(self) -> list[Problem]:
        """Everything that is wrong."""
        return [problem for check in self.checks for problem in check.problems]


_OUTSIDE_OF_RANGE = (
    "It shows nothing outside of the range. Where the range goes on to the checkpoint, that nothing was "
    "recorded between its last event and its end is said by who exported it."
)
_OF_DEPLOYMENT = (
    "The deployment's events have no gap up to the last one shown. That no later one was left out cannot be "
    "seen here: evidence of a range of time, or the whole log, shows that."
)


def limits(selection: Selection | None) -> tuple[str, ...]:
    """Return what evidence does not show, a sentence each."""
    return (
        "It shows nothing that was recorded after the checkpoint.",
        _OUTSIDE_OF_RANGE if selection is None or selection.is_range else _OF_DEPLOYMENT,
        "It shows what was recorded, and that it was not changed since; not that it was true when it was "
        "recorded.",
        "It shows that the owner of the key signed this state of the log; whether it continues what you were "
        "given earlier shows `deployledger audit verify --checkpoint` with the earlier checkpoints.",
        "The report is made from the events by who exported them, and is signed with them; where it matters, "
        "read the events.",
    )


def verify_evidence(
    path: Path, verifier: Verifier, *, most_bytes: int = archive.MOST_BYTES
) -> EvidenceReport:
    """Verify a file of evidence.

    Args:
        path: the ZIP file.
        verifier: the public key of the one whose evidence it is, as you got it from that one.
        most_bytes: how many bytes all files in it may have together.

    Raises:
        UnreadableEvidenceError: if it is no evidence that can be looked at.
    """
    with archive.opened(path, most_bytes) as opened:
        return _Verification(path, opened, verifier).report()


class _Verification:
    """One run through a file of evidence."""

    def __init__(self, path: Path, opened: Archive, verifier: Verifier) -> None:
        self.path = path
        self.archive = opened
        self.verifier = verifier
        self.read_members: dict[str, MemberReader] = {}
        self.archived = Check("the files are those that evidence has, and nothing else")
        self.signed = Check("the manifest is signed")
        self.digests = Check("the files are those of the manifest")
        self.checkpointed = Check("the checkpoint is signed, and of this ledger")
        self.events = Check("the events are what their stored bytes say")
        self.proven = Check("the events are in the tree of the checkpoint")
        self.ordered = Check("the events are in order, and none is missing between them")

    def report(self) -> EvidenceReport:
        """Check everything."""
        said = self._check_manifest()
        checkpoint = self._check_checkpoint(said)
        self._check_members(said)
        if said is not None:
            self._check_events(said, checkpoint)
            self._check_digests(said)
        checks = (
            self.archived,
            self.signed,
            self.digests,
            self.checkpointed,
            self.events,
            self.proven,
            self.ordered,
        )
        selection = said.selection if said else None
        return EvidenceReport(self.path, self.verifier, checks, said, limits(selection))

    def _check_manifest(self) -> Manifest | None:
        check = self.signed
        note = self._note(check, MANIFEST)
        if note is None:
            return None
        try:
            text, _ = opened_note(note, [self.verifier])
            if note.count(b"\n") != text.count("\n") + 2:  # a blank line, and a signature
                check.add(MANIFEST, "it has more in it than a text and one signature")
        except NoteError as error:
            check.add(MANIFEST, str(error))
            text = _text_of(note)  # what is in it tells where else to look
        try:
            said = Manifest.parse(text)
        except manifest.NewerFormatError as error:
            raise UnreadableEvidenceError(
                f"{self.path} is evidence in format {error.version}, and this software knows format "
                f"{manifest.VERSION}.",
                hint="Verify it with a newer version of deployledger.",
            ) from error
        except manifest.MalformedManifestError as error:
            check.add(MANIFEST, str(error))
            return None
        if said.origin != self.verifier.name:
            check.add(MANIFEST, f"it is of {said.origin}, not of {self.verifier.name}")
        check.count, check.is_done = 1, True
        return said

    def _check_checkpoint(self, said: Manifest | None) -> Checkpoint | None:
        check = self.checkpointed
        note = self._note(check, CHECKPOINT)
        if note is None:
            return None
        try:
            checkpoint = open_checkpoint(note, [self.verifier])
        except NoteError as error:
            check.add(CHECKPOINT, str(error))
            return None
        if said is not None and (said.size, said.root) != (checkpoint.size, checkpoint.root):
            check.add(CHECKPOINT, "it is not the checkpoint that the manifest names")
        check.count, check.is_done = 1, said is not None
        return checkpoint

    def _note(self, check: Check, member: str) -> bytes | None:
        try:
            return self.archive.read(member, _LARGEST_NOTE) if member in self.archive.names else None
        except DamagedMemberError as error:
            check.add(member, str(error))
            return None

    def _check_members(self, said: Manifest | None) -> None:
        check = self.archived
        for name, problem in self.archive.problems:
            check.add(_shown(name), problem)
        any_selection = Selection(0, 0)  # that of a range has the most files
        expected = said.selection.members if said else any_selection.members
        for name in self.archive.names:
            if name not in expected:
                check.add(_shown(name), "no such file belongs into evidence")
        for name in expected:
            if name not in self.archive.names:
                check.add(name, "it is missing")
        check.count, check.is_done = len(self.archive.names), said is not None

    def _check_digests(self, said: Manifest) -> None:
        check = self.digests
        expected = [it for it in said.selection.members if it != MANIFEST]
        if [it.name for it in said.members] != expected:
            check.add(MANIFEST, "it does not have the digests of all files that evidence has")
        for member in said.members:
            if member.name not in self.archive.names:
                check.add(member.name, "it is missing")
                continue
            try:
                reader = self._drained(member.name)
            except DamagedMemberError as error:
                check.add(member.name, str(error))
                continue
            if (reader.sha256, reader.size) != (member.sha256, member.size):
                check.add(member.name, "it was changed: it has not the digest that the manifest names")
            check.count += 1
        if KEY in self.archive.names and self._note(check, KEY) != f"{self.verifier}\n".encode():
            check.add(KEY, "it is another key than the one that you gave")
        check.is_done = True

    def _drained(self, name: str) -> MemberReader:
        reader = self.read_members.get(name) or self.archive.open(name)
        reader.drain()
        return reader

    def _check_events(self, said: Manifest, checkpoint: Checkpoint | None) -> None:
        if EVENTS not in self.archive.names:
            return
        order = _Order(said.selection, self.ordered)
        proofs = _proofs(self._lines(PROOFS, self.proven))
        number = 0
        for number, line in self._lines(EVENTS, self.events):
            self.events.count = number
            place = next(proofs, None)
            try:
                event = cloud_events.decode(line, said.origin)
                leaf = encode_leaf(*event)
            except ValueError as error:  # one that is not canonical, or could be no leaf
                self.events.add(EVENTS, str(error), number)
                order.skip()
                continue
            order.add(event, number)
            if contradiction := cloud_events.contradiction(event):
                self.events.add(EVENTS, contradiction, number)
            self._check_proof(place, event.position, merkle.leaf_hash(leaf), number, checkpoint, PROOFS)
        self.events.is_done = EVENTS in self.read_members
        if next(proofs, None) is not None:
            self.proven.add(PROOFS, "there are more proofs than events", number + 1)
        if number != said.events:
            self.events.add(EVENTS, f"it has {number:,} events, and the manifest says {said.events:,}")
        is_bounded = self._check_bounds(said, checkpoint)
        self.proven.is_done = checkpoint is not None and PROOFS in self.read_members and is_bounded
        order.end(said)
        self.ordered.count = number
        self.ordered.is_done = self.events.is_done and is_bounded

    def _check_proof(
        self,
        proof: "_Proof | str | None",
        position: int,
        leaf_hash: bytes,
        line: int,
        checkpoint: Checkpoint | None,
        member: str,
    ) -> None:
        check = self.proven
        if proof is None or isinstance(proof, str):
            check.add(member, proof or f"there is no proof of the event at position {position}", line)
            return
        if proof.position != position:
            check.add(member, f"the proof is of position {proof.position}, and the event at {position}", line)
        elif proof.leaf_hash != leaf_hash:
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

    def _check_bounds(self, said: Manifest, checkpoint: Checkpoint | None) -> bool:
        """Check that nothing is missing at the ends of a range, by the events beside it."""
        selection = said.selection
        if not selection.is_range:
            return True
        if BOUNDS not in self.archive.names or checkpoint is None:
            return False
        expected = [it for it in (selection.first - 1, selection.last + 1) if 1 <= it <= said.size]
        bounds = list(_bounds(self._lines(BOUNDS, self.proven)))
        if len(bounds) != len(expected):
            self.ordered.add(
                BOUNDS, f"it has {len(bounds)} events beside the range, and there are {len(expected)}"
            )
            return True
        for line, (position, bound) in enumerate(zip(expected, bounds, strict=True), start=1):
            if isinstance(bound, str):
                self.proven.add(BOUNDS, bound, line)
                continue
            proof, leaf = bound
            self._check_proof(proof, position, merkle.leaf_hash(leaf), line, checkpoint, BOUNDS)
            if problem := _problem_of_bound(leaf, position, selection):
                self.ordered.add(BOUNDS, problem, line)
        return True

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


@dataclass(frozen=True)
class _Proof:
    position: int
    leaf_hash: bytes
    path: tuple[bytes, ...]


def _proofs(lines: Iterable[tuple[int, bytes]]) -> "Iterator[_Proof | str]":
    for _, line in lines:
        try:
            found = json.loads(line)
            if sorted(found) != ["leaf", "path", "position"] or type(found["position"]) is not int:
                raise ValueError
            yield _Proof(found["position"], _hash(found["leaf"]), tuple(map(_hash, found["path"])))
        except (ValueError, TypeError, RecursionError):
            yield "the line is no proof"


def _bounds(lines: Iterable[tuple[int, bytes]]) -> "Iterator[tuple[_Proof, bytes] | str]":
    for _, line in lines:
        try:
            found = json.loads(line)
            if sorted(found) != ["leaf", "path", "position"] or type(found["position"]) is not int:
                raise ValueError
            leaf = base64.b64decode(found["leaf"], validate=True)
            path = tuple(map(_hash, found["path"]))
            yield _Proof(found["position"], merkle.leaf_hash(leaf), path), leaf
        except (ValueError, TypeError, RecursionError):
            yield "the line is no event beside the range"


def _hash(text: str) -> bytes:
    found = base64.b64decode(text, validate=True)
    if len(found) != merkle.HASH_BYTES:
        raise ValueError
    return found


def _problem_of_bound(leaf: bytes, position: int, selection: Selection) -> str:
    try:
        found, microseconds = read_head(leaf)
        recorded_at = cloud_events.moment(microseconds)
    except (ValueError, OverflowError) as error:
        return str(error)
    if found != position:
        return f"the event beside the range is that at position {found}, not at {position}"
    if _is_in(recorded_at, selection):
        return f"the event at position {position} was recorded in the range, and is not shown"
    return ""


def _is_in(moment: datetime, selection: Selection) -> bool:
    since, until = selection.since, selection.until
    return (since is None or since <= moment) and (until is None or moment < until)


def _text_of(note: bytes) -> str:
    text, _, _ = note.decode(errors="replace").rpartition("\n\n")
    return f"{text}\n"


def _shown(name: str) -> str:
    return name if name.isprintable() and len(name) < 100 else ascii(name[:100])


class _Order:
    """Checks the order of events, one after the other."""

    def __init__(self, selection: Selection, check: Check) -> None:
        self._selection = selection
        self._check = check
        self._first: int | None = None
        self._last = 0
        self._version = 0
        self._recorded_at: int | None = None

    def skip(self) -> None:
        """Leave out an event that cannot be read, which is a problem of its own."""
        self._last += 1
        self._version += 1

    def add(self, event: Recorded, line: int) -> None:
        """Check the next event."""
        selection, add = self._selection, self._check.add
        if self._first is None:
            self._first = event.position
        if event.position <= self._last:
            add(EVENTS, f"position {event.position} comes behind position {self._last}", line)
        elif selection.is_range and self._last and event.position != self._last + 1:
            add(EVENTS, f"between the positions {self._last} and {event.position} events are missing", line)
        self._last = event.position
        if self._recorded_at is not None and event.recorded_at < self._recorded_at:
            add(EVENTS, "it was recorded before the event in front of it", line)
        self._recorded_at = event.recorded_at
        if not selection.is_range:
            self._add_of_deployment(event, line)
        elif not _is_in(event.time, selection):
            add(EVENTS, f"it was recorded at {written(event.time)}, which is outside of the range", line)

    def _add_of_deployment(self, event: Recorded, line: int) -> None:
        deployment_id = self._selection.deployment_id
        if UUID(bytes=event.stream_id) == deployment_id:
            if event.stream_version != self._version + 1:
                self._check.add(
                    EVENTS,
                    f"event {event.stream_version} of the deployment does not follow event {self._version}",
                    line,
                )
            self._version = event.stream_version
            return
        data = event.data
        about = data.get("deployment_id") if isinstance(data, dict) else None
        if not event.topic.startswith(_NAME_TOPICS) or about != str(deployment_id):
            self._check.add(EVENTS, f"it is not about deployment {deployment_id}", line)

    def end(self, said: Manifest) -> None:
        """Check what the manifest says of all of them."""
        selection, add = said.selection, self._check.add
        if self._first is not None:
            if (self._first, self._last) != (selection.first, selection.last):
                add(
                    EVENTS,
                    f"it has the positions {self._first} to {self._last}, and the manifest says "
                    f"{selection.first} to {selection.last}",
                )
        elif not selection.is_range or selection.last != selection.first - 1:
            add(EVENTS, f"it has no events, and the manifest says {selection.first} to {selection.last}")
        if not selection.is_range and not self._version:
            add(EVENTS, "it has no event of the deployment")
        if selection.is_range and said.events != selection.last - selection.first + 1:
            add(
                MANIFEST,
                f"it says {said.events} events at the positions {selection.first} to {selection.last}",
            )
        if selection.last > said.size:
            add(MANIFEST, "it has positions behind the checkpoint")


def as_json(found: EvidenceReport) -> dict[str, Any]:
    """Return what came of verifying evidence as a JSON value."""
    said = found.manifest
    return {
        "file": str(found.path),
        "verified": found.is_verified,
        "key": str(found.key),
        "origin": said.origin if said else None,
        "selection": str(said.selection) if said else None,
        "events": said.events if said else None,
        "checkpoint_size": said.size if said else None,
        "checks": [
            {
                "what": it.what,
                "state": it.state,
                "checked": it.count,
                "problems": [vars(problem) for problem in it.problems],
                "problem_count": it.problem_count,
            }
            for it in found.checks
        ],
        "limits": list(found.limits),
    }
