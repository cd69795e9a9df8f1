"""Deployments whose events somebody removed or changed by hand: said in a sentence, and of them alone."""

from pathlib import Path
from uuid import uuid4

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.event_records import undamaged
from deployledger.domain.exceptions import UndecodableEventError
from tests.domain.given import cancelled, history, request, requested
from tests.logs import recorded_events
from tests.projections.test_replaying import by_hand
from tests.service.conftest import OpenService


async def test_a_missing_event_is_named(
    database_url: str, open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    service = open_service(run_jobs=False)
    iris = (await service.deploy_model(request())).deployment_id
    rose = (await service.deploy_model(request(deployment_name="rose"))).deployment_id
    await service.cancel_deployment(iris)
    await service.retry_deployment(iris)
    by_hand(database_url, "DELETE FROM @events WHERE topic = 'deployment.cancelled'")
    message = f"^Event 2 of deployment {iris} is missing in the event log. `deployledger audit verify` says"
    for question in (
        service.update_deployment(iris, request()),
        service.delete_deployment(iris),
        service.retry_deployment(iris),
        service.cancel_deployment(iris),
        service.is_left(iris),
    ):
        with pytest.raises(UndecodableEventError, match=message):
            await question
    assert (await service.delete_deployment(rose)).state == "deleting"
    worker = open_service()
    assert (await worker.wait_for_deployment(rose, timeout=60)).state == "deleted"
    told = [it for it in caplog.messages if str(iris) in it]
    assert len(told) == 1, "a job that cannot go on was tried again"
    assert told[0].startswith(
        f"The job of deployment {iris} stopped: Event 2 of deployment {iris} is missing"
    )


async def test_a_missing_event_of_a_name_is_named(database_url: str, open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    deployment_id = (await service.deploy_model(request())).deployment_id
    await service.update_deployment(deployment_id, request(deployment_name="rose"))
    await service.update_deployment(deployment_id, request())
    by_hand(database_url, "DELETE FROM @events WHERE topic = 'deployment_name.released' AND position < 6")
    with pytest.raises(UndecodableEventError, match="Event 2 of the name 'iris' is missing"):
        await service.find_deployment("iris")
    assert (await service.get_deployment_status(deployment_id)).revision == 3


_STATE, _TOPIC = "its state is not stored as bytes", "its topic is not stored as text"
_VERSION, _TIME = "its version is not stored as a number", "its time is n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("state = CAST(state AS TEXT)", _STATE),
        ("state = 7", _STATE),
        ("topic = CAST(topic AS BLOB)", _TOPIC),
        ("originator_version = 'two'", _VERSION),
        ("originator_version = 2.5", _VERSION),
        ("recorded_at = 'soon'", _TIME),
        ("recorded_at = 9e18", _TIME),
        ("originator_id = 'zz'", ""),
        ("originator_id = CAST(originator_id AS BLOB)", ""),
    ],
)
async def test_what_has_another_type_in_sqlite_is_told_and_holds_up_nothing(
    change: str, says: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/log.db"
    async with MLModelDeploymentService(database_url=url, run_jobs=False) as service:
        log = service.event_log
        iris, rose = uuid4(), uuid4()
        log.append(history(requested(), cancelled(), stream=iris))
        log.append(history(requested(name="rose"), stream=rose))
        by_hand(url, f"UPDATE events SET {change} WHERE position = 2")
        assert {it.deployment_name for it in await service.list_deployments()} >= {"iris", "rose"}
        assert len(await service.list_deployments(as_of=3)) >= 2
        assert (await service.get_deployment_status(rose)).state == "requested"
        assert (await service.get_deployment_status(rose, as_of=3)).state == "requested"
        assert (await service.replay()).problems or says == _TIME
        if says == _TIME:
            with pytest.raises(UndecodableEventError, match="Event 2 of the log is damaged: its time is n"):
                await service.get_deployment_history(iris)
        elif says:
            assert (await service.get_deployment_history(iris))[1].error.endswith(says)
            for moment in (None, 3):
                status = await service.get_deployment_status(iris, as_of=moment)
                assert (status.state, status.parked_events) == ("requested", 1)
                assert status.message.endswith(says)
            with pytest.raises(UndecodableEventError, match=says):
                await service.retry_deployment(iris)
        assert [it.event.originator_id for it in recorded_events(log, after=0, limit=9)] == [iris]
        with pytest.raises(UndecodableEventError, match=r"position 2|Event 2"):
            recorded_events(log, after=1, limit=9)
        if "9e18" not in change:  # which is a number, of microseconds
            with pytest.raises(UndecodableEventError, match=f"Event 2 of the log is damaged: .*{says}"):
                list(undamaged(log.records(after=1, until=2, metadata=True)))
        assert log.statistics().topics.keys() == {"deployment.requested", "deployment.cancelled"}
