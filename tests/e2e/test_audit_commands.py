"""Keys, checkpoints, proofs and verifying, from the command line."""

import base64
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.audit import merkle
from deployledger.audit.keys import write_pair
from tests.domain.given import request as wanted
from tests.e2e.conftest import CommandLine


@pytest.fixture
async def cli(tmp_path: Path) -> CommandLine:
    """A command line whose log has a few events, of deployments that nothing runs."""
    command_line = CommandLine(tmp_path / "home")
    async with MLModelDeploymentService(home=command_line.home, actor="ann", run_jobs=False) as service:
        iris = await service.deploy_model(wanted())
        await service.cancel_deployment(iris.deployment_id)
    return command_line


def test_from_a_key_to_a_verified_log(cli: CommandLine, tmp_path: Path) -> None:
    key, folder = tmp_path / "audit.key", tmp_path / "checkpoints"
    done = cli.run("audit", "keygen", str(key), "--name", "example.com/deployments")
    assert done.returncode == 0, done.stderr
    assert "PRIVATE" not in done.stdout + done.stderr
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    cli.environment["DEPLOYLEDGER_AUDIT_KEY"] = str(key)

    done = cli.run("audit", "verify")
    assert done.stdout.startswith(f"The event log in {cli.home / 'deployledger.db'}:\nRead ")
    assert done.returncode == 1
    assert "no checkpoint proves it" in done.stdout

    checkpoint = cli.json("audit", "checkpoint", "--to", str(folder))
    assert checkpoint["size"] == 3
    assert [it.read_text() for it in folder.iterdir()] == [checkpoint["note"]]
    assert cli.run("audit", "checkpoint").stdout == checkpoint["note"]
    assert cli.json("audit", "root")["root"] == checkpoint["root"]

    proof = cli.json("audit", "prove", "2")
    decoded = {name: base64.b64decode(proof[name]) for name in ("leaf", "leaf_hash", "root")}
    assert merkle.leaf_hash(decoded["leaf"]) == decoded["leaf_hash"]
    path = [base64.b64decode(it) for it in proof["path"]]
    found = merkle.root_from_inclusion(proof["leaf_index"], proof["size"], decoded["leaf_hash"], path)
    assert found == decoded["root"] == base64.b64decode(checkpoint["root"])

    done = cli.run("audit", "verify", "--checkpoint", str(folder))
    assert done.returncode == 0, done.stdout
    assert "Verified up to position 3." in done.stdout
    done = cli.run("audit", "verify", "--since", str(folder))
    assert "Verified up to position 3; no checkpoint covers more." in done.stdout
    write_pair("example.com/other", tmp_path / "other.key")
    done = cli.run("audit", "verify", "--key", str(tmp_path / "other.key.pub"))
    assert done.returncode == 1
    assert "no checkpoint proves it: none is signed with the keys that were given." in done.stdout
    verified = cli.json("audit", "verify", "--checkpoint", str(folder), "--key", f"{key}.pub")
    assert (verified["verified"], verified["covered"], verified["problems"]) == (True, 3, [])

    with closing(sqlite3.connect(cli.home / "deployledger.db")) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {name}")
        database.execute("UPDATE events SET actor = 'mallory' WHERE position = 2")
        database.commit()
    done = cli.run("audit", "verify", "--checkpoint", str(folder))
    assert done.returncode == 1
    assert "✗ Event 2 is not the one that was signed" in done.stdout
    assert "Verified" not in done.stdout
    told = cli.json("audit", "verify", "--checkpoint", str(folder), exit_code=1)
    assert (told["verified"], told["problems"][0]["position"]) == (False, 2)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("checkpoint",), 2, "No key to sign checkpoints was given"),
        (("checkpoint", "--key", "/nowhere"), 2, "cannot be read"),
        (("verify", "--key", "/nowhere"), 2, "cannot be read"),
        (("verify", "--checkpoint", "/nowhere"), 2, "cannot be read"),
        (("verify", "--workers", "0"), 2, "out of range"),
        (("prove", "4"), 2, "There is no event 4 among the first 3"),
        (("prove", "3", "--size", "2"), 2, "There is no event 3 among the first 2"),
        (("prove",), 2, "Give the position of an event, or two sizes"),
        (("prove", "--consistency", "3", "2"), 2, "The first size (3) is larger than the second (2)"),
        (("prove", "--consistency", "1", "9"), 2, "no tree of 9 events"),
        (("prove", "--consistency", "1", "/nowhere"), 2, "cannot be read"),
        (("verify-consistency", "/dev/null"), 2, "is not a consistency proof"),
        (("root", "--size", "9"), 2, "no tree of 9 events"),
        (("keygen", "--name", "a"), 2, "No file was given for the key"),
        (("keygen", "/dev/null/key", "--name", "a"), 2, "cannot be written"),
        (("keygen", "k", "--name", "a b"), 2, "cannot be the name of a key"),
    ],
)
def test_wrong_input(cli: CommandLine, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = cli.run("audit", *arguments)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())


def test_a_checkpoint_that_is_newer_than_the_log(cli: CommandLine, tmp_path: Path) -> None:
    key = tmp_path / "audit.key"
    cli.run("audit", "keygen", str(key), "--name", "example.com/deployments")
    cli.environment["DEPLOYLEDGER_AUDIT_KEY"] = str(key)
    cli.run("audit", "checkpoint", "--to", str(tmp_path / "kept"))
    cli.home = tmp_path / "another home"
    done = cli.run("audit", "verify", "--checkpoint", str(tmp_path / "kept"))
    assert done.returncode == 1
    assert "It covers 3 events, and the log has 0: the log was truncated, or is another one." in done.stdout
    assert "the log was changed" in done.stdout
    since = next((tmp_path / "kept").iterdir())
    done = cli.run("audit", "verify", "--since", str(since))
    assert done.returncode == 1
    assert "truncated" in done.stderr


def test_a_proof_that_the_log_only_grew_needs_no_database(cli: CommandLine, tmp_path: Path) -> None:
    key, kept, proof = tmp_path / "audit.key", tmp_path / "kept", tmp_path / "proof"
    cli.run("audit", "keygen", str(key), "--name", "example.com/deployments")
    kept.write_text(cli.run("audit", "checkpoint", "--key", str(key)).stdout)
    proof.write_text(cli.run("audit", "prove", "--consistency", "2", str(kept)).stdout)
    elsewhere = CommandLine(
        tmp_path / "auditor", {"DEPLOYLEDGER_DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    )
    with_key = ("--later", str(kept), "--key", f"{key}.pub")
    verified = elsewhere.json("audit", "verify-consistency", str(proof), *with_key)
    assert (verified["verified"], verified["first_size"], verified["second_size"]) == (True, 2, 3)
    done = elsewhere.run(
        "audit", "verify-consistency", str(proof), "--earlier", str(kept), "--key", f"{key}.pub"
    )
    assert (done.returncode, "covers 3 events, but the proof covers 2" in done.stdout) == (1, True), (
        done.stderr
    )
    assert "The root of the first 3 events was not compared" in done.stdout
    assert "The root of the first 2 events" not in done.stdout
    done = elsewhere.run("audit", "verify-consistency", str(proof), "--later", str(kept))
    assert (done.returncode, "Pass it with --key." in done.stderr) == (2, True)
    # A checkpoint that was converted on its way is none, which is no finding about the log.
    kept.write_bytes(kept.read_bytes().replace(b"\n", b"\r\n"))
    done = cli.run("audit", "verify", "--checkpoint", str(kept), "--key", f"{key}.pub")
    assert (done.returncode, "its lines end with CR LF" in done.stderr) == (2, True), done.stderr


def test_there_are_checkpoints_and_no_key(cli: CommandLine, tmp_path: Path) -> None:
    key = tmp_path / "audit.key"
    cli.run("audit", "keygen", str(key), "--name", "example.com/deployments")
    assert cli.run("audit", "checkpoint", "--key", str(key)).returncode == 0
    done = cli.run("audit", "verify")
    assert done.returncode == 2
    assert "no public key to verify their signatures" in done.stderr
    done = cli.run("audit", "verify", "--key", str(key))
    assert done.returncode == 2
    assert "This is a private key; the public one is needed" in done.stderr


def test_a_checkpoint_that_cannot_be_published_is_told_once(cli: CommandLine, tmp_path: Path) -> None:
    key, place = tmp_path / "audit.key", tmp_path / "checkpoints"
    write_pair("example.com/deployments", key)
    place.write_text("a file is in the way")
    cli.environment |= {"DEPLOYLEDGER_AUDIT_KEY": str(key), "DEPLOYLEDGER_CHECKPOINTS": str(place)}
    (tmp_path / "model.pkl").write_bytes(b"x")
    done = cli.run("deploy", tmp_path / "model.pkl", "--name", "pickled")
    assert done.returncode == 1, "the exit code is that of the deployment, which failed"
    [told] = [line for line in done.stderr.splitlines() if "heckpoint" in line]
    assert told.startswith("A checkpoint is delayed: The checkpoint of 8 events cannot be written to")
    assert told.endswith("It is in the database, and is written again with the next one.")
