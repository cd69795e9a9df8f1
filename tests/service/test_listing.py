"""Lists of deployments: every filter, every order, cursors, totals, and what is refused."""

import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain import events
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.responses import DeploymentPage, DeploymentStatusResponse
from deployledger.projections import status
from tests.domain.given import (
    BATCH_JOB,
    NOON,
    SERVICE,
    SERVING,
    cancelled,
    deletion_requested,
    failed,
    happened,
    history,
    new_id,
    requested,
    update_requested,
)
from tests.faults.conftest import times
from tests.service.conftest import OpenService

DELETED = happened(events.Deleted)


@pytest.fixture
def quiet(open_service: OpenService) -> MLModelDeploymentService:
    """A service that does nothing by itself."""
    return open_service(run_jobs=False)


def past(number: int, **fields: Any) -> list[DeploymentEvent]:
    """Return one of several kinds of histories, each on a stream of its own."""
    ends = [
        (),
        SERVING[1:],
        (failed(),),
        (cancelled(),),
        (deletion_requested(), DELETED),
        (*SERVING[1:], update_requested(name=f"new_{number}", tags={"n": number})),
    ]
    happenings = (requested(**{"name": f"iris_{number}", **fields}), *ends[number % len(ends)])
    moved = timedelta(minutes=7 * number % 50)
    return [
        it.model_copy(update={"timestamp": it.timestamp + moved})
        for it in history(*happenings, stream=UUID(int=new_id().int << 64 | 4 << 76))
    ]


def filled(service: MLModelDeploymentService, number: int) -> list[DeploymentStatusResponse]:
    """Store some deployments, and return what a plain list of them all has, in the order of the log."""
    found = []
    for it in range(number):
        fields = {
            "model_uri": ["models:/iris/1", "models:/rose/1", "s3://flowers/%_\\"][it % 3],
            "target": [SERVICE, BATCH_JOB][it % 7 == 0],
            "tags": [{"team": "flora"}, {}, {"team": "flo", "n": it}, {"nested": {"a": [1, None]}}][it % 4],
        }
        happenings = past(it, **fields)
        service.event_log.append(happenings)
        found.append(status.respond(status.fold(happenings)))
    return found


def is_deleted(it: DeploymentStatusResponse) -> bool:
    return it.state == "deleted"


def ids(deployments: list[DeploymentStatusResponse]) -> list[UUID]:
    return [it.deployment_id for it in deployments]


# Filters --------------------------------------------------------------------------------------------

Holds = Callable[[DeploymentStatusResponse], bool]

FILTERS: list[tuple[dict[str, Any], Holds]] = [
    ({}, lambda it: True),
    ({"status": "active"}, lambda it: it.status == "active"),
    ({"status": "inactive"}, lambda it: it.status == "inactive"),
    ({"name_contains": "RIS_1"}, lambda it: "ris_1" in it.deployment_name),
    ({"name_contains": "_"}, lambda it: True),
    ({"name_contains": "%"}, lambda it: False),
    ({"tags": {"team": "flora"}}, lambda it: it.tags.get("team") == "flora"),
    ({"tags": {"team": None}}, lambda it: "team" in it.tags),
    ({"tags": {"tea": None}}, lambda it: False),
    ({"tags": {"n": 5}}, lambda it: it.tags.get("n") == 5),
    ({"tags": {"team": "flo", "n": 2}}, lambda it: it.tags == {"team": "flo", "n": 2}),
    ({"tags": {"nested": {"a": [1, None]}}}, lambda it: "nested" in it.tags),
    ({"model_uri_prefix": "models:/"}, lambda it: it.model_uri.startswith("models:/")),
    ({"model_uri_prefix": "s3://flowers/%_\\"}, lambda it: it.model_uri.startswith("s3:")),
    ({"model_uri_prefix": "MODELS"}, lambda it: False),
    ({"target_type": "batch_inference_job"}, lambda it: _type(it) == "batch_inference_job"),
    (
        {"created_after": NOON + timedelta(minutes=21)},
        lambda it: it.created_at >= NOON + timedelta(minutes=21),
    ),
    (
        {"created_before": NOON + timedelta(minutes=21, seconds=1)},
        lambda it: it.created_at < NOON + timedelta(minutes=21, seconds=1),
    ),
    (
        {"created_after": NOON + timedelta(minutes=21, seconds=1)},
        lambda it: it.created_at >= NOON + timedelta(minutes=21, seconds=1),
    ),
    (
        {"updated_after": NOON + timedelta(minutes=30)},
        lambda it: it.updated_at >= NOON + timedelta(minutes=30),
    ),
    (
        {"updated_before": NOON + timedelta(minutes=30)},
        lambda it: it.updated_at < NOON + timedelta(minutes=30),
    ),
    (
        {"status": "active", "name_contains": "iris", "target_type": "api_service"},
        lambda it: it.status == "active" and "iris" in it.deployment_name and _type(it) == "api_service",
    ),
]


def _type(it: DeploymentStatusResponse) -> str:
    assert it.deployment_target_config is not None
    return it.deployment_target_config.type


async def test_filters(quiet: MLModelDeploymentService) -> None:
    await quiet.list_deployments()
    everything = filled(quiet, 40)
    for filters, holds in FILTERS:
        for include_deleted in (False, True):
            expected = [it for it in everything if holds(it) and (include_deleted or not is_deleted(it))]
            page = await quiet.list_deployments(**filters, include_deleted=include_deleted)
            assert list(page) == expected, filters
            assert page.total == len(expected), filters
            assert isinstance(page, list)
            assert isinstance(page, DeploymentPage)
            assert (page.next_cursor, page.position) == (None, quiet.event_log.position())


def test_each_filter_leaves_something_out_or_in() -> None:
    found = [status.respond(status.fold(past(it))) for it in range(6)]
    assert {is_deleted(it) for it in found} == {True, False}
    assert len({it.status for it in found}) == 5


# Orders and pages -----------------------------------------------------------------------------------

ORDERS: dict[str, Callable[[DeploymentStatusResponse], Any]] = {
    "created_at": lambda it: 0,
    "updated_at": lambda it: it.updated_at,
    "name": lambda it: it.deployment_name,
    "status": lambda it: str(it.status),
}


def ordered(
    deployments: list[DeploymentStatusResponse], sort: str, descending: bool
) -> list[DeploymentStatusResponse]:
    """Return them in an order in which equals are as they were requested, or the other way round."""
    if not descending:
        return sorted(deployments, key=ORDERS[sort])
    newest_first = deployments[::-1]
    return sorted(newest_first, key=ORDERS[sort], reverse=True)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ORDERS)
async def test_orders_offsets_and_cursors(
    sort: str, descending: bool, quiet: MLModelDeploymentService
) -> None:
    await quiet.list_deployments()
    everything = filled(quiet, 40)
    for filters in ({}, {"include_deleted": True}, {"status": "inactive", "include_deleted": True}):
        expected = ordered(
            [
                it
                for it in everything
                if ("include_deleted" in filters or not is_deleted(it))
                and ("status" not in filters or it.status == "inactive")
            ],
            sort,
            descending,
        )
        options: dict[str, Any] = {**filters, "sort": sort, "descending": descending}
        assert list(await quiet.list_deployments(**options)) == expected
        for offset in (1, 7, len(expected) - 1, len(expected), 1000):
            page = await quiet.list_deployments(5, offset, **options)
            assert ids(page) == ids(expected[offset : offset + 5]), offset
            assert page.total == len(expected), offset
        walked, cursor = [], None
        while True:
            page = await quiet.list_deployments(3, cursor=cursor, **options)
            assert page.total == len(expected)
            walked += page
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page) == 3
        assert walked == expected


@pytest.mark.parametrize("descending", [False, True])
async def test_every_offset_of_a_list(descending: bool, quiet: MLModelDeploymentService) -> None:
    await quiet.list_deployments()
    everything = filled(quiet, 30)
    for include_deleted in (False, True):
        expected = ordered(
            [it for it in everything if include_deleted or not is_deleted(it)], "created_at", descending
        )
        for offset in range(len(expected) + 2):
            page = await quiet.list_deployments(
                2, offset, descending=descending, include_deleted=include_deleted
            )
            assert ids(page) == ids(expected[offset : offset + 2]), offset
            assert page.total == len(expected)


@settings(
    max_examples=times(15, 500),
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    sort=st.sampled_from(["created_at", "name"]),
    descending=st.booleans(),
    limit=st.integers(1, 4),
    changes=st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), max_size=12),
)
async def test_a_walk_sees_what_stays_once_while_others_come_and_go(
    sort: str,
    descending: bool,
    limit: int,
    changes: list[tuple[bool, int]],
    quiet: MLModelDeploymentService,
) -> None:
    prefix = f"walk{new_id().int}x"
    living: dict[UUID, list[DeploymentEvent]] = {}
    names = iter(string.ascii_letters * 3)

    def add() -> None:
        happenings = past(0, name=f"{prefix}{next(names)}")
        quiet.event_log.append(happenings)
        living[happenings[0].originator_id] = happenings

    await quiet.list_deployments(1)
    for _ in range(8):
        add()
    stay = set(living)
    left, seen, cursor = list(changes), list[UUID](), None
    while True:
        page = await quiet.list_deployments(
            limit, cursor=cursor, sort=sort, descending=descending, name_contains=prefix
        )
        seen += ids(page)
        cursor = page.next_cursor
        if left:
            is_added, choice = left.pop()
            if is_added:
                add()
            else:
                gone = sorted(living)[choice % len(living)]
                happenings = living.pop(gone)
                stay.discard(gone)
                end = [deletion_requested()(gone, len(happenings) + 1), DELETED(gone, len(happenings) + 2)]
                quiet.event_log.append(end)
        if cursor is None:
            break
    assert len(seen) == len(set(seen))
    assert stay <= set(seen)


# What is refused ------------------------------------------------------------------------------------

NAIVE = datetime(2026, 3, 3, 12)

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"limit": 0}, "limit=0 is out of range"),
    ({"limit": -1}, "limit=-1 is out of range"),
    ({"limit": 1001}, "limit=1001 is out of range"),
    ({"limit": True}, "limit=True is out of range"),
    ({"limit": 1.5}, "limit=1.5 is out of range"),
    ({"limit": "5"}, "limit='5' is out of range"),
    ({"offset": -1}, "offset=-1 is out of range"),
    ({"offset": 1 << 63}, "is out of range"),
    ({"offset": None}, "offset=None is out of range"),
    ({"sort": "colour"}, "Cannot sort by 'colour'"),
    ({"sort": None}, "Cannot sort by None"),
    ({"status": "dreaming"}, "Unknown status 'dreaming'"),
    ({"status": ""}, "Unknown status ''"),
    ({"status": ["active"]}, "Unknown status"),
    ({"target_type": "toaster"}, "Unknown target_type 'toaster'"),
    ({"name_contains": ""}, "name_contains='' is not a valid search text"),
    ({"name_contains": "\0"}, "is not a valid search text"),
    ({"name_contains": 5}, "name_contains=5 is not a valid search text"),
    ({"model_uri_prefix": ""}, "model_uri_prefix='' is not a valid search text"),
    ({"tags": {"": "flora"}}, "is not a valid search text"),
    ({"tags": {5: "flora"}}, "tags=5 is not a valid search text"),
    ({"tags": {"at": NOON}}, "tag"),
    ({"tags": ["team"]}, "tags"),
    ({"created_after": NAIVE}, "has no time zone"),
    ({"created_before": NAIVE}, "has no time zone"),
    ({"updated_after": NAIVE}, "has no time zone"),
    ({"updated_before": NAIVE}, "has no time zone"),
    ({"created_after": "yesterday"}, "is not a datetime"),
    ({"created_after": NOON, "created_before": NOON}, "no deployment can be in between"),
    ({"updated_after": NOON, "updated_before": NOON - timedelta(1)}, "no deployment can be in between"),
    ({"cursor": "x", "offset": 1}, "contradict each other"),
    ({"cursor": ""}, "is not a cursor"),
    ({"cursor": "x"}, "is not a cursor"),
    ({"cursor": "ö"}, "is not a cursor"),
    ({"cursor": 5}, "is not a cursor"),
    ({"cursor": "WzEsMl0="}, "is not a cursor"),
    ({"cursor": "e30="}, "is not a cursor"),
    ({"cursor": "W1tbW1tb"}, "is not a cursor"),
    ({"consistency": "whenever"}, "Unknown consistency 'whenever'"),
    ({"consistency": None}, "Unknown consistency None"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED, ids=[str(it[0])[:40] for it in REFUSED])
async def test_what_cannot_be_listed_is_a_configuration_error(options: dict[str, Any], says: str) -> None:
    async with MLModelDeploymentService(database_url="sqlite://") as service:
        with pytest.raises(ConfigurationError) as refusal:
            await service.list_deployments(**options)
    assert says in str(refusal.value)


async def test_a_cursor_is_only_good_for_its_own_list(quiet: MLModelDeploymentService) -> None:
    await quiet.list_deployments()
    filled(quiet, 5)
    cursor = (await quiet.list_deployments(1, sort="name")).next_cursor
    assert cursor is not None
    assert len(await quiet.list_deployments(1, sort="name", cursor=cursor)) == 1
    others: list[dict[str, Any]] = [
        {},
        {"sort": "status"},
        {"sort": "name", "descending": True},
        {"sort": "name", "include_deleted": True},
        {"sort": "name", "tags": {"team": "flora"}},
    ]
    for options in others:
        with pytest.raises(ConfigurationError, match="other filters or another order"):
            await quiet.list_deployments(1, cursor=cursor, **options)


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda it: it.hex()))
def test_no_text_makes_a_cursor_fail_otherwise(text: str) -> None:
    from deployledger.service.listing import Listing

    with pytest.raises(ConfigurationError, match="not a cursor"):
        Listing(cursor=text, sort="updated_at").selection()


# How current ----------------------------------------------------------------------------------------


async def test_an_eventual_list_is_what_is_at_hand_and_says_of_when(quiet: MLModelDeploymentService) -> None:
    await quiet.list_deployments()
    one = filled(quiet, 1)[0]
    assert ids(await quiet.list_deployments()) == [one.deployment_id]
    other = past(0)
    quiet.event_log.append(other)
    behind = await quiet.list_deployments(consistency="eventual")
    assert ids(behind) == [one.deployment_id]
    assert (behind.position, behind.total) == (1, 1)
    late = await quiet.get_deployment_status(one.deployment_id, consistency="eventual")
    assert (late.version, late.position) == (1, 1)
    current = await quiet.list_deployments()
    assert ids(current) == [one.deployment_id, other[0].originator_id]
    assert current.position == 2
    assert (await quiet.list_deployments(consistency="eventual")).position == 2


async def test_an_empty_list_is_a_list(service: MLModelDeploymentService) -> None:
    page = await service.list_deployments()
    assert page == []
    assert (page.total, page.next_cursor, page.position) == (0, None, 0)


async def test_times_in_any_zone_are_the_same_moment(quiet: MLModelDeploymentService) -> None:
    from datetime import timezone

    await quiet.list_deployments()
    filled(quiet, 12)
    moment = NOON + timedelta(minutes=14, seconds=1)
    here = await quiet.list_deployments(created_after=moment)
    there = await quiet.list_deployments(created_after=moment.astimezone(timezone(timedelta(hours=-7))))
    assert ids(here) == ids(there)
    assert 0 < len(here) < 12
    assert moment.tzinfo is UTC
