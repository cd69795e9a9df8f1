"""The commands that take evidence out of the log, and that verify it without the database."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.audit_options import KeyOption
from deployledger.adapters.cli.files import STANDARD, file_to_read, file_to_write, place_to_read, writing
from deployledger.adapters.cli.options import DeploymentOption, ForceOption, OfflineOptions, SessionOptions
from deployledger.adapters.cli.past_commands import name_others
from deployledger.adapters.cli.reading import Reading
from deployledger.adapters.cli.session import Session, end_at_once_on_ctrl_c
from deployledger.adapters.cli.typed_times import moment

if TYPE_CHECKING:
    from deployledger.audit.evidence.export import ExportedEvidence
    from deployledger.audit.evidence.verification import EvidenceReport
    from deployledger.service.deployment_service import DeploymentService

_MOST_SHOWN = 20
_MARKS = {"passed": marks.DONE, "failed": marks.FAILED, "not checked": marks.UNKNOWN}


def export(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.zip", help="The file to write; - is standard output.", parser=file_to_write
        ),
    ],
    *,
    deployment: DeploymentOption = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only events recorded at or after this time: 2026-03-01T00:00Z, or an age such as 3d.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only events recorded before this time.")
    ] = None,
    continues: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="Prove that the log continues this checkpoint (a file, folder or URI) or earlier "
            "evidence; repeatable.",
            parser=place_to_read,
        ),
    ] = None,
    key: KeyOption = None,
    force: ForceOption = False,
    session: SessionOptions,
) -> None:
    """Export evidence of a deployment or a range of time, which others verify without the database.

    The evidence is a ZIP file with the events, a proof for each, a signed checkpoint, and a report.

    Examples:
        deployledger audit export iris.zip --deployment iris --key ledger.key
        deployledger audit export march.zip --since 2026-03-01T00:00Z --until 2026-04-01T00:00Z
    """
    session.is_aside = file == STANDARD
    begin, end = moment(since, "--since"), moment(until, "--until")

    async def work(service: "DeploymentService") -> "ExportedEvidence":
        from deployledger.adapters.ledger.publishing import earlier_states
        from deployledger.audit.evidence.export import export_evidence
        from deployledger.audit.keys import Signer

        stream = None
        if deployment is not None:
            stream = await service.find_deployment_id(deployment)
            await name_others(session, service, deployment, stream)
        end_at_once_on_ctrl_c()
        with writing(file) as written, Reading(session, "Exporting") as reading:
            return export_evidence(
                service.event_log,
                service.ledger,
                Signer.load(key) if key is not None else None,
                written,
                deployment_id=stream,
                since=begin,
                until=end,
                continues=[state for place in continues or () for state in earlier_states(place)],
                force=force,
                progress=reading,
            )

    made = session.run(work)
    place = "standard output" if session.is_aside else str(made.path)
    beside = made.selection.beside(made.checkpoint.size)
    with session.reporting():
        if session.is_json:
            session.print_json(
                {
                    "file": place,
                    "selection": str(made.selection),
                    "events": made.events,
                    "size_bytes": made.size_bytes,
                    "checkpoint_size": made.checkpoint.size,
                    "beside": beside,
                }
            )
            return
        session.say(
            f"{place}: {units.number(made.events, 'event')} ({made.selection}), proven in the checkpoint of "
            f"{made.checkpoint.size:,}; {made.size_bytes:,} bytes."
        )
    if beside:
        session.note(
            "It discloses the stream, topic, actor, ids and time, but not the fields, of the events right "
            f"before and after the range: {', '.join(f'event {position:,}' for position in beside)}."
        )
    session.note(
        f"`deployledger audit verify-evidence {file} --key OWNER.pub` verifies it with the public key."
    )


def verify_evidence(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.zip", help="The evidence; - is standard input.", parser=file_to_read),
    ],
    *,
    key: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE",
            help="The owner's public key, as you got it from the owner; repeatable after a change of keys.",
            parser=file_to_read,
        ),
    ],
    earlier: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PLACE",
            help="A checkpoint, a folder of checkpoints, or evidence that you kept, which the log must "
            "continue; repeatable.",
            parser=file_to_read,
        ),
    ] = None,
    consistency: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A consistency proof from an --earlier state, if the evidence has none; repeatable.",
            parser=file_to_read,
        ),
    ] = None,
    most_bytes: Annotated[
        int, typer.Option(min=1, metavar="BYTES", help="The largest unpacked size of the evidence, in bytes.")
    ] = 1 << 30,
    session: OfflineOptions,
) -> None:
    """Verify evidence, without any database.

    Exit code 0 if everything was checked and nothing is wrong, 1 if not, 2 if it cannot be read.

    Examples:
        deployledger audit verify-evidence iris.zip --key ledger.key.pub
    """
    with session.errors():
        from deployledger.audit.evidence.kept_checkpoints import EarlierState
        from deployledger.audit.evidence.verification import as_json
        from deployledger.audit.evidence.verification import verify_evidence as verify
        from deployledger.audit.keys import Verifier
        from deployledger.audit.proofs import ConsistencyProof

        report = verify(
            file,
            [Verifier.load(path) for path in key],
            earlier=[state for path in earlier or () for state in EarlierState.read_all(path, most_bytes)],
            proofs=[ConsistencyProof.read(path) for path in consistency or ()],
            most_bytes=most_bytes,
        )
    if session.is_json:
        session.print_json(as_json(report))
    else:
        _print(session, report)
    session.exit_if(not report.is_verified)


def _print(session: Session, report: "EvidenceReport") -> None:
    manifest = report.manifest
    if manifest is not None:
        session.say(f"Evidence of {manifest.selection}")
        session.say(f"of the ledger {manifest.origin}, in the checkpoint of {manifest.size:,} events.")
    for check in report.checks:
        how = f"{check.count:,} checked" if check.count else check.state
        session.say(_MARKS[check.state].before(f"{check.what} ({how})"))
        for result in check.results:
            session.say(f"  {result}")
        for problem in check.problems[:_MOST_SHOWN]:
            session.say((f"  {problem}", "red"))
        if check.problem_count > _MOST_SHOWN:
            session.say((f"  … and {check.problem_count - _MOST_SHOWN:,} more", "red"))
    session.say(("Verified", "bold green") if report.is_verified else ("Not verified", "bold red"))
    for limit in report.limits:
        session.say(marks.OFF.before(limit))
