"""The commands that are about stored models: ``artifacts list`` and ``artifacts verify``."""

from typing import TYPE_CHECKING

from deployledger.adapters.cli.findings import print_finding
from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.session import (
    ExitCode,
    Interruptible,
    Output,
    OutputOption,
    VerboseOption,
    session_for,
)

if TYPE_CHECKING:
    from deployledger.domain.findings import Finding
    from deployledger.service.deployment_service import DeploymentService
    from deployledger.service.stored_files import StoredFiles

artifacts = Commands(name="artifacts", help="List and verify the stored models and images.")


@artifacts.command("list")
def list_(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """List the stored models and images, their sizes, and the revisions that use them.

    Examples:
        deployledger artifacts list
    """
    session = session_for(output, verbose)

    async def question(service: "DeploymentService") -> "list[StoredFiles]":
        return await service.list_artifacts()

    with Interruptible():
        files = session.run(question)
    if session.is_json:
        session.print_json([it.to_json() for it in files])
        return
    if not files:
        session.stdout.print("Nothing is stored.", highlight=False)
        return
    from deployledger.adapters.cli.rendering import stored_files_table

    session.show(stored_files_table(files))


@artifacts.command()
def verify(output: OutputOption = Output.TABLE, verbose: VerboseOption = False) -> None:
    """Verify the stored models and images against the event log.

    Nothing is changed: damaged files are never used, and are replaced when they are needed. Exit code 1 if
    something is damaged, 0 if there are only warnings.

    Examples:
        deployledger artifacts verify
    """
    session = session_for(output, verbose)

    async def question(service: "DeploymentService") -> "list[Finding]":
        return await service.verify_artifacts()

    with Interruptible():
        findings = session.run(question)
    if session.is_json:
        session.print_json([it.to_json() for it in findings])
    else:
        for finding in findings:
            print_finding(session, finding)
        if not findings:
            session.stdout.print("Nothing is stored.", highlight=False)
    if any(it.is_problem for it in findings):
        raise SystemExit(int(ExitCode.FAILED))
