"""Rebuilds read models beside those that are read, and verifies that what is read is what the log says."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from random import randrange
from typing import Any, NamedTuple
from uuid import UUID

from deployledger.domain.exceptions import ConfigurationError, ConflictError
from deployledger.projections.folding import decode_all, read_by
from deployledger.projections.projection import Projection
from deployledger.projections.read_models import ReadModels
from deployledger.projections.store import Applying, StoredRow

_LARGEST_ID = (1 << 128) - 1
_ROWS_AT_HAND = 4_000
_CAUGHT_UP_AT_ONCE = 2_000
_NEAR = 500
_TRIES = 200


class Task(NamedTuple):
    """Tables to fill from the log.

    Attributes:
        tables: the projections, and the numbers of their tables.
        until: up to which position.
        streams: only from streams whose ids are from the first to the second one.
    """

    tables: tuple[tuple[Projection[Any], int], ...]
    until: int
    streams: tuple[UUID, UUID] | None = None


Progress = Callable[[int, int], None]
"""Is told how many events were read, of how many."""

Fill = Callable[[ReadModels, Sequence[Task], Callable[[int], None]], None]
"""Does tasks, all at the same time, and tells of every number of events that were read."""


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


@dataclass(frozen=True)
class Difference:
    """A field of a row that is not what the log says.

    Attributes:
        key: the row.
        field: the field; empty if the whole row is missing, or should not be there.
        expected: what the log says.
        found: what is read.
    """

    key: str
    field: str
    expected: Any
    found: Any


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    Attributes:
        name: the projection.
        position: the position at which rows and log were compared.
        events: how many events were read.
        rows: how many rows were compared.
        differences: where they are not the same.
        seconds: how long it took.
    """

    name: str
    position: int
    events: int
    rows: int
    differences: tuple[Difference, ...]
    seconds: float


def fill(models: ReadModels, task: Task, progress: Callable[[int], None]) -> None:
    """Fill tables from the log, with a bounded number of rows in memory."""
    projections = [projection for projection, _ in task.tables]
    with ExitStack() as stack:
        tables = [
            stack.enter_context(models.store.building(projection, generation))
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
                if len(folding) > _ROWS_AT_HAND:
                    table.save(folding.changes())
            progress(len(page))
        for folding, table in zip(foldings, tables, strict=True):
            table.save(folding.changes())


def fill_here(models: ReadModels, tasks: Sequence[Task], progress: Callable[[int], None]) -> None:
    """Do tasks in this process, one after the other."""
    for task in tasks:
        fill(models, task, progress)


def ranges(number: int) -> list[tuple[UUID, UUID]]:
    """Return all ids, in so many ranges."""
    edges = [_LARGEST_ID * i // number for i in range(number + 1)]
    return [
        (UUID(int=first + (1 if i else 0)), UUID(int=last)) for i, (first, last) in enumerate(pairwise(edges))
    ]


def rebuild(
    models: ReadModels,
    names: Sequence[str],
    *,
    workers: int = 1,
    fill_with: Fill = fill_here,
    progress: Progress = lambda done, total: None,
) -> list[Rebuilt]:
    """Rebuild read models from the log, into new tables, and switch to them when they are complete.

    Readers go on with the old tables until then, and writers with the log. If it is interrupted, the old
    tables stay, and what was built is removed by the next rebuild.

    Raises:
        ConfigurationError: if there is no such projection, or the number of workers is out of range.
        ConflictError: if one of them is being rebuilt or verified.
    """
    projections = _chosen(models, names, workers)
    with _building(models, projections) as tables:
        begin = time.monotonic()
        until = _fill_all(models, tables, workers, fill_with, progress)
        for projection, generation in tables:
            models.store.complete(projection, generation)
        done: list[Rebuilt] = []
        for group in models.groups:
            of_group = [it for it in tables if it[0] in group]
            if of_group:
                position, old = _switch(models, group, of_group, until)
                seconds = time.monotonic() - begin
                for projection, _ in of_group:
                    models.store.record_rebuild(projection, seconds, until)
                    done.append(Rebuilt(projection.name, until, seconds, position))
                for projection, generation in old:
                    models.store.drop(projection, generation)
        return done


def verify(
    models: ReadModels,
    names: Sequence[str],
    *,
    sample: int | None = None,
    workers: int = 1,
    fill_with: Fill = fill_here,
    progress: Progress = lambda done, total: None,
) -> list[Verified]:
    """Compare every row that is read with what the log says, at one position, while everything goes on.

    Args:
        sample: compare only about so many rows, chosen at random.

    Raises:
        ConfigurationError: if there is no such projection, the number of workers is out of range, or a
            projection that makes its keys itself is to be sampled.
        ConflictError: if one of them is being rebuilt or verified.
    """
    projections = _chosen(models, names, workers)
    for projection in projections:
        models.catch_up(projection)
    streams = _sampled(models, projections, sample)
    with _building(models, projections) as tables:
        begin = time.monotonic()
        until = _fill_all(models, tables, workers, fill_with, progress, streams)
        found: list[Verified] = []
        for group in models.groups:
            of_group = [it for it in tables if it[0] in group]
            for projection, generation in of_group:
                found.append(_compare(models, group, projection, generation, until, streams, begin))
        return found


def repair(models: ReadModels, verified: Verified, *, workers: int = 1, fill_with: Fill = fill_here) -> None:
    """Make the rows anew that a verification found to be different."""
    projection = models.projection(verified.name)
    keys = list(dict.fromkeys(it.key for it in verified.differences))
    if projection.is_by_stream:
        models.refold(verified.name, keys)
    elif keys:
        rebuild(models, [verified.name], workers=workers, fill_with=fill_with)


def _chosen(models: ReadModels, names: Sequence[str], workers: int) -> list[Projection[Any]]:
    if not 1 <= workers <= 64:
        raise ConfigurationError(f"{workers} workers are out of range: 1 to 64.")
    return [models.projection(name) for name in dict.fromkeys(names)]


@contextmanager
def _building(
    models: ReadModels, projections: Sequence[Projection[Any]]
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
        models.store.prepare(projections)
        try:
            for projection in projections:
                tables.append((projection, models.store.build(projection)))
            yield tables
        finally:
            for projection, generation in tables:
                models.store.drop(projection, generation)


def _fill_all(
    models: ReadModels,
    tables: Sequence[tuple[Projection[Any], int]],
    workers: int,
    fill_with: Fill,
    progress: Progress,
    streams: tuple[UUID, UUID] | None = None,
) -> int:
    """Fill the tables up to the end of the log, and return that position."""
    until = models.log.position()
    by_stream = tuple(it for it in tables if it[0].is_by_stream)
    by_key = [it for it in tables if not it[0].is_by_stream]
    parts = [streams] if streams else (ranges(workers) if workers > 1 else [None])
    total = until * (bool(by_stream) + len(by_key))
    done = 0

    def count(events: int) -> None:
        nonlocal done
        done += events
        progress(min(done, total), total)

    progress(0, total)
    if by_stream:
        fill_with(models, [Task(by_stream, until, part) for part in parts], count)
    for it in by_key:  # the events of one row are in many streams: they are read in the order of the log
        fill_with(models, [Task((it,), until)], count)
    progress(total, total)
    return until


def _catch_up(
    models: ReadModels,
    applying: Applying,
    tables: Sequence[tuple[Projection[Any], int]],
    after: int,
    until: int,
) -> int:
    """Apply some events to tables that are being built, and return up to where."""
    raws = models.log.read_raw(after=after, limit=min(_CAUGHT_UP_AT_ONCE, until - after))
    decoded = decode_all(raws, [projection for projection, _ in tables], models.log.decode)
    for projection, generation in tables:
        table = applying.table(projection, generation)
        folding = models.folding(projection, table)
        folding.apply(read_by(projection, decoded))
        table.save(folding.changes())
    return raws[-1].position if raws else until


def _level(
    models: ReadModels,
    group: Sequence[Projection[Any]],
    tables: Sequence[tuple[Projection[Any], int]],
    reached: int,
    then: Callable[[Applying, int], None],
) -> int:
    """Bring tables to the position of those that are read, and then do something in that transaction."""
    while (end := models.log.position()) - reached > _NEAR:
        with models.store.applying([]) as applying:
            reached = _catch_up(models, applying, tables, reached, end)
    with models.store.applying(group) as applying:
        live = [projection for projection in group if applying.is_there(projection)]
        target = max((applying.position(projection) for projection in live), default=reached)
        while reached < target:
            reached = _catch_up(models, applying, tables, reached, target)
        if reached > target:  # the tables that are read are brought to where the others are
            models.apply_until(applying, live, reached)
        then(applying, reached)
    return reached


def _switch(
    models: ReadModels,
    group: Sequence[Projection[Any]],
    tables: Sequence[tuple[Projection[Any], int]],
    reached: int,
) -> tuple[int, list[tuple[Projection[Any], int]]]:
    """Make new tables the ones that are read; return the position, and the old tables."""
    old: list[tuple[Projection[Any], int]] = []

    def switch(applying: Applying, position: int) -> None:
        for projection, generation in tables:
            before = applying.switch(projection, generation, position)
            if before is not None:
                old.append((projection, before))

    return _level(models, group, tables, reached, switch), old


def _sampled(
    models: ReadModels, projections: Sequence[Projection[Any]], sample: int | None
) -> tuple[UUID, UUID] | None:
    """Return a range of ids that has about so many rows; ids are random, so any range is a sample."""
    if sample is None:
        return None
    if sample < 1:
        raise ConfigurationError(f"A sample of {sample} rows is out of range: 1 or more.")
    for projection in projections:
        if not projection.is_by_stream:
            raise ConfigurationError(
                f"Projection {projection.name} makes its keys itself: it is verified whole, not by a sample."
            )
    names = {projection.name for projection in projections}
    rows = max((it.rows for it in models.store.records() if it.name in names), default=0)
    width = _LARGEST_ID if rows <= sample else _LARGEST_ID * sample // rows
    first = randrange(_LARGEST_ID - width + 1)  # noqa: S311  # a sample, not a secret
    return UUID(int=first), UUID(int=first + width)


def _compare(
    models: ReadModels,
    group: Sequence[Projection[Any]],
    projection: Projection[Any],
    generation: int,
    reached: int,
    streams: tuple[UUID, UUID] | None,
    begin: float,
) -> Verified:
    keys = (str(streams[0]), str(streams[1])) if streams else None
    for _ in range(_TRIES):
        reached = _level(models, group, [(projection, generation)], reached, lambda applying, position: None)
        with models.store.compare(projection, generation) as comparison:
            if comparison.position != reached:  # it went on in between
                continue
            differences: list[Difference] = []
            for expected, found in comparison.differences(keys):
                differences += _fields(projection, expected, found)
            rows = comparison.rows(keys)
        seconds = time.monotonic() - begin
        return Verified(projection.name, reached, reached, rows, tuple(differences), seconds)
    raise ConflictError(
        f"Projection {projection.name} is changed too quickly to be compared at one position.",
        hint="Try again when less is written.",
    )


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
    if row.state is None:
        return places
    try:
        fields = projection.decode(row.columns, row.state).model_dump(mode="json")
    except ValueError:  # somebody made it unreadable
        fields = {"state": bytes(row.state).decode() if isinstance(row.state, bytes) else row.state}
        fields |= dict(zip(projection.columns, row.columns, strict=True))
    return {**fields, **places}
