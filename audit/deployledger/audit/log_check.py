"""Verifies an event log: against its checkpoints, its stored tree, its own order, and the lifecycle."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from deployledger.audit import merkle
from deployledger.audit.idempotency_keys import Commands
from deployledger.audit.keys import Verifier
from deployledger.audit.ledger import Ledger, Tree
from deployledger.audit.ledger_store import TILE_HEIGHT, TILE_WIDTH
from deployledger.audit.lifecycle_table import ILLEGAL, UNKNOWN, lifecycle_table
from deployledger.audit.log_parts import (
    MOST_PROBLEMS,
    CheckedPart,
    CheckParts,
    LogProblem,
    Part,
    check_here,
    check_part,
    follow,
)
from deployledger.audit.merkle import HASH_BYTES
from deployledger.audit.signed_notes import Checkpoint, NoteError, OtherSignerError, open_checkpoint
from deployledger.domain.exceptions import ConfigurationError, EventLogError, LedgerError
from deployledger.domain.findings import Finding
from deployledger.domain.times import WrongTimes
from deployledger.projections.garbage import rare_collections
from deployledger.projections.reports import Progress
from deployledger.projections.workers import check_workers

_LEAST_OF_A_PART = 64 * TILE_WIDTH
_AHEAD = 256 * TILE_WIDTH
"""How many events this process has read when another one has started."""
_STREAMS_AT_ONCE = 500
_BEFORE_ALL = -(1 << 63) - 1


UNREADABLE = "unreadable"
"""The kind of the problem that a checkpoint is none, or that no given one is signed by a given key."""

IN_DATABASE = "database"
"""The kind of the problem that the database is damaged, or may show other events than it has."""

DATABASE = "database"
"""Where a checkpoint is from that was not given."""


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
class LogCheck:
    """What a verification found.

    Attributes:
        after: the position behind which events were read; those before were not looked at.
        size: the position of the last event.
        root: the root of the tree over all events; None if it could not be had.
        streams: how many streams had events among those that were read.
        checkpoints: what came of each checkpoint.
        problems: what is wrong, the first position first.
        seconds: how long it took.
        findings: what checks of the database found; those that are problems are among ``problems``, too.
        undecided_keys: how many idempotency keys cannot be compared with the request of their event, which
            may have had credentials.
        wrong_times: events whose recorded times are wrong, because the clock was.
    """

    after: int
    size: int
    root: bytes | None
    streams: int
    checkpoints: tuple[CheckpointResult, ...]
    problems: tuple[LogProblem, ...]
    seconds: float
    findings: tuple[Finding, ...] = ()
    undecided_keys: int = 0
    wrong_times: tuple[WrongTimes, ...] = ()

    @property
    def covered(self) -> int:
        """Up to which position checkpoints that were kept outside the database prove the log."""
        return max((it.size for it in self.checkpoints if it.holds and it.is_from_outside), default=0)

    @property
    def covered_by_database(self) -> int:
        """Up to which position any checkpoints prove it, also those that could be removed with the events."""
        return max((it.size for it in self.checkpoints if it.holds), default=0)

    @property
    def is_verified(self) -> bool:
        """Whether nothing is wrong, and at least one checkpoint proves it."""
        return not self.problems and self.covered_by_database > 0

    @property
    def is_in_order(self) -> bool:
        """Whether the events fit each other and the lifecycle, whatever is said of checkpoints."""
        return not {it.kind for it in self.problems} & {
            "missing",
            "order",
            "version",
            "illegal",
            "unknown",
            "undecodable",
            "damaged",
        }

    @property
    def is_contradicted(self) -> bool:
        """Whether a checkpoint proves what another one denies: the two are not of one log."""
        denied = [it.size for it in self.checkpoints if it.origin and it.error]
        return bool(denied) and max(denied) <= self.covered_by_database

    @property
    def limits(self) -> tuple[str, ...]:
        """What this does not show, in sentences."""
        found: list[str] = []
        if self.after:
            found.append(
                f"Events 1 to {self.after:,} were not read again, and are assumed to have been verified "
                "before. Idempotency keys and the pages of SQLite files were not checked."
            )
        signed = max((it.size for it in self.checkpoints if it.origin), default=0)
        if self.size > signed:
            found.append(
                f"Edits of events {signed + 1:,} to {self.size:,} cannot be detected: "
                "no checkpoint covers them."
            )
        for where, is_outside in (("in the database", False), ("that were given and", True)):
            others = sum(it.is_of_another_key and it.is_from_outside is is_outside for it in self.checkpoints)
            if others:
                found.append(
                    f"Checkpoints {where} that none of the given keys signed say nothing: {others:,}."
                )
        if self.covered_by_database > self.covered:
            found.append(
                f"Events {self.covered + 1:,} to {self.covered_by_database:,} are covered by checkpoints in "
                "the database alone: who can remove those together with the events is not found out. "
                "Give checkpoints that were kept elsewhere."
            )
        if self.undecided_keys:
            found.append(
                f"The fingerprints of {self.undecided_keys:,} idempotency keys cannot be recomputed from "
                "their events: the requests may have had credentials, which are not recorded."
            )
        found += map(str, self.wrong_times)
        found.append("The record cannot show that what was recorded is true.")
        return tuple(found)


def verify(
    ledger: Ledger,
    verifiers: Sequence[Verifier],
    checkpoints: Sequence[tuple[str, str | bytes]] = (),
    *,
    since: str | bytes | None = None,
    workers: int = 1,
    beside: Sequence[Finding] = (),
    check: CheckParts = check_here,
    progress: Progress = lambda done, total: None,
) -> LogCheck:
    """Verify a log; see `Ledger.verify`."""
    check_workers(workers)
    started = time.monotonic()
    # In this order: what is added meanwhile is behind all that is looked at.
    notes = [*checkpoints, *((DATABASE, it.note) for it in ledger.checkpoints())]
    stored = ledger.store.size()
    end = ledger.log.position()
    if notes and not verifiers:
        raise ConfigurationError(
            "Checkpoints were given, but no public key to verify their signatures.",
            hint="Name it: --key FILE.pub, or DEPLOYLEDGER_AUDIT_KEY.",
        )
    signed = [it for source, note in notes for it in _Signed.opened(source, note, verifiers)]
    start = _start(ledger, open_checkpoint(since, verifiers) if since is not None else None, end)
    sizes = sorted({it.size for it in signed if start.size <= it.size <= end} | {end})
    sizes = [size for size in sizes if size]
    done = 0

    def tell(events: int) -> None:
        nonlocal done
        done += events
        progress(min(done, end - start.size), end - start.size)

    progress(0, end - start.size)
    is_whole = not start.size
    findings = [*ledger.log.findings(whole=is_whole), *ledger.store.findings(whole=is_whole), *beside]
    with rare_collections:
        checked: list[CheckedPart] = []
        after = start.size
        if start.behind:  # first the rest of a tile: what others do are whole ones
            after = min(end, start.size + TILE_WIDTH - len(start.behind))
            rest = Part(start.size, after, tuple(it for it in sizes if it <= after))
            checked += [check_part(ledger.log, ledger.store, rest, tell, start.behind)]
        if after < end or not checked:
            checked += check(ledger.log, ledger.store, _parts(after, end, sizes, workers), tell)
        problems = [*_outside(ledger), *_missing(checked), *(it for part in checked for it in part.problems)]
        problems += _across(ledger, checked, start.size, end)
    progress(end - start.size, end - start.size)
    roots = _roots(start, checked, sizes)
    results = [_result(ledger, it, roots, start, end) for it in signed]
    changed = next((it.changed for it in checked if it.changed is not None), None)
    is_missing = any(first <= (changed or 0) <= last for it in checked for first, last in it.missing)
    problems += _disagreements(ledger, signed, results, changed, is_missing, end)
    if stored > end:
        message = f"The log ends at position {end}, and its ledger at {stored}: it was truncated at the end."
        problems.append(LogProblem(end + 1, "truncated", message))
    elif changed is None and not any(it.missing for it in checked):
        problems += _lacking(ledger, checked, start, stored)
    commands = Commands(ledger.log, end) if is_whole else None
    problems += commands.problems if commands is not None else []
    problems += [LogProblem(None, IN_DATABASE, it.message) for it in findings if it.is_problem]
    problems.sort(key=lambda it: (it.position is None, it.position))
    streams = {stream for part in checked for stream in (*part.begun, *part.continued)}
    return LogCheck(
        after=start.size,
        size=end,
        root=roots.get(end, merkle.EMPTY_ROOT if not end else None),
        streams=len(streams),
        checkpoints=tuple(results),
        problems=tuple(problems[:MOST_PROBLEMS]),
        seconds=time.monotonic() - started,
        findings=tuple(findings),
        undecided_keys=commands.undecided if commands is not None else 0,
        wrong_times=_wrong_times(ledger),
    )


def _wrong_times(ledger: Ledger) -> tuple[WrongTimes, ...]:
    """Return the events whose recorded times are wrong; that one is damaged is reported already."""
    try:
        return ledger.log.times().wrong
    except EventLogError:
        return ()


# Where to begin, and in which parts --------------------------------------------------------------------


@dataclass(frozen=True)
class _Start:
    """The tree that reading begins with.

    Attributes:
        size: how many leaves it has.
        complete: height and root of its complete subtrees up to its last whole tile, the largest first.
        behind: the hashes of the leaves behind that tile.
        root: its root.
    """

    size: int = 0
    complete: tuple[tuple[int, bytes], ...] = ()
    behind: tuple[bytes, ...] = ()
    root: bytes = merkle.EMPTY_ROOT


def _start(ledger: Ledger, since: Checkpoint | None, end: int) -> _Start:
    """Return the tree of a checkpoint, from what is stored: it counts because it leads to that root."""
    if since is None or since.size == 0:
        return _Start()
    if since.size > end:
        raise LedgerError(_too_new(since.size, end))
    tree = Tree(ledger.store)
    if since.size > ledger.store.size() or tree.root(since.size) != since.root:
        raise LedgerError(
            f"The stored tree does not lead to the checkpoint of {since.size:,} events: it, or the log, "
            "was changed, or is another one.",
            hint="Verify the whole log: leave out --since.",
        )
    complete: list[tuple[int, bytes]] = []
    reached, whole = 0, since.size - since.size % TILE_WIDTH
    while reached < whole:
        height = (whole - reached).bit_length() - 1
        complete.append((height, tree.hash_of(reached, reached + (1 << height))))
        reached += 1 << height
    behind = tuple(tree.hash_of(it, it + 1) for it in range(whole, since.size))
    return _Start(since.size, tuple(complete), behind, since.root)


def _parts(after: int, end: int, sizes: Sequence[int], workers: int) -> list[Part]:
    """Return the positions in parts of whole tiles; the first one is larger, for whoever begins at once."""
    ahead = _AHEAD if workers > 1 else 0
    tiles = -(-max(_LEAST_OF_A_PART, -(-(end - after - ahead) // workers)) // TILE_WIDTH)
    width = tiles * TILE_WIDTH
    parts: list[Part] = []
    while after < end or not parts:
        until = min(after + width + (0 if parts else ahead), end)
        parts.append(Part(after, until, tuple(it for it in sizes if after < it <= until)))
        after = until
    return parts


# What the parts show together ----------------------------------------------------------------------------


def _outside(ledger: Ledger) -> list[LogProblem]:
    """Return events that are not among those with positions, where readers do not see them."""
    return [
        LogProblem(record.position, "order", f"An event has position {record.position}; the first one is 1.")
        for page in ledger.log.records(after=_BEFORE_ALL, until=0)
        for record in page
    ]


def _missing(parts: Sequence[CheckedPart]) -> list[LogProblem]:
    """Return which events are not there."""
    ranges: list[tuple[int, int]] = []
    for first, last in (it for part in parts for it in part.missing):
        if ranges and ranges[-1][1] + 1 == first:
            ranges[-1] = (ranges[-1][0], last)
        else:
            ranges.append((first, last))
    return [
        LogProblem(
            first,
            "missing",
            f"Event {first} is missing." if first == last else f"Events {first} to {last} are missing.",
        )
        for first, last in ranges
    ]


def _lacking(ledger: Ledger, parts: Sequence[CheckedPart], start: _Start, stored: int) -> list[LogProblem]:
    """Return what the stored tree lacks, or has otherwise above its leaves, though the log may be right."""
    lacking = next((part.lacking for part in parts if part.lacking is not None), None)
    if lacking is not None:
        return [LogProblem(lacking, "tree", f"The stored tree lacks the leaf of event {lacking}: {_TREE}.")]
    if start.size:  # its upper levels led to the checkpoint
        return []
    hashes = [root for part in parts for root in part.roots][: stored // TILE_WIDTH]
    level = 1
    while hashes:
        tiles = [hashes[it : it + TILE_WIDTH] for it in range(0, len(hashes), TILE_WIDTH)]
        for number, tile in enumerate(tiles):
            found = ledger.store.tiles(level, number, number).get(number, b"")
            if not found.startswith(b"".join(tile)):
                message = f"The stored tree is not that of the log in level {level}, tile {number}: {_TREE}."
                return [LogProblem(None, "tree", message)]
        hashes = [merkle.root_of(tile) for tile in tiles if len(tile) == TILE_WIDTH]
        level += 1
    return []


_TREE = "it was changed"


def _across(ledger: Ledger, parts: Sequence[CheckedPart], after: int, end: int) -> list[LogProblem]:
    """Follow the streams from one part to the next, and return what is wrong there."""
    found = CheckedPart()
    standings: dict[bytes, tuple[int, int]] = {}
    last_time: int | None = None
    position = after
    for part in parts:
        falls = last_time is not None and part.first_time is not None and part.first_time < last_time
        if falls and not part.corrects_clock:
            found.problems.append(
                LogProblem(
                    position + 1,
                    "order",
                    f"Event {position + 1} was recorded before the one in front of it.",
                )
            )
        last_time = part.last_time if part.last_time is not None else last_time
        if after:
            earlier = {*part.continued, *part.begun} - standings.keys()
            standings.update(_before(ledger, sorted(earlier), after))
        for stream, events in part.continued.items():
            standing = standings.get(stream, (0, UNKNOWN))
            for event in events:
                standing = (
                    max(event[1], standing[0]),
                    follow(found, stream, standing, event, part.foreign_topics.get(event[0], "")),
                )
            standings[stream] = standing
        for stream in part.begun.keys() & standings.keys():
            again = ledger.log.read_streams([UUID(bytes=stream)], until=end)
            begins = [it.position for it in again if it.stream_version == 1][1:]
            message = f"Stream {UUID(bytes=stream)} begins more than once."
            found.problems.append(LogProblem(next(iter(begins), None), "version", message))
        if part is not parts[-1]:
            standings.update(part.begun)
        position = (position // TILE_WIDTH + len(part.roots)) * TILE_WIDTH
    return found.problems


def _before(ledger: Ledger, streams: Sequence[bytes], until: int) -> dict[bytes, tuple[int, int]]:
    """Return the standings of streams at a position up to which their events were verified before."""
    table = lifecycle_table()
    standings: dict[bytes, tuple[int, int]] = {}
    for begin in range(0, len(streams), _STREAMS_AT_ONCE):
        ids = [UUID(bytes=it) for it in streams[begin : begin + _STREAMS_AT_ONCE]]
        for raw in ledger.log.read_streams(ids, until=until):
            stream = UUID(raw.stream_id).bytes
            try:
                symbol = table.symbol(raw.topic, raw.state)
            except ValueError:
                symbol = UNKNOWN
            standing = standings.get(stream)
            if symbol < 0 or (standing is not None and standing[1] < 0):
                after = UNKNOWN
            else:
                after = table.begin[symbol] if standing is None else table.next[standing[1]][symbol]
            standings[stream] = (raw.stream_version, UNKNOWN if after == ILLEGAL else after)
    return standings


def _roots(start: _Start, parts: Sequence[CheckedPart], sizes: Sequence[int]) -> dict[int, bytes]:
    """Return the root of the tree at each of the sizes."""
    peaks = merkle.Peaks()
    for height, root in start.complete:
        peaks.add(root, height)
    behind = {size: hashes for part in parts for size, hashes in part.behind.items()}
    tiles = [root for part in parts for root in part.roots]
    found = {start.size: start.root}
    wanted = iter(sorted(set(sizes) & behind.keys()))
    size = next(wanted, None)
    for tile in [*tiles, b""]:
        while size is not None and size <= peaks.size + TILE_WIDTH:
            hashes = behind[size]
            found[size] = peaks.root(
                [hashes[it : it + HASH_BYTES] for it in range(0, len(hashes), HASH_BYTES)]
            )
            size = next(wanted, None)
        if tile:
            peaks.add(tile, TILE_HEIGHT)
    return found


# Checkpoints ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Signed:
    """A checkpoint, or why it is none."""

    source: str
    checkpoint: Checkpoint | None
    error: str = ""
    is_of_another_key: bool = False
    named_by: str = ""

    @classmethod
    def opened(cls, source: str, note: str | bytes, verifiers: Sequence[Verifier]) -> "list[_Signed]":
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
        return self.checkpoint.size if self.checkpoint else -1


def _result(
    ledger: Ledger, signed: _Signed, roots: dict[int, bytes], start: _Start, end: int
) -> CheckpointResult:
    checkpoint = signed.checkpoint
    if checkpoint is None:
        return CheckpointResult(signed.source, "", 0, signed.error, signed.is_of_another_key)
    if checkpoint.size > end:
        error = _too_new(checkpoint.size, end)
    elif checkpoint.size < start.size:
        error = "" if _is_before(ledger, checkpoint, start) else "It does not fit the checkpoint --since."
    else:
        fits = checkpoint.size == 0 or roots.get(checkpoint.size) == checkpoint.root
        error = "" if fits else f"The first {checkpoint.size:,} events differ from those that it signed."
    return CheckpointResult(
        signed.source, checkpoint.origin, checkpoint.size, error, named_by=signed.named_by
    )


def _too_new(size: int, end: int) -> str:
    return f"It covers {size:,} events, and the log has {end:,}: the log was truncated, or is another one."


def _is_before(ledger: Ledger, checkpoint: Checkpoint, start: _Start) -> bool:
    if checkpoint.size == 0:
        return True
    proof = merkle.consistency_proof(checkpoint.size, start.size, Tree(ledger.store).hash_of)
    return merkle.is_consistent(checkpoint.size, checkpoint.root, start.size, start.root, proof)


def _disagreements(
    ledger: Ledger,
    signed: Sequence[_Signed],
    results: Sequence[CheckpointResult],
    changed: int | None,
    is_missing: bool,
    end: int,
) -> list[LogProblem]:
    """Return where log, stored tree and checkpoints do not agree, and which of them is wrong.

    Args:
        changed: the first event that is not the one in the stored tree.
        is_missing: whether that is because it is missing, which is told already.
    """
    problems: list[LogProblem] = []
    outside = [it for it in results if it.is_from_outside]
    are_all_of_others = all(it.is_of_another_key for it in outside)
    covered = max((it.size for it in results if it.holds), default=0)
    failing = [it for it, result in zip(signed, results, strict=True) if it.checkpoint and result.error]
    for it, result in zip(signed, results, strict=True):
        if result.is_of_another_key and not (result.is_from_outside and are_all_of_others):
            continue  # anybody can put one into the database, and a folder has those of earlier keys
        if result.error:
            position = end + 1 if it.size > end else None
            kind = UNREADABLE if not it.checkpoint else "checkpoint" if it.size <= end else "truncated"
            where = "in the database" if it.source == DATABASE else it.source
            if result.named_by:
                where += f", named by a checkpoint of {result.named_by}"
            told = f"of {it.size:,} events ({result.origin}; {where}) does not hold"
            said = told if it.checkpoint else f"{where} proves nothing"
            problems.append(LogProblem(position, kind, f"The checkpoint {said}: {result.error}"))
    broken = sorted((it for it in failing if it.size <= end), key=lambda it: it.size)
    if broken and broken[0].checkpoint is not None:
        first = broken[0].checkpoint
        if changed is not None and changed <= first.size and _leads_to(ledger, first):
            if not is_missing:
                message = f"Event {changed} is not the one that was signed: {_CHANGED}."
                problems.append(LogProblem(changed, "changed", message))
            changed = None
        elif changed is None or changed > first.size:
            lower = max((it.size for it in results if it.holds and it.size < first.size), default=0)
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


_CHANGED = "its state, topic, place or metadata was changed"


def _leads_to(ledger: Ledger, checkpoint: Checkpoint) -> bool:
    """Return whether the stored tree has the root that a checkpoint signed: then it has the true leaves."""
    try:
        return (
            ledger.store.size() >= checkpoint.size
            and Tree(ledger.store).root(checkpoint.size) == checkpoint.root
        )
    except LedgerError:
        return False
