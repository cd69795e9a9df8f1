"""Deployments as they were: by time, position and revision, on both databases."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.domain.event_log import recorded_at
from deployledger.domain.event_records import RecordedEvent
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.exceptions import (
    ConfigurationError,
    EventLogError,
    NotYetRequestedError,
    ResourceNotFoundError,
    RevisionNotFoundError,
)
from deployledger.domain.moments import AsOf, AtRevision
from deployledger.domain.responses import DeploymentStatusResponse
from deployledger.projections import status
from deployledger.projections.projection import Consistency
from deployledger.projections.read_models import ReadModels
from deployledger.service.listing import answer
from deployledger.service.lookup import holders
from deployledger.service.past import Past
from tests.contracts.reading import page
from tests.domain.given import SERVING, cancelled, history, request, requested
from tests.faults.conftest import times
from tests.projections.examples import append_some_undecodable, append_undecodable, empty, histories, opened
from tests.projections.test_replaying import by_hand
from tests.service.conftest import OpenService

WAIT = 60
TICK = timedelta(microseconds=1)
SETTINGS = settings(
    max_examples=times(12, 500),
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # to shrink takes minutes with a real database
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


# Every moment of any history ------------------------------------------------------------------------


def past_of(models: ReadModels) -> Past:
    return Past(models.log, models.largest_row, lambda: datetime.now(UTC))


def folded(recorded: Sequence[RecordedEvent], stream: UUID) -> DeploymentStatusResponse | None:
    """Return the answer after the events of one deployment among some, in the simplest way."""
    past = [
        it.event
        for it in recorded
        if isinstance(it.event, DeploymentEvent) and it.event.originator_id == stream
    ]
    return status.respond(status.fold(past)) if past else None


def assert_was(past: Past, stream: UUID, moment: AsOf, expected: DeploymentStatusResponse | None) -> None:
    if expected is None:
        with pytest.raises(NotYetRequestedError):
            past.status(stream, moment)
        return
    found = past.status(stream, moment)
    assert found.model_copy(update={"position": None}) == expected, moment


@SETTINGS
@given(history=histories(), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_every_moment_is_the_fold_of_what_was_recorded_by_then(
    history: list[DeploymentEvent], sizes: list[int], database_url: str
) -> None:
    empty(database_url)
    with opened(database_url) as models:
        left, number = history, 0
        while left:  # what is appended at once is recorded at the same time
            size = sizes[number % len(sizes)]
            models.log.append(left[:size])
            left, number = left[size:], number + 1
        past, recorded = past_of(models), page(models.log)
        recorded_at = {it.recorded_at for it in recorded}
        for stream in {it.originator_id for it in history}:
            for position in range(1, len(recorded) + 1):
                expected = folded(recorded[:position], stream)
                assert_was(past, stream, position, expected)
                if expected is not None:
                    assert past.status(stream, position).position == position
            for moment in sorted({*recorded_at, *(it - TICK for it in recorded_at)}):
                by_then = [it for it in recorded if it.recorded_at <= moment]
                assert_was(past, stream, moment, folded(by_then, stream))
            newest = past.status(stream, len(recorded)).revision
            for revision in range(1, newest + 1):
                own = [it for it in recorded if it.event.originator_id == stream]
                prefix = [
                    it
                    for it in own
                    if isinstance(it.event, DeploymentEvent) and it.event.revision <= revision
                ]
                assert_was(past, stream, AtRevision(revision), folded(prefix, stream))
                assert past.status(stream, AtRevision(revision)).position == prefix[-1].position


@SETTINGS
@given(data=st.data(), history=histories(deployments=3, longest=25))
def test_events_that_cannot_be_applied_count_as_in_the_status_of_now(
    data: st.DataObject, history: list[DeploymentEvent], database_url: str
) -> None:
    empty(database_url)
    undecodable = {it.event_id for it in history if data.draw(st.integers(0, 5)) == 0}
    with opened(database_url) as models:
        past = past_of(models)
        for event in history:
            append_some_undecodable(models.log, [event], undecodable)
            end = models.log.position()
            live = models.find(models.projection("deployment_status"), str(event.originator_id)).row
            assert live is not None
            if live.state is None:
                with pytest.raises(EventLogError, match="cannot be shown"):
                    past.status(event.originator_id, end)
            else:
                expected = answer(models, live).model_copy(update={"position": end})
                assert past.status(event.originator_id, end) == expected


# What is asked for ----------------------------------------------------------------------------------


async def two_revisions(service: MLModelDeploymentService, **changes: Any) -> DeploymentStatusResponse:
    """Deploy and update; both revisions serve, one after the other."""
    first = await service.deploy_model(request(**changes))
    await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
    new = request(**{**changes, "model_uri": "models:/iris/2", "tags": {"team": "fauna"}})
    await service.update_deployment(first.deployment_id, new)
    return await service.wait_for_deployment(first.deployment_id, timeout=WAIT)


async def test_a_moment_may_be_given_in_every_way(service: MLModelDeploymentService) -> None:
    now = await two_revisions(service)
    entries = await service.get_deployment_history(now.deployment_id)
    fourth = entries[3]
    by_revision = await service.get_deployment_status(now.deployment_id, as_of=AtRevision(1))
    assert (by_revision.revision, by_revision.status, by_revision.version) == (1, "active", 4)
    assert by_revision.model_uri == "models:/iris/1"
    assert by_revision.position == fourth.position
    for moment in (
        "r1",
        "revision:1",
        fourth.position,
        str(fourth.position),
        fourth.recorded_at,
        fourth.recorded_at.isoformat(),
        entries[4].recorded_at - TICK,
    ):
        assert await service.get_deployment_status(now.deployment_id, as_of=moment) == by_revision, moment
    in_between = await service.get_deployment_status(now.deployment_id, as_of=entries[1].position)
    assert in_between.progress is not None
    assert (in_between.progress.step, in_between.progress.done) == ("package", None)
    latest = await service.get_deployment_status(now.deployment_id, as_of="r2")
    assert latest == now.model_copy(update={"position": entries[-1].position})
    found = await service.find_deployment("iris", as_of="r1")
    assert found == by_revision


async def test_before_it_began(service: MLModelDeploymentService) -> None:
    await service.deploy_model(request(deployment_name="other"))
    iris = await two_revisions(service)
    began = (await service.get_deployment_history(iris.deployment_id))[0]
    assert began.position > 1
    for moment in (began.position - 1, began.recorded_at - TICK, "2001-01-01T00:00Z"):
        with pytest.raises(NotYetRequestedError) as refusal:
            await service.get_deployment_status(iris.deployment_id, as_of=moment)
        assert refusal.value.status_code == 404
        assert (refusal.value.position, refusal.value.began_at) == (began.position, began.recorded_at)
        assert f"position {began.position}" in refusal.value.message
        assert f"{began.recorded_at:%Y-%m-%dT%H:%M:%S}" in refusal.value.message


async def test_what_is_no_moment_of_the_past(service: MLModelDeploymentService) -> None:
    now = await two_revisions(service)
    end = service.event_log.position()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    cases: list[tuple[Any, type[Exception], Sequence[str]]] = [
        (
            tomorrow,
            ConfigurationError,
            [f"{tomorrow:%Y-%m-%dT%H:%M}", "in the future", f"{now.updated_at:%Y}"],
        ),
        (end + 1, ConfigurationError, [f"no position {end + 1}", f"ends at position {end}"]),
        (2**63 - 1, ConfigurationError, [f"ends at position {end}"]),
        ("r3", RevisionNotFoundError, ["'iris' has no revision 3", "1 to 2"]),
        (AtRevision(99), RevisionNotFoundError, ["no revision 99"]),
        (datetime(2026, 3, 3), ConfigurationError, ["has no time zone"]),
        ("2026-03-03T12:00", ConfigurationError, ["'2026-03-03T12:00' has no time zone"]),
        ("last week", ConfigurationError, ["'last week'"]),
        (0, ConfigurationError, ["no position 0"]),
        (True, ConfigurationError, ["True"]),
        (1.5, ConfigurationError, ["1.5"]),
        (AtRevision(0), ConfigurationError, ["no revision 0"]),
    ]
    for moment, error, said in cases:
        with pytest.raises(error) as refusal:
            await service.get_deployment_status(now.deployment_id, as_of=moment)
        assert all(it in str(refusal.value) for it in said), (moment, str(refusal.value))
        for arguments in ((moment, None), (None, moment)):
            with pytest.raises(error):
                await service.diff_deployment(now.deployment_id, *arguments)


async def test_what_was_is_not_asked_for_as_it_is_at_hand(service: MLModelDeploymentService) -> None:
    now = await two_revisions(service)
    for consistency in (Consistency.EVENTUAL, "eventual", "never"):
        with pytest.raises(ConfigurationError, match="contradict each other"):
            await service.get_deployment_status(now.deployment_id, consistency=consistency, as_of="r1")


async def test_nobody_had_a_past(service: MLModelDeploymentService) -> None:
    await two_revisions(service)
    names = [it.event.originator_id for it in page(service.event_log) if "name" in it.event.TOPIC]
    for unknown in (uuid4(), names[0]):
        for moment in (1, "r1", datetime.now(UTC)):
            with pytest.raises(ResourceNotFoundError, match="was not found"):
                await service.get_deployment_status(unknown, as_of=moment)
        with pytest.raises(ResourceNotFoundError, match="was not found"):
            await service.get_deployment_history(unknown)
        with pytest.raises(ResourceNotFoundError, match="was not found"):
            await service.diff_deployment(unknown)
    no_id: Any = "iris"
    for call in (
        service.get_deployment_status(no_id, as_of=1),
        service.get_deployment_history(no_id),
        service.diff_deployment(no_id, 1, 2),
    ):
        with pytest.raises(ConfigurationError, match=r"uuid\.UUID"):
            await call


def test_a_time_that_has_not_quite_come_is_waited_for(database_url: str) -> None:
    with opened(database_url) as models:
        stream, log = uuid4(), models.log
        log.append(history(requested(), stream=stream))
        by_hand(database_url, f"UPDATE @events SET recorded_at = recorded_at + {_A_WHILE[database_url[:6]]}")
        moment = recorded_at(log, 1)
        assert moment is not None
        assert moment > datetime.now(UTC)
        first = past_of(models).status(stream, moment)
        log.append([cancelled()(stream, 2)])
        assert past_of(models).status(stream, moment) == first
        assert log.position_at(moment) == 1


_A_WHILE = {"sqlite": "500000", "postgr": "interval '0.5 seconds'"}


def test_the_clock_of_the_log_may_be_ahead_of_ours(database_url: str) -> None:
    with opened(database_url) as models:
        stream = uuid4()
        models.log.append(history(*SERVING, stream=stream))
        last = page(models.log)[-1].recorded_at
        past = Past(models.log, models.largest_row, lambda: last - timedelta(hours=1))
        assert past.status(stream, last).version == 4
        with pytest.raises(ConfigurationError, match="in the future"):
            past.status(stream, last + TICK)


# Names ----------------------------------------------------------------------------------------------


async def test_a_name_means_who_had_it_then(service: MLModelDeploymentService) -> None:
    first = await two_revisions(service)
    had_it = service.event_log.position()
    await service.update_deployment(first.deployment_id, request(deployment_name="rose"))
    await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
    nobody = service.event_log.position()
    second = await service.deploy_model(request())
    await service.wait_for_deployment(second.deployment_id, timeout=WAIT)

    async def found(name: str, as_of: AsOf | str | None) -> tuple[UUID, str]:
        status = await service.find_deployment(name, as_of=as_of)
        return status.deployment_id, status.deployment_name

    assert await found("iris", None) == (second.deployment_id, "iris")
    assert await found("iris", had_it) == (first.deployment_id, "iris")
    assert await found("iris", nobody) == (first.deployment_id, "rose")  # who had it last
    assert await found("rose", nobody) == (first.deployment_id, "rose")
    assert await found("rose", had_it) == (first.deployment_id, "iris")  # nobody had it: who has it now
    assert await found("rose", "r1") == (first.deployment_id, "iris")
    assert await found(str(first.deployment_id)[:8], had_it) == (first.deployment_id, "iris")
    for reference in ("nobody", "", "\0", "\udc80"):
        with pytest.raises(ResourceNotFoundError):
            await service.find_deployment(reference, as_of=had_it)


async def test_a_name_that_was_given_up_is_still_found(service: MLModelDeploymentService) -> None:
    first = await two_revisions(service)
    await service.update_deployment(first.deployment_id, request(deployment_name="rose"))
    await service.wait_for_deployment(first.deployment_id, timeout=WAIT)
    assert await service.find_deployment_id("iris") == first.deployment_id
    assert (await service.find_deployment("iris", as_of="r1")).deployment_name == "iris"
    second = await service.deploy_model(request())
    await service.wait_for_deployment(second.deployment_id, timeout=WAIT)
    assert await service.find_deployment_id("iris") == second.deployment_id
    assert holders("iris", service.event_log) == [first.deployment_id, second.deployment_id]
    assert holders("nobody", service.event_log) == holders("\0", service.event_log) == []


# Differences ----------------------------------------------------------------------------------------


async def test_two_moments_are_compared(service: MLModelDeploymentService) -> None:
    now = await two_revisions(service)
    history = await service.get_deployment_history(now.deployment_id)
    found = await service.diff_deployment(now.deployment_id)
    assert (found.deployment_id, found.deployment_name) == (now.deployment_id, "iris")
    assert (found.before.asked_for, found.before.position) == ("revision 1", history[3].position)
    assert found.before.recorded_at == history[3].recorded_at
    assert (found.after.asked_for, found.after.position, found.after.revision) == (
        "now",
        history[-1].position,
        2,
    )
    changes = {it.field: (it.before, it.after) for it in found.changes}
    assert changes["model_uri"] == ("models:/iris/1", "models:/iris/2")
    assert changes["revision"] == (1, 2)
    assert changes["tags.team"] == ("flora", "fauna")
    assert not {"version", "updated_at", "message", "state", "status"} & set(changes)
    assert found == await service.diff_deployment(now.deployment_id, "r1")

    back = await service.diff_deployment(now.deployment_id, "r2", "r1")
    assert {it.field: (it.after, it.before) for it in back.changes} == changes
    same = await service.diff_deployment(now.deployment_id, history[3].position, history[3].recorded_at)
    assert same.changes == []
    begun = await service.diff_deployment(now.deployment_id, history[0].position, "r1")
    assert {it.field for it in begun.changes} >= {"state", "status", "endpoint_url", "artifact_digest"}


async def test_the_first_revision_has_none_before_it(service: MLModelDeploymentService) -> None:
    first = await service.deploy_model(request())
    with pytest.raises(ConfigurationError, match="no revision before") as refusal:
        await service.diff_deployment(first.deployment_id)
    assert "--from" in refusal.value.hint
    now = await two_revisions(service, deployment_name="rose")
    with pytest.raises(ConfigurationError, match="no revision before"):
        await service.diff_deployment(now.deployment_id, to="r1")


# Undecodable events ---------------------------------------------------------------------------------


async def test_the_history_of_events_that_do_not_decode(open_service: OpenService) -> None:
    service = open_service(run_jobs=False, actor="ann")
    stream, hopeless = uuid4(), uuid4()
    async with service:
        await asyncio.to_thread(service.event_log.append, history(requested(), stream=stream))
        await asyncio.to_thread(append_undecodable, service.event_log, stream, 2)
        begun = requested()(hopeless, 1)
        await asyncio.to_thread(append_some_undecodable, service.event_log, [begun], {begun.event_id})
        first, second = await service.get_deployment_history(stream)
        assert (first.error, second.event) == ("", "ArtifactsFetched")
        assert "does not decode" in second.error
        assert [it.event for it in await service.get_deployment_history(hopeless)] == ["Requested"]
        assert await service.find_deployment_id(str(hopeless)) == hopeless
        now = await service.get_deployment_status(stream)
        assert (await service.get_deployment_status(stream, as_of=2)).message == now.message


# Actors ---------------------------------------------------------------------------------------------

Command = Callable[[MLModelDeploymentService, UUID, str], Any]
COMMANDS: dict[str, Command] = {
    "update": lambda service, it, who: service.update_deployment(it, request(), actor=who),
    "rollback": lambda service, it, who: service.rollback_deployment(it, 1, actor=who),
    "cancel": lambda service, it, who: service.cancel_deployment(it, actor=who),
    "retry": lambda service, it, who: service.retry_deployment(it, actor=who),
    "delete": lambda service, it, who: service.delete_deployment(it, actor=who),
}


async def test_every_command_may_be_given_for_somebody_else(service: MLModelDeploymentService) -> None:
    first = await service.deploy_model(request(), actor="deploy@example.org")
    iris = first.deployment_id
    await service.wait_for_deployment(iris, timeout=WAIT)
    await COMMANDS["update"](service, iris, "update@example.org")
    await service.wait_for_deployment(iris, timeout=WAIT)
    await COMMANDS["rollback"](service, iris, "rollback@example.org")
    await service.wait_for_deployment(iris, timeout=WAIT)
    await COMMANDS["delete"](service, iris, "delete@example.org")
    await service.wait_for_deployment(iris, timeout=WAIT)
    given = [it for it in await service.get_deployment_history(iris) if it.actor != "deployledger"]
    assert [it.actor.partition("@")[0] for it in given] == ["deploy", "update", "rollback", "delete"]
    reserved = next(
        it.event for it in page(service.event_log) if it.event.TOPIC == "deployment_name.reserved"
    )
    assert reserved.actor == "deploy@example.org"


async def test_cancel_and_retry_for_somebody_else(open_service: OpenService) -> None:
    service = open_service(run_jobs=False, actor="ann")
    first = await service.deploy_model(request())
    await COMMANDS["cancel"](service, first.deployment_id, "ben")
    await COMMANDS["retry"](service, first.deployment_id, "eve")
    assert [it.actor for it in await service.get_deployment_history(first.deployment_id)] == [
        "ann",
        "ben",
        "eve",
    ]


async def test_an_actor_is_one_line_of_text(open_service: OpenService) -> None:
    service = open_service(run_jobs=False, actor="ann")
    first = await service.deploy_model(request())
    bad: list[Any] = ["", " ", "a\nb", "\0", "x" * 3000, 7]
    for actor in bad:
        with pytest.raises(ConfigurationError, match="The actor is invalid") as refusal:
            await service.deploy_model(request(deployment_name="rose"), actor=actor)
        assert "Value error" not in refusal.value.message
        for command in COMMANDS.values():
            with pytest.raises(ConfigurationError, match="The actor is invalid"):
                await command(service, first.deployment_id, actor)
    assert len(page(service.event_log)) == 2
