"""Folds that do what they should not: nothing of ours is wrong, lost or stuck because of them."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.event_log.log import DatabaseEventLog
from deployledger.adapters.read_models import open_read_models
from deployledger.domain.exceptions import ReadModelError
from deployledger.projections.built_in import BUILT_IN
from deployledger.projections.projection import Projection
from deployledger.projections.read_models import ReadModels
from tests.domain.given import SERVING, request
from tests.faults.conftest import wait_until
from tests.projections.misbehaving import A_CLEARS, DIES, EXITS, PRINTS, TELLS

OURS = [projection.name for projection in BUILT_IN]
STREAMS = 120


@contextmanager
def opened(
    url: str, *projections: Projection[Any], **options: Any
) -> Iterator[tuple[DatabaseEventLog, ReadModels]]:
    log = open_event_log(url, create=True, **options)
    log.position()
    models = open_read_models(log, projections=projections)
    try:
        yield log, models
    finally:
        models.store.close()
        log.close()


def filled(log: DatabaseEventLog, streams: int = STREAMS) -> list[UUID]:
    found = [uuid4() for _ in range(streams)]
    for stream in found:
        log.append([happening(stream, version) for version, happening in enumerate(SERVING, start=1)])
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fold_that_prints_is_rebuilt_whole(workers: int, database_url: str) -> None:
    with opened(database_url, PRINTS) as (log, models):
        streams = filled(log, 400)
        models.rebuild(["prints"], workers=workers)
        assert [models.get("prints", str(stream)).n for stream in streams] == [4] * len(streams)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fold_that_wants_to_exit_has_its_events_parked(workers: int, database_url: str) -> None:
    with opened(database_url, EXITS) as (log, models):
        streams = filled(log)
        models.rebuild(["exits"], workers=workers)
        assert len(models.parked("exits")) == 4 * len(streams)


def test_what_a_fold_raises_is_stored_without_credentials(database_url: str) -> None:
    with opened(database_url, TELLS) as (log, models):
        filled(log, 1)
        models.rebuild(["tells"])
        _, first = models.parked("tells")[0]
        assert "db.example refused" in first.error
        assert "s3cr3t" not in first.error


def test_a_worker_that_ends_before_it_is_done_is_an_error(database_url: str) -> None:
    with opened(database_url, DIES) as (log, models):
        filled(log)
        with pytest.raises(ReadModelError, match="A worker failed"):
            models.rebuild(["dies"], workers=2)


def test_a_fold_that_changes_an_event_does_not_change_it_for_others(database_url: str) -> None:
    with opened(database_url, A_CLEARS) as (log, models):
        (stream, *_) = filled(log, 3)
        models.rebuild(["a_clears", *OURS])
        assert models.get("deployment_status", str(stream)).tags == {"team": "flora"}
        assert not any(it.differences for it in models.verify(OURS))


def test_a_model_uri_as_long_as_can_be_is_listed(database_url: str) -> None:
    uri = "models:/" + "".join(chr(0x4E00 + number * 7 % 20_000) for number in range(2_040))

    async def deploy() -> None:
        async with MLModelDeploymentService(database_url=database_url, run_jobs=False) as service:
            answer = await service.deploy_model(request(model_uri=uri))
            assert (await service.get_deployment_status(answer.deployment_id)).model_uri == uri
            assert len(await service.list_deployments(model_uri_prefix=uri)) == 1
            service.read_models.rebuild(OURS)
            assert len(await service.list_deployments()) == 1

    asyncio.run(deploy())


class Odd(BaseModel):
    number: int = 0
    ratio: float = 0.0
    text: str = ""


@pytest.mark.parametrize(
    ("values", "is_stored"),
    [
        ({"number": True}, False),
        ({"ratio": 3}, True),
        ({"text": "x" * 600}, True),
        ({"text": "x" * 5_000}, False),
    ],
    ids=["bool", "int for float", "long", "too long"],
)
def test_a_row_that_a_database_would_refuse_holds_up_no_other(
    values: dict[str, Any], is_stored: bool, database_url: str
) -> None:
    first: list[UUID] = []

    def apply(row: Odd | None, event: Any) -> Odd:
        return Odd.model_construct(
            **(values if event.originator_id == first[0] else {"number": 5, "ratio": 0.5})
        )

    odd = Projection(
        name="odd",
        version=1,
        row_type=Odd,
        apply=apply,
        columns=("number", "ratio", "text"),
        indexes=(("text",),),
    )
    with opened(database_url, odd) as (log, models):
        first[:] = filled(log, 3)
        models.catch_up(odd)
        assert bool(models.parked("odd")) is not is_stored
        for stream in first[1:]:
            assert models.get("odd", str(stream)).number == 5
        models.rebuild(["odd"])
        assert not models.verify("odd")[0].differences


def test_a_pool_of_one_is_enough_to_read_and_follow(empty_postgres_url: str) -> None:
    with opened(empty_postgres_url, PRINTS, pool_size=1) as (log, models):
        (stream, *_) = filled(log, 5)
        stopping = threading.Event()
        following = threading.Thread(target=models.follow, args=(stopping,))
        following.start()
        try:
            for _ in range(20):
                (stream,) = filled(log, 1)
                assert models.get("deployment_status", str(stream)).name == "iris"
                assert models.get("prints", str(stream)).n == 4
        finally:
            stopping.set()
            following.join()


def test_asking_for_the_status_does_not_disturb_a_rebuild(database_url: str) -> None:
    with opened(database_url) as (log, models):
        filled(log, 20)
        stopping, seen = threading.Event(), set[bool]()

        def ask() -> None:
            while not stopping.is_set():
                seen.update(it.is_being_rebuilt for it in models.status())

        asking = [threading.Thread(target=ask) for _ in range(2)]
        for thread in asking:
            thread.start()
        try:
            latest = time.monotonic() + 60
            while not seen and time.monotonic() < latest:
                time.sleep(0.01)
            for _ in range(10):
                models.rebuild(OURS)
        finally:
            stopping.set()
            for thread in asking:
                thread.join()
        assert False in seen


def test_a_sample_of_rows_that_are_right_has_no_differences(database_url: str) -> None:
    with opened(database_url) as (log, models):
        filled(log, 60)
        for _ in range(5):
            assert not any(it.differences for it in models.verify(OURS, sample=10))


def test_following_goes_on_after_any_error(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(database_url) as (log, models):
        filled(log, 1)
        told, stopping = list[Exception](), threading.Event()
        catch_up, failing = models.catch_up, [TypeError("out of the blue")]

        def fails_once(projection: Projection[Any]) -> int:
            if failing:
                raise failing.pop()
            return catch_up(projection)

        monkeypatch.setattr(models, "catch_up", fails_once)
        following = threading.Thread(
            target=models.follow, args=(stopping,), kwargs={"on_problem": told.append, "names": OURS}
        )
        following.start()
        try:
            wait_until(lambda: all(it.position == len(SERVING) for it in models.status()))
        finally:
            stopping.set()
            following.join()
        assert [str(it) for it in told] == ["out of the blue"]
