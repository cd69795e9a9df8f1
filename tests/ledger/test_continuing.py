"""Whoever kept an earlier state of a log can check that a later one continues it."""

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.adapters.ledger.publishing import read_checkpoint
from deployledger.audit import keys
from deployledger.audit.checkpoints import Checkpoint
from deployledger.audit.evidence import command_line
from deployledger.audit.evidence.export import export_evidence
from deployledger.audit.evidence.kept_checkpoints import EarlierState
from deployledger.audit.evidence.verification import EvidenceReport
from deployledger.audit.evidence.verification import verify_evidence as verify
from deployledger.audit.keys import Signer, Verifier
from deployledger.audit.ledger import Ledger
from deployledger.audit.proofs import ConsistencyProof
from deployledger.domain.exceptions import ConfigurationError, LedgerError
from tests.domain.given import history
from tests.ledger.evidence import IRIS, Evidence, fill, recorded_at, reserved, updated
from tests.ledger.test_evidence import problems


@pytest.fixture
def log() -> Iterator[DatabaseEventLog]:
    """A log that had 10 events when somebody kept a checkpoint, and has 22."""
    log = open_event_log("sqlite://")
    fill(log)
    yield log
    log.close()


@pytest.fixture
def ledger(log: DatabaseEventLog, signer: Signer) -> Ledger:
    return open_ledger(log, signer=signer)


def signed(ledger: Ledger, signer: Signer, size: int, root: bytes | None = None) -> EarlierState:
    """Return the checkpoint that was signed when the log had so many events."""
    note = Checkpoint(signer.name, size, root or ledger.root(size)).signed(signer)
    return EarlierState.of(f"kept-{size}", note)


def export(log: DatabaseEventLog, ledger: Ledger, path: Path, continues: Sequence[EarlierState] = ()) -> Path:
    export_evidence(log, ledger, None, path, deployment_id=IRIS, continues=continues)
    return path


def of_the_log(found: EvidenceReport) -> list[str]:
    """Return what is wrong with how the log continues earlier states; nothing else is."""
    assert [it.state for it in found.checks[:-1]] == ["passed"] * 8
    return [str(it) for it in found.checks[-1].problems]


def test_evidence_continues_the_checkpoints_that_it_has_proofs_for(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    kept = [signed(ledger, signer, it) for it in (10, 1, 22, 8, 10)]
    path = export(log, ledger, tmp_path / "new.zip", kept)
    evidence = Evidence.read(path, signer)
    assert [it["size"] for it in evidence.lines("consistency.jsonl")] == [1, 8, 10, 22]
    found = verify(path, signer.verifier)
    assert found.is_verified
    assert (found.checks[-1].what, found.checks[-1].count) == ("the log continues its earlier checkpoints", 4)
    assert verify(path, signer.verifier, earlier=[*kept, signed(ledger, signer, 0)]).is_verified
    assert "consistency.jsonl" in evidence.members["README.md"].decode()


def test_earlier_evidence_is_continued_by_later_evidence(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    old = EarlierState.read(export(log, ledger, tmp_path / "old.zip"))
    log.append([*reserved("lily", IRIS)])
    new = tmp_path / "new.zip"
    export_evidence(log, ledger, signer, new, since=recorded_at(log, 1), continues=[old])
    found = verify(new, signer.verifier, earlier=[old])
    assert of_the_log(found) == []
    assert found.is_verified
    # The other way round, the older evidence is passed off as the newer one.
    found = verify(tmp_path / "old.zip", signer.verifier, earlier=[EarlierState.read(new)])
    (problem,) = of_the_log(found)
    assert "covers 23 events, and this evidence only 22" in problem


def test_what_is_said_where_the_evidence_has_no_proof(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    path = export(log, ledger, tmp_path / "new.zip")
    kept = signed(ledger, signer, 10)
    found = verify(path, signer.verifier, earlier=[kept])
    assert not found.is_verified
    (problem,) = of_the_log(found)
    assert "this evidence has no proof from 10 events. Ask for" in problem
    assert "`deployledger audit prove --consistency 10 22`" in problem
    proof = ledger.prove_consistency(10, 22)
    assert verify(path, signer.verifier, earlier=[kept], proofs=[proof]).is_verified
    other = ledger.prove_consistency(10, 21)
    found = verify(path, signer.verifier, earlier=[kept], proofs=[other])
    assert "leads to another tree of 21 events" in of_the_log(found)[0]
    wrong = ConsistencyProof(10, proof.first_root, 22, proof.second_root, proof.path[:-1])
    assert "is invalid" in of_the_log(verify(path, signer.verifier, earlier=[kept], proofs=[wrong]))[0]


@pytest.mark.parametrize("size", [10, 22, 3])
def test_two_histories_that_one_key_signed_contradict_each_other(
    size: int, log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    """Who has the key showed somebody else another history."""
    path = export(log, ledger, tmp_path / "new.zip", [signed(ledger, signer, 10)])
    other = signed(ledger, signer, size, root=bytes(32))
    found = verify(path, signer.verifier, earlier=[other])
    assert not found.is_verified
    (problem,) = of_the_log(found)
    if size == 3:
        assert "no proof from 3 events" in problem, "and no such proof can be had"
    else:
        assert f"contradicts this evidence: the roots of the first {size} events differ" in problem


def test_a_log_that_does_not_continue_a_checkpoint_gives_no_such_evidence(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    for kept in (signed(ledger, signer, 10, root=bytes(32)), signed(ledger, signer, 30, root=bytes(32))):
        with pytest.raises(LedgerError, match=rf"does not continue the checkpoint kept-{kept.size}"):
            export(log, ledger, tmp_path / "no.zip", [kept])
    assert list(tmp_path.iterdir()) == []


DOES_NOT_LEAD = "the proof from 8 events does not lead to the checkpoint"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: it["path"].pop(), DOES_NOT_LEAD),
        (lambda it: it["path"].append(it["root"]), DOES_NOT_LEAD),
        (lambda it: it["path"].reverse(), DOES_NOT_LEAD),
        (
            lambda it: it.update(root="A" * 43 + "="),
            DOES_NOT_LEAD,
        ),
        (lambda it: it.update(size=9), "the proof from 9 events does not lead to the checkpoint"),
        (lambda it: it.update(size=23), "a proof from 23 events is not between 0 events and the checkpoint"),
        (
            lambda it: it.update(size=0, path=[]),
            "a proof from 0 events is not between 0 events and the checkpoint",
        ),
        (lambda it: it.update(size=8.0), "the line is not a consistency proof"),
        (lambda it: it.update(size="8"), "the line is not a consistency proof"),
        (lambda it: it.update(size=True), "the line is not a consistency proof"),
        (lambda it: it.update(more=1), "the line is not a consistency proof"),
        (lambda it: it.update(path="AAAA"), "the line is not a consistency proof"),
        (lambda it: it.pop("root"), "the line is not a consistency proof"),
    ],
)
def test_a_proof_that_was_changed_by_who_has_the_key(
    change: Callable[[dict[str, Any]], Any],
    says: str,
    log: DatabaseEventLog,
    ledger: Ledger,
    signer: Signer,
    tmp_path: Path,
) -> None:
    path = export(log, ledger, tmp_path / "new.zip", [signed(ledger, signer, it) for it in (8, 10)])
    evidence = Evidence.read(path, signer)
    evidence.edit("consistency.jsonl", 0, change)
    evidence.sign_again()
    assert f"consistency.jsonl line 1: {says}" in problems(evidence, tmp_path)


def test_proofs_cannot_be_taken_out_or_be_none(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    path = export(log, ledger, tmp_path / "new.zip", [signed(ledger, signer, 8)])
    evidence = Evidence.read(path, signer)
    evidence.members["consistency.jsonl"] = b""
    evidence.sign_again()
    assert problems(evidence, tmp_path) == ["consistency.jsonl: it has no proof"]
    del evidence.members["consistency.jsonl"]
    assert "consistency.jsonl: it is missing" in problems(evidence, tmp_path)


def test_evidence_after_a_change_of_keys_is_verified_with_both(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    kept = EarlierState.of("kept", ledger.checkpoint().note)
    new = Signer.parse(keys.generate(signer.name)[0])
    log.append([*reserved("lily", IRIS)])
    path = tmp_path / "new.zip"
    export_evidence(log, ledger, new, path, since=recorded_at(log, 1), continues=[kept])
    assert verify(path, [signer.verifier, new.verifier], earlier=[kept]).is_verified
    assert verify(path, new.verifier).is_verified
    (problem,) = of_the_log(verify(path, new.verifier, earlier=[kept]))
    assert "kept proves nothing. It is not signed by" in problem
    assert not verify(path, signer.verifier).is_verified
    # What the new key's first checkpoint says of the old key's last one has to fit what was kept.
    other = EarlierState.of("other", Checkpoint(signer.name, 22, bytes(32)).signed(signer))
    bare = tmp_path / "bare.zip"
    export_evidence(log, ledger, new, bare, since=recorded_at(log, 1))
    (problem,) = of_the_log(verify(bare, [signer.verifier, new.verifier], earlier=[other]))
    assert "other contradicts this evidence" in problem
    with pytest.raises(ConfigurationError, match="none was given"):
        verify(path, [])


def test_one_key_signs_all_of_the_evidence(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    other = Signer.parse(keys.generate(signer.name)[0])
    evidence = Evidence.read(export(log, ledger, tmp_path / "new.zip"), signer)
    evidence.members["checkpoint.txt"] = Checkpoint(other.name, 22, ledger.root()).signed(other).encode()
    evidence.sign_again()
    found = verify(evidence.write(tmp_path / "mixed.zip"), [signer.verifier, other.verifier])
    assert any(str(it).startswith("checkpoint.txt: It is not signed by") for it in found.problems)


# Proofs as files ------------------------------------------------------------------------------------------


def test_a_proof_is_read_as_it_was_written(ledger: Ledger) -> None:
    for first, second in ((1, 1), (1, 22), (8, 22), (16, 22), (22, 22)):
        proof = ledger.prove_consistency(first, second)
        assert proof.holds()
        assert ConsistencyProof.parse(str(proof).encode()) == proof
        for indent in (None, 2):
            assert ConsistencyProof.parse(json.dumps(proof.to_json(), indent=indent).encode()) == proof
        assert not ConsistencyProof(first, bytes(32), second, proof.second_root, proof.path).holds()
    assert not ConsistencyProof(22, proof.second_root, 8, proof.first_root, ()).holds()


TEXTS = [
    ("version 1", "version 2"),
    ("version 1", "version 01"),
    ("deployledger consistency proof", "consistency proof"),
    ("first 8", "first 08"),
    ("first 8", "first 8.0"),
    ("first 8", "first -8"),
    ("first 8", "first 9223372036854775808"),
    ("first", "second"),
    ("=\n", "\n"),
    ("\n", "\r\n"),
    ("\n", " \n"),
]


@pytest.mark.parametrize(("old", "new"), TEXTS)
def test_a_text_that_is_no_proof(old: str, new: str, ledger: Ledger) -> None:
    text = str(ledger.prove_consistency(8, 22))
    assert old in text
    with pytest.raises(ConfigurationError, match="Not a consistency proof"):
        ConsistencyProof.parse(text.replace(old, new, 1).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 1.0),
        ("version", True),
        ("first_size", "8"),
        ("first_size", 8.0),
        ("first_size", -1),
        ("first_root", "AAAA"),
        ("path", "AAAA"),
        ("path", [1]),
        ("format", "proof"),
        ("more", 1),
    ],
)
def test_json_that_is_no_proof(name: str, value: Any, ledger: Ledger) -> None:
    fields = ledger.prove_consistency(8, 22).to_json() | {name: value}
    with pytest.raises(ConfigurationError, match="Not a consistency proof"):
        ConsistencyProof.parse(json.dumps(fields).encode())


def test_json_with_a_name_twice_is_no_proof(ledger: Ledger) -> None:
    text = json.dumps(ledger.prove_consistency(8, 22).to_json()).replace("{", '{"first_size":1,', 1)
    with pytest.raises(ConfigurationError, match="Not a consistency proof"):
        ConsistencyProof.parse(text.encode())


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"{", b"[]", b"{" * 100_000, b"x" * (2 << 20)])
def test_a_file_that_has_no_proof(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "proof"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not a consistency proof"):
        ConsistencyProof.read(path)
    for other in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            ConsistencyProof.read(other)


# What was kept is none --------------------------------------------------------------------------------------

PUBLIC = "example.com/d+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "it is empty"),
    "blank": (lambda _: b" \n\n", "it is empty"),
    "line ends of Windows": (lambda it: it.replace(b"\n", b"\r\n"), "its lines end with CR LF"),
    "line ends of old": (lambda it: it.replace(b"\n", b"\r"), "its lines end with CR LF"),
    "a mark in front": (lambda it: b"\xef\xbb\xbf" + it, "a byte order mark"),
    "UTF-16": (lambda it: it.decode().encode("utf-16"), "not UTF-8"),
    "spaces at the end of lines": (lambda it: it.replace(b"\n", b" \n", 2), "begins or ends with spaces"),
    "an indent": (lambda it: it.replace(b"\n", b"\n  ", 1), "begins or ends with spaces"),
    "several": (lambda it: it + it, "several signed notes"),
    "several with an empty line between": (lambda it: it + b"\n" + it, "several signed notes"),
    "empty lines at the end": (lambda it: it + b"\n", "empty lines after its signatures"),
    "no line end": (lambda it: it[:-1], "text, a blank line, and signatures"),
    "no signature": (lambda it: it.partition(b"\n\n")[0] + b"\n", "text, a blank line, and signatures"),
    "binary": (lambda _: bytes(range(256)), "not UTF-8"),
    "zeros": (lambda _: bytes(300), "binary"),
    "large": (lambda it: it * 10_000, "too large"),
    "a signature of other base64": (lambda it: it[:-2] + b"\n", "is not a signature line of a signed note"),
    "a size that is none": (lambda it: it.replace(b"\n22\n", b"\n022\n"), "not a checkpoint: origin"),
    "a size of other digits": (
        lambda it: it.replace(b"\n22\n", "\n\u0662\u0662\n".encode()),
        "not a checkpoint: origin",
    ),
    "another note": (lambda it: it.replace(b"\n22\n", b"\n"), "not a checkpoint: origin"),
    "a public key": (
        lambda _: b"example.com/d+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\n",
        "text, a",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_that_is_no_checkpoint_is_said_to_be_none(name: str, ledger: Ledger, tmp_path: Path) -> None:
    change, says = DAMAGE[name]
    path = tmp_path / "kept"
    path.write_bytes(change(ledger.checkpoint().note.encode()))
    for read in (EarlierState.read, lambda it: read_checkpoint(str(it))):
        with pytest.raises(ConfigurationError, match=says) as error:
            read(path)
        assert f"{path} is not a checkpoint" in str(error.value)
        assert error.value.status_code == 400, "which is exit code 2"


def test_a_zip_file_without_a_checkpoint_is_said_to_have_none(tmp_path: Path) -> None:
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a", "b")
    with pytest.raises(ConfigurationError, match=r"there is no checkpoint\.txt in it"):
        EarlierState.read(path)
    for other in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            EarlierState.read(other)


# The programs -----------------------------------------------------------------------------------------------


def test_the_verifier_that_stands_alone_takes_what_was_kept(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, key, kept, proof = (tmp_path / it for it in ("new.zip", "key.pub", "kept", "proof"))
    export(log, ledger, new)
    key.write_text(f"{signer.verifier}\n")
    kept.write_text(str(signed(ledger, signer, 10).note))
    proof.write_text(str(ledger.prove_consistency(10, 22)))
    other = tmp_path / "other.pub"
    other.write_text(keys.generate("example.com/other")[1])

    def run(*more: str | Path) -> tuple[int, str]:
        code = command_line.main([str(new), "--key", str(other), "--key", str(key), *map(str, more)])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    assert run()[0] == 0
    code, shown = run("--earlier", kept)
    assert (code, "no proof from 10 events" in shown) == (1, True)
    code, shown = run("--earlier", kept, "--consistency", proof)
    assert (code, "the log continues its earlier checkpoints (2 checked)" in shown) == (0, True)
    assert "pass the checkpoint" not in shown
    assert f"{kept} is continued: 10 events" in shown
    folder = tmp_path / "folder"
    folder.mkdir()
    for size in (1, 22):
        (folder / f"{size}.checkpoint").write_text(str(signed(ledger, signer, size).note))
    code, shown = run("--earlier", folder, "--consistency", proof)
    assert (code, "1.checkpoint may be continued, but this evidence has no proof" in shown) == (1, True)
    assert f"{folder / '22.checkpoint'} is continued: 22 events" in shown
    assert run("--earlier", key)[0] == run("--consistency", kept)[0] == run("--earlier", tmp_path)[0] == 2


def test_updated_histories_fit_the_names_of_their_deployments() -> None:
    assert {it.name for it in history(*updated("rose")) if hasattr(it, "name")} == {"rose"}


def test_a_public_key_has_one_spelling(tmp_path: Path, signer: Signer) -> None:
    text, path = str(signer.verifier), tmp_path / "key.pub"
    name, key_id, key = text.split("+", 2)
    for content, says in [
        (f"{text}\r\n", ""),
        (f"{name}+{key_id.upper()}+{key}", "not an Ed25519 public key" if key_id.upper() != key_id else ""),
        (f"{name}+{key_id[:4]} {key_id[4:]}+{key}", "not an Ed25519 public key"),
        (f"{text}=", "not an Ed25519 public key"),
        (f"\ufeff{text}", "begins with a byte order mark"),
        ("", "it is empty"),
        (f"{text}\n{text}\n", "it has 2 lines instead of one"),
        ("x" * 5000, "more than 4,096 bytes"),
    ]:
        path.write_bytes(content.encode())
        if not says:
            assert Verifier.load(path) == signer.verifier
            continue
        with pytest.raises(ConfigurationError, match=says) as error:
            Verifier.load(path)
        assert str(path) in str(error.value)
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        Verifier.load(path)
