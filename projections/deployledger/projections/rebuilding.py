"""Rebuilds read models beside those that are read, and verifies that what is read is what the log says."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from random import randrange
from typing import TYPE_CHECKING, Any
from uuid import UUID

from deployledger.domain.event_log import Mark, mark_of
from deployledger.domain.exceptions import ConfigurationError, ConflictError, LogDivergedError
from deployledger.projections.folding import decode_all, read_by
from deployledger.projections.garbage import rare_collections
from deployledger.projections.projection import Projection
from deployledger.projections.reports import COUNTS, Difference, Progress, Rebuilt, Task, Verified
from deployledger.projections.store import Applying, Changes, Comparison, PastRow, Rows, StoredRow
from deployledger.projections.workers import check_workers

if TYPE_CHECKING:
    from deployledger.projections.read_models import ReadModels

_LARGEST_ID = (1 << 128) - 1
_ROWS_AT_HAND = 300
_MOST_ROWS_AT_HAND = 4_000
_WRITTEN_AT_ONCE = 4_000
_CAUGHT_UP_AT_ONCE = 2_000
_NEAR = 500
_TRIES = 200
_FROM = "past from"


def fill(models: "ReadModels", task: Task, progress: Callable[[int], None]) -> None:
    """Fill tables from the log, with a bounded number of rows in memory."""
    projections = [projection for projection, _ in task.tables]
    with ExitStack() as stack:
        tables = [
            _Buffered(stack.enter_context(models.store.building(projection, generation)))
            for projection, generation in task.tables
        ]
        foldings = [
            models.folding(projection, table, is_new=True)
            for projection, table in zip(projections, tables, strict=True)
        ]
        alike = len({projection.topics for projection in projections}) == 1
        for page in models.log.scan(after=0, until=task.until, streams=task.streams):
            decoded = decode_all(page, projections, models.log.decode)
            for projection, folding, table in zip(projections, foldings, tables, strict=True):
                folding.apply(decoded if alike else read_by(projection, decoded))
                if len(folding) > _ROWS_AT_HAND:
                    table.save(folding.changes(before=page[0].position))
                if len(folding) > _MOST_ROWS_AT_HAND:
                    table.save(folding.changes())
            progress(len(page))
        for folding, table in zip(foldings, tables, strict=True):
            table.save(folding.changes())
            table.flush()


class _Buffered:
    """A table to which changes are written many at a time.

    Rows as they are stored take little room, unlike rows that events are applied to: of those, few are kept,
    so that they stay in the processor's cache.
    """

    def __init__(self, table: Rows) -> None:
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


def fill_here(models: "ReadModels", tasks: Sequence[Task], progress: Callable[[int], None]) -> None:
    """Do tasks in this process, one after the other."""
    with rare_collections:
        for task in tasks:
            fill(models, task, progress)


def ranges(number: int) -> list[tuple[UUID, UUID]]:
    """Return all ids, in so many ranges."""
    edges = [_LARGEST_ID * i // number for i in range(number + 1)]
    return [
        (UUID(int=first + (1 if i else 0)), UUID(int=last)) for i, (first, last) in enumerate(pairwise(edges))
    ]


def rebuild(models: "ReadModels", names: Sequence[str], workers: int, progress: Progress) -> list[Rebuilt]:
    """Rebuild read models; see `ReadModels.rebuild`."""
    projections = _chosen(models, names, workers)
    with _building(models, projections) as tables:
        begin = time.monotonic()
        until = _fill_all(models, tables, workers, progress)
        for projection, generation in tables:
            models.store.complete(projection, generation)
        done: list[Rebuilt] = []
        for group in models.groups:
            of_group = [it for it in tables if it[0] in group]
            if of_group:
                position, old = _switch(models, group, of_group, until)
                seconds = time.monotonic() - begin
                for projection, _ in of_group:
                    models.store.record_rebuild(projection, seconds, until.position)
                    done.append(Rebuilt(projection.name, until.position, seconds, position))
                for projection, generation in old:
                    models.store.drop(projection, generation)
        return done


def verify(
    models: "ReadModels", names: Sequence[str], sample: int | None, workers: int, progress: Progress
) -> list[Verified]:
    """Verify read models; see `ReadModels.verify`."""
    projections = _chosen(models, names, workers)
    for projection in projections:
        models.catch_up(projection)
    streams = _sampled(models, projections, sample)
    with _building(models, projections) as tables:
        begin = time.monotonic()
        until = _fill_all(models, tables, workers, progress, streams)
        found: list[Verified] = []
        for group in models.groups:
            of_group = [it for it in tables if it[0] in group]
            for projection, generation in of_group:
                found.append(_compare(models, group, projection, generation, until, streams, begin))
        return found


def _chosen(models: "ReadModels", names: Sequence[str], workers: int) -> list[Projection[Any]]:
    check_workers(workers)
    return [models.projection(name) for name in dict.fromkeys(names)]


@contextmanager
def _building(
    models: "ReadModels", projections: Sequence[Projection[Any]]
) -> Iterator[list[tuple[Projection[Any], int]]]:
    """Enter with new tables, which nobody else builds; what is not read afterwards is dropped."""
    tables: list[tuple[Projection[Any], int]] = []
    with ExitStack() as stack:
        for projection in sorted(projections, key=lambda it: it.name):
            if not stack.enter_context(models.exclusively(projection)):
                raise ConflictError(
                    f"Projection {projection.name} is being rebuilt or verified.",
                    hint="Wait for it; `deployledger projections status` says when it is done.",
                )
        models.log.position()  # this opens the log's database, which may be that of the rows
        wanted = list(dict.fromkeys(it for projection in projections for it in models.group(projection)))
        missing = models.store.prepare(wanted)
        models.forget_another_log([it for it in wanted if it not in missing])
        try:
            for projection in projections:
                tables.append((projection, models.store.build(projection)))
            yield tables
        finally:
            for projection, generation in tables:
                models.store.drop(projection, generation)


def _fill_all(
    models: "ReadModels",
    tables: Sequence[tuple[Projection[Any], int]],
    workers: int,
    progress: Progress,
    streams: tuple[UUID, UUID] | None = None,
) -> Mark:
    """Fill the tables up to the end of the log, and return that."""
    end = models.log.end()
    until = end.position
    # One group is not given what another one may have changed, and is as independent as when it follows.
    by_stream = [
        found
        for group in models.groups
        if (found := tuple(it for it in tables if it[0] in group and it[0].is_by_stream))
    ]
    by_key = [it for it in tables if not it[0].is_by_stream]
    parts = [streams] if streams else (ranges(workers) if workers > 1 else [None])
    total = until * (len(by_stream) + len(by_key))
    done = 0

    def count(events: int) -> None:
        nonlocal done
        done += events
        progress(min(done, total), total)

    progress(0, total)
    for some in by_stream:
        models.fill(models, [Task(some, until, part) for part in parts], count)
    for it in by_key:  # the events of one row are in many streams: they are read in the order of the log
        models.fill(models, [Task((it,), until)], count)
    progress(total, total)
    models.check_has(end)  # else the log has gone back meanwhile
    return end


def _catch_up(
    models: "ReadModels",
    applying: Applying,
    tables: Sequence[tuple[Projection[Any], int]],
    after: Mark,
    until: int,
) -> Mark:
    """Apply some events to tables that are being built, and return up to where."""
    last = after.position
    raws = models.raws(max(0, last - 1), min(until, last + _CAUGHT_UP_AT_ONCE))
    if last:
        if not raws or mark_of(raws[0]) != after:
            raise LogDivergedError(models.log.described_as, position=last)
        raws = raws[1:]
    decoded = decode_all(raws, [projection for projection, _ in tables], models.log.decode)
    for projection, generation in tables:
        table = applying.table(projection, generation)
        folding = models.folding(projection, table)
        folding.apply(read_by(projection, decoded))
        table.save(folding.changes())
    return mark_of(raws[-1]) if raws else after


def _level(
    models: "ReadModels",
    group: Sequence[Projection[Any]],
    tables: Sequence[tuple[Projection[Any], int]],
    reached: Mark,
    then: Callable[[Applying, Mark], None],
) -> Mark:
    """Bring tables to the position of those that are read, and then do something in that transaction."""
    while (end := models.log.position()) - reached.position > _NEAR:
        with models.store.applying([]) as applying:
            reached = _catch_up(models, applying, tables, reached, end)
    with models.store.applying(group) as applying:
        live = [projection for projection in group if applying.is_there(projection)]
        target = max((applying.mark(projection) for projection in live), default=reached)
        while reached.position < target.position:
            reached = _catch_up(models, applying, tables, reached, target.position)
        if reached.position > target.position:  # the tables that are read are brought to where the others are
            models.apply_until(applying, live, reached.position)
        elif target != reached:
            raise LogDivergedError(models.log.described_as, position=target.position)
        then(applying, reached)
    return reached


def _switch(
    models: "ReadModels",
    group: Sequence[Projection[Any]],
    tables: Sequence[tuple[Projection[Any], int]],
    reached: Mark,
) -> tuple[int, list[tuple[Projection[Any], int]]]:
    """Make new tables the ones that are read; return the position, and the old tables."""
    old: list[tuple[Projection[Any], int]] = []

    def switch(applying: Applying, mark: Mark) -> None:
        for projection, generation in tables:
            before = applying.switch(projection, generation, *mark)
            if before is not None:
                old.append((projection, before))

    return _level(models, group, tables, reached, switch).position, old


def _sampled(
    models: "ReadModels", projections: Sequence[Projection[Any]], sample: int | None
) -> tuple[UUID, UUID] | None:
    """Return a range of ids that has about so many rows; ids are random, so any range is a sample."""
    if sample is None:
        return None
    if sample < 1:
        raise ConfigurationError(f"A sample of {sample} rows is out of range: 1 or more.")
    for projection in projections:
        if not projection.is_by_stream:
            raise ConfigurationError(
                f"Projection {projection.name} has keys of its own: "
                "it is verified as a whole, not by a sample."
            )
    names = {projection.name for projection in projections}
    rows = max((it.rows for it in models.store.records() if it.name in names), default=0)
    width = _LARGEST_ID if rows <= sample else _LARGEST_ID * sample // rows
    first = randrange(_LARGEST_ID - width + 1)  # noqa: S311  # a sample, not a secret
    return UUID(int=first), UUID(int=first + width)


def _compare(
    models: "ReadModels",
    group: Sequence[Projection[Any]],
    projection: Projection[Any],
    generation: int,
    reached: Mark,
    streams: tuple[UUID, UUID] | None,
    begin: float,
) -> Verified:
    keys = (str(streams[0]), str(streams[1])) if streams else None
    for _ in range(_TRIES):
        reached = _level(models, group, [(projection, generation)], reached, lambda applying, mark: None)
        with models.store.compare(projection, generation) as comparison:
            if comparison.position != reached.position:  # it went on in between
                continue
            differences: list[Difference] = []
            for expected, found in comparison.differences(keys):
                differences += _fields(projection, expected, found)
            for block, value, expected_rows, found_rows in comparison.miscounted() if keys is None else ():
                differences.append(
                    Difference(
                        f"{COUNTS} {block}", f"{projection.counted}={value}", expected_rows, found_rows
                    )
                )
            if projection.temporal:
                differences += _of_the_past(projection, comparison, keys)
            rows = comparison.rows(keys)
        seconds = time.monotonic() - begin
        position = reached.position
        return Verified(projection.name, position, position, rows, tuple(differences), seconds)
    raise ConflictError(
        f"Projection {projection.name} is changed too quickly to be compared at one position.",
        hint="Try again when less is written.",
    )


def _of_the_past(
    projection: Projection[Any], comparison: Comparison, keys: tuple[str, str] | None
) -> Iterator[Difference]:
    """Yield what is different in the past rows of a temporal projection, and in the changes of its counts."""
    for expected, found in comparison.past_differences(keys):
        row = expected or found
        assert row is not None  # noqa: S101  # one of them is there
        before, after = _as_past_fields(projection, expected), _as_past_fields(projection, found)
        if expected is None or found is None:
            yield Difference(row.key, f"{_FROM} {row.position}", before or None, after or None)
            continue
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                label = f"{_FROM} {row.position}: {name}"
                yield Difference(row.key, label, before.get(name), after.get(name))
    for block, value, expected_change, found_change in comparison.misturned() if keys is None else ():
        label = f"change of {projection.counted}={value}"
        yield Difference(f"{COUNTS} {block}", label, expected_change, found_change)


def _fields(
    projection: Projection[Any], expected: StoredRow | None, found: StoredRow | None
) -> list[Difference]:
    """Return what is different in two rows, of which one may not be there."""
    if expected is None or found is None:
        row = expected or found
        key = row.key if row else ""
        return [Difference(key, "", _shown(projection, expected), _shown(projection, found))]
    before, after = _as_fields(projection, expected), _as_fields(projection, found)
    return [
        Difference(expected.key, name, before.get(name), after.get(name))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]


def _shown(projection: Projection[Any], row: StoredRow | None) -> Any:
    return None if row is None else _as_fields(projection, row)


def _as_fields(projection: Projection[Any], row: StoredRow) -> dict[str, Any]:
    places = {
        "first_position": row.first_position,
        "position": row.position,
        "parked_from": row.parked_from,
    }
    return places if row.state is None else {**_decoded(projection, row.columns, row.state), **places}


def _as_past_fields(projection: Projection[Any], row: PastRow | None) -> dict[str, Any]:
    if row is None:
        return {}
    places = {"first_position": row.first_position, "until": row.until, "was_removed": row.was_removed}
    return {**_decoded(projection, row.columns, row.state), **places}


def _decoded(projection: Projection[Any], columns: tuple[Any, ...], state: str | bytes) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = projection.decode(columns, state).model_dump(mode="json")
        return fields
    except ValueError:  # somebody made it unreadable
        text = state.decode() if isinstance(state, bytes) else state
        return {"state": text, **dict(zip(projection.columns, columns, strict=True))}
