"""The commands that are about stored models: ``artifacts list`` and ``artifacts verify``."""

from typing import TYPE_CHECKING

from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.options import SessionOptions

if TYPE_CHECKING:
    from deployledger.domain.findings import Finding
    from deployledger.service.deployment_service import DeploymentService
    from deployledger.service.stored_files import StoredFiles

artifacts = Commands(name="artifacts", help="List and verify the stored models and images.")


@artifacts.command("list")
def list_(*, session: SessionOptions) -> None:
    """List the stored models and images, their sizes, and the revisions that use them.

    Examples:
        deployledger artifacts list
    """

    async def question(service: "DeploymentService") -> "list[StoredFiles]":
        return await service.list_artifacts()

    files = session.run(question)
    if session.is_json:
        session.print_json(files)
    elif files:
        from deployledger.adapters.cli.disk_tables import stored_files_table

        session.show(stored_files_table(files))
    else:
        session.say("Nothing is stored.")


@artifacts.command()
def verify(*, session: SessionOptions) -> None:
    """Verify the stored models and images against the event log.

    Nothing is changed: damaged files are never used, and are replaced when they are needed. Exit code 1 if
    something is damaged, 0 if there are only warnings.

    Examples:
        deployledger artifacts verify
    """
    from deployledger.adapters.cli.findings import say_finding

    async def question(service: "DeploymentService") -> "list[Finding]":
        return await service.verify_artifacts()

    findings = session.run(question)
    if session.is_json:
        session.print_json(findings)
    else:
        for finding in findings:
            say_finding(session, finding)
        if not findings:
            session.say("Nothing is stored.")
    session.exit_if(any(finding.is_problem for finding in findings))
