"""Reads the log from one moment to another, with the deployment name of each event."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from uuid import UUID

from deployledger.domain import events
from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import EventRecord, RecordedEvent
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import (
    ConfigurationError,
    EventLogUnavailableError,
    UndecodableEventError,
)
from deployledger.domain.moments import check_time
from deployledger.domain.names import NameEvent
from deployledger.service.listing import checked_text
from deployledger.service.past import Past
from deployledger.service.patient_threads import PatientThreads

_LOOK_BACK = 10_000
"""The number of events that are read together when searching for the last matching ones."""

_TRY_AGAIN_SECONDS = 1.0
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_NAMING = frozenset({events.Requested.TOPIC, events.UpdateRequested.TOPIC})


@dataclass(frozen=True)
class LoggedEvent:
    """An event of the log, and the deployment that it belongs to.

    Attributes:
        recorded: the event, its position, and when it was recorded.
        deployment_name: the name that the deployment had right after the event, or that the event reserves or
            releases; None if it is about no deployment, or no event that can be read says the name.
    """

    recorded: RecordedEvent
    deployment_name: str | None


@dataclass(frozen=True, kw_only=True)
class LogQuery:
    """Which events of the log are wanted; all of it must hold. See ``DeploymentService.read_log``.

    Raises:
        ConfigurationError: if parts of it contradict each other, or a time has no zone.
    """

    after: int | None = None
    last: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    topics: Sequence[str] = ()
    deployment_id: UUID | None = None
    actor: str | None = None
    name_contains: str | None = None

    def __post_init__(self) -> None:
        if self.after is not None and self.since is not None:
            raise ConfigurationError(
                "A position and a time (after and since) contradict each other: both say where to begin.",
                hint="Give one of them.",
            )
        for name in ("actor", "name_contains"):
            if getattr(self, name) is not None:
                checked_text(name, getattr(self, name))
        for moment in (self.since, self.until):
            if moment is not None:
                check_time(moment)
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ConfigurationError(
                f"since={self.since.isoformat()} is not before until={self.until.isoformat()}: "
                "the range is empty.",
                hint="Make since the earlier time.",
            )

    def wants(self, logged: LoggedEvent) -> bool:
        """Return whether an event has the actor and the name."""
        if self.actor is not None and logged.recorded.event.actor != self.actor:
            return False
        if self.name_contains is None:
            return True
        name = logged.deployment_name
        return name is not None and self.name_contains.casefold() in name.casefold()

    @property
    def decodes(self) -> bool:
        """Whether only a decoded event tells if it is wanted."""
        return self.actor is not None or self.name_contains is not None


class LogReader:
    """Reads the selected events of a log.

    Args:
        past: which positions moments of the past mean.
        now: the clock; returns aware datetimes in UTC.
        threads: runs the calls that block.
    """

    def __init__(
        self, log: EventLog, past: Past, query: LogQuery, now: Callable[[], datetime], threads: PatientThreads
    ) -> None:
        self._log = log
        self._past = past
        self._query = query
        self._now = now
        self._blocking = threads.run

    async def read(self, *, follow: bool) -> AsyncIterator[LoggedEvent]:
        """Yield the events in the order of the log.

        Args:
            follow: whether to go on as events are added, until the last moment that is wanted.
        """
        query, until = self._query, self._query.until
        after = await self._blocking(self._begin)
        opened = partial(self._log.follow, after, topics=query.topics, stream_id=query.deployment_id)
        with await self._blocking(opened) as follower:
            while follow and (until is None or until > self._now()):
                left = None if until is None else max(0.0, (until - self._now()).total_seconds())
                try:
                    batch = await asyncio.wait_for(anext(follower), left)
                except (TimeoutError, StopAsyncIteration):
                    break
                for logged in await self._wanted_at_last(batch.events):
                    yield logged
            end = await self._blocking(self._end)
            while follower.position < end and (last := await self._blocking(follower.next_batch, 0)):
                for logged in await self._blocking(self._wanted, last.events):
                    if logged.recorded.position <= end:
                        yield logged

    async def _wanted_at_last(self, recorded: Sequence[RecordedEvent]) -> list[LoggedEvent]:
        """Return the wanted ones of some events, whatever outage comes in between, as a follower does."""
        while True:
            try:
                return await self._blocking(self._wanted, recorded)
            except EventLogUnavailableError:
                await asyncio.sleep(_TRY_AGAIN_SECONDS)

    def _wanted(self, recorded: Sequence[RecordedEvent]) -> list[LoggedEvent]:
        return [logged for logged in _named(self._log, recorded) if self._query.wants(logged)]

    def _end(self) -> int:
        """Return the position of the last event before the end of the time that is wanted."""
        until = self._query.until
        if until is None or until > self._now():
            return self._log.position()
        return self._past.position_before(until)

    def _begin(self) -> int:
        """Return the position behind which to begin; events in front of it need not decode."""
        query = self._query
        if query.after is not None:
            return query.after
        if query.since is not None:
            return self._past.position_before(query.since)
        if query.last is None:
            return 0
        start = end = self._end()
        step = query.last
        if query.deployment_id is not None:
            step = end
        elif query.topics or query.decodes:
            step = _LOOK_BACK
        streams = None if query.deployment_id is None else [query.deployment_id]
        positions: list[int] = []
        while start > 0 and len(positions) < query.last:
            until, start = start, max(0, start - step)
            pages = self._log.records(after=start, until=until, streams=streams)
            raws = [raw for page in pages for raw in page if not query.topics or raw.topic in query.topics]
            positions[:0] = self._positions(raws)
        return positions[-query.last :][0] - 1 if positions else end

    def _positions(self, raws: Sequence[EventRecord]) -> list[int]:
        """Return the positions of those of some events that are wanted, as far as they decode."""
        if not self._query.decodes:
            return [raw.position for raw in raws]
        recorded: list[RecordedEvent] = []
        for raw in raws:
            with suppress(UndecodableEventError):
                recorded.append(RecordedEvent(raw.position, _EARLIEST, self._log.decode(raw)))
        return [logged.recorded.position for logged in self._wanted(recorded)]


def _named(log: EventLog, recorded: Sequence[RecordedEvent]) -> list[LoggedEvent]:
    """Return events of a log, in its order, each with the name that its deployment had right after it."""
    deployments = {
        logged.event.originator_id for logged in recorded if isinstance(logged.event, DeploymentEvent)
    }
    names: dict[UUID, list[tuple[int, str]]] = {deployment_id: [] for deployment_id in deployments}
    if deployments:
        for raw in chain.from_iterable(log.records(streams=list(deployments), until=recorded[-1].position)):
            if raw.topic not in _NAMING:
                continue
            with suppress(UndecodableEventError):
                event = log.decode(raw)
                if isinstance(event, events.Requested | events.UpdateRequested):
                    names[event.originator_id].append((raw.position, event.name))

    def name_after(logged: RecordedEvent) -> str | None:
        if isinstance(logged.event, NameEvent):
            return logged.event.name
        had = names.get(logged.event.originator_id, [])
        return next((name for position, name in reversed(had) if position <= logged.position), None)

    return [LoggedEvent(logged, name_after(logged)) for logged in recorded]
