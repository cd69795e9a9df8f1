"""Replays the whole log through the domain: is every history legal, and which states result?

The digest of a replay is ``sha256:`` and the SHA-256 of the line ``deployledger states 1`` with its line
feed, and then, in the order of their ids, of each stream's id (16 bytes) and the SHA-256 (32 bytes) of its
state in the canonical form that `deployledger.audit.canonical_state` defines. A stream with a problem
counts as it was before the problem. So it is the same on every machine and database, however the work was
divided. Streams that an application has for events of its own are read, and are no part of the digest.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from hashlib import sha256
from uuid import UUID

from eventsourcing.domain import OriginatorIDError, OriginatorVersionError

from deployledger.audit.canonical_state import canonical
from deployledger.audit.lifecycle_table import lifecycle_table
from deployledger.audit.what_if import Rule, RuleDifference, load
from deployledger.domain.clock_corrections import ClockCorrected, ClockCorrections
from deployledger.domain.deployment import Deployment
from deployledger.domain.event_log import EventLog, version_of
from deployledger.domain.event_records import EventRecord
from deployledger.domain.events import DeploymentEvent, Event, Requested, UpdateRequested
from deployledger.domain.exceptions import (
    ConfigurationError,
    ConflictError,
    IllegalTransitionError,
    NameInUseError,
    ResourceNotFoundError,
    UndecodableEventError,
)
from deployledger.domain.names import NameEvent, NameReservation, NameReserved
from deployledger.projections.partitioning import Progress, check_workers, ranges

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DIGEST_BEGINS = b"deployledger states 1\n"
_EVENTS_IN_MEMORY = 500_000
_MOST_PASSES = 256
"""More than any log needs: a position that somebody made huge is not to make a replay endless."""

State = Deployment | NameReservation | ClockCorrections


class Kind(StrEnum):
    """What can be wrong with an event."""

    ILLEGAL_TRANSITION = "illegal_transition"
    VERSION_GAP = "version_gap"
    UNDECODABLE = "undecodable"
    ORDER = "order"
    POSITION_GAP = "position_gap"


@dataclass(frozen=True)
class ReplayProblem:
    """An event that cannot have happened so.

    Attributes:
        position: its place in the log.
        stream_id: its stream; empty if the event is not there.
        stream_version: its place in that stream; 0 if the event is not there.
        topic: which event it says it is.
        kind: ``illegal_transition``: the domain does not allow it after what was before. ``version_gap``: an
            earlier event of the stream is missing. ``order``: the stream's events are in another order than
            their versions. ``undecodable``: it cannot be read. ``position_gap``: it is missing.
        message: what is wrong, in a sentence.
    """

    position: int
    stream_id: str
    stream_version: int
    topic: str
    kind: Kind
    message: str


@dataclass(frozen=True)
class Replayed:
    """The result of a replay.

    Attributes:
        events: how many events were read.
        streams: how many deployments and names they are of.
        not_replayed: how many of the events were not applied: those with a problem, and what follows them in
            the same stream.
        until: up to which position.
        digest: of all resulting states; None if another rule was compared with, whose code had them in hand.
        problems: what is wrong, in the order of the log.
        differences: what another rule would have said otherwise, in the order of the log.
        seconds: how long it took.
    """

    events: int
    streams: int
    not_replayed: int
    until: int
    digest: str | None
    problems: tuple[ReplayProblem, ...]
    differences: tuple[RuleDifference, ...]
    seconds: float


def replay(
    log: EventLog,
    *,
    until: int | None = None,
    deployment_id: UUID | None = None,
    workers: int = 1,
    against: object = None,
    progress: Progress = lambda done, total: None,
) -> Replayed:
    """Replay the log, or one deployment, through the domain.

    Args:
        until: up to which position; None is the end of the log.
        workers: how many processes do the work, 1 to 64. Each has a part of the streams, and about 500,000
            events in memory at a time: of larger logs it reads a part after the other.
        against: another rule that the same history is compared with: a `Lifecycle`, a
            ``transitions.Machine`` with the same states and triggers, a `Policy`, or where one is, as
            ``package.module:attribute`` (which runs that module). After a difference the history goes on
            as it did.
        progress: called with the number of events read, and the total.

    Raises:
        ConfigurationError: if the number of workers is out of range, or ``against`` is none of these, or is
            given to several workers and not by name.
        ResourceNotFoundError: if there is no such deployment.
    """
    begin = time.monotonic()
    check_workers(workers)
    rule = _rule(against)
    if rule is not None and workers > 1 and not isinstance(against, str):
        raise ConfigurationError(
            "A lifecycle or policy given as an object cannot be passed to worker processes.",
            hint="Give it as package.module:attribute, or use one worker.",
        )
    end = log.position()
    until = end if until is None else min(until, end)
    total = until
    if deployment_id is not None:
        total = version_of(log, deployment_id)
        if total == 0:
            raise ResourceNotFoundError("Deployment", deployment_id)
    done = 0

    def tell(events: int) -> None:
        nonlocal done
        done += events
        progress(min(done, total), total)

    progress(0, total)
    if deployment_id is not None or workers == 1:
        streams = [(deployment_id, deployment_id)] if deployment_id else ranges(_passes(until, 1))
        parts = [_replay_part(log, until, streams, rule, tell)]
    else:
        each = _passes(until, workers)
        edges = ranges(workers * each)
        tasks = [(until, edges[first : first + each], against) for first in range(0, len(edges), each)]
        parts = log.in_workers(_replay_task, tasks, tell)
    problems = [problem for part in parts for problem in part.problems]
    events = sum(part.events for part in parts)
    if deployment_id is None and events < until:
        problems += _missing(log, until)
    progress(total, total)
    states = b"".join(part.digests for part in parts)
    return Replayed(
        events=events,
        streams=sum(part.streams for part in parts),
        not_replayed=sum(part.not_replayed for part in parts),
        until=until,
        digest=f"sha256:{sha256(_DIGEST_BEGINS + states).hexdigest()}" if rule is None else None,
        problems=tuple(sorted(problems, key=lambda problem: problem.position)),
        differences=tuple(
            sorted(
                (difference for part in parts for difference in part.differences),
                key=lambda difference: difference.position,
            )
        ),
        seconds=time.monotonic() - begin,
    )


def _replay_task(
    log: EventLog, task: tuple[int, Sequence[tuple[UUID, UUID]], object], tell: Callable[[int], None]
) -> "_Part":
    """Replay a part of the streams, in a worker."""
    until, streams, against = task
    return _replay_part(log, until, streams, _rule(against), tell)


def _rule(against: object) -> Rule | None:
    if against is None:
        return None
    return Rule(load(against) if isinstance(against, str) else against)


def _passes(events: int, workers: int) -> int:
    return min(_MOST_PASSES, max(1, -(-events // (workers * _EVENTS_IN_MEMORY))))


def _missing(log: EventLog, until: int) -> list[ReplayProblem]:
    """Return the gaps between positions, of which the log has none, and events that are of no stream."""
    problems: list[ReplayProblem] = []
    before = 0
    for page in log.records(until=until):
        for raw in page:
            if raw.position != before + 1:
                problems.append(_gap(before + 1, raw.position - 1))
            before = raw.position
            if not _ID.fullmatch(raw.stream):
                message = f"The stream id {raw.stream!r} is not a UUID."
                problems.append(_of(raw, Kind.UNDECODABLE, message))
    if before < until:
        problems.append(_gap(before + 1, until))
    return problems


def _gap(first: int, last: int) -> ReplayProblem:
    which = f"Position {first} is" if first == last else f"Positions {first} to {last} are"
    return ReplayProblem(first, "", 0, "", Kind.POSITION_GAP, f"{which} missing in the log.")


def _of(raw: EventRecord, kind: Kind, message: str) -> ReplayProblem:
    return ReplayProblem(raw.position, raw.stream, raw.stream_version, raw.topic, kind, message)


@dataclass(frozen=True)
class _Part:
    """What a part of a replay found; ``digests`` are ids and digests of its streams, one after the other."""

    events: int
    streams: int
    not_replayed: int
    digests: bytes
    problems: list[ReplayProblem]
    differences: list[RuleDifference]


def _replay_part(
    log: EventLog,
    until: int,
    ranges_of_streams: Sequence[tuple[UUID, UUID]],
    rule: Rule | None,
    tell: Callable[[int], None],
) -> _Part:
    part = _Part(0, 0, 0, b"", [], [])
    for streams in ranges_of_streams:
        replaying = _Replaying(log, rule)
        is_all = len(ranges_of_streams) == 1 and streams == ranges(1)[0]
        for page in log.records(until=until, stream_range=None if is_all else streams):
            for raw in page:
                replaying.take(raw)
            tell(len(page))
            replaying.events += len(page)
        part = _Part(
            part.events + replaying.events,
            part.streams + len(replaying.states.keys() | replaying.broken.keys()),
            part.not_replayed + replaying.not_replayed,
            part.digests + replaying.digests(),
            [*part.problems, *replaying.problems.values()],
            [*part.differences, *replaying.differences],
        )
    return part


class _Replaying:
    """Streams while they are replayed, each event in the order of the log."""

    def __init__(self, log: EventLog, rule: Rule | None) -> None:
        self._decode = partial(log.decode, whole=True)
        self._rule = rule
        self._topics = lifecycle_table().symbols
        self.states: dict[str, State] = {}
        self.broken: dict[str, int] = {}
        """Streams with a problem, and the version that was expected then."""
        self.foreign: dict[str, int] = {}
        """How far the streams are that an application has for events of its own."""
        self.problems: dict[str, ReplayProblem] = {}
        self.differences: list[RuleDifference] = []
        self.events = 0
        self.not_replayed = 0

    def take(self, raw: EventRecord) -> None:
        """Apply one event, or note what is wrong with it."""
        stream = raw.stream
        if self.broken and stream in self.broken:
            self._pass_over(raw)
            return
        state = self.states.get(stream)
        expected = (self.foreign.get(stream, 0) if state is None else state.version) + 1
        if raw.stream_version != expected or (expected == 1 and not _ID.fullmatch(stream)):
            self._break_off(raw, expected)
            return
        if raw.topic not in self._topics and self._take_foreign(raw, state, expected):
            return
        try:
            event = self._decode(raw)
            if stream in self.foreign:
                raise IllegalTransitionError(f"{event.TOPIC} does not belong to this kind of stream.")
            if self._rule is not None:
                self._compare(self._rule, state, event, raw)
            if type(state) is Deployment and isinstance(event, DeploymentEvent):
                _apply(state, event)
            elif state is None:
                self.states[stream] = _begun(event)
            else:
                _apply_to_other(state, event)
        except UndecodableEventError as error:
            self._break(raw, expected, Kind.UNDECODABLE, error.message)
        except ConfigurationError as error:
            if not isinstance(error, ConflictError):  # it is the other rule that does not work
                raise
            self._break(raw, expected, Kind.ILLEGAL_TRANSITION, error.message)
        except (OriginatorIDError, OriginatorVersionError, LookupError, ValueError) as error:
            message = f"{raw.topic} cannot follow what was before: {type(error).__name__}: {error}."
            self._break(raw, expected, Kind.ILLEGAL_TRANSITION, message)

    def _take_foreign(self, raw: EventRecord, state: State | None, expected: int) -> bool:
        """Follow a stream of an application's own; False if the event may be one of ours."""
        table = lifecycle_table()
        if table.symbol_of_topic(raw.topic) != table.foreign or not raw.state:  # a damaged one has none
            return False
        if state is None and (expected == 1 or raw.stream in self.foreign):
            self.foreign[raw.stream] = expected
        else:
            message = f"{raw.topic} does not belong to this kind of stream."
            self._break(raw, expected, Kind.ILLEGAL_TRANSITION, message)
        return True

    def digests(self) -> bytes:
        """Return ids and digests of the states, in the order of the ids."""
        return b"".join(
            [
                bytes.fromhex(stream.replace("-", ""))
                + sha256(canonical(self.states[stream]).encode("ascii")).digest()
                for stream in sorted(self.states)
            ]
        )

    def _compare(self, rule: Rule, state: State | None, event: Event, raw: EventRecord) -> None:
        if not isinstance(event, DeploymentEvent) or isinstance(state, NameReservation | ClockCorrections):
            return
        if state is not None or isinstance(event, Requested):
            difference = rule.compare(state, event, raw.position, raw.stream)
            if difference is not None:
                self.differences.append(difference)

    def _break(self, raw: EventRecord, expected: int, kind: Kind, message: str) -> None:
        self.broken[raw.stream] = expected
        sentence = f"{' '.join(message.split()).rstrip('.')}."
        self.problems[raw.stream] = ReplayProblem(
            raw.position, raw.stream, raw.stream_version, raw.topic, kind, sentence
        )
        self.not_replayed += 1

    def _break_off(self, raw: EventRecord, expected: int) -> None:
        """Note an event that is not the next one of its stream, or of no stream."""
        version = raw.stream_version
        if not _ID.fullmatch(raw.stream):  # SQLite lets anything be in a column
            self.broken[raw.stream] = 0
            self.not_replayed += 1
            self.events -= 1  # it is reported with what else is of no stream
        elif version < 1:
            self._break(raw, 0, Kind.UNDECODABLE, "Invalid stream version: versions start at 1.")
        elif version < expected:
            message = f"Event {version} of the stream comes after event {expected - 1}."
            self._break(raw, expected, Kind.ORDER, message)
        else:
            missing = (
                f"Event {expected} of the stream is"
                if version == expected + 1
                else (f"Events {expected} to {version - 1} of the stream are")
            )
            message = f"{missing} missing before event {version}."
            self._break(raw, expected, Kind.VERSION_GAP, message)

    def _pass_over(self, raw: EventRecord) -> None:
        """Count an event after a problem; what was missing may only have come too late."""
        self.not_replayed += 1
        problem = self.problems.get(raw.stream)
        if problem is None:  # it is of no stream
            self.events -= 1
        elif problem.kind is Kind.VERSION_GAP and raw.stream_version == self.broken[raw.stream]:
            self.problems[raw.stream] = ReplayProblem(
                problem.position,
                problem.stream_id,
                problem.stream_version,
                problem.topic,
                Kind.ORDER,
                f"Event {problem.stream_version} of the stream comes before event {raw.stream_version}, "
                f"which is at position {raw.position}.",
            )


def _begun(event: Event) -> State:
    """Return the state after the first event of a stream.

    Raises:
        ConflictError: if no history begins with it.
    """
    if isinstance(event, DeploymentEvent):
        return Deployment.replay([event])
    if isinstance(event, NameReserved):
        return NameReservation.replay(event.name, [event])
    if isinstance(event, NameEvent):
        raise IllegalTransitionError(f"The name {event.name!r} is released before it was reserved.")
    corrections = ClockCorrections()
    _apply_to_other(corrections, event)
    return corrections


def _apply_to_other(state: State, event: Event) -> None:
    """Apply an event to what is no deployment."""
    if isinstance(state, NameReservation) and isinstance(event, NameEvent):
        _check_holder(state, event)
        state.apply(event)
    elif isinstance(state, ClockCorrections) and isinstance(event, ClockCorrected):
        state.apply(event)
    else:
        raise IllegalTransitionError(f"{event.TOPIC} does not belong to this kind of stream.")


def _apply(deployment: Deployment, event: DeploymentEvent) -> None:
    """Apply an event to a deployment; as commands see to, it is of the newest revision, or the next one."""
    newest = len(deployment.revisions)
    if event.revision != newest + isinstance(event, UpdateRequested) and not isinstance(event, Requested):
        raise IllegalTransitionError(
            f"{deployment} is at revision {newest}: {event.TOPIC} of revision {event.revision} cannot follow."
        )
    deployment.apply(event)


def _check_holder(reservation: NameReservation, event: NameEvent) -> None:
    if event.name != reservation.name:
        raise IllegalTransitionError(
            f"{event.TOPIC} is of the name {event.name!r}, not {reservation.name!r}."
        )
    if isinstance(event, NameReserved):
        if reservation.holder not in (None, event.deployment_id):
            raise NameInUseError(reservation.name, reservation.holder or event.deployment_id)
    elif reservation.holder != event.deployment_id:
        raise IllegalTransitionError(
            f"The name {event.name!r} is released by deployment {event.deployment_id}, "
            "which does not hold it."
        )
