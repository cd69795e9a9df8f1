"""The whole fleet at a moment of the past, as the service answers it; and what is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.event_log import recorded_at
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.moments import AtRevision
from deployledger.domain.responses import DeploymentPage
from tests.service.conftest import OpenService
from tests.service.test_listing import filled, ids


@pytest.fixture
def quiet(open_service: OpenService) -> MLModelDeploymentService:
    """A service that does nothing by itself."""
    return open_service(run_jobs=False)


def names(page: DeploymentPage) -> list[str]:
    return [it.deployment_name for it in page]


async def test_the_list_is_as_it_was(quiet: MLModelDeploymentService) -> None:
    filled(quiet, 6)
    end = quiet.event_log.position()
    now = await quiet.list_deployments(include_deleted=True)
    then = await quiet.list_deployments(include_deleted=True, as_of=end)
    assert [it.model_copy(update={"position": None}) for it in then] == list(now)
    assert (then.total, then.position) == (now.total, end)
    first = await quiet.list_deployments(as_of=1)
    assert (names(first), first.total, first[0].status, first[0].position) == (["iris_0"], 1, "creating", 1)
    for position in range(1, end + 1):
        page = await quiet.list_deployments(as_of=position, include_deleted=True)
        for it in page:
            assert it == await quiet.get_deployment_status(it.deployment_id, as_of=position)
        assert names(page) == [f"iris_{it}" for it in range(page.total)] or position == end


async def test_who_was_renamed_and_deleted_later_is_listed_as_then(quiet: MLModelDeploymentService) -> None:
    filled(quiet, 6)  # the fifth is deleted, the sixth renamed
    before = quiet.event_log.position() - 1
    deleted = next(it for it in await quiet.list_deployments(include_deleted=True) if it.state == "deleted")
    history = await quiet.get_deployment_history(deleted.deployment_id)
    at = history[-1].position - 1
    assert deleted.deployment_id in ids(await quiet.list_deployments(as_of=at))
    assert deleted.deployment_id not in ids(await quiet.list_deployments(as_of=at + 1))
    assert names(await quiet.list_deployments(as_of=before, name_contains="IRIS_5")) == ["iris_5"]
    assert names(await quiet.list_deployments(as_of=before, name_contains="new")) == []
    assert names(await quiet.list_deployments(as_of=before + 1, name_contains="new")) == ["new_5"]


@pytest.mark.parametrize("form", ["time", "text", "position", "position as a text"])
async def test_a_moment_has_several_forms(quiet: MLModelDeploymentService, form: str) -> None:
    filled(quiet, 6)
    end = quiet.event_log.position()
    at = recorded_at(quiet.event_log, end)
    assert at is not None
    moment: Any = {"time": at, "text": at.isoformat(), "position": end, "position as a text": str(end)}[form]
    page = await quiet.list_deployments(as_of=moment)
    assert (page.position, page.total) == (end, 5)


async def test_before_the_first_event_there_was_nothing(quiet: MLModelDeploymentService) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    empty = await quiet.list_deployments(as_of=long_ago)
    assert (list(empty), empty.total, empty.next_cursor, empty.position) == ([], 0, None, 0)
    filled(quiet, 3)
    page = await quiet.list_deployments(as_of=long_ago, sort="name")
    assert (list(page), page.total, page.position) == ([], 0, 0)


async def test_a_cursor_goes_on_at_the_same_moment(quiet: MLModelDeploymentService) -> None:
    filled(quiet, 12)
    end = quiet.event_log.position()
    whole = await quiet.list_deployments(as_of=end, sort="updated_at", descending=True)
    page = await quiet.list_deployments(4, as_of=end, sort="updated_at", descending=True)
    found = [*page]
    while page.next_cursor:
        filled(quiet, 1)
        page = await quiet.list_deployments(
            4, as_of=str(end), sort="updated_at", descending=True, cursor=page.next_cursor
        )
        found += page
    assert found == list(whole)
    assert len(found) == whole.total


async def test_a_cursor_of_another_moment_is_refused(quiet: MLModelDeploymentService) -> None:
    filled(quiet, 6)
    then = await quiet.list_deployments(2, as_of=9)
    now = await quiet.list_deployments(2)
    for cursor, as_of, said in (
        (then.next_cursor, 8, "as of position 9, not to the one as of position 8"),
        (then.next_cursor, None, "as of position 9, not to the one as it is now"),
        (now.next_cursor, 9, "as it is now, not to the one as of position 9"),
    ):
        with pytest.raises(ConfigurationError, match=said) as refused:
            await quiet.list_deployments(2, as_of=as_of, cursor=cursor)
        assert "as_of" in refused.value.hint


@pytest.mark.parametrize(
    ("as_of", "said"),
    [
        (datetime(2026, 1, 1), "has no time zone"),  # that is the mistake
        ("2026-01-01T00:00", "has no time zone"),
        (datetime.now(UTC) + timedelta(days=1), "is in the future: it is .* now"),
        ("2999-01-01T00:00Z", "is in the future: it is .* now"),
        (10**6, "no position 1000000 in the event log: it ends at position"),
        (10**30, "There is no position"),
        (0, "There is no position 0"),
        (-1, "There is no position -1"),
        (True, "Cannot parse"),
        ("yesterday", "Cannot parse 'yesterday' as a point in time"),
        ("", "Cannot parse"),
        ("r2", "no revision 2 of all deployments"),
        (AtRevision(2), "no revision 2 of all deployments"),
        (1.5, "Cannot parse"),
    ],
)
async def test_what_is_no_moment_of_the_past_is_refused(
    quiet: MLModelDeploymentService, as_of: Any, said: str
) -> None:
    filled(quiet, 2)
    with pytest.raises(ConfigurationError, match=said) as refused:
        await quiet.list_deployments(as_of=as_of)
    assert refused.value.hint


async def test_a_stale_answer_about_the_past_is_refused(quiet: MLModelDeploymentService) -> None:
    filled(quiet, 2)
    with pytest.raises(ConfigurationError, match="contradict each other"):
        await quiet.list_deployments(as_of=1, consistency="eventual")


async def test_what_was_just_acknowledged_is_there(open_service: OpenService) -> None:
    writer, reader = open_service(run_jobs=False), open_service(run_jobs=False)
    for number in range(1, 4):
        filled(writer, 1)
        page = await reader.list_deployments(as_of=writer.event_log.position())
        assert page.total == number
