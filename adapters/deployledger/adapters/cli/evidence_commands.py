"""The commands that take evidence out of the log, and that verify it without the database."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli import marks
from deployledger.adapters.cli.audit_commands import KeyOption
from deployledger.adapters.cli.files import STANDARD, file_to_read, file_to_write, place_to_read, writing
from deployledger.adapters.cli.listing import moment
from deployledger.adapters.cli.past_commands import name_others
from deployledger.adapters.cli.reading import Reading
from deployledger.adapters.cli.session import (
    DeploymentOption,
    ExitCode,
    Interruptible,
    Output,
    OutputOption,
    Session,
    VerboseOption,
    end_at_once_on_ctrl_c,
    escaped,
    session_for,
)

if TYPE_CHECKING:
    from deployledger.audit.evidence.checks import Check
    from deployledger.audit.evidence.export import ExportedEvidence
    from deployledger.audit.evidence.verification import EvidenceReport
    from deployledger.service.deployment_service import DeploymentService

_MOST_SHOWN = 20
_MARKS = {
    "passed": marks.DONE,
    "failed": marks.FAILED,
    "not checked": marks.UNKNOWN,
}


def export(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.zip",
            help="The file to write; - is standard output.",
            parser=file_to_write,
            show_default=False,
        ),
    ],
    deployment: DeploymentOption = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only events recorded at or after this time: 2026-03-01T00:00Z, or an age such as 3d.",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only events recorded before this time.", show_default=False),
    ] = None,
    continues: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Prove that the log continues this checkpoint (a file, folder or URI) or earlier "
            "evidence; repeatable.",
            parser=place_to_read,
            show_default=False,
        ),
    ] = None,
    key: KeyOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Export evidence of a deployment or a range of time, which others verify without the database.

    The evidence is a ZIP file with the events, a proof for each, a signed checkpoint, and a report.

    Examples:
        deployledger audit export iris.zip --deployment iris --key ledger.key
        deployledger audit export march.zip --since 2026-03-01T00:00Z --until 2026-04-01T00:00Z
    """
    session = session_for(output, verbose)
    session.is_aside = file == STANDARD
    begin, end = moment(since, "--since"), moment(until, "--until")

    async def work(service: "DeploymentService") -> "ExportedEvidence":
        from deployledger.adapters.ledger.publishing import earlier_states
        from deployledger.audit.evidence.export import export_evidence
        from deployledger.audit.keys import Signer

        found = None
        if deployment is not None:
            found = await service.find_deployment_id(deployment)
            await name_others(session, service, deployment, found)
        end_at_once_on_ctrl_c()
        with writing(file) as written, Reading(session, "Exporting") as reading:
            return export_evidence(
                service.event_log,
                service.ledger,
                Signer.load(key) if key is not None else None,
                written,
                deployment_id=found,
                since=begin,
                until=end,
                continues=[it for place in continues or () for it in earlier_states(place)],
                force=force,
                progress=reading,
            )

    with Interruptible():
        made = session.run(work)
    place = "standard output" if session.is_aside else str(made.path)
    with session.reporting():
        if session.is_json:
            session.print_json(
                {
                    "file": place,
                    "selection": str(made.selection),
                    "events": made.events,
                    "size_bytes": made.size_bytes,
                    "checkpoint_size": made.checkpoint.size,
                    "beside": made.selection.beside(made.checkpoint.size),
                }
            )
            return
        events = "1 event" if made.events == 1 else f"{made.events:,} events"
        session.stdout.print(
            f"{escaped(place)}: {events} ({escaped(made.selection)}), proven in the checkpoint of "
            f"{made.checkpoint.size:,}; {made.size_bytes:,} bytes.",
            highlight=False,
            soft_wrap=True,
        )
    beside = made.selection.beside(made.checkpoint.size)
    if beside:
        session.stderr.print(
            "It discloses the stream, topic, actor, ids and time, but not the fields, of the events right "
            f"before and after the range: {', '.join(f'event {it:,}' for it in beside)}.",
            highlight=False,
            soft_wrap=True,
        )
    session.stderr.print(
        f"`deployledger audit verify-evidence {escaped(file)} --key OWNER.pub` verifies it, "
        "with the public key.",
        highlight=False,
        soft_wrap=True,
    )


def verify_evidence(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.zip",
            help="The evidence; - is standard input.",
            parser=file_to_read,
            show_default=False,
        ),
    ],
    key: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="The owner's public key, as you got it from the owner; repeatable after a change of keys.",
            parser=file_to_read,
            show_default=False,
        ),
    ],
    earlier: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PLACE",
            help="A checkpoint, a folder of checkpoints, or evidence that you kept, which the log must "
            "continue; repeatable.",
            parser=file_to_read,
            show_default=False,
        ),
    ] = None,
    consistency: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A consistency proof from an --earlier state, if the evidence has none; repeatable.",
            parser=file_to_read,
            show_default=False,
        ),
    ] = None,
    most_bytes: Annotated[
        int,
        typer.Option(min=1, metavar="BYTES", help="The largest unpacked size of the evidence, in bytes."),
    ] = 1 << 30,
    output: OutputOption = Output.TABLE,
) -> None:
    """Verify evidence, without any database.

    Exit code 0 if everything was checked and nothing is wrong, 1 if not, 2 if it cannot be read.

    Examples:
        deployledger audit verify-evidence iris.zip --key ledger.key.pub
    """
    session = session_for(output)
    with session.errors(), Interruptible():
        from deployledger.audit.consistency_proof import ConsistencyProof
        from deployledger.audit.evidence.kept_checkpoints import EarlierState
        from deployledger.audit.evidence.verification import as_json
        from deployledger.audit.evidence.verification import verify_evidence as verify
        from deployledger.audit.keys import Verifier

        found = verify(
            file,
            [Verifier.load(it) for it in key],
            earlier=[state for it in earlier or () for state in EarlierState.read_all(it, most_bytes)],
            proofs=[ConsistencyProof.read(it) for it in consistency or ()],
            most_bytes=most_bytes,
        )
    if session.is_json:
        session.print_json(as_json(found))
    else:
        _print(session, found)
    if not found.is_verified:
        raise SystemExit(int(ExitCode.FAILED))


def _print(session: Session, found: "EvidenceReport") -> None:
    def say(text: str) -> None:
        session.stdout.print(text, highlight=False, soft_wrap=True)

    if found.manifest is not None:
        said = found.manifest
        say(f"Evidence of {escaped(said.selection)}")
        say(f"of the ledger {escaped(said.origin)}, in the checkpoint of {said.size:,} events.")
    for check in found.checks:
        _print_check(session, check)
    if found.is_verified:
        say("[bold green]Verified[/]")
    else:
        say("[bold red]Not verified[/]")
    for limit in found.limits:
        say(f"{marks.OFF} {escaped(limit)}")


def _print_check(session: Session, check: "Check") -> None:
    def say(text: str) -> None:
        session.stdout.print(text, highlight=False, soft_wrap=True)

    how = f"{check.count:,} checked" if check.count else check.state
    say(f"{_MARKS[check.state]} {escaped(check.what)} ({how})")
    for result in check.results:
        say(f"  {escaped(result)}")
    for problem in check.problems[:_MOST_SHOWN]:
        shown = "".join(it if it.isprintable() else ascii(it)[1:-1] for it in str(problem))
        say(f"  [red]{escaped(shown)}[/]")
    if check.problem_count > _MOST_SHOWN:
        say(f"  [red]… and {check.problem_count - _MOST_SHOWN:,} more[/]")
