"""The order of events in evidence, and what belongs to what was selected."""

from datetime import datetime
from uuid import UUID

from deployledger.audit.evidence.checks import Check
from deployledger.audit.evidence.cloud_events import Recorded
from deployledger.audit.evidence.manifest import EVENTS, MANIFEST, EvidenceSelection, Manifest
from deployledger.audit.evidence.name_events import Naming
from deployledger.audit.leaf import read_head
from deployledger.domain import topics
from deployledger.domain.times import corrects_clock
from deployledger.domain.timestamps import from_microseconds, rfc3339


class Ordering:
    """Checks the order of events, one after the other.

    Attributes:
        naming: of evidence of a deployment, the names that it had.
    """

    def __init__(self, selection: EvidenceSelection, check: Check) -> None:
        self.naming = Naming(selection.deployment_id) if selection.deployment_id is not None else None
        self._selection = selection
        self._check = check
        self._first: int | None = None
        self._last = 0
        self._version = 0
        self._recorded_at: int | None = None
        self._correction: int | None = None
        self._is_whole = True

    def skip(self) -> None:
        """Leave out an event that cannot be read, which is a problem of its own."""
        self._last += 1
        self._version += 1
        self._is_whole = False

    def add(self, event: Recorded, line: int) -> None:
        """Check the next event."""
        selection, add = self._selection, self._check.add
        if self._first is None:
            self._first = event.position
        if event.position <= self._last:
            add(EVENTS, f"position {event.position} comes after position {self._last}", line)
        elif selection.is_range and self._last and event.position != self._last + 1:
            add(EVENTS, f"events are missing between the positions {self._last} and {event.position}", line)
        self._last = event.position
        if problem := self._problem_of_time(event):
            add(EVENTS, problem, line)
        if self.naming is not None:
            self._add_of_deployment(event, line, self.naming)
        elif not is_in(event.time, selection):
            add(EVENTS, f"it was recorded at {rfc3339(event.time)}, which is outside of the range", line)

    def _problem_of_time(self, event: Recorded) -> str:
        """Return what is wrong with the time of an event, beside the one before it; empty if nothing."""
        before, self._recorded_at = self._recorded_at, event.recorded_at
        falls = before is not None and event.recorded_at < before
        if falls and not corrects_clock(event.topic, event.stream_id):
            return "it was recorded before the preceding event"
        return ""

    def _add_of_deployment(self, event: Recorded, line: int, naming: Naming) -> None:
        deployment_id, add = self._selection.deployment_id, self._check.add
        if UUID(bytes=event.stream_id) == deployment_id:
            if event.stream_version != self._version + 1:
                add(
                    EVENTS,
                    f"event {event.stream_version} of the deployment does not follow event {self._version}",
                    line,
                )
            if not topics.is_of_deployment(event.topic):
                add(EVENTS, f"it is not an event of a deployment: {event.topic}", line)
            self._version = event.stream_version
            naming.add(event)
        elif corrects_clock(event.topic, event.stream_id):
            before, self._correction = self._correction, event.stream_version
            if before not in (None, event.stream_version - 1):
                add(EVENTS, f"correction {event.stream_version} of the clock does not follow {before}", line)
        elif not naming.add_of_name(event):
            add(EVENTS, f"it is not about deployment {deployment_id}", line)

    def end(self, manifest: Manifest) -> None:
        """Check what the manifest says of all of them."""
        selection, add = manifest.selection, self._check.add
        if self._first is not None:
            if (self._first, self._last) != (selection.first, selection.last):
                add(
                    EVENTS,
                    f"it has the positions {self._first} to {self._last}, but the manifest says "
                    f"{selection.first} to {selection.last}",
                )
        elif not selection.is_range or selection.last != selection.first - 1:
            add(EVENTS, f"it has no events, but the manifest says {selection.first} to {selection.last}")
        if not selection.is_range and not self._version:
            add(EVENTS, "it has no event of the deployment")
        if selection.is_range and manifest.events != selection.last - selection.first + 1:
            add(
                MANIFEST,
                f"it says {manifest.events} events at the positions {selection.first} to {selection.last}",
            )
        if selection.last > manifest.size:
            add(MANIFEST, "it has positions beyond the checkpoint")
        if selection.since is not None and selection.until is not None and selection.since >= selection.until:
            add(MANIFEST, "the range ends before it begins")
        if self.naming is not None and self._is_whole:
            for problem in self.naming.problems():
                add(EVENTS, problem)
            if self.naming.name != selection.name:
                add(
                    MANIFEST,
                    f"it names the deployment {selection.name!r}, but its events name it "
                    f"{self.naming.name!r}",
                )


def problem_of_bound(leaf: bytes, position: int, selection: EvidenceSelection) -> str:
    """Return what is wrong with the leaf of an event beside a range; empty if nothing."""
    try:
        actual, microseconds = read_head(leaf)
        recorded_at = from_microseconds(microseconds)
    except (ValueError, OverflowError) as error:
        return str(error)
    if actual != position:
        return f"the event beside the range is that at position {actual}, not at {position}"
    if is_in(recorded_at, selection):
        return f"the event at position {position} was recorded within the range, but is not included"
    return ""


def is_in(moment: datetime, selection: EvidenceSelection) -> bool:
    """Return whether a time is in the range that was selected."""
    since, until = selection.since, selection.until
    return (since is None or since <= moment) and (until is None or moment < until)
