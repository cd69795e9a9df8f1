"""Reading the log: from and to a moment, of some deployments, of an actor, and as it grows."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain import event_log, events
from deployledger.domain.exceptions import ConfigurationError, EventLogUnavailableError, UndecodableEventError
from deployledger.service import log_reading
from tests.domain.given import (
    cancelled,
    failed,
    fetched,
    happened,
    history,
    new_id,
    request,
    requested,
    update_requested,
)
from tests.projections.examples import append_undecodable
from tests.service.conftest import OpenService

FAILED, RETRIED = failed(), happened(events.RetryRequested, attempt=2, actor="bob")


@pytest.fixture
async def service(open_service: OpenService) -> AsyncIterator[MLModelDeploymentService]:
    """A service that runs nothing, with three deployments and a name in its log (positions 1 to 8)."""
    service = open_service(actor="ann", run_jobs=False)
    iris, rose = (
        history(requested(), FAILED, RETRIED),
        history(requested(name="rose"), fetched(), stream=ROSE),
    )
    renamed = update_requested(name="Iris_2")(iris[0].originator_id, 4)
    for batch in ([iris[0]], [rose[0], iris[1]], [rose[1]], [iris[2]], [renamed], [cancelled(2)(IRIS, 5)]):
        service.event_log.append(batch)
    await service.deploy_model(request(deployment_name="tulip"))  # with its name: positions 8 and 9
    return service


IRIS = history(requested())[0].originator_id
ROSE = new_id()


async def positions(service: MLModelDeploymentService, **query: Any) -> list[int]:
    return [it.recorded.position async for it in service.read_log(**query)]


def recorded_at(service: MLModelDeploymentService, position: int) -> datetime:
    found = event_log.recorded_at(service.event_log, position)
    assert found is not None
    return found


async def test_each_event_has_the_name_that_its_deployment_had_then(service: Any) -> None:
    names = [it.deployment_name async for it in service.read_log()]
    assert names == ["iris", "rose", "iris", "rose", "iris", "Iris_2", "Iris_2", "tulip", "tulip"]
    behind = [it.deployment_name async for it in service.read_log(after=6)]
    assert behind == names[6:]
    filtered = service.read_log(topics=["deployment.failed", "deployment.cancelled"])
    assert [it.deployment_name async for it in filtered] == ["iris", "Iris_2"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"actor": "bob"}, [5]),
        ({"actor": "bo"}, []),
        ({"name_contains": "IRIS"}, [1, 3, 5, 6, 7]),
        ({"name_contains": "iris_"}, [6, 7]),
        ({"name_contains": "tulip"}, [8, 9]),
        ({"name_contains": "%"}, []),
        ({"name_contains": "iris", "actor": "bob", "topics": ["deployment.retry_requested"]}, [5]),
        ({"deployment_id": ROSE}, [2, 4]),
        ({"deployment_id": ROSE, "name_contains": "iris"}, []),
        ({"last": 2}, [8, 9]),
        ({"last": 2, "name_contains": "iris"}, [6, 7]),
        ({"last": 1, "actor": "bob"}, [5]),
        ({"last": 2, "deployment_id": IRIS}, [6, 7]),
        ({"after": 3, "last": 1, "deployment_id": IRIS}, [5, 6, 7]),
    ],
    ids=str,
)
async def test_only_what_is_wanted_is_read(service: Any, query: dict[str, Any], expected: list[int]) -> None:
    assert await positions(service, **query) == expected


async def test_a_time_range_includes_its_start_and_excludes_its_end(service: Any) -> None:
    fourth, sixth = recorded_at(service, 4), recorded_at(service, 6)
    between = await positions(service, since=fourth, until=sixth)
    assert between == [it for it in range(1, 10) if fourth <= recorded_at(service, it) < sixth]
    before, rest = await positions(service, until=sixth), await positions(service, since=sixth)
    assert before + rest == list(range(1, 10))
    assert await positions(service, until=sixth, last=2) == before[-2:]
    assert await positions(service, since=datetime.min.replace(tzinfo=UTC)) == list(range(1, 10))
    assert await positions(service, until=datetime.min.replace(tzinfo=UTC)) == []
    assert await positions(service, until=datetime(2100, 1, 1, tzinfo=UTC), last=1) == [9]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"after": 10}, "There is no position 10"),
        ({"since": datetime(2100, 1, 1, tzinfo=UTC)}, "2100-01-01T00:00Z is in the future"),
        ({"since": datetime(2026, 1, 1)}, "has no time zone"),
        ({"until": datetime(2026, 1, 1)}, "has no time zone"),
        (
            {"since": datetime(2026, 1, 2, tzinfo=UTC), "until": datetime(2026, 1, 1, tzinfo=UTC)},
            "the range is empty",
        ),
        ({"after": 1, "since": datetime(2026, 1, 1, tzinfo=UTC)}, "both say where to begin"),
        ({"topics": ["deployment.eaten"]}, "Unknown topic 'deployment.eaten'"),
        ({"name_contains": ""}, "is not a valid search text"),
        ({"actor": "a\0"}, "is not a valid search text"),
    ],
    ids=str,
)
async def test_what_cannot_be_read_is_refused(service: Any, query: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        await positions(service, **query)


async def test_the_last_ones_are_found_however_far_back(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reading, "_LOOK_BACK", 7)
    service, iris, topic = open_service(run_jobs=False), new_id(), "deployment.requested"
    log = service.event_log
    assert await positions(service, last=20) == []
    log.append(history(requested(), cancelled(), stream=iris))
    log.append([requested(name="rose")(new_id(), 1) for _ in range(30)])
    assert await positions(service, last=20) == list(range(13, 33))
    assert await positions(service, last=20, topics=[topic]) == list(range(13, 33))
    assert await positions(service, last=20, name_contains="iris") == [1, 2]
    assert await positions(service, last=20, topics=["deployment.cancelled"]) == [2]
    assert await positions(service, last=20, topics=["deployment.deleted"]) == []
    append_undecodable(log, iris, 3)
    with pytest.raises(UndecodableEventError):
        await positions(service, last=20)
    assert await positions(service, last=1, actor="bob") == []  # nothing in front of it need decode


async def test_what_is_wanted_is_read_as_it_is_added(service: Any) -> None:
    seen: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()

    async def read() -> None:
        async for it in service.read_log(after=9, name_contains="iris", follow=True):
            await seen.put((it.recorded.position, it.deployment_name))

    reading = asyncio.create_task(read())
    await asyncio.to_thread(service.event_log.append, [fetched()(ROSE, 3)])
    await asyncio.to_thread(service.event_log.append, [update_requested(3, name="iris-3")(IRIS, 6)])
    assert await asyncio.wait_for(seen.get(), 60) == (11, "iris-3")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_reading_on_outlives_an_outage(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reading, "_TRY_AGAIN_SECONDS", 0)
    records, outages = service.event_log.records, [1, 2, 3]

    def away(*arguments: Any, **options: Any) -> Any:
        if outages and options.get("streams"):
            outages.pop()
            raise EventLogUnavailableError("The event log is away.")
        return records(*arguments, **options)

    monkeypatch.setattr(service.event_log, "records", away)
    reading = service.read_log(after=6, follow=True)
    seen = [(await asyncio.wait_for(anext(reading), 60)).deployment_name for _ in range(3)]
    assert (seen, outages) == (["Iris_2", "tulip", "tulip"], [])
    await reading.aclose()


async def test_reading_on_ends_at_the_last_moment_that_is_wanted(service: Any) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.3)
    assert await asyncio.wait_for(positions(service, after=7, until=soon, follow=True), 60) == [8, 9]
    past = recorded_at(service, 9)
    assert max(await positions(service, until=past, follow=True)) < 9
