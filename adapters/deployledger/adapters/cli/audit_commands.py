"""The commands that prove that the record was not edited: keys, checkpoints, proofs, verification."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deployledger.adapters.cli import marks
from deployledger.adapters.cli.audit_options import KeyOption, PublicKeysOption, in_base64, verifiers
from deployledger.adapters.cli.files import file_of_a_pair, file_to_read, no_stream
from deployledger.adapters.cli.help import Commands
from deployledger.adapters.cli.options import OfflineOptions, SessionOptions
from deployledger.adapters.cli.usage import UsageError

if TYPE_CHECKING:
    from deployledger.audit.evidence.kept_checkpoints import EarlierState
    from deployledger.audit.ledger import Ledger
    from deployledger.audit.ledger_store import StoredCheckpoint
    from deployledger.audit.proofs import ConsistencyProof
    from deployledger.service.deployment_service import DeploymentService

audit = Commands(name="audit", help="Prove that the record was not edited.")

_MOST_SHOWN = 20


@audit.command()
def keygen(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="The file for the private key; the public key goes to FILE.pub.",
            parser=file_of_a_pair,
            show_default="DEPLOYLEDGER_AUDIT_KEY",
        ),
    ] = None,
    *,
    name: Annotated[
        str,
        typer.Option(
            help="The owner of the key, for example example.com/deployments: the origin of its checkpoints."
        ),
    ],
    session: OfflineOptions,
) -> None:
    """Create a key pair: the private key signs checkpoints, the public key verifies them.

    Keep the private key where those who can change the database cannot read it. Give the public key to
    everyone who verifies.

    Examples:
        deployledger audit keygen ledger.key --name example.com/deployments
    """
    with session.errors():
        from deployledger.adapters.settings import load_settings
        from deployledger.audit.keys import write_pair
        from deployledger.domain.exceptions import ConfigurationError
        from deployledger.service.files.paths import expanded

        path = file or load_settings().audit_key
        if path is None:
            raise ConfigurationError(
                "No file was given for the key.", hint="Name a file, or set DEPLOYLEDGER_AUDIT_KEY."
            )
        verifier = write_pair(name, expanded(path).absolute())
    with session.reporting():
        if session.is_json:
            session.print_json(
                {"private_key": str(path), "public_key": f"{path}.pub", "verifier": str(verifier)}
            )
            return
        session.say(f"Private key  {path}  (keep it secret)")
        session.say(f"Public key   {path}.pub")
        session.say(str(verifier))
    session.note(f"`export DEPLOYLEDGER_AUDIT_KEY={path}` makes the service sign checkpoints with it.")


@audit.command()
def checkpoint(
    *,
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
    session: SessionOptions,
) -> None:
    """Sign the current state of the log, and print the signed note.

    The checkpoint is also stored in the database. Publish it where those who can change the database cannot
    change it: edits to events after the last published checkpoint cannot be detected.

    Examples:
        deployledger audit checkpoint
        deployledger audit checkpoint --key ledger.key --to checkpoints/
    """

    def work(service: "DeploymentService") -> "StoredCheckpoint":
        from deployledger.adapters.ledger.publishing import Place
        from deployledger.audit.keys import Signer

        signer = Signer.load(key) if key is not None else None
        return service.ledger.checkpoint(signer, place=Place(to) if to is not None else None)

    made = session.work(work)
    if session.is_json:
        session.print_json(
            {
                "size": made.size,
                "root": in_base64(made.root),
                "created_at": made.created_at,
                "note": made.note,
            }
        )
    else:
        session.print_lines(made.note.removesuffix("\n"))


@audit.command()
def root(
    *,
    size: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="POSITION", help="The last event to include.", show_default="the last one"
        ),
    ] = None,
    session: SessionOptions,
) -> None:
    """Print the root of the log's Merkle tree, which stands for every event up to a position.

    Examples:
        deployledger audit root
        deployledger audit root --size 1234
    """

    def work(service: "DeploymentService") -> tuple[int, bytes]:
        wanted = service.ledger.integrate() if size is None else size
        return wanted, service.ledger.root(wanted)

    events, digest = session.work(work)
    if session.is_json:
        session.print_json({"size": events, "root": in_base64(digest), "root_hex": digest.hex()})
    else:
        session.print_lines(f"{events} {in_base64(digest)}")


@audit.command()
def prove(
    position: Annotated[
        int | None, typer.Argument(metavar="POSITION", help="The event's position in the log.")
    ] = None,
    *,
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
        ),
    ] = None,
    session: SessionOptions,
) -> None:
    """Print the proof (RFC 6962) that an event is in the log: its leaf and the hashes up to the root.

    With --consistency, print the proof that the log only grew between two checkpoints. `deployledger audit
    verify-consistency` checks it without the database.

    Examples:
        deployledger audit prove 1234
        deployledger audit prove --consistency 1000 1234
    """
    if (position is None) == (consistency is None) or (size is not None and consistency is not None):
        raise UsageError(
            "Cannot tell what to prove.",
            hint="Give the position of an event, or two sizes with --consistency.",
        )
    if consistency is not None:
        first, second = consistency
        consistency_proof = session.work(lambda service: _consistency(service.ledger, first, second))
        if session.is_json:
            session.print_json(consistency_proof)
        else:
            session.print_lines(str(consistency_proof).removesuffix("\n"))
        return
    assert position is not None  # noqa: S101  # as above
    proof = session.work(lambda service: service.ledger.prove(position, size))
    if session.is_json:
        session.print_json(
            {
                "position": proof.position,
                "leaf_index": proof.position - 1,
                "leaf": in_base64(proof.leaf),
                "leaf_hash": in_base64(proof.leaf_hash),
                "size": proof.size,
                "root": in_base64(proof.root),
                "path": [in_base64(digest) for digest in proof.path],
            }
        )
        return
    session.print_lines(f"event      {proof.position}")
    session.print_lines(f"leaf hash  {in_base64(proof.leaf_hash)}")
    for number, digest in enumerate(proof.path):
        session.print_lines(f"{'path' if number == 0 else '':<10} {in_base64(digest)}")
    session.print_lines(f"root       {in_base64(proof.root)}  of {proof.size} events")


def _consistency(ledger: "Ledger", first: str, second: str) -> "ConsistencyProof":
    """Return the proof between two trees, each of which has the root that was signed, if one was."""
    from deployledger.adapters.ledger.publishing import earlier_state
    from deployledger.domain.exceptions import VERIFY_HINT, ConfigurationError, LedgerError

    states = [None if text.isascii() and text.isdigit() else earlier_state(text) for text in (first, second)]
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


def _signed_state(which: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        metavar="FILE",
        help=f"A signed checkpoint or evidence of the {which} state.",
        parser=file_to_read,
        show_default="only the hashes are checked",
    )
    return option


@audit.command(name="verify-consistency")
def verify_consistency(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="What `prove --consistency` printed, as text or JSON; - is standard input.",
            parser=file_to_read,
        ),
    ],
    *,
    earlier: Annotated[Path | None, _signed_state("first")] = None,
    later: Annotated[Path | None, _signed_state("second")] = None,
    key: PublicKeysOption = None,
    session: OfflineOptions,
) -> None:
    """Verify that a log only grew between two checkpoints, without any database.

    Exit code 0 if it did, 1 if that is not proven, 2 if a file cannot be read.

    Examples:
        deployledger audit verify-consistency proof.txt --earlier first.txt --later second.txt
    """
    with session.errors():
        from deployledger.audit.evidence.kept_checkpoints import problem_of_signed
        from deployledger.audit.proofs import ConsistencyProof
        from deployledger.domain.exceptions import ConfigurationError

        proof = ConsistencyProof.read(file)
        public_keys = verifiers(key) if earlier is not None or later is not None else []
        if not public_keys and (signed := earlier or later):
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
                    f"({option}): {in_base64(root)}."
                )
            else:
                problem = problem_of_signed(_state(path), public_keys, size, root)
                problems += [f"{path} {problem}"] if problem else []
    if session.is_json:
        session.print_json(
            {**proof.to_json(), "verified": not problems, "compared": not unsigned, "problems": problems}
        )
    else:
        for problem in problems:
            session.say(marks.FAILED.before(problem))
        if not problems:
            session.say(
                marks.DONE.before(
                    f"The log of {proof.second_size:,} events extends that of {proof.first_size:,} events."
                )
            )
        for limit in unsigned:
            session.say(marks.OFF.before(limit))
    session.exit_if(bool(problems))


def _state(path: Path) -> "EarlierState":
    """Return the state that a checkpoint, evidence or a folder with one checkpoint is of."""
    from deployledger.audit.evidence.kept_checkpoints import EarlierState
    from deployledger.domain.exceptions import ConfigurationError

    state, *more = EarlierState.read_all(path)
    if more:
        raise ConfigurationError(
            f"There are {len(more) + 1} checkpoints in {path}; exactly one is needed.",
            hint="Name one of the files in it.",
        )
    return state
