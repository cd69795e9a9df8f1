"""The service of the guide, in placeholder mode, on both databases."""

import asyncio
import logging
from uuid import uuid4

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import (
    DeploymentRequest,
    DeploymentStatusResponse,
    DeploymentTargetConfig,
)
from core_ai_layer.machine_learning_service.ml_service_exceptions import (
    ConfigurationError,
    IllegalTransitionError,
    NameInUseError,
    ResourceNotFoundError,
)
from tests.domain.given import BATCH_JOB, request
from tests.service.conftest import OpenService

WAIT = 60


async def deployed(service: MLModelDeploymentService, **changes: object) -> DeploymentStatusResponse:
    answer = await service.deploy_model(request(**changes))
    return await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)


async def test_a_deployment_begins_creating_and_ends_active(service: MLModelDeploymentService) -> None:
    answer = await service.deploy_model(request())
    assert (answer.status, answer.version, answer.revision) == ("creating", 1, 1)
    assert answer.progress is not None
    active = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert (active.status, active.version) == ("active", 4)
    assert active.deployment_id == answer.deployment_id
    assert active.deployed_model_version == "models:/iris/1"
    assert active.endpoint_url == "http://iris.simulated.invalid"
    assert active == await service.get_deployment_status(answer.deployment_id)


async def test_placeholder_mode_is_honest(
    open_service: OpenService, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="ml_model_deployment_service"):
        service = open_service()
    assert "no model registry, no container registry, no orchestrator" in caplog.text
    active = await deployed(service)
    assert active.simulated
    assert active.message.endswith("Simulated: fetch, package, provision.")
    history = await service.get_deployment_history(active.deployment_id)
    assert [entry.data["simulated"] for entry in history[1:]] == [True, True, True]


async def test_an_update_begins_updating_and_ends_active(service: MLModelDeploymentService) -> None:
    active = await deployed(service)
    answer = await service.update_deployment(active.deployment_id, request(model_uri="models:/iris/2"))
    assert (answer.status, answer.revision, answer.serving_revision) == ("updating", 2, 1)
    assert answer.deployed_model_version == "models:/iris/1"
    updated = await service.wait_for_deployment(active.deployment_id, timeout=WAIT)
    assert (updated.status, updated.revision, updated.serving_revision) == ("active", 2, 2)
    assert updated.deployed_model_version == "models:/iris/2"


async def test_a_rollback_serves_the_earlier_model(service: MLModelDeploymentService) -> None:
    active = await deployed(service)
    await service.update_deployment(active.deployment_id, request(model_uri="models:/iris/2"))
    await service.wait_for_deployment(active.deployment_id, timeout=WAIT)
    answer = await service.rollback_deployment(active.deployment_id, 1)
    assert (answer.status, answer.revision) == ("updating", 3)
    rolled_back = await service.wait_for_deployment(active.deployment_id, timeout=WAIT)
    assert rolled_back.deployed_model_version == "models:/iris/1"
    assert rolled_back.artifact_digest == active.artifact_digest
    history = await service.get_deployment_history(active.deployment_id)
    assert [entry.data["rollback_to"] for entry in history if entry.event == "UpdateRequested"] == [None, 1]


async def test_a_deletion_begins_deleting_and_ends_inactive(service: MLModelDeploymentService) -> None:
    active = await deployed(service)
    answer = await service.delete_deployment(active.deployment_id)
    assert answer.status == "deleting"
    deleted = await service.wait_for_deployment(active.deployment_id, timeout=WAIT)
    assert (deleted.status, deleted.state, deleted.endpoint_url) == ("inactive", "deleted", None)
    assert await service.list_deployments() == []
    assert await service.list_deployments(include_deleted=True) == [deleted]


async def test_a_batch_job_completes(service: MLModelDeploymentService) -> None:
    completed = await deployed(service, deployment_target_config=BATCH_JOB)
    assert (completed.status, completed.state) == ("inactive", "completed")
    assert completed.message.startswith("Scored 0 rows into out.csv.")


@pytest.mark.parametrize("command", ["retry", "cancel"])
async def test_commands_that_the_state_does_not_allow_are_refused(
    command: str, service: MLModelDeploymentService
) -> None:
    active = await deployed(service)
    call = service.retry_deployment if command == "retry" else service.cancel_deployment
    with pytest.raises(IllegalTransitionError, match=f"nothing to {command}|no update to {command}"):
        await call(active.deployment_id)
    assert (await service.get_deployment_status(active.deployment_id)).version == 4


async def test_a_deleted_deployment_takes_no_commands(service: MLModelDeploymentService) -> None:
    active = await deployed(service)
    await service.delete_deployment(active.deployment_id)
    await service.wait_for_deployment(active.deployment_id, timeout=WAIT)
    calls = [
        service.update_deployment(active.deployment_id, request()),
        service.delete_deployment(active.deployment_id),
        service.retry_deployment(active.deployment_id),
        service.cancel_deployment(active.deployment_id),
        service.rollback_deployment(active.deployment_id, 1),
    ]
    for call in calls:
        with pytest.raises(IllegalTransitionError, match="is deleted"):
            await call


async def test_an_unknown_deployment_is_not_found(service: MLModelDeploymentService) -> None:
    unknown = uuid4()
    calls = [
        service.get_deployment_status(unknown),
        service.get_deployment_history(unknown),
        service.update_deployment(unknown, request()),
        service.delete_deployment(unknown),
        service.retry_deployment(unknown),
        service.cancel_deployment(unknown),
        service.rollback_deployment(unknown, 1),
        service.wait_for_deployment(unknown, timeout=1),
        service.observe_deployment(unknown),
        service.resume_deployment(unknown),
        anext(service.watch_deployment(unknown)),
        anext(service.deployment_logs(unknown)),
    ]
    for call in calls:
        with pytest.raises(ResourceNotFoundError, match=str(unknown)) as refusal:
            await call
        assert refusal.value.status_code == 404


# Names ----------------------------------------------------------------------------------------------


async def test_a_name_in_use_is_refused_and_says_what_to_do(service: MLModelDeploymentService) -> None:
    active = await deployed(service)
    with pytest.raises(NameInUseError) as refusal:
        await service.deploy_model(request(model_uri="models:/iris/2"))
    assert refusal.value.holder == active.deployment_id
    assert "update_existing" in refusal.value.hint
    assert len(await service.list_deployments()) == 1


async def test_update_existing_makes_a_deploy_an_update(service: MLModelDeploymentService) -> None:
    first = await deployed(service, version_strategy="update_existing")
    answer = await service.deploy_model(
        request(model_uri="models:/iris/2", version_strategy="update_existing")
    )
    assert (answer.deployment_id, answer.status, answer.revision) == (first.deployment_id, "updating", 2)


async def test_a_deleted_deployment_frees_its_name(service: MLModelDeploymentService) -> None:
    first = await deployed(service)
    await service.delete_deployment(first.deployment_id)
    await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
    second = await deployed(service)
    assert second.deployment_id != first.deployment_id
    assert (await service.find_deployment("iris")).deployment_id == second.deployment_id


async def test_an_update_may_rename_which_frees_the_old_name(service: MLModelDeploymentService) -> None:
    first = await deployed(service)
    renamed = await service.update_deployment(first.deployment_id, request(deployment_name="rose"))
    assert renamed.deployment_name == "rose"
    await deployed(service)
    with pytest.raises(NameInUseError):
        await service.update_deployment(first.deployment_id, request(deployment_name="iris"))
    assert (await service.get_deployment_status(first.deployment_id)).deployment_name == "rose"


async def test_a_deployment_is_found_by_name_id_and_beginning_of_the_id(
    service: MLModelDeploymentService,
) -> None:
    active = await deployed(service)
    identity = str(active.deployment_id)
    for reference in ("iris", identity, identity.upper(), identity[:8]):
        assert (await service.find_deployment(reference)).deployment_id == active.deployment_id
    for reference in ("rose", identity[:3], str(uuid4()), ""):
        with pytest.raises(ResourceNotFoundError):
            await service.find_deployment(reference)


# Lists, watching and waiting ------------------------------------------------------------------------


async def test_lists_are_in_the_order_of_requests_and_come_in_pages(
    service: MLModelDeploymentService,
) -> None:
    for number in range(5):
        await service.deploy_model(request(deployment_name=f"iris-{number}"))
    names = [it.deployment_name for it in await service.list_deployments()]
    assert names == [f"iris-{number}" for number in range(5)]
    assert [it.deployment_name for it in await service.list_deployments(limit=2)] == names[:2]
    assert [it.deployment_name for it in await service.list_deployments(limit=2, offset=4)] == names[4:]
    assert await service.list_deployments(offset=5) == []


@pytest.mark.parametrize(("limit", "offset"), [(0, 0), (-1, 0), (1001, 0), (1, -1)])
async def test_pages_out_of_range_are_refused(
    limit: int, offset: int, service: MLModelDeploymentService
) -> None:
    with pytest.raises(ConfigurationError, match="out of range"):
        await service.list_deployments(limit=limit, offset=offset)


async def test_watching_shows_every_change_in_order_and_ends_with_the_deletion(
    service: MLModelDeploymentService,
) -> None:
    answer = await service.deploy_model(request())
    versions, words = [], []
    async with asyncio.timeout(WAIT):
        async for status in service.watch_deployment(answer.deployment_id):
            versions.append(status.version)
            words.append(status.status)
            if status.status == "active":
                await service.delete_deployment(answer.deployment_id)
    assert versions == sorted(set(versions))
    assert words[-1] == "inactive"
    assert versions[-1] == 6


async def test_waiting_for_what_is_settled_returns_at_once(service: MLModelDeploymentService) -> None:
    active = await deployed(service)
    assert await service.wait_for_deployment(active.deployment_id, timeout=0.5) == active


async def test_waiting_has_an_end(open_service: OpenService) -> None:
    service = open_service(run_jobs=False)
    answer = await service.deploy_model(request())
    await service.get_deployment_status(answer.deployment_id)  # the first question opens the read models
    with pytest.raises(TimeoutError, match=r"after 0\.5 seconds \(creating: Fetching"):
        await service.wait_for_deployment(answer.deployment_id, timeout=0.5)


# History --------------------------------------------------------------------------------------------


async def test_the_history_says_who_did_what_and_because_of_what(service: MLModelDeploymentService) -> None:
    active = await deployed(service)
    requested, fetched, packaged, provisioned = await service.get_deployment_history(active.deployment_id)
    assert [it.event for it in (requested, fetched, packaged, provisioned)] == [
        "Requested",
        "ArtifactsFetched",
        "Packaged",
        "Provisioned",
    ]
    assert [it.version for it in (requested, fetched, packaged, provisioned)] == [1, 2, 3, 4]
    assert (requested.actor, requested.causation_id) == ("ann", None)
    assert {it.actor for it in (fetched, packaged, provisioned)} == {"deployledger"}
    assert {it.correlation_id for it in (fetched, packaged, provisioned)} == {requested.correlation_id}
    assert fetched.causation_id == requested.event_id
    assert packaged.causation_id == fetched.event_id
    assert provisioned.causation_id == packaged.event_id
    assert requested.timestamp <= fetched.timestamp <= provisioned.timestamp


# Opening and closing --------------------------------------------------------------------------------


async def test_a_service_is_a_context_manager(database_url: str) -> None:
    async with MLModelDeploymentService(database_url=database_url) as service:
        active = await deployed(service)
    for call in (service.list_deployments(), service.get_deployment_status(active.deployment_id)):
        with pytest.raises(ConfigurationError, match="The service is closed"):
            await call
    await service.close()


async def test_a_service_that_was_never_used_can_be_closed(open_service: OpenService) -> None:
    await open_service().close()


async def test_what_was_deployed_is_there_after_closing(open_service: OpenService) -> None:
    first = open_service()
    active = await deployed(first)
    await first.close()
    assert await open_service().get_deployment_status(active.deployment_id) == active


def test_a_service_is_used_from_one_event_loop_after_another(database_url: str) -> None:
    service = MLModelDeploymentService(database_url=database_url)
    try:
        answer = asyncio.run(service.deploy_model(request()))
        active = asyncio.run(service.wait_for_deployment(answer.deployment_id, timeout=WAIT))
        assert active.status == "active"
        asyncio.run(service.delete_deployment(answer.deployment_id))
        deleted = asyncio.run(service.wait_for_deployment(answer.deployment_id, timeout=WAIT))
        assert deleted.status == "inactive"
        assert len(asyncio.run(service.get_deployment_history(answer.deployment_id))) == 6
    finally:
        asyncio.run(service.close())


async def test_memory_is_a_database_too() -> None:
    async with MLModelDeploymentService(database_url="sqlite://") as service:
        assert (await deployed(service)).status == "active"


# Requests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model_uri",
    [
        "https://bucket.s3.amazonaws.com/iris.onnx?X-Amz-Signature=" + "a" * 900,
        "models:" + "x" * 300,
        "x" * 2048,
        "~nobody-with-this-name/model.onnx",
        "file:///%00/model",
        "file://[/model",
        ":",
        "://",
        "models:",
    ],
    ids=lambda it: it[:24],
)
async def test_no_model_uri_is_answered_by_an_unexpected_error(model_uri: str) -> None:
    async with MLModelDeploymentService(database_url="sqlite://") as service:
        try:
            answer = await service.deploy_model(request(model_uri=model_uri))
        except ConfigurationError:
            return
        await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)


async def test_tags_that_json_cannot_hold_are_a_configuration_error(
    service: MLModelDeploymentService,
) -> None:
    with pytest.raises(ConfigurationError, match="tags"):
        await service.deploy_model(request(tags={"what": object()}))
    assert await service.list_deployments() == []


async def test_the_guides_arguments_are_positional(service: MLModelDeploymentService) -> None:
    target = DeploymentTargetConfig(type="edge_device")
    asked = DeploymentRequest(
        model_uri="models:/iris/1", deployment_name="edge", deployment_target_config=target
    )
    answer = await service.deploy_model(asked)
    current = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert await service.list_deployments(10, 0) == [current]
