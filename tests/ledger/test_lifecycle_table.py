"""What the table takes for legal is what the domain does."""

from uuid import UUID, uuid4

from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from deployledger.adapters.event_log.mapper import EventMapper
from deployledger.audit.lifecycle_table import ILLEGAL, UNKNOWN, lifecycle_table
from deployledger.domain import events
from deployledger.domain.deployment import Deployment
from deployledger.domain.events import DeploymentEvent, Event
from deployledger.domain.exceptions import IllegalTransitionError
from deployledger.domain.lifecycle import LIFECYCLE, State
from deployledger.domain.names import NameReleased, NameReservation, NameReserved
from tests.domain.given import (
    BATCH_JOB,
    DEPLOYMENT_ID,
    FAILURE,
    SERVICE,
    Happening,
    cancelled,
    deletion_requested,
    failed,
    fetched,
    happened,
    new_id,
    packaged,
    provisioned,
    requested,
    update_requested,
)

RESULTS: list[Happening] = [
    fetched(),
    packaged(),
    provisioned(),
    happened(events.Completed, output_uri="out.csv", rows=1),
]
OTHERS: list[Happening] = [
    failed(),
    cancelled(),
    deletion_requested(),
    happened(events.RetryRequested, attempt=2),
    happened(events.DeletionFailed, failure=FAILURE),
    happened(events.Deleted),
    requested(),
]
_ENCODER = EventMapper()


def symbol(event: Event) -> int:
    return lifecycle_table().symbol(event.TOPIC, _ENCODER.encode(event))


def choose(deployment: Deployment, target: object, is_legal: bool, number: int) -> Happening:
    """Return what happens next: anything, or what the lifecycle allows, so that histories get somewhere."""
    pool = [*RESULTS, *OTHERS, update_requested(target=target)]
    if is_legal:
        pool = [it for it in pool if _is_allowed(deployment, it)] or pool
    return pool[number % len(pool)]


def _is_allowed(deployment: Deployment, happening: Happening) -> bool:
    event = happening(DEPLOYMENT_ID, deployment.version + 1)
    if isinstance(event, events.Requested):  # it can only be the first
        return False
    return LIFECYCLE.next_state(deployment, event.trigger_for(deployment)) is not None


@settings(max_examples=150, deadline=None)
@for_all(
    target=st.sampled_from([SERVICE, BATCH_JOB]),
    choices=st.lists(
        st.tuples(st.sampled_from([True, True, False]), st.integers(0, 1_000)), min_size=20, max_size=40
    ),
)
def test_what_follows_is_legal_where_the_domain_accepts_it(
    target: object, choices: list[tuple[bool, int]]
) -> None:
    table = lifecycle_table()
    begin = requested(target=target)(DEPLOYMENT_ID, 1)
    deployment = Deployment.replay([begin])
    standing = table.begin[symbol(begin)]
    assert standing >= 0
    revision = 1
    for is_legal, number in choices:
        event = choose(deployment, target, is_legal, number)(DEPLOYMENT_ID, deployment.version + 1)
        is_update = isinstance(event, events.UpdateRequested)
        event = event.model_copy(update={"revision": revision + is_update})
        after = table.next[standing][symbol(event)]
        assert (after != ILLEGAL) == _is_accepted(deployment, event), (deployment.state, event.TOPIC)
        if after != ILLEGAL:  # what is illegal is left out, in both
            assert after != UNKNOWN
            standing, revision = after, revision + is_update
            name = table.names[standing]
            assert name.removesuffix(", with a revision that serves") == f"state {deployment.state}"
            assert name.endswith("that serves") == deployment.is_serving


def _is_accepted(deployment: Deployment, event: DeploymentEvent) -> bool:
    try:
        deployment.apply(event)
    except IllegalTransitionError:
        return False
    return True


def test_a_history_begins_with_a_request_and_with_nothing_else() -> None:
    table = lifecycle_table()
    for happening in [*RESULTS, *OTHERS, update_requested()]:
        event = happening(DEPLOYMENT_ID, 1)
        assert (table.begin[symbol(event)] != ILLEGAL) == isinstance(event, events.Requested)


def test_every_state_is_reached_and_every_symbol_is_in_every_row() -> None:
    table = lifecycle_table()
    states = {it.removeprefix("state ").partition(",")[0] for it in table.names if it.startswith("state ")}
    assert states == {str(it) for it in State}
    assert {len(row) for row in table.next} == {len(table.begin)}
    assert len(table.names) == len(table.next)
    assert {it.source for it in LIFECYCLE.transitions} <= {State(it) for it in states}


@settings(max_examples=100, deadline=None)
@for_all(st.lists(st.booleans(), min_size=1, max_size=12))
def test_names_are_reserved_and_released_as_the_domain_does(reserves: list[bool]) -> None:
    table = lifecycle_table()
    stream = NameReservation("iris").id
    reservation: NameReservation | None = None
    standing: int | None = None
    for is_reserved in reserves:
        event = _named(NameReserved if is_reserved else NameReleased, stream, reservation)
        after = table.begin[symbol(event)] if standing is None else table.next[standing][symbol(event)]
        # The domain releases what is held, and by nobody else than who holds it.
        is_legal = is_reserved or (reservation is not None and reservation.holder is not None)
        assert (after != ILLEGAL) == is_legal
        if is_legal:
            standing, reservation = after, reservation or NameReservation("iris")
            reservation.apply(event)
    for happening in [*RESULTS, *OTHERS]:
        if standing is not None:
            assert table.next[standing][symbol(happening(DEPLOYMENT_ID, 1))] == ILLEGAL


def _named(
    event_class: type[NameReserved] | type[NameReleased], stream: UUID, before: NameReservation | None
) -> NameReserved | NameReleased:
    return event_class(
        originator_id=stream,
        originator_version=before.version + 1 if before else 1,
        timestamp=requested()(DEPLOYMENT_ID, 1).timestamp,
        event_id=new_id(),
        actor="ann",
        correlation_id=uuid4(),
        name="iris",
        deployment_id=DEPLOYMENT_ID,
    )
