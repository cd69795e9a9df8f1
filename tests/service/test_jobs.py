"""What a job does while engineers give commands, with an orchestrator that the test holds in its hands."""

import asyncio
import threading
from uuid import UUID, uuid4

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from core_ai_layer.machine_learning_service.ml_models_schemas import (
    DeploymentTargetConfig,
    FailureReason,
    ResourceConfig,
)
from core_ai_layer.machine_learning_service.ml_service_exceptions import (
    ConfigurationError,
    ConflictError,
    DeploymentError,
    ModelRegistryError,
)
from deployledger.domain.lifecycle import DEADLINES
from deployledger.domain.values import Step
from deployledger.testing import InMemoryOrchestrator, ManualClock
from tests.domain.given import BATCH_JOB, request
from tests.service.conftest import OpenService
from tests.service.outside import HeldOrchestrator, eventually

WAIT = 60


@pytest.fixture
def cluster() -> HeldOrchestrator:
    return HeldOrchestrator()


@pytest.fixture
def held(open_service: OpenService, cluster: HeldOrchestrator) -> MLModelDeploymentService:
    return open_service(None, None, cluster)


async def provisioning(service: MLModelDeploymentService, cluster: HeldOrchestrator) -> UUID:
    """Deploy, and return when the job waits in the middle of provisioning."""
    cluster.provisioning.shut()
    arrivals = cluster.provisioning.arrivals
    answer = await service.deploy_model(request())
    await eventually(lambda: cluster.provisioning.arrivals > arrivals)
    return answer.deployment_id


async def serving(service: MLModelDeploymentService) -> UUID:
    answer = await service.deploy_model(request())
    active = await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert active.status == "active"
    return answer.deployment_id


async def events_of(service: MLModelDeploymentService, deployment_id: UUID) -> list[str]:
    return [it.event for it in await service.get_deployment_history(deployment_id)]


async def test_progress_is_shown_while_a_step_is_done(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await provisioning(held, cluster)
    status = await held.get_deployment_status(deployment_id)
    assert (status.status, status.state) == ("creating", "packaged")
    assert status.progress is not None
    assert (status.progress.step, status.progress.steps_done) == ("provision", 2)
    assert (status.progress.done, status.progress.total, status.progress.unit) == (0, 2, "replicas")
    cluster.provisioning.open()
    active = await held.wait_for_deployment(deployment_id, timeout=WAIT)
    assert (active.status, active.progress) == ("active", None)
    assert active.endpoint_url == "http://held/iris/1"


async def test_only_the_steps_without_a_client_are_simulated(held: MLModelDeploymentService) -> None:
    status = await held.get_deployment_status(await serving(held))
    assert status.message == "Serving at http://held/iris/1. Simulated: fetch, package."


async def test_a_cancelled_deployment_stops_and_leaves_nothing(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await provisioning(held, cluster)
    answer = await held.cancel_deployment(deployment_id)
    assert (answer.status, answer.state) == ("inactive", "cancelled")
    cluster.provisioning.open()
    await held.settled(deployment_id)
    assert cluster.runs == {}
    assert await events_of(held, deployment_id) == ["Requested", "ArtifactsFetched", "Packaged", "Cancelled"]


async def test_a_cancelled_update_leaves_the_earlier_revision_serving(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await serving(held)
    cluster.provisioning.shut()
    await held.update_deployment(deployment_id, request(model_uri="models:/iris/2"))
    await eventually(lambda: cluster.provisioning.arrivals == 2)
    answer = await held.cancel_deployment(deployment_id)
    assert (answer.status, answer.serving_revision) == ("active", 1)
    await held.settled(deployment_id)
    assert cluster.runs == {deployment_id: {1}}


async def test_a_cancelled_deployment_can_be_retried(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await provisioning(held, cluster)
    await held.cancel_deployment(deployment_id)
    cluster.provisioning.open()
    answer = await held.retry_deployment(deployment_id)
    assert (answer.status, answer.revision) == ("creating", 1)
    active = await held.wait_for_deployment(deployment_id, timeout=WAIT)
    assert active.status == "active"


async def test_an_update_supersedes_the_one_in_progress(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await provisioning(held, cluster)
    answer = await held.update_deployment(deployment_id, request(model_uri="models:/iris/2"))
    assert (answer.status, answer.revision) == ("creating", 2)
    cluster.provisioning.open()
    active = await held.wait_for_deployment(deployment_id, timeout=WAIT)
    assert (active.serving_revision, active.endpoint_url) == (2, "http://held/iris/2")
    await held.settled(deployment_id)
    assert cluster.runs == {deployment_id: {2}}
    history = await held.get_deployment_history(deployment_id)
    assert [(it.event, it.revision) for it in history if it.event == "Provisioned"] == [("Provisioned", 2)]


async def test_an_update_that_is_ready_stops_the_earlier_revision(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await serving(held)
    await held.update_deployment(deployment_id, request(model_uri="models:/iris/2"))
    await held.wait_for_deployment(deployment_id, timeout=WAIT)
    await held.settled(deployment_id)
    assert cluster.runs == {deployment_id: {2}}


async def test_a_deployment_can_be_deleted_while_it_is_provisioned(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await provisioning(held, cluster)
    answer = await held.delete_deployment(deployment_id)
    assert answer.status == "deleting"
    deleted = await held.wait_for_deployment(deployment_id, timeout=WAIT)
    assert deleted.state == "deleted"
    cluster.provisioning.open()
    await held.settled(deployment_id)
    assert cluster.runs == {}
    assert "Provisioned" not in await events_of(held, deployment_id)


async def test_a_deletion_frees_the_name_once_it_is_done(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await serving(held)
    await held.settled(deployment_id)
    cluster.pruning.shut()
    await held.delete_deployment(deployment_id)
    with pytest.raises(ConflictError, match="is in use"):
        await held.deploy_model(request())
    cluster.pruning.open()
    await held.wait_for_deployment(deployment_id, timeout=WAIT)
    assert cluster.runs == {}
    assert await serving(held) != deployment_id


# Failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "reason", "says"),
    [
        (
            DeploymentError("iris", "No port.", reason=FailureReason.PORT_IN_USE, hint="Free it."),
            "port_in_use",
            "Step provision failed: No port. Free it.",
        ),
        (DeploymentError("iris", "No."), "internal_error", "Step provision failed: No."),
        (OSError(28, "No space left"), "external_service_failed", "OSError: [Errno 28] No space left"),
        (RuntimeError(), "external_service_failed", "Step provision failed: RuntimeError"),
        (TimeoutError("slow"), "external_service_failed", "TimeoutError: slow"),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, Exception) else None,
)
async def test_whatever_an_orchestrator_raises_the_failure_has_a_reason(
    failure: Exception, reason: str, says: str, held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    cluster.failure = failure
    answer = await held.deploy_model(request())
    failed = await held.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert (failed.status, failed.endpoint_url) == ("failed", None)
    assert failed.failure is not None
    assert (failed.failure.step, failed.failure.reason) == ("provision", reason)
    assert says in failed.message
    cluster.failure = None
    await held.retry_deployment(answer.deployment_id)
    assert (await held.wait_for_deployment(answer.deployment_id, timeout=WAIT)).status == "active"


async def test_a_failed_update_leaves_the_earlier_revision_serving_and_says_so(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await serving(held)
    cluster.failure = DeploymentError("iris", "It exited.", reason=FailureReason.SERVER_EXITED)
    await held.update_deployment(deployment_id, request(model_uri="models:/iris/2"))
    failed = await held.wait_for_deployment(deployment_id, timeout=WAIT)
    assert (failed.status, failed.revision, failed.serving_revision) == ("failed", 2, 1)
    assert (failed.endpoint_url, failed.deployed_model_version) == ("http://held/iris/1", "models:/iris/1")
    assert "Revision 1 keeps serving at http://held/iris/1." in failed.message
    await held.settled(deployment_id)
    assert cluster.runs == {deployment_id: {1}}


async def test_a_step_that_takes_too_long_fails_and_can_be_retried(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:
    clock = ManualClock()
    service = open_service(None, None, cluster, sleep=clock.sleep)
    deployment_id = await provisioning(service, cluster)
    clock.advance(DEADLINES[Step.PROVISION].total_seconds())
    failed = await service.wait_for_deployment(deployment_id, timeout=WAIT)
    assert failed.failure is not None
    assert (failed.failure.reason, failed.failure.step) == ("deadline_exceeded", "provision")
    assert "longer than 0:15:00" in failed.message
    cluster.provisioning.open()
    await service.retry_deployment(deployment_id)
    assert (await service.wait_for_deployment(deployment_id, timeout=WAIT)).status == "active"


async def test_a_deletion_that_takes_too_long_fails_and_can_be_asked_for_again(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:
    clock = ManualClock()
    service = open_service(None, None, cluster, sleep=clock.sleep)
    deployment_id = await serving(service)
    await service.settled(deployment_id)
    cluster.pruning.shut()
    await service.delete_deployment(deployment_id)

    async def has_failed() -> bool:
        clock.advance(DEADLINES[Step.DELETE].total_seconds())
        return (await service.get_deployment_status(deployment_id)).status == "delete_failed"

    await eventually(has_failed)
    failed = await service.get_deployment_status(deployment_id)
    assert (failed.status, failed.endpoint_url) == ("delete_failed", "http://held/iris/1")
    cluster.pruning.open()
    await service.delete_deployment(deployment_id)
    assert (await service.wait_for_deployment(deployment_id, timeout=WAIT)).state == "deleted"


# Batch jobs -----------------------------------------------------------------------------------------


async def test_a_batch_job_shows_its_rows_and_completes(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    cluster.running_job.shut()
    answer = await held.deploy_model(request(deployment_target_config=BATCH_JOB))
    await eventually(lambda: cluster.running_job.arrivals == 1)
    running = await held.get_deployment_status(answer.deployment_id)
    assert (running.status, running.endpoint_url) == ("active", None)
    assert running.progress is not None
    assert (running.progress.done, running.progress.total, running.progress.unit) == (5, 10, "rows")
    cluster.running_job.open()
    completed = await held.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert (completed.status, completed.state) == ("inactive", "completed")
    assert completed.message.startswith("Scored 10 rows into /out.csv.")
    await held.settled(answer.deployment_id)
    assert cluster.runs == {}


async def test_a_running_batch_job_can_be_deleted(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    cluster.running_job.shut()
    answer = await held.deploy_model(request(deployment_target_config=BATCH_JOB))
    await eventually(lambda: cluster.running_job.arrivals == 1)
    await held.delete_deployment(answer.deployment_id)
    assert (await held.wait_for_deployment(answer.deployment_id, timeout=WAIT)).state == "deleted"
    assert cluster.runs == {}


# Who looks after what -------------------------------------------------------------------------------


async def test_a_target_that_the_orchestrator_does_not_serve_is_refused(
    held: MLModelDeploymentService,
) -> None:
    target = request().deployment_target_config.model_copy(update={"type": "edge_device"})
    with pytest.raises(ConfigurationError, match="'held' serves only api_service, batch_inference_job"):
        await held.deploy_model(request(deployment_target_config=target))


class Fewer(HeldOrchestrator):
    """The cluster after an upgrade that serves less, and says so."""

    target_types = frozenset({"batch_inference_job"})


async def test_a_rollback_to_an_unsupported_target_is_refused(
    held: MLModelDeploymentService, open_service: OpenService
) -> None:
    deployment_id = await serving(held)
    later = open_service(None, None, Fewer())
    calls = [later.update_deployment(deployment_id, request()), later.rollback_deployment(deployment_id, 1)]
    for call in calls:
        with pytest.raises(ConfigurationError, match="'held' serves only batch_inference_job"):
            await call
    assert await events_of(held, deployment_id) == [
        "Requested",
        "ArtifactsFetched",
        "Packaged",
        "Provisioned",
    ]


async def test_a_failed_deployment_of_a_type_no_longer_served_is_not_retried(
    held: MLModelDeploymentService, cluster: HeldOrchestrator, open_service: OpenService
) -> None:
    cluster.failure = RuntimeError("no room")
    answer = await held.deploy_model(request())
    await held.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    with pytest.raises(ConfigurationError, match="'held' serves only batch_inference_job"):
        await open_service(None, None, Fewer()).retry_deployment(answer.deployment_id)


async def test_an_orchestrator_that_declares_no_types_refuses_by_itself(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(InMemoryOrchestrator, "target_types")
    service = open_service(None, None, HeldOrchestrator())
    target = request().deployment_target_config.model_copy(update={"type": "edge_device"})
    answer = await service.deploy_model(request(deployment_target_config=target))
    assert (await service.wait_for_deployment(answer.deployment_id, timeout=WAIT)).status == "active"


class Picky(HeldOrchestrator):
    """A cluster that checks what it is asked for."""

    def check_target(
        self, deployment_name: str, target: DeploymentTargetConfig, resources: ResourceConfig | None
    ) -> None:
        if target.replicas > 8:
            raise ConfigurationError(f"{deployment_name!r} asks for more than 8 replicas.")


async def test_what_an_orchestrator_refuses_is_not_stored(open_service: OpenService) -> None:
    service = open_service(None, None, Picky())
    target = request().deployment_target_config.model_copy(update={"replicas": 9})
    with pytest.raises(ConfigurationError, match="more than 8 replicas"):
        await service.deploy_model(request(deployment_target_config=target))
    assert await service.list_deployments(include_deleted=True) == []
    assert await serving(service)


async def test_a_batch_job_without_input_or_output_is_refused(held: MLModelDeploymentService) -> None:
    target = BATCH_JOB.model_copy(update={"input_uri": None, "output_uri": ""})
    with pytest.raises(ConfigurationError, match="needs input_uri and output_uri"):
        await held.deploy_model(request(deployment_target_config=target))


async def test_the_deployment_of_another_orchestrator_is_refused_but_shown(
    held: MLModelDeploymentService, open_service: OpenService
) -> None:
    deployment_id = await serving(held)
    other = open_service(None, None, HeldOrchestrator("other"))
    calls = [
        other.update_deployment(deployment_id, request()),
        other.delete_deployment(deployment_id),
        other.rollback_deployment(deployment_id, 1),
        other.deploy_model(request(version_strategy="update_existing")),
    ]
    for call in calls:
        with pytest.raises(ConflictError, match="belongs to the orchestrator 'held'") as refusal:
            await call
        assert refusal.value.status_code == 409
    assert (await other.get_deployment_status(deployment_id)).status == "active"
    assert [it.deployment_id for it in await other.list_deployments()] == [deployment_id]


async def test_logs_come_from_the_orchestrator(held: MLModelDeploymentService) -> None:
    deployment_id = await serving(held)
    lines = [line async for line in held.deployment_logs(deployment_id)]
    assert lines == [f"log of {deployment_id}"]
    assert (await held.observe_deployment(deployment_id)).running


# Taking up what others left -------------------------------------------------------------------------


async def test_a_job_is_taken_up_at_its_step_by_the_next_service(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:
    first = open_service(None, None, cluster)
    deployment_id = await provisioning(first, cluster)
    await first.close()
    assert cluster.runs == {}
    cluster.provisioning.open()
    second = open_service(None, None, cluster)
    active = await second.wait_for_deployment(deployment_id, timeout=WAIT)
    assert active.status == "active"
    assert await events_of(second, deployment_id) == [
        "Requested",
        "ArtifactsFetched",
        "Packaged",
        "Provisioned",
    ]
    assert cluster.provisions == [(deployment_id, 1)] * 2
    assert cluster.most_at_once[deployment_id] == 1


async def test_what_a_service_without_jobs_asked_for_another_does(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:
    asking = open_service(None, None, cluster, run_jobs=False)
    answer = await asking.deploy_model(request())
    assert await asking.unfinished_deployments() == [answer.deployment_id]
    assert cluster.provisions == []
    async with open_service(None, None, cluster):
        active = await asking.wait_for_deployment(answer.deployment_id, timeout=WAIT)
    assert active.status == "active"
    assert await asking.unfinished_deployments() == []


async def test_a_service_that_is_not_to_resume_resumes_only_what_it_is_told(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:
    asking = open_service(None, None, cluster, run_jobs=False)
    left = (await asking.deploy_model(request(deployment_name="left"))).deployment_id
    told = (await asking.deploy_model(request(deployment_name="told"))).deployment_id
    service = open_service(None, None, cluster, resume=False)
    await service.resume_deployment(told)
    assert (await service.wait_for_deployment(told, timeout=WAIT)).status == "active"
    assert await service.unfinished_deployments() == [left]


async def test_a_service_that_opens_starts_again_what_should_serve(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:
    first = open_service(None, None, cluster)
    deployment_id = await serving(first)
    await first.close()
    cluster.runs.clear()  # as after a restart of the machine
    async with open_service(None, None, cluster) as second:
        await eventually(lambda: cluster.runs == {deployment_id: {1}})
        assert (await second.get_deployment_status(deployment_id)).version == 4


async def test_a_service_that_opens_stops_what_should_not_run(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:
    first = open_service(None, None, cluster)
    deployment_id = await serving(first)
    await first.close()
    cluster.runs[deployment_id].add(7)
    async with open_service(None, None, cluster):
        await eventually(lambda: cluster.runs == {deployment_id: {1}})


async def test_commands_of_one_service_reach_the_job_of_another(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:
    working = open_service(None, None, cluster)
    deployment_id = await provisioning(working, cluster)
    asking = open_service(None, None, cluster, run_jobs=False)
    assert not await asking.is_left(deployment_id)
    await asking.cancel_deployment(deployment_id)
    await working.settled(deployment_id)
    assert not await asking.is_left(deployment_id)
    assert cluster.runs == {}


async def test_services_that_are_open_together_do_each_job_once(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:
    services = [open_service(None, None, cluster) for _ in range(2)]
    ids = []
    for number in range(10):
        answer = await services[number % 2].deploy_model(request(deployment_name=f"iris-{number}"))
        ids.append(answer.deployment_id)
    for service in services:
        for deployment_id in ids:
            await service.resume_deployment(deployment_id)
            assert (await service.wait_for_deployment(deployment_id, timeout=WAIT)).status == "active"
    for deployment_id in ids:
        assert len(await events_of(services[0], deployment_id)) == 4
        assert cluster.most_at_once[deployment_id] == 1
    assert sorted(cluster.provisions) == sorted((deployment_id, 1) for deployment_id in ids)


async def test_the_first_calls_resume_once_however_many_they_are(
    open_service: OpenService, cluster: HeldOrchestrator
) -> None:

    service = open_service(None, None, cluster)
    await asyncio.gather(*(service.list_deployments() for _ in range(20)))
    await eventually(lambda: cluster.provisioned_calls > 0)
    await service.close()
    assert cluster.provisioned_calls == 1


async def test_closing_does_not_wait_for_a_step_that_hangs(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:

    await provisioning(held, cluster)
    async with asyncio.timeout(60):
        await held.close()


class _WakesWhileItFails:
    """A registry whose step ends at the moment at which the job is told to look at the log again."""

    def __init__(self) -> None:
        self.service: MLModelDeploymentService | None = None

    async def download_artifacts(self, **_: object) -> str:
        await asyncio.sleep(0.05)  # until the job waits for that
        service = self.service
        if service is not None and service._background.worker is not None:
            for deployment_id in list(service._background.worker._jobs):
                service._background.worker.wake(deployment_id)
            await asyncio.sleep(0)
        raise ModelRegistryError("there is none")


async def test_a_step_that_ends_while_its_job_is_woken_is_recorded(open_service: OpenService) -> None:
    registry = _WakesWhileItFails()
    service = registry.service = open_service(registry)
    for number in range(5):
        answer = await service.deploy_model(request(deployment_name=f"iris-{number}"))
        failed = await service.wait_for_deployment(answer.deployment_id, timeout=60)
        assert failed.status == "failed"


# What is left behind --------------------------------------------------------------------------------


async def replaced(service: MLModelDeploymentService) -> UUID:
    """Update a deployment, and return when the new revision serves."""
    deployment_id = await serving(service)
    await service.update_deployment(deployment_id, request(model_uri="models:/iris/2"))
    await service.wait_for_deployment(deployment_id, timeout=WAIT)
    return deployment_id


@pytest.mark.parametrize("goes_back", [False, True])
async def test_closing_right_after_an_update_stops_the_revision_before(
    goes_back: bool, held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    # given an update, or a rollback, that serves, while the revision before is being stopped
    deployment_id = await (replaced(held) if goes_back else serving(held))
    await held.settled(deployment_id)
    cluster.pruning.shut()
    if goes_back:
        answer = await held.rollback_deployment(deployment_id, 1)
    else:
        answer = await held.update_deployment(deployment_id, request(model_uri="models:/iris/2"))
    await held.wait_for_deployment(deployment_id, timeout=WAIT)
    # when the service closes
    closing = asyncio.create_task(held.close())
    await asyncio.sleep(0.05)  # long enough to show that it does not give up
    cluster.pruning.open()
    await closing
    # then that is carried through
    assert cluster.runs == {deployment_id: {answer.revision}}


async def test_closing_right_after_a_cancellation_leaves_nothing(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await serving(held)
    cluster.provisioning.shut()
    await held.update_deployment(deployment_id, request(model_uri="models:/iris/2"))
    await eventually(lambda: cluster.provisioning.arrivals == 2)
    cluster.runs[deployment_id].add(2)  # its server has been started, and is not ready
    await held.cancel_deployment(deployment_id)
    await held.close()
    assert cluster.runs == {deployment_id: {1}}


async def test_closing_during_a_step_leaves_it_to_the_next_service(
    held: MLModelDeploymentService, cluster: HeldOrchestrator, open_service: OpenService
) -> None:
    deployment_id = await provisioning(held, cluster)
    await held.close()
    cluster.provisioning.open()
    assert cluster.runs == {}
    active = await open_service(None, None, cluster).wait_for_deployment(deployment_id, timeout=WAIT)
    assert active.status == "active"


async def test_servers_that_a_killed_process_left_are_found_and_stopped(
    held: MLModelDeploymentService, cluster: HeldOrchestrator, open_service: OpenService
) -> None:
    # given what a process leaves that is killed before it stops the revision that it replaced
    deployment_id = await replaced(held)
    await held.close()
    cluster.runs[deployment_id].add(1)
    # when a service looks that takes up nothing by itself
    other = open_service(None, None, cluster, resume=False)
    assert await other.leftovers() == [deployment_id]
    await other.resume_deployment(deployment_id)
    await other.settled(deployment_id)
    # then nothing of it is left
    assert cluster.runs == {deployment_id: {2}}
    assert await other.leftovers() == []


async def test_work_that_was_only_just_asked_for_is_waited_for(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await serving(held)
    await held.settled(deployment_id)
    cluster.runs[deployment_id].add(7)
    # given a worker that is too busy to begin
    assert held._background.worker is not None
    is_free = threading.Event()
    held._background.worker._loop.call_soon_threadsafe(is_free.wait)
    # when its work is asked for
    await held.resume_deployment(deployment_id)
    settled = asyncio.create_task(held.settled(deployment_id))
    await asyncio.sleep(0.05)  # long enough to show that it does not return
    has_returned = settled.done()
    is_free.set()
    await settled
    # then it has been done in the end
    assert not has_returned
    assert cluster.runs == {deployment_id: {1}}


async def test_a_deletion_that_nobody_works_on_is_left_over(
    held: MLModelDeploymentService, cluster: HeldOrchestrator, open_service: OpenService
) -> None:
    deployment_id = await serving(held)
    await held.delete_deployment(deployment_id)
    await held.close()
    other = open_service(None, None, cluster, resume=False)
    if cluster.runs:  # unless it was quicker than the close
        assert await other.leftovers() == [deployment_id]
    await other.resume_deployment(deployment_id)
    assert (await other.wait_for_deployment(deployment_id, timeout=WAIT)).state == "deleted"
    assert await other.leftovers() == []


async def test_what_is_in_progress_or_of_another_log_is_not_left_over(
    held: MLModelDeploymentService, cluster: HeldOrchestrator
) -> None:
    deployment_id = await provisioning(held, cluster)
    cluster.runs = {deployment_id: {1}, uuid4(): {1}}
    assert await held.leftovers() == []
    cluster.provisioning.open()
