"""Exports evidence from a log: events, proofs, and a readable report."""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from uuid import UUID

from deployledger.audit import merkle
from deployledger.audit.evidence import cloud_events, readme, report
from deployledger.audit.evidence.archive import MOST_BYTES, is_dense, member_info
from deployledger.audit.evidence.cloud_events import Recorded
from deployledger.audit.evidence.kept_checkpoints import EarlierState
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
    EvidenceSelection,
    Manifest,
    Member,
    files,
)
from deployledger.audit.evidence.name_events import Naming
from deployledger.audit.evidence.ordering import is_in
from deployledger.audit.evidence.proof_lines import Proof, consistency_line
from deployledger.audit.evidence.story import Story
from deployledger.audit.keys import Signer
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.ledger import Ledger
from deployledger.audit.ledger_store import StoredCheckpoint
from deployledger.audit.proofs import ConsistencyProof
from deployledger.audit.signed_notes import sign
from deployledger.domain import topics
from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import undamaged
from deployledger.domain.exceptions import (
    VERIFY_HINT,
    ConfigurationError,
    ConflictError,
    LedgerError,
    ResourceNotFoundError,
)
from deployledger.domain.logs import logger
from deployledger.domain.moments import check_time
from deployledger.domain.reservations import reservation_id
from deployledger.domain.times import CLOCK_STREAM, LogTimes
from deployledger.domain.timestamps import EPOCH, MICROSECOND, from_microseconds, rfc3339
from deployledger.projections.partitioning import Progress

MOST_EVENTS = 250_000
"""How many events evidence can have."""

_CLOCK_LOGGER = logger("clock")
_TOLD_EVERY = 500


@dataclass(frozen=True)
class ExportedEvidence:
    """Evidence that was written.

    Attributes:
        path: the file.
        selection: which events.
        events: how many.
        size_bytes: how large the file is.
        checkpoint: the checkpoint that it is of.
    """

    path: Path
    selection: EvidenceSelection
    events: int
    size_bytes: int
    checkpoint: StoredCheckpoint


def export_evidence(
    log: EventLog,
    ledger: Ledger,
    signer: Signer | None,
    path: Path,
    *,
    deployment_id: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    continues: Sequence[EarlierState] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> ExportedEvidence:
    """Write evidence of a deployment, or of all events in a range of time, as a ZIP file.

    A checkpoint of the log as it is now is signed, and kept and published as others are. The file appears
    once it is complete.

    Args:
        signer: the private key; None means that of the ledger.
        deployment_id: the deployment.
        since: the begin of the range (recorded time); without it, the beginning of the log.
        until: the end of the range, which is not in it; without it, the checkpoint.
        continues: earlier checkpoints, for each of which it has the proof that the log continues it.
        force: replace an existing file.

    Raises:
        ConfigurationError: if the selection is none, is too large, or the file cannot be written.
        ConflictError: if the file exists, and is not to be replaced.
        ResourceNotFoundError: if there is no such deployment.
        LedgerError: if the log is not the one that the ledger is of, or does not continue a checkpoint.
    """
    _check(deployment_id, since, until)
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder.", hint="Name a file in it.")
    if path.exists() and not force:
        raise ConflictError(f"{path} already exists.", hint="Choose another path, or add --force.")
    signer = signer or ledger.signer
    if until is not None:
        log.position_at(until)  # which waits: what is recorded before the end is in the checkpoint
    checkpoint = ledger.checkpoint(signer)
    assert signer is not None  # noqa: S101  # the checkpoint was signed
    if not checkpoint.size:
        raise ConfigurationError("The event log is empty: there is nothing to export.")
    chosen = (
        _of_deployment(log, deployment_id, checkpoint.size)
        if deployment_id is not None
        else _of_range(log, since, until, checkpoint.size)
    )
    if chosen.count > MOST_EVENTS:
        raise ConfigurationError(
            f"These are {chosen.count:,} events, and evidence has {MOST_EVENTS:,} at most.",
            hint="Export several shorter ranges.",
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        consistency = _consistency(ledger, checkpoint, continues)
        _write(partial, chosen, log, ledger, signer, checkpoint, consistency, progress)
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"The evidence {path} cannot be written: {error.strerror}.",
            hint="Choose a file in an existing folder that you may write to.",
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return ExportedEvidence(path, chosen.selection, chosen.count, path.stat().st_size, checkpoint)


# Which events -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chosen:
    """The events that were chosen; reading them again gives the same ones."""

    selection: EvidenceSelection
    count: int
    events: Callable[[], Iterable[Recorded]]


def _check(deployment_id: UUID | None, since: datetime | None, until: datetime | None) -> None:
    is_range = since is not None or until is not None
    if is_range == (deployment_id is not None):
        raise ConfigurationError(
            "Evidence is of a deployment or of a range of time, not of both."
            if is_range
            else "Neither a deployment nor a range of time was given.",
            hint="Name a deployment, or give the start and the end of a range.",
        )
    if since is not None:
        since = check_time(since)
    if until is not None:
        until = check_time(until)
        if until > datetime.now(UTC):
            raise ConfigurationError(
                f"The end of the range, {rfc3339(until)}, lies in the future.",
                hint="Leave it out for everything up to now.",
            )
        if since is not None and since >= until:
            raise ConfigurationError(
                f"The range ends at {rfc3339(until)}, which is not after its start, {rfc3339(since)}."
            )


def _of_deployment(log: EventLog, deployment_id: UUID, size: int) -> _Chosen:
    events = _of_stream(log, deployment_id, size)
    if not events or not topics.is_of_deployment(events[0].topic):
        raise ResourceNotFoundError("Deployment", deployment_id)
    naming = Naming(deployment_id)
    for event in events:
        naming.add(event)
    for name in naming.names:
        events += [
            event for event in _of_stream(log, reservation_id(name), size) if naming.add_of_name(event)
        ]
    # What says that recorded times are wrong: without it, they would fall for no reason.
    events += [event for event in _of_stream(log, CLOCK_STREAM, size) if event.position > events[0].position]
    if problem := next(naming.problems(), None):
        raise LedgerError(
            f"Cannot export evidence of deployment {deployment_id} alone: {problem} in the log.",
            hint="Export a range of time instead: it has every event, whatever it is about.",
        )
    events.sort()
    selection = EvidenceSelection(events[0].position, events[-1].position, deployment_id, naming.name)
    return _Chosen(selection, len(events), lambda: events)


def _of_stream(log: EventLog, stream_id: UUID, size: int) -> list[Recorded]:
    """Return the events of a stream up to a position.

    Raises:
        LedgerError: if one in front of another is missing, or is not where it was.
    """
    pages = log.records(streams=[stream_id], until=size, metadata=True)
    events = [Recorded(*record) for page in undamaged(pages) for record in page]
    before = 0
    for version, event in enumerate(events, start=1):
        if event.stream_version != version:
            for _ in _in_range(log, before, event.position):
                pass  # this finds which position is missing
            raise LedgerError(
                f"Event {event.position} has version {event.stream_version} of stream {stream_id}, and not "
                f"{version}, which follows.",
                hint=VERIFY_HINT,
            )
        before = event.position
    return events


def _event_at(log: EventLog, position: int) -> Recorded:
    for page in undamaged(log.records(after=position - 1, until=position, metadata=True)):
        return Recorded(*page[0])
    raise LedgerError(f"Event {position} is missing in the log.", hint=VERIFY_HINT)


def _of_range(log: EventLog, since: datetime | None, until: datetime | None, size: int) -> _Chosen:
    after = _position_before(log, since, size) if since is not None else 0
    last = _position_before(log, until, size) if until is not None else size
    selection = EvidenceSelection(after + 1, last, since=since, until=until)
    times = log.times()
    _check_times(log, times, selection)
    for end in (since, until):
        unclear = times.unclear(end - MICROSECOND) if end is not None and end > EPOCH else None
        if unclear is not None:
            included = (
                "includes" if selection.first <= unclear.first <= selection.last else "does not include"
            )
            _CLOCK_LOGGER.warning("%s. The evidence %s them.", unclear, included)
    return _Chosen(selection, last - after, lambda: _in_range(log, after, last))


def _check_times(log: EventLog, times: LogTimes, selection: EvidenceSelection) -> None:
    """Check that recorded times show what is in a range: they cannot where the clock was wrong.

    Raises:
        ConfigurationError: if one of the events in it, or beside it, was recorded at a wrong time that says
            otherwise.
    """
    for wrong in times.wrong:
        first, last = max(wrong.first, selection.first - 1), min(wrong.last, selection.last + 1)
        records = log.records(after=first - 1, until=last, metadata=True) if first <= last else ()
        for page in undamaged(records):
            for record in page:
                is_shown = selection.first <= record.position <= selection.last
                if is_in(from_microseconds(record.recorded_at), selection) is not is_shown:
                    raise ConfigurationError(
                        "Cannot export evidence of this range: the clock was wrong at its start, at its "
                        f"end or within it. {wrong}",
                        hint="Export the deployments one by one, or everything from the first event on: "
                        "--since "
                        "1970-01-01T00:00Z without --until.",
                    )


def _position_before(log: EventLog, moment: datetime, size: int) -> int:
    """Return the position of the last event that was recorded before a moment."""
    moment = check_time(moment)
    if moment == datetime.min.replace(tzinfo=UTC):
        return 0
    return min(size, log.position_at(moment - MICROSECOND))


def _in_range(log: EventLog, after: int, last: int) -> Iterator[Recorded]:
    position = after
    for page in undamaged(log.records(after=after, until=last, metadata=True)):
        for record in page:
            if record.position != position + 1:
                raise LedgerError(f"Event {position + 1} is missing in the log.", hint=VERIFY_HINT)
            position += 1
            yield Recorded(*record)
    if position != last:
        raise LedgerError(f"Event {position + 1} is missing in the log.", hint=VERIFY_HINT)


def _consistency(
    ledger: Ledger, checkpoint: StoredCheckpoint, continues: Sequence[EarlierState]
) -> list[ConsistencyProof]:
    """Return the proofs that the log continues earlier checkpoints, the smallest first."""
    proofs: dict[int, ConsistencyProof] = {}
    for state in continues:
        if state.size > checkpoint.size or ledger.root(state.size) != state.root:
            raise LedgerError(
                f"The log does not continue the checkpoint {state.source}: its first {state.size:,} events "
                "differ from those that it signed.",
                hint=f"The checkpoint may belong to another log. {VERIFY_HINT}",
            )
        if state.size:  # everything continues nothing
            proofs[state.size] = ledger.prove_consistency(state.size, checkpoint.size)
    return [proofs[size] for size in sorted(proofs)]


# Writing ------------------------------------------------------------------------------------------------


def _private(path: str, flags: int) -> int:
    """Open a file which, if it is new, only its owner can read: it has what events say."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _write(
    path: Path,
    chosen: _Chosen,
    log: EventLog,
    ledger: Ledger,
    signer: Signer,
    checkpoint: StoredCheckpoint,
    consistency: Sequence[ConsistencyProof],
    progress: Progress | None,
) -> None:
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        with open(path, "wb", opener=_private) as raw:
            with zipfile.ZipFile(raw, "w", compression) as file:
                writing = _Writing(file, chosen, log, ledger, signer, checkpoint, consistency, progress)
                writing.write()
            raw.flush()
            os.fsync(raw.fileno())
        if not any(is_dense(info.file_size, info.compress_size) for info in file.infolist()):
            return  # else it would look like a bomb, and is written as it is


@dataclass
class _Writing:
    """One run through the events that are written."""

    file: zipfile.ZipFile
    chosen: _Chosen
    log: EventLog
    ledger: Ledger
    signer: Signer
    checkpoint: StoredCheckpoint
    consistency: Sequence[ConsistencyProof]
    progress: Progress | None

    def __post_init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._size = 0
        self._story = Story()
        self._leaves: list[tuple[int, bytes]] = []
        self._path_of = self.ledger.paths(self.checkpoint.size)

    def write(self) -> None:
        """Write all files; the one that has the digests of the others is the last."""
        selection, verifier = self.chosen.selection, self.signer.verifier
        self._add(EVENTS, self._events())
        self._add(PROOFS, self._proofs())
        if selection.is_range:
            self._add(BOUNDS, self._bounds())
        is_continuing = bool(self.consistency)
        if is_continuing:
            self._add(CONSISTENCY, [consistency_line(proof) + b"\n" for proof in self.consistency])
        self._add(CHECKPOINT, [self.checkpoint.note.encode()])
        self._add(KEY, [f"{verifier}\n".encode()])
        size, root = self.checkpoint.size, self.checkpoint.root
        self._add(REPORT, [report.render(self._story, selection, size, root, verifier)])
        self._add(README, [readme.readme(selection, verifier.name, is_continuing=is_continuing)])
        self._add(MAPPING, [readme.mapping()])
        manifest = Manifest(
            verifier.name,
            self.checkpoint.size,
            self.checkpoint.root,
            selection,
            len(self._leaves),
            tuple(
                self._members[name]
                for name in files(selection, is_continuing=is_continuing)
                if name != MANIFEST
            ),
        )
        self._add(MANIFEST, [sign(str(manifest), self.signer).encode()])

    def _add(self, name: str, pieces: Iterable[bytes]) -> None:
        digest, size = sha256(), 0
        with self.file.open(member_info(name, self.file.compression), "w") as member:
            for piece in pieces:
                member.write(piece)
                digest.update(piece)
                size += len(piece)
                self._size += len(piece)
                if self._size > MOST_BYTES:
                    raise ConfigurationError(
                        f"The evidence would have more than {MOST_BYTES:,} bytes.",
                        hint="Export several shorter ranges.",
                    )
        self._members[name] = Member(digest.hexdigest(), size, name)

    def _events(self) -> Iterator[bytes]:
        for event in self.chosen.events():
            try:
                line = cloud_events.encode(event, self.signer.name)
                leaf = encode_leaf(*event)
            except (ValueError, OverflowError) as error:
                raise LedgerError(f"Event {event.position} of the log is damaged: {error}.") from error
            self._leaves.append((event.position, merkle.leaf_hash(leaf)))
            self._story.add(event)
            self._tell(len(self._leaves))
            yield line + b"\n"

    def _proofs(self) -> Iterator[bytes]:
        for number, (position, leaf) in enumerate(self._leaves, start=1):
            yield bytes(Proof(position, leaf, self._path(position, leaf))) + b"\n"
            self._tell(len(self._leaves) + number)

    def _bounds(self) -> Iterator[bytes]:
        for position in self.chosen.selection.beside(self.checkpoint.size):
            leaf = encode_leaf(*_event_at(self.log, position))
            path = self._path(position, merkle.leaf_hash(leaf))
            yield bytes(Proof(position, leaf, path)) + b"\n"

    def _path(self, position: int, leaf: bytes) -> tuple[bytes, ...]:
        path = self._path_of(position)
        if merkle.root_from_inclusion(position - 1, self.checkpoint.size, leaf, path) != self.checkpoint.root:
            raise LedgerError(
                f"Event {position} of the log is not the one that the ledger has there: it was changed.",
                hint=VERIFY_HINT,
            )
        return tuple(path)

    def _tell(self, done: int) -> None:
        """Tell how far it is; of each event there are the event and its proof to be written."""
        if self.progress is not None and done % _TOLD_EVERY == 0:
            self.progress(done // 2, self.chosen.count)
