"""Which deployment a name, an id or the beginning of an id means, to questions and to commands."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.read_models import open_read_models
from deployledger.domain.deployment import Deployment
from deployledger.domain.exceptions import ConfigurationError, ResourceNotFoundError
from deployledger.domain.names import NameReservation, reservation_id
from deployledger.projections.read_models import ReadModels
from deployledger.service.lookup import find, find_to_change
from deployledger.service.repository import Repository
from tests.domain.given import context, request

FIRST = UUID("deadbeef-0000-4000-8000-000000000001")
SECOND = UUID("cafe0000-0000-4000-8000-000000000002")


class Given:
    """A log to which deployments are added with ids and names of the test's choice."""

    def __init__(self, log: DatabaseEventLog, models: ReadModels) -> None:
        self.repository = Repository(log)
        self.models = models

    def deployment(self, deployment_id: UUID, name: str) -> None:
        """Add a deployment, as an earlier release did it: its name may also be an id."""
        deployment = Deployment.request(deployment_id, request(), orchestrator="simulated", by=context())
        (requested,) = deployment.collect_events()
        reservation = self.repository.reservation(name)
        reservation.reserve(deployment_id, by=context())
        named = requested.model_copy(update={"name": name})
        self.repository.log.append([named, *reservation.collect_events()])

    def renamed(self, deployment_id: UUID, name: str) -> None:
        deployment = self.repository.deployment(deployment_id)
        before = deployment.name
        deployment.request_update(request(deployment_name=name), by=context())
        self._save(deployment, reserve=name, release=before)

    def deleted(self, deployment_id: UUID) -> None:
        deployment = self.repository.deployment(deployment_id)
        deployment.request_deletion(by=context())
        deployment.deleted(simulated=True, by=context())
        self._save(deployment, release=deployment.name)

    def _save(self, deployment: Deployment, *, reserve: str | None = None, release: str) -> None:
        released = self.repository.reservation(release)
        released.release(deployment.id, by=context())
        reservations: list[NameReservation] = [released]
        if reserve is not None:
            taken = self.repository.reservation(reserve)
            taken.reserve(deployment.id, by=context())
            reservations.append(taken)
        self.repository.save(deployment, *reservations)

    def find(self, reference: str) -> UUID:
        return find(reference, self.repository, self.models)

    def find_to_change(self, reference: str) -> UUID:
        return find_to_change(reference, self.repository, self.models)


@pytest.fixture
def given(database_url: str) -> Iterator[Given]:
    log = open_event_log(database_url, create=True)
    models = open_read_models(log)
    yield Given(log, models)
    models.store.close()
    log.close()


def test_a_whole_id_wins_over_the_name_of_another_deployment(given: Given) -> None:
    given.deployment(FIRST, "prod")
    for spelling in (str(FIRST), str(FIRST).upper(), FIRST.hex):
        given.deployment(uuid4(), spelling)
        assert given.find(spelling) == given.find_to_change(spelling) == FIRST


def test_a_name_that_looks_like_an_id_still_finds_its_deployment(given: Given) -> None:
    name = str(uuid4())
    given.deployment(FIRST, name)
    assert given.find(name) == given.find_to_change(name) == FIRST


def test_the_id_of_the_stream_of_a_name_is_no_deployment(given: Given) -> None:
    given.deployment(FIRST, "prod")
    name = str(reservation_id("prod"))
    given.deployment(SECOND, name)
    assert given.find(name) == SECOND


def test_a_name_that_begins_an_id_answers_queries_but_no_command(
    given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    given.deployment(FIRST, "prod")
    given.deployment(SECOND, "deadbeef")
    assert given.find("deadbeef") == SECOND
    (said,) = caplog.messages
    assert f"the name of deployment {SECOND}; the id of deployment {FIRST} begins with it" in said
    caplog.clear()
    assert given.find("prod") == given.find(str(FIRST)) == FIRST
    assert given.find(str(SECOND)) == SECOND
    assert not caplog.messages
    with pytest.raises(ConfigurationError) as refusal:
        given.find_to_change("deadbeef")
    assert f"is the name of deployment {SECOND}, and the id of deployment {FIRST}" in refusal.value.message
    assert given.find_to_change(str(FIRST)) == FIRST
    assert given.find_to_change(str(SECOND)) == SECOND
    assert given.find_to_change("prod") == FIRST


def test_a_name_takes_commands_though_a_deleted_id_begins_so(given: Given) -> None:
    given.deployment(FIRST, "prod")
    given.deployment(SECOND, "deadbeef")
    given.deleted(FIRST)
    assert given.find_to_change("deadbeef") == SECOND


def test_a_deployment_may_be_called_as_its_own_id_begins(given: Given) -> None:
    given.deployment(FIRST, "deadbeef")
    assert given.find("deadbeef") == given.find_to_change("deadbeef") == FIRST


def test_a_former_name_answers_questions_but_takes_no_command(given: Given) -> None:
    given.deployment(FIRST, "prod")
    given.renamed(FIRST, "legacy")
    assert given.find("prod") == FIRST
    with pytest.raises(ResourceNotFoundError) as refusal:
        given.find_to_change("prod")
    assert "is now called 'legacy'" in refusal.value.hint


def test_a_former_name_that_begins_another_id_takes_no_command(given: Given) -> None:
    given.deployment(SECOND, "deadbeef")
    given.renamed(SECOND, "legacy")
    given.deployment(FIRST, "prod")
    assert given.find("deadbeef") == SECOND
    with pytest.raises(ConfigurationError, match="was the name of deployment"):
        given.find_to_change("deadbeef")


def test_the_name_of_a_deleted_deployment_means_it_until_it_is_taken(given: Given) -> None:
    given.deployment(FIRST, "prod")
    given.deleted(FIRST)
    assert given.find("prod") == given.find_to_change("prod") == FIRST
    given.deployment(SECOND, "prod")
    assert given.find("prod") == given.find_to_change("prod") == SECOND


def test_the_beginning_of_one_id_takes_commands_and_of_two_does_not(given: Given) -> None:
    given.deployment(FIRST, "prod")
    assert given.find_to_change("DEADbeef") == FIRST
    given.deployment(UUID("deadbeef-0000-4000-8000-000000000009"), "test")
    for finding in (given.find, given.find_to_change):
        with pytest.raises(ConfigurationError, match="2 deployments have an id"):
            finding("deadbeef")
    for reference in ("dea", "", "\0", "\udc80", "nobody"):
        with pytest.raises(ResourceNotFoundError):
            given.find_to_change(reference)


async def test_a_whole_id_wins_over_a_name_of_the_past(database_url: str) -> None:
    async with MLModelDeploymentService(database_url=database_url, create_schema=True) as service:
        given = Given(service.event_log, service.read_models)  # type: ignore[arg-type]  # it is one
        given.deployment(FIRST, "prod")
        given.deployment(SECOND, str(FIRST))
        now = service.event_log.position()
        assert (await service.find_deployment(str(FIRST), as_of=now)).deployment_id == FIRST
        assert (await service.find_deployment("prod", as_of=now)).deployment_id == FIRST
