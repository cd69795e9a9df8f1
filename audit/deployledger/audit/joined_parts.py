"""Joins the checks of a log's parts: roots, missing events, and streams that span parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from uuid import UUID

from deployledger.audit import merkle
from deployledger.audit.ledger_store import TILE_HEIGHT, TILE_WIDTH, LedgerStore
from deployledger.audit.lifecycle_table import ILLEGAL, UNKNOWN, lifecycle_table
from deployledger.audit.log_parts import CheckedPart, LogProblem, follow
from deployledger.audit.merkle import HASH_BYTES
from deployledger.domain.event_log import EventLog

_STREAMS_AT_ONCE = 500
_TREE = "it was changed"


@dataclass(frozen=True)
class Start:
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


def missing(parts: Sequence[CheckedPart]) -> list[LogProblem]:
    """Return which events are not there."""
    ranges: list[tuple[int, int]] = []
    for first, last in (gap for part in parts for gap in part.missing):
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


def lacking(store: LedgerStore, parts: Sequence[CheckedPart], start: Start, stored: int) -> list[LogProblem]:
    """Return what the stored tree lacks, or has otherwise above its leaves, though the log may be right."""
    first_lacking = next((part.lacking for part in parts if part.lacking is not None), None)
    if first_lacking is not None:
        message = f"The stored tree lacks the leaf of event {first_lacking}: {_TREE}."
        return [LogProblem(first_lacking, "tree", message)]
    if start.size:  # its upper levels led to the checkpoint
        return []
    hashes = [root for part in parts for root in part.roots][: stored // TILE_WIDTH]
    level = 1
    while hashes:
        tiles = [hashes[start : start + TILE_WIDTH] for start in range(0, len(hashes), TILE_WIDTH)]
        for number, tile in enumerate(tiles):
            stored_tile = store.tiles(level, number, number).get(number, b"")
            if not stored_tile.startswith(b"".join(tile)):
                message = f"The stored tree is not that of the log in level {level}, tile {number}: {_TREE}."
                return [LogProblem(None, "tree", message)]
        hashes = [merkle.root_of(tile) for tile in tiles if len(tile) == TILE_WIDTH]
        level += 1
    return []


def across(log: EventLog, parts: Sequence[CheckedPart], after: int, end: int) -> list[LogProblem]:
    """Follow the streams from one part to the next, and return what is wrong there."""
    joined = CheckedPart()
    standings: dict[bytes, tuple[int, int]] = {}
    last_time: int | None = None
    position = after
    for part in parts:
        falls = last_time is not None and part.first_time is not None and part.first_time < last_time
        if falls and not part.corrects_clock:
            joined.problems.append(
                LogProblem(
                    position + 1,
                    "order",
                    f"Event {position + 1} was recorded before the one in front of it.",
                )
            )
        last_time = part.last_time if part.last_time is not None else last_time
        if after:
            earlier = {*part.continued, *part.begun} - standings.keys()
            standings.update(_before(log, sorted(earlier), after))
        for stream, events in part.continued.items():
            standing = standings.get(stream, (0, UNKNOWN))
            for event in events:
                standing = (
                    max(event[1], standing[0]),
                    follow(joined, stream, standing, event, part.foreign_topics.get(event[0], "")),
                )
            standings[stream] = standing
        for stream in part.begun.keys() & standings.keys():
            again = chain.from_iterable(log.records(streams=[UUID(bytes=stream)], until=end))
            begins = sorted(record.position for record in again if record.stream_version == 1)[1:]
            message = f"Stream {UUID(bytes=stream)} begins more than once."
            joined.problems.append(LogProblem(next(iter(begins), None), "version", message))
        if part is not parts[-1]:
            standings.update(part.begun)
        position = (position // TILE_WIDTH + len(part.roots)) * TILE_WIDTH
    return joined.problems


def _before(log: EventLog, streams: Sequence[bytes], until: int) -> dict[bytes, tuple[int, int]]:
    """Return the standings of streams at a position up to which their events were verified before."""
    table = lifecycle_table()
    standings: dict[bytes, tuple[int, int]] = {}
    for begin in range(0, len(streams), _STREAMS_AT_ONCE):
        ids = [UUID(bytes=stream) for stream in streams[begin : begin + _STREAMS_AT_ONCE]]
        for raw in chain.from_iterable(log.records(streams=ids, until=until)):
            stream = raw.stream_id
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


def roots_at(start: Start, parts: Sequence[CheckedPart], sizes: Sequence[int]) -> dict[int, bytes]:
    """Return the root of the tree at each of the sizes."""
    peaks = merkle.Peaks()
    for height, root in start.complete:
        peaks.add(root, height)
    behind = {size: hashes for part in parts for size, hashes in part.behind.items()}
    tiles = [root for part in parts for root in part.roots]
    roots = {start.size: start.root}
    wanted = iter(sorted(set(sizes) & behind.keys()))
    size = next(wanted, None)
    for tile in [*tiles, b""]:
        while size is not None and size <= peaks.size + TILE_WIDTH:
            hashes = behind[size]
            roots[size] = peaks.root(
                [hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]
            )
            size = next(wanted, None)
        if tile:
            peaks.add(tile, TILE_HEIGHT)
    return roots
