"""The status of a deployment, in the words of the usage guide."""

import pytest

from deployledger.domain import events
from deployledger.domain.lifecycle import State
from deployledger.domain.responses import DeploymentStatusResponse
from deployledger.domain.values import Progress, Step
from deployledger.projections import status
from tests.domain.given import (
    ARTIFACT,
    BATCH_JOB,
    DEPLOYMENT_ID,
    FAILURE,
    IMAGE,
    OTHER_ARTIFACT,
    OTHER_IMAGE,
    RUNNING_JOB,
    SERVICE,
    SERVING,
    Happening,
    cancelled,
    deletion_requested,
    failed,
    fetched,
    happened,
    history,
    packaged,
    provisioned,
    requested,
    update_requested,
)

DELETED = happened(events.Deleted)
COMPLETED = happened(events.Completed, output_uri="out.csv", rows=12)
RETRIED = happened(events.RetryRequested, attempt=2)
DELETION_FAILED = happened(events.DeletionFailed, failure=FAILURE)


def after(*happenings: Happening) -> DeploymentStatusResponse:
    return status.respond(status.fold(history(*happenings)))


CASES: list[tuple[str, tuple[Happening, ...], str, str, str]] = [
    # name, history, status, state, message
    (
        "requested",
        (requested(),),
        "creating",
        "requested",
        "Fetching the model's artifacts from models:/iris/1.",
    ),
    ("fetched", (requested(), fetched()), "creating", "artifacts_fetched", "Packaging the model."),
    ("packaged", (requested(), fetched(), packaged()), "creating", "packaged", "Starting 2 replicas."),
    ("serving", SERVING, "active", "active", "Serving at http://one."),
    (
        "failed",
        (requested(), failed()),
        "failed",
        "failed",
        "Step provision failed: It exited. Read its log.",
    ),
    ("retried", (requested(), failed(), RETRIED), "creating", "requested", "Fetching"),
    (
        "cancelled",
        (requested(), cancelled()),
        "inactive",
        "cancelled",
        "Revision 1 was cancelled before it served.",
    ),
    ("superseded before it served", (requested(), update_requested()), "creating", "requested", "Fetching"),
    (
        "updating",
        (*SERVING, update_requested()),
        "updating",
        "requested",
        "Fetching the model's artifacts from models:/iris/2. Revision 1 keeps serving at http://one.",
    ),
    (
        "updating, packaged",
        (*SERVING, update_requested(), fetched(2), packaged(2)),
        "updating",
        "packaged",
        "Starting 2 replicas. Revision 1 keeps serving at http://one.",
    ),
    (
        "updated",
        (*SERVING, update_requested(), fetched(2), packaged(2), provisioned(2, "http://two")),
        "active",
        "active",
        "Serving at http://two.",
    ),
    (
        "update failed",
        (*SERVING, update_requested(), failed(2)),
        "failed",
        "failed",
        "Step provision failed: It exited. Read its log. Revision 1 keeps serving at http://one.",
    ),
    (
        "update failed, and retried",
        (*SERVING, update_requested(), failed(2), happened(events.RetryRequested, revision=2, attempt=2)),
        "updating",
        "requested",
        "Fetching",
    ),
    (
        "update cancelled",
        (*SERVING, update_requested(), cancelled(2)),
        "active",
        "active",
        "The update to revision 2 was cancelled. Revision 1 keeps serving at http://one.",
    ),
    ("deleting", (*SERVING, deletion_requested()), "deleting", "deleting", "Stopping it."),
    (
        "delete failed",
        (*SERVING, deletion_requested(), DELETION_FAILED),
        "delete_failed",
        "delete_failed",
        "Step provision failed: It exited. Read its log.",
    ),
    ("deleted", (*SERVING, deletion_requested(), DELETED), "inactive", "deleted", "Deleted."),
    (
        "job starting",
        (requested(target=BATCH_JOB), fetched(), packaged()),
        "creating",
        "packaged",
        "Starting the job.",
    ),
    ("job running", RUNNING_JOB, "active", "active", "Scoring in.csv."),
    ("job completed", (*RUNNING_JOB, COMPLETED), "inactive", "completed", "Scored 12 rows into out.csv."),
    ("job failed", (*RUNNING_JOB, failed()), "failed", "failed", "Step provision failed: It exited."),
]


@pytest.mark.parametrize(
    ("past", "word", "state", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_status_and_message(past: tuple[Happening, ...], word: str, state: str, message: str) -> None:
    answer = after(*past)
    assert (answer.status, answer.state) == (word, state)
    assert answer.message.startswith(message)


def test_an_answer_says_everything_that_was_asked_for() -> None:
    answer = after(*SERVING)
    assert answer.deployment_id == DEPLOYMENT_ID
    assert (answer.deployment_name, answer.model_uri) == ("iris", "models:/iris/1")
    assert (answer.deployment_target_config, answer.tags) == (SERVICE, {"team": "flora"})
    assert answer.resource_allocation is not None
    assert answer.resource_allocation.cpu_request == "500m"
    assert (answer.revision, answer.serving_revision, answer.version) == (1, 1, 4)
    assert (answer.artifact_digest, answer.image_digest) == (ARTIFACT.digest, IMAGE.digest)
    assert answer.endpoint_url == "http://one"
    assert answer.deployed_model_version == "models:/iris/1"
    assert (answer.failure, answer.simulated) == (None, False)
    assert answer.created_at < answer.updated_at


def test_nothing_is_said_to_be_deployed_before_it_is() -> None:
    answer = after(requested(), fetched(), packaged())
    assert (answer.endpoint_url, answer.deployed_model_version, answer.serving_revision) == (None, None, None)


@pytest.mark.parametrize(
    "end",
    [failed(2), cancelled(2), deletion_requested(2), fetched(2, OTHER_ARTIFACT)],
    ids=["failed", "cancelled", "deleting", "in progress"],
)
def test_until_an_update_is_ready_the_answer_is_about_what_serves(end: Happening) -> None:
    answer = after(*SERVING, update_requested(), end)
    assert (answer.endpoint_url, answer.deployed_model_version) == ("http://one", "models:/iris/1")
    assert (answer.revision, answer.serving_revision) == (2, 1)
    assert answer.model_uri == "models:/iris/2"
    assert "Revision 1 keeps serving at http://one." in answer.message


def test_it_says_who_asked_for_what_serves_and_for_the_newest_revision() -> None:
    past = (requested(), failed(), happened(events.RetryRequested, attempt=2, actor="ben"))
    serving = (*past, fetched(), packaged(), provisioned())
    updating = (*serving, update_requested(actor="cy"))
    gone = (*serving, deletion_requested(), DELETED)
    found = [after(*it) for it in (past, serving, updating, gone)]
    asked = [(it.requested_by, it.serving_requested_by) for it in found]
    assert asked == [("ann", None), ("ann", "ann"), ("cy", "ann"), ("ann", None)]


def test_a_failure_has_its_time_until_something_is_done_about_it() -> None:
    failures = after(requested(), failed()), after(*SERVING, deletion_requested(), DELETION_FAILED)
    for answer in failures:
        assert answer.failed_at == answer.updated_at
    for later in (RETRIED, update_requested(), deletion_requested()):
        assert after(requested(), failed(), later).failed_at is None
    assert after(*SERVING).failed_at is None


def test_a_failed_update_keeps_what_serves_and_says_why_it_failed() -> None:
    answer = after(*SERVING, update_requested(), failed(2))
    assert answer.status == "failed"
    assert answer.failure == FAILURE
    assert (answer.endpoint_url, answer.deployed_model_version) == ("http://one", "models:/iris/1")


def test_an_update_that_is_ready_replaces_what_served() -> None:
    answer = after(
        *SERVING,
        update_requested(),
        fetched(2, OTHER_ARTIFACT),
        packaged(2, OTHER_IMAGE),
        provisioned(2, "http://two"),
    )
    assert (answer.endpoint_url, answer.deployed_model_version) == ("http://two", "models:/iris/2")
    assert (answer.artifact_digest, answer.image_digest) == (OTHER_ARTIFACT.digest, OTHER_IMAGE.digest)


def test_a_deleted_deployment_has_no_endpoint() -> None:
    answer = after(*SERVING, deletion_requested(), DELETED)
    assert (answer.endpoint_url, answer.serving_revision) == (None, None)


def test_a_new_revision_has_nothing_of_the_one_before() -> None:
    answer = after(*SERVING, update_requested(tags={}))
    assert (answer.artifact_digest, answer.image_digest, answer.failure) == (None, None, None)
    assert answer.tags == {}


# Progress -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        ((requested(),), Progress(step=Step.FETCH, steps_done=0, steps_total=3)),
        ((requested(), fetched()), Progress(step=Step.PACKAGE, steps_done=1, steps_total=3)),
        ((requested(), fetched(), packaged()), Progress(step=Step.PROVISION, steps_done=2, steps_total=3)),
        (SERVING, None),
        ((requested(target=BATCH_JOB),), Progress(step=Step.FETCH, steps_done=0, steps_total=4)),
        (RUNNING_JOB, Progress(step=Step.RUN, steps_done=3, steps_total=4)),
        ((*RUNNING_JOB, COMPLETED), None),
        ((requested(), failed()), None),
        ((requested(), cancelled()), None),
        ((*SERVING, deletion_requested()), Progress(step=Step.DELETE, steps_done=0, steps_total=1)),
        ((*SERVING, deletion_requested(), DELETION_FAILED), None),
        ((*SERVING, deletion_requested(), DELETED), None),
    ],
    ids=lambda it: None if isinstance(it, Progress) else f"{len(it or ())} events",
)
def test_progress(past: tuple[Happening, ...], expected: Progress | None) -> None:
    assert after(*past).progress == expected


# Simulation -----------------------------------------------------------------------------------------


def test_what_was_simulated_is_said() -> None:
    answer = after(
        requested(), fetched(simulated=True), packaged(simulated=True), provisioned(simulated=True)
    )
    assert answer.simulated
    assert answer.message == "Serving at http://one. Simulated: fetch, package, provision."


def test_only_what_was_simulated_is_said() -> None:
    answer = after(requested(), fetched(), packaged(), provisioned(simulated=True))
    assert answer.simulated
    assert answer.message.endswith("Simulated: provision.")


def test_a_real_revision_after_a_simulated_one_is_not_called_simulated() -> None:
    answer = after(
        requested(),
        fetched(simulated=True),
        packaged(simulated=True),
        provisioned(simulated=True),
        update_requested(),
        fetched(2),
        packaged(2),
        provisioned(2, "http://two"),
    )
    assert not answer.simulated
    assert "Simulated" not in answer.message


# The fold -------------------------------------------------------------------------------------------


def test_a_fold_in_two_parts_is_the_fold_of_the_whole() -> None:
    past = history(*SERVING, update_requested(), failed(2))
    row = status.fold(past[:3])
    for event in past[3:]:
        row = status.apply(row, event)
    assert row == status.fold(past)


def test_no_history_has_no_status() -> None:
    with pytest.raises(ValueError, match="at least one event"):
        status.fold([])
    with pytest.raises(ValueError, match="does not begin with Requested"):
        status.fold(history(*SERVING)[1:])


def test_every_state_has_a_status() -> None:
    assert set(status._STATUS) == set(State)
