"""Projections, histories and plain folds that the tests of read models share."""

import re
import shutil
import sqlite3
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.read_models import open_read_models
from deployledger.adapters.read_models.records import checksum
from deployledger.domain import events
from deployledger.domain.event_log import EventLog
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import UndecodableEventError
from deployledger.projections import status
from deployledger.projections.folding import DEFAULT_LARGEST_ROW_BYTES
from deployledger.projections.projection import Projection
from deployledger.projections.read_models import ReadModels
from deployledger.projections.rows import StoredRow
from tests.domain import arbitrary
from tests.domain.given import (
    BATCH_JOB,
    FAILURE,
    SERVICE,
    Happening,
    cancelled,
    deletion_requested,
    failed,
    fetched,
    happened,
    packaged,
    provisioned,
    requested,
    update_requested,
)
from tests.logs import records_of

# Projections ----------------------------------------------------------------------------------------


class Count(BaseModel):
    """How many events a stream has, so that an event that is applied twice shows."""

    model_config = ConfigDict(frozen=True)

    count: int


def _count(row: Count | None, event: DeploymentEvent) -> Count:
    return Count(count=(row.count if row else 0) + 1)


COUNTS = Projection(name="counts", version=1, row_type=Count, apply=_count, columns=("count",))


class Note(BaseModel):
    """What is noted of a deployment: as much as is in its tags."""

    model_config = ConfigDict(frozen=True)

    events: int
    note: str


def _note(row: Note | None, event: DeploymentEvent) -> Note | None:
    if isinstance(event, events.Cancelled):
        return None
    if isinstance(event, events.Failed):
        raise ValueError("Failures are not noted.\0")
    note = str(event.tags.get("note", "")) if isinstance(event, events.Requested) else row.note if row else ""
    return Note(events=(row.events if row else 0) + 1, note=note)


FRAGILE = Projection(name="fragile", version=1, row_type=Note, apply=_note)
"""Removes rows, and raises on some events."""


class Revisions(BaseModel):
    """How many deployments have come so far as a revision, and not failed since."""

    model_config = ConfigDict(frozen=True)

    number: int
    last: UUID
    share: float | None


def _revision(event: DeploymentEvent) -> str:
    if isinstance(event, events.RetryRequested):
        raise LookupError("To which revision?")
    return f"revision {event.revision}"


def _revisions(row: Revisions | None, event: DeploymentEvent) -> Revisions | None:
    if isinstance(event, events.DeletionFailed):
        raise ArithmeticError("It stays.")
    change = 1 if isinstance(event, events.Requested | events.UpdateRequested) else -1
    number = (row.number if row else 0) + change
    return Revisions(number=number, last=event.originator_id, share=1 / number) if number > 0 else None


BY_REVISION = Projection(
    name="by_revision",
    version=1,
    row_type=Revisions,
    apply=_revisions,
    key=_revision,
    topics=tuple(
        it.TOPIC
        for it in (
            events.Requested,
            events.UpdateRequested,
            events.Failed,
            events.RetryRequested,
            events.DeletionFailed,
        )
    ),
    columns=("number", "last", "share"),
)
"""Has keys of its own, removes rows, and raises on some events, for the key or for the row."""

EXAMPLES = (COUNTS, FRAGILE, BY_REVISION)


class Mark(BaseModel):
    """A note in columns, which not every text fits."""

    model_config = ConfigDict(frozen=True)

    note: str
    events: int
    is_even: bool


def _mark(row: Mark | None, event: DeploymentEvent) -> Mark | None:
    note = _note(Note(events=row.events, note=row.note) if row else None, event)
    return note and Mark(note=note.note, events=note.events, is_even=note.events % 2 == 0)


MARKS = Projection(
    name="marks",
    version=1,
    row_type=Mark,
    apply=_mark,
    columns=("note", "events", "is_even"),
    counted="is_even",
    temporal=True,
)
"""Removes rows, raises on some events, and keeps what was."""

PAST_REVISIONS = replace(BY_REVISION, name="past_revisions", temporal=True)
"""Has keys of its own, and keeps what was."""

TEMPORAL = (MARKS, PAST_REVISIONS)

# Histories ------------------------------------------------------------------------------------------

_text = arbitrary.text.filter(lambda it: "\0" not in it)


@st.composite
def specifications(draw: st.DrawFn) -> dict[str, Any]:
    """Return what is asked for, with awkward text everywhere."""
    return {
        "name": draw(_text),
        "model_uri": draw(_text),
        "actor": draw(st.sampled_from(["ann", "ben"])),
        "target": draw(st.sampled_from([SERVICE, BATCH_JOB])),
        "tags": draw(st.dictionaries(arbitrary.text, arbitrary.json_values, max_size=2)),
    }


def _next(row: status.StatusRow, asked_for: dict[str, Any]) -> list[Happening]:
    revision = row.revision
    return [
        fetched(revision),
        packaged(revision),
        provisioned(revision),
        failed(revision),
        update_requested(revision + 1, **asked_for),
        cancelled(revision),
        deletion_requested(revision),
        happened(events.Deleted, revision=revision),
        happened(events.DeletionFailed, revision=revision, failure=FAILURE),
        happened(events.Completed, revision=revision, output_uri="out.csv", rows=7),
        happened(events.RetryRequested, revision=revision, attempt=2),
    ]


@st.composite
def histories(draw: st.DrawFn, deployments: int = 4, longest: int = 40) -> list[DeploymentEvent]:
    """Return legal histories of several deployments, as they come one after the other in one log."""
    streams = draw(st.lists(st.uuids(version=4), min_size=1, max_size=deployments, unique=True))
    rows: dict[UUID, status.StatusRow] = {}
    found: list[DeploymentEvent] = []
    for stream, choice in draw(
        st.lists(st.tuples(st.sampled_from(streams), st.integers(0, 1000)), min_size=1, max_size=longest)
    ):
        row = rows.get(stream)
        if row is None:
            legal = [requested(**draw(specifications()))(stream, 1)]
        else:
            asked_for = draw(specifications()) if choice % 3 == 0 else {}
            legal = [it(stream, row.version + 1) for it in _next(row, asked_for)]
            legal = [event for event in legal if _is_legal(row, event)]
        if legal:
            event = legal[choice % len(legal)]
            rows[stream] = status.apply(row, event)
            found.append(event)
    return found


def _is_legal(row: status.StatusRow, event: DeploymentEvent) -> bool:
    try:
        status.apply(row, event)
    except Exception:
        return False
    return True


def append_undecodable(log: EventLog, stream: UUID, version: int) -> None:
    """Append an event that cannot be read."""
    event = fetched()(stream, version)
    append_some_undecodable(log, [event], {event.event_id})


def append_some_undecodable(
    log: EventLog, past: Sequence[DeploymentEvent], undecodable: Container[UUID]
) -> None:
    """Append events, some of them so that they cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic: that is not what a revision looks like
        log.append(
            [it.model_copy(update={"revision": "?"}) if it.event_id in undecodable else it for it in past]
        )


# Read models ----------------------------------------------------------------------------------------


@contextmanager
def opened(url: str, *projections: Projection[Any], **options: Any) -> Iterator[ReadModels]:
    """Enter with read models on a database, and close them and the log."""
    log = open_event_log(url, create=True)
    log.position()
    models = open_read_models(log, projections=projections, **options)
    try:
        yield models
    finally:
        models.store.close()
        log.close()


def empty(url: str) -> None:
    """Remove everything of ours from a database."""
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        for found in path.parent.glob(f"{path.name}*"):
            if found.is_dir():
                shutil.rmtree(found)
            else:
                found.unlink()
    else:
        with psycopg.connect(url) as session:
            session.execute("DROP SCHEMA IF EXISTS deployledger CASCADE")


def by_hand(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Execute a statement past the software under test; ``@`` before a table's name is its schema.

    On SQLite, rows are as a fold would have stored them: with the checksums that they have then.
    """
    if url.startswith("sqlite:///"):
        path = f"{url.removeprefix('sqlite:///')}.read-models"
        with closing(sqlite3.connect(path)) as connection, connection:
            found = connection.execute(statement.replace("@", "")).fetchall()
            stamp(connection)
            return found
    with psycopg.connect(url) as session:
        cursor = session.execute(statement.replace("@", "deployledger.").encode())
        return cursor.fetchall() if cursor.description else []


def stamp(connection: sqlite3.Connection) -> None:
    """Give every record of read models on SQLite the checksum of what is in it."""
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        if names[-1] == "checksum":
            for rowid, *record, _ in connection.execute(f"SELECT rowid, * FROM {table}").fetchall():
                values = (checksum(record), rowid)
                connection.execute(f"UPDATE {table} SET checksum = ? WHERE rowid = ?", values)


def tables(url: str) -> set[str]:
    """Return the names of all tables with rows of read models."""
    if url.startswith("sqlite:///"):
        names = by_hand(url, "SELECT name FROM sqlite_master WHERE type = 'table'")
    else:
        names = by_hand(
            url, "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'deployledger'"
        )
    return {name for (name,) in names if re.search(r"_v\d+_", name)}


def label(models: ReadModels, name: str) -> str:
    """Return the name of the table of a read model that is read."""
    (record,) = [
        it
        for it in models.store.records()
        if (it.name, it.version) == (name, models.projection(name).version)
    ]
    return f"{record.name}_v{record.version}_{record.generation}"


def read_tables(models: ReadModels) -> set[str]:
    """Return the names of the tables that are read, of all versions."""
    labels = {f"{it.name}_v{it.version}_{it.generation}" for it in models.store.records()}
    beside = {
        "deployment_timeline": ("_past",),
        "marks": ("_past",),
        "past_revisions": ("_past",),
    }
    return labels | {
        f"{label}{suffix}"
        for label in labels
        for name, suffixes in beside.items()
        if label.startswith(f"{name}_v")
        for suffix in suffixes
    }


Rows = dict[str, tuple[Any, ...]]


def stored_rows(models: ReadModels, projection: Projection[Any], keys: Sequence[str]) -> Rows:
    """Return the rows that are read, past `ReadModels`, and check that there are no others."""
    with models.store.applying([projection]) as applying:
        rows = applying.table(projection).load(keys)
    (record,) = [it for it in models.store.records() if it.name == projection.name]
    assert record.rows == len(rows), "there are rows that nobody asked for"
    return {row.key: _comparable(projection, row) for row in rows}


def _comparable(projection: Projection[Any], row: StoredRow) -> tuple[Any, ...]:
    state = None if row.state is None else projection.decode(row.columns, row.state)
    return (row.first_position, row.position, row.parked_from, state)


def folded(
    projection: Projection[Any],
    models: ReadModels,
    largest_row: int = DEFAULT_LARGEST_ROW_BYTES,
    until: int = 1_000_000,
) -> tuple[Rows, list[tuple[str, int]]]:
    """Return the rows and the parked events that a log makes, one event at a time, in the simplest way."""
    rows: dict[str, tuple[Any, ...]] = {}
    parked: list[tuple[str, int]] = []
    blocked = set[str]()
    for raw in records_of(models.log, after=0, limit=until):
        if not projection.reads(raw.topic):
            continue
        key, event = raw.stream, None
        try:
            event = models.log.decode(raw)
            if projection.key is not None and raw.stream not in blocked:
                key = projection.key(event)
            elif projection.key is not None:
                raise LookupError
        except (UndecodableEventError, LookupError):
            event = None
            if projection.key is not None:
                key = f"stream:{raw.stream}"
                blocked.add(raw.stream)
        first, position, parked_from, row = rows.get(key, (raw.position, raw.position, None, None))
        if parked_from is None:
            try:
                if event is None:
                    raise LookupError
                after = projection.apply(row, event)
                if after is not None:
                    columns, state = projection.encode(after)
                    projection.check_columns(columns)
                    if len(state) > max(largest_row, projection.row_bytes):
                        raise ValueError
            except (ValueError, ArithmeticError, LookupError):
                parked_from = raw.position
            else:
                if row is None:
                    first = raw.position
                row, position = after, raw.position
        if parked_from is not None:
            parked.append((key, raw.position))
            if row is None:  # there is nothing that was applied
                first = position = parked_from
        elif row is None:
            rows.pop(key, None)
            continue
        rows[key] = (first, position, parked_from, row)
    return rows, parked


def keys_of(models: ReadModels) -> list[str]:
    """Return every key that a row of the examples could have."""
    streams = {raw.stream for raw in records_of(models.log, after=0, limit=1_000_000)}
    return [*streams, *(f"stream:{it}" for it in streams), *(f"revision {it}" for it in range(100))]


def assert_folded(models: ReadModels, largest_row: int = DEFAULT_LARGEST_ROW_BYTES) -> None:
    """Check that all rows and parked events are what the log makes of them."""
    keys = keys_of(models)
    for projection in models.projections.values():
        rows, parked = folded(projection, models, largest_row)
        assert stored_rows(models, projection, keys) == rows, projection.name
        found = models.parked(projection.name, limit=1_000_000)
        assert [(it.key, it.position) for _, it in found] == parked, projection.name


def catch_all_up(models: ReadModels) -> None:
    """Apply everything to all read models."""
    for group in models.groups:
        models.catch_up(group[0])
