"""Checkpoints that are made while events are added, and where they are published."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.adapters.ledger.publishing import Place, read_checkpoint, read_checkpoints
from deployledger.audit.checkpointing import keep_checkpoints
from deployledger.audit.checkpoints import open_checkpoint
from deployledger.audit.keys import Signer
from deployledger.audit.ledger import Ledger
from deployledger.audit.ledger_store import StoredCheckpoint
from deployledger.domain.exceptions import ConfigurationError, ExternalServiceError
from tests.domain.given import request as wanted
from tests.ledger.test_ledger import add


@contextmanager
def kept(ledger: Ledger, **every: float) -> Iterator[list[Exception]]:
    stopping, problems = threading.Event(), list[Exception]()
    thread = threading.Thread(
        target=lambda: keep_checkpoints(
            ledger,
            stopping,
            every_events=int(every.get("events", 1000)),
            every_seconds=every.get("seconds", 1000.0),
            on_problem=problems.append,
        )
    )
    thread.start()
    try:
        yield problems
    finally:
        stopping.set()
        thread.join(60)
        assert not thread.is_alive()


def eventually(is_so: Callable[[], bool]) -> None:
    latest = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < latest
        time.sleep(0.02)


def sizes(ledger: Ledger) -> list[int]:
    return [it.size for it in ledger.checkpoints()]


def test_after_so_many_events(log: DatabaseEventLog, signer: Signer) -> None:
    ledger = open_ledger(log, signer=signer)
    add(log, 1)
    with kept(ledger, events=4):
        eventually(lambda: sizes(ledger) == [2])  # those that were there before it
        add(log, 1, first=5)
        time.sleep(1.2)
        assert sizes(ledger) == [2]
        add(log, 1, first=9)
        eventually(lambda: sizes(ledger) == [2, 6])
        add(log, 1, first=13)
    assert sizes(ledger) == [2, 6, 8], "the rest has one when it ends"


def test_after_so_many_seconds(log: DatabaseEventLog, signer: Signer) -> None:
    ledger = open_ledger(log, signer=signer)
    with kept(ledger, seconds=0.05):
        add(log, 1)
        eventually(lambda: sizes(ledger)[-1:] == [2])  # there may be one of the first event alone
        before = sizes(ledger)
        time.sleep(0.3)
        assert sizes(ledger) == before, "none without new events"
        add(log, 1, first=5)
        eventually(lambda: sizes(ledger)[-1] == 4)


def test_one_of_several_makes_them(log: DatabaseEventLog, database_url: str, signer: Signer) -> None:
    log.position()  # this creates the schema
    other_log = open_event_log(database_url, pool_size=3)
    ledger, other = open_ledger(log, signer=signer), open_ledger(other_log, signer=signer)
    with kept(ledger, seconds=0.02), kept(other, seconds=0.02):
        for number in range(5):
            add(log, 1, first=1 + 10 * number)
            time.sleep(0.1)
    assert sizes(ledger) == sorted(set(sizes(ledger)))
    assert sizes(ledger)[-1] == 10
    other_log.close()


def test_what_cannot_be_published_is_told_and_published_later(
    log: DatabaseEventLog, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployledger.audit.checkpointing._AGAIN_SECONDS", 0.05)
    folder = tmp_path / "checkpoints"
    folder.write_text("a file is in the way")
    ledger = open_ledger(log, signer=signer, place=Place(str(folder)))
    add(log, 1)
    with kept(ledger, seconds=0.05) as problems:
        eventually(lambda: bool(problems))
        assert "cannot be written" in str(problems[0])
        folder.unlink()
        eventually(lambda: folder.is_dir() and any(folder.iterdir()))
    [(_, note)] = read_checkpoints(str(folder))
    assert open_checkpoint(note, [signer.verifier]).size == 2


def test_what_signs_may_fail_in_any_way(
    log: DatabaseEventLog, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployledger.audit.checkpointing._AGAIN_SECONDS", 0.02)
    failures = [RuntimeError("the key server is away"), OSError("so is the network")]

    def sign(text: bytes) -> bytes:
        if failures:
            raise failures.pop()
        return signer.sign(text)

    ledger = open_ledger(log, signer=Signer(signer.verifier, sign))
    add(log, 1)
    with kept(ledger, seconds=0.05) as problems:
        eventually(lambda: sizes(ledger) == [2])
    assert [str(it) for it in problems] == ["so is the network", "the key server is away"]


@pytest.mark.parametrize("every", [(0, 1.0), (1, 0.0)])
def test_what_is_out_of_range(every: tuple[int, float], signer: Signer) -> None:
    log = open_event_log("sqlite://")
    with pytest.raises(ConfigurationError, match="out of range"):
        keep_checkpoints(open_ledger(log), threading.Event(), every_events=every[0], every_seconds=every[1])
    log.close()


async def test_a_service_with_a_key_makes_them(
    database_url: str, key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYLEDGER_AUDIT_KEY", str(key_file))
    monkeypatch.setenv("DEPLOYLEDGER_CHECKPOINTS", str(tmp_path / "checkpoints"))
    async with MLModelDeploymentService(database_url=database_url) as service:
        deployment = await service.deploy_model(wanted())
        await service.wait_for_deployment(deployment.deployment_id, timeout=60)
        end = service.event_log.position()
    signer = Signer.load(key_file)
    name, note = read_checkpoints(str(tmp_path / "checkpoints"))[-1]
    assert open_checkpoint(note, [signer.verifier]).size >= end
    assert signer.verifier.key_id.hex() in name
    async with MLModelDeploymentService(database_url=database_url, run_jobs=False) as service:
        audited = service.ledger.verify([signer.verifier], [(name, note)])
    assert audited.is_verified
    assert audited.covered == audited.size


async def test_a_key_that_others_can_read_is_refused(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file.chmod(0o644)
    monkeypatch.setenv("DEPLOYLEDGER_AUDIT_KEY", str(key_file))
    with pytest.raises(ConfigurationError, match="can be read or written by others"):
        MLModelDeploymentService()


def test_who_makes_them_is_killed(database_url: str, key_file: Path, signer: Signer) -> None:
    program = """
import sys, threading
from pathlib import Path
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit.checkpointing import keep_checkpoints
from deployledger.audit.keys import Signer
log = open_event_log(sys.argv[1], create=True)
log.position()
print("ready", flush=True)
keep_checkpoints(open_ledger(log, signer=Signer.load(Path(sys.argv[2]))), threading.Event(),
                 every_events=1, every_seconds=0.01)
"""
    log = open_event_log(database_url, create=True)
    log.position()
    ledger = open_ledger(log, signer=Signer.load(key_file))
    for number in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, database_url, str(key_file)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before = len(sizes(ledger))
        add(log, 50, first=1 + number * 1000)
        eventually(lambda before=before: len(sizes(ledger)) > before)  # type: ignore[misc]
        add(log, 50, first=500 + number * 1000)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    ledger.checkpoint()
    audited = ledger.verify([Signer.load(key_file).verifier])
    assert audited.is_verified, audited.problems
    assert audited.covered_by_database == 600
    log.close()


# Places ---------------------------------------------------------------------------------------------


def made(signer: Signer, size: int = 2) -> StoredCheckpoint:
    log = open_event_log("sqlite://")
    add(log, size // 2)
    checkpoint = open_ledger(log, signer=signer).checkpoint()
    log.close()
    return checkpoint


@pytest.mark.parametrize("kind", ["path", "file", "memory"])
def test_a_place_has_a_file_for_each(kind: str, signer: Signer, tmp_path: Path) -> None:
    place = {
        "path": str(tmp_path / "a folder"),
        "file": f"file://{tmp_path}/a%20folder",
        "memory": f"memory://{tmp_path.name}",
    }[kind]
    first, second = made(signer), made(signer, 4)
    for it in (first, second, first):
        Place(place).publish(it)
    found = read_checkpoints(place)
    assert [note.decode() for _, note in found] == [first.note, second.note]
    with pytest.raises(ConfigurationError, match=r"There are 2 checkpoints at .*; exactly one is needed."):
        read_checkpoint(place)
    [(source, note)] = read_checkpoints(
        f"{place}/000000000004-{signer.verifier.key_id.hex()}.checkpoint".replace("%20", " ")
    )
    assert note.decode() == second.note
    assert "000000000004" in source
    if kind == "memory":
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


@pytest.mark.parametrize("kind", ["path", "memory"])
def test_another_checkpoint_of_the_same_size_is_not_replaced(
    kind: str, signer: Signer, tmp_path: Path
) -> None:
    place = str(tmp_path / "folder") if kind == "path" else f"memory://{tmp_path.name}"
    first, other = made(signer), made(signer)  # of two logs
    Place(place).publish(first)
    with pytest.raises(ExternalServiceError, match="is a different checkpoint of the same size"):
        Place(place).publish(other)
    assert [note.decode() for _, note in read_checkpoints(place)] == [first.note]


def test_places_that_there_are_not(signer: Signer, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no checkpoint at .*: no file ends with"):
        read_checkpoints(str(tmp_path))
    with pytest.raises(
        ConfigurationError, match=r"cannot be read: No such file or directory\. Name the file"
    ):
        read_checkpoints(str(tmp_path / "none"))
    for uri in ("nonsense://ann:secret@host/x", "ftp://ann:secret@127.0.0.1:1/x", "github://o:secret@r/x"):
        with pytest.raises((ConfigurationError, ExternalServiceError), match="annot be") as error:
            Place(uri).publish(made(signer))
        assert "secret" not in str(error.value)
        assert error.value.__suppress_context__
    with pytest.raises(ConfigurationError, match=r"no checkpoint at|cannot be read"):
        read_checkpoints("memory://nothing-there")
