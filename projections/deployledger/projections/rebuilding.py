"""Rebuilds read models beside those that are read."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from deployledger.domain.event_records import Mark, mark_of
from deployledger.domain.exceptions import ConflictError, LogDivergedError
from deployledger.projections.applying import Applier, Group
from deployledger.projections.folding import decode_all, read_by
from deployledger.projections.partitioning import Progress, check_workers, ranges
from deployledger.projections.projection import Projection
from deployledger.projections.rows import Changes, PastRow, StoredRow
from deployledger.projections.store import Applying, Table

_ROWS_AT_HAND = 300
_MOST_ROWS_AT_HAND = 4_000
_WRITTEN_AT_ONCE = 4_000
_CAUGHT_UP_AT_ONCE = 2_000
_NEAR = 500

Built = tuple[Projection[Any], int]
"""A projection, and the number of a table of its rows."""


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did.

    Attributes:
        name: the projection.
        events: how many events were read.
        seconds: how long it took, until the new rows were read.
        position: up to where the log was applied then.
    """

    name: str
    events: int
    seconds: float
    position: int


class Task(NamedTuple):
    """Tables to fill from the log.

    Attributes:
        tables: the projections, and the numbers of their tables.
        until: up to which position.
        streams: only from streams whose ids are from the first to the second one.
    """

    tables: tuple[Built, ...]
    until: int
    streams: tuple[UUID, UUID] | None = None


Fill = Callable[[Applier, Sequence[Task], Callable[[int], None]], None]
"""Does tasks, all at the same time, and calls back with every number of events that were read."""


class Rebuilder:
    """Rebuilds read models: into new tables, which are read when they are complete.

    Args:
        fill: fills tables from the log, by several workers at once if it can.
    """

    def __init__(self, applier: Applier, fill: Fill) -> None:
        self.applier = applier
        self._fill = fill

    def rebuild(self, names: Sequence[str], workers: int, progress: Progress) -> list[Rebuilt]:
        """Rebuild read models; see `ReadModels.rebuild`."""
        store = self.applier.store
        projections = self.chosen(names, workers)
        with self.building(projections) as tables:
            begin = time.monotonic()
            until = self.fill(tables, workers, progress)
            for projection, generation in tables:
                store.complete(projection, generation)
            rebuilt: list[Rebuilt] = []
            for group in self.applier.groups:
                of_group = [built for built in tables if built[0] in group]
                if of_group:
                    position, old = self._switch(group, of_group, until)
                    seconds = time.monotonic() - begin
                    for projection, _ in of_group:
                        store.record_rebuild(projection, seconds, until.position)
                        rebuilt.append(Rebuilt(projection.name, until.position, seconds, position))
                    for projection, generation in old:
                        store.drop(projection, generation)
            return rebuilt

    def chosen(self, names: Sequence[str], workers: int) -> list[Projection[Any]]:
        """Return the projections with these names.

        Raises:
            ConfigurationError: if there is no such projection, or the number of workers is out of range.
        """
        check_workers(workers)
        return [self.applier.projection(name) for name in dict.fromkeys(names)]

    @contextmanager
    def building(self, projections: Sequence[Projection[Any]]) -> Iterator[list[Built]]:
        """Enter with new tables, which nobody else builds; what is not read afterwards is dropped."""
        applier = self.applier
        tables: list[Built] = []
        with ExitStack() as stack:
            for projection in sorted(projections, key=lambda projection: projection.name):
                if not stack.enter_context(applier.exclusively(projection)):
                    raise ConflictError(
                        f"Projection {projection.name} is being rebuilt or verified.",
                        hint="Wait until it is done; `deployledger projections status` shows its progress.",
                    )
            applier.log.position()  # this opens the log's database, which may be that of the rows
            groups = [applier.group(projection) for projection in projections]
            wanted = list(dict.fromkeys(projection for group in groups for projection in group))
            missing = applier.store.prepare(wanted)
            applier.forget_another_log([projection for projection in wanted if projection not in missing])
            try:
                for projection in projections:
                    tables.append((projection, applier.store.build(projection)))
                yield tables
            finally:
                for projection, generation in tables:
                    applier.store.drop(projection, generation)

    def fill(
        self,
        tables: Sequence[Built],
        workers: int,
        progress: Progress,
        streams: tuple[UUID, UUID] | None = None,
    ) -> Mark:
        """Fill the tables up to the end of the log, and return that."""
        applier = self.applier
        end = applier.log.end()
        until = end.position
        # One group does not get what another one may have changed, and is as independent as when it follows.
        by_stream = [
            of_group
            for group in applier.groups
            if (of_group := tuple(table for table in tables if table[0] in group and table[0].is_by_stream))
        ]
        by_key = [built for built in tables if not built[0].is_by_stream]
        parts = [streams] if streams else (ranges(workers) if workers > 1 else [None])
        total = until * (len(by_stream) + len(by_key))
        done = 0

        def count(events: int) -> None:
            nonlocal done
            done += events
            progress(min(done, total), total)

        progress(0, total)
        for of_group in by_stream:
            self._fill(applier, [Task(of_group, until, part) for part in parts], count)
        for (
            built
        ) in by_key:  # the events of one row are in many streams: they are read in the order of the log
            self._fill(applier, [Task((built,), until)], count)
        progress(total, total)
        applier.check_has(end)  # else the log has gone back meanwhile
        return end

    def level(
        self,
        group: Group,
        tables: Sequence[Built],
        reached: Mark,
        then: Callable[[Applying, Mark], None] = lambda applying, mark: None,
    ) -> Mark:
        """Bring tables to the position of those that are read, and then do something in that transaction."""
        applier = self.applier
        while (end := applier.log.position()) - reached.position > _NEAR:
            with applier.store.applying([]) as applying:
                reached = self._catch_up(applying, tables, reached, end)
        with applier.store.applying(group) as applying:
            live = tuple(projection for projection in group if applying.is_there(projection))
            target = max((applying.mark(projection) for projection in live), default=reached)
            while reached.position < target.position:
                reached = self._catch_up(applying, tables, reached, target.position)
            if reached.position > target.position:  # those that are read are brought to where the others are
                applier.apply_until(applying, live, reached.position)
            elif target != reached:
                raise LogDivergedError(applier.log.described_as, position=target.position)
            then(applying, reached)
        return reached

    def _catch_up(self, applying: Applying, tables: Sequence[Built], after: Mark, until: int) -> Mark:
        """Apply some events to tables that are being built, and return up to where."""
        applier, last = self.applier, after.position
        raws = applier.read(max(0, last - 1), min(until, last + _CAUGHT_UP_AT_ONCE))
        if last:
            if not raws or mark_of(raws[0]) != after:
                raise LogDivergedError(applier.log.described_as, position=last)
            raws = raws[1:]
        decoded = decode_all(raws, [projection for projection, _ in tables], applier.log.decode)
        for projection, generation in tables:
            table = applying.table(projection, generation)
            folding = applier.folding(projection, table)
            folding.apply(read_by(projection, decoded))
            table.save(folding.changes())
        return mark_of(raws[-1]) if raws else after

    def _switch(self, group: Group, tables: Sequence[Built], reached: Mark) -> tuple[int, list[Built]]:
        """Make new tables the ones that are read; return the position, and the old tables."""
        old: list[Built] = []

        def switch(applying: Applying, mark: Mark) -> None:
            for projection, generation in tables:
                before = applying.switch(projection, generation, mark)
                if before is not None:
                    old.append((projection, before))

        return self.level(group, tables, reached, switch).position, old


def fill(applier: Applier, task: Task, progress: Callable[[int], None]) -> None:
    """Fill tables from the log, with a bounded number of rows in memory."""
    projections = [projection for projection, _ in task.tables]
    tables = [_Buffered(applier.store.building(*built)) for built in task.tables]
    foldings = [
        applier.folding(projection, table, is_new=True)
        for projection, table in zip(projections, tables, strict=True)
    ]
    is_alike = len({projection.topics for projection in projections}) == 1
    for page in applier.log.records(until=task.until, stream_range=task.streams):
        decoded = decode_all(page, projections, applier.log.decode)
        for projection, folding, table in zip(projections, foldings, tables, strict=True):
            folding.apply(decoded if is_alike else read_by(projection, decoded))
            if len(folding) > _ROWS_AT_HAND:
                table.save(folding.changes(before=page[0].position))
            if len(folding) > _MOST_ROWS_AT_HAND:
                table.save(folding.changes())
        progress(len(page))
    for folding, table in zip(foldings, tables, strict=True):
        table.save(folding.changes())
        table.flush()


def fill_here(applier: Applier, tasks: Sequence[Task], progress: Callable[[int], None]) -> None:
    """Do tasks in this process, one after the other."""
    for task in tasks:
        fill(applier, task, progress)


class _Buffered:
    """A table to which changes are written many at a time.

    Rows as they are stored take little room, unlike rows that events are applied to: of those, few are kept,
    so that they stay in the processor's cache.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._changes = Changes()
        self._rows = 0

    def load(self, keys: Sequence[str]) -> list[StoredRow]:
        """Return the rows that there are among those with these keys."""
        self.flush()
        return self._table.load(keys)

    def parked_streams(self) -> list[str]:
        """Return the keys of what is parked by stream, not by row."""
        self.flush()
        return self._table.parked_streams()

    def past(self, key: str) -> list[PastRow]:
        """Return the past rows with a key, in order."""
        self.flush()
        return self._table.past(key)

    def save(self, changes: Changes) -> None:
        """Make the changes, sooner or later."""
        if changes.removed or changes.unparked:  # their order matters
            self.flush()
        self._changes.add(changes)
        self._rows += len(changes.new) + len(changes.changed) + len(changes.past)
        if self._rows >= _WRITTEN_AT_ONCE or changes.removed or changes.unparked:
            self.flush()

    def flush(self) -> None:
        """Write what was not yet written."""
        if not self._changes.is_empty:
            self._table.save(self._changes)
        self._changes, self._rows = Changes(), 0
