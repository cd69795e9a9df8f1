"""The command ``audit verify``: whether the whole log is what it was."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.audit_options import PublicKeysOption, in_base64, verifiers
from deployledger.adapters.cli.files import place_to_read
from deployledger.adapters.cli.options import SessionOptions, WorkersOption
from deployledger.adapters.cli.reading import Reading, workers_for
from deployledger.adapters.cli.session import Session

if TYPE_CHECKING:
    from deployledger.audit.log_check import LogCheck
    from deployledger.service.deployment_service import DeploymentService

_MOST_SHOWN = 20


def verify(
    *,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE",
            parser=place_to_read,
            help="A checkpoint that was kept elsewhere, or a folder or URI of checkpoints; repeatable.",
            show_default="DEPLOYLEDGER_CHECKPOINTS",
        ),
    ] = None,
    key: PublicKeysOption = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            parser=place_to_read,
            help="The checkpoint of an earlier verification: only later events are read.",
        ),
    ] = None,
    workers: WorkersOption = None,
    session: SessionOptions,
) -> None:
    """Verify that no event of the log was changed, removed, moved or inserted.

    Every event is read and hashed; the tree is compared with every checkpoint, given or in the database;
    order, versions of streams, the lifecycle, idempotency keys and the database itself are checked. Exit code
    0 if nothing is wrong and a checkpoint proves it, 1 otherwise, 2 if the log could not be verified.
    What this cannot detect is listed in the answer.

    Examples:
        deployledger audit verify
        deployledger audit verify --checkpoint checkpoints/ --key ledger.key.pub
    """
    session.reports_clock = True

    def work(service: "DeploymentService") -> "tuple[str, LogCheck]":
        from deployledger.adapters.ledger.publishing import read_checkpoint, read_checkpoints
        from deployledger.adapters.settings import load_settings

        places = checkpoint if checkpoint is not None else [*filter(None, [load_settings().checkpoints])]
        notes = [note for place in places for note in read_checkpoints(place)]
        before = read_checkpoint(since)[1] if since is not None else None
        ledger = service.ledger
        beside = service.read_models.store.findings() if since is None else []
        with Reading(session, "Verifying") as reading:
            audited = ledger.verify(
                verifiers(key),
                notes,
                since=before,
                workers=workers_for(ledger.log, workers),
                beside=beside,
                progress=reading,
            )
        return ledger.log.schema_state().database, audited

    database, audited = session.work(work)
    if session.is_json:
        session.print_json({"database": database, **_as_json(audited)})
    else:
        session.say(f"The event log in {database}:")
        _print(session, audited)
    session.exit_if(not audited.is_verified)


def _print(session: Session, audited: "LogCheck") -> None:
    from deployledger.adapters.cli.findings import say_finding

    session.say(
        f"Read {audited.size - audited.after:,} events of {units.number(audited.streams, 'stream')} "
        f"up to position {audited.size:,}, in {units.duration(audited.seconds)}."
    )
    if audited.root is not None:
        session.say(f"Root {in_base64(audited.root)}")
    for line in _passed(audited):
        session.say(marks.DONE.before(line))
    if audited.is_in_order and audited.wrong_times:
        session.say(
            marks.WARNING.before("Times are in order except for those recorded by a wrong clock (below)")
        )
    for problem in audited.problems[:_MOST_SHOWN]:
        session.say(marks.FAILED.before(problem.message))
    if len(audited.problems) > _MOST_SHOWN:
        session.say(marks.FAILED.before(f"… and {len(audited.problems) - _MOST_SHOWN:,} more"))
    for finding in audited.findings:
        if not finding.is_problem:  # problems are above
            say_finding(session, finding)
    for limit in audited.limits:
        session.say(marks.OFF.before(limit))
    session.say(*_verdict(audited))


def _passed(audited: "LogCheck") -> Iterator[str]:
    """Yield which checkpoints hold, and what is in order."""
    holding = [checkpoint for checkpoint in audited.checkpoints if checkpoint.holds]
    for checkpoint in sorted(holding, key=lambda each: (each.is_from_outside, each.size))[-_MOST_SHOWN:]:
        named = f", named by a checkpoint of {checkpoint.named_by}" if checkpoint.named_by else ""
        yield (
            f"Checkpoint of {checkpoint.size:,} events holds "
            f"({checkpoint.origin}; {checkpoint.source}{named})"
        )
    if len(holding) > _MOST_SHOWN:
        yield f"… and {len(holding) - _MOST_SHOWN:,} more checkpoints"
    if audited.is_in_order:
        times = "" if audited.wrong_times else ", times"
        yield f"Positions{times} and versions of streams are in order, without gaps"
        yield "Every history is legal under the lifecycle"


def _verdict(audited: "LogCheck") -> tuple[tuple[str, str], str]:
    """Return whether the log is verified, and up to where or why not."""
    from deployledger.audit.checkpoint_checks import UNREADABLE
    from deployledger.audit.log_check import IN_DATABASE

    if audited.is_verified:
        if audited.after >= audited.covered_by_database:
            where = f"up to position {audited.after:,}; no checkpoint covers more."
        else:
            since = f"from position {audited.after + 1:,} " if audited.after else ""
            where = f"{since}up to position {audited.covered_by_database:,}."
        return ("Verified", "bold green"), f" {where}"
    kinds = {problem.kind for problem in audited.problems}
    if kinds == {UNREADABLE}:
        why = "a checkpoint cannot be verified with the keys that were given."
    elif audited.is_contradicted:
        why = "one checkpoint proves the log, and another one does not belong to it."
    elif kinds == {IN_DATABASE}:
        why = "the database is damaged, or its definitions were changed."
    elif kinds:
        why = "the log was changed."
    elif any(checkpoint.is_of_another_key for checkpoint in audited.checkpoints):
        why = "nothing is wrong, but no checkpoint proves it: none is signed with the keys that were given."
    else:
        why = "nothing is wrong, but no checkpoint proves it. `deployledger audit checkpoint` makes one."
    return ("Not verified:", "bold red" if kinds else "bold yellow"), f" {why}"


def _as_json(audited: "LogCheck") -> dict[str, Any]:
    return {
        "verified": audited.is_verified,
        "after": audited.after,
        "size": audited.size,
        "root": None if audited.root is None else in_base64(audited.root),
        "streams": audited.streams,
        "covered": audited.covered,
        "covered_by_database": audited.covered_by_database,
        "checkpoints": [
            {**vars(checkpoint), "holds": checkpoint.holds} for checkpoint in audited.checkpoints
        ],
        "problems": [problem._asdict() for problem in audited.problems],
        "findings": audited.findings,
        "wrong_times": audited.wrong_times,
        "limits": audited.limits,
        "seconds": audited.seconds,
    }
