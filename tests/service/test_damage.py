"""Deployments whose events somebody removed or changed by hand: said in a sentence, and of them alone."""

import pytest

from deployledger.domain.exceptions import UndecodableEventError
from tests.domain.given import request
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
    assert (await worker.wait_for_deployment(rose, timeout=10)).state == "deleted"
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
