"""Reads a part of the log, hashes it, and looks at everything that one event can show to be wrong."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from deployledger.domain.event_log import EventLog
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.projections.ledger import merkle
from deployledger.projections.ledger.leaf import encode_leaf
from deployledger.projections.ledger.legality import ILLEGAL, UNKNOWN, legality
from deployledger.projections.ledger.merkle import HASH_BYTES
from deployledger.projections.ledger.store import TILE_WIDTH, LedgerStore

MOST_PROBLEMS = 1000
"""How many problems are told; more are counted."""

_TILES_AT_ONCE = 64
_MISSING = b"\0" * HASH_BYTES


class AuditProblem(NamedTuple):
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
class Checked:
    """What was found in a part.

    Attributes:
        roots: the roots of its whole tiles, one behind the other.
        behind: by size that was asked for, the hashes of the leaves in the last tile up to it.
        begun: the streams that begin in it: how far they are, and their standing.
        continued: the streams that go on in it: position, version and symbol of each event.
        problems: what is wrong.
        changed: the first position at which the log is not what the stored tree has.
        last_time: when the last event was recorded, in microseconds.
        first_time: when the first one was.
    """

    roots: list[bytes] = field(default_factory=list)
    behind: dict[int, bytes] = field(default_factory=dict)
    begun: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    continued: dict[bytes, list[tuple[int, int, int]]] = field(default_factory=dict)
    problems: list[AuditProblem] = field(default_factory=list)
    changed: int | None = None
    first_time: int | None = None
    last_time: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON value."""
        return {
            "roots": _text(b"".join(self.roots)),
            "behind": {str(size): _text(hashes) for size, hashes in self.behind.items()},
            "begun": _text(
                b"".join(
                    stream + (version << 8 | standing + 2).to_bytes(8, "big")
                    for stream, (version, standing) in self.begun.items()
                )
            ),
            "continued": {stream.hex(): events for stream, events in self.continued.items()},
            "problems": self.problems,
            "changed": self.changed,
            "times": [self.first_time, self.last_time],
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> "Checked":
        """Return what `to_json` made a JSON value of."""
        roots, begun = base64.b64decode(told["roots"]), base64.b64decode(told["begun"])
        packed = (
            (begun[it : it + 16], int.from_bytes(begun[it + 16 : it + 24], "big"))
            for it in range(0, len(begun), 24)
        )
        return cls(
            roots=[roots[it : it + HASH_BYTES] for it in range(0, len(roots), HASH_BYTES)],
            behind={int(size): base64.b64decode(hashes) for size, hashes in told["behind"].items()},
            begun={stream: (number >> 8, (number & 0xFF) - 2) for stream, number in packed},
            continued={
                bytes.fromhex(stream): [(it[0], it[1], it[2]) for it in events]
                for stream, events in told["continued"].items()
            },
            problems=[AuditProblem(*it) for it in told["problems"]],
            changed=told["changed"],
            first_time=told["times"][0],
            last_time=told["times"][1],
        )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


CheckParts = Callable[[EventLog, LedgerStore, Sequence[Part], Callable[[int], None]], list[Checked]]
"""Checks parts, all at the same time if it can, and tells of every number of events that were read."""


def check_here(
    log: EventLog, store: LedgerStore, parts: Sequence[Part], progress: Callable[[int], None]
) -> list[Checked]:
    """Check parts in this process, one after the other."""
    return [check_part(log, store, part, progress) for part in parts]


def check_part(
    log: EventLog,
    store: LedgerStore,
    part: Part,
    progress: Callable[[int], None],
    hashes: Sequence[bytes] = (),
) -> Checked:
    """Check a part of the log.

    Args:
        hashes: those of the leaves before it in the tile in which it begins, if it begins within one.
    """
    checked = Checked()
    tiles = _Tiles(store, checked, part, hashes)
    table = legality()
    symbols, symbol_of, begin, following = table.symbols, table.symbol, table.begin, table.next
    begun, continued = checked.begun, checked.continued
    specifying = {topic for topic in symbols if topic.endswith("requested")}
    expected, time = part.after, 0
    begun_get, add_leaf, symbol_get = begun.get, tiles.hashes.append, symbols.get
    try:
        for page in log.records(after=part.after, until=part.until):
            for record in page:
                position, stream, version, topic, state, _, recorded_at, _, _, _ = record
                expected += 1
                if position != expected:
                    tiles.miss(expected, position)
                    expected = position
                if recorded_at < time:
                    _add(checked, position, "order", "was recorded before the one in front of it")
                time = recorded_at
                try:
                    add_leaf(sha256(b"\x00" + encode_leaf(*record)).digest())
                    symbol = symbol_of(topic, state) if topic in specifying else symbol_get(topic, UNKNOWN)
                except (ValueError, TypeError, AttributeError, OverflowError) as error:
                    symbol = _damaged(checked, tiles, record, error)
                if len(tiles.hashes) == TILE_WIDTH:
                    tiles.complete()
                standing = begun_get(stream)
                if standing is None:
                    if version == 1:
                        after = begin[symbol] if symbol >= 0 else UNKNOWN
                        if after == ILLEGAL:
                            _add(checked, position, "illegal", f"({topic}) cannot begin a history")
                            after = UNKNOWN
                        begun[stream] = (1, after)
                    elif stream in continued:
                        continued[stream].append((position, version, symbol))
                    else:
                        continued[stream] = [(position, version, symbol)]
                elif version == standing[0] + 1 and standing[1] >= 0 and symbol >= 0:
                    after = following[standing[1]][symbol]
                    if after == ILLEGAL:
                        after = follow(checked, stream, standing, (position, version, symbol))
                    begun[stream] = (version, after)
                else:
                    after = follow(checked, stream, standing, (position, version, symbol))
                    begun[stream] = (max(version, standing[0]), after)
                if symbol == UNKNOWN and topic not in symbols:
                    _add(checked, position, "unknown", f"has the topic {topic!r}, which is not known here")
            checked.first_time = page[0][6] if checked.first_time is None else checked.first_time
            progress(len(page))
    except UndecodableEventError as error:  # what is in its columns is not even of their types
        checked.problems.append(AuditProblem(expected + 1, "damaged", error.message))
    checked.last_time = time if checked.first_time is not None else None
    if expected < part.until:
        tiles.miss(expected + 1, part.until + 1)
    tiles.finish()
    return checked


def follow(checked: Checked, stream: bytes, standing: tuple[int, int], event: tuple[int, int, int]) -> int:
    """Return the standing after an event, and tell what is wrong with it there."""
    table = legality()
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
    if after == ILLEGAL:
        topic = [topic for topic, number in table.symbols.items() if number <= symbol][-1]
        _add(
            checked,
            position,
            "illegal",
            f"({topic}, number {version} of stream {UUID(bytes=stream)}) cannot follow {table.names[before]}",
        )
        return UNKNOWN
    return after


def _damaged(checked: Checked, tiles: "_Tiles", record: Sequence[Any], error: Exception) -> int:
    """Tell of an event that cannot be hashed, or does not decode."""
    position = record[0]
    if tiles.next_position == position:
        tiles.hashes.append(_MISSING)
        _add(checked, position, "damaged", f"cannot be hashed: {error}")
    else:
        _add(checked, position, "undecodable", f"({record[3]}) does not decode: {error}")
    return UNKNOWN


def _add(checked: Checked, position: int, kind: str, what: str) -> None:
    if len(checked.problems) < MOST_PROBLEMS:
        checked.problems.append(AuditProblem(position, kind, f"Event {position} {what}."))


class _Tiles:
    """The leaves of a part, tile by tile, beside those that are stored."""

    def __init__(self, store: LedgerStore, checked: Checked, part: Part, hashes: Sequence[bytes]) -> None:
        self._store = store
        self._checked = checked
        self._number = part.after // TILE_WIDTH
        self._sizes: dict[int, list[int]] = {}
        for size in part.sizes:
            self._sizes.setdefault((size - 1) // TILE_WIDTH, []).append(size)
        self._stored: dict[int, bytes] = {}
        self._last = max(0, part.until - 1) // TILE_WIDTH
        self.hashes = [*hashes]

    @property
    def next_position(self) -> int:
        """The position of the leaf that comes next."""
        return self._number * TILE_WIDTH + len(self.hashes) + 1

    def miss(self, first: int, found: int) -> None:
        """Go on behind events that are not there."""
        if found < first:
            _add(self._checked, found, "order", "is there twice")
            return
        message = (
            f"Event {first} is missing."
            if found == first + 1
            else (f"Events {first} to {found - 1} are missing.")
        )
        self._checked.problems.append(AuditProblem(first, "missing", message))
        for _ in range(found - first):
            self.hashes.append(_MISSING)
            if len(self.hashes) == TILE_WIDTH:
                self.complete()

    def complete(self) -> None:
        """Do with a tile what is to be done."""
        hashes = self.hashes
        if self._number not in self._stored:
            last = min(self._last, self._number + _TILES_AT_ONCE - 1)
            found = self._store.tiles(0, self._number, last)
            self._stored = {it: found.get(it, b"") for it in range(self._number, last + 1)}
        joined = b"".join(hashes)
        stored = self._stored[self._number]
        if self._checked.changed is None and not joined.startswith(stored):
            for place in range(min(len(hashes), len(stored) // HASH_BYTES)):
                begin = place * HASH_BYTES
                if joined[begin : begin + HASH_BYTES] != stored[begin : begin + HASH_BYTES]:
                    self._checked.changed = self._number * TILE_WIDTH + place + 1
                    break
        for size in self._sizes.get(self._number, ()):
            self._checked.behind[size] = joined[: (size - self._number * TILE_WIDTH) * HASH_BYTES]
        if len(hashes) == TILE_WIDTH:
            self._checked.roots.append(merkle.root_of(hashes))
        self._number += 1
        hashes.clear()

    def finish(self) -> None:
        """Do so with the last tile, which may not be full."""
        if self.hashes:
            self.complete()
