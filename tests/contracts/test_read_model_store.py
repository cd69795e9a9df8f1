"""What a store of read models promises, on every database that keeps one."""

import json
import math
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import BaseModel

from deployledger.adapters.read_models.sqlite import SQLiteReadModels
from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import ConfigurationError, ReadModelError
from deployledger.projections.projection import Projection
from deployledger.projections.rows import Changes, ParkedEvent, StoredRow
from deployledger.projections.selection import KEY, Condition, Found, Selected, Selection
from deployledger.projections.store import ReadModelStore
from tests.contracts.conftest import OpenStore
from tests.domain.given import NOON

ODD_TEXTS = [
    "",
    " ",
    "tab\tnewline\nreturn\rbackslash\\",
    "\\N",
    "\\.",
    "'single' \"double\" `back`",
    "%s ? :name $1 {} ;--",
    "🦊 zażółć ﷽ \u2028",
    "\x01\x1f\x7f",
    "NULL",
    "NaN",
    "100",
    "x" * 100_000,
]


class Everything(BaseModel):
    text: str | None = None
    number: int | None = None
    fraction: float | None = None
    truth: bool | None = None
    at: datetime | None = None
    id: UUID | None = None
    rest: dict[str, Any] = {}


class Task(BaseModel):
    name: str
    size: int
    due: datetime | None = None
    done: bool = False
    note: str = ""


class TaskWithMore(Task):
    more: int = 0


class Title(BaseModel):
    title: str


def unchanged(row: Any, event: Any) -> Any:
    return row


EVERYTHING = Projection(
    name="everything",
    version=1,
    row_type=Everything,
    apply=unchanged,
    columns=("text", "number", "fraction", "truth", "at", "id"),
)
TASKS = Projection(
    name="tasks",
    version=1,
    row_type=Task,
    apply=unchanged,
    columns=("name", "size", "due", "done"),
    indexes=(("name",), ("size",), ("due",), ("done", "name")),
    counted="done",
)
TITLES = Projection(name="titles", version=1, row_type=Title, apply=unchanged)
# Its name begins as that of another one's table does.
TASKS_LIKE = Projection(name="tasks_v1", version=1, row_type=Title, apply=unchanged)


def begin(store: ReadModelStore, *projections: Projection[Any]) -> None:
    store.begin_empty(store.prepare(projections))


def task(key: str, first: int, **fields: Any) -> StoredRow:
    row = Task(**{"name": key, "size": first, **fields})
    columns, state = TASKS.encode(row)
    return StoredRow(key, first, first, None, columns, state)


def title(key: str, first: int, text: str = "one") -> StoredRow:
    columns, state = TITLES.encode(Title(title=text))
    return StoredRow(key, first, first, None, columns, state)


def counts_of(rows: list[StoredRow], by: int = 1) -> dict[str, int]:
    """How many rows there are more, and how many of them are done."""
    there = [row for row in rows if row.state is not None]
    return {"total": by * len(there), "counted": by * sum(bool(row.columns[3]) for row in there)}


def save(store: ReadModelStore, projection: Projection[Any], changes: Changes, position: int = 1) -> None:
    with store.applying([projection]) as applying:
        applying.table(projection).save(changes)
        applying.advance(projection, Mark(position, f"event:{position}"))


def save_tasks(store: ReadModelStore, rows: list[StoredRow], position: int = 1) -> None:
    save(store, TASKS, Changes(new=rows, **counts_of(rows)), position)


def parked(key: str, position: int, error: str = "") -> ParkedEvent:
    return ParkedEvent(key, position, f"stream {key}", 3, "deployment.odd", error, NOON)


def plain(row: StoredRow | None) -> StoredRow | None:
    """A row with its state as text."""
    if row is None or row.state is None:
        return row
    return row._replace(state=row.state.decode() if isinstance(row.state, bytes) else row.state)


def load(store: ReadModelStore, projection: Projection[Any], *keys: str) -> dict[str, StoredRow]:
    with store.applying([projection]) as applying:
        return {row.key: row for row in applying.table(projection).load(keys)}


def keys_of(selected: Selected) -> list[str]:
    return [it.row.key for it in selected.rows]


def generation_of(store: ReadModelStore, projection: Projection[Any]) -> int:
    return next(
        it.generation
        for it in store.records()
        if (it.name, it.version) == (projection.name, projection.version)
    )


def label_of(store: ReadModelStore, projection: Projection[Any]) -> str:
    return f"{projection.name}_v{projection.version}_{generation_of(store, projection)}"


# Which tables there are -----------------------------------------------------------------------------


def test_a_prepared_projection_has_no_table_until_one_is_begun(store: ReadModelStore) -> None:
    assert store.prepare([TASKS, TITLES]) == [TASKS, TITLES]
    assert store.prepare([TASKS, TITLES]) == [TASKS, TITLES]
    with store.applying([TASKS]) as applying:
        assert not applying.is_there(TASKS)
        assert applying.mark(TASKS).position == 0
    assert store.records() == []

    store.begin_empty([TASKS])

    assert store.prepare([TASKS, TITLES]) == [TITLES]
    with store.applying([TASKS]) as applying:
        assert applying.is_there(TASKS)
        assert applying.mark(TASKS).position == 0
    assert store.get(TASKS, "none").row is None
    assert store.select(TASKS, Selection(), TASKS)[:3] == ([], 0, 0)
    store.begin_empty([])


def test_a_table_that_is_there_is_not_begun_again(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()
    begin(store, TASKS)
    save_tasks(store, [task("a", 1)])

    other.begin_empty([TASKS])

    assert store.get(TASKS, "a").row is not None


def test_many_prepare_and_begin_at_the_same_time(open_store: OpenStore) -> None:
    stores = [open_store() for _ in range(6)]
    problems: list[BaseException] = []

    def work(store: ReadModelStore) -> None:
        try:
            begin(store, TASKS, TITLES)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert problems == []
    assert [it.name for it in stores[0].records()] == ["tasks", "titles"]


def test_another_row_type_needs_another_version(open_store: OpenStore) -> None:
    begin(open_store(), TASKS)
    changed = replace(TASKS, row_type=TaskWithMore)

    with pytest.raises(ConfigurationError, match=r"tasks version 1 .* new version \(2\)"):
        open_store().prepare([changed])
    assert open_store().prepare([replace(changed, version=2)])[0].version == 2


def test_another_set_of_columns_needs_another_version(store: ReadModelStore) -> None:
    begin(store, TASKS)
    with pytest.raises(ConfigurationError, match="new version"):
        store.prepare([replace(TASKS, columns=("name", "done"), indexes=())])


def test_projections_and_versions_have_tables_of_their_own(store: ReadModelStore) -> None:
    second = replace(TASKS, version=2)
    begin(store, TASKS, second, TITLES, TASKS_LIKE)
    save_tasks(store, [task("a", 1)], 5)
    save(store, TITLES, Changes(new=[title("a", 1)], parked=[parked("p", 9)]), 9)
    save(store, TASKS_LIKE, Changes(new=[title("a", 1, "like")]), 7)

    assert store.get(second, "a").row is None
    assert store.get(second, "a").position == 0
    store.remove("tasks", 1)
    store.remove("tasks", 2)

    assert [it.name for it in store.records()] == ["tasks_v1", "titles"]
    assert store.get(TITLES, "a").row is not None
    assert store.get(TASKS_LIKE, "a").position == 7
    assert len(store.parked(TITLES)) == 1
    with pytest.raises(ReadModelError, match="tasks version 1 no longer exists"):
        store.get(TASKS, "a")


def test_what_was_removed_can_be_begun_again(store: ReadModelStore) -> None:
    begin(store, TASKS)
    save(store, TASKS, Changes(new=[task("a", 1)], parked=[parked("p", 2)]), 5)

    store.remove("tasks", 1)
    store.remove("tasks", 1)
    begin(store, TASKS)

    assert store.get(TASKS, "a")[:2] == (None, 0)
    assert store.parked(TASKS) == []


# Rows -----------------------------------------------------------------------------------------------


def test_rows_are_new_changed_and_removed(store: ReadModelStore) -> None:
    begin(store, TASKS)
    save_tasks(store, [task("a", 1), task("b", 2), task("c", 3)], 3)

    changed = task("a", 1, note="changed", done=True)._replace(position=4)
    with store.applying([TASKS]) as applying:
        assert applying.mark(TASKS).position == 3
        table = applying.table(TASKS)
        table.save(Changes(new=[task("d", 5)], changed=[changed], removed=["b", "unknown"]))
        assert {row.key for row in table.load(["a", "b", "c", "d", "e"])} == {"a", "c", "d"}
        applying.advance(TASKS, Mark(6, "event"))
        assert applying.mark(TASKS).position == 6

    found = store.get(TASKS, "a")
    assert plain(found.row) == plain(changed)
    assert found.position == 6
    assert store.get(TASKS, "b") == Found(None, 6, found.end, "event")
    assert load(store, TASKS, "c", "d", "a").keys() == {"a", "c", "d"}
    assert load(store, TASKS) == {}


def test_a_row_may_be_saved_as_new_in_thousands_and_read(store: ReadModelStore) -> None:
    begin(store, TASKS)
    rows = [task(f"k{n}", n, note=ODD_TEXTS[n % 12]) for n in range(3_000)]
    save_tasks(store, rows)
    found = load(store, TASKS, *(row.key for row in rows))
    assert all(plain(found[row.key]) == plain(row) for row in rows)


@pytest.mark.parametrize("number", [1, 300], ids=["a few rows", "many rows"])
def test_every_type_of_column_comes_back_as_it_was(store: ReadModelStore, number: int) -> None:
    begin(store, EVERYTHING)
    moments = [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1, 1, 2, tzinfo=UTC),
        datetime(2026, 3, 3, 12, 0, 0, 123_457, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    ]
    numbers = [0, -1, (1 << 63) - 1, -(1 << 63)]
    fractions = [0.0, 0.1, -1e308, 5e-324, math.inf, -math.inf, 3, 1e300]
    rows = [
        Everything(
            text=ODD_TEXTS[n % 12],
            number=numbers[n % 4],
            fraction=fractions[n % 8],
            truth=n % 2 == 0,
            at=moments[n % 5],
            id=UUID(int=n),
            rest={ODD_TEXTS[n % 12]: [ODD_TEXTS[-n % 12], n, None]},
        )
        for n in range(max(number, 40))
    ]
    rows += [Everything(), Everything(text=ODD_TEXTS[-1])]
    for at in range(0, len(rows), number):
        some = [
            StoredRow(f"k{at + n}", at + n, 9, None, *EVERYTHING.encode(row))
            for n, row in enumerate(rows[at : at + number])
        ]
        save(store, EVERYTHING, Changes(new=some))

    for n, row in enumerate(rows):
        found = store.get(EVERYTHING, f"k{n}").row
        assert found is not None
        assert found.state is not None
        for value, was in zip(found.columns, EVERYTHING.encode(row)[0], strict=True):
            assert value == was
            assert was is None or isinstance(value, type(was) if was != 3 else float)
        assert EVERYTHING.decode(found.columns, found.state) == row
    at_k4 = store.get(EVERYTHING, "k4").row
    assert at_k4 is not None
    assert at_k4.columns[4].utcoffset() == timedelta(0)


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize("number", [1, 300], ids=["a few rows", "many rows"])
def test_members_of_enumerations_are_stored_as_their_values(store: ReadModelStore, number: int) -> None:
    begin(store, EVERYTHING)
    columns = (Colour.RED, Level.HIGH, 1, True, NOON, UUID(int=1))
    save(
        store,
        EVERYTHING,
        Changes(new=[StoredRow(f"k{n}", n, n, None, columns, b"{}") for n in range(number)]),
    )
    row = store.get(EVERYTHING, "k0").row
    assert row is not None
    assert row.columns == ("red", 3, 1.0, True, NOON, UUID(int=1))
    red = Selection(conditions=(Condition("text", "=", Colour.RED), Condition("number", ">=", Level.HIGH)))
    assert store.select(EVERYTHING, red, EVERYTHING).total == number


def test_what_is_not_a_number_is_kept(store: ReadModelStore) -> None:
    begin(store, EVERYTHING)
    rows = [Everything(fraction=math.nan), Everything(fraction=1.5), Everything(fraction=math.inf)]
    save(
        store,
        EVERYTHING,
        Changes(new=[StoredRow(f"k{n}", n, n, None, *EVERYTHING.encode(row)) for n, row in enumerate(rows)]),
    )
    found = store.get(EVERYTHING, "k0").row
    assert found is not None
    assert math.isnan(found.columns[2])
    assert keys_of(store.select(EVERYTHING, Selection(sort="fraction"), EVERYTHING)) == ["k1", "k2", "k0"]


@pytest.mark.parametrize("key", [*ODD_TEXTS[1:12], "k" * 500, "stream:x"])
def test_any_text_is_a_key(store: ReadModelStore, key: str) -> None:
    begin(store, TITLES)
    other = title(f"{key}2", 2)
    save(store, TITLES, Changes(new=[title(key, 1, key), other], parked=[parked(key, 1)]))
    assert plain(store.get(TITLES, key).row) == plain(title(key, 1, key))
    assert set(load(store, TITLES, key)) == {key}
    assert [it.key for it in store.parked(TITLES, key)] == [key]
    save(store, TITLES, Changes(removed=[key], unparked=[key]))
    assert store.get(TITLES, key).row is None
    assert store.parked(TITLES) == []
    assert store.get(TITLES, other.key).row is not None


def test_a_row_without_columns_and_one_with_nothing_else(store: ReadModelStore) -> None:
    only_columns = Projection(
        name="only_columns", version=1, row_type=Title, apply=unchanged, columns=("title",)
    )
    begin(store, TITLES, only_columns)
    save(store, TITLES, Changes(new=[title("a", 1)]))
    save(
        store, only_columns, Changes(new=[StoredRow("a", 1, 1, None, *only_columns.encode(Title(title="x")))])
    )
    row = store.get(only_columns, "a").row
    assert row is not None
    assert row.state is not None
    assert row.columns == ("x",)
    assert only_columns.decode(row.columns, row.state) == Title(title="x")


# Parked events --------------------------------------------------------------------------------------


def test_events_are_parked_and_unparked(store: ReadModelStore) -> None:
    begin(store, TASKS, TITLES)
    empty = StoredRow("a", 4, 4, 4, (None,) * 4, None)
    events = [parked("a", 4, "it is odd: \t\\N 'x'"), parked("b", 5), parked("a", 6), parked("stream:7", 7)]
    save(store, TASKS, Changes(new=[empty], parked=events))
    save(store, TITLES, Changes(parked=[parked("a", 4)]))

    assert store.get(TASKS, "a").row == empty
    assert store.parked(TASKS) == events
    assert store.parked(TASKS)[0].parked_at.utcoffset() == timedelta(0)
    assert store.parked(TASKS, "a") == [events[0], events[2]]
    assert store.parked(TASKS, limit=2) == events[:2]
    assert store.parked(TASKS, "a", limit=1) == events[:1]
    assert store.parked(TASKS, "none") == []
    with store.applying([TASKS]) as applying:
        assert applying.table(TASKS).parked_streams() == ["stream:7"]
    assert {it.name: it.parked for it in store.records()} == {"tasks": 4, "titles": 1}

    again = parked("a", 6, "still")
    save(store, TASKS, Changes(changed=[task("a", 4)], unparked=["a", "none"], parked=[again]))

    assert store.parked(TASKS) == [events[1], again, events[3]]
    assert len(store.parked(TITLES)) == 1
    row = store.get(TASKS, "a").row
    assert row is not None
    assert row.parked_from is None


def test_a_row_whose_first_event_is_parked_is_not_listed(store: ReadModelStore) -> None:
    begin(store, TASKS)
    rows = [StoredRow("a", 1, 1, 1, (None,) * 4, None), task("b", 2)]
    save_tasks(store, rows)
    for selection in (
        Selection(),
        Selection(sort="name"),
        Selection(conditions=(Condition("size", ">=", 0),)),
    ):
        found = store.select(TASKS, selection, TASKS)
        assert keys_of(found) == ["b"]
        assert found.total == 1


# Selecting ------------------------------------------------------------------------------------------

NAMES = ["Alpha", "alpha", "al%pha_", "beta", "Beta beta", "a\\b", "żółw", "", "Zulu", "'q'"]


def some_tasks(seed: int = 0, number: int = 60) -> list[StoredRow]:
    """Rows with many equal values, in no order, and holes between their positions."""
    chance = random.Random(seed)
    positions = chance.sample(range(1, 6_000), number)
    return [
        task(
            f"k{position}",
            position,
            name=chance.choice(NAMES),
            size=chance.randrange(5),
            due=chance.choice([None, *(NOON + timedelta(days=day) for day in range(4))]),
            done=chance.random() < 0.4,
        )
        for position in positions
    ]


def of(row: StoredRow, column: str) -> Any:
    return row.columns[TASKS.columns.index(column)]


def holds(row: StoredRow, it: Condition) -> bool:
    value = of(row, it.column)
    if value is None:
        return False
    return bool(
        {
            "=": lambda: value == it.value,
            ">=": lambda: value >= it.value,
            "<": lambda: value < it.value,
            "contains": lambda: it.value.lower() in value.lower(),
            "has": lambda: it.value in value,
            "begins": lambda: value.startswith(it.value),
        }[it.operator]()
    )


def expected(rows: list[StoredRow], selection: Selection) -> tuple[list[str], int]:
    """What a selection without a cursor selects, and how many there are in all. None is the largest."""
    chosen = [row for row in rows if all(holds(row, it) for it in selection.conditions)]
    if selection.counted is not None:
        chosen = [row for row in chosen if of(row, "done") is selection.counted]

    def order(row: StoredRow) -> tuple[bool, Any, int]:
        if selection.sort is None:
            return (False, 0, row.first_position)
        value = of(row, selection.sort)
        if isinstance(value, str):
            value = value.encode()
        return (value is None, 0 if value is None else value, row.first_position)

    chosen.sort(key=order, reverse=selection.descending)
    page = chosen[selection.offset : selection.offset + selection.limit]
    return [row.key for row in page], len(chosen)


CONDITIONS = [
    Condition("name", "=", "alpha"),
    Condition("name", "contains", "ALPHA"),
    Condition("name", "contains", ""),
    Condition("name", "has", "alpha"),
    Condition("name", "has", "%"),
    Condition("name", "has", "\\"),
    Condition("name", "has", "'"),
    Condition("name", "begins", "al"),
    Condition("name", "begins", "al%pha_"),
    Condition("name", "begins", "żó"),
    Condition("name", "begins", ""),
    Condition("name", ">=", "a"),
    Condition("size", "=", 3),
    Condition("size", ">=", 2),
    Condition("size", "<", 2),
    Condition("due", ">=", NOON + timedelta(days=1)),
    Condition("due", "<", (NOON + timedelta(days=2)).astimezone(timezone(timedelta(hours=-7)))),
    Condition("due", "=", NOON),
    Condition("done", "=", True),
    Condition("done", "=", False),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda it: f"{it.column} {it.operator} {it.value!r}")
def test_rows_are_selected_by_what_their_columns_are(store: ReadModelStore, condition: Condition) -> None:
    begin(store, TASKS)
    rows = some_tasks()
    save_tasks(store, rows)
    for more in ((), (Condition("size", ">=", 1),)):
        for counted in (None, True, False):
            selection = Selection(conditions=(condition, *more), counted=counted)
            found = store.select(TASKS, selection, TASKS)
            assert (keys_of(found), found.total) == expected(rows, selection)


def test_rows_are_selected_by_ids_and_fractions(store: ReadModelStore) -> None:
    begin(store, EVERYTHING)
    rows = [
        StoredRow(
            f"k{n}", n, n, None, *EVERYTHING.encode(Everything(id=UUID(int=n), fraction=n / 2, truth=n > 2))
        )
        for n in range(5)
    ]
    save(store, EVERYTHING, Changes(new=rows))

    def select(*conditions: Condition, sort: str | None = None) -> list[str]:
        return keys_of(store.select(EVERYTHING, Selection(conditions=conditions, sort=sort), EVERYTHING))

    assert select(Condition("id", "=", UUID(int=3))) == ["k3"]
    assert select(Condition("id", "<", UUID(int=2)), sort="id") == ["k0", "k1"]
    assert select(Condition("fraction", ">=", 1.5)) == ["k3", "k4"]
    assert select(Condition("fraction", "<", 1)) == ["k0", "k1"]
    assert select(Condition("truth", "=", True), sort="truth") == ["k3", "k4"]
    found = store.select(EVERYTHING, Selection(sort="id"), EVERYTHING)
    assert [it.sorted_by for it in found.rows] == [UUID(int=n) for n in range(5)]


def test_rows_are_selected_by_their_keys(store: ReadModelStore) -> None:
    begin(store, TASKS)
    save_tasks(store, [task(key, n) for n, key in enumerate(["ab", "b", "aa", "B", "a", "abc"], 1)])
    prefix = (Condition(KEY, ">=", "a"), Condition(KEY, "<", "b"))
    found = store.select(TASKS, Selection(conditions=prefix, sort=KEY), TASKS)
    assert keys_of(found) == ["a", "aa", "ab", "abc"]
    assert [it.sorted_by for it in found.rows] == ["a", "aa", "ab", "abc"]
    page = Selection(conditions=prefix, sort=KEY, after=("aa", 3), limit=1)
    assert keys_of(store.select(TASKS, page, TASKS)) == ["ab"]
    assert keys_of(store.select(TASKS, Selection(conditions=(Condition(KEY, "=", "B"),)), TASKS)) == ["B"]


def test_an_operator_that_there_is_not_is_refused(store: ReadModelStore) -> None:
    begin(store, TASKS)
    with pytest.raises(ValueError, match="Unknown operator '~'"):
        store.select(TASKS, Selection(conditions=(Condition("name", "~", "x"),)), TASKS)


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("sort", [None, "name", "size", "due", "done"])
@pytest.mark.parametrize("counted", [None, True, False])
def test_pages_are_in_order_by_offset_and_by_cursor(
    store: ReadModelStore, sort: str | None, descending: bool, counted: bool | None
) -> None:
    begin(store, TASKS)
    rows = some_tasks()
    save_tasks(store, rows)
    everything = Selection(sort=sort, descending=descending, counted=counted, limit=1000)
    whole, total = expected(rows, everything)

    found = store.select(TASKS, everything, TASKS)
    assert keys_of(found) == whole
    by_key = {row.key: row for row in rows}
    for it in found.rows:
        row = by_key[it.row.key]
        assert plain(it.row) == plain(row)
        assert it.first_position == row.first_position
        assert it.sorted_by == (row.first_position if sort is None else of(row, sort))

    for offset in (0, 1, 6, 7, 20, 59, 60, 61, 10_000):
        page = store.select(TASKS, replace(everything, offset=offset, limit=7), TASKS)
        assert keys_of(page) == whole[offset : offset + 7]
        assert page.total == total

    after, walked = None, list[str]()
    while len(walked) <= len(whole):
        page = store.select(TASKS, replace(everything, after=after, limit=7), TASKS)
        assert page.total == total
        if not page.rows:
            break
        walked += keys_of(page)
        after = (page.rows[-1].sorted_by, page.rows[-1].first_position)
    assert walked == whole


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("counted", [None, True, False])
def test_an_offset_passes_over_rows_with_holes(
    store: ReadModelStore, descending: bool, counted: bool | None
) -> None:
    begin(store, TASKS)
    edges = [n * 1_000 + by for n in (1, 2, 5, 9) for by in (-1, 0, 1, 5)]
    rows = [task(f"k{position}", position, done=n % 3 == 0) for n, position in enumerate(edges)]
    save_tasks(store, rows)
    removed, rows = rows[4:8], rows[:4] + rows[8:]
    save(store, TASKS, Changes(removed=[row.key for row in removed], **counts_of(removed, -1)))
    other = task(rows[0].key, rows[0].first_position, done=False)
    save(store, TASKS, Changes(changed=[other], **counts_of([rows[0]], -1)))
    save(store, TASKS, Changes(**counts_of([other])))
    rows[0] = other

    for offset in range(len(rows) + 2):
        for limit in (1, 3, 100):
            selection = Selection(offset=offset, limit=limit, counted=counted, descending=descending)
            found = store.select(TASKS, selection, TASKS)
            assert (keys_of(found), found.total) == expected(rows, selection)


def test_without_a_counted_column_offsets_and_totals_are_right_too(store: ReadModelStore) -> None:
    begin(store, TITLES)
    save(store, TITLES, Changes(new=[title(f"k{n}", n) for n in range(10)], total=10))
    found = store.select(TITLES, Selection(offset=3, limit=2), TITLES)
    assert keys_of(found) == ["k3", "k4"]
    assert found.total == 10


def test_rows_of_one_read_model_answer_for_those_of_another(store: ReadModelStore) -> None:
    begin(store, TASKS, TITLES)
    save_tasks(store, [task(key, n) for n, key in enumerate("cab", 1)], 30)
    save(store, TITLES, Changes(new=[title(key, n) for n, key in enumerate("abxc", 11)]), 20)

    found = store.select(TASKS, Selection(sort="name", descending=True), TITLES)

    assert [(it.sorted_by, it.first_position, it.row.key) for it in found.rows] == [
        ("c", 1, "c"),
        ("b", 3, "b"),
        ("a", 2, "a"),
    ]
    assert plain(found.rows[0].row) == plain(title("c", 14))
    assert found.total == 3
    assert found.position == 20


# Applying -------------------------------------------------------------------------------------------


def test_nothing_of_a_failed_transaction_is_kept(store: ReadModelStore) -> None:
    begin(store, TASKS)
    save_tasks(store, [task("a", 1)], 1)

    def fail() -> None:
        with store.applying([TASKS]) as applying:
            table = applying.table(TASKS)
            table.save(
                Changes(new=[task("b", 2)], removed=["a"], parked=[parked("c", 3)], total=5, counted=5)
            )
            applying.advance(TASKS, Mark(9, "event"))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()

    found = store.select(TASKS, Selection(), TASKS)
    assert (keys_of(found), found.total, found.position) == (["a"], 1, 1)
    assert store.parked(TASKS) == []
    save_tasks(store, [task("b", 2)], 2)
    assert store.get(TASKS, "b").position == 2


def test_one_applies_at_a_time(open_store: OpenStore) -> None:
    stores = [open_store(), open_store(), open_store()]
    begin(stores[0], TASKS, TITLES)
    inside: list[int] = []
    most: list[int] = []

    def work(store: ReadModelStore) -> None:
        for _ in range(20):
            with store.applying([TITLES, TASKS]) as applying:
                inside.append(1)
                most.append(len(inside))
                position = applying.mark(TASKS).position
                time.sleep(0.001)
                applying.advance(TASKS, Mark(position + 1, "event"))
                applying.advance(TITLES, Mark(position + 1, "event"))
                inside.pop()

    threads = [threading.Thread(target=work, args=(store,)) for store in stores for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert max(most) == 1
    assert stores[0].get(TASKS, "none").position == 120
    assert stores[0].get(TITLES, "none").position == 120


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])  # in memory a reader waits for the one who writes
def test_a_reader_sees_a_transaction_whole_or_not_at_all(open_store: OpenStore) -> None:
    store, reader = open_store(), open_store()
    begin(store, TASKS)
    save_tasks(store, [task("a", 1)], 1)
    with store.applying([TASKS]) as applying:
        applying.table(TASKS).save(Changes(new=[task("b", 2)], total=1))
        applying.advance(TASKS, Mark(2, "event"))
        assert reader.get(TASKS, "b")[:2] == (None, 1)
        assert reader.select(TASKS, Selection(), TASKS)[1:3] == (1, 1)
    assert reader.get(TASKS, "b").position == 2
    assert reader.select(TASKS, Selection(), TASKS)[1:3] == (2, 2)


def test_applying_to_what_is_not_prepared_is_an_error(store: ReadModelStore) -> None:
    store.prepare([TASKS])
    with store.applying([]):
        pass
    with pytest.raises(ReadModelError, match="titles version 1 no longer exists"):
        with store.applying([TITLES]):
            pass


# Building -------------------------------------------------------------------------------------------


def test_a_table_is_built_beside_the_one_that_is_read(open_store: OpenStore) -> None:
    store, reader = open_store(), open_store()
    begin(store, TASKS)
    save_tasks(store, [task("a", 1, note="old"), task("b", 2, note="old")], 2)
    assert reader.get(TASKS, "a").position == 2

    generation = store.build(TASKS)
    rows = [task("a", 1, note="new"), task("c", 3, note="new")]
    table = store.building(TASKS, generation)
    assert table.load(["a"]) == []
    table.save(Changes(new=rows[:1], **counts_of(rows[:1]), parked=[parked("stream:9", 9)]))
    table.save(Changes(new=rows[1:], **counts_of(rows[1:])))
    assert [plain(row) for row in table.load(["a"])] == [plain(rows[0])]
    assert table.parked_streams() == ["stream:9"]
    store.complete(TASKS, generation)
    assert keys_of(reader.select(TASKS, Selection(), TASKS)) == ["a", "b"]
    assert store.parked(TASKS) == []

    with store.applying([TASKS]) as applying:
        applying.table(TASKS, generation).save(Changes(new=[task("d", 4)], total=1))
        before = applying.switch(TASKS, generation, Mark(7, "event"))
        assert before is not None
        assert applying.mark(TASKS).position == 7
        assert applying.is_there(TASKS)
        assert {row.key for row in applying.table(TASKS).load(["a", "b", "c", "d"])} == {"a", "c", "d"}
    store.record_rebuild(TASKS, 1.5, 12)

    found = reader.get(TASKS, "a")
    assert plain(found.row) == plain(rows[0])
    assert found.position == 7
    selected = reader.select(TASKS, Selection(offset=1), TASKS)
    assert (keys_of(selected), selected.total, selected.position) == (["c", "d"], 3, 7)
    store.drop(TASKS, before)
    assert reader.get(TASKS, "b").row is None
    assert [it.key for it in reader.parked(TASKS)] == ["stream:9"]
    (record,) = store.records()
    assert (record.rebuild_seconds, record.rebuild_events, record.rows) == (1.5, 12, 3)
    assert record.rebuilt_at is not None
    assert abs(datetime.now(UTC) - record.rebuilt_at) < timedelta(minutes=1)


def test_a_reader_finds_the_table_that_took_the_place_of_a_dropped_one(open_store: OpenStore) -> None:
    store, reader = open_store(), open_store()
    begin(store, TASKS, TITLES)
    for turn in range(4):
        with store.applying([TASKS]) as applying:
            pass
        generation = store.build(TASKS)
        table = store.building(TASKS, generation)
        table.save(Changes(new=[task("a", 1, size=turn)], total=1))
        store.complete(TASKS, generation)
        with store.applying([TASKS]) as applying:
            before = applying.switch(TASKS, generation, Mark(turn, "event"))
        assert before is not None
        store.drop(TASKS, before)
        if turn % 2:  # a reader finds out by either
            assert reader.select(TASKS, Selection(), TASKS).rows[0].row.columns[1] == turn
        row = reader.get(TASKS, "a").row
        assert row is not None
        assert row.columns[1] == turn


def test_a_projection_without_a_table_gets_the_one_that_was_built(store: ReadModelStore) -> None:
    store.prepare([TASKS])
    generation = store.build(TASKS)
    store.complete(TASKS, generation)
    with store.applying([TASKS]) as applying:
        assert applying.switch(TASKS, generation, Mark(5, "event")) is None
    assert store.get(TASKS, "a").position == 5
    assert store.prepare([TASKS]) == []


def test_what_was_not_finished_is_dropped_by_the_next_build(
    store: ReadModelStore, by_hand: Callable[[str], None]
) -> None:
    begin(store, TASKS)
    other = replace(TASKS, version=2)
    store.prepare([other])
    of_other = store.build(other)
    left = store.build(TASKS)
    table = store.building(TASKS, left)
    table.save(Changes(new=[task("a", 1)], parked=[parked("p", 2)]))

    generation = store.build(TASKS)

    assert generation > left
    for suffix in ("",):
        with pytest.raises((sqlite3.OperationalError, psycopg.errors.UndefinedTable, ReadModelError)):
            by_hand(f"SELECT * FROM @tasks_v1_{left}{suffix}")
    table = store.building(other, of_other)
    table.save(Changes(new=[task("a", 1)]))
    store.drop(TASKS, generation)
    store.drop(TASKS, generation)
    assert store.get(TASKS, "a").row is None


def test_the_table_that_is_read_is_not_dropped(store: ReadModelStore) -> None:
    begin(store, TASKS)
    save_tasks(store, [task("a", 1)])
    store.drop(TASKS, generation_of(store, TASKS))
    assert store.get(TASKS, "a").row is not None


def test_many_rows_are_built_and_dropped(store: ReadModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployledger.adapters.read_models.sqlite._DROPPED_AT_ONCE", 2_000)
    begin(store, TASKS)
    generation = store.build(TASKS)
    rows = [task(f"k{n}", n, done=n % 2 == 0) for n in range(10_500)]
    table = store.building(TASKS, generation)
    table.save(Changes(new=rows[:9_000], changed=rows[9_000:], **counts_of(rows)))
    store.complete(TASKS, generation)
    with store.applying([TASKS]) as applying:
        before = applying.switch(TASKS, generation, Mark(10_500, "event"))
    assert before is not None
    found = store.select(TASKS, Selection(offset=9_998, limit=3, counted=None), TASKS)
    assert keys_of(found) == ["k9998", "k9999", "k10000"]
    assert found.total == 10_500
    store.remove(TASKS.name, TASKS.version)
    assert store.records() == []


# Comparing ------------------------------------------------------------------------------------------


def compared(
    store: ReadModelStore, generation: int, keys: tuple[str, str] | None = None
) -> tuple[dict[str, tuple[StoredRow | None, StoredRow | None]], int]:
    with store.compare(TASKS, generation) as comparison:
        assert comparison.position == 5
        found = {(e or f).key: (e, f) for e, f in comparison.differences(keys) if e or f}  # type: ignore[union-attr]
        return found, comparison.rows(keys)


def test_tables_are_compared_row_by_row(store: ReadModelStore, by_hand: Callable[[str], None]) -> None:
    begin(store, TASKS)
    rows = [task(key, n) for n, key in enumerate("abcdefg", 1)]
    rows.append(StoredRow("h", 8, 8, 8, (None,) * 4, None))
    save_tasks(store, rows, 5)
    generation = store.build(TASKS)
    table = store.building(TASKS, generation)
    table.save(Changes(new=rows))
    assert compared(store, generation) == ({}, 8)

    label = label_of(store, TASKS)
    by_hand(f"UPDATE @{label} SET c_name = 'edited' WHERE key = 'a'")
    by_hand(f"UPDATE @{label} SET state = '{json.dumps({'note': 'edited'})}' WHERE key = 'b'")
    by_hand(f"UPDATE @{label} SET c_due = NULL, parked_from = 3 WHERE key = 'c'")
    by_hand(f"UPDATE @{label} SET c_size = NULL WHERE key = 'd'")
    by_hand(f"DELETE FROM @{label} WHERE key = 'e'")
    by_hand(f"INSERT INTO @{label} (key, first_position, position, state) VALUES ('dd', 9, 9, '{{}}')")
    by_hand(f"UPDATE @{label} SET state = '{{}}' WHERE key = 'h'")

    found, number = compared(store, generation)
    assert found.keys() == {"a", "b", "c", "d", "e", "dd", "h"}
    assert number == 8
    before, after = found["a"]
    assert before is not None
    assert after is not None
    assert (before.columns[0], after.columns[0]) == ("a", "edited")
    assert plain(found["e"][0]) == plain(rows[4])
    assert found["e"][1] is None
    assert found["dd"][0] is None
    some, number = compared(store, generation, ("d", "e"))
    assert some.keys() == {"d", "dd", "e"}
    assert number == 2


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])  # in memory who writes waits for the comparison
def test_a_comparison_is_of_the_moment_of_entering(open_store: OpenStore) -> None:
    store, writer = open_store(), open_store()
    begin(store, TASKS)
    rows = [task(f"k{n}", n) for n in range(2_000)]
    save_tasks(store, rows, 5)
    generation = store.build(TASKS)
    table = store.building(TASKS, generation)
    table.save(Changes(new=rows[1:]))
    with store.compare(TASKS, generation) as comparison:
        assert comparison.position == 5
        save(writer, TASKS, Changes(changed=[task(row.key, 9_999) for row in rows]), 6)
        assert [found.key for _, found in comparison.differences() if found] == ["k0"]
        assert comparison.rows() == 2_000


# What there is --------------------------------------------------------------------------------------


def test_records_say_what_there_is(store: ReadModelStore) -> None:
    begin(store, TITLES, TASKS)
    save_tasks(store, [task("a", 1), task("b", 2)], 7)
    save(store, TITLES, Changes(parked=[parked("p", 1), parked("p", 2)]), 3)
    store.follow_as([TASKS], "host:1")
    store.follow_as([TASKS], "host:2")

    of_tasks, of_titles = store.records()

    assert (of_tasks.name, of_tasks.version, of_tasks.position) == ("tasks", 1, 7)
    assert (of_tasks.rows, of_tasks.parked, of_tasks.follower) == (2, 0, "host:2")
    assert (of_tasks.rebuilt_at, of_tasks.rebuild_seconds, of_tasks.rebuild_events) == (None, None, None)
    assert of_tasks.updated_at is not None
    assert abs(datetime.now(UTC) - of_tasks.updated_at) < timedelta(minutes=1)
    assert (of_titles.name, of_titles.rows, of_titles.parked, of_titles.follower) == ("titles", 0, 2, None)
    assert of_tasks.generation != of_titles.generation


# Files of SQLite ------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models.db"


def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    store = SQLiteReadModels(path)
    begin(store, TASKS)
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 4")
    connection.close()
    newer = SQLiteReadModels(path)
    with pytest.raises(ReadModelError, match=r"newer version .* Upgrade deployledger, or remove the file"):
        newer.prepare([TASKS])


def test_a_file_that_cannot_be_used_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("This is not a database, and it is long enough to tell." * 100)
    places = [tmp_path / "text", tmp_path / "text" / "models.db", tmp_path]
    for place in places:
        with pytest.raises(ReadModelError, match=r"(cannot be (used|written)|are damaged): .*\. Check that"):
            SQLiteReadModels(place, described_as="here").prepare([TASKS])
    (tmp_path / "a.db.lock").mkdir()
    with pytest.raises(ReadModelError, match=r"The read models in here .* lock file"):
        SQLiteReadModels(tmp_path / "a.db", described_as="here").prepare([TASKS])


def test_a_file_that_is_read_only_is_a_clear_error() -> None:
    with TemporaryDirectory() as folder:  # others can go into it, unlike the test's own
        Path(folder).chmod(0o755)
        path = Path(folder) / "read-models.db"
        store = SQLiteReadModels(path)
        begin(store, TASKS)
        store.close()
        path.chmod(0o444)
        assert "cannot be" in told_by_somebody_who_may_not_write(path)


def told_by_somebody_who_may_not_write(path: Path) -> str:
    try_to_save = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from deployledger.domain.exceptions import ReadModelError\n"
        "from tests.contracts.test_read_model_store import TASKS, SQLiteReadModels, save_tasks, task\n"
        "if os.getuid() == 0: os.setuid(65534)\n"  # root may write everywhere
        "try: save_tasks(SQLiteReadModels(Path(sys.argv[1])), [task('a', 1)])\n"
        "except ReadModelError as error: print(error)"
    )
    command = [sys.executable, "-c", try_to_save, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_last_applied_event_is_kept_until_a_projection_is_removed(store: ReadModelStore) -> None:
    begin(store, TASKS)
    assert store.mark(TASKS) == (0, "")
    with store.applying([TASKS]) as applying:
        applying.advance(TASKS, Mark(9, "stream:3"))
    assert store.mark(TASKS) == (9, "stream:3")
    assert not store.forget(TASKS, Mark(9, "stream:4"))
    assert store.forget(TASKS, Mark(9, "stream:3"))
    assert not store.forget(TASKS, Mark(9, "stream:3"))
    assert store.prepare([TASKS]) == [TASKS]
    assert store.mark(TASKS) == (0, "")


def test_rows_are_kept_when_the_store_is_closed(path: Path) -> None:
    store = SQLiteReadModels(path)
    begin(store, TASKS)
    save_tasks(store, [task("a", 1)])
    store.close()
    store.close()
    with pytest.raises(ReadModelError, match="they are closed"):
        store.get(TASKS, "a")
    again = SQLiteReadModels(path)
    assert again.prepare([TASKS]) == []
    assert again.get(TASKS, "a").row is not None
    again.close()


def test_a_file_that_was_removed_is_begun_again(path: Path) -> None:
    store, other = SQLiteReadModels(path), SQLiteReadModels(path)
    begin(store, TASKS)
    save_tasks(store, [task("a", 1)])
    assert other.get(TASKS, "a").row is not None
    for file in path.parent.glob("models.db*"):
        file.unlink()
    with pytest.raises(ReadModelError, match="no longer exists"):
        other.get(TASKS, "a")
    begin(store, TASKS)
    assert store.get(TASKS, "a").row is None
    assert other.get(TASKS, "a").row is None
    store.close()
    other.close()


def _begin_in_process(path: Path, start: Any, answers: Any) -> None:
    start.wait()
    try:
        store = SQLiteReadModels(path)
        begin(store, TASKS, TITLES)
        for n in range(5):
            with store.applying([TASKS]) as applying:
                applying.advance(TASKS, Mark(applying.mark(TASKS).position + 1, ""))
            store.get(TITLES, f"k{n}")
        store.close()
        answers.put("done")
    except BaseException as problem:
        answers.put(repr(problem))


def test_several_processes_make_the_file_at_the_same_time(path: Path) -> None:
    of = multiprocessing.get_context("spawn")
    start, answers = of.Event(), of.Queue()
    processes = [of.Process(target=_begin_in_process, args=(path, start, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    assert [answers.get(timeout=60) for _ in processes] == ["done"] * 4
    for process in processes:
        process.join()
    store = SQLiteReadModels(path)
    assert store.get(TASKS, "none").position == 20
    store.close()


@pytest.mark.parametrize("place", ["file", "memory"])
def test_a_store_is_not_used_across_a_fork(path: Path, place: str) -> None:
    store = SQLiteReadModels(path if place == "file" else None)
    begin(store, TASKS)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.get(TASKS, "a")
            os.write(write, b"nothing")
        except ReadModelError as error:
            store.close()
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        told = answer.read().decode()
    os.waitpid(child, 0)
    assert "opened before this process was forked" in told
    assert store.get(TASKS, "a").row is None
    store.close()


def test_any_number_of_threads_reads_while_one_writes(path: Path) -> None:
    store = SQLiteReadModels(path)
    begin(store, TASKS)
    stop, problems = threading.Event(), list[BaseException]()

    def read() -> None:
        position = 0
        while not stop.is_set():
            try:
                found = store.get(TASKS, "a")
                assert found.position >= position
                assert found.position == 0 or (found.row and found.row.position == found.position)
                position = found.position
            except BaseException as problem:
                problems.append(problem)
                return

    threads = [threading.Thread(target=read) for _ in range(10)]
    for thread in threads:
        thread.start()
    for n in range(1, 100):
        save(store, TASKS, Changes(changed=[task("a", n)]), n)
    stop.set()
    for thread in threads:
        thread.join()
    store.close()
    assert problems == []


# Databases of PostgreSQL of earlier releases ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["postgres"])
def test_tables_of_an_earlier_release_are_replaced(
    open_store: OpenStore, by_hand: Callable[[str], None], empty_postgres_url: str
) -> None:
    begin(open_store(), TASKS)
    with psycopg.connect(empty_postgres_url) as session:
        session.execute("DROP TABLE deployledger.read_models")
        session.execute(
            "CREATE TABLE deployledger.read_models (name text, version integer, shape text, "
            "generation bigint, position bigint, marker text)"
        )
        for suffix in ("", "_counts", "_past", "_turns"):
            session.execute(f"CREATE TABLE deployledger.tasks_v1_99{suffix} (block bigint)".encode())

    store = open_store()

    assert store.prepare([TASKS]) == [TASKS]
    store.begin_empty([TASKS])
    assert store.get(TASKS, "a").row is None
    with psycopg.connect(empty_postgres_url, autocommit=True) as session:
        with pytest.raises(psycopg.errors.UndefinedColumn):  # processes of it err: these are not their tables
            session.execute("SELECT generation, position, marker FROM deployledger.read_models")
        left = session.execute("SELECT relname FROM pg_class WHERE relname LIKE 'tasks_v1_99%'").fetchall()
    assert left == []
