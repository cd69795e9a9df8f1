"""Checks an event log: against its checkpoints, its stored tree, its own order, and the lifecycle."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from deployledger.audit import merkle
from deployledger.audit.checkpoint_checks import (
    DATABASE,
    CheckpointResult,
    SignedCheckpoint,
    disagreements,
    result,
    too_new,
)
from deployledger.audit.checkpoints import Checkpoint, open_checkpoint
from deployledger.audit.idempotency_keys import KeyCheck
from deployledger.audit.joined_parts import Start, across, lacking, missing, roots_at
from deployledger.audit.keys import Verifier
from deployledger.audit.ledger_store import TILE_WIDTH, LedgerStore
from deployledger.audit.log_parts import (
    MOST_PROBLEMS,
    CheckedPart,
    CheckParts,
    LogProblem,
    Part,
    check_here,
    check_part,
)
from deployledger.audit.tiles import Tree
from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import undamaged
from deployledger.domain.exceptions import ConfigurationError, EventLogError, LedgerError
from deployledger.domain.findings import Finding
from deployledger.domain.times import WrongTimes
from deployledger.projections.partitioning import Progress, check_workers

_LEAST_OF_A_PART = 64 * TILE_WIDTH
_AHEAD = 256 * TILE_WIDTH
"""How many events this process has read when another one has started."""
_BEFORE_ALL = -(1 << 63) - 1

IN_DATABASE = "database"
"""The kind of the problem that the database is damaged, or may show other events than it has."""


@dataclass(frozen=True)
class LogCheck:
    """The result of verifying a log.

    Attributes:
        after: the position after which events were read; earlier ones were not checked.
        size: the position of the last event.
        root: the root of the tree over all events; None if it could not be computed.
        streams: how many streams had events among those that were read.
        checkpoints: the result for each checkpoint.
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
        return max(
            (
                checkpoint.size
                for checkpoint in self.checkpoints
                if checkpoint.holds and checkpoint.is_from_outside
            ),
            default=0,
        )

    @property
    def covered_by_database(self) -> int:
        """Up to which position any checkpoints prove it, also those that could be removed with the events."""
        return max((checkpoint.size for checkpoint in self.checkpoints if checkpoint.holds), default=0)

    @property
    def is_verified(self) -> bool:
        """Whether nothing is wrong, and at least one checkpoint proves it."""
        return not self.problems and self.covered_by_database > 0

    @property
    def is_in_order(self) -> bool:
        """Whether the events fit each other and the lifecycle, whatever is said of checkpoints."""
        return not {problem.kind for problem in self.problems} & {
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
        denied = [
            checkpoint.size for checkpoint in self.checkpoints if checkpoint.origin and checkpoint.error
        ]
        return bool(denied) and max(denied) <= self.covered_by_database

    @property
    def limits(self) -> tuple[str, ...]:
        """What this does not show, in sentences."""
        limits: list[str] = []
        if self.after:
            limits.append(
                f"Events 1 to {self.after:,} were not read again, and are assumed to have been verified "
                "before. Idempotency keys and the pages of SQLite files were not checked."
            )
        signed = max((checkpoint.size for checkpoint in self.checkpoints if checkpoint.origin), default=0)
        if self.size > signed:
            limits.append(
                f"Edits of events {signed + 1:,} to {self.size:,} cannot be detected: "
                "no checkpoint covers them."
            )
        for where, is_outside in (("in the database", False), ("that were given and", True)):
            others = sum(
                checkpoint.is_of_another_key and checkpoint.is_from_outside is is_outside
                for checkpoint in self.checkpoints
            )
            if others:
                limits.append(
                    f"Checkpoints {where} that none of the given keys signed prove nothing: {others:,}."
                )
        if self.covered_by_database > self.covered:
            limits.append(
                f"Events {self.covered + 1:,} to {self.covered_by_database:,} are covered by checkpoints in "
                "the database alone: if those are removed together with the events, it goes unnoticed. "
                "Give checkpoints that were kept elsewhere."
            )
        if self.undecided_keys:
            limits.append(
                f"The fingerprints of {self.undecided_keys:,} idempotency keys cannot be recomputed from "
                "their events: the requests may have had credentials, which are not recorded."
            )
        limits += map(str, self.wrong_times)
        limits.append("The record cannot show that what was recorded is true.")
        return tuple(limits)


def check_log(
    log: EventLog,
    store: LedgerStore,
    verifiers: Sequence[Verifier],
    checkpoints: Sequence[tuple[str, str | bytes]] = (),
    *,
    since: str | bytes | None = None,
    workers: int = 1,
    beside: Sequence[Finding] = (),
    check_parts: CheckParts = check_here,
    progress: Progress = lambda done, total: None,
) -> LogCheck:
    """Check a log against its checkpoints, its stored tree and the lifecycle; see `Ledger.verify`."""
    check_workers(workers)
    started = time.monotonic()
    log.position()  # this opens the database, which may be that of the ledger
    # In this order: what is added meanwhile is behind all that is looked at.
    notes = [*checkpoints, *((DATABASE, checkpoint.note) for checkpoint in store.checkpoints())]
    stored = store.size()
    end = log.position()
    if notes and not verifiers:
        raise ConfigurationError(
            "There are checkpoints, but no public key to verify their signatures.",
            hint="Name it: --key FILE.pub, or DEPLOYLEDGER_AUDIT_KEY.",
        )
    signed = [
        checkpoint
        for source, note in notes
        for checkpoint in SignedCheckpoint.opened(source, note, verifiers)
    ]
    start = _start(store, open_checkpoint(since, verifiers) if since is not None else None, end)
    sizes = sorted({checkpoint.size for checkpoint in signed if start.size <= checkpoint.size <= end} | {end})
    sizes = [size for size in sizes if size]
    done = 0

    def tell(events: int) -> None:
        nonlocal done
        done += events
        progress(min(done, end - start.size), end - start.size)

    progress(0, end - start.size)
    is_whole = not start.size
    findings = [*log.findings(whole=is_whole), *store.findings(whole=is_whole), *beside]
    checked: list[CheckedPart] = []
    after = start.size
    if start.behind:  # first the rest of a tile: what others do are whole ones
        after = min(end, start.size + TILE_WIDTH - len(start.behind))
        rest = Part(start.size, after, tuple(size for size in sizes if size <= after))
        checked += [check_part(log, store, rest, tell, start.behind)]
    if after < end or not checked:
        checked += check_parts(log, store, _parts(after, end, sizes, workers), tell)
    problems = [
        *_outside(log),
        *missing(checked),
        *(problem for part in checked for problem in part.problems),
    ]
    problems += across(log, checked, start.size, end)
    progress(end - start.size, end - start.size)
    roots = roots_at(start, checked, sizes)
    results = [result(store, checkpoint, roots, start, end) for checkpoint in signed]
    changed = next((part.changed for part in checked if part.changed is not None), None)
    is_missing = any(first <= (changed or 0) <= last for part in checked for first, last in part.missing)
    problems += disagreements(store, signed, results, changed, is_missing, end)
    if stored > end:
        message = f"The log ends at position {end}, and its ledger at {stored}: it was truncated at the end."
        problems.append(LogProblem(end + 1, "truncated", message))
    elif changed is None and not any(part.missing for part in checked):
        problems += lacking(store, checked, start, stored)
    keys = KeyCheck(log, end) if is_whole else None
    problems += keys.problems if keys is not None else []
    problems += [LogProblem(None, IN_DATABASE, finding.message) for finding in findings if finding.is_problem]
    problems.sort(key=lambda problem: (problem.position is None, problem.position))
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
        undecided_keys=keys.undecided if keys is not None else 0,
        wrong_times=_wrong_times(log),
    )


def _wrong_times(log: EventLog) -> tuple[WrongTimes, ...]:
    """Return the events whose recorded times are wrong; that one is damaged is reported already."""
    try:
        return log.times().wrong
    except EventLogError:
        return ()


def _start(store: LedgerStore, since: Checkpoint | None, end: int) -> Start:
    """Return the tree of a checkpoint, from what is stored: it counts because it leads to that root."""
    if since is None or since.size == 0:
        return Start()
    if since.size > end:
        raise LedgerError(too_new(since.size, end))
    tree = Tree(store)
    if since.size > store.size() or tree.root(since.size) != since.root:
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
    behind = tuple(tree.hash_of(leaf, leaf + 1) for leaf in range(whole, since.size))
    return Start(since.size, tuple(complete), behind, since.root)


def _parts(after: int, end: int, sizes: Sequence[int], workers: int) -> list[Part]:
    """Return the positions in parts of whole tiles; the first one is larger, for whoever begins at once."""
    ahead = _AHEAD if workers > 1 else 0
    tiles = -(-max(_LEAST_OF_A_PART, -(-(end - after - ahead) // workers)) // TILE_WIDTH)
    width = tiles * TILE_WIDTH
    parts: list[Part] = []
    while after < end or not parts:
        until = min(after + width + (0 if parts else ahead), end)
        parts.append(Part(after, until, tuple(size for size in sizes if after < size <= until)))
        after = until
    return parts


def _outside(log: EventLog) -> list[LogProblem]:
    """Return events that are not among those with positions, where readers do not see them."""
    return [
        LogProblem(record.position, "order", f"An event has position {record.position}; the first one is 1.")
        for page in undamaged(log.records(after=_BEFORE_ALL, until=0))
        for record in page
    ]
