"""Checks of everything that a service keeps in databases: each is a function that yields findings."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from deployledger.domain.exceptions import MachineLearningServiceError
from deployledger.domain.findings import Finding, Outcome
from deployledger.domain.times import AHEAD_HINT
from deployledger.projections.deployment_list import DEPLOYMENT_LIST
from deployledger.projections.deployment_timeline import DEPLOYMENT_TIMELINE
from deployledger.projections.history import parked_hint
from deployledger.projections.status import DEPLOYMENT_STATUS
from deployledger.service.deployment_service import DeploymentService

_ANSWERING = (DEPLOYMENT_STATUS, DEPLOYMENT_LIST, DEPLOYMENT_TIMELINE)
"""What the service answers from; other projections are those of users."""

_MOST_PARKED = 1000

Check = Callable[[DeploymentService], Iterable[Finding]]
"""Yields findings; what it raises of ours becomes a problem, and the other checks go on."""


def schema(service: DeploymentService) -> Iterator[Finding]:
    """Check that the event log has the schema that this version of the software needs."""
    state = service.event_log.schema_state()
    if state.found == state.needed:
        message = f"The event log in {state.database} is ready (schema version {state.found})."
        yield Finding("schema", Outcome.OK, message)
        return
    actual = f"schema version {state.found}" if state.found else "no schema"
    hint = "Run `deployledger db init`."
    if state.found:
        is_older = state.found < state.needed
        upgrade = "Make a backup, stop what uses the database, and run `deployledger db upgrade`."
        hint = upgrade if is_older else "Upgrade deployledger."
    message = f"The event log in {state.database} has {actual}; version {state.needed} is needed."
    yield Finding("schema", Outcome.PROBLEM, message, hint)


def event_log(service: DeploymentService) -> list[Finding]:
    """Check the database of the event log for damage, and for anything that may hide or change events."""
    return service.event_log.findings()


def read_models(service: DeploymentService) -> list[Finding]:
    """Check the database of the read models for damage."""
    return service.read_models.store.findings()


def parked(service: DeploymentService) -> Iterator[Finding]:
    """Check that every event of the log is applied to the read models, which answer questions."""
    models, is_well = service.read_models, True
    for projection in models.projections.values():
        try:
            models.catch_up(projection)
        except MachineLearningServiceError as error:  # as for a user that may only read
            is_well = False
            message = f"{projection.name} could not be brought up to date. {error.message}"
            yield Finding("parked", Outcome.WARNING, message, error.hint)
            continue
        events = models.store.parked(projection, limit=_MOST_PARKED)
        if events:
            is_well = False
            first, rows = events[0], len({event.key for event in events})
            more = " or more" if len(events) == _MOST_PARKED else ""
            message = (
                f"{projection.name} is not current: {len(events):,}{more} event{'s' * (len(events) != 1)} of "
                f"{rows:,} row{'s' * (rows != 1)} could not be applied, from position {first.position} on: "
                f"{first.error or 'why is not known'}."
            )
            outcome = Outcome.PROBLEM if projection in _ANSWERING else Outcome.WARNING
            yield Finding("parked", outcome, message, parked_hint(projection.name))
    if is_well:
        yield Finding("parked", Outcome.OK, "Every event is applied to the read models.")


def ledger(service: DeploymentService) -> list[Finding]:
    """Check the database of the ledger for damage."""
    return service.ledger.store.findings()


def clock(service: DeploymentService) -> Iterator[Finding]:
    """Check that the log has no uncorrected times in the future."""
    times = service.event_log.times()
    for wrong in times.wrong:
        if wrong.corrected_at is not None:
            yield Finding("clock", Outcome.WARNING, str(wrong))
    if times.ahead is not None:
        yield Finding("clock", Outcome.PROBLEM, str(times.ahead), AHEAD_HINT)
    else:
        yield Finding("clock", Outcome.OK, "The event log has no uncorrected times in the future.")


CHECKS: tuple[Check, ...] = (event_log, clock, read_models, parked, ledger)
"""The checks of a database that has the schema that is needed, in the order in which they are reported."""


def check_database(service: DeploymentService, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Run every check, and return what they found; the schema comes first.

    Without the schema that is needed, nothing else is checked.
    """
    findings = list(_run(schema, service))
    if not any(finding.is_problem for finding in findings):
        findings += [finding for check in checks for finding in _run(check, service)]
    return findings


def _run(check: Check, service: DeploymentService) -> Iterator[Finding]:
    try:
        yield from check(service)
    except MachineLearningServiceError as error:
        yield Finding(check.__name__, Outcome.PROBLEM, error.message, error.hint)
