"""Verifies read models against the log."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import randrange
from typing import Any
from uuid import UUID

from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import ConfigurationError, ConflictError
from deployledger.projections.applying import Group
from deployledger.projections.partitioning import LARGEST_ID, Progress
from deployledger.projections.projection import Projection
from deployledger.projections.rebuilding import Built, Rebuilder
from deployledger.projections.rows import Counts, PastRow, StoredRow
from deployledger.projections.store import Comparison

COUNTS = "#counts"
"""The key of a difference that is not of a row, but of how many rows are recorded."""

_TRIES = 200
_FROM = "past from"


@dataclass(frozen=True)
class Difference:
    """A field of a row that is not what the log says.

    Attributes:
        key: the row, or `COUNTS`.
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
    """The result of verifying a log.

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


def verify(
    rebuilder: Rebuilder,
    projections: Sequence[Projection[Any]],
    sample: int | None,
    workers: int,
    progress: Progress,
) -> list[Verified]:
    """Verify read models that have caught up; see `ReadModels.verify`."""
    streams = _sampled(rebuilder, projections, sample)
    with rebuilder.building(projections) as tables:
        begin = time.monotonic()
        until = rebuilder.fill(tables, workers, progress, streams)
        return [
            _compare(rebuilder, group, built, until, streams, begin)
            for group in rebuilder.applier.groups
            for built in tables
            if built[0] in group
        ]


def _sampled(
    rebuilder: Rebuilder, projections: Sequence[Projection[Any]], sample: int | None
) -> tuple[UUID, UUID] | None:
    """Return a range of ids that has about so many rows; ids are random, so any range is a sample."""
    if sample is None:
        return None
    if sample < 1:
        raise ConfigurationError(f"A sample of {sample} rows is out of range; use 1 or more.")
    for projection in projections:
        if not projection.is_by_stream:
            raise ConfigurationError(
                f"Projection {projection.name} has keys of its own: "
                "it is verified as a whole, not by a sample."
            )
    names = {projection.name for projection in projections}
    rows = max(
        (record.rows for record in rebuilder.applier.store.records() if record.name in names), default=0
    )
    width = LARGEST_ID if rows <= sample else LARGEST_ID * sample // rows
    first = randrange(LARGEST_ID - width + 1)  # noqa: S311  # a sample, not a secret
    return UUID(int=first), UUID(int=first + width)


def _compare(
    rebuilder: Rebuilder,
    group: Group,
    built: Built,
    reached: Mark,
    streams: tuple[UUID, UUID] | None,
    begin: float,
) -> Verified:
    projection = built[0]
    keys = (str(streams[0]), str(streams[1])) if streams else None
    for _ in range(_TRIES):
        reached = rebuilder.level(group, [built], reached)
        position = reached.position
        with rebuilder.applier.store.compare(*built) as comparison:
            if comparison.position != position:  # it went on in between
                continue
            differences = [
                difference
                for expected, actual in comparison.differences(keys)
                for difference in _fields(projection, expected, actual)
            ]
            differences += _of_the_past(projection, comparison, keys)
            if keys is None:
                differences += _of_counts(projection, *comparison.counts())
            rows = comparison.rows(keys)
        seconds = time.monotonic() - begin
        return Verified(projection.name, position, position, rows, tuple(differences), seconds)
    raise ConflictError(
        f"Projection {projection.name} changes too quickly to be compared at one position.",
        hint="Try again when fewer events are being added.",
    )


def _of_counts(projection: Projection[Any], expected: Counts, actual: Counts) -> Iterator[Difference]:
    for label, before, after in zip(("rows", str(projection.counted)), expected, actual, strict=True):
        if before != after:
            yield Difference(COUNTS, label, before, after)


def _of_the_past(
    projection: Projection[Any], comparison: Comparison, keys: tuple[str, str] | None
) -> Iterator[Difference]:
    """Yield what is different in the past rows of a temporal projection."""
    for expected, actual in comparison.past_differences(keys):
        row = expected or actual
        assert row is not None  # noqa: S101  # one of them is there
        before, after = _as_past_fields(projection, expected), _as_past_fields(projection, actual)
        if expected is None or actual is None:
            yield Difference(row.key, f"{_FROM} {row.position}", before or None, after or None)
            continue
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                label = f"{_FROM} {row.position}: {name}"
                yield Difference(row.key, label, before.get(name), after.get(name))


def _fields(
    projection: Projection[Any], expected: StoredRow | None, actual: StoredRow | None
) -> list[Difference]:
    """Return what is different in two rows, of which one may not be there."""
    if expected is None or actual is None:
        row = expected or actual
        key = row.key if row else ""
        return [Difference(key, "", _shown(projection, expected), _shown(projection, actual))]
    before, after = _as_fields(projection, expected), _as_fields(projection, actual)
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
