"""The commands that look back: ``history`` and ``diff``."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli import completion, units
from deployledger.adapters.cli.options import WHEN, Reference, SessionOptions
from deployledger.adapters.cli.session import Session
from deployledger.adapters.cli.typed_times import when

if TYPE_CHECKING:
    from uuid import UUID

    from deployledger.domain.responses import DeploymentDifference, DeploymentHistoryEntry
    from deployledger.service.deployment_service import DeploymentService


def history(
    deployment: Reference,
    *,
    changes: Annotated[
        bool, typer.Option("--changes", help="Show the fields that each event changed.")
    ] = False,
    session: SessionOptions,
) -> None:
    """Show the history of a deployment: what happened, when, and by whom.

    Events that one command set off are together, below that command. JSON has what each event changed, too.

    Examples:
        deployledger history iris
        deployledger history iris --changes
        deployledger history iris -o wide
    """

    async def question(service: "DeploymentService") -> "list[DeploymentHistoryEntry]":
        deployment_id = await service.find_deployment_id(deployment)
        entries = await service.get_deployment_history(deployment_id)
        await name_others(session, service, deployment, deployment_id)
        return entries

    entries = session.run(question)
    if session.is_json:
        session.print_json(entries)
    else:
        from deployledger.adapters.cli.timeline import timeline

        clock = units.Clock.of(session.stdout)
        session.show(timeline(entries, clock, has_changes=changes, is_wide=session.is_wide))


async def name_others(
    session: Session, service: "DeploymentService", name: str, deployment_id: "UUID"
) -> None:
    """Note which other deployments had a name, for whoever means all of them."""
    from deployledger.service.lookup import holders

    all_holders = await asyncio.to_thread(holders, name, service.event_log)
    others = [str(holder) for holder in all_holders if holder != deployment_id]
    if others:
        noun = "an earlier deployment" if len(others) == 1 else "earlier deployments"
        session.note(f"This is {deployment_id}. The name also belonged to {noun}: {', '.join(others)}.")


def diff(
    deployment: Reference,
    *,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHEN",
            autocompletion=completion.revisions,
            help=f"The first point in time: {WHEN}.",
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
    session: SessionOptions,
) -> None:
    """Show what changed in a deployment between two points in time.

    Compares with the previous revision by default.

    Examples:
        deployledger diff iris
        deployledger diff iris --from r1 --to r2
        deployledger diff iris --from 2h
    """
    first, second = when(from_, "--from"), when(to, "--to")

    async def question(service: "DeploymentService") -> "DeploymentDifference":
        return await service.diff_deployment(await service.find_deployment_id(deployment), first, second)

    compared = session.run(question)
    if session.is_json:
        session.print_json(compared)
        return
    from deployledger.adapters.cli.timeline import difference

    session.show(difference(compared, units.Clock.of(session.stdout)))
