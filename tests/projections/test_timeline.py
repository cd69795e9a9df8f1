"""Rows as they were: at every position they are what a plain fold of the events up to there makes."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployledger.adapters.read_models import postgres
from deployledger.domain.event_log import recorded_at, version_of
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.responses import DeploymentPage, DeploymentStatusResponse
from deployledger.projections import applying, rebuilding, status
from deployledger.projections.deployment_list import DEPLOYMENT_LIST, ListRow
from deployledger.projections.deployment_timeline import DEPLOYMENT_TIMELINE
from deployledger.projections.projection import Projection
from deployledger.projections.read_models import ReadModels
from deployledger.projections.selection import Selection
from deployledger.projections.status import DEPLOYMENT_STATUS
from deployledger.service.listing import Filters, Listing, list_page, page_as_of
from deployledger.service.past import Past
from tests.domain.given import SERVING, cancelled, history, requested, update_requested
from tests.logs import records_of
from tests.projections.examples import (
    COUNTS,
    MARKS,
    TEMPORAL,
    append_some_undecodable,
    append_undecodable,
    assert_folded,
    by_hand,
    catch_all_up,
    empty,
    folded,
    histories,
    label,
    opened,
    read_tables,
    tables,
)
from tests.projections.test_one_fold import SETTINGS, catch_up_again_and_again, killed_at, portions

KEPT = (DEPLOYMENT_TIMELINE, *TEMPORAL)


def rows_as_of(models: ReadModels, projection: Projection[Any], position: int) -> dict[str, Any]:
    """Return the rows at a position in the form of `folded`, and check their order and their number."""
    found = models.select_as_of(projection, Selection(limit=1000), position)
    assert found.total == len(found.rows)
    assert [it.first_position for it in found.rows] == sorted(it.first_position for it in found.rows)
    if projection.counted:
        numbers = [
            models.select_as_of(projection, Selection(counted=value, limit=1), position).total
            for value in (True, False)
        ]
        assert sum(numbers) == found.total
        of_true = sum(
            getattr(projection.decode(it.row.columns, it.row.state or ""), projection.counted)
            for it in found.rows
        )
        assert numbers[0] == of_true
    return {
        it.row.key: (
            it.row.first_position,
            it.row.position,
            it.row.parked_from,
            projection.decode(it.row.columns, it.row.state or ""),
        )
        for it in found.rows
    }


def assert_past(models: ReadModels, positions: Sequence[int]) -> None:
    """Check that the rows at some positions are what the events up to there make."""
    for projection in models.projections.values():
        if projection.temporal:
            for position in positions:
                rows, _ = folded(projection, models, until=position)
                expected = {key: row for key, row in rows.items() if row[3] is not None}
                assert rows_as_of(models, projection, position) == expected, (projection.name, position)


def all_positions(models: ReadModels) -> list[int]:
    return list(range(1, models.log.position() + 1))


@settings(SETTINGS)
@given(
    past=histories(),
    appended=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    applied=st.integers(1, 9),
    at_hand=st.integers(0, 3),
    kills=st.sets(st.integers(0, 60), max_size=8),
    undecodable=st.sets(st.integers(0, 40), max_size=2),
    seed=st.integers(0, 1000),
)
def test_every_position_of_a_followed_and_of_a_rebuilt_read_model(
    past: list[DeploymentEvent],
    appended: list[int],
    applied: int,
    at_hand: int,
    kills: set[int],
    undecodable: set[int],
    seed: int,
    database_url: str,
) -> None:
    empty(database_url)
    spoilt = {past[number].event_id for number in undecodable if number < len(past)}
    with (
        opened(database_url, *TEMPORAL) as models,
        mock.patch.object(applying, "APPLIED_AT_ONCE", applied),
        mock.patch.object(rebuilding, "_ROWS_AT_HAND", at_hand),
        mock.patch.object(postgres, "_COPIED_FROM", at_hand),
    ):
        with killed_at(models, kills):
            for portion in portions(past, appended):
                append_some_undecodable(models.log, portion, spoilt)
                catch_up_again_and_again(models)
        positions = random.Random(seed).sample(all_positions(models), min(8, models.log.position()))
        assert_past(models, positions)
        names = [projection.name for projection in KEPT]
        assert not any(it.differences for it in models.verify(names))
        for key in {raw.stream for raw in records_of(models.log, limit=100)}:
            models.refold("marks", [key])
            models.refold("deployment_timeline", [key])
        assert_past(models, positions)
        assert not any(it.differences for it in models.verify(names))
        models.rebuild(names)
        assert_past(models, positions)
        assert_folded(models)
        assert tables(database_url) == read_tables(models)


@settings(SETTINGS, max_examples=2)
@given(past=histories(longest=60), workers=st.integers(2, 3))
def test_every_position_after_a_rebuild_by_workers(
    past: list[DeploymentEvent], workers: int, database_url: str
) -> None:
    empty(database_url)
    with opened(database_url, *TEMPORAL) as models:
        models.log.append(past)
        stream = past[0].originator_id
        append_undecodable(models.log, stream, version_of(models.log, stream) + 1)
        models.rebuild([projection.name for projection in KEPT], workers=workers)
        assert_past(models, all_positions(models)[::5])
        catch_all_up(models)
        assert_folded(models)
        assert not any(it.differences for it in models.verify([it.name for it in KEPT], workers=2))


# Lists ----------------------------------------------------------------------------------------------


def sort_key(sort: str) -> Callable[[tuple[int, ListRow, Any]], Any]:
    def key(it: tuple[int, ListRow, Any]) -> Any:
        if sort == "created_at":
            return (it[0],)
        value = getattr(it[1], sort)
        return (value if sort == "updated_at" else str(value).encode(), it[0])

    return key


def the_fleet(models: ReadModels, position: int) -> list[tuple[int, ListRow, DeploymentStatusResponse]]:
    """Return what there was at a position, by a plain fold: place, what lists select by, and the answer."""
    listed, _ = folded(DEPLOYMENT_LIST, models, until=position)
    known, parked = folded(DEPLOYMENT_STATUS, models, until=position)
    found = []
    for key, (first, _, _, row) in listed.items():
        if row is not None:
            answer = status.respond(known[key][3])
            late = [at for of, at in parked if of == key]
            found.append(
                (first, row, answer.model_copy(update={"position": position, "parked_events": len(late)}))
            )
    return found


def expected_page(
    models: ReadModels, listing: Listing, position: int
) -> tuple[list[DeploymentStatusResponse], int]:
    filters = listing.filters
    chosen = [
        it
        for it in the_fleet(models, position)
        if (filters.include_deleted or not it[1].deleted)
        and (filters.status is None or it[1].status == filters.status)
        and (filters.name_contains is None or filters.name_contains in it[1].name.lower())
        and (filters.target_type is None or it[1].target_type == filters.target_type)
        and (filters.updated_before is None or it[1].updated_at < filters.updated_before)
    ]
    chosen.sort(key=sort_key(listing.sort), reverse=listing.descending)
    return [it[2] for it in chosen[listing.offset : listing.offset + listing.limit]], len(chosen)


def past_of(models: ReadModels) -> Past:
    return Past(models.log, models.largest_row, lambda: datetime.now(UTC))


def without_texts(page: Sequence[DeploymentStatusResponse]) -> list[DeploymentStatusResponse]:
    return [it.model_copy(update={"message": "", "warning": ""}) for it in page]


listings = st.builds(
    Listing,
    limit=st.integers(1, 4),
    offset=st.integers(0, 2),
    sort=st.sampled_from(["created_at", "updated_at", "name", "status"]),
    descending=st.booleans(),
    filters=st.builds(
        Filters,
        status=st.none() | st.sampled_from(["creating", "active", "failed", "inactive", "updating"]),
        name_contains=st.none() | st.sampled_from("a0 "),
        target_type=st.none() | st.sampled_from(["api_service", "batch_inference_job"]),
        include_deleted=st.booleans(),
    ),
)


@settings(SETTINGS)
@given(
    past=histories(),
    asked=st.lists(st.tuples(st.integers(1, 40), listings), min_size=8, max_size=8),
    undecodable=st.sets(st.integers(1, 40), max_size=1),
)
def test_pages_are_those_of_a_plain_fold(
    past: list[DeploymentEvent],
    asked: list[tuple[int, Listing]],
    undecodable: set[int],
    database_url: str,
) -> None:
    empty(database_url)
    firsts = {it.event_id for it in past if it.originator_version == 1}
    spoilt = {past[number].event_id for number in undecodable if number < len(past)} - firsts
    with opened(database_url) as models:
        append_some_undecodable(models.log, past, spoilt)
        for place, listing in asked:
            position = 1 + place % models.log.position()
            page = page_as_of(models, past_of(models), listing, position)
            answers, total = expected_page(models, listing, position)
            assert (without_texts(page), page.total) == (without_texts(answers), total)
            assert [bool(it.warning) for it in page] == [it.parked_events > 0 for it in page]
            assert page.position == position
            assert bool(page.next_cursor) == (listing.offset + listing.limit < total)
        for it in the_whole(models, models.log.position(), Listing(limit=3)):
            now = past_of(models).status(it.deployment_id, models.log.position())
            assert it == now
        live = [it.model_copy(update={"position": None}) for it in the_whole(models, models.log.position())]
        assert live == list(list_page(models, Listing(), "current"))


def the_whole(models: ReadModels, as_of: Any, listing: Listing | None = None) -> DeploymentPage:
    """Return all pages of a list, by its cursors."""
    listing = listing or Listing()
    found: list[DeploymentStatusResponse] = []
    while True:
        page = page_as_of(models, past_of(models), listing, as_of)
        found += page
        if page.next_cursor is None:
            assert len(found) == page.total
            return DeploymentPage(found, total=page.total, position=page.position)
        listing = replace(listing, cursor=page.next_cursor)


def test_events_of_the_same_time_are_one_after_the_other(database_url: str) -> None:
    with opened(database_url) as models:
        models.log.append(history(*SERVING))  # one transaction, one time
        at = recorded_at(models.log, 1)
        assert at is not None
        assert at == recorded_at(models.log, 4)
        states = [page_as_of(models, past_of(models), Listing(), it)[0].state for it in (1, 2, 3, 4)]
        assert states == ["requested", "artifacts_fetched", "packaged", "active"]
        by_time = page_as_of(models, past_of(models), Listing(), at)
        assert (by_time.position, by_time[0].state) == (4, "active")
        before = page_as_of(models, past_of(models), Listing(), at - timedelta(microseconds=1))
        assert (list(before), before.total, before.position) == ([], 0, 0)


def test_only_what_is_needed_is_applied(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(database_url) as models:
        models.log.append(history(*SERVING))
        catch_all_up(models)
        models.log.append(history(requested(name="other"), stream=uuid4()))
        monkeypatch.setattr(models, "_catch_up", lambda *_: pytest.fail("nothing is missing"))
        assert page_as_of(models, past_of(models), Listing(), 4).total == 1


def test_events_that_cannot_be_applied_are_told_as_of_then(database_url: str) -> None:
    one = uuid4()
    with opened(database_url) as models:
        models.log.append(history(requested(), stream=one))
        append_undecodable(models.log, one, 2)
        models.log.append(history(*SERVING, stream=one)[2:])
        told = [page_as_of(models, past_of(models), Listing(), it)[0] for it in (1, 2, 3, 4)]
        assert [it.parked_events for it in told] == [0, 1, 2, 3]
        assert "2 later events could not be applied, from position 2 on" in told[2].message
        (live,) = list_page(models, Listing(), "current")
        assert told[3] == live.model_copy(update={"position": 4})


def test_a_deployment_whose_first_event_is_parked_is_in_no_list(database_url: str) -> None:
    with opened(database_url) as models:
        append_undecodable(models.log, uuid4(), 1)
        models.log.append(history(requested()))
        assert page_as_of(models, past_of(models), Listing(), 1).total == 0
        assert page_as_of(models, past_of(models), Listing(), 2).total == 1


def test_a_projection_that_keeps_nothing_is_not_asked_about_the_past(database_url: str) -> None:
    with opened(database_url, COUNTS) as models:
        with pytest.raises(ConfigurationError, match="counts keeps no rows of the past"):
            models.select_as_of(COUNTS, Selection(), 1)
        with pytest.raises(ConfigurationError, match="no position 1 in the event log: it ends at position 0"):
            models.select_as_of(DEPLOYMENT_TIMELINE, Selection(), 1)


# Verifying and repairing ----------------------------------------------------------------------------

CHANGES = [
    ("UPDATE {}_past SET c_name = 'edited' WHERE position = 2", "past from 2: name", "iris", "edited"),
    ("UPDATE {}_past SET until = 9 WHERE position = 2", "past from 2: until", 3, 9),
    ("UPDATE {}_past SET was_removed = '1' WHERE position = 2", "past from 2: was_removed", False, True),
    ("UPDATE {}_past SET c_deleted = '1' WHERE position = 2", "past from 2: deleted", False, True),
]


@pytest.fixture
def stream() -> UUID:
    return uuid4()


@pytest.fixture
def kept(database_url: str, stream: UUID) -> Iterator[ReadModels]:
    with opened(database_url, MARKS) as models:
        models.log.append(history(*SERVING, update_requested(name="new"), stream=stream))
        models.log.append(history(requested(name="other"), cancelled(), stream=uuid4()))
        catch_all_up(models)
        yield models


def repaired(models: ReadModels) -> list[tuple[str, Any, Any]]:
    """Verify, repair, verify again; return what was found."""
    (found,) = models.verify(["deployment_timeline"])
    models.repair(found)
    (after,) = models.verify(["deployment_timeline"])
    assert after.differences == ()
    assert_past(models, all_positions(models))
    return [(it.field, it.expected, it.found) for it in found.differences]


@pytest.mark.parametrize(("statement", "field", "before", "after"), CHANGES)
def test_an_edited_past_is_found_and_mended(
    kept: ReadModels, database_url: str, statement: str, field: str, before: Any, after: Any
) -> None:
    by_hand(database_url, statement.format(f"@{label(kept, 'deployment_timeline')}"))
    assert repaired(kept) == [(field, before, after)]


def test_a_deleted_past_row_is_found_and_mended(kept: ReadModels, database_url: str, stream: UUID) -> None:
    by_hand(database_url, f"DELETE FROM @{label(kept, 'deployment_timeline')}_past WHERE position = 3")
    ((field, before, after),) = repaired(kept)
    assert (field, before["state"], before["until"], after) == ("past from 3", "packaged", 4, None)


@pytest.mark.parametrize("key", ["no id", "11111111-1111-4111-8111-111111111111"])
def test_an_added_past_row_is_found_and_removed(kept: ReadModels, database_url: str, key: str) -> None:
    table = f"@{label(kept, 'deployment_timeline')}_past"
    columns = ", ".join(f"c_{name}" for name in DEPLOYMENT_TIMELINE.columns)
    by_hand(
        database_url,
        f"INSERT INTO {table} (key, first_position, position, until, was_removed, state, {columns}) "
        f"SELECT '{key}', first_position, position, until, was_removed, state, {columns} "
        f"FROM {table} WHERE position = 2",
    )
    assert page_as_of(kept, past_of(kept), Listing(sort="name", limit=1), 1).total == 1
    ((field, before, after),) = repaired(kept)
    assert (field, before, after["name"]) == ("past from 2", None, "iris")


def test_a_sample_finds_a_past_row_too(kept: ReadModels, database_url: str, stream: UUID) -> None:
    table = f"@{label(kept, 'deployment_timeline')}"
    by_hand(database_url, f"UPDATE {table}_past SET c_name = 'edited' WHERE position = 2")
    (found,) = kept.verify(["deployment_timeline"], sample=1000)
    assert [(it.key, it.field) for it in found.differences] == [(str(stream), "past from 2: name")]


def test_a_retry_makes_the_past_as_it_would_have_been(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(database_url, MARKS) as models:
        models.log.append(history(*SERVING, update_requested(name="new")))
        apply, is_fixed = DEPLOYMENT_TIMELINE.apply, [False]

        def refusing(row: Any, event: Any) -> Any:
            if event.originator_version == 3 and not is_fixed[0]:
                raise ValueError("Not yet.")
            return apply(row, event)

        monkeypatch.setitem(DEPLOYMENT_TIMELINE.__dict__, "apply", refusing)
        catch_all_up(models)
        assert page_as_of(models, past_of(models), Listing(), 5)[0].state == "requested"
        shown = models.select_as_of(DEPLOYMENT_TIMELINE, Selection(), 5).rows[0].row
        assert (shown.position, shown.parked_from) == (2, 3)
        is_fixed[0] = True
        assert models.retry("deployment_timeline") == 0
        assert_past(models, all_positions(models))
        (verified,) = models.verify(["deployment_timeline"])
        assert not verified.differences
