"""Applies the events of a log to the read models in a store."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid5

from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import NOTHING_READ, EventRecord, Mark, mark_of
from deployledger.domain.exceptions import ConfigurationError, LogDivergedError
from deployledger.domain.logs import logger
from deployledger.projections.folding import Folding, decode_all, read_by
from deployledger.projections.projection import Projection
from deployledger.projections.store import Applying, ReadModelStore, Table

LOGGER = logger("read_models")

Group = tuple[Projection[Any], ...]
"""Projections that are applied together."""

APPLIED_AT_ONCE = 8_000

_NAMESPACE = UUID("a3c1f5f0-5b0a-5d52-8d0d-1b9a5f5a7c21")
_DECODED_AT_ONCE = 100
_LONGEST_TURN_SECONDS = 0.2
_LOOKS = 3
_TRIES = 20
_LOOK_PAUSE_SECONDS = 0.02


class Applier:
    """Applies events to read models: of one log, in one store.

    Args:
        groups: projections that are applied together, in one transaction, so that their rows always fit
            each other. One group does not hold up another.
        process: what this process is called, in the names of locks of one machine.
        largest_row: how many bytes a row may take as JSON; an event that makes a larger one is parked.

    Attributes:
        projections: all projections, by name.
        groups: what was given.
    """

    def __init__(
        self,
        log: EventLog,
        store: ReadModelStore,
        groups: Sequence[Sequence[Projection[Any]]],
        *,
        process: str,
        largest_row: int,
    ) -> None:
        self.log = log
        self.store = store
        self.process = process
        self.largest_row = largest_row
        self.groups: list[Group] = [tuple(group) for group in groups]
        self.projections: dict[str, Projection[Any]] = {}
        self._groups: dict[str, Group] = {}
        for group in self.groups:
            for projection in group:
                if projection.name in self.projections:
                    before = self.projections[projection.name]
                    raise ConfigurationError(
                        f"Two different projections are called {projection.name!r}: {before.origin}, and "
                        f"{projection.origin}.",
                        hint="Give one of them another name, or remove it from the argument `projections` "
                        "or from DEPLOYLEDGER_PROJECTIONS.",
                    )
                self.projections[projection.name] = projection
                self._groups[projection.name] = group

    def projection(self, name: str) -> Projection[Any]:
        """Return a projection by its name.

        Raises:
            ConfigurationError: if there is none.
        """
        try:
            return self.projections[name]
        except KeyError:
            raise ConfigurationError(
                f"Unknown projection {name!r}.",
                hint=f"Use one of {', '.join(sorted(self.projections))}.",
            ) from None

    def group(self, projection: Projection[Any]) -> Group:
        """Return the projections that are applied together with this one, itself among them."""
        return self._groups[projection.name]

    # Applying ---------------------------------------------------------------------------------------

    def apply_some(self, group: Group, until: int, after: int, most: int) -> int:
        """Apply some of the events that a group lacks, and return up to where.

        Args:
            until: what is after this position may be left to others.
            after: up to where they are applied, as it seems.
            most: how many events to read at most, if that is fewer than are ever applied at once.

        Raises:
            LogDivergedError: if the log has no event up to where it is to be applied.
        """
        # Read before the transaction: who is in one takes no second connection, for which others may wait.
        limit = min(most, APPLIED_AT_ONCE) + 1
        pages = self.log.records(after=max(0, after - 1), limit=limit) if after < until else iter(())
        raws = next(pages, [])
        if after < until and (not raws or raws[-1].position <= after):
            raise LogDivergedError(self.log.described_as, position=until)
        with self.store.applying(group) as applying:
            reached = _reached(applying, group)
            if reached < after or after >= until:  # others of the group are further behind, or were rebuilt
                return reached
            return self._apply(applying, group, raws)

    def apply_until(self, applying: Applying, group: Group, until: int) -> None:
        """Apply events up to a position to the tables that are read, in a transaction."""
        while (reached := _reached(applying, group)) < until:
            last = min(until, reached + APPLIED_AT_ONCE)
            self._apply(applying, group, self.read(max(0, reached - 1), last))

    def read(self, after: int, until: int) -> list[EventRecord]:
        """Return the events after a position and up to another one, read on a connection of its own."""
        return [raw for page in self.log.records(after=after, until=until) for raw in page]

    def _apply(self, applying: Applying, group: Group, raws: Sequence[EventRecord]) -> int:
        """Apply events to the tables that are read, in a transaction; return up to where.

        That may not be all of them: nobody is to wait for long because a fold takes its time.

        Args:
            raws: the next events, after the last one that was applied, which is the first of them. What
                was applied already is passed over.

        Raises:
            LogDivergedError: if the events that were applied last are not the ones that the log has there.
        """
        raws = self._not_applied(applying, group, raws)
        if not raws:
            return _reached(applying, group)
        latest = time.monotonic() + _LONGEST_TURN_SECONDS
        last = raws[-1]
        work = []
        for projection in group:
            position = applying.mark(projection).position
            if position < last.position:
                table = applying.table(projection)
                folding = self.folding(projection, table)
                folding.load(raws)
                work.append((projection, position, table, folding))
        behind = [projection for projection, *_ in work]
        is_alike = len({(projection.topics, position) for projection, position, *_ in work}) == 1
        for some in _parts(raws):
            decoded = decode_all(some, behind, self.log.decode)
            for projection, position, _, folding in work:
                folding.apply(decoded if is_alike else read_by(projection, decoded, after=position))
            last = some[-1]
            if time.monotonic() > latest:
                break
        for projection, position, table, folding in work:
            table.save(folding.changes())
            if position < last.position:
                applying.advance(projection, mark_of(last))
        return last.position

    def _not_applied(
        self, applying: Applying, group: Group, raws: Sequence[EventRecord]
    ) -> Sequence[EventRecord]:
        """Return the events behind what was applied; check that they continue it."""
        marks = {applying.mark(projection) for projection in group}
        first = raws[0].position if raws else 1
        for mark in marks:
            at = mark.position - first
            last_applied = raws[at] if 0 <= at < len(raws) else None
            is_ahead = bool(raws) and mark.position > raws[-1].position  # checked when it was applied
            if mark.position and not is_ahead and (last_applied is None or mark_of(last_applied) != mark):
                raise LogDivergedError(self.log.described_as, position=mark.position)
        return raws[min(marks).position - first + 1 :]

    def folding(self, projection: Projection[Any], table: Table, *, is_new: bool = False) -> Folding:
        """Return what applies events to the rows of a table."""
        return Folding(projection, table, self.log, largest_row=self.largest_row, is_new=is_new)

    # Which log it is --------------------------------------------------------------------------------

    def _mark_at(self, position: int) -> Mark:
        """Return the mark of a reader that has read the log up to a position."""
        raws = next(self.log.records(after=position - 1, limit=1), []) if position else []
        return mark_of(raws[0]) if raws and raws[0].position == position else NOTHING_READ

    def check_has(self, mark: Mark, end: Mark | None = None) -> None:
        """Check that the log has what was applied.

        Args:
            mark: up to where it was.
            end: the end of the log, looked at later, if it was.

        Raises:
            LogDivergedError: if it has not.
        """
        if end is not None and mark.position >= end.position:
            expected = end if mark.position == end.position else NOTHING_READ
        else:
            expected = self._mark_at(mark.position)
        if mark.position and mark != expected:
            raise LogDivergedError(self.log.described_as, position=mark.position)

    def forget_another_log(self, projections: Sequence[Projection[Any]]) -> list[Projection[Any]]:
        """Leave those without rows that were made from another log, as when an older one was restored.

        Returns:
            Those projections; they have to be rebuilt.
        """
        forgotten: list[Projection[Any]] = []
        for projection in projections:
            mark = self.store.mark(projection)
            if self._mark_at(mark.position) != mark:
                if self.store.forget(projection, mark):  # else another process did, and reported it
                    LOGGER.warning(
                        "The read model %s belongs to another event log: event %d is not the one it was "
                        "built from. It is rebuilt.",
                        projection.label,
                        mark.position,
                    )
                forgotten.append(projection)
        return forgotten

    # Locks ------------------------------------------------------------------------------------------

    def lock(self, purpose: str, projection: Projection[Any]) -> UUID:
        """Return the name of a lock among all processes that use the same database of read models."""
        database = self.store.described_as
        if not database.startswith("postgresql:"):  # a file of this machine, or memory of this process
            owner = self.process if database == "memory" else self.process.partition(":")[0]
            database = f"{owner} {database}"
        return uuid5(_NAMESPACE, f"{purpose} {projection.name} {projection.version} {database}")

    @contextmanager
    def exclusively(self, projection: Projection[Any]) -> Iterator[bool]:
        """Enter with whether nobody else rebuilds this projection."""
        lock = self.lock("rebuild", projection)
        for _ in range(_TRIES):  # who only looks at it has it for a moment
            with self.log.ownership(lock) as is_free:
                if is_free:
                    yield True
                    return
            time.sleep(_LOOK_PAUSE_SECONDS)
        yield False

    def is_held(self, purpose: str, projection: Projection[Any]) -> bool:
        """Return whether a lock is held by who works, not by somebody who looks at it as we do."""
        for _ in range(_LOOKS):
            with self.log.ownership(self.lock(purpose, projection)) as is_free:
                if is_free:
                    return False
            time.sleep(_LOOK_PAUSE_SECONDS)
        return True


def _reached(applying: Applying, group: Group) -> int:
    return min(applying.mark(projection).position for projection in group)


def _parts(raws: Sequence[EventRecord]) -> Iterator[Sequence[EventRecord]]:
    """Yield a few events at a time: what is decoded is soon done with, and takes no room in the meantime."""
    for start in range(0, len(raws), _DECODED_AT_ONCE):
        yield raws[start : start + _DECODED_AT_ONCE]
