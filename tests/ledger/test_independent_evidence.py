"""Evidence verified by a program that was written from docs/evidence.md and docs/ledger.md alone.

It imports nothing of ours: if it stops agreeing with ours, the documentation is wrong, or the format changed.
"""

import base64
import io
import json
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit.checkpoints import Checkpoint
from deployledger.audit.evidence.export import export_evidence
from deployledger.audit.evidence.kept_checkpoints import EarlierState
from deployledger.audit.keys import Signer
from tests.ledger.evidence import IRIS, Evidence, fill, recorded_at
from tests.ledger.test_archive import OLD

ORDER = [
    "events.jsonl",
    "proofs.jsonl",
    "bounds.jsonl",
    "consistency.jsonl",
    "checkpoint.txt",
    "key.pub",
    "report.html",
    "README.md",
    "MAPPING.md",
    "manifest.txt",
]
LISTED = [
    "README.md",
    "report.html",
    "checkpoint.txt",
    "key.pub",
    "events.jsonl",
    "proofs.jsonl",
    "bounds.jsonl",
    "consistency.jsonl",
    "MAPPING.md",
]
NAMES = UUID("6f1c7d0e-52a5-5f4f-9f0b-0d6c2f5a3e11")
MANIFEST = re.compile(
    r"deployledger evidence\nversion ([12])\norigin (\S+)\ncheckpoint (\d+) (\S+)\n"
    r"(deployment|range) (\S+) (.+)\n"
    r"positions (\d+) (\d+)\nevents (\d+)\n((?:[0-9a-f]{64}  \d+  \S+\n)+)"
)


def exact(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    assert base64.b64encode(data).decode() == text
    return data


def note(content: bytes, key: str) -> str:
    """Return the text of a note that has one signature, by the key."""
    name, key_id, encoded = key.split("+", 2)
    public = exact(encoded)
    assert public[:1] == b"\1"
    assert sha256(name.encode() + b"\n" + public).digest()[:4].hex() == key_id
    text, _, signatures = content.decode().rpartition("\n\n")
    found = re.fullmatch(r"— (\S+) (\S+)\n", signatures)
    assert found
    assert found[1] == name
    signature = exact(found[2])
    assert signature[:4].hex() == key_id
    Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature[4:], f"{text}\n".encode())
    return f"{text}\n"


def leaf(line: dict[str, Any]) -> bytes:
    time = datetime.fromisoformat(line["time"]) - datetime(1970, 1, 1, tzinfo=UTC)
    topic, actor = line["type"].encode(), line.get("actor")
    fixed = struct.pack(
        ">BQ16sQq16s32s",
        1,
        int(line["position"]),
        UUID(line["subject"]).bytes,
        int(line["streamversion"]),
        time // timedelta(microseconds=1),
        UUID(line["id"]).bytes,
        sha256(exact(line["storedstate"])).digest(),
    )
    ids = [line.get("correlationid"), line.get("causationid")]
    return b"".join(
        [
            fixed,
            struct.pack(">H", len(topic)) + topic,
            b"\0" if actor is None else b"\1" + struct.pack(">I", len(actor.encode())) + actor.encode(),
            *(b"\0" if it is None else b"\1" + UUID(it).bytes for it in ids),
        ]
    )


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\0" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def included(index: int, size: int, digest: bytes, path: list[bytes]) -> bytes:
    """Return the root that a path leads to, by the definition of RFC 6962, 2.1.1."""
    if size == 1:
        assert not path
        return digest
    half = 1 << (size - 1).bit_length() - 1
    *inner, last = path
    if index < half:
        return node(included(index, half, digest, inner), last)
    return node(last, included(index - half, size - half, digest, inner))


def roots(
    first: int, size: int, path: list[bytes], root: bytes, is_whole: bool = True
) -> tuple[bytes, bytes]:
    """Return the roots of both trees that a proof leads to, by the definition of RFC 6962, 2.1.2."""
    if first == size:
        if is_whole:
            assert not path
            return root, root
        (only,) = path
        return only, only
    half = 1 << (size - 1).bit_length() - 1
    *inner, last = path
    if first <= half:
        older, newer = roots(first, half, inner, root, is_whole)
        return older, node(newer, last)
    older, newer = roots(first - half, size - half, inner, root, is_whole=False)
    return node(last, older), node(last, newer)


def check_archive(content: bytes, members: dict[str, bytes]) -> None:
    place, entries = 0, b""
    for name in (it for it in ORDER if it in members):
        signature, *head = struct.unpack_from("<4s5H3L2H", content, place)
        assert signature == b"PK\3\4"
        version, flags, method, time, date, crc, packed, size, length, extra = head
        assert (version, flags, time, date, length, extra) == (20, 0, 0, 33, len(name), 0)
        assert method in (0, 8)
        assert size == len(members[name])
        assert content[place + 30 : place + 30 + length] == name.encode()
        entries += struct.pack("<4s4B4H3L5H2L", b"PK\1\2", 20, 3, 20, 0, 0, method, 0, 33, crc, packed, size,
                               length, 0, 0, 0, 0, 0o100644 << 16, place) + name.encode()  # fmt: skip
        place += 30 + length + packed
    count = len(members)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entries), place, 0)
    assert content[place:] == entries + end


def verify(content: bytes, key: str) -> int:
    """Verify evidence, and return how many events it has; an `AssertionError` is whatever is wrong."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {it: file.read(it) for it in file.namelist()}
    check_archive(content, members)
    found = MANIFEST.fullmatch(note(members["manifest.txt"], key))
    assert found
    version, origin, size, encoded, kind, one, other, first, last, count, listed = found.groups()
    root = exact(encoded)
    assert key.startswith(f"{origin}+")
    digests = [it.split("  ") for it in listed.splitlines()]
    assert [it[2] for it in digests] == [it for it in LISTED if it in members]
    assert len(digests) == len(members) - 1
    for digest, length, name in digests:
        assert (sha256(members[name]).hexdigest(), str(len(members[name]))) == (digest, length)
    assert members["key.pub"] == f"{key}\n".encode()
    checkpoint = note(members["checkpoint.txt"], key).split("\n")
    assert checkpoint[:3] == [origin, size, encoded]
    assert ("bounds.jsonl" in members) == (kind == "range")

    events = [json.loads(it) for it in members["events.jsonl"].splitlines()]
    proofs = [json.loads(it) for it in members["proofs.jsonl"].splitlines()]
    assert len(events) == len(proofs) == int(count)
    for event, proof in zip(events, proofs, strict=True):
        assert str(proof["position"]) == event["position"]
        digest, path = exact(proof["leaf"]), [exact(it) for it in proof["path"]]
        assert leaf_hash(leaf(event)) == digest
        assert included(proof["position"] - 1, int(size), digest, path) == root
        assert json.loads(exact(event["storedstate"])) == event["data"]
        beside = {"actor": "actor", "event_id": "id", "correlation_id": "correlationid"}
        assert all(event["data"].get(name) == event[ours] for name, ours in beside.items())
    positions = [int(it["position"]) for it in events]
    assert positions == sorted(set(positions))
    times = [it["time"] for it in events]
    assert times == sorted(times)
    if kind == "deployment":
        assert (positions[0], positions[-1]) == (int(first), int(last))
        check_deployment(events, one, json.loads(other))
    else:
        assert positions == [*range(int(first), int(last) + 1)]
        inside = lambda it: (one == "-" or one <= it) and (other == "-" or it < other)  # noqa: E731
        assert all(map(inside, times))
        bounds = [json.loads(it) for it in members["bounds.jsonl"].splitlines()]
        assert [it["position"] for it in bounds] == [
            it for it in (int(first) - 1, int(last) + 1) if 1 <= it <= int(size)
        ]
        for bound in bounds:
            whole, path = exact(bound["leaf"]), [exact(it) for it in bound["path"]]
            assert included(bound["position"] - 1, int(size), leaf_hash(whole), path) == root
            moment = datetime(1970, 1, 1) + timedelta(microseconds=struct.unpack(">q", whole[33:41])[0])
            assert not inside(f"{moment.isoformat(timespec='microseconds')}Z")
    for line in members.get("consistency.jsonl", b"").splitlines():
        proof = json.loads(line)
        older, newer = roots(
            proof["size"], int(size), [exact(it) for it in proof["path"]], exact(proof["root"])
        )
        assert (older, newer) == (exact(proof["root"]), root)
    assert version == "2" or "consistency.jsonl" not in members
    return len(events)


def check_deployment(events: list[dict[str, Any]], deployment_id: str, name: str) -> None:
    own = [it for it in events if it["subject"] == deployment_id]
    assert [it["streamversion"] for it in own] == [str(it) for it in range(1, len(own) + 1)]
    expected: Counter[tuple[str, str]] = Counter()
    current = ""
    for it in own:
        if it["type"] in ("deployment.requested", "deployment.update_requested"):
            if it["data"]["name"] != current:
                expected["deployment_name.reserved", it["data"]["name"]] += 1
                if current:
                    expected["deployment_name.released", current] += 1
            current = it["data"]["name"]
        if it["type"] == "deployment.deleted":
            expected["deployment_name.released", current] += 1
    assert current == name
    of_names = [it for it in events if it["subject"] != deployment_id]
    assert Counter((it["type"], it["data"]["name"]) for it in of_names) == expected
    for it in of_names:
        assert it["data"]["deployment_id"] == deployment_id
        assert it["subject"] == str(uuid5(NAMES, it["data"]["name"]))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("evidence")
    log = open_event_log("sqlite://")
    fill(log)
    ledger = open_ledger(log)
    kept = [
        EarlierState.of("kept", Checkpoint(signer.name, it, ledger.root(it)).signed(signer))
        for it in (1, 7, 8, 16, 21, 22)
    ]
    export_evidence(log, ledger, signer, folder / "deployment", deployment_id=IRIS, continues=kept)
    since, until = recorded_at(log, 6), recorded_at(log, 13)
    export_evidence(log, ledger, signer, folder / "range", since=since, until=until, continues=kept[:1])
    export_evidence(log, ledger, signer, folder / "open", since=until)
    ledger.store.close()
    log.close()
    return {it.name: it for it in folder.iterdir()}


@pytest.mark.parametrize(("name", "events"), [("deployment", 11), ("range", 7), ("open", 10)])
def test_ours_is_verified_by_others(name: str, events: int, files: dict[str, Path], signer: Signer) -> None:
    assert verify(files[name].read_bytes(), str(signer.verifier)) == events


@pytest.mark.parametrize(("name", "events"), [("deployment", 11), ("range", 7)])
def test_format_1_is_verified_by_others(name: str, events: int) -> None:
    assert verify((OLD / f"{name}.zip").read_bytes(), (OLD / "owner.pub").read_text().strip()) == events


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("deployment", lambda it: it.members.update({"README.md": b""})),
        ("deployment", lambda it: it.edit("events.jsonl", 1, lambda line: line.update(actor="nobody"))),
        ("deployment", lambda it: it.edit("consistency.jsonl", 1, lambda line: line["path"].pop())),
        ("deployment", lambda it: it.members.pop("key.pub")),
        ("range", lambda it: it.edit("bounds.jsonl", 0, lambda line: line.update(position=6))),
        ("range", lambda it: it.edit("proofs.jsonl", 0, lambda line: line["path"].reverse())),
    ],
)
def test_what_was_changed_is_not(
    name: str,
    change: Callable[[Evidence], object],
    files: dict[str, Path],
    signer: Signer,
    tmp_path: Path,
) -> None:
    evidence = Evidence.read(files[name], signer)
    change(evidence)
    path = evidence.write(tmp_path / "changed.zip")
    with pytest.raises((AssertionError, KeyError, ValueError)):
        verify(path.read_bytes(), str(signer.verifier))
