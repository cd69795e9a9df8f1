"""Evidence: what was taken out verifies, and nothing that was changed in it does."""

import base64
import json
import os
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_ai_layer.machine_learning_service.ml_model_deployment_service import MLModelDeploymentService
from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit import keys, merkle
from deployledger.audit.checkpoints import Checkpoint
from deployledger.audit.evidence import archive, cloud_events, export
from deployledger.audit.evidence.archive import UnreadableEvidenceError
from deployledger.audit.evidence.cloud_events import NotCanonicalError, Recorded
from deployledger.audit.evidence.export import export_evidence
from deployledger.audit.evidence.manifest import Manifest
from deployledger.audit.evidence.verification import EvidenceReport, verify_evidence
from deployledger.audit.keys import Signer
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.ledger import Ledger
from deployledger.audit.signed_notes import sign
from deployledger.domain.event_records import EventRecord
from deployledger.domain.exceptions import (
    ConfigurationError,
    ConflictError,
    LedgerError,
    ResourceNotFoundError,
)
from tests.domain.given import SERVING, fetched, history, packaged, provisioned, request, requested
from tests.e2e.conftest import CommandLine
from tests.ledger.evidence import IRIS, ROSE, Evidence, fill, recorded_at, reserved, stored
from tests.ledger.tampering import Attacker

MEMBERS = {
    "README.md",
    "report.html",
    "manifest.txt",
    "checkpoint.txt",
    "key.pub",
    "events.jsonl",
    "proofs.jsonl",
    "MAPPING.md",
}
TICK = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def memory() -> Iterator[tuple[DatabaseEventLog, Ledger]]:
    log = open_event_log("sqlite://")
    fill(log)
    ledger = open_ledger(log)
    yield log, ledger
    ledger.store.close()
    log.close()


@pytest.fixture(scope="module")
def of_iris(
    memory: tuple[DatabaseEventLog, Ledger], signer: Signer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("evidence") / "iris.zip"
    export_evidence(*memory, signer, path, deployment_id=IRIS)
    return path


@pytest.fixture(scope="module")
def of_range(
    memory: tuple[DatabaseEventLog, Ledger], signer: Signer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Evidence of the events 6 to 12."""
    log, ledger = memory
    path = tmp_path_factory.mktemp("evidence") / "range.zip"
    since, until = recorded_at(log, 6), recorded_at(log, 13)
    export_evidence(log, ledger, signer, path, since=since, until=until)
    return path


@pytest.fixture
def iris(of_iris: Path, signer: Signer) -> Evidence:
    return Evidence.read(of_iris, signer)


@pytest.fixture
def span(of_range: Path, signer: Signer) -> Evidence:
    return Evidence.read(of_range, signer)


def problems(evidence: Evidence, path: Path) -> list[str]:
    """Return what is wrong with evidence that is not verified."""
    found = verify_evidence(evidence.write(path / "changed.zip"), evidence.signer.verifier)
    assert not found.is_verified
    assert not all(it.is_passed for it in found.checks)
    return [str(it) for it in found.problems]


# Round trips --------------------------------------------------------------------------------------------


def assert_verified(found: EvidenceReport, events: int) -> None:
    assert found.problems == []
    assert found.is_verified
    assert found.manifest is not None
    assert found.manifest.events == events
    assert {it.state for it in found.checks} == {"passed"}


def test_a_deployment(log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path) -> None:
    fill(log)
    path = tmp_path / "iris.zip"
    made = export_evidence(log, ledger, signer, path, deployment_id=IRIS)
    assert (made.events, made.selection.name, made.checkpoint.size) == (11, "iris", 22)
    assert made.size_bytes == path.stat().st_size
    assert_verified(verify_evidence(path, signer.verifier), 11)
    evidence = Evidence.read(path, signer)
    assert evidence.members.keys() == MEMBERS
    lines = evidence.lines("events.jsonl")
    assert [it["position"] for it in lines] == [str(it) for it in (1, *range(3, 22, 2))]
    first = lines[1]
    assert {key: first[key] for key in ("specversion", "type", "subject", "source", "actor")} == {
        "specversion": "1.0",
        "type": "deployment.requested",
        "subject": str(IRIS),
        "source": "/example.com/deployments",
        "actor": "ann",
    }
    assert datetime.fromisoformat(first["time"]) == recorded_at(log, 3)
    assert json.loads(base64.b64decode(first["storedstate"])) == first["data"]
    assert first["data"]["name"] == "iris"
    assert not [it for it in tmp_path.iterdir() if it.name.endswith(".part")]


def test_ranges(log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path) -> None:
    fill(log)
    times = [recorded_at(log, it) for it in range(1, 23)]
    far = timedelta(days=400)
    for number, (since, until, first, last) in enumerate(
        [
            (times[0], None, 1, 22),
            (None, times[21], 1, 21),
            (times[4], times[9], 5, 9),
            (times[4] + TICK, times[9] + TICK, 6, 10),
            (times[0] - far, times[0], 1, 0),
            (times[5] + TICK, times[5] + 2 * TICK, 7, 6),
            (times[21], times[21] + TICK, 22, 22),
        ]
    ):
        path = tmp_path / f"{number}.zip"
        made = export_evidence(log, ledger, signer, path, since=since, until=until)
        assert (made.selection.first, made.selection.last) == (first, last)
        assert_verified(verify_evidence(path, signer.verifier), last - first + 1)
        assert Evidence.read(path, signer).members.keys() == {*MEMBERS, "bounds.jsonl"}


def test_a_range_has_what_is_being_appended_when_it_is_asked_for(signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = open_event_log(f"sqlite:///{path}")
    fill(log)
    end = log.position()
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        now = int(datetime.now(UTC).timestamp() * 1e6)
        columns = [it[1] for it in other.execute("PRAGMA table_info(events)")]
        last = other.execute(f"SELECT {', '.join(columns)} FROM events WHERE position = ?", (end,)).fetchone()
        added = dict(zip(columns, last, strict=True))
        added |= {"position": end + 1, "originator_version": 11, "event_id": uuid4().hex, "recorded_at": now}
        marks = ", ".join("?" * len(added))
        other.execute(f"INSERT INTO events ({', '.join(added)}) VALUES ({marks})", [*added.values()])
        time.sleep(0.01)
        until = datetime.now(UTC)
        time.sleep(0.01)
        commit = threading.Timer(0.3, other.execute, ["COMMIT"])
        commit.start()
        made = export_evidence(log, open_ledger(log), signer, tmp_path / "range.zip", until=until)
        commit.join()
    assert made.selection.last == made.events == log.position_at(until) == end + 1
    log.close()


def test_the_same_evidence_has_the_same_bytes(
    memory: tuple[DatabaseEventLog, Ledger], signer: Signer, of_iris: Path, tmp_path: Path
) -> None:
    path = tmp_path / "again.zip"
    export_evidence(*memory, signer, path, deployment_id=IRIS)
    assert path.read_bytes() == of_iris.read_bytes()


def test_a_leaf_can_be_made_from_the_line_as_the_readme_says(iris: Evidence) -> None:
    for line, proof in zip(iris.lines("events.jsonl"), iris.lines("proofs.jsonl"), strict=True):
        moment = datetime.fromisoformat(line["time"]) - datetime(1970, 1, 1, tzinfo=UTC)
        leaf = b"\1" + int(line["position"]).to_bytes(8, "big") + UUID(line["subject"]).bytes
        leaf += int(line["streamversion"]).to_bytes(8, "big") + (moment // TICK).to_bytes(8, "big")
        leaf += UUID(line["id"]).bytes + sha256(base64.b64decode(line["storedstate"])).digest()
        leaf += len(line["type"]).to_bytes(2, "big") + line["type"].encode()
        leaf += b"\1" + len(line["actor"]).to_bytes(4, "big") + line["actor"].encode()
        leaf += b"\1" + UUID(line["correlationid"]).bytes
        leaf += b"\1" + UUID(line["causationid"]).bytes if "causationid" in line else b"\0"
        assert sha256(b"\0" + leaf).digest() == base64.b64decode(proof["leaf"])


def test_an_event_that_is_damaged_is_evidence_too(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path, database_url: str
) -> None:
    log.append([*history(*SERVING, stream=IRIS), *reserved("iris", IRIS)])
    Attacker(database_url, log).change(2, state=b'{"a": 1, "a": 2}')
    path = tmp_path / "damaged.zip"
    export_evidence(log, ledger, signer, path, deployment_id=IRIS)
    assert_verified(verify_evidence(path, signer.verifier), 5)
    line = Evidence.read(path, signer).lines("events.jsonl")[1]
    assert "data" not in line
    assert line["data_base64"] == line["storedstate"]


def test_what_looks_like_a_bomb_is_not_compressed(
    memory: tuple[DatabaseEventLog, Ledger], signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_DENSE_FROM", 1_000)
    monkeypatch.setattr(archive, "DENSEST", 2)
    path = tmp_path / "dense.zip"
    export_evidence(*memory, signer, path, deployment_id=IRIS)
    with zipfile.ZipFile(path) as file:
        assert {it.compress_type for it in file.infolist()} == {zipfile.ZIP_STORED}
    assert_verified(verify_evidence(path, signer.verifier), 11)


# Events as CloudEvents ----------------------------------------------------------------------------------

IDS = st.binary(min_size=16, max_size=16)
NUMBERS = st.integers(1, 2**63 - 1)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda it: st.lists(it, max_size=3) | st.dictionaries(TEXTS, it, max_size=3),
    max_leaves=5,
)
STATES = st.binary(max_size=30) | JSON.map(lambda it: json.dumps(it, indent=1).encode())
EVENTS = st.builds(
    Recorded,
    NUMBERS,
    IDS,
    NUMBERS,
    TEXTS,
    STATES,
    IDS,
    st.integers(-(10**16), 2 * 10**17),
    st.none() | TEXTS,
    st.none() | IDS,
    st.none() | IDS,
)


@given(EVENTS)
def test_an_event_comes_back_from_its_line(event: Recorded) -> None:
    line = cloud_events.encode(event, "example.com/a b")
    assert b"\n" not in line
    assert cloud_events.decode(line, "example.com/a b") == event
    with pytest.raises(NotCanonicalError, match="its source differ"):
        cloud_events.decode(line, "example.com/other")


def test_the_fields_are_those_of_the_log() -> None:
    assert Recorded._fields == EventRecord._fields


@pytest.mark.parametrize(
    ("state", "data"),
    [
        (b'{"a":1}', {"a": True}),
        (b'{"a":1}', {"a": 1.0}),
        (b'{"a":1}', {"a": 2}),
        (b'{"a":1}', {}),
        (b'{"a":null}', {}),
        (b"[1]", [1, 1]),
        (b"null", False),
    ],
)
def test_data_that_is_not_what_is_stored(state: bytes, data: Any) -> None:
    event = Recorded(1, bytes(16), 1, "a", state, bytes(16), 0, None, None, None)
    line = json.loads(cloud_events.encode(event, "o"))
    line["data"] = data
    with pytest.raises(NotCanonicalError, match="its data differ"):
        cloud_events.decode(json.dumps(line, separators=(",", ":")).encode(), "o")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"id"', b'"id":"x","id"', "not in the canonical form"),
        (b'"subject":"0', b'"subject":"{0', "its subject differ"),
        (b'"position":"1"', b'"position":"01"', "an attribute of the event"),
        (b'"position":"1"', b'"position":1', "position is not text"),
        (b'"position":"1",', b"", "no position"),
        (b'"a"', b'"\\u0061"', "not in the canonical form"),
        (b"Z", b"+00:00", "an attribute of the event"),
        (b'{"spec', b' {"spec', "not in the canonical form"),
        (b'"storedstate"', b'"more":"x","storedstate"', "an unknown attribute: 'more'"),
        (b'"storedstate":"', b'"storedstate":"!', "an attribute of the event"),
    ],
)
def test_a_line_that_says_it_otherwise(old: bytes, new: bytes, says: str) -> None:
    event = Recorded(1, bytes(16), 1, "a", b"{}", bytes(16), 0, None, None, None)
    line = cloud_events.encode(event, "o")
    assert old in line
    with pytest.raises(NotCanonicalError, match=says):
        cloud_events.decode(line.replace(old, new, 1), "o")


@pytest.mark.parametrize("depth", [90, 970, 984, 985, 2_000])
def test_data_that_is_deep(depth: int) -> None:
    event = Recorded(1, bytes(16), 1, "a", b"{}", bytes(16), 0, None, None, None)
    line = cloud_events.encode(event, "o")
    with pytest.raises(NotCanonicalError, match=r"data differ|not JSON"):
        cloud_events.decode(line.replace(b'"data":{}', b'"data":' + b"[" * depth + b"]" * depth), "o")
    state = b'{"tags":' + b"[" * depth + b"]" * depth + b"}"
    deep = cloud_events.encode(event._replace(state=state), "o")
    assert (b'"data_base64"' in deep) == (depth > 90)
    assert cloud_events.decode(deep, "o").state == state


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[]", b"1", b"[" * 100_000, b"\xff", b"{}"])
def test_a_line_that_is_no_event(line: bytes) -> None:
    with pytest.raises(NotCanonicalError):
        cloud_events.decode(line, "o")


# Changed by somebody without the key --------------------------------------------------------------------


def _flip(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("name", sorted({*MEMBERS, "bounds.jsonl"}))
@pytest.mark.parametrize(
    "change",
    [
        _flip,
        lambda it: it[:-1],
        lambda it: it + b"\n",
        lambda it: b"".join(it.splitlines(keepends=True)[1:]),
        lambda it: b"".join([*it.splitlines(keepends=True), *it.splitlines(keepends=True)[-1:]]),
        lambda it: b"".join(it.splitlines(keepends=True)[::-1]) + b" ",
        lambda it: b"",
    ],
    ids=["byte flipped", "truncated", "line added", "line removed", "line twice", "turned round", "emptied"],
)
def test_a_file_that_was_changed(
    name: str, change: Callable[[bytes], bytes], span: Evidence, tmp_path: Path
) -> None:
    span.members[name] = change(span.members[name])
    assert any(it.startswith(name) for it in problems(span, tmp_path))


@pytest.mark.parametrize("name", sorted({*MEMBERS, "bounds.jsonl"}))
def test_a_file_that_was_taken_away_or_renamed(name: str, span: Evidence, tmp_path: Path) -> None:
    content = span.members.pop(name)
    assert f"{name}: it is missing" in problems(span, tmp_path)
    span.members[f"{name}.txt"] = content
    said = problems(span, tmp_path)
    assert f"{name}: it is missing" in said
    assert f"{name}.txt: evidence has no file of this name" in said


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("more.txt", "evidence has no file of this name"),
        ("../report.html", "would be unpacked outside of the folder"),
        ("/etc/passwd", "would be unpacked outside of the folder"),
        ("..\\report.html", "would be unpacked outside of the folder"),
        ("C:report.html", "would be unpacked outside of the folder"),
        ("a/../../report.html", "would be unpacked outside of the folder"),
        ("folder/", "is no file"),
        ("report.html", "occurs more than once"),
        ("bounds.jsonl", "evidence has no file of this name"),
    ],
)
def test_a_file_that_was_added(name: str, says: str, iris: Evidence, tmp_path: Path) -> None:
    iris.also.append((name, b""))
    assert f"{name}: {says}" in problems(iris, tmp_path)


@pytest.mark.parametrize(
    ("kind", "says"),
    [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is no file"), (stat.S_IFDIR, "is no file")],
)
def test_a_file_that_is_none(kind: int, says: str, iris: Evidence, tmp_path: Path) -> None:
    iris.modes["report.html"] = kind
    assert f"report.html: {says}" in problems(iris, tmp_path)


def test_something_that_is_not_listed(of_iris: Path, signer: Signer, tmp_path: Path) -> None:
    content = of_iris.read_bytes()
    directory = content.index(b"PK\1\2")
    begin = struct.unpack("<L", content[-6:-2])[0]
    assert begin == directory
    moved = content[-22:-6] + struct.pack("<L", begin + 5) + content[-2:]
    for hidden in (
        b"#!/bin/sh\n" + content,
        content[:directory] + b"extra" + content[directory:-22] + moved,
        content[:-2] + b"\5\0extra",
    ):
        path = tmp_path / "hidden.zip"
        path.write_bytes(hidden)
        found = verify_evidence(path, signer.verifier)
        assert not found.is_verified
        assert any("not listed" in str(it) for it in found.problems)


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(
    of_range: Path, signer: Signer, tmp_path: Path
) -> None:
    content, path = of_range.read_bytes(), tmp_path / "flipped.zip"
    before = Evidence.read(of_range, signer).members
    places = range(0, len(content), 29)
    harmless = []
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        try:
            verified = verify_evidence(path, signer.verifier).is_verified
        except UnreadableEvidenceError:
            verified = False
        if verified:
            assert Evidence.read(path, signer).members == before, f"byte {place}"
            harmless.append(place)
    # Deflate says some things in two ways: the bits behind its end, a repetition's distance.
    assert len(harmless) < len(places) / 20


def test_a_file_that_is_cut_off(of_range: Path, signer: Signer, tmp_path: Path) -> None:
    content, path = of_range.read_bytes(), tmp_path / "cut.zip"
    for length in (0, 1, 22, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UnreadableEvidenceError, match="not a ZIP file, or it is truncated"):
            verify_evidence(path, signer.verifier)


def test_a_manifest_of_another_key(iris: Evidence, tmp_path: Path) -> None:
    honest = iris.members["manifest.txt"]
    iris.edit("events.jsonl", 0, lambda it: it.update(actor="nobody"))
    for name in (iris.signer.name, "example.com/attacker"):
        other = Signer.parse(keys.generate(name)[0])
        iris.members["manifest.txt"] = honest
        iris.sign_again(other)
        said = problems(iris, tmp_path)
        assert any(it.startswith("manifest.txt: It is not signed by example.com/deployments") for it in said)


def test_all_of_it_by_another_key(
    memory: tuple[DatabaseEventLog, Ledger], signer: Signer, tmp_path: Path
) -> None:
    other = Signer.parse(keys.generate("example.com/attacker")[0])
    path = tmp_path / "other.zip"
    export_evidence(*memory, other, path, deployment_id=IRIS)
    assert verify_evidence(path, other.verifier).is_verified
    found = verify_evidence(path, signer.verifier)
    assert not found.is_verified
    said = [str(it) for it in found.problems]
    assert any(it.startswith("checkpoint.txt: It is not signed by") for it in said)
    assert "key.pub: it is not the key that you gave" in said
    assert (
        next(it for it in found.checks if it.what.endswith("tree of the checkpoint")).state == "not checked"
    )


# Changed by somebody with the key, who signs it again ---------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: it["data"].update(name="other"), "its data differ"),
        (lambda it: stored(it, name="other"), "is not the one that the proof is of"),
        (lambda it: it.update(actor="nobody"), "is not the one that the proof is of"),
        (lambda it: it.pop("actor"), "is not the one that the proof is of"),
        (lambda it: it.update(time="2020-01-01T00:00:00.000000Z"), "is not the one that the proof is of"),
        (lambda it: it.update(type="deployment.deleted"), "is not the one that the proof is of"),
        (lambda it: it.update(id=str(uuid4())), "is not the one that the proof is of"),
        (lambda it: it.update(correlationid=str(uuid4())), "is not the one that the proof is of"),
        (lambda it: it.update(subject=str(ROSE)), "is not the one that the proof is of"),
        (lambda it: it.update(streamversion="9"), "does not follow event 1"),
        (lambda it: it.update(position="6"), "the proof is of position 5, and the event at 6"),
        (lambda it: it.update(source="/elsewhere"), "its source differ"),
        (lambda it: it.update(specversion="2.0"), "its specversion differ"),
        (lambda it: it.update(datacontenttype="text/html"), "its datacontenttype differ"),
    ],
)
def test_an_event_that_was_changed_by_who_has_the_key(
    change: Callable[[dict[str, Any]], Any], says: str, iris: Evidence, tmp_path: Path
) -> None:
    iris.edit("events.jsonl", 2, change)
    iris.sign_again()
    said = problems(iris, tmp_path)
    assert any(says in it and " line 3: " in it for it in said), said
    assert not any("digest" in it for it in said)


def test_an_event_and_its_proof_that_were_changed_by_who_has_the_key(iris: Evidence, tmp_path: Path) -> None:
    iris.edit("events.jsonl", 2, lambda it: it.update(actor="nobody"))
    event = cloud_events.decode(iris.members["events.jsonl"].splitlines()[2], iris.signer.name)
    leaf = base64.b64encode(merkle.leaf_hash(encode_leaf(*event))).decode()
    iris.edit("proofs.jsonl", 2, lambda it: it.update(leaf=leaf))
    iris.sign_again()
    assert problems(iris, tmp_path) == [
        "events.jsonl line 3: its actor is 'nobody', but 'ann' in its stored state: one of them was changed",
        "proofs.jsonl line 3: the event at position 5 is not in the tree of the checkpoint, "
        "or its proof was changed",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: it["path"].reverse(), "is not in the tree of the checkpoint"),
        (lambda it: it["path"].pop(), "the proof is too short"),
        (lambda it: it["path"].append(it["leaf"]), "the proof is too long"),
        (lambda it: it["path"].__setitem__(0, it["leaf"]), "is not in the tree of the checkpoint"),
        (lambda it: it["path"].__setitem__(0, "AAAA"), "the line is not a proof"),
        (lambda it: it.update(position=6), "the proof is of position 6"),
        (lambda it: it.update(position=True), "the line is not a proof"),
        (lambda it: it.update(leaf=it["path"][0]), "is not the one that the proof is of"),
        (lambda it: it.pop("path"), "the line is not a proof"),
        (lambda it: it.update(more=1), "the line is not a proof"),
    ],
)
def test_a_proof_that_was_changed(
    change: Callable[[dict[str, Any]], Any], says: str, iris: Evidence, tmp_path: Path
) -> None:
    iris.edit("proofs.jsonl", 2, change)
    iris.sign_again()
    (problem,) = problems(iris, tmp_path)
    assert problem.startswith("proofs.jsonl line 3: ")
    assert says in problem


def without(evidence: Evidence, line: int) -> None:
    for name in ("events.jsonl", "proofs.jsonl"):
        lines = evidence.lines(name)
        del lines[line]
        evidence.put(name, lines)


def test_an_event_that_was_left_out_by_who_has_the_key(
    iris: Evidence, span: Evidence, tmp_path: Path
) -> None:
    without(iris, 4)
    iris.sign_again(events=10)
    assert problems(iris, tmp_path) == [
        "events.jsonl line 5: event 5 of the deployment does not follow event 3"
    ]
    without(span, 4)
    span.sign_again(events=6)
    assert problems(span, tmp_path) == [
        "events.jsonl line 5: events are missing between the positions 9 and 11",
        "manifest.txt: it says 6 events at the positions 6 to 12",
    ]


@pytest.mark.parametrize(("line", "first", "last"), [(0, 7, 12), (-1, 6, 11)])
def test_an_event_that_was_left_out_at_the_end_of_a_range(
    line: int, first: int, last: int, span: Evidence, tmp_path: Path
) -> None:
    without(span, line)
    said = span.manifest().selection
    selection = type(said)(first, last, since=said.since, until=said.until)
    span.sign_again(events=6, selection=selection)
    assert any(it.startswith("bounds.jsonl line") for it in problems(span, tmp_path))


def test_a_bound_that_is_inside_of_the_range(
    memory: tuple[DatabaseEventLog, Ledger], signer: Signer, span: Evidence, tmp_path: Path
) -> None:
    """Who has the key takes evidence of a smaller range, and says that it is of a larger one."""
    log, ledger = memory
    path = tmp_path / "small.zip"
    export_evidence(log, ledger, signer, path, since=recorded_at(log, 8), until=recorded_at(log, 11))
    small, said = Evidence.read(path, signer), span.manifest().selection
    selection = type(said)(8, 10, since=said.since, until=said.until)
    small.sign_again(selection=selection)
    assert problems(small, tmp_path) == [
        "bounds.jsonl line 1: the event at position 7 was recorded within the range, but is not included",
        "bounds.jsonl line 2: the event at position 11 was recorded within the range, but is not included",
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: it.pop(), "it has 1 events beside the range, and there are 2"),
        (lambda it: it.reverse(), "the proof is of position 13, and the event at 5"),
        (lambda it: it[0].update(leaf="AAAA"), "it is not a leaf of a ledger"),
        (lambda it: it[0].update(leaf=it[1]["leaf"]), "is not in the tree of the checkpoint"),
        (lambda it: it[0].update(path=[]), "the proof is too short"),
        (lambda it: it[0].pop("leaf"), "the line is not the proof of an event beside the range"),
    ],
)
def test_a_bound_that_was_changed(
    change: Callable[[list[Any]], Any], says: str, span: Evidence, tmp_path: Path
) -> None:
    lines = span.lines("bounds.jsonl")
    change(lines)
    span.put("bounds.jsonl", lines)
    span.sign_again()
    assert any(says in it and it.startswith("bounds.jsonl") for it in problems(span, tmp_path))


def test_events_in_another_order_or_twice(iris: Evidence, tmp_path: Path) -> None:
    events, proofs = iris.lines("events.jsonl"), iris.lines("proofs.jsonl")
    for order in ([0, 2, 1, *range(3, 11)], [0, 1, 1, *range(2, 11)]):
        iris.put("events.jsonl", [events[it] for it in order])
        iris.put("proofs.jsonl", [proofs[it] for it in order])
        iris.sign_again(events=len(order))
        said = problems(iris, tmp_path)
        assert any(it.startswith("events.jsonl line 3: position 3 comes after position") for it in said)


def test_an_event_of_another_deployment(iris: Evidence, memory: Any, signer: Signer, tmp_path: Path) -> None:
    path = tmp_path / "rose.zip"
    export_evidence(*memory, signer, path, deployment_id=ROSE)
    rose = Evidence.read(path, signer)
    for place in (0, 1):  # the reservation of its name, and its first event
        mixed = Evidence(dict(iris.members), signer)
        for name in ("events.jsonl", "proofs.jsonl"):
            lines = iris.lines(name)
            lines.insert(place + 1, rose.lines(name)[place])
            mixed.put(name, lines)
        mixed.sign_again(events=12)
        said = problems(mixed, tmp_path)
        assert any(it == f"events.jsonl line {place + 2}: it is not about deployment {IRIS}" for it in said)


@pytest.mark.parametrize("name", ["events.jsonl", "proofs.jsonl"])
@pytest.mark.parametrize("count", [-1, 1])
def test_more_or_fewer_lines_in_one_file(name: str, count: int, iris: Evidence, tmp_path: Path) -> None:
    lines = iris.lines(name)
    iris.put(name, [*lines, lines[-1]] if count == 1 else lines[:-1])
    iris.sign_again()
    assert problems(iris, tmp_path)


def test_checkpoints_that_are_not_the_one(iris: Evidence, tmp_path: Path) -> None:
    signer, said = iris.signer, iris.manifest()
    namesake = Signer.parse(keys.generate(signer.name)[0])
    stranger = Signer.parse(keys.generate("example.com/attacker")[0])
    forged = Checkpoint(signer.name, said.size, merkle.leaf_hash(b""))
    whole = iris.members["checkpoint.txt"].decode()
    for note, says in [
        (forged.signed(signer), "it is not the checkpoint that the manifest names"),
        (forged.signed(namesake), "It is not signed by"),
        (Checkpoint(stranger.name, said.size, said.root).signed(stranger), "It is not signed by"),
        (sign(str(Checkpoint(stranger.name, said.size, said.root)), signer), "of another origin"),
        (whole.replace("\n22\n", "\n21\n"), "changed since, or forged"),
        (sign("no checkpoint\n", signer), "It is not a checkpoint"),
        ("", "not a signed note"),
    ]:
        iris.members["checkpoint.txt"] = note.encode()
        iris.sign_again()
        assert any(it.startswith("checkpoint.txt: ") and says in it for it in problems(iris, tmp_path)), says


def test_manifests_that_do_not_fit(iris: Evidence, tmp_path: Path) -> None:
    said = iris.manifest()
    for changes, place in [
        ({"events": 10}, "events.jsonl: it has 11 events, and the manifest says 10"),
        (
            {"selection": type(said.selection)(1, 22, IRIS, "iris")},
            "events.jsonl: it has the positions 1 to 21",
        ),
        (
            {"selection": type(said.selection)(1, 21, ROSE, "rose")},
            f"events.jsonl line 2: it is not about {''}",
        ),
        ({"size": 23}, "checkpoint.txt: it is not the checkpoint that the manifest names"),
        ({"members": said.members[1:]}, "manifest.txt: it does not have the digests of all files"),
        ({"origin": "example.com/other"}, "manifest.txt: it is of example.com/other"),
    ]:
        iris.sign_again(**changes)
        assert any(it.startswith(place) for it in problems(iris, tmp_path)), place
        iris.members["manifest.txt"] = sign(str(said), iris.signer).encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version 2", "version 0"),
        ("version 2", "version one"),
        ("version 2", "version 02"),
        ("positions 1 21", "positions 1"),
        ("positions 1 21", "positions 1 021"),
        ("events 11", "events -1"),
        ("checkpoint 22 ", "checkpoint 22  "),
        ('"iris"', '"iris" '),
        ('"iris"', "1"),
        ("deployment ", "deployments "),
        (".jsonl\n", ".jsonl\nmore\n"),
        ("deployledger evidence", "evidence"),
    ],
)
def test_a_manifest_that_is_none(old: str, new: str, iris: Evidence, tmp_path: Path) -> None:
    text = str(iris.manifest())
    assert old in text
    iris.members["manifest.txt"] = sign(text.replace(old, new, 1), iris.signer).encode()
    (problem, *_) = [it for it in problems(iris, tmp_path) if it.startswith("manifest.txt: it is ")]
    assert "malformed" in problem or "not an evidence manifest" in problem


def test_a_manifest_is_read_as_it_was_written(iris: Evidence, span: Evidence) -> None:
    for evidence in (iris, span):
        assert Manifest.parse(str(evidence.manifest())) == evidence.manifest()


# What is not looked at ----------------------------------------------------------------------------------


def test_a_newer_format(iris: Evidence, tmp_path: Path) -> None:
    for signer in (iris.signer, Signer.parse(keys.generate("example.com/other")[0])):
        text = str(Evidence.manifest(iris)).replace("version 2", "version 3", 1)
        newer = Evidence({**iris.members, "manifest.txt": sign(text, signer).encode()}, iris.signer)
        with pytest.raises(UnreadableEvidenceError, match="format 3, and this software supports format 2"):
            verify_evidence(newer.write(tmp_path / "newer.zip"), iris.signer.verifier)


def test_bombs(iris: Evidence, signer: Signer, tmp_path: Path) -> None:
    path = iris.write(tmp_path / "bomb.zip")
    with pytest.raises(UnreadableEvidenceError, match="10,000 are allowed"):
        verify_evidence(path, signer.verifier, most_bytes=10_000)
    iris.members["report.html"] = bytes(20 << 20)
    with pytest.raises(UnreadableEvidenceError, match=r"'report.html' in it would grow"):
        verify_evidence(iris.write(path), signer.verifier)
    del iris.members["report.html"]
    iris.also = [(f"{number}", b"") for number in range(200)]
    with pytest.raises(UnreadableEvidenceError, match="207 files in it"):
        verify_evidence(iris.write(path), signer.verifier)


def test_a_size_that_is_a_lie(of_iris: Path, signer: Signer, tmp_path: Path) -> None:
    content = bytearray(of_iris.read_bytes())
    for header, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        begin = content.index(header)
        content[begin + place : begin + place + 4] = struct.pack("<L", 7)
    path = tmp_path / "lie.zip"
    path.write_bytes(content)
    found = verify_evidence(path, signer.verifier)
    assert not found.is_verified
    assert any(str(it).startswith("events.jsonl") for it in found.problems)


def test_what_is_compressed_or_encrypted_in_a_way_that_is_not_known(
    iris: Evidence, of_iris: Path, signer: Signer, tmp_path: Path
) -> None:
    path = iris.write(tmp_path / "other.zip", zipfile.ZIP_LZMA)
    with pytest.raises(UnreadableEvidenceError, match="compressed with an unsupported method"):
        verify_evidence(path, signer.verifier)
    content = bytearray(of_iris.read_bytes())
    for header, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.index(header) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableEvidenceError, match="is encrypted"):
        verify_evidence(path, signer.verifier)


def test_what_is_no_file(signer: Signer, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.zip"):
        with pytest.raises(UnreadableEvidenceError, match="cannot be read as evidence"):
            verify_evidence(path, signer.verifier)


# What is not exported -----------------------------------------------------------------------------------


def test_selections_that_are_none(
    memory: tuple[DatabaseEventLog, Ledger], signer: Signer, tmp_path: Path
) -> None:
    path, now = tmp_path / "none.zip", datetime.now(UTC)
    for selection, error, says in [
        ({}, ConfigurationError, "Neither a deployment nor a range of time was given"),
        ({"deployment_id": IRIS, "since": now}, ConfigurationError, "not of both"),
        ({"deployment_id": uuid4()}, ResourceNotFoundError, "was not found"),
        ({"since": now, "until": now - TICK}, ConfigurationError, "not after its start"),
        ({"until": now + timedelta(days=1)}, ConfigurationError, "lies in the future"),
        ({"since": now.replace(tzinfo=None)}, ConfigurationError, "has no time zone"),
    ]:
        with pytest.raises(error, match=says):
            export_evidence(*memory, signer, path, **selection)
    reservation = reserved("iris", IRIS)[0].originator_id
    with pytest.raises(ResourceNotFoundError):
        export_evidence(*memory, signer, path, deployment_id=reservation)
    with pytest.raises(ConfigurationError, match="No key to sign"):
        export_evidence(*memory, None, path, deployment_id=IRIS)
    assert list(tmp_path.glob("*.zip*")) == []


def test_a_file_is_not_replaced_unless_told(
    memory: tuple[DatabaseEventLog, Ledger], signer: Signer, tmp_path: Path
) -> None:
    path = tmp_path / "there.zip"
    path.write_text("mine")
    with pytest.raises(ConflictError, match="already exists"):
        export_evidence(*memory, signer, path, deployment_id=IRIS)
    assert path.read_text() == "mine"
    export_evidence(*memory, signer, path, deployment_id=IRIS, force=True)
    assert verify_evidence(path, signer.verifier).is_verified
    with pytest.raises(
        ConfigurationError, match=r"cannot be written: .*\. Choose a file in an existing folder"
    ):
        export_evidence(*memory, signer, tmp_path / "no" / "folder.zip", deployment_id=IRIS)
    with pytest.raises(ConfigurationError, match=r"is a folder\. Name a file in it"):
        export_evidence(*memory, signer, tmp_path, deployment_id=IRIS, force=True)


def test_too_much(
    memory: tuple[DatabaseEventLog, Ledger], signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, says in (("MOST_EVENTS", "evidence has 10 at most"), ("MOST_BYTES", "more than 10 bytes")):
        with monkeypatch.context() as changed:
            changed.setattr(export, name, 10)
            with pytest.raises(ConfigurationError, match=says):
                export_evidence(*memory, signer, tmp_path / "much.zip", deployment_id=IRIS)
    assert list(tmp_path.glob("*much*")) == []


def test_an_empty_log(log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is empty"):
        export_evidence(log, ledger, signer, tmp_path / "no.zip", since=datetime(2020, 1, 1, tzinfo=UTC))


def test_a_log_that_was_changed_gives_no_evidence(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path, database_url: str
) -> None:
    fill(log)
    ledger.checkpoint(signer)
    Attacker(database_url, log).change(5, actor="nobody")
    with pytest.raises(LedgerError, match="Event 5 of the log is not the one that the ledger has"):
        export_evidence(log, ledger, signer, tmp_path / "no.zip", deployment_id=IRIS)
    assert list(tmp_path.glob("*.zip*")) == []


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_stream_with_a_hole_gives_no_evidence(
    is_missing: bool, log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path, database_url: str
) -> None:
    fill(log)
    ledger.checkpoint(signer)
    attacker = Attacker(database_url, log)
    if is_missing:
        attacker.delete(7, 7)
    else:
        attacker.change(7, originator_version=99)
    says = "Event 7 is missing in the log" if is_missing else "Event 9 has version 4 of stream .* and not 3"
    with pytest.raises(LedgerError, match=says):
        export_evidence(log, ledger, signer, tmp_path / "no.zip", deployment_id=IRIS)
    assert list(tmp_path.glob("*.zip*")) == []


# The report ---------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What is in a page: its elements, and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_says_what_served_when_and_who_requested_it(iris: Evidence) -> None:
    text = Page(iris.members["report.html"]).text
    for said in (
        "Evidence of deployment iris",
        str(IRIS),
        "At the last event, revision 2 was serving",
        f"sha256:{'a' * 64}",
        f"sha256:{'d' * 64}",
        "failed (server_exited)",
        "models:/iris/1 → models:/iris/2",
        "http://two",
        str(iris.signer.verifier),
        "deployledger-verify-evidence EVIDENCE.zip --key OWNER.pub",
    ):
        assert said in text, said


def test_what_users_wrote_is_shown_as_they_wrote_it(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    nasty = "<script>alert(1)</script>\" onload='x' &amp; \u202e"
    events = [
        requested(name=nasty, model_uri=nasty, tags={nasty: nasty, "deep": {"a": [nasty]}}),
        fetched(),
        packaged(),
        provisioned(endpoint_url=nasty),
    ]
    log.append([*history(*events, stream=IRIS), *reserved(nasty, IRIS)])
    for number, selection in enumerate(({"deployment_id": IRIS}, {"since": recorded_at(log, 1)})):
        path = tmp_path / f"{number}.zip"
        export_evidence(log, ledger, signer, path, **selection)  # type: ignore[arg-type]
        assert_verified(verify_evidence(path, signer.verifier), 5)
        page = Page(Evidence.read(path, signer).members["report.html"])
        assert page.elements.isdisjoint({"script", "img", "link", "iframe", "object", "a"})
        assert page.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class", "colspan"}
        assert nasty.replace("\u202e", "\\u202e") in page.text
        assert "\u202e" not in page.text


def test_the_report_of_a_long_range_is_bounded(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer, tmp_path: Path
) -> None:
    for number in range(30):
        log.append(
            [event for it in range(20) for event in history(*SERVING, stream=UUID(int=number * 20 + it))]
        )
    path = tmp_path / "long.zip"
    export_evidence(log, ledger, signer, path, since=recorded_at(log, 1))
    assert_verified(verify_evidence(path, signer.verifier), 2_400)
    page = Page(Evidence.read(path, signer).members["report.html"])
    assert "1,900 events are left out here" in page.text
    assert "100 revisions are left out here" in page.text


def test_it_says_where_what_verifies_comes_from(iris: Evidence) -> None:
    for name in ("README.md", "report.html"):
        text = iris.members[name].decode()
        assert "pip install --no-deps PACKAGE" in text
        assert "A package of that name on a public index need not be the same." in " ".join(text.split())


def test_the_mapping_says_supports_and_never_complies(iris: Evidence) -> None:
    words = iris.members["MAPPING.md"].decode().lower()
    assert "supports" in words
    assert "compl" not in words.replace("complete", "")
    for named in ("article 12", "article 19", "sr 26-2"):
        assert named in words


SECRET = "s3cr3t-Value-7"


async def test_credentials_are_in_no_file(tmp_path: Path, signer: Signer) -> None:
    async with MLModelDeploymentService(
        database_url=f"sqlite:///{tmp_path / 'e.db'}", actor="ann"
    ) as service:
        for number, uri in enumerate(
            (
                f"https://ann:{SECRET}@models.example/iris.onnx",
                f"https://b.s3.amazonaws.com/iris?X-Amz-Signature={SECRET}&X-Amz-Date=1",
                f"s3://KEY:{SECRET}@bucket/iris",
            )
        ):
            wanted = request(model_uri=uri, deployment_name=f"iris-{number}", tags={"from": uri})
            done = await service.deploy_model(wanted)
            await service.wait_for_deployment(done.deployment_id, timeout=60)
        since = recorded_at(service.event_log, 1)  # type: ignore[arg-type]
        path = tmp_path / "all.zip"
        export_evidence(service.event_log, service.ledger, signer, path, since=since)
        one = tmp_path / "one.zip"
        export_evidence(service.event_log, service.ledger, signer, one, deployment_id=done.deployment_id)
    for file in (path, one):
        assert verify_evidence(file, signer.verifier).is_verified
        for name, content in Evidence.read(file, signer).members.items():
            assert SECRET.encode() not in content, name
            for line in content.splitlines() if name == "events.jsonl" else ():
                assert SECRET.encode() not in base64.b64decode(json.loads(line)["storedstate"])


# The commands -------------------------------------------------------------------------------------------

_WITHOUT = """
import sys
import threading
import time
BLOCKED = {"pydantic", "pydantic_core", "pydantic_settings", "eventsourcing", "transitions", "psycopg",
           "psycopg_pool", "typer", "rich", "platformdirs"} | set(sys.argv[1].split())
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from deployledger.audit.evidence.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def alone(*arguments: str | Path, blocked: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", _WITHOUT, blocked, *map(str, arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_it_is_verified_where_nothing_else_is_installed(
    of_range: Path, span: Evidence, signer: Signer, tmp_path: Path
) -> None:
    key = tmp_path / "owner.pub"
    key.write_text(f"{signer.verifier}\n")
    done = alone(of_range, "--key", key)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nVERIFIED\nWhat it does not show:\n" in done.stdout
    span.members["report.html"] += b" "
    changed = span.write(tmp_path / "changed.zip")
    done = alone(changed, "--key", key)
    assert done.returncode == 1
    assert "report.html: it was changed" in done.stdout
    assert "\nNOT VERIFIED\n" in done.stdout
    assert json.loads(alone(changed, "--key", key, "--json").stdout)["verified"] is False
    done = alone(tmp_path / "none.zip", "--key", key)
    assert (done.returncode, done.stdout) == (2, "")
    assert alone(of_range, "--key", tmp_path / "none.pub").returncode == 2
    done = alone(of_range, "--key", key, blocked="cryptography")
    assert done.returncode == 2
    assert "pip install" in done.stderr


async def test_the_command_line(tmp_path: Path, key_file: Path) -> None:
    cli = CommandLine(tmp_path / "home")
    async with MLModelDeploymentService(home=cli.home, actor="ann", run_jobs=False) as service:
        await service.deploy_model(request())
    cli.environment["DEPLOYLEDGER_AUDIT_KEY"] = str(key_file)
    path, public = tmp_path / "iris.zip", f"{key_file}.pub"
    made = cli.json("audit", "export", path, "--deployment", "iris")
    assert (made["file"], made["events"], made["checkpoint_size"]) == (str(path), 2, 2)
    del cli.environment["DEPLOYLEDGER_AUDIT_KEY"]
    ranged = tmp_path / "range.zip"
    done = cli.run("audit", "export", ranged, "--since", "2h", "--key", key_file)
    assert (done.returncode, "2 events" in done.stdout) == (0, True), done.stderr
    for arguments, code, says in [
        (("--since", "r2"), 2, "'r2' is not a time.\nGive a time with its zone"),
        (("--deployment", "rose"), 3, "was not found"),
    ]:
        done = cli.run("audit", "export", tmp_path / "no.zip", *arguments, "--key", key_file)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr

    elsewhere = CommandLine(
        tmp_path / "auditor", {"DEPLOYLEDGER_DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    )
    done = elsewhere.run("audit", "verify-evidence", path, "--key", public)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") == 8
    assert "Verified\n" in done.stdout
    assert elsewhere.json("audit", "verify-evidence", ranged, "--key", public)["verified"] is True
    assert not elsewhere.home.exists()
    path.write_bytes(path.read_bytes().replace(b"README.md", b"READYOU.md"[:9]))
    done = elsewhere.run("audit", "verify-evidence", path, "--key", public)
    assert (done.returncode, "README.md: it is missing" in done.stdout) == (1, True)
    assert "Not verified" in done.stdout
    assert elsewhere.json("audit", "verify-evidence", path, "--key", public, exit_code=1)["verified"] is False
    assert elsewhere.run("audit", "verify-evidence", key_file, "--key", public).returncode == 2
    assert elsewhere.run("audit", "verify-evidence", ranged, "--key", key_file).returncode == 2
