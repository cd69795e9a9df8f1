"""The commands that are about the disk: ``df`` and ``gc``."""

from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli.options import SessionOptions

if TYPE_CHECKING:
    from deployledger.service.deployment_service import DeploymentService
    from deployledger.service.disk_usage import DiskUsage
    from deployledger.service.freeing import Freed


def df(*, session: SessionOptions) -> None:
    """Show disk usage by kind and by deployment, what can be freed, and the free space.

    A file that is linked to several times counts once. Files that several deployments use are shared.

    Examples:
        deployledger df
    """

    async def question(service: "DeploymentService") -> "DiskUsage":
        return await service.disk_usage()

    usage = session.run(question)
    if session.is_json:
        session.print_json(usage)
        return
    from deployledger.adapters.cli.disk_tables import disk_usage_tables

    session.show(disk_usage_tables(usage))


def gc(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be freed.")] = False,
    session: SessionOptions,
) -> None:
    """Free stored models and images that no deployment needs.

    Kept are the newest and the serving revision of each deployment, DEPLOYLEDGER_GC_KEEP_REVISIONS earlier
    ones (3), those that were replaced in the last DEPLOYLEDGER_GC_KEEP_DAYS days (7), and what another event
    log that uses this home may need. It is safe while deployments run.

    Examples:
        deployledger gc --dry-run
        deployledger gc
    """

    async def free(service: "DeploymentService") -> "Freed":
        return await service.free_artifacts(dry_run=dry_run)

    freed = session.run(free)
    if session.is_json:
        session.print_json(freed)
        return
    from deployledger.adapters.cli.disk_tables import freed_table

    session.show(freed_table(freed))
