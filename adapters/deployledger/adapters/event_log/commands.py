"""What is written together: the events of one command, and its idempotency key."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from eventsourcing.persistence import StoredEvent

from deployledger.domain.event_log import CommandKey
from deployledger.domain.ids import new_id
from deployledger.domain.times import corrects_clock


class EventRow(NamedTuple):
    """A stored event with its metadata, before it has a position."""

    originator_id: UUID
    originator_version: int
    topic: str
    state: bytes
    event_id: UUID
    actor: str | None
    correlation_id: UUID | None
    causation_id: UUID | None


def plain_row(stored: StoredEvent) -> EventRow:
    """Return an event that comes without metadata, as the library's applications store them."""
    originator_id = stored.originator_id
    assert isinstance(originator_id, UUID)  # noqa: S101  # our tables have no text ids
    return EventRow(
        originator_id, stored.originator_version, stored.topic, stored.state, new_id(), None, None, None
    )


@dataclass(frozen=True)
class Command:
    """The events that one command makes: stored all together, or not at all."""

    rows: Sequence[EventRow]
    key: CommandKey | None = None

    @property
    def corrects_clock(self) -> bool:
        """Whether it may be recorded earlier than what is before it: it says that those times are wrong."""
        return corrects_clock(self.rows[0].topic, self.rows[0].originator_id.bytes)


@dataclass(frozen=True)
class Stored:
    """The command's events are in the log, the first at ``position``."""

    position: int


@dataclass(frozen=True)
class Conflict:
    """Somebody else had stored an event at the same version of a stream."""

    stream_id: UUID
    expected: int
    found: int


@dataclass(frozen=True)
class Repeated:
    """A command with this idempotency key had been stored before; nothing was stored again."""

    first: CommandKey


Outcome = Stored | Conflict | Repeated


@dataclass
class Known:
    """What the database has, of the streams and keys that a batch of commands touches.

    Attributes:
        versions: the last version of each stream that has events.
        event_ids: the ids of the stored events at the versions that the commands begin with.
        keys: the idempotency keys among those of the commands that are taken.
    """

    versions: dict[UUID, int] = field(default_factory=dict)
    event_ids: Mapping[tuple[UUID, int], tuple[UUID, int]] = field(default_factory=dict)
    keys: dict[str, CommandKey] = field(default_factory=dict)


def versions_before(rows: Iterable[EventRow]) -> dict[UUID, int]:
    """Return the version that each stream must have reached before; new streams are left out.

    That no stream is beyond it, the unique key of the table checks.
    """
    before: dict[UUID, int] = {}
    begun: set[UUID] = set()
    for row in rows:
        if row.originator_version == 1:
            begun.add(row.originator_id)
        elif row.originator_id not in begun:
            begun.add(row.originator_id)
            before[row.originator_id] = row.originator_version - 1
    return before


def decide(commands: Iterable[Command], state: Known) -> list[Outcome | None]:
    """Say which commands can be stored, one after the other, as if each were alone: None for those.

    A command whose first event is stored already, by its id, was acknowledged by nobody because the
    connection broke right after the commit: it is stored, not in conflict.
    """
    outcomes: list[Outcome | None] = []
    for command in commands:
        outcome = _outcome(command, state)
        outcomes.append(outcome)
        if outcome is None:
            for row in command.rows:
                state.versions[row.originator_id] = row.originator_version
            if command.key is not None:
                state.keys[command.key.key] = command.key
    return outcomes


def _outcome(command: Command, state: Known) -> Outcome | None:
    first = command.rows[0]
    stored = state.event_ids.get((first.originator_id, first.originator_version))
    if stored is not None and stored[0] == first.event_id:
        return Stored(stored[1])
    if command.key is not None and command.key.key in state.keys:
        return Repeated(state.keys[command.key.key])
    expected: dict[UUID, int] = {}
    for row in command.rows:
        version = state.versions.get(row.originator_id, 0)
        if row.originator_version != expected.setdefault(row.originator_id, version) + 1:
            return Conflict(row.originator_id, row.originator_version - 1, version)
        expected[row.originator_id] += 1
    return None
