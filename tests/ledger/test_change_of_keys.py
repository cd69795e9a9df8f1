"""A change of keys: the new key signs only what continues what the old one signed, and says what that was."""

from contextlib import closing
from pathlib import Path

import pytest

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.adapters.ledger.publishing import Place, read_checkpoints
from deployledger.audit import keys
from deployledger.audit.checkpoints import Checkpoint, Claim, Continuation, open_checkpoint
from deployledger.audit.keys import Signer
from deployledger.audit.ledger import Ledger
from deployledger.audit.signed_notes import NoteError
from deployledger.domain.exceptions import LedgerError
from tests.ledger.tampering import Attacker
from tests.ledger.test_ledger import add


@pytest.fixture(params=["example.com/deployments", "example.com/after"])
def new(request: pytest.FixtureRequest) -> Signer:
    """The new key, with the name of the old one, and with another."""
    return Signer.parse(keys.generate(request.param)[0])


def test_the_first_checkpoint_of_a_new_key_names_the_last_of_the_old_one(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, new: Signer
) -> None:
    add(log, 1)
    ledger.checkpoint(signer)
    add(log, 1, first=5)
    old = ledger.checkpoint(signer)
    first = ledger.checkpoint(new)
    assert open_checkpoint(first.note, [new.verifier]).continues == Continuation(
        signer.name, signer.verifier.key_id, 4, old.root
    )
    assert first.note.split("\n")[3].startswith(f"continues {signer.name}+{signer.verifier.key_id.hex()} 4 ")
    add(log, 1, first=9)
    second = ledger.checkpoint(new)
    assert open_checkpoint(second.note, [new.verifier]).continues is None
    # Whoever goes back to the old key says so as well.
    add(log, 1, first=13)
    back = open_checkpoint(ledger.checkpoint(signer).note, [signer.verifier])
    assert back.continues == Continuation(new.name, new.verifier.key_id, 6, second.root)

    audited = ledger.verify([signer.verifier, new.verifier])
    assert audited.is_verified
    assert [(it.size, it.named_by) for it in audited.checkpoints if it.named_by] == [
        (4, new.name),
        (6, signer.name),
    ]


def test_software_that_knows_no_continuation_reads_the_checkpoint(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, new: Signer
) -> None:
    add(log, 1)
    ledger.checkpoint(signer)
    note = ledger.checkpoint(new).note
    text, signature = note.split("\n\n")
    assert text.split("\n")[:2] == [new.name, "2"]
    assert signature.startswith(f"— {new.name} ")


@pytest.mark.parametrize("where", ["database", "place"])
def test_a_log_that_contradicts_what_another_key_signed_is_not_signed(
    where: str, log: DatabaseEventLog, database_url: str, signer: Signer, new: Signer, tmp_path: Path
) -> None:
    place = Place(str(tmp_path)) if where == "place" else None
    ledger = open_ledger(log, place=place)
    add(log, 2)
    ledger.checkpoint(signer)
    attacker = Attacker(database_url, log)
    attacker.change(2, actor="nobody")
    attacker.make_tree_again()
    if where == "place":
        attacker.remove_checkpoints()
    with pytest.raises(
        LedgerError, match=rf"an earlier checkpoint of its first 4 events \({signer.name}, key"
    ):
        ledger.checkpoint(new)
    assert all(new.verifier.key_id != Claim.of(it.note).key_id for it in ledger.checkpoints())


def test_a_log_that_was_cut_off_is_not_signed_by_a_new_key(
    database_url: str, log: DatabaseEventLog, signer: Signer, new: Signer, tmp_path: Path
) -> None:
    ledger = open_ledger(log, place=Place(str(tmp_path)))
    add(log, 2)
    ledger.checkpoint(signer)
    attacker = Attacker(database_url, log)
    attacker.delete(4, 4)
    attacker.remove_checkpoints()
    attacker.make_tree_again()
    with pytest.raises(LedgerError, match="an earlier checkpoint of its first 4 events"):
        ledger.checkpoint(new)


def test_a_new_key_in_an_empty_database_continues_what_was_published(signer: Signer, tmp_path: Path) -> None:
    """The tables of the ledger were removed: the checkpoints are then only where they were published."""
    new = Signer.parse(keys.generate("example.com/after")[0])
    with closing(open_event_log("sqlite://")) as log:
        add(log, 1)
        for number in range(5):
            add(log, 1, first=5 + 4 * number)
            open_ledger(log, signer=signer, place=Place(str(tmp_path))).checkpoint()
        made = open_ledger(log, signer=new, place=Place(str(tmp_path))).checkpoint()
    named = open_checkpoint(made.note, [new.verifier]).continues
    assert named is not None
    assert (named.key_id, named.size) == (signer.verifier.key_id, 12)
    assert len(read_checkpoints(str(tmp_path))) == 6


def test_a_key_that_names_what_the_log_never_was_is_found(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, new: Signer
) -> None:
    add(log, 2)
    lie = Continuation(signer.name, signer.verifier.key_id, 3, bytes(32))
    note = Checkpoint(new.name, 4, ledger.root(4), lie).signed(new)
    audited = ledger.verify([new.verifier], [("kept", note)])
    assert not audited.is_verified
    assert f"kept, named by a checkpoint of {new.name}) does not hold" in " ".join(
        it.message for it in audited.problems
    )


@pytest.mark.parametrize(
    "line",
    [
        "continues a 1 {root}",
        "continues a+00000000 9 {root}",
        "continues a+00000000 01 {root}",
        "continues a+0000000G 1 {root}",
        "continues a+00000000 1 AAAA",
        "continues a+00000000 1 {root} more",
        "continues a+00000000 1 {root}\ncontinues a+00000000 1 {root}",
    ],
)
def test_what_is_no_continuation_is_refused(line: str) -> None:
    root = "A" * 43 + "="
    with pytest.raises(NoteError, match="not a checkpoint: origin"):
        Checkpoint.parse(f"a\n5\n{root}\n{line.format(root=root)}\n")
    assert Checkpoint.parse(f"a\n5\n{root}\nsomebody else's line\n").continues is None
