"""The commands that show deployments: ``status``, ``list`` and ``logs``."""

import asyncio
import shlex
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deployledger.adapters.cli.background import stop_leftovers
from deployledger.adapters.cli.filters import FilterOptions
from deployledger.adapters.cli.options import AsOfOption, Reference, SessionOptions, TextOptions
from deployledger.adapters.cli.session import Session
from deployledger.adapters.cli.typed_times import when
from deployledger.adapters.cli.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from deployledger.adapters.cli.overview import Overview
    from deployledger.domain.ports import Observation
    from deployledger.domain.responses import DeploymentPage, DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService


def status(
    deployment: Reference,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Print the status again whenever it changes.")
    ] = False,
    as_of: AsOfOption = None,
    session: SessionOptions,
) -> None:
    """Show the status of a deployment, now or at a point in the past.

    Settings, whole digests and exact times are in `-o wide`, and the whole status in `-o json`.

    Examples:
        deployledger status iris
        deployledger status iris --watch
        deployledger status iris --as-of r1
    """
    moment = when(as_of, "--as-of")
    if moment is not None and watch:
        raise UsageError(
            "--watch and --as-of contradict each other: the past does not change.", hint="Give one of them."
        )
    if moment is not None:
        session.run(lambda service: _show_past(session, service, deployment, moment))
    elif watch:
        session.run(lambda service: _watch(session, service, deployment))
    else:
        session.run(lambda service: _show_current(session, service, deployment))


async def _show_past(session: Session, service: "DeploymentService", reference: str, moment: str) -> None:
    then = await service.find_deployment(reference, as_of=moment)
    if session.is_json:
        session.print_json({**then.model_dump(mode="json"), "observation": None})
        return
    time = await _time_of(moment, then.position, service)
    await _show(session, service, then, as_of=f"{moment} (position {then.position})", time=time)


async def _show_current(session: Session, service: "DeploymentService", reference: str) -> None:
    deployment = await _found(session, service, reference)
    observation = await _observe(session, service, deployment)
    if session.is_json:
        running = observation and {"running": observation.running, "detail": observation.detail}
        session.print_json({**deployment.model_dump(mode="json"), "observation": running})
        return
    await _show(session, service, deployment, observation)
    if observation is not None and (observation.damaged or not observation.running):
        problem = "A replica is missing" if observation.running else "Nothing answers"
        session.note(f"{problem}; `deployledger resume {deployment.deployment_name}` starts it again.")


async def _watch(session: Session, service: "DeploymentService", reference: str) -> None:
    from deployledger.adapters.cli.overview import watched_line
    from deployledger.adapters.cli.units import Clock

    deployment = await _found(session, service, reference)
    async for current in service.watch_deployment(deployment.deployment_id):
        if session.is_json:
            session.print_json(current, is_line=True)
        else:
            session.show(watched_line(current, Clock.of(session.stdout)))


async def _found(
    session: Session, service: "DeploymentService", reference: str
) -> "DeploymentStatusResponse":
    deployment = await service.find_deployment(reference)
    await resume_if_left(session, service, deployment)
    await stop_leftovers(service)
    return deployment


def list_(
    *,
    filters: FilterOptions,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Include deleted deployments.")] = False,
    sort: Annotated[
        Literal["created_at", "updated_at", "name", "status"], typer.Option(help="The sort key.")
    ] = "created_at",
    reverse: Annotated[bool, typer.Option("--reverse", help="Reverse the order.")] = False,
    limit: Annotated[int, typer.Option(help="The most deployments to list.")] = 100,
    offset: Annotated[int, typer.Option(help="The number of deployments to skip.")] = 0,
    cursor: Annotated[
        str | None, typer.Option(help="Continue after a page, with the cursor printed below it.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="The list as it was: a time with its zone, as in 2026-03-01T12:00Z, an age, as in 2h, or a "
            "position of the event log.",
        ),
    ] = None,
    session: SessionOptions,
) -> None:
    """List deployments, oldest first.

    A deployment is listed if it matches all filters. If there are more, the options for the next page
    are printed below the table.

    Examples:
        deployledger list
        deployledger list --status failed
        deployledger list --tag team=flowers --sort updated_at --reverse
    """
    moment = when(as_of, "--as-of")
    arguments = filters.arguments()

    async def question(
        service: "DeploymentService",
    ) -> "tuple[DeploymentPage, dict[UUID, datetime], datetime | None]":
        page = await service.list_deployments(
            limit,
            offset,
            **arguments,
            include_deleted=all_,
            sort=sort,
            descending=reverse,
            cursor=cursor,
            as_of=moment,
        )
        if moment is None:
            for deployment in page:
                await resume_if_left(session, service, deployment)
            await stop_leftovers(service)
            if not page:
                await session.note_if_empty(service.event_log)
        then = await _time_of(moment, page.position, service) if moment is not None else None
        return page, await created_at(service, page), then

    page, created, then = session.run(question)
    if session.is_json:
        session.print_json(page)
    elif page:
        from deployledger.adapters.cli.fleet_table import DeploymentTable

        session.show(DeploymentTable(page, then, created=created, is_wide=session.is_wide))
        if with_parked := [deployment for deployment in page if deployment.parked_events]:
            number = len(with_parked)
            have = "1 deployment has" if number == 1 else f"{number:,} deployments have"
            name = with_parked[0].deployment_name
            session.note(f"{have} events that could not be applied; `deployledger status {name}` shows why.")
    if page.warning:
        session.note(page.warning)
    if moment is not None:
        session.note(_as_of(page, then))
    if page.next_cursor:
        past = [f"--as-of {page.position}"] if moment is not None else []
        options = " ".join([*filters.fixed_times, *past, f"--cursor {shlex.quote(page.next_cursor)}"])
        session.note(f"{len(page):,} of {page.total:,}. Next page: {options}")
    if page or session.is_json:
        return
    if page.total:
        session.note(f"No more deployments: there are {page.total:,}.")
    elif filters.are_given:
        session.note("No deployment matches.")
    elif moment is not None:
        session.note("There were no deployments.")
    else:
        session.note("No deployments. `deployledger deploy MODEL_URI --name NAME` creates one.")


def _as_of(page: "DeploymentPage", time: "datetime | None") -> str:
    from deployledger.domain.moments import describe

    if time is None:
        return f"As of position {page.position}."
    return f"As of {describe(time)} (position {page.position})."


def logs(
    deployment: Reference,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue as lines are written.")] = False,
    session: TextOptions,
) -> None:
    """Print the logs of a deployment's servers or batch job.

    Examples:
        deployledger logs iris
        deployledger logs iris --follow
    """

    async def question(service: "DeploymentService") -> None:
        deployment_id = (await service.find_deployment(deployment)).deployment_id
        is_empty = True
        async for line in service.deployment_logs(deployment_id, follow=follow):
            session.print_lines(line)
            is_empty = False
        if is_empty:
            reason = await service.empty_logs(deployment_id)
            for sentence in (reason.message, reason.hint):
                session.note(sentence)

    session.run(question)


async def _show(
    session: Session,
    service: "DeploymentService",
    deployment: "DeploymentStatusResponse",
    observation: "Observation | None" = None,
    *,
    as_of: str | None = None,
    time: "datetime | None" = None,
) -> None:
    """Print a status: in groups, or with everything there is to know.

    Args:
        as_of: the moment of the past in words, if it is of one.
        time: when that was, by which ages count; None means now.
    """
    seen = await overview(session, service, deployment, observation, as_of=as_of, time=time)
    if session.is_wide:
        from deployledger.adapters.cli.deployment_card import deployment_card

        session.show(deployment_card(deployment, observation, as_of=as_of, recorded=seen.recorded))
    else:
        from deployledger.adapters.cli.overview import status_lines

        session.show(status_lines(seen))


async def overview(
    session: Session,
    service: "DeploymentService",
    deployment: "DeploymentStatusResponse",
    observation: "Observation | None" = None,
    *,
    as_of: str | None = None,
    time: "datetime | None" = None,
) -> "Overview":
    """Return what is shown of a deployment, with its events up to a status of it."""
    from deployledger.adapters.cli.overview import Overview
    from deployledger.adapters.cli.units import Clock

    history = await service.get_deployment_history(deployment.deployment_id)
    return Overview(
        deployment,
        [entry for entry in history if entry.version <= deployment.version],
        Clock.of(session.stdout, time),
        observation,
        as_of,
    )


async def _time_of(as_of: str, position: int | None, service: "DeploymentService") -> "datetime | None":
    """Return the time of the past that was asked for, or at which the event at the position happened."""
    from deployledger.domain.moments import check

    moment, log = check(as_of), service.event_log
    if isinstance(moment, datetime):
        return moment
    if position is None:
        return None
    from deployledger.domain import event_log

    return await asyncio.to_thread(
        lambda: log.times().time_of(position) or event_log.recorded_at(log, position)
    )


async def created_at(
    service: "DeploymentService", deployments: "Sequence[DeploymentStatusResponse]"
) -> "dict[UUID, datetime]":
    """Return when the first event of each happened, by the log, as `recorded_at` does of one."""

    from deployledger.domain.event_records import time_of
    from deployledger.domain.exceptions import EventLogError

    def look() -> "dict[UUID, datetime]":
        created: dict[UUID, datetime] = {}
        log = service.event_log
        with suppress(EventLogError):  # the list is there though the log is damaged
            times = log.times()
            for deployment in deployments:
                ((first,),) = log.records(streams=[deployment.deployment_id], limit=1, metadata=True)
                created[deployment.deployment_id] = times.time_of(first.position) or time_of(first)
        return created

    return await asyncio.to_thread(look)


async def _observe(
    session: Session, service: "DeploymentService", deployment: "DeploymentStatusResponse"
) -> "Observation | None":
    """Return what is seen of what serves; nothing, if it belongs to an orchestrator that is not ours."""
    from deployledger.domain.exceptions import ConflictError

    is_job = deployment.state == "active"  # a running batch job, which serves nothing
    if deployment.serving_revision is None and not is_job:
        return None
    try:
        return await service.observe_deployment(deployment.deployment_id)
    except ConflictError as error:
        session.note(f"{error.message} Whether it is running was not checked.")
        return None


async def resume_if_left(
    session: Session, service: "DeploymentService", deployment: "DeploymentStatusResponse"
) -> None:
    """If nobody is on an unfinished job, for example because its process was killed, start one that is."""
    if deployment.progress is None:
        return
    from deployledger.adapters.cli.background import resume_in_background
    from deployledger.domain.exceptions import UndecodableEventError

    try:
        is_left = await service.is_left(deployment.deployment_id)
    except UndecodableEventError:  # nobody can go on with it, but what is known of it can be shown
        is_left = False
    if not is_left:
        return
    resume_in_background(deployment.deployment_id)
    session.note(
        f"The operation on {deployment.deployment_name} was interrupted; it continues in the background."
    )
