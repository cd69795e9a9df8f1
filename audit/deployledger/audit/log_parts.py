"""Reads and hashes a part of the log, and checks each event."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

from deployledger.audit import merkle
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.ledger_store import TILE_WIDTH, LedgerStore
from deployledger.audit.lifecycle_table import ILLEGAL, UNKNOWN, lifecycle_table
from deployledger.audit.merkle import HASH_BYTES
from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import undamaged
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.domain.times import corrects_clock
from deployledger.domain.topics import SPECIFYING

MOST_PROBLEMS = 1000
"""The largest number of problems that are reported."""

_TILES_AT_ONCE = 64
_MISSING = b"\0" * HASH_BYTES
_MOST_FILLED = 64 * TILE_WIDTH
_LONG_AGO = -(1 << 63)


class LogProblem(NamedTuple):
    """What is wrong, and where.

    Attributes:
        position: the position in the log; None if it is not about one event.
        kind: what is wrong, in one word that programs can compare.
        message: what is wrong, in one sentence.
    """

    position: int | None
    kind: str
    message: str


class Part(NamedTuple):
    """Events to check: those behind ``after`` and up to ``until``; both fill whole tiles, or are the ends.

    Attributes:
        sizes: at which positions the root of the tree is asked for.
    """

    after: int
    until: int
    sizes: tuple[int, ...] = ()


@dataclass
class CheckedPart:
    """What was found in a part.

    Attributes:
        roots: the roots of its whole tiles, one after the other.
        behind: by size that was asked for, the hashes of the leaves in the last tile up to it.
        begun: the streams that begin in it: how far they are, and their standing.
        continued: the streams that go on in it: position, version and symbol of each event.
        foreign_topics: by position, the topics of events in them that are not ours.
        missing: events that are not there, from one position to another.
        problems: what else is wrong.
        lacking: the first position whose leaf the stored tree lacks, though its size says that it has it.
        changed: the first position at which the log is not what the stored tree has.
        last_time: when the last event was recorded, in microseconds.
        first_time: when the first one was.
        corrects_clock: whether the first one is a correction of the clock, where times may fall.
    """

    roots: list[bytes] = field(default_factory=list)
    behind: dict[int, bytes] = field(default_factory=dict)
    begun: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    continued: dict[bytes, list[tuple[int, int, int]]] = field(default_factory=dict)
    foreign_topics: dict[int, str] = field(default_factory=dict)
    missing: list[tuple[int, int]] = field(default_factory=list)
    problems: list[LogProblem] = field(default_factory=list)
    lacking: int | None = None
    changed: int | None = None
    first_time: int | None = None
    last_time: int | None = None
    corrects_clock: bool = False


CheckParts = Callable[[EventLog, LedgerStore, Sequence[Part], Callable[[int], None]], list[CheckedPart]]
"""Checks parts, all at the same time if it can, and tells of every number of events that were read."""


def check_here(
    log: EventLog, store: LedgerStore, parts: Sequence[Part], progress: Callable[[int], None]
) -> list[CheckedPart]:
    """Check parts in this process, one after the other."""
    return [check_part(log, store, part, progress) for part in parts]


def check_part(
    log: EventLog,
    store: LedgerStore,
    part: Part,
    progress: Callable[[int], None],
    hashes: Sequence[bytes] = (),
) -> CheckedPart:
    """Check a part of the log.

    Args:
        hashes: those of the leaves before it in the tile in which it begins, if it begins within one.
    """
    checked = CheckedPart()
    tiles = _Tiles(store, checked, part, hashes)
    reached = part.after
    while reached < part.until and len(checked.problems) < MOST_PROBLEMS:
        try:
            reached = _check_from(log, reached, part.until, checked, tiles, progress)
        except UndecodableEventError as error:  # what is in its columns is not even of their types
            reached = tiles.next_position
            checked.problems.append(LogProblem(reached, "damaged", error.message))
            tiles.add(_MISSING)
            progress(1)
    if reached < part.until:
        message = f"Too many problems: events {reached + 1} to {part.until} were not checked."
        checked.problems.append(LogProblem(reached + 1, "damaged", message))
    tiles.finish()
    return checked


def _check_from(
    log: EventLog,
    after: int,
    until: int,
    checked: CheckedPart,
    tiles: "_Tiles",
    progress: Callable[[int], None],
) -> int:
    """Check the events from a position on, and return how far that went."""
    table = lifecycle_table()
    symbols, symbol_of, begin, following = table.symbols, table.symbol, table.begin, table.next
    begun, continued, hashes = checked.begun, checked.continued, tiles.hashes
    begun_get, add_leaf, symbol_get, leaf_hash = begun.get, hashes.append, symbols.get, merkle.leaf_hash
    expected, time = after, checked.last_time if checked.last_time is not None else _LONG_AGO
    for page in undamaged(log.records(after=after, until=until, metadata=True)):
        for record in page:
            position, stream, version, topic, state, _, recorded_at, _, _, _ = record
            expected += 1
            if position != expected:
                if position < expected:
                    _add(checked, position, "order", "is there twice")
                    expected -= 1
                    continue
                tiles.miss(expected, position - 1)
                expected = position
            try:
                add_leaf(leaf_hash(encode_leaf(*record)))
                if recorded_at < time and not corrects_clock(topic, stream):
                    _add(checked, position, "order", "was recorded before the one in front of it")
                time = recorded_at
                symbol = symbol_of(topic, state) if topic in SPECIFYING else symbol_get(topic, UNKNOWN)
                if symbol == UNKNOWN:
                    symbol = table.symbol_of_topic(topic)
                    if symbol == UNKNOWN:
                        _add(checked, position, "unknown", _not_known(topic))
            except (ValueError, TypeError, AttributeError, OverflowError) as error:
                symbol = _damaged(checked, tiles, record, error)
            if len(hashes) == TILE_WIDTH:
                tiles.complete()
            standing = begun_get(stream)
            if standing is None:
                if version != 1:
                    continued.setdefault(stream, []).append((position, version, symbol))
                    if symbol == table.foreign:
                        checked.foreign_topics[position] = topic
                    continue
                after_it = begin[symbol] if symbol >= 0 else UNKNOWN
                if after_it == ILLEGAL:
                    _add(checked, position, "illegal", f"({topic}) cannot begin a history")
                    after_it = UNKNOWN
                begun[stream] = (1, after_it)
            elif version == standing[0] + 1 and standing[1] >= 0 and symbol >= 0:
                after_it = following[standing[1]][symbol]
                if after_it == ILLEGAL:
                    after_it = follow(checked, stream, standing, (position, version, symbol), topic)
                begun[stream] = (version, after_it)
            else:
                after_it = follow(checked, stream, standing, (position, version, symbol), topic)
                begun[stream] = (max(version, standing[0]), after_it)
        if checked.first_time is None:
            checked.first_time = page[0].recorded_at
            checked.corrects_clock = corrects_clock(page[0].topic, page[0].stream_id)
        checked.last_time = time
        progress(len(page))
    if expected < until:
        tiles.miss(expected + 1, until)
    return until


def follow(
    checked: CheckedPart,
    stream: bytes,
    standing: tuple[int, int],
    event: tuple[int, int, int],
    foreign_topic: str,
) -> int:
    """Return the standing after an event, and report what is wrong with it there.

    Args:
        foreign_topic: its topic, if that is not one of ours.
    """
    table = lifecycle_table()
    (version_before, before), (position, version, symbol) = standing, event
    if version != version_before + 1:
        what = "is there twice" if version <= version_before else "does not follow"
        _add(
            checked,
            position,
            "version",
            f"is number {version} of stream {UUID(bytes=stream)}, and {what}: "
            f"the one before is number {version_before}",
        )
        return UNKNOWN
    if before < 0 or symbol < 0:
        return UNKNOWN
    after = table.next[before][symbol]
    if after == ILLEGAL and symbol == table.foreign:
        _add(checked, position, "unknown", _not_known(foreign_topic))
        return UNKNOWN
    if after == ILLEGAL:
        topic = table.topic(symbol)
        _add(
            checked,
            position,
            "illegal",
            f"({topic}, number {version} of stream {UUID(bytes=stream)}) cannot follow {table.names[before]}",
        )
        return UNKNOWN
    return after


def _not_known(topic: str) -> str:
    return f"has the topic {topic!r}, which is unknown"


def _damaged(checked: CheckedPart, tiles: "_Tiles", record: Sequence[Any], error: Exception) -> int:
    """Tell of an event that cannot be hashed, or does not decode."""
    position = record[0]
    if tiles.next_position == position:
        tiles.hashes.append(_MISSING)
        _add(checked, position, "damaged", f"is not stored as it was written, and cannot be hashed ({error})")
    else:
        _add(checked, position, "undecodable", f"({record[3]}) does not decode: {error}")
    return UNKNOWN


def _add(checked: CheckedPart, position: int, kind: str, what: str) -> None:
    if len(checked.problems) < MOST_PROBLEMS:
        checked.problems.append(LogProblem(position, kind, f"Event {position} {what}."))


class _Tiles:
    """The leaves of a part, tile by tile, beside those that are stored."""

    def __init__(self, store: LedgerStore, checked: CheckedPart, part: Part, hashes: Sequence[bytes]) -> None:
        self._store = store
        self._checked = checked
        self._number = part.after // TILE_WIDTH
        self._sizes: dict[int, list[int]] = {}
        for size in part.sizes:
            self._sizes.setdefault((size - 1) // TILE_WIDTH, []).append(size)
        self._stored: dict[int, bytes] = {}
        self._last = max(0, part.until - 1) // TILE_WIDTH
        self._size = store.size()
        self.hashes = [*hashes]

    @property
    def next_position(self) -> int:
        """The position of the leaf that comes next."""
        return self._number * TILE_WIDTH + len(self.hashes) + 1

    def add(self, leaf: bytes) -> None:
        """Add a leaf by its hash."""
        self.hashes.append(leaf)
        if len(self.hashes) == TILE_WIDTH:
            self.complete()

    def miss(self, first: int, last: int) -> None:
        """Go on behind events that are not there; behind very many, the tree is no longer that of the log."""
        self._checked.missing.append((first, last))
        for _ in range(min(last - first + 1, _MOST_FILLED)):
            self.add(_MISSING)

    def complete(self) -> None:
        """Compare a tile with what is stored, and keep what the tree needs of it."""
        hashes, number = self.hashes, self._number
        if number not in self._stored:
            last = max(number, min(self._last, number + _TILES_AT_ONCE - 1))
            tiles = self._store.tiles(0, number, last)
            self._stored = {tile: tiles.get(tile, b"") for tile in range(number, last + 1)}
        joined, stored = b"".join(hashes), self._stored[number]
        checked, before = self._checked, number * TILE_WIDTH
        if checked.changed is None and not joined.startswith(stored):
            for place in range(min(len(hashes), len(stored) // HASH_BYTES)):
                begin = place * HASH_BYTES
                if joined[begin : begin + HASH_BYTES] != stored[begin : begin + HASH_BYTES]:
                    checked.changed = before + place + 1
                    break
        has = len(stored) // HASH_BYTES
        if checked.lacking is None and has < min(len(hashes), self._size - before):
            checked.lacking = before + has + 1
        for size in self._sizes.get(number, ()):
            checked.behind[size] = joined[: (size - before) * HASH_BYTES]
        if len(hashes) == TILE_WIDTH:
            checked.roots.append(merkle.root_of(hashes))
        self._number += 1
        hashes.clear()

    def finish(self) -> None:
        """Do so with the last tile, which may not be full."""
        if self.hashes:
            self.complete()
