"""The commands that are about the disk: ``df`` and ``gc``."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli.session import (
    Interruptible,
    Output,
    OutputOption,
    VerboseOption,
    session_for,
)

if TYPE_CHECKING:
    from deployledger.service.deployment_service import DeploymentService
    from deployledger.service.disk_usage import DiskUsage
    from deployledger.service.freeing import Freed


def df(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Show disk usage by kind and by deployment, what can be freed, and the free space.

    A file that is linked to several times counts once. Files that several deployments use are shared.

    Examples:
        deployledger df
    """
    session = session_for(output, verbose)

    async def question(service: "DeploymentService") -> "DiskUsage":
        return await service.disk_usage()

    with Interruptible():
        usage = session.run(question)
    if session.is_json:
        session.print_json(usage.to_json())
        return
    from deployledger.adapters.cli.disk_tables import disk_usage_tables

    session.show(disk_usage_tables(usage))


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be freed.")] = False,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Free stored models and images that no deployment needs.

    Kept are the newest and the serving revision of each deployment, DEPLOYLEDGER_GC_KEEP_REVISIONS earlier
    ones (3), those that were replaced in the last DEPLOYLEDGER_GC_KEEP_DAYS days (7), and what another event
    log that uses this home may need. It is safe while deployments run.

    Examples:
        deployledger gc --dry-run
        deployledger gc
    """
    session = session_for(output, verbose)

    async def free(service: "DeploymentService") -> "Freed":
        return await service.free_artifacts(dry_run=dry_run)

    with Interruptible():
        freed = session.run(free)
    if session.is_json:
        session.print_json(freed.to_json())
        return
    from deployledger.adapters.cli.disk_tables import freed_table

    session.show(freed_table(freed))
