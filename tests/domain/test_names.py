"""Names of deployments: which are legal, and who holds one."""

from uuid import UUID, uuid4

import pytest
from eventsourcing.domain import OriginatorIDError, OriginatorVersionError

from deployledger.domain.exceptions import ConfigurationError, NameInUseError
from deployledger.domain.names import NameReleased, NameReservation, NameReserved, reservation_id
from tests.domain.given import context, request

IRIS, OTHER = uuid4(), uuid4()


@pytest.mark.parametrize(
    "name",
    ["a", "7", "MyModelAPIService_Prod", "MyModelAPIService_Prod_V2", "iris-v2", "iris.v2", "0_.-", "x" * 63],
)
def test_legal_names(name: str) -> None:
    assert request(deployment_name=name).deployment_name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "x" * 64,
        "-iris",
        ".iris",
        "_iris",
        "iris v2",
        "iris\n",
        "\niris",
        "iris/v2",
        "../iris",
        "írís",
        "iris\u0660",
        "iris\x00",
        "iris:v2",
        "🌸",
    ],
)
def test_illegal_names(name: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        request(deployment_name=name)
    assert "deployment_name: " in refusal.value.message
    assert "is not a legal deployment name: 1 to 63 letters" in refusal.value.message


def test_the_id_of_a_reservation_is_that_of_the_name_for_ever() -> None:
    # Stored in users' databases: were it to change, names in use would be free.
    assert reservation_id("iris") == UUID("f70df2fc-bf41-5162-8842-1bf7e0bdd549")
    assert reservation_id("iris") != reservation_id("Iris")


def test_a_free_name_can_be_reserved() -> None:
    reservation = NameReservation("iris")
    reservation.reserve(IRIS, by=context())
    (event,) = reservation.collect_events()
    assert isinstance(event, NameReserved)
    assert (event.name, event.deployment_id, event.originator_version) == ("iris", IRIS, 1)
    assert event.originator_id == reservation_id("iris")
    assert reservation.holder == IRIS
    assert reservation.collect_events() == []


def test_a_name_in_use_is_refused_with_its_holder_and_what_to_do() -> None:
    reservation = NameReservation("iris")
    reservation.reserve(IRIS, by=context())
    reservation.collect_events()
    with pytest.raises(NameInUseError) as refusal:
        reservation.reserve(OTHER, by=context())
    assert (refusal.value.name, refusal.value.holder, refusal.value.status_code) == ("iris", IRIS, 409)
    assert f"'iris' is in use by deployment {IRIS}" in refusal.value.message
    assert 'version_strategy="update_existing"' in refusal.value.hint
    assert reservation.collect_events() == []


def test_a_released_name_is_free() -> None:
    reservation = NameReservation("iris")
    reservation.reserve(IRIS, by=context())
    reservation.release(IRIS, by=context())
    assert reservation.holder is None
    reservation.reserve(OTHER, by=context())
    assert reservation.holder == OTHER
    assert [type(event) for event in reservation.collect_events()] == [
        NameReserved,
        NameReleased,
        NameReserved,
    ]


def test_only_its_holder_releases_a_name() -> None:
    reservation = NameReservation("iris")
    reservation.release(IRIS, by=context())
    reservation.reserve(IRIS, by=context())
    reservation.release(OTHER, by=context())
    assert reservation.holder == IRIS
    assert len(reservation.collect_events()) == 1


def test_a_reservation_is_rebuilt_from_its_events() -> None:
    reservation = NameReservation("iris")
    reservation.reserve(IRIS, by=context())
    reservation.release(IRIS, by=context())
    reservation.reserve(OTHER, by=context())
    again = NameReservation.replay("iris", reservation.collect_events())
    assert (again.id, again.name, again.version, again.holder) == (reservation.id, "iris", 3, OTHER)


def test_the_events_of_a_reservation_apply_only_in_their_place() -> None:
    reservation = NameReservation("iris")
    reservation.reserve(IRIS, by=context())
    reservation.release(IRIS, by=context())
    reserved, released = reservation.collect_events()
    with pytest.raises(OriginatorVersionError):
        NameReservation.replay("iris", [released])
    with pytest.raises(OriginatorVersionError):
        reservation.apply(reserved)
    with pytest.raises(OriginatorIDError):
        NameReservation.replay("rose", [reserved])
