"""The commands that look back: ``history`` and ``diff``."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli import completion, units
from deployledger.adapters.cli.session import (
    Output,
    OutputOption,
    Reference,
    Session,
    VerboseOption,
    session_for,
)

if TYPE_CHECKING:
    from uuid import UUID

    from deployledger.domain.schemas import DeploymentDifference, DeploymentHistoryEntry
    from deployledger.service.deployment_service import DeploymentService

_MOMENT = (
    "a time with its zone (2026-03-03T12:00Z), an age (2h), a position of the log (1234) or a revision (r2)"
)

AsOfOption = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="WHEN",
        autocompletion=completion.revisions,
        help=f"A point in the past: {_MOMENT}.",
        show_default="now",
    ),
]


def history(
    deployment: Reference,
    changes: Annotated[
        bool, typer.Option("--changes", help="Show the fields that each event changed.")
    ] = False,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Show the history of a deployment: what happened, when, and by whom.

    Events that one command set off are together, below that command. JSON has what each event changed, too.

    Examples:
        deployledger history iris
        deployledger history iris --changes
        deployledger history iris -o wide
    """
    session = session_for(output, verbose)

    async def question(service: "DeploymentService") -> "list[DeploymentHistoryEntry]":
        found = await service.find_deployment_id(deployment)
        answer = await service.get_deployment_history(found)
        await name_others(session, service, deployment, found)
        return answer

    entries = session.run(question)
    if session.is_json:
        session.print_json(entries)
    else:
        from deployledger.adapters.cli.timeline import timeline

        clock = units.Clock.of(session.stdout)
        session.show(timeline(entries, clock, has_changes=changes, is_wide=session.is_wide))


async def name_others(session: Session, service: "DeploymentService", name: str, found: "UUID") -> None:
    """Say which other deployments had a name, for whoever means all of them."""
    from deployledger.service.finding import holders

    others = [it for it in await asyncio.to_thread(holders, name, service.event_log) if it != found]
    if others:
        earlier = f"earlier deployment{'s' if len(others) > 1 else ''} {', '.join(map(str, others))}"
        session.stderr.print(
            f"This is {found}. The name was also that of the {earlier}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def diff(
    deployment: Reference,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHEN",
            autocompletion=completion.revisions,
            help=f"The first point in time: {_MOMENT}.",
            show_default="the revision before",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="WHEN",
            autocompletion=completion.revisions,
            help="The second point in time, in the same formats.",
            show_default="now",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Show what changed in a deployment between two points in time.

    Compares with the previous revision by default.

    Examples:
        deployledger diff iris
        deployledger diff iris --from r1 --to r2
        deployledger diff iris --from 2h
    """
    from deployledger.adapters.cli.listing import when

    session = session_for(output, verbose)
    first, second = when(from_, "--from"), when(to, "--to")

    async def question(service: "DeploymentService") -> "DeploymentDifference":
        return await service.diff_deployment(await service.find_deployment_id(deployment), first, second)

    found = session.run(question)
    if session.is_json:
        session.print_json(found)
        return
    from deployledger.adapters.cli.timeline import difference

    session.show(difference(found, units.Clock.of(session.stdout)))
