"""Evidence by somebody who has the key, or holds files of others, and would have it say something else."""

import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit.evidence import cloud_events, readme, report
from deployledger.audit.evidence.cloud_events import Recorded
from deployledger.audit.evidence.export import export_evidence
from deployledger.audit.evidence.manifest import VERSION, EvidenceSelection, Manifest
from deployledger.audit.evidence.story import Story
from deployledger.audit.evidence.verification import verify_evidence
from deployledger.audit.keys import Signer, Verifier
from deployledger.audit.ledger import Ledger
from deployledger.audit.signed_notes import opened, sign
from deployledger.domain.event_log import events_of
from deployledger.domain.events import Deleted, Event
from deployledger.domain.exceptions import LedgerError
from deployledger.domain.names import NameEvent, NameReservation, reservation_id
from tests.domain.given import (
    SERVING,
    context,
    deletion_requested,
    happened,
    history,
    requested,
    update_requested,
)
from tests.ledger.evidence import IRIS, ROSE, Evidence, compact, fill, recorded_at, reserved
from tests.ledger.test_archive import OLD
from tests.ledger.test_evidence import Page, problems


@pytest.fixture(scope="module")
def memory() -> Iterator[tuple[DatabaseEventLog, Ledger]]:
    log = open_event_log("sqlite://")
    fill(log)
    ledger = open_ledger(log)
    yield log, ledger
    ledger.store.close()
    log.close()


@pytest.fixture
def iris(memory: tuple[DatabaseEventLog, Ledger], signer: Signer, tmp_path: Path) -> Evidence:
    export_evidence(*memory, signer, tmp_path / "iris.zip", deployment_id=IRIS)
    return Evidence.read(tmp_path / "iris.zip", signer)


@pytest.fixture
def span(memory: tuple[DatabaseEventLog, Ledger], signer: Signer, tmp_path: Path) -> Evidence:
    """Evidence of the events 6 to 12."""
    log, ledger = memory
    since, until = recorded_at(log, 6), recorded_at(log, 13)
    export_evidence(log, ledger, signer, tmp_path / "range.zip", since=since, until=until)
    return Evidence.read(tmp_path / "range.zip", signer)


# What is said of the events -----------------------------------------------------------------------------


def test_evidence_does_not_pass_under_the_name_of_another_deployment(iris: Evidence, tmp_path: Path) -> None:
    said = iris.manifest().selection
    for name in ("rose", "", "Iris", "iris\u200b", "i\u0301ris"):
        iris.sign_again(selection=type(said)(said.first, said.last, IRIS, name))
        assert problems(iris, tmp_path) == [
            f"manifest.txt: it names the deployment {name!r}, but its events name it 'iris'"
        ]


def test_evidence_of_one_deployment_does_not_pass_under_the_id_of_another(
    iris: Evidence, tmp_path: Path
) -> None:
    said = iris.manifest().selection
    iris.sign_again(selection=type(said)(said.first, said.last, ROSE, "iris"))
    assert f"events.jsonl line 2: it is not about deployment {ROSE}" in problems(iris, tmp_path)


@pytest.mark.parametrize("name", ["README.md", "MAPPING.md", "report.html"])
@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.replace(b"is", b"was", 1),
        lambda it: it + b"\n",
        lambda it: it.replace(b"\n", b"\r\n"),
        lambda it: b"\xef\xbb\xbf" + it,
        lambda it: b"",
    ],
    ids=["a word", "a line", "line ends", "a mark in front", "nothing"],
)
@pytest.mark.parametrize("kind", ["deployment", "range"])
def test_a_page_that_says_something_else_is_found(
    kind: str, name: str, change: Callable[[bytes], bytes], iris: Evidence, span: Evidence, tmp_path: Path
) -> None:
    evidence = iris if kind == "deployment" else span
    evidence.members[name] = change(evidence.members[name])
    evidence.sign_again(with_pages=False)
    assert problems(evidence, tmp_path) == [f"{name}: it does not match the events and the manifest"]


def test_the_page_of_other_evidence_is_found(iris: Evidence, span: Evidence, tmp_path: Path) -> None:
    for name in ("README.md", "report.html"):
        mixed = Evidence({**iris.members, name: span.members[name]}, iris.signer)
        mixed.sign_again(with_pages=False)
        assert problems(mixed, tmp_path) == [f"{name}: it does not match the events and the manifest"]


def test_a_range_that_ends_before_it_begins_is_found(span: Evidence, tmp_path: Path) -> None:
    said = span.manifest().selection
    span.sign_again(selection=type(said)(said.first, said.last, since=said.until, until=said.since))
    assert "manifest.txt: the range ends before it begins" in problems(span, tmp_path)


# Names --------------------------------------------------------------------------------------------------


def named(log: DatabaseEventLog, deployment_id: UUID, name: str, *, then: str = "", is_deleted: bool) -> None:
    """Add a deployment that perhaps is renamed, and perhaps is deleted, as the service does."""
    events = [*SERVING[1:]]
    if then:
        events.append(update_requested(name=then))
    if is_deleted:
        events += [deletion_requested(), happened(Deleted)]
    of_names: list[Event] = []
    for current, following in ((name, then), (then, "")):
        if current:
            past = events_of(log, reservation_id(current))
            reservation = NameReservation.replay(current, cast("list[NameEvent]", past))
            reservation.reserve(deployment_id, by=context())
            if following or is_deleted:
                reservation.release(deployment_id, by=context())
            of_names += reservation.collect_events()
    log.append([*history(requested(name=name), *events, stream=deployment_id), *of_names])


@pytest.mark.parametrize("then", ["", "lily"])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_events_of_a_name_cannot_be_left_out(
    then: str, is_deleted: bool, signer: Signer, tmp_path: Path
) -> None:
    log = open_event_log("sqlite://")
    named(log, ROSE, "iris", is_deleted=True)
    named(log, IRIS, "iris", then=then, is_deleted=is_deleted)
    path = tmp_path / "iris.zip"
    export_evidence(log, open_ledger(log), signer, path, deployment_id=IRIS)
    log.close()
    honest = Evidence.read(path, signer)
    assert verify_evidence(path, signer.verifier).is_verified
    said = honest.manifest()
    events, proofs = honest.lines("events.jsonl"), honest.lines("proofs.jsonl")
    places = [number for number, it in enumerate(events) if it["type"].startswith("deployment_name.")]
    assert len(places) == 1 + 2 * bool(then) + is_deleted
    for place in places:
        kept = [number for number in range(len(events)) if number != place]
        forged = Evidence(dict(honest.members), signer)
        for name, lines in (("events.jsonl", events), ("proofs.jsonl", proofs)):
            forged.put(name, [lines[it] for it in kept])
        first, last = (int(events[it]["position"]) for it in (kept[0], kept[-1]))
        selection = type(said.selection)(first, last, IRIS, said.selection.name)
        forged.sign_again(events=len(kept), selection=selection)
        verb, name = events[place]["type"].rpartition(".")[2], events[place]["data"]["name"]
        expected = f"events.jsonl: the event by which the name '{name}' is {verb} is missing"
        assert expected in problems(forged, tmp_path)


def test_an_event_of_a_name_that_the_deployment_never_had_is_found(signer: Signer, tmp_path: Path) -> None:
    log = open_event_log("sqlite://")
    log.append(reserved("lily", IRIS))
    log.append([*history(*SERVING, stream=IRIS), *reserved("iris", IRIS)])
    ledger = open_ledger(log)
    export_evidence(log, ledger, signer, tmp_path / "iris.zip", deployment_id=IRIS)
    export_evidence(log, ledger, signer, tmp_path / "all.zip", since=recorded_at(log, 1))
    log.close()
    iris, everything = (Evidence.read(tmp_path / it, signer) for it in ("iris.zip", "all.zip"))
    for name in ("events.jsonl", "proofs.jsonl"):
        iris.put(name, everything.lines(name))
    selection = type(iris.manifest().selection)(1, 6, IRIS, "iris")
    iris.sign_again(events=6, selection=selection)
    assert problems(iris, tmp_path) == [
        "events.jsonl: the event by which the name 'lily' is reserved does not belong to the deployment"
    ]


def test_without_its_name_reservation_a_deployment_has_no_evidence(signer: Signer, tmp_path: Path) -> None:
    log = open_event_log("sqlite://")
    log.append(history(*SERVING, stream=IRIS))
    with pytest.raises(LedgerError, match="name 'iris' is reserved is missing in the log") as error:
        export_evidence(log, open_ledger(log), signer, tmp_path / "no.zip", deployment_id=IRIS)
    assert "a range of time" in error.value.hint
    log.close()


def test_a_range_report_distinguishes_two_deployments_of_one_name(signer: Signer, tmp_path: Path) -> None:
    log = open_event_log("sqlite://")
    named(log, ROSE, "iris", is_deleted=True)
    named(log, IRIS, "iris", is_deleted=False)
    path = tmp_path / "all.zip"
    export_evidence(log, open_ledger(log), signer, path, since=recorded_at(log, 1))
    log.close()
    assert verify_evidence(path, signer.verifier).is_verified
    text = Page(Evidence.read(path, signer).members["report.html"]).text
    served, _, events = text.partition("4. Every event")
    for it in (ROSE, IRIS):
        assert served.count(f"iris {it}") == 1, "in what served when"
        assert events.count(f"iris {it}") >= 4, "in the list of events"


# Other spellings of the same ------------------------------------------------------------------------------

LINES = [
    lambda it: it.replace(b'"position":', b'"position": ', 1),
    lambda it: it.replace(b'{"position":', b'{"position":1,"position":', 1),
    lambda it: b" " + it,
    lambda it: it + b" ",
    lambda it: it.replace(b'":6,', b'":6.0,', 1).replace(b'":5,', b'":5.0,', 1),
    lambda it: it.replace(b'":6,', b'":6e0,', 1).replace(b'":5,', b'":5e0,', 1),
    lambda it: it.replace(b'":6,', b'":"6",', 1).replace(b'":5,', b'":"5",', 1),
    lambda it: it.replace(b'":6,', b'":06,', 1).replace(b'":5,', b'":05,', 1),
    lambda it: it.replace(b'":6,', b'":-6,', 1).replace(b'":5,', b'":-5,', 1),
    lambda it: it.replace(b"leaf", b"\\u006ceaf", 1),
    lambda it: it.replace(b'="', b'"', 1),
    lambda it: it.replace(b'],"', b'],"more":NaN,"', 1).replace(b'"]}', b'"],"more":NaN}', 1),
    lambda it: it.replace(b'"path":["', b'"path":[null,"', 1),
]


@pytest.mark.parametrize("name", ["proofs.jsonl", "bounds.jsonl"])
@pytest.mark.parametrize("change", LINES)
def test_a_proof_that_is_written_in_another_way_is_refused(
    name: str, change: Callable[[bytes], bytes], span: Evidence, tmp_path: Path
) -> None:
    first, rest = span.members[name].split(b"\n", 1)
    assert change(first) != first
    span.members[name] = change(first) + b"\n" + rest
    span.sign_again()
    assert any(it.startswith(f"{name} line 1: the line is not") for it in problems(span, tmp_path))


# Format 1 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deployment", "range"])
def test_evidence_in_format_1_is_verified(kind: str) -> None:
    found = verify_evidence(OLD / f"{kind}.zip", Verifier.load(OLD / "owner.pub"))
    assert found.is_verified
    assert found.checks[-1].what.endswith("whose report is not compared")
    assert any("format 1, whose report is not compared" in it for it in found.limits)


def test_pages_of_format_1_are_compared_too(signer: Signer, tmp_path: Path) -> None:
    """Who has the key says that new evidence is old, to have its report believed."""
    said: Any = None
    for name in ("README.md", "MAPPING.md"):
        old = Evidence.read(OLD / "deployment.zip", signer)
        owner = Verifier.load(OLD / "owner.pub")
        text, _ = opened(old.members["manifest.txt"], [owner])
        said = Manifest.parse(text)
        assert said.version == 1
        old.members["manifest.txt"] = sign(str(said), signer).encode()
        old.members[name] += b"\nAll of this was approved.\n"
        old.sign_again(with_pages=False)
        assert f"{name}: it does not match the events and the manifest" in problems(old, tmp_path)


# Pages are part of the format -----------------------------------------------------------------------------

PAGES = {
    "deployment README.md": "f6f6e5ec0fe537c3",
    "deployment README.md, continuing": "9eadb8cffb843a16",
    "deployment report.html": "a63f61918332dcb4",
    "range README.md": "f84de804d0141c50",
    "range README.md, continuing": "0713ae3f79802566",
    "range report.html": "9563da902bb759df",
    "MAPPING.md": "847df59d1dbbaacc",
}
"""What evidence in format 2 has. Another digest means another format: raise its version."""


HOSTILE = [
    "<b>&amp;</b>",
    "a'b\"c",
    "$x ${y}",
    "\u202egnp",
    "\u0001\n\t",
    "x" * 301,
    "sha256:<",
    "\U0001f600",
]


def test_texts_of_users_are_shown_as_they_were_before() -> None:
    story, stream = Story(), UUID(int=1)
    topics = ["deployment.requested", "deployment.artifacts_fetched", "deployment.provisioned", *HOSTILE]
    for number, topic in enumerate(topics, 1):
        what = HOSTILE[number % len(HOSTILE)]
        fields: dict[str, Any] = dict.fromkeys(("name", "model_uri", "endpoint_url"), what)
        fields |= {"revision": 1, "simulated": True, "tags": {what: what}, "target": {what: number}}
        fields["artifact"] = {"digest": what, "model_version": what}
        event = (number, stream.bytes, number, topic, compact(fields), stream.bytes, 10**15 * number)
        story.add(Recorded(*event, what, None, None))
    owner = Verifier("<i>'$a'", b"k" * 32)
    of_deployment = EvidenceSelection(1, len(topics), stream, "<i>$name")
    reports = [
        report.render(story, selection, 99, b"r" * 32, owner)
        for selection in (of_deployment, EvidenceSelection(1, len(topics)))
    ]
    assert [sha256(page).hexdigest()[:16] for page in reports] == ["375128c878200e43", "35facc7742f4217e"]


def test_pages_change_with_the_version_of_the_format_alone() -> None:
    owner, made = Verifier.load(OLD / "owner.pub"), {"MAPPING.md": readme.mapping()}
    for kind in ("deployment", "range"):
        with zipfile.ZipFile(OLD / f"{kind}.zip") as file:
            said = Manifest.parse(opened(file.read("manifest.txt"), [owner])[0])
            events = file.read("events.jsonl").splitlines()
        story = Story()
        for line in events:
            story.add(cloud_events.decode(line, owner.name))
        made[f"{kind} README.md"] = readme.readme(said.selection, owner.name)
        made[f"{kind} README.md, continuing"] = readme.readme(said.selection, owner.name, is_continuing=True)
        made[f"{kind} report.html"] = report.render(story, said.selection, said.size, said.root, owner)
    assert VERSION == 2
    assert {name: sha256(page).hexdigest()[:16] for name, page in made.items()} == PAGES
