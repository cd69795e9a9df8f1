"""The commands that show deployments: ``status``, ``list`` and ``logs``."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deployledger.adapters.cli.background import stop_leftovers
from deployledger.adapters.cli.listing import (
    CreatedAfterFilter,
    CreatedBeforeFilter,
    Filters,
    ModelFilter,
    NameFilter,
    SinceFilter,
    StatusFilter,
    TagFilter,
    TypeFilter,
    UntilFilter,
)
from deployledger.adapters.cli.past_commands import AsOfOption
from deployledger.adapters.cli.session import (
    Interruptible,
    Output,
    OutputOption,
    Reference,
    Session,
    VerboseOption,
    escaped,
    session_for,
)
from deployledger.adapters.cli.usage import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from deployledger.adapters.cli.overview import Overview
    from deployledger.domain.ports import Observation
    from deployledger.domain.schemas import DeploymentPage, DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService


def status(
    deployment: Reference,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Print the status again whenever it changes.")
    ] = False,
    as_of: AsOfOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Show the status of a deployment, now or at a point in the past.

    Settings, whole digests and exact times are in `-o wide`, and the whole status in `-o json`.

    Examples:
        deployledger status iris
        deployledger status iris --watch
        deployledger status iris --as-of r1
    """
    from deployledger.adapters.cli.listing import time_of, when
    from deployledger.adapters.cli.overview import watched_line
    from deployledger.adapters.cli.units import Clock

    session = session_for(output, verbose)
    as_of = when(as_of, "--as-of")
    if as_of is not None and watch:
        raise UsageError(
            "--watch and --as-of contradict each other: the past does not change.", hint="Give one of them."
        )

    async def question(service: "DeploymentService") -> None:
        if as_of is not None:
            then = await service.find_deployment(deployment, as_of=as_of)
            if session.is_json:
                session.print_json({**then.model_dump(mode="json"), "observation": None})
                return
            time = await time_of(as_of, then.position, service)
            await show_status(session, service, then, as_of=f"{as_of} (position {then.position})", time=time)
            return
        found = await service.find_deployment(deployment)
        await resume_if_left(session, service, found)
        await stop_leftovers(service)
        if not watch:
            observation = await _observe(session, service, found)
            if session.is_json:
                running = observation and {"running": observation.running, "detail": observation.detail}
                session.print_json({**found.model_dump(mode="json"), "observation": running})
            else:
                await show_status(session, service, found, observation)
                if observation is not None and (observation.damaged or not observation.running):
                    answers = "A replica is missing" if observation.running else "Nothing answers"
                    session.stderr.print(
                        f"{answers}; `deployledger resume {found.deployment_name}` starts it again.",
                        highlight=False,
                    )
            return
        async for current in service.watch_deployment(found.deployment_id):
            if session.is_json:
                session.print_json(current, is_line=True)
            else:
                session.show(watched_line(current, Clock.of(session.stdout)))

    with Interruptible():
        session.run(question)


def list_(
    status: StatusFilter = None,
    name: NameFilter = None,
    tag: TagFilter = None,
    model_uri: ModelFilter = None,
    type_: TypeFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    created_after: CreatedAfterFilter = None,
    created_before: CreatedBeforeFilter = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Include deleted deployments.")] = False,
    sort: Annotated[
        Literal["created_at", "updated_at", "name", "status"], typer.Option(help="The sort key.")
    ] = "created_at",
    reverse: Annotated[bool, typer.Option("--reverse", help="Reverse the order.")] = False,
    limit: Annotated[int, typer.Option(help="The most deployments to list.")] = 100,
    offset: Annotated[int, typer.Option(help="The number of deployments to skip.")] = 0,
    cursor: Annotated[
        str | None,
        typer.Option(help="Continue after a page, with the cursor printed below it.", show_default=False),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="The list as it was: a time with its zone, as in 2026-03-01T12:00Z, an age, as in 2h, or a "
            "position of the event log.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """List deployments, oldest first.

    A deployment is listed if it matches all filters. If there are more, the options for the next page
    are printed below the table.

    Examples:
        deployledger list
        deployledger list --status failed
        deployledger list --tag team=flowers --sort updated_at --reverse
    """
    from deployledger.adapters.cli import listing

    session = session_for(output, verbose)
    as_of = listing.when(as_of, "--as-of")
    filters = Filters(
        status=status,
        name=name,
        tag=tag,
        model_uri=model_uri,
        type_=type_,
        created_after=created_after,
        created_before=created_before,
        since=since,
        until=until,
    )
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
            as_of=as_of,
        )
        if as_of is None:
            for deployment in page:
                await resume_if_left(session, service, deployment)
            await stop_leftovers(service)
            if not page:
                await session.say_if_empty(service.event_log)
            return page, await created_at(service, page), None
        return page, await created_at(service, page), await listing.time_of(as_of, page.position, service)

    page, created, then = session.run(question)
    if session.is_json:
        session.print_json(page)
    elif page:
        from deployledger.adapters.cli.fleet_table import DeploymentTable

        session.show(DeploymentTable(page, then, created=created, is_wide=session.is_wide))
        if held_up := [it for it in page if it.parked_events]:
            listing.say_parked(session, held_up)
    if page.warning:
        session.stderr.print(page.warning, markup=False, highlight=False, soft_wrap=True)
    if as_of is not None:
        session.stderr.print(listing.as_of(page, then), highlight=False)
    if page.next_cursor:
        next_page = listing.next_page(page, filters.moments, is_past=as_of is not None)
        session.stderr.print(escaped(next_page), highlight=False, soft_wrap=True)
    if page or session.is_json:
        return
    if page.total:
        session.stderr.print(f"No more deployments: there are {page.total:,}.", highlight=False)
    elif filters.are_given:
        session.stderr.print("No deployment matches.")
    elif as_of is not None:
        session.stderr.print("There were no deployments.")
    else:
        session.stderr.print("No deployments. `deployledger deploy MODEL_URI --name NAME` makes one.")


def logs(
    deployment: Reference,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue as lines are written.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Print the logs of a deployment's servers or batch job.

    Examples:
        deployledger logs iris
        deployledger logs iris --follow
    """
    session = session_for(verbose=verbose)

    async def question(service: "DeploymentService") -> None:
        found = await service.find_deployment(deployment)
        is_empty = True
        async for line in service.deployment_logs(found.deployment_id, follow=follow):
            session.print_lines(line)
            is_empty = False
        if is_empty:
            reason = await service.empty_logs(found.deployment_id)
            for sentence in (reason.message, reason.hint):
                session.stderr.print(escaped(sentence), highlight=False, soft_wrap=True)

    with Interruptible():
        session.run(question)


async def show_status(
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
        from deployledger.adapters.cli.rendering import deployment_card

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


async def created_at(
    service: "DeploymentService", deployments: "Sequence[DeploymentStatusResponse]"
) -> "dict[UUID, datetime]":
    """Return when the first event of each happened, by the log, as `recorded_at` does of one."""

    from deployledger.domain.exceptions import EventLogError

    def look() -> "dict[UUID, datetime]":
        found: dict[UUID, datetime] = {}
        log = service.event_log
        with suppress(EventLogError):  # the list is there though the log is damaged
            times = log.times()
            for it in deployments:
                (first,) = log.stream_records(it.deployment_id, limit=1)
                found[it.deployment_id] = times.time_of(first.raw.position) or first.recorded_at
        return found

    return await asyncio.to_thread(look)


async def _observe(
    session: Session, service: "DeploymentService", deployment: "DeploymentStatusResponse"
) -> "Observation | None":
    """Return what is seen of what serves; nothing, if it belongs to an orchestrator that is not ours."""
    from deployledger.domain.exceptions import ConflictError

    if deployment.serving_revision is None:
        return None
    try:
        return await service.observe_deployment(deployment.deployment_id)
    except ConflictError as error:
        session.stderr.print(
            f"{error.message} Whether it runs was not looked at from here.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
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
    session.stderr.print(
        f"The job of {escaped(deployment.deployment_name)} was interrupted; it goes on in the background.",
        highlight=False,
    )
