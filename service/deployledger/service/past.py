"""A deployment at a moment of the past: a fold of its events up to there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, takewhile
from typing import cast
from uuid import UUID

from deployledger.domain import moments
from deployledger.domain.event_log import EventLog, recorded_at
from deployledger.domain.event_records import EventRecord, time_of
from deployledger.domain.exceptions import (
    ConfigurationError,
    EventLogError,
    NotYetRequestedError,
    ResourceNotFoundError,
    RevisionNotFoundError,
)
from deployledger.domain.logs import logger
from deployledger.domain.moments import AsOf, AtRevision
from deployledger.domain.names import NameEvent, reservation_id
from deployledger.domain.responses import (
    DeploymentDifference,
    DeploymentHistoryEntry,
    DeploymentStatusResponse,
    PastMoment,
)
from deployledger.domain.times import LogTimes
from deployledger.domain.timestamps import MICROSECOND
from deployledger.projections.history import Applied, apply_all, differences, entries, past_status
from deployledger.projections.status import DEPLOYMENT_STATUS
from deployledger.service.repository import check_id

CLOCK_LOGGER = logger("clock")

_NOW = "now"
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass
class Past:
    """The past of deployments, read from the event log alone. Methods block.

    Args:
        largest_row: how many bytes the status of a deployment may take, as in the read models.
        now: the clock; returns aware datetimes in UTC.
    """

    log: EventLog
    largest_row: int
    now: Callable[[], datetime]
    _end: int = 0

    def status(self, deployment_id: UUID, as_of: AsOf | str) -> DeploymentStatusResponse:
        """Return a deployment as it was. See ``DeploymentService.get_deployment_status``."""
        check_id(deployment_id)
        moment = self._checked(as_of)
        until = self._until(moment)
        applied = self._applied(self._records(deployment_id, until))
        return self._status(deployment_id, applied, moment, until)

    def history(self, deployment_id: UUID) -> list[DeploymentHistoryEntry]:
        """Return every event of a deployment. See ``DeploymentService.get_deployment_history``."""
        return entries(self._whole(deployment_id), self.log.times().time_of)

    def difference(
        self, deployment_id: UUID, before: AsOf | str | None, after: AsOf | str | None
    ) -> DeploymentDifference:
        """Return what differs between two moments. See ``DeploymentService.diff_deployment``."""
        second = None if after is None else self._checked(after)
        first = None if before is None else self._checked(before)
        # Before the events are read: then nothing more can be recorded at these times.
        first_until = None if first is None else self._until(first)
        second_until = None if second is None else self._until(second)
        past = self._whole(deployment_id)
        if second is None:
            second_until = past[-1].record.position
        latest = self._status(deployment_id, past, second or past[-1].record.position, second_until)
        if first is None:
            if latest.revision == 1:
                raise ConfigurationError(
                    f"Deployment {latest.deployment_name!r} has no revision before revision 1 "
                    "to compare with.",
                    hint="Give the first moment: a time, a position or a revision (--from).",
                )
            first = AtRevision(latest.revision - 1)
        earliest = self._status(deployment_id, past, first, first_until)
        times = self.log.times()
        return DeploymentDifference(
            deployment_id=deployment_id,
            deployment_name=latest.deployment_name,
            before=_past_moment(past, earliest, moments.describe(first), times),
            after=_past_moment(past, latest, _NOW if second is None else moments.describe(second), times),
            changes=differences(earliest, latest),
        )

    def position(self, as_of: AsOf | str, deployment_id: UUID | None = None) -> int:
        """Return the position that a moment means to all deployments; 0 if it was before the first event.

        Args:
            deployment_id: the deployment that a revision is of.
        """
        moment = self._checked(as_of, of_all=deployment_id is None)
        if isinstance(moment, AtRevision) and deployment_id is not None:
            return self.status(deployment_id, moment).position or 0
        return cast("int", self._until(moment))

    def position_before(self, moment: datetime) -> int:
        """Return the position of the last event that happened before a time; 0 if none did."""
        self._checked(moment)
        return cast("int", self._until(moment - MICROSECOND if moment - _EARLIEST >= MICROSECOND else moment))

    def holder(self, name: str, as_of: AsOf | str) -> UUID | None:
        """Return which deployment had a name at a moment, or had it last by then; None if none had.

        A revision is of the deployment that the name means now, so None then, too.
        """
        moment = moments.check(as_of)
        if isinstance(moment, AtRevision):
            return None
        until = self.log.position_at(moment) if isinstance(moment, datetime) else moment
        records = self._records(reservation_id(name), until)
        if not records:
            return None
        event = self.log.decode(records[-1])
        return event.deployment_id if isinstance(event, NameEvent) else None

    def _records(
        self, stream_id: UUID, until: int | None = None, limit: int | None = None
    ) -> list[EventRecord]:
        pages = self.log.records(streams=[stream_id], until=until, limit=limit, metadata=True)
        return [*chain.from_iterable(pages)]

    def _whole(self, deployment_id: UUID) -> list[Applied]:
        check_id(deployment_id)
        past = self._applied(self._records(deployment_id))
        if not past:
            raise ResourceNotFoundError("Deployment", deployment_id)
        return past

    def _applied(self, records: Sequence[EventRecord]) -> list[Applied]:
        if not records or not DEPLOYMENT_STATUS.reads(records[0].topic):  # or it is a name's stream
            return []
        return list(apply_all(records, self.log.decode, largest_row=self.largest_row))

    def _until(self, moment: AsOf) -> int | None:
        """Return the position that a moment means to all deployments; None of a revision, which each has."""
        match moment:
            case datetime():
                times = self.log.times(settled=moment)
                position = times.position_at(moment)
                unclear = times.unclear(moment)
                if unclear is not None:
                    CLOCK_LOGGER.warning(
                        "%s. The answer for %s %s.",
                        unclear,
                        moments.describe(moment),
                        "includes them" if unclear.first <= position else "does not include them",
                    )
                return position
            case AtRevision():
                return None
            case _:
                return moment

    def _status(
        self, deployment_id: UUID, applied: Sequence[Applied], moment: AsOf, until: int | None
    ) -> DeploymentStatusResponse:
        past = _by(applied, moment, until)
        if not past:
            raise self._not_there(deployment_id, moment)
        if isinstance(moment, AtRevision):
            newest = max(map(_revision, applied))
            if moment.number > newest:
                row = past[-1].row
                raise RevisionNotFoundError(
                    row.name if row else str(deployment_id), moment.number, newest=newest
                )
        position = moment if isinstance(moment, int) else past[-1].record.position
        answer = past_status(past, position)
        if answer is None:
            first = past[0]
            raise EventLogError(
                f"Deployment {deployment_id} cannot be shown: event {first.record.position} of the log, "
                f"its first one, cannot be applied ({first.error}).",
                hint="Upgrade deployledger, or restore the database from a backup.",
            )
        return answer

    def _checked(self, as_of: AsOf | str, *, of_all: bool = False) -> AsOf:
        """Return a moment that has come; what is read of it afterwards is all that there is."""
        moment = moments.check(as_of, of_all=of_all)
        if isinstance(moment, datetime):
            now = self.now()
            if moment > now and moment > self._latest():
                raise ConfigurationError(
                    f"The time {moments.describe(moment)} is in the future: "
                    f"it is {moments.describe(now)} now.",
                    hint="Omit the moment to ask for the current state.",
                )
        elif isinstance(moment, int) and moment > self._end:
            self._end = self.log.position()  # it only rises, so it is not looked up again for what is before
            if moment > self._end:
                raise ConfigurationError(
                    f"There is no position {moment} in the event log: it ends at position {self._end}.",
                    hint="`deployledger log tail` shows the last positions.",
                )
        return moment

    def _latest(self) -> datetime:
        """Return the last moment that has come for the log, whose clock may be ahead of ours."""
        times = self.log.times()
        last = recorded_at(self.log, times.end)
        return times.now if times.ahead is not None or last is None else last

    def _not_there(self, deployment_id: UUID, moment: AsOf) -> ResourceNotFoundError:
        first = self._records(deployment_id, limit=1)
        if not first or not DEPLOYMENT_STATUS.reads(first[0].topic):
            return ResourceNotFoundError("Deployment", deployment_id)
        return NotYetRequestedError(
            deployment_id,
            moments.describe(moment),
            began_at=_time_of(first[0], self.log.times()),
            position=first[0].position,
        )


def _by(applied: Sequence[Applied], moment: AsOf, until: int | None) -> list[Applied]:
    """Return the events up to a moment, which means the position ``until`` unless it is a revision."""
    if isinstance(moment, AtRevision):
        return [*takewhile(lambda event: _revision(event) <= moment.number, applied)]
    return [event for event in applied if until is None or event.record.position <= until]


def _revision(applied: Applied) -> int:
    """Return the revision that an event is about; none is known of an event that does not decode."""
    return applied.event.revision if applied.event is not None else 0


def _past_moment(
    past: Sequence[Applied], answer: DeploymentStatusResponse, asked_for: str, times: LogTimes
) -> PastMoment:
    position = answer.position or 0
    last = [event.record for event in past if event.record.position <= position][-1]
    return PastMoment(
        asked_for=asked_for,
        position=position,
        recorded_at=_time_of(last, times),
        revision=answer.revision,
    )


def _time_of(record: EventRecord, times: LogTimes) -> datetime:
    """Return when an event counts as happened."""
    return times.time_of(record.position) or time_of(record)
