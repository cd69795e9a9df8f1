"""What engineers ask of a deployment: update, rollback, retry, cancel, delete."""

import pytest

from deployledger.domain import events
from deployledger.domain.deployment import Deployment
from deployledger.domain.events import CommandContext
from deployledger.domain.exceptions import (
    ConfigurationError,
    ConflictError,
    IllegalTransitionError,
    ResourceNotFoundError,
)
from deployledger.domain.lifecycle import State
from tests.domain.given import (
    ARTIFACT,
    BATCH_JOB,
    FAILURE,
    OTHER_ARTIFACT,
    RUNNING_JOB,
    SERVICE,
    SERVING,
    Happening,
    cancelled,
    context,
    deletion_requested,
    failed,
    fetched,
    given,
    happened,
    packaged,
    provisioned,
    request,
    requested,
    update_requested,
)

COMPLETED = (*RUNNING_JOB, happened(events.Completed, output_uri="out.csv", rows=12))
DELETED = (*SERVING, deletion_requested(), happened(events.Deleted))
DELETE_FAILED = (*SERVING, deletion_requested(), happened(events.DeletionFailed, failure=FAILURE))

PASTS: dict[str, tuple[Happening, ...]] = {
    "requested": (requested(),),
    "artifacts_fetched": (requested(), fetched()),
    "packaged": (requested(), fetched(), packaged()),
    "active": SERVING,
    "completed": COMPLETED,
    "failed": (requested(), failed()),
    "cancelled": (requested(), cancelled()),
    "deleting": (*SERVING, deletion_requested()),
    "delete_failed": DELETE_FAILED,
    "deleted": DELETED,
}


def update(it: Deployment, by: CommandContext) -> None:
    it.request_update(request(deployment_target_config=it.revision.target), by=by)


def retry(it: Deployment, by: CommandContext) -> None:
    it.retry(by=by)


def cancel(it: Deployment, by: CommandContext) -> None:
    it.cancel(by=by)


def delete(it: Deployment, by: CommandContext) -> None:
    it.request_deletion(by=by)


@pytest.mark.parametrize("state", PASTS)
def test_every_command_in_every_state_is_accepted_or_refused_with_words(state: str) -> None:
    in_progress = {"requested", "artifacts_fetched", "packaged"}
    allowed = {
        "cannot be updated": (update, in_progress | {"active", "completed", "cancelled", "failed"}),
        "nothing to retry": (retry, {"failed", "cancelled"}),
        "to cancel": (cancel, in_progress),
        "cannot be deleted again": (delete, set(PASTS) - {"deleting", "deleted"}),
    }
    for refusal, (command, states) in allowed.items():
        scenario = given(*PASTS[state]).when(command)
        assert scenario.deployment.state == state
        if state in states:
            command(scenario.deployment, context())
            assert len(scenario.deployment.collect_events()) == 1
        else:
            scenario.then_refused(IllegalTransitionError, refusal)


# Update ---------------------------------------------------------------------------------------------


def test_an_update_is_a_new_revision() -> None:
    deployment = (
        given(*SERVING)
        .when(lambda it, by: it.request_update(request(model_uri="models:/iris/2", tags=None), by=by))
        .then(events.UpdateRequested, revision=2, model_uri="models:/iris/2", tags={}, rollback_to=None)
    )
    assert deployment.state is State.REQUESTED
    assert deployment.revision.number == 2
    assert (deployment.revision.artifact, deployment.revision.image) == (None, None)
    assert deployment.revisions[1].artifact == ARTIFACT
    assert deployment.serving_revision == 1


def test_an_update_supersedes_one_in_progress() -> None:
    deployment = (
        given(*SERVING, update_requested(), fetched(2)).when(update).then(events.UpdateRequested, revision=3)
    )
    assert deployment.state is State.REQUESTED
    assert deployment.serving_revision == 1


def test_an_update_forgets_the_failure_before_it() -> None:
    assert given(requested(), failed()).when(update).then(events.UpdateRequested).failure is None


def test_an_update_starts_a_correlation_of_its_own() -> None:
    deployment = given(*SERVING).when(update).then(events.UpdateRequested)
    assert deployment.correlation_id != given(*SERVING).deployment.correlation_id


def test_an_update_may_rename() -> None:
    deployment = (
        given(*SERVING)
        .when(lambda it, by: it.request_update(request(deployment_name="iris-v2"), by=by))
        .then(events.UpdateRequested, name="iris-v2")
    )
    assert deployment.name == "iris-v2"


def test_an_update_never_keeps_credentials() -> None:
    (
        given(*SERVING)
        .when(lambda it, by: it.request_update(request(model_uri="s3://KEY:SECRET@bucket/iris"), by=by))
        .then(events.UpdateRequested, model_uri="s3://bucket/iris")
    )


@pytest.mark.parametrize(
    ("past", "target"), [(SERVING, BATCH_JOB), (COMPLETED, SERVICE)], ids=["to job", "to service"]
)
def test_an_update_cannot_change_the_type_of_target(past: tuple[Happening, ...], target: object) -> None:
    (
        given(*past)
        .when(lambda it, by: it.request_update(request(deployment_target_config=target), by=by))
        .then_refused(ConfigurationError, "an update cannot make it")
    )


# Rollback -------------------------------------------------------------------------------------------

UPDATED = (
    *SERVING,
    update_requested(target=SERVICE.model_copy(update={"replicas": 3}), tags={"team": "fauna"}),
    fetched(2, OTHER_ARTIFACT),
    packaged(2),
    provisioned(2, "http://two"),
)


def test_a_rollback_repeats_an_earlier_revision_from_the_same_bytes() -> None:
    deployment = (
        given(*UPDATED)
        .when(lambda it, by: it.request_rollback(1, by=by))
        .then(
            events.UpdateRequested,
            revision=3,
            rollback_to=1,
            model_uri="models:/iris/1",
            target=SERVICE,
            tags={"team": "flora"},
        )
    )
    assert deployment.revision.rollback_to == 1
    assert deployment.revision.artifact == ARTIFACT  # pinned before anything is fetched
    assert deployment.revision.image is None
    assert deployment.serving_revision == 2


def test_a_rollback_keeps_the_name_that_the_deployment_has_now() -> None:
    (
        given(*SERVING, update_requested(name="renamed"), fetched(2), packaged(2), provisioned(2))
        .when(lambda it, by: it.request_rollback(1, by=by))
        .then(events.UpdateRequested, name="renamed")
    )


def test_a_rollback_of_a_rollback_has_the_same_bytes_still() -> None:
    deployment = (
        given(*UPDATED, update_requested(3, rollback_to=1), update_requested(4), failed(4))
        .when(lambda it, by: it.request_rollback(3, by=by))
        .then(events.UpdateRequested, revision=5, rollback_to=3)
    )
    assert deployment.revision.artifact == ARTIFACT


@pytest.mark.parametrize("revision", [0, -1, 3, 99])
def test_a_rollback_to_a_revision_that_never_was_is_refused(revision: int) -> None:
    (
        given(*UPDATED)
        .when(lambda it, by: it.request_rollback(revision, by=by))
        .then_refused(ResourceNotFoundError, f"has no revision {revision}")
    )


def test_a_rollback_to_the_newest_revision_is_refused() -> None:
    (
        given(*UPDATED)
        .when(lambda it, by: it.request_rollback(2, by=by))
        .then_refused(ConflictError, "Revision 2 is the newest revision")
    )


def test_a_rollback_to_a_revision_without_artifacts_is_refused() -> None:
    (
        given(requested(), failed(), update_requested())
        .when(lambda it, by: it.request_rollback(1, by=by))
        .then_refused(ConflictError, "never had its artifacts fetched")
    )


@pytest.mark.parametrize("state", ["deleting", "delete_failed", "deleted"])
def test_a_rollback_of_what_is_being_deleted_is_refused(state: str) -> None:
    (
        given(*PASTS[state])
        .when(lambda it, by: it.request_rollback(1, by=by))
        .then_refused(IllegalTransitionError, "cannot be updated")
    )


# Retry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [failed(), cancelled()], ids=["failed", "cancelled"])
def test_a_retry_tries_the_same_revision_again(end: Happening) -> None:
    deployment = (
        given(requested(), fetched(), end).when(retry).then(events.RetryRequested, revision=1, attempt=2)
    )
    assert deployment.state is State.REQUESTED
    assert (deployment.revision.number, deployment.revision.attempt) == (1, 2)
    assert deployment.revision.artifact == ARTIFACT  # what was fetched stays pinned
    assert deployment.failure is None


def test_attempts_are_counted_for_each_revision() -> None:
    retried = happened(events.RetryRequested, attempt=2)
    given(requested(), failed(), retried, failed()).when(retry).then(events.RetryRequested, attempt=3)
    (
        given(requested(), failed(), retried, failed(), update_requested(), failed(2))
        .when(retry)
        .then(events.RetryRequested, revision=2, attempt=2)
    )


# Cancel ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["requested", "artifacts_fetched", "packaged"])
def test_cancelling_what_never_served_ends_it(state: str) -> None:
    deployment = given(*PASTS[state]).when(cancel).then(events.Cancelled, revision=1)
    assert deployment.state is State.CANCELLED
    assert not deployment.is_in_progress


@pytest.mark.parametrize(
    "done", [(), (fetched(2),), (fetched(2), packaged(2))], ids=["requested", "fetched", "packaged"]
)
def test_cancelling_an_update_leaves_the_earlier_revision_serving(done: tuple[Happening, ...]) -> None:
    deployment = given(*SERVING, update_requested(), *done).when(cancel).then(events.Cancelled, revision=2)
    assert deployment.state is State.ACTIVE
    assert (deployment.serving_revision, deployment.endpoint_url) == (1, "http://one")


def test_a_cancelled_update_can_be_followed_by_another() -> None:
    given(*SERVING, update_requested(), cancelled(2)).when(update).then(events.UpdateRequested, revision=3)


def test_cancelling_a_retried_update_keeps_the_earlier_revision() -> None:
    retried = happened(events.RetryRequested, revision=2, attempt=2)
    deployment = given(*SERVING, update_requested(), failed(2), retried).when(cancel).then(events.Cancelled)
    assert deployment.state is State.ACTIVE


# Delete ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(set(PASTS) - {"deleting", "deleted"}))
def test_everything_that_is_there_can_be_deleted(state: str) -> None:
    deployment = given(*PASTS[state]).when(delete).then(events.DeletionRequested)
    assert deployment.state is State.DELETING
    assert deployment.failure is None
    assert deployment.is_in_progress


def test_a_refusal_names_the_deployment_and_what_is_possible() -> None:
    with pytest.raises(IllegalTransitionError) as refusal:
        given(*DELETED).deployment.retry(by=context())
    assert "Deployment 'iris' (d0000000-" in refusal.value.message
    assert refusal.value.hint == "Nothing more can happen to it."
    assert refusal.value.status_code == 409
