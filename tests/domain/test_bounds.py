"""Whatever a deployment accepts has a bound: requests are refused, messages cut, names of clients fail."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from deployledger.adapters.event_log.mapper import EventMapper
from deployledger.domain.bounds import (
    LARGEST_EVENT_BYTES,
    LARGEST_ROW_BYTES,
    LARGEST_TAGS_BYTES,
    LONGEST_LINE,
    LONGEST_MESSAGE,
    bounded,
)
from deployledger.domain.deployment import Deployment
from deployledger.domain.events import DeploymentEvent, Failed
from deployledger.domain.exceptions import ConfigurationError, DeploymentError
from deployledger.domain.redaction import storable
from deployledger.domain.requests import DeploymentTargetConfig, ResourceConfig
from deployledger.projections import status
from deployledger.projections.status import DEPLOYMENT_STATUS
from tests.domain.given import (
    ARTIFACT,
    BATCH_JOB,
    DEPLOYMENT_ID,
    FAILURE,
    IMAGE,
    RUNNING_JOB,
    SERVING,
    Command,
    context,
    fetched,
    given,
    packaged,
    request,
    requested,
)

LONG = "x" * (LONGEST_LINE + 1)
WIDE = "\U0001f600" * LONGEST_LINE  # four bytes a character
ESCAPED = "\x01" * LONGEST_LINE  # six bytes a character in JSON


@pytest.mark.parametrize("length", [0, 1, LONGEST_MESSAGE])
def test_a_text_within_its_bound_is_left_as_it_is(length: int) -> None:
    assert bounded("x" * length) == "x" * length


@pytest.mark.parametrize("length", [LONGEST_MESSAGE + 1, 10_000, 1_250_000])
def test_a_long_text_keeps_both_ends_and_says_how_much_is_cut(length: int) -> None:
    text = f"begins{'x' * (length - 10)}ends"
    cut = bounded(text)
    assert len(cut) <= LONGEST_MESSAGE
    assert cut.startswith("begins")
    assert cut.endswith("ends")
    begin, end = cut.split("… [cut: ")[0], cut.split(" characters] …")[1]
    number, _, of = cut.removeprefix(begin).removesuffix(end).split()[2:5]
    assert int(number.replace(",", "")) == length - len(begin) - len(end)
    assert int(of.replace(",", "")) == length
    assert bounded(cut) == cut


def test_a_message_is_cut_after_credentials_are_masked() -> None:
    message = f"{'x' * (LONGEST_MESSAGE - 10)} postgresql://ann:s3cret-of-ann@db/{'y' * 100}"
    assert "s3cret" not in storable(message)
    assert len(storable("\ud800" * LONGEST_MESSAGE)) <= LONGEST_MESSAGE


def _fetch(**changes: Any) -> Command:
    artifact = ARTIFACT.model_copy(update=changes)
    return lambda it, by: it.artifacts_fetched(1, artifact, simulated=False, by=by)


def _package(**changes: Any) -> Command:
    image = IMAGE.model_copy(update=changes)
    return lambda it, by: it.packaged(1, image, simulated=False, by=by)


def _provision(endpoint_url: str) -> Command:
    return lambda it, by: it.provisioned(1, endpoint_url, simulated=False, by=by)


def _complete(output_uri: str, rows: int) -> Command:
    return lambda it, by: it.completed(1, output_uri, rows, simulated=False, by=by)


@pytest.mark.parametrize(
    ("past", "command", "says"),
    [
        (
            [requested()],
            _fetch(resolved_uri=LONG),
            "artifact.resolved_uri has 2,049 characters; at most 2,048",
        ),
        ([requested()], _fetch(resolved_uri="a\0b"), "artifact.resolved_uri has a NUL character"),
        ([requested()], _fetch(model_version=LONG), "artifact.model_version has 2,049 characters"),
        ([requested()], _fetch(model_version="\ud800"), "artifact.model_version is not Unicode text"),
        ([requested()], _fetch(size_bytes=1 << 63), "artifact.size_bytes does not fit in 64 bits"),
        ([requested()], _fetch(file_count=10**4000), "artifact.file_count does not fit in 64 bits"),
        ([requested(), fetched()], _package(reference=LONG), "image.reference has 2,049 characters"),
        ([requested(), fetched()], _package(size_bytes=-(1 << 63)), "image.size_bytes does not fit"),
        ([requested(), fetched(), packaged()], _provision(LONG), "endpoint_url has 2,049 characters"),
        ([requested(), fetched(), packaged()], _provision("http://\udc80"), "endpoint_url is not Unicode"),
        (RUNNING_JOB, _complete(LONG, 1), "output_uri has 2,049 characters"),
        (RUNNING_JOB, _complete("out.csv", 1 << 64), "rows does not fit in 64 bits"),
    ],
)
def test_what_a_client_names_is_never_cut_but_refused(past: Any, command: Command, says: str) -> None:
    given(*past).when(command).then_refused(DeploymentError, says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_uri": LONG}, "model_uri: String should have at most 2048 characters"),
        (
            {"tags": {"note": "x" * LARGEST_TAGS_BYTES}},
            "tags: they take 65,548 bytes as JSON; at most 65,536",
        ),
        ({"tags": {"note": float("nan")}}, "tags: they are not JSON"),
        ({"tags": {"note": 10**5000}}, "tags: they are not JSON"),
        (
            {"deployment_target_config": BATCH_JOB.model_copy(update={"input_uri": LONG})},
            "input_uri: String should have at most 2048",
        ),
    ],
    ids=lambda it: "" if isinstance(it, str) else next(iter(it)),
)
def test_a_request_that_was_changed_after_it_was_checked_is_checked_again(
    changes: dict[str, Any], says: str
) -> None:
    changed = request().model_copy(update=changes)
    with pytest.raises(ConfigurationError, match="Invalid request: ") as refused:
        Deployment.request(DEPLOYMENT_ID, changed, orchestrator="local", by=context())
    assert says in str(refused.value)
    if "deployment_target_config" not in changes:
        given(*SERVING).when(lambda it, by: it.request_update(changed, by=by)).then_refused(
            ConfigurationError, says
        )


@pytest.mark.parametrize("field", ["serving_image", "instance_type", "input_uri", "output_uri"])
def test_a_request_over_a_bound_is_refused_naming_field_and_bound(field: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{field}: .*2048 characters"):
        DeploymentTargetConfig(type="api_service", **{field: LONG})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("at", "says"),
    [
        (datetime(2026, 3, 3, 12), "no time zone"),
        (datetime.max.replace(tzinfo=UTC), "in the years 1970 to 9998"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), "in the years 1970 to 9998"),
    ],
)
def test_a_clock_that_tells_no_time_is_refused(at: datetime, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Deployment.request(DEPLOYMENT_ID, request(), orchestrator="local", by=context(at=at))


@pytest.mark.parametrize("name", [LONG, "a\0b"])
def test_names_of_the_service_itself_have_a_bound(name: str) -> None:
    with pytest.raises(ConfigurationError, match="orchestrator has"):
        Deployment.request(DEPLOYMENT_ID, request(), orchestrator=name, by=context())
    with pytest.raises(ConfigurationError, match="actor has"):
        Deployment.request(DEPLOYMENT_ID, request(), orchestrator="local", by=context(actor=name))


def test_a_failure_is_always_recorded() -> None:
    failure = FAILURE.model_copy(update={"message": "\x01" * 200_000, "hint": "é" * 200_000})
    failed = given(requested()).when(lambda it, by: it.fail(1, failure, by=by)).then(Failed)
    assert failed.failure is not None
    assert "of 200,000 characters]" in failed.failure.message
    assert "of 200,000 characters]" in failed.failure.hint


def test_events_and_rows_at_every_bound_have_the_documented_size() -> None:
    """Nothing that a deployment accepts makes an event, or a status, that is larger than may be."""
    target = BATCH_JOB.model_copy(
        update=dict.fromkeys(("serving_image", "instance_type", "input_uri", "output_uri"), WIDE)
    )
    for note in ("\x01" * ((LARGEST_TAGS_BYTES - 11) // 6), '"' * ((LARGEST_TAGS_BYTES - 11) // 2)):
        largest = request(
            model_uri=WIDE,
            deployment_name="n" * 63,
            tags={"n": note},
            deployment_target_config=target.model_copy(update={"type": "api_service"}),
        )
        deployment = Deployment.request(DEPLOYMENT_ID, largest, orchestrator=ESCAPED, by=context(ESCAPED))
        artifact = ARTIFACT.model_copy(update={"resolved_uri": ESCAPED, "model_version": ESCAPED})
        image = IMAGE.model_copy(update={"reference": ESCAPED})
        failure = FAILURE.model_copy(update={"message": "\x01" * 10**5, "hint": "\x01" * 10**5})
        past: list[DeploymentEvent] = []
        for revision in (1, 2):
            deployment.artifacts_fetched(revision, artifact, simulated=True, by=context(ESCAPED))
            deployment.packaged(revision, image, simulated=True, by=context(ESCAPED))
            if revision == 1:
                deployment.provisioned(revision, ESCAPED, simulated=True, by=context(ESCAPED))
                deployment.request_update(largest, by=context(ESCAPED))
        deployment.fail(2, failure, by=context(ESCAPED))
        past += deployment.collect_events()
        assert max(len(EventMapper().encode(event)) for event in past) <= LARGEST_EVENT_BYTES
        row = status.fold(past)
        assert len(DEPLOYMENT_STATUS.encode(row)[1]) <= LARGEST_ROW_BYTES == DEPLOYMENT_STATUS.row_bytes


@pytest.mark.parametrize(
    "refused",
    [lambda: request(deployment_name="n" * 1_000_000), lambda: ResourceConfig(cpu_request="1x" * 500_000)],
)
def test_the_error_for_a_long_value_does_not_repeat_all_of_it(refused: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match="characters") as error:
        refused()
    assert len(str(error.value)) < 1_000
