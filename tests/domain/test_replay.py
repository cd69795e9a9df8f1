"""Whatever happens to a deployment: its events alone tell it all again."""

from collections.abc import Callable
from typing import Any

from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from deployledger.domain.deployment import Deployment
from deployledger.domain.events import CommandContext, DeploymentEvent
from deployledger.domain.exceptions import MachineLearningServiceError
from deployledger.domain.lifecycle import LIFECYCLE, State
from deployledger.domain.responses import DeploymentStatus
from deployledger.projections import status
from tests.domain.given import (
    ARTIFACT,
    BATCH_JOB,
    DEPLOYMENT_ID,
    FAILURE,
    IMAGE,
    OTHER_ARTIFACT,
    SERVICE,
    context,
    replay,
    request,
)

Act = Callable[[Deployment, CommandContext], None]


def acts() -> st.SearchStrategy[Act]:
    """Return commands, legal or not in the state that they will meet."""
    number = st.integers(0, 3)
    results: list[st.SearchStrategy[Act]] = [
        st.sampled_from([ARTIFACT, OTHER_ARTIFACT]).map(
            lambda artifact: (
                lambda it, by: it.artifacts_fetched(it.revision.number, artifact, simulated=False, by=by)
            )
        ),
        st.booleans().map(
            lambda simulated: (
                lambda it, by: it.packaged(it.revision.number, IMAGE, simulated=simulated, by=by)
            )
        ),
        number.map(
            lambda n: (
                lambda it, by: it.provisioned(
                    it.revision.number, None if it.is_batch_job else f"http://{n}", simulated=False, by=by
                )
            )
        ),
        number.map(
            lambda n: lambda it, by: it.completed(it.revision.number, "out.csv", n, simulated=False, by=by)
        ),
    ]
    others: list[st.SearchStrategy[Act]] = [
        st.just(lambda it, by: it.fail(it.revision.number, FAILURE, by=by)),
        number.map(lambda n: lambda it, by: it.fail(n, FAILURE, by=by)),
        st.sampled_from(["iris", "rose"]).map(
            lambda name: (
                lambda it, by: it.request_update(
                    request(deployment_name=name, deployment_target_config=it.revision.target), by=by
                )
            )
        ),
        number.map(lambda n: lambda it, by: it.request_rollback(n, by=by)),
        st.just(lambda it, by: it.retry(by=by)),
        st.just(lambda it, by: it.cancel(by=by)),
        st.just(lambda it, by: it.request_deletion(by=by)),
        st.just(lambda it, by: it.deleted(simulated=False, by=by)),
    ]
    # Results come more often than not, so that histories get somewhere.
    return st.one_of(*results, *results, *results, *others)


@settings(max_examples=250, deadline=None)
@for_all(target=st.sampled_from([SERVICE, BATCH_JOB]), commands=st.lists(acts(), max_size=30))
def test_the_events_tell_everything(target: Any, commands: list[Act]) -> None:
    live = Deployment.request(
        DEPLOYMENT_ID, request(deployment_target_config=target), orchestrator="local", by=context()
    )
    past = live.collect_events()
    for command in commands:
        before = live.version
        try:
            command(live, context())
        except MachineLearningServiceError:
            assert live.version == before
        caused = live.collect_events()
        assert [event.originator_version for event in caused] == list(range(before + 1, live.version + 1))
        past += caused

    assert vars(replay(past)) == vars(live)
    _status_agrees(live, past)
    for length in range(1, len(past)):  # also at any earlier time
        _status_agrees(replay(past[:length]), past[:length])


def _status_agrees(deployment: Deployment, past: list[DeploymentEvent]) -> None:
    row = status.fold(past)
    revision = deployment.revision
    assert (row.deployment_id, row.version, row.name) == (deployment.id, deployment.version, deployment.name)
    assert (row.state, row.failure) == (deployment.state, deployment.failure)
    assert (row.created_at, row.updated_at) == (deployment.created_on, deployment.modified_on)
    assert (row.revision, row.rollback_to, row.model_uri) == (
        revision.number,
        revision.rollback_to,
        revision.model_uri,
    )
    assert (row.target, row.resources, row.tags) == (revision.target, revision.resources, revision.tags)
    assert (row.serving_revision, row.endpoint_url) == (deployment.serving_revision, deployment.endpoint_url)
    assert row.image == revision.image
    assert row.artifact == revision.artifact or (row.artifact is None and revision.rollback_to is not None)
    assert LIFECYCLE.triggers(row) == LIFECYCLE.triggers(deployment)

    answer = status.respond(row)
    assert (answer.progress is not None) == deployment.is_in_progress
    assert answer.message
    if deployment.state is State.DELETED:
        assert (answer.status, answer.endpoint_url) == (DeploymentStatus.INACTIVE, None)
    if answer.status is DeploymentStatus.CREATING:
        assert answer.endpoint_url is None
    if deployment.is_serving:
        serving = deployment.revisions[deployment.serving_revision or 0]
        assert serving.artifact is not None
        assert answer.deployed_model_version == serving.artifact.resolved_uri
