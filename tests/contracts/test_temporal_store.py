"""What a store promises of temporal read models: rows as they were at any position, on every database."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import ConfigurationError
from deployledger.projections.projection import Projection
from deployledger.projections.rows import Changes, PastRow, StoredRow
from deployledger.projections.selection import Selection
from deployledger.projections.store import ReadModelStore
from tests.contracts.test_read_model_store import (
    CONDITIONS,
    NAMES,
    Task,
    begin,
    expected,
    generation_of,
    keys_of,
    label_of,
    plain,
    save,
    unchanged,
)
from tests.domain.given import NOON

DUTIES = Projection(
    name="duties",
    version=1,
    row_type=Task,
    apply=unchanged,
    columns=("name", "size", "due", "done"),
    indexes=(("name",),),
    counted="done",
    temporal=True,
)
UNCOUNTED = Projection(
    name="uncounted", version=1, row_type=Task, apply=unchanged, columns=("name",), temporal=True
)


@dataclass
class Life:
    """Rows of a key, and which of them held at a position, kept in the simplest way."""

    versions: dict[str, list[StoredRow | None]] = field(default_factory=dict)
    positions: dict[str, list[int]] = field(default_factory=dict)

    def at(self, position: int) -> list[StoredRow]:
        """Return the rows at a position."""
        found = []
        for key, rows in self.versions.items():
            row = None
            for at, version in zip(self.positions[key], rows, strict=True):
                row = version if at <= position else row
            if row is not None:
                found.append(row)
        return found


def duty(key: str, first: int, position: int, **fields: Any) -> StoredRow:
    columns, state = DUTIES.encode(Task(**{"name": key, "size": first, **fields}))
    return StoredRow(key, first, position, None, columns, state)


def some_life(seed: int, keys: int = 12, events: int = 150) -> list[tuple[int, str, StoredRow | None]]:
    """Return events: at which position, which row becomes what; None removes it."""
    chance = random.Random(seed)
    first: dict[str, int] = {}
    found: list[tuple[int, str, StoredRow | None]] = []
    for position in sorted(chance.sample(range(1, 3_000), events)):
        key = f"k{chance.randrange(keys)}"
        if key in first and chance.random() < 0.15:
            del first[key]
            found.append((position, key, None))
            continue
        due = chance.choice([None, *(NOON + timedelta(days=day) for day in range(3))])
        row = duty(
            key,
            first.setdefault(key, position),
            position,
            name=chance.choice(NAMES),
            size=chance.randrange(4),
            due=due,
            done=chance.random() < 0.5,
            note=f"at {position}",
        )
        found.append((position, key, row))
    return found


def saved(
    store: ReadModelStore, projection: Projection[Any], seed: int, at_once: int = 40
) -> tuple[Life, list[PastRow]]:
    """Save what happens in portions, as a fold does; return what was, and the past rows."""
    life = Life()
    now: dict[str, StoredRow] = {}
    past: list[PastRow] = []
    happened = some_life(seed)
    for start in range(0, len(happened), at_once):
        changes = Changes()
        before = dict(now)
        for position, key, row in happened[start : start + at_once]:
            if (old := now.pop(key, None)) is not None:
                assert old.state is not None
                kept = PastRow(key, old.first_position, old.position, position, row is None, *old[4:])
                changes.past.append(kept)
            if row is not None:
                now[key] = row
            life.versions.setdefault(key, []).append(row)
            life.positions.setdefault(key, []).append(position)
        for key in {**before, **now}:
            old, new = before.get(key), now.get(key)
            if old == new:
                continue
            changes.count(old, -1, counted_at=3)
            changes.count(new, 1, counted_at=3)
            if new is None:
                changes.removed.append(key)
            else:
                (changes.changed if old is not None else changes.new).append(new)
        past += changes.past
        if projection is UNCOUNTED:
            changes = uncounted(changes)
        save(store, projection, changes, happened[start : start + at_once][-1][0])
    return life, past


def uncounted(changes: Changes) -> Changes:
    def narrowed(row: Any) -> Any:
        return row._replace(columns=row.columns[:1], state='{"size": 1}')

    return replace(
        changes,
        new=[narrowed(it) for it in changes.new],
        changed=[narrowed(it) for it in changes.changed],
        past=[narrowed(it) for it in changes.past],
        counted=0,
    )


def text(state: Any) -> str:
    return state.decode() if isinstance(state, bytes) else state


def past_of(store: ReadModelStore, projection: Projection[Any], key: str) -> list[PastRow]:
    with store.applying([projection]) as applying:
        return applying.table(projection).past(key)


def moments(seed: int) -> list[int]:
    """Return positions before, between, at and behind what happened, and at the edges of blocks."""
    happened = [position for position, _, _ in some_life(seed)]
    edges = [number * 1_000 + step for number in range(4) for step in (-1, 0, 1)]
    return [*happened[::17], happened[0], happened[-1], happened[-1] - 1, 0, *edges[1:]]


@pytest.mark.parametrize("seed", [1, 2])
def test_rows_are_selected_as_they_were(store: ReadModelStore, seed: int) -> None:
    begin(store, DUTIES)
    life, _ = saved(store, DUTIES, seed)
    for as_of in moments(seed):
        rows = life.at(as_of)
        for counted in (None, True, False):
            for descending in (False, True):
                for offset in (0, 3):
                    selection = Selection(counted=counted, descending=descending, offset=offset, limit=5)
                    found = store.select_as_of(DUTIES, selection, as_of)
                    assert (keys_of(found), found.total) == expected(rows, selection), (as_of, selection)
        whole = store.select_as_of(DUTIES, Selection(limit=1000), as_of)
        assert {plain(it.row) for it in whole.rows} == {plain(row) for row in rows}
        assert [it.first_position for it in whole.rows] == [it.row.first_position for it in whole.rows]
    assert store.select_as_of(DUTIES, Selection(), 1).position == some_life(seed)[-1][0]


@pytest.mark.parametrize("sort", [None, "name", "size", "due", "done"])
def test_filters_and_orders_are_by_what_was_so_then(store: ReadModelStore, sort: str | None) -> None:
    begin(store, DUTIES)
    life, _ = saved(store, DUTIES, 3)
    for as_of in moments(3)[::3]:
        rows = life.at(as_of)
        for number, condition in enumerate(CONDITIONS):
            selection = Selection(
                conditions=(condition,),
                counted=(None, True, False)[number % 3],
                sort=sort,
                descending=number % 2 == 0,
                offset=number % 4,
                limit=7,
            )
            found = store.select_as_of(DUTIES, selection, as_of)
            assert (keys_of(found), found.total) == expected(rows, selection), (as_of, selection)


@pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
@pytest.mark.parametrize("sort", [None, "name", "due", "done"])
def test_a_cursor_goes_through_all_that_held(
    store: ReadModelStore, sort: str | None, descending: bool
) -> None:
    begin(store, DUTIES)
    life, _ = saved(store, DUTIES, 4)
    for as_of in moments(4)[::5]:
        selection = Selection(sort=sort, descending=descending, limit=3)
        whole, _ = expected(life.at(as_of), replace(selection, limit=1000))
        found: list[str] = []
        while page := store.select_as_of(DUTIES, selection, as_of).rows:
            found += [it.row.key for it in page]
            selection = replace(selection, after=(page[-1].sorted_by, page[-1].first_position))
        assert found == whole


def test_the_longest_offset_and_limit_are_no_error(store: ReadModelStore) -> None:
    begin(store, DUTIES)
    saved(store, DUTIES, 1)
    selection = Selection(offset=(1 << 63) - 1, limit=1001)
    assert store.select_as_of(DUTIES, selection, 2000).rows == []


def test_without_counts_the_total_is_right_too(store: ReadModelStore) -> None:
    begin(store, UNCOUNTED)
    life, _ = saved(store, UNCOUNTED, 5)
    for as_of in moments(5)[::4]:
        rows = life.at(as_of)
        found = store.select_as_of(UNCOUNTED, Selection(limit=4), as_of)
        assert (keys_of(found), found.total) == expected(rows, Selection(limit=4))


def test_past_rows_come_back_as_they_were(store: ReadModelStore) -> None:
    begin(store, DUTIES)
    _, past = saved(store, DUTIES, 6)
    assert any(it.was_removed for it in past)
    for key in {it.key for it in past}:
        found = [it._replace(state=text(it.state)) for it in past_of(store, DUTIES, key)]
        assert found == [it._replace(state=text(it.state)) for it in past if it.key == key]
    assert past_of(store, DUTIES, "nobody") == []


def test_what_is_parked_later_was_not_parked_before(store: ReadModelStore) -> None:
    begin(store, DUTIES)
    save(store, DUTIES, Changes(new=[duty("a", 1, 1)._replace(parked_from=7)]), 9)
    save(store, DUTIES, Changes(new=[StoredRow("b", 5, 5, 5, (None,) * 4, None)]), 9)
    for as_of, parked_from in ((1, None), (6, None), (7, 7), (9, 7)):
        for sort in (None, "name"):
            (found,) = store.select_as_of(DUTIES, Selection(sort=sort), as_of).rows
            assert (found.row.key, found.row.parked_from) == ("a", parked_from)


def test_the_past_of_a_key_is_made_anew(store: ReadModelStore) -> None:
    begin(store, DUTIES)
    old = [PastRow("a", 1, 1, 3, False, *duty("a", 1, 1)[4:])]
    save(store, DUTIES, Changes(new=[duty("a", 1, 3), duty("b", 2, 2)], past=old), 5)
    other = [PastRow("a", 1, 1, 4, False, *duty("a", 1, 1, name="new")[4:])]
    save(store, DUTIES, Changes(changed=[duty("a", 1, 4)], forgotten=["a"], past=other), 5)
    assert [(it.until, it.columns[0]) for it in past_of(store, DUTIES, "a")] == [(4, "new")]


def test_nothing_of_a_failed_transaction_is_kept(store: ReadModelStore) -> None:
    begin(store, DUTIES)
    life, past = saved(store, DUTIES, 7)
    end = some_life(7)[-1][0]
    key = past[0].key
    kept = past_of(store, DUTIES, key)
    row = duty(key, 1, 9000, name="lost")
    lost = Changes(
        new=[row],
        past=[PastRow(key, 1, 8000, 9000, False, *row[4:])],
        forgotten=[past[1].key],
        total=5,
    )

    def fail() -> None:
        with store.applying([DUTIES]) as applying:
            applying.table(DUTIES).save(lost)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert past_of(store, DUTIES, key) == kept
    assert store.select_as_of(DUTIES, Selection(), end).total == len(life.at(end))


def test_tables_are_built_compared_switched_and_dropped(
    store: ReadModelStore, by_hand: Callable[[str], None]
) -> None:
    begin(store, DUTIES)
    life, past = saved(store, DUTIES, 8)
    end = some_life(8)[-1][0]
    held = life.at(end)
    built = store.build(DUTIES)
    table = store.building(DUTIES, built)
    table.save(Changes(new=held, past=past))
    store.complete(DUTIES, built)
    assert differences(store, built) == []

    label = label_of(store, DUTIES)
    spoilt = [it for it in past if not it.was_removed][:3]
    identity = [f"key = '{it.key}' AND position = {it.position}" for it in spoilt]
    by_hand(f"UPDATE @{label}_past SET c_name = 'edited' WHERE {identity[0]}")
    by_hand(f"DELETE FROM @{label}_past WHERE {identity[1]}")
    by_hand(f"UPDATE @{label}_past SET position = 0 WHERE {identity[2]}")
    found = differences(store, built)
    edited, deleted, moved = (it[:3] for it in spoilt)
    assert len(found) == 4
    assert set(found) == {(edited, edited), (deleted, None), (moved, None), (None, (*moved[:2], 0))}
    with store.compare(DUTIES, built) as comparison:
        between = list(comparison.past_differences((edited[0], edited[0])))
    assert {it.key for pair in between for it in pair if it is not None} == {edited[0]}

    with store.applying([DUTIES]) as applying:
        applying.recount(DUTIES)
    with store.applying([DUTIES]) as applying:
        before = applying.switch(DUTIES, built, Mark(end, "event"))
    assert before is not None
    assert generation_of(store, DUTIES) == built
    for as_of in moments(8)[::3]:
        assert store.select_as_of(DUTIES, Selection(), as_of).total == len(life.at(as_of))
    store.drop(DUTIES, before)
    for suffix in ("", "_past"):
        with pytest.raises(Exception, match=r"no such table|does not exist"):
            by_hand(f"DELETE FROM @{label}{suffix}")
    store.remove(DUTIES.name, DUTIES.version)
    assert store.records() == []


Identity = tuple[Any, ...] | None


def differences(store: ReadModelStore, built: int) -> list[tuple[Identity, Identity]]:
    with store.compare(DUTIES, built) as comparison:
        assert not list(comparison.differences())
        expected, recorded = comparison.counts()
        assert expected == recorded
        return [
            (expected and expected[:3], found and found[:3])
            for expected, found in comparison.past_differences()
        ]


def test_many_past_rows_are_built_and_dropped(store: ReadModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from deployledger.adapters.read_models import sqlite as sqlite_store
    from deployledger.adapters.read_models import transactions

    for module, name, value in (
        (transactions, "_SAVED_AT_ONCE", 7),
        (sqlite_store, "_DELETED_AT_ONCE", 5),
        (sqlite_store, "_DROPPED_AT_ONCE", 10),
    ):
        monkeypatch.setattr(module, name, value)
    begin(store, DUTIES)
    built = store.build(DUTIES)
    rows = [duty(f"k{number}", number, number + 1) for number in range(1, 40)]
    past = [PastRow(it.key, it.first_position, it.first_position, it.position, False, *it[4:]) for it in rows]
    table = store.building(DUTIES, built)
    table.save(Changes(new=rows, past=past))
    assert table.past("k3") != []
    store.complete(DUTIES, built)
    store.drop(DUTIES, built)
    again = store.build(DUTIES)
    table = store.building(DUTIES, again)
    assert table.past("k3") == []


def test_another_version_is_needed_to_become_temporal(store: ReadModelStore) -> None:
    begin(store, DUTIES)
    with pytest.raises(ConfigurationError, match="duties version 1"):
        store.prepare([replace(DUTIES, temporal=False)])
