"""The commands that prove that the record was not edited: keys, checkpoints, proofs, verifying."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.files import file_of_a_pair, file_to_read, no_stream, place_to_read
from deployledger.adapters.cli.findings import print_finding
from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.reading import Reading, WorkersOption, workers_for
from deployledger.adapters.cli.session import (
    ExitCode,
    Interruptible,
    Output,
    OutputOption,
    Session,
    VerboseOption,
    as_json,
    end_at_once_on_ctrl_c,
    escaped,
    session_for,
)
from deployledger.adapters.cli.usage import UsageError

if TYPE_CHECKING:
    from deployledger.audit.consistency_proof import ConsistencyProof
    from deployledger.audit.evidence.kept_checkpoints import EarlierState
    from deployledger.audit.keys import Signer, Verifier
    from deployledger.audit.ledger import Ledger
    from deployledger.audit.log_check import LogCheck
    from deployledger.service.deployment_service import DeploymentService

audit = Commands(name="audit", help="Prove that the record was not edited.")

_T = TypeVar("_T")
_MOST_SHOWN = 20

KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        help="The private key that signs.",
        parser=file_to_read,
        show_default="DEPLOYLEDGER_AUDIT_KEY",
        metavar="FILE",
    ),
]
PublicKeysOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="A public key whose signatures count; repeatable.",
        parser=file_to_read,
        show_default="the one beside DEPLOYLEDGER_AUDIT_KEY",
    ),
]


@audit.command()
def keygen(
    name: Annotated[
        str,
        typer.Option(
            help="The owner of the key, for example example.com/deployments: the origin of its checkpoints.",
            show_default=False,
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="The file for the private key; the public key goes to FILE.pub.",
            parser=file_of_a_pair,
            show_default="DEPLOYLEDGER_AUDIT_KEY",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a key pair: the private key signs checkpoints, the public key verifies them.

    Keep the private key where those who can change the database cannot read it. Give the public key to
    everyone who verifies.

    Examples:
        deployledger audit keygen ledger.key --name example.com/deployments
    """
    session = session_for(output)
    with session.errors():
        from deployledger.adapters.settings import load_settings
        from deployledger.audit.keys import write_pair
        from deployledger.domain.exceptions import ConfigurationError
        from deployledger.service.local_files import expanded

        path = file or load_settings().audit_key
        if path is None:
            raise ConfigurationError(
                "There is no place for the key.", hint="Name a file, or set DEPLOYLEDGER_AUDIT_KEY."
            )
        verifier = write_pair(name, expanded(path).absolute())
    public = f"{path}.pub"
    with session.reporting():
        if session.is_json:
            session.print_json({"private_key": str(path), "public_key": public, "verifier": str(verifier)})
            return
        session.stdout.print(f"Private key  {escaped(path)}  (keep it secret)", highlight=False)
        session.stdout.print(f"Public key   {escaped(public)}", highlight=False)
        session.stdout.print(escaped(verifier), highlight=False, soft_wrap=True)
    session.stderr.print(
        f"`export DEPLOYLEDGER_AUDIT_KEY={escaped(path)}` makes the service sign checkpoints with it.",
        highlight=False,
        soft_wrap=True,
    )


@audit.command()
def checkpoint(
    key: KeyOption = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            parser=no_stream,
            help="A folder or URI to publish it to as well.",
            show_default="DEPLOYLEDGER_CHECKPOINTS",
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Sign the current state of the log, and print the signed note.

    The checkpoint is also stored in the database. Publish it where those who can change the database cannot
    change it: edits to events after the last published checkpoint cannot be detected.

    Examples:
        deployledger audit checkpoint
        deployledger audit checkpoint --key ledger.key --to checkpoints/
    """
    session = session_for(output, verbose)

    def work(ledger: "Ledger") -> Any:
        from deployledger.adapters.ledger.publishing import Place

        return ledger.checkpoint(_signer(key), place=Place(to) if to is not None else None)

    made = _of_ledger(session, work)
    if session.is_json:
        session.print_json(
            {
                "size": made.size,
                "root": _base64(made.root),
                "created_at": made.created_at.isoformat(),
                "note": made.note,
            }
        )
    else:
        session.print_lines(made.note.removesuffix("\n"))


@audit.command()
def root(
    size: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="POSITION", help="The last event to include.", show_default="the last one"
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Print the root of the log's Merkle tree, which stands for every event up to a position.

    Examples:
        deployledger audit root
        deployledger audit root --size 1234
    """
    session = session_for(output, verbose)

    def work(ledger: "Ledger") -> tuple[int, bytes]:
        wanted = ledger.integrate() if size is None else size
        return wanted, ledger.root(wanted)

    found, digest = _of_ledger(session, work)
    if session.is_json:
        session.print_json({"size": found, "root": _base64(digest), "root_hex": digest.hex()})
    else:
        session.print_lines(f"{found} {_base64(digest)}")


@audit.command()
def prove(
    position: Annotated[
        int | None,
        typer.Argument(metavar="POSITION", help="The event's position in the log.", show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="POSITION",
            help="The last event of the tree, such as a checkpoint's size.",
            show_default="the last one",
        ),
    ] = None,
    consistency: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="FIRST SECOND",
            help="Prove instead that the log only grew from FIRST to SECOND: sizes, or files of "
            "checkpoints or evidence.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
) -> None:
    """Print the proof (RFC 6962) that an event is in the log: its leaf and the hashes up to the root.

    With --consistency, print the proof that the log only grew between two checkpoints. `deployledger audit
    verify-consistency` checks it without the database.

    Examples:
        deployledger audit prove 1234
        deployledger audit prove --consistency 1000 1234
    """
    session = session_for(output, verbose)
    if (position is None) == (consistency is None) or (size is not None and consistency is not None):
        raise UsageError(
            "It is not clear what is to be proven.",
            hint="Give the position of an event, or two sizes with --consistency.",
        )
    if consistency is not None:
        first, second = consistency
        shown = _of_ledger(session, lambda ledger: _consistency(ledger, first, second))
        if session.is_json:
            session.print_json(shown.to_json())
        else:
            session.print_lines(str(shown).removesuffix("\n"))
        return
    assert position is not None  # noqa: S101  # as above
    proof = _of_ledger(session, lambda ledger: ledger.prove(position, size))
    if session.is_json:
        session.print_json(
            {
                "position": proof.position,
                "leaf_index": proof.position - 1,
                "leaf": _base64(proof.leaf),
                "leaf_hash": _base64(proof.leaf_hash),
                "size": proof.size,
                "root": _base64(proof.root),
                "path": [_base64(it) for it in proof.path],
            }
        )
        return
    session.print_lines(f"event      {proof.position}")
    session.print_lines(f"leaf hash  {_base64(proof.leaf_hash)}")
    for number, it in enumerate(proof.path):
        session.print_lines(f"{'path' if number == 0 else '':<10} {_base64(it)}")
    session.print_lines(f"root       {_base64(proof.root)}  of {proof.size} events")


def _consistency(ledger: "Ledger", first: str, second: str) -> "ConsistencyProof":
    """Return the proof between two trees, each of which has the root that was signed, if one was."""
    from deployledger.adapters.ledger.publishing import earlier_state
    from deployledger.domain.exceptions import VERIFY_HINT, ConfigurationError, LedgerError

    states = [None if it.isascii() and it.isdigit() else earlier_state(it) for it in (first, second)]
    named = zip((first, second), states, strict=True)
    sizes = [state.size if state is not None else int(text) for text, state in named]
    if sizes[0] > sizes[1]:
        raise ConfigurationError(
            f"The first size ({sizes[0]:,}) is larger than the second ({sizes[1]:,}).",
            hint="Give the earlier state first.",
        )
    proof = ledger.prove_consistency(*sizes)
    for state, root in zip(states, (proof.first_root, proof.second_root), strict=True):
        if state is not None and state.root != root:
            raise LedgerError(
                f"The log does not match the checkpoint {state.source} of its first {state.size:,} events.",
                hint=f"The checkpoint may belong to another log. {VERIFY_HINT}",
            )
    return proof


@audit.command(name="verify-consistency")
def verify_consistency(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="What `prove --consistency` printed, as text or JSON; - is standard input.",
            parser=file_to_read,
            show_default=False,
        ),
    ],
    earlier: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A signed checkpoint or evidence of the first state.",
            parser=file_to_read,
            show_default="only the hashes are checked",
        ),
    ] = None,
    later: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A signed checkpoint or evidence of the second state.",
            parser=file_to_read,
            show_default="only the hashes are checked",
        ),
    ] = None,
    key: PublicKeysOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Verify that a log only grew between two checkpoints, without any database.

    Exit code 0 if it did, 1 if that is not proven, 2 if a file cannot be read.

    Examples:
        deployledger audit verify-consistency proof.txt --earlier first.txt --later second.txt
    """
    session = session_for(output)
    with session.errors(), Interruptible():
        from deployledger.audit.consistency_proof import ConsistencyProof
        from deployledger.audit.evidence.kept_checkpoints import problem_of_signed
        from deployledger.domain.exceptions import ConfigurationError

        proof = ConsistencyProof.read(file)
        verifiers = _verifiers(key) if earlier is not None or later is not None else []
        if not verifiers and (signed := earlier or later):
            raise ConfigurationError(
                f"The signature of {signed} cannot be verified: no public key was given.",
                hint="Pass it with --key.",
            )
        problems = [] if proof.holds() else ["The proof is invalid: its hashes do not lead to both roots."]
        unsigned: list[str] = []
        for option, path, size, root in (
            ("--earlier", earlier, proof.first_size, proof.first_root),
            ("--later", later, proof.second_size, proof.second_root),
        ):
            if path is None:
                unsigned.append(
                    f"The root of the first {size:,} events was not compared with a signed checkpoint "
                    f"({option}): {_base64(root)}."
                )
            else:
                problem = problem_of_signed(_state(path), verifiers, size, root)
                problems += [f"{path} {problem}"] if problem else []
    if session.is_json:
        session.print_json(
            {**proof.to_json(), "verified": not problems, "compared": not unsigned, "problems": problems}
        )
    else:
        for problem in problems:
            session.stdout.print(f"{marks.FAILED} {escaped(problem)}", highlight=False, soft_wrap=True)
        if not problems:
            session.stdout.print(
                f"{marks.DONE} The log of {proof.second_size:,} events extends that of "
                f"{proof.first_size:,} events.",
                highlight=False,
                soft_wrap=True,
            )
        for limit in unsigned:
            session.stdout.print(f"{marks.OFF} {escaped(limit)}", highlight=False, soft_wrap=True)
    if problems:
        raise SystemExit(int(ExitCode.FAILED))


@audit.command()
def verify(
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
            show_default=False,
        ),
    ] = None,
    workers: WorkersOption = None,
    output: OutputOption = Output.TABLE,
    verbose: VerboseOption = False,
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
    session = session_for(output, verbose)
    session.reports_clock = True

    def work(service: "DeploymentService") -> "tuple[str, LogCheck]":
        from deployledger.adapters.ledger.publishing import read_checkpoint, read_checkpoints
        from deployledger.adapters.settings import load_settings

        places = checkpoint if checkpoint is not None else [*filter(None, [load_settings().checkpoints])]
        notes = [it for place in places for it in read_checkpoints(place)]
        before = read_checkpoint(since)[1] if since is not None else None
        ledger = service.ledger
        beside = service.read_models.store.findings() if since is None else []
        with Reading(session, "Verifying") as reading:
            audited = ledger.verify(
                _verifiers(key),
                notes,
                since=before,
                workers=workers_for(ledger.log, workers),
                beside=beside,
                progress=reading,
            )
        return ledger.log.schema_state().database, audited

    database, found = _of_service(session, work)
    if session.is_json:
        session.print_json({"database": database, **_told(found)})
    else:
        session.stdout.print(f"The event log in {escaped(database)}:", highlight=False, soft_wrap=True)
        _print(session, found)
    if not found.is_verified:
        raise SystemExit(int(ExitCode.FAILED))


def _print(session: Session, found: "LogCheck") -> None:
    def say(text: str) -> None:
        session.stdout.print(text, highlight=False, soft_wrap=True)

    from deployledger.audit.log_check import IN_DATABASE, UNREADABLE

    read = found.size - found.after
    say(
        f"Read {read:,} events of {found.streams:,} stream{'s' * (found.streams != 1)} "
        f"up to position {found.size:,}, in {units.duration(found.seconds)}."
    )
    if found.root is not None:
        say(f"Root {_base64(found.root)}")
    holding = [it for it in found.checkpoints if it.holds]
    for it in sorted(holding, key=lambda it: (it.is_from_outside, it.size))[-_MOST_SHOWN:]:
        named = f", named by a checkpoint of {it.named_by}" if it.named_by else ""
        say(
            f"{marks.DONE} Checkpoint of {it.size:,} events holds "
            f"({escaped(it.origin)}; {escaped(it.source)}{escaped(named)})"
        )
    if len(holding) > _MOST_SHOWN:
        say(f"{marks.DONE} … and {len(holding) - _MOST_SHOWN:,} more checkpoints")
    if found.is_in_order:
        if found.wrong_times:
            say(f"{marks.DONE} Positions and versions of streams are in order, without gaps")
            say(f"{marks.WARNING} Times are in order except for those recorded by a wrong clock (below)")
        else:
            say(f"{marks.DONE} Positions, times and versions of streams are in order, without gaps")
        say(f"{marks.DONE} Every history is legal under the lifecycle")
    for problem in found.problems[:_MOST_SHOWN]:
        say(f"{marks.FAILED} {escaped(problem.message)}")
    if len(found.problems) > _MOST_SHOWN:
        say(f"{marks.FAILED} … and {len(found.problems) - _MOST_SHOWN:,} more")
    for finding in found.findings:
        if not finding.is_problem:  # problems are above
            print_finding(session, finding)
    for limit in found.limits:
        say(f"{marks.OFF} {escaped(limit)}")
    if found.is_verified:
        if found.after < found.covered_by_database:
            since = f"from position {found.after + 1:,} " if found.after else ""
            say(f"[bold green]Verified[/] {since}up to position {found.covered_by_database:,}.")
        else:
            say(f"[bold green]Verified[/] up to position {found.after:,}, and no checkpoint covers more.")
    elif all(it.kind == UNREADABLE for it in found.problems) and found.problems:
        say("[bold red]Not verified:[/] a checkpoint cannot be verified with the keys that were given.")
    elif found.is_contradicted:
        say("[bold red]Not verified:[/] one checkpoint proves the log, and another one is not of it.")
    elif all(it.kind == IN_DATABASE for it in found.problems) and found.problems:
        say("[bold red]Not verified:[/] the database is damaged, or its definitions were changed.")
    elif found.problems:
        say("[bold red]Not verified:[/] the log is not what it was.")
    else:
        is_of_others = any(it.is_of_another_key for it in found.checkpoints)
        say(
            "[bold yellow]Not verified:[/] nothing is wrong, but no checkpoint proves it"
            + (
                ": none is signed with the keys that were given."
                if is_of_others
                else ". `deployledger audit checkpoint` makes one."
            )
        )


def _told(found: "LogCheck") -> dict[str, Any]:
    return {
        "verified": found.is_verified,
        "after": found.after,
        "size": found.size,
        "root": None if found.root is None else _base64(found.root),
        "streams": found.streams,
        "covered": found.covered,
        "covered_by_database": found.covered_by_database,
        "checkpoints": [{**vars(it), "holds": it.holds} for it in found.checkpoints],
        "problems": [it._asdict() for it in found.problems],
        "findings": [it.to_json() for it in found.findings],
        "wrong_times": [as_json(it) for it in found.wrong_times],
        "limits": list(found.limits),
        "seconds": found.seconds,
    }


def _signer(path: Path | None) -> "Signer | None":
    """Return what signs with a key that was given; None leaves it to the settings."""
    if path is None:
        return None
    from deployledger.audit.keys import Signer

    return Signer.load(path)


def _verifiers(paths: list[Path] | None) -> "list[Verifier]":
    """Return the public keys that were given, or the one beside the private key of the settings."""
    from deployledger.adapters.settings import load_settings
    from deployledger.audit.keys import Verifier

    if not paths:
        private = load_settings().audit_key
        public = private.with_name(f"{private.name}.pub") if private else None
        paths = [public] if public is not None and public.exists() else []
    return [Verifier.load(path) for path in paths]


def _state(path: Path) -> "EarlierState":
    """Return the state that a checkpoint, evidence or a folder with one checkpoint is of."""
    from deployledger.audit.evidence.kept_checkpoints import EarlierState
    from deployledger.domain.exceptions import ConfigurationError

    state, *more = EarlierState.read_all(path)
    if more:
        raise ConfigurationError(
            f"There are {len(more) + 1} checkpoints in {path}, and one is wanted.",
            hint="Name one of the files in it.",
        )
    return state


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _of_ledger(session: Session, question: "Callable[[Ledger], _T]") -> _T:
    return _of_service(session, lambda service: question(service.ledger))


def _of_service(session: Session, question: "Callable[[DeploymentService], _T]") -> _T:
    async def ask(service: "DeploymentService") -> _T:
        end_at_once_on_ctrl_c()
        return question(service)

    with Interruptible():
        return session.run(ask)
