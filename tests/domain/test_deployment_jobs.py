"""What a deployment's job records, step by step."""

import pytest

from deployledger.domain import events
from deployledger.domain.deployment import Deployment
from deployledger.domain.exceptions import ConflictError, IllegalTransitionError
from deployledger.domain.lifecycle import State
from tests.domain.given import (
    ARTIFACT,
    BATCH_JOB,
    DEPLOYMENT_ID,
    FAILURE,
    IMAGE,
    NOON,
    RUNNING_JOB,
    SERVICE,
    SERVING,
    Command,
    Happening,
    cancelled,
    context,
    deletion_requested,
    failed,
    fetched,
    given,
    packaged,
    provisioned,
    request,
    requested,
    update_requested,
)


def test_a_request_makes_a_deployment() -> None:
    by = context()
    deployment = Deployment.request(DEPLOYMENT_ID, request(), orchestrator="local", by=by)
    (event,) = deployment.collect_events()
    assert isinstance(event, events.Requested)
    assert (event.name, event.model_uri, event.target) == ("iris", "models:/iris/1", SERVICE)
    assert (event.orchestrator, event.revision, event.originator_version) == ("local", 1, 1)
    assert (deployment.state, deployment.version) == (State.REQUESTED, 1)
    assert (deployment.created_on, deployment.modified_on) == (NOON, NOON)
    assert (deployment.correlation_id, deployment.last_event_id) == (by.correlation_id, event.event_id)
    assert deployment.is_in_progress
    assert not deployment.is_serving
    assert deployment.collect_events() == []


def test_a_request_never_keeps_credentials() -> None:
    secretive = request(model_uri="https://ann:hunter2@models.example/iris.onnx?token=s3cr3t&v=2")
    deployment = Deployment.request(DEPLOYMENT_ID, secretive, orchestrator="local", by=context())
    (event,) = deployment.collect_events()
    assert isinstance(event, events.Requested)
    assert event.model_uri == "https://models.example/iris.onnx?token=***&v=2"


def test_fetched_artifacts_are_recorded() -> None:
    deployment = (
        given(requested())
        .when(lambda it, by: it.artifacts_fetched(1, ARTIFACT, simulated=False, by=by))
        .then(events.ArtifactsFetched, revision=1, artifact=ARTIFACT, simulated=False)
    )
    assert deployment.state is State.ARTIFACTS_FETCHED
    assert deployment.revision.artifact == ARTIFACT


def test_a_built_image_is_recorded() -> None:
    deployment = (
        given(requested(), fetched())
        .when(lambda it, by: it.packaged(1, IMAGE, simulated=True, by=by))
        .then(events.Packaged, revision=1, image=IMAGE, simulated=True)
    )
    assert deployment.state is State.PACKAGED
    assert deployment.revision.image == IMAGE


def test_a_provisioned_service_serves() -> None:
    deployment = (
        given(requested(), fetched(), packaged())
        .when(lambda it, by: it.provisioned(1, "http://one", simulated=False, by=by))
        .then(events.Provisioned, revision=1, endpoint_url="http://one")
    )
    assert deployment.state is State.ACTIVE
    assert (deployment.serving_revision, deployment.endpoint_url) == (1, "http://one")
    assert not deployment.is_in_progress


def test_a_started_batch_job_is_in_progress_and_serves_nobody() -> None:
    deployment = (
        given(requested(target=BATCH_JOB), fetched(), packaged())
        .when(lambda it, by: it.provisioned(1, None, simulated=False, by=by))
        .then(events.Provisioned, revision=1, endpoint_url=None)
    )
    assert deployment.state is State.ACTIVE
    assert deployment.is_batch_job
    assert deployment.is_in_progress
    assert not deployment.is_serving


def test_a_batch_job_completes() -> None:
    deployment = (
        given(*RUNNING_JOB)
        .when(lambda it, by: it.completed(1, "out.csv", 12, simulated=False, by=by))
        .then(events.Completed, output_uri="out.csv", rows=12)
    )
    assert deployment.state is State.COMPLETED
    assert not deployment.is_in_progress


def test_a_running_batch_job_can_fail() -> None:
    deployment = (
        given(*RUNNING_JOB)
        .when(lambda it, by: it.fail(1, FAILURE, by=by))
        .then(events.Failed, failure=FAILURE)
    )
    assert deployment.state is State.FAILED


@pytest.mark.parametrize(
    "past",
    [(requested(),), (requested(), fetched()), (requested(), fetched(), packaged())],
    ids=["fetch", "package", "provision"],
)
def test_every_step_can_fail(past: tuple[Happening, ...]) -> None:
    deployment = (
        given(*past).when(lambda it, by: it.fail(1, FAILURE, by=by)).then(events.Failed, failure=FAILURE)
    )
    assert deployment.state is State.FAILED
    assert deployment.failure == FAILURE


def test_a_failed_update_leaves_the_earlier_revision_serving() -> None:
    deployment = (
        given(*SERVING, update_requested())
        .when(lambda it, by: it.fail(2, FAILURE, by=by))
        .then(events.Failed, revision=2)
    )
    assert deployment.state is State.FAILED
    assert (deployment.serving_revision, deployment.endpoint_url) == (1, "http://one")


def test_a_deletion_that_fails_is_told_apart() -> None:
    deployment = (
        given(*SERVING, deletion_requested())
        .when(lambda it, by: it.fail(1, FAILURE, by=by))
        .then(events.DeletionFailed, failure=FAILURE)
    )
    assert deployment.state is State.DELETE_FAILED
    assert deployment.is_serving


def test_a_deleted_deployment_serves_no_more() -> None:
    deployment = (
        given(*SERVING, deletion_requested())
        .when(lambda it, by: it.deleted(simulated=False, by=by))
        .then(events.Deleted, simulated=False)
    )
    assert deployment.state is State.DELETED
    assert (deployment.serving_revision, deployment.endpoint_url) == (None, None)


RESULTS: dict[str, Command] = {
    "artifacts_fetched": lambda it, by: it.artifacts_fetched(1, ARTIFACT, simulated=False, by=by),
    "packaged": lambda it, by: it.packaged(1, IMAGE, simulated=False, by=by),
    "provisioned": lambda it, by: it.provisioned(1, "http://one", simulated=False, by=by),
    "completed": lambda it, by: it.completed(1, "out.csv", 12, simulated=False, by=by),
    "fail": lambda it, by: it.fail(1, FAILURE, by=by),
    "deleted": lambda it, by: it.deleted(simulated=False, by=by),
}


@pytest.mark.parametrize(
    ("past", "accepted"),
    [
        ((requested(),), {"artifacts_fetched", "fail"}),
        ((requested(), fetched()), {"packaged", "fail"}),
        ((requested(), fetched(), packaged()), {"provisioned", "fail"}),
        (SERVING, set()),
        (RUNNING_JOB, {"completed", "fail"}),
        ((requested(), failed()), set()),
        ((requested(), cancelled()), set()),
        ((*SERVING, deletion_requested()), {"fail", "deleted"}),
    ],
    ids=["requested", "fetched", "packaged", "serving", "running", "failed", "cancelled", "deleting"],
)
def test_results_out_of_turn_are_refused(past: tuple[Happening, ...], accepted: set[str]) -> None:
    for name, result in RESULTS.items():
        if name not in accepted:
            given(*past).when(result).then_refused(IllegalTransitionError, "Deployment 'iris'")


@pytest.mark.parametrize("name", ["artifacts_fetched", "packaged", "provisioned", "completed", "fail"])
def test_results_of_a_superseded_revision_are_refused(name: str) -> None:
    (
        given(requested(), update_requested())
        .when(RESULTS[name])
        .then_refused(ConflictError, "is at revision 2: a result of revision 1 is refused")
    )


def test_a_result_of_a_revision_to_come_is_refused() -> None:
    (
        given(requested())
        .when(lambda it, by: it.artifacts_fetched(2, ARTIFACT, simulated=False, by=by))
        .then_refused(ConflictError, "a result of revision 2 is refused")
    )


def test_a_result_after_a_cancelled_update_is_refused() -> None:
    (
        given(*SERVING, update_requested(), fetched(2), packaged(2), cancelled(2))
        .when(lambda it, by: it.provisioned(2, "http://two", simulated=False, by=by))
        .then_refused(IllegalTransitionError, "is active: it cannot be recorded as provisioned")
    )


def test_an_update_that_is_ready_takes_over() -> None:
    deployment = (
        given(*SERVING, update_requested(), fetched(2), packaged(2))
        .when(lambda it, by: it.provisioned(2, "http://two", simulated=False, by=by))
        .then(events.Provisioned, revision=2)
    )
    assert (deployment.serving_revision, deployment.endpoint_url) == (2, "http://two")


def test_a_provisioned_event_of_the_past_counts_again_on_replay() -> None:
    deployment = given(*SERVING, update_requested(), fetched(2), packaged(2), provisioned(2, "http://two"))
    assert deployment.deployment.serving_revision == 2
