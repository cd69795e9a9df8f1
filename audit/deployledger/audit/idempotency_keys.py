"""Checks idempotency keys: each with the event that its command stored."""

from collections.abc import Iterator
from uuid import UUID

from deployledger.audit.log_parts import MOST_PROBLEMS, LogProblem
from deployledger.domain.event_log import EventLog, KeyedEvent, KeyRecord
from deployledger.domain.event_records import EventRecord, undamaged
from deployledger.domain.exceptions import EventLogError, UndecodableEventError
from deployledger.domain.fingerprints import is_of_command
from deployledger.domain.timestamps import from_microseconds, rfc3339

KEY = "key"
"""The kind of the problem that an idempotency key does not agree with the event that it names."""

_FARTHEST_APART = 60_000_000
"""A key and its event are stored in one transaction, one right after the other, in microseconds."""


class KeyCheck:
    """What checking the idempotency keys of a log found.

    Args:
        until: only keys of events up to this position.

    Attributes:
        problems: what is wrong with which key.
        undecided: how many keys have a fingerprint that cannot be made again from their events, because the
            request may have had credentials.
    """

    def __init__(self, log: EventLog, until: int) -> None:
        self.problems: list[LogProblem] = []
        self.undecided = 0
        self._log = log
        self._named: dict[tuple[bytes, int], str] = {}
        try:
            for page in log.keys(until=until):
                for keyed in page:
                    self.problems += self._wrong(keyed)
                if len(self.problems) >= MOST_PROBLEMS:
                    break
        except EventLogError as error:
            self.problems.append(LogProblem(None, KEY, f"{error.message}"))

    def _wrong(self, keyed: KeyedEvent) -> Iterator[LogProblem]:
        key, event = keyed.key, keyed.event
        what = f"The idempotency key {key.key!r} names"
        if event is None:
            place = f"version {key.version} of deployment {UUID(bytes=key.deployment_id)}"
            yield LogProblem(None, KEY, f"{what} {place}, and there is no such event.")
            return
        what = f"{what} event {event.position} ({event.topic})"
        earlier = self._named.setdefault((key.deployment_id, key.version), key.key)
        if earlier != key.key:
            yield LogProblem(event.position, KEY, f"{what}, which the key {earlier!r} also names.")
        try:
            agrees = is_of_command(self._log.decode(event, whole=True), key.fingerprint)
        except UndecodableEventError:  # which is reported of the event
            return
        if agrees is False:
            message = f"{what}, which a command with another fingerprint stored."
            yield LogProblem(event.position, KEY, message)
        elif agrees is None:
            self.undecided += 1
        if self._are_apart(key, event):
            at, stored = _time(key.recorded_at), _time(event.recorded_at)
            yield LogProblem(
                event.position, KEY, f"{what}, recorded at {stored}; the key was recorded at {at}."
            )

    def _are_apart(self, key: KeyRecord, event: EventRecord) -> bool:
        apart = event.recorded_at - key.recorded_at
        if apart <= _FARTHEST_APART:
            return apart < -_FARTHEST_APART
        # An event may have the time of the one before it, while the clock is behind that; no key has.
        position = event.position
        before = next(undamaged(self._log.records(after=position - 2, until=position - 1, metadata=True)), ())
        return not before or before[0].recorded_at < event.recorded_at


def _time(microseconds: int) -> str:
    try:
        return rfc3339(from_microseconds(microseconds))
    except OverflowError:
        return f"{microseconds} microseconds after 1970"
