"""No event that a deployment accepts, or that earlier releases stored, parks a read model of ours."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, Phase, settings
from hypothesis import given as for_all
from hypothesis import strategies as st
from pydantic import ValidationError

from deployledger.domain import events
from deployledger.domain.bounds import LARGEST_ROW_BYTES, LARGEST_TAGS_BYTES, LONGEST_LINE, LONGEST_MESSAGE
from deployledger.domain.deployment import Deployment
from deployledger.domain.events import CommandContext
from deployledger.domain.exceptions import MachineLearningServiceError
from deployledger.domain.values import Artifact, Failure, Image
from deployledger.projections import status
from deployledger.projections.history import apply_all
from tests.domain.given import (
    ARTIFACT,
    BATCH_JOB,
    FAILURE,
    IMAGE,
    RUNNING_JOB,
    SERVICE,
    context,
    deletion_requested,
    failed,
    fetched,
    happened,
    history,
    packaged,
    provisioned,
    request,
    requested,
)
from tests.faults.conftest import times
from tests.logs import records_of
from tests.projections.examples import catch_all_up, opened

Act = Callable[[Deployment, CommandContext], None]

LEAST_SETTING = 1024
OURS = ("deployment_status", "deployment_list", "deployment_timeline")

_lengths = st.sampled_from(
    [0, 1, 63, 600, 601, LONGEST_LINE, LONGEST_LINE + 1, LONGEST_MESSAGE + 1, LARGEST_TAGS_BYTES]
)
texts = st.builds(
    lambda character, length: character * length,
    st.sampled_from(["a", '"', "\\", "\0", "\x01", "\x1f", "\n", "é", "\u2028", "\U0001f600", "\ud800"]),
    _lengths,
)
numbers = st.sampled_from([0, -1, 7, (1 << 63) - 1, 1 << 63, -(1 << 63), 10**4000])
values = texts | numbers | st.sampled_from([1e308, float("nan"), True, None]) | st.lists(texts, max_size=2)
tags = st.dictionaries(texts, values | st.dictionaries(texts, values, max_size=2), max_size=2)
moments = st.sampled_from(
    [
        datetime(2026, 3, 3, 12, tzinfo=UTC),
        datetime(2026, 3, 3, 12),
        datetime.max.replace(tzinfo=UTC),
        datetime(9998, 12, 31, 23, tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=-12))),
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    """Return a request, which may have been changed since it was checked."""
    target = draw(st.sampled_from([SERVICE, BATCH_JOB]))
    uris = st.dictionaries(
        st.sampled_from(["serving_image", "instance_type", "input_uri"]), texts, max_size=2
    )
    changes = {"model_uri": draw(texts), "deployment_name": draw(texts), "tags": draw(tags)}
    kept = draw(st.sets(st.sampled_from(sorted(changes)), max_size=1))
    changes = {name: value for name, value in changes.items() if name in kept}
    return request().model_copy(
        update={**changes, "deployment_target_config": target.model_copy(update=draw(uris))}
    )


def acts() -> st.SearchStrategy[Act]:
    """Return commands and results, whose texts and numbers may be anything."""
    artifacts = st.builds(
        lambda **changes: ARTIFACT.model_copy(update=changes),
        resolved_uri=texts,
        model_version=st.none() | texts,
        size_bytes=numbers,
    )
    images = st.builds(
        lambda **changes: IMAGE.model_copy(update=changes), reference=texts, size_bytes=numbers
    )
    failures = st.builds(
        lambda **changes: FAILURE.model_copy(update=changes), message=texts, hint=texts
    )  # as a client may word it
    steps: list[st.SearchStrategy[Act]] = [
        (st.just(ARTIFACT) | artifacts).map(
            lambda value: (
                lambda it, by: it.artifacts_fetched(it.revision.number, value, simulated=True, by=by)
            )
        ),
        (st.just(IMAGE) | images).map(
            lambda value: lambda it, by: it.packaged(it.revision.number, value, simulated=True, by=by)
        ),
        (st.just("http://one") | texts).map(
            lambda value: lambda it, by: it.provisioned(it.revision.number, value, simulated=True, by=by)
        ),
        st.tuples(texts, numbers).map(
            lambda value: lambda it, by: it.completed(it.revision.number, *value, simulated=True, by=by)
        ),
    ]
    others: list[st.SearchStrategy[Act]] = [
        failures.map(lambda value: lambda it, by: it.fail(it.revision.number, value, by=by)),
        requests().map(lambda value: lambda it, by: it.request_update(value, by=by)),
        st.just(lambda it, by: it.request_rollback(1, by=by)),
        st.just(lambda it, by: it.retry(by=by)),
        st.just(lambda it, by: it.cancel(by=by)),
        st.just(lambda it, by: it.request_deletion(by=by)),
        st.just(lambda it, by: it.deleted(simulated=True, by=by)),
    ]
    return st.one_of(*steps, *steps, *others)


def contexts() -> st.SearchStrategy[CommandContext]:
    """Return who commands, and when: most often somebody, at a time that there is."""
    usual = st.builds(context)
    return st.one_of(usual, usual, usual, st.builds(context, actor=texts, at=moments))


def test_no_event_that_a_deployment_accepts_is_parked(database_url: str) -> None:
    with opened(database_url, largest_row=LEAST_SETTING) as models:

        @settings(
            max_examples=times(25, 2000),
            deadline=None,
            phases=(Phase.explicit, Phase.generate),  # to shrink takes minutes with a real database
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @for_all(
            requests(),
            st.just("local") | texts,
            contexts(),
            st.lists(st.tuples(acts(), contexts()), max_size=12),
        )
        def accepts(asked: Any, orchestrator: str, by: CommandContext, commands: list[Any]) -> None:
            try:
                deployment = Deployment.request(uuid4(), asked, orchestrator=orchestrator, by=by)
            except (MachineLearningServiceError, ValidationError):
                deployment = Deployment.request(uuid4(), request(), orchestrator="local", by=context())
            for command, by in commands:
                try:
                    command(deployment, by)
                except (MachineLearningServiceError, ValidationError):
                    continue
            models.log.append(deployment.collect_events())
            catch_all_up(models)
            assert models.parked() == []
            answer = models.get("deployment_status", str(deployment.id))
            assert (answer.state, answer.version) == (deployment.state, deployment.version)
            assert status.respond(answer).model_dump_json()

        accepts()


def test_what_earlier_releases_stored_is_cut_in_the_status(database_url: str) -> None:
    long = "x" * 1_500_000
    artifact = ARTIFACT.model_copy(update={"resolved_uri": long, "model_version": long})
    image = IMAGE.model_copy(update={"reference": long})
    failure = FAILURE.model_copy(update={"message": long, "hint": long})
    naive = datetime(2026, 3, 3, 12)
    one, job = uuid4(), uuid4()
    steps = [fetched(artifact=artifact), packaged(image=image), provisioned(endpoint_url=long)]
    past = history(
        requested(orchestrator=f"\0{long}"),
        *steps,
        deletion_requested(),
        happened(events.DeletionFailed, failure=failure),
        deletion_requested(),
        happened(events.Deleted),
        stream=one,
    )
    past[0] = past[0].model_copy(update={"timestamp": naive})
    with opened(database_url) as models:
        models.log.append(past)
        models.log.append(
            history(*RUNNING_JOB, happened(events.Completed, output_uri=long, rows=1), stream=job)
        )
        catch_all_up(models)
        assert models.parked() == []
        row = models.get("deployment_status", str(one))
        assert (row.state, row.version) == ("deleted", len(past))
        assert "[cut: " in row.artifact.resolved_uri
        assert "[cut: " in models.get("deployment_status", str(job)).output_uri
        listed = models.get("deployment_list", str(one))
        assert (listed.state, listed.created_at) == ("deleted", naive.replace(tzinfo=UTC))
        records = records_of(models.log, streams=[one], metadata=True)
        applied = list(apply_all(records, models.log.decode, largest_row=LEAST_SETTING))
        assert not any(it.is_parked for it in applied)
        rows = [it.row for it in applied]
        assert rows[5] is not None
        assert rows[5].failure is not None
        assert f"of {len(long):,} characters]" in rows[5].failure.message
        assert all(row and len(row.model_dump_json()) <= LARGEST_ROW_BYTES for row in rows)


def test_a_status_says_the_same_of_what_is_within_bounds() -> None:
    failure = Failure(step=FAILURE.step, reason=FAILURE.reason, message="m" * LONGEST_MESSAGE)
    artifact = Artifact(**{**ARTIFACT.model_dump(), "resolved_uri": "u" * LONGEST_LINE})
    image = Image(**{**IMAGE.model_dump(), "reference": "r" * LONGEST_LINE})
    row = status.fold(
        history(requested(), fetched(artifact=artifact), packaged(image=image), failed(failure=failure))
    )
    assert (row.artifact, row.image, row.failure) == (artifact, image, failure)
