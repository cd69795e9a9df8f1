"""Whoever changes the log or its ledger is found out, and told where: the tamper matrix."""

import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import Phase, example, settings
from hypothesis import given as for_all
from hypothesis import strategies as st
from psycopg import sql

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit import keys, log_check, signed_notes
from deployledger.audit.checkpoints import Checkpoint, open_checkpoint
from deployledger.audit.keys import Signer, Verifier
from deployledger.audit.ledger import Ledger
from deployledger.audit.ledger_store import LedgerStore
from deployledger.audit.log_check import LogCheck
from deployledger.audit.log_parts import CheckedPart, Part, check_part
from deployledger.domain.event_log import EventLog
from deployledger.domain.event_records import EventRecord
from deployledger.domain.exceptions import ConfigurationError, EventLogError, LedgerError
from tests.domain.given import RUNNING_JOB, SERVING, Happening, deletion_requested, failed, history
from tests.ledger.tampering import COLUMNS, Attacker

STREAMS = 175
EVENTS = 4 * STREAMS
"""Four events of each stream, in four rounds: streams and rounds cross the borders of tiles and parts."""

SIZES = (300, 512, EVENTS)
"""The sizes of the checkpoints: in a tile, at the border of one, at the end."""


def stream(number: int) -> UUID:
    return UUID(int=0xD0000000_00000000_00000000_00000000 + number)


def fill(url: str, signer: Signer) -> dict[int, str]:
    """Fill a log, and return the checkpoints, by size, that were made meanwhile."""
    made: dict[int, str] = {}
    events = [
        happening(stream(number), version)
        for version, happening in enumerate(SERVING, start=1)
        for number in range(STREAMS)
    ]
    with closing(open_event_log(url, create=True)) as log:
        log.create_schema()
        ledger = open_ledger(log, signer=signer)
        for size in SIZES:
            log.append(events[log.position() : size])
            made[size] = ledger.checkpoint().note
        ledger.store.close()
    return made


@dataclass
class Victim:
    """A log with its ledger in a database of its own, and the checkpoints that somebody kept elsewhere."""

    url: str
    signer: Signer
    kept: dict[int, str]
    attacker: Attacker = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self._log = open_event_log(self.url)
        self.ledger = open_ledger(self._log, signer=self.signer)
        self.attacker = Attacker(self.url, self._log)

    def audit(
        self, *outside: int | str, since: int | None = None, workers: int = 1, keys: Sequence[Signer] = ()
    ) -> LogCheck:
        """Verify with the checkpoints of these sizes, or other ones; with several workers in parts."""
        given = [(f"kept-{it}" if isinstance(it, int) else "given", self._note(it)) for it in outside]
        ledger = Ledger(self._log, self.ledger.store, check=check_elsewhere) if workers > 1 else self.ledger
        return ledger.verify(
            [it.verifier for it in keys or [self.signer]],
            given,
            since=None if since is None else self.kept[since],
            workers=workers,
        )

    def _note(self, note: int | str) -> str:
        return self.kept[note] if isinstance(note, int) else note

    def reopen(self, user: str | None = None) -> DatabaseEventLog:
        """Open the log and its ledger again; as another user, whose password is the name's first word."""
        self.close()
        url = urlsplit(self.url)
        if user is not None:
            host = f"{user}:{user.partition('_')[0]}@{url.netloc.rpartition('@')[2]}"
            url = url._replace(netloc=host)
        self._log = open_event_log(urlunsplit(url) if user else self.url)
        self.ledger = open_ledger(self._log, signer=self.signer)
        return self._log

    def close(self) -> None:
        self.ledger.store.close()
        self._log.close()


def check_elsewhere(
    log: EventLog, store: LedgerStore, parts: Sequence[Part], progress: Callable[[int], None]
) -> list[CheckedPart]:
    """Check parts as other processes do: their results are pickled."""
    results = [pickle.dumps(check_part(log, store, part, progress)) for part in parts]
    return [pickle.loads(result) for result in results]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a part be as small as a tile."""
    monkeypatch.setattr(log_check, "_LEAST_OF_A_PART", 256)
    monkeypatch.setattr(log_check, "_AHEAD", 0)


@pytest.fixture(scope="session")
def filled_file(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> tuple[Path, dict[int, str]]:
    path = tmp_path_factory.mktemp("filled") / "events.db"
    return path, fill(f"sqlite:///{path}", signer)


@pytest.fixture(scope="session")
def filled_database(postgres_url: str, signer: Signer) -> Iterator[tuple[str, dict[int, str]]]:
    name = f"filled_{uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        made = fill(urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}")), signer)
        yield name, made
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(params=["sqlite", "postgres"])
def victim(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str, signer: Signer
) -> Iterator[Victim]:
    """Yield a log that nobody has touched yet: a copy of the one that was filled."""
    if request.param == "sqlite":
        path, made = request.getfixturevalue("filled_file")
        for ending in ("", ".ledger"):
            shutil.copy(f"{path}{ending}", tmp_path / f"events.db{ending}")
        with closing(Victim(f"sqlite:///{tmp_path / 'events.db'}", signer, made)) as victim:
            yield victim
        return
    template, made = request.getfixturevalue("filled_database")
    name = f"copy_{uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        try:
            url = urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
            with closing(Victim(url, signer, made)) as victim:
                yield victim
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


Found = tuple[int | None, str]


def found(audited: LogCheck) -> list[Found]:
    return [(it.position, it.kind) for it in audited.problems]


def message(audited: LogCheck, position: int | None, kind: str) -> str:
    told = [it.message for it in audited.problems if (it.position, it.kind) == (position, kind)]
    assert told, f"{kind} at {position} is not among {audited.problems}"
    return told[0]


# What is changed in the log --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Something that is done to the log, and what has to be found then.

    Attributes:
        at: the position of the first problem that is told.
        kind: its kind, or that of another problem at the same position.
        says: what is in its message.
        in_order: whether nothing is wrong with the log by itself: only hashes show that it was changed.
    """

    name: str
    attack: Callable[[Attacker], None]
    at: int
    kind: str
    says: str
    in_order: bool = False

    def __str__(self) -> str:
        return self.name


def edit(name: str, place: int, change: Callable[[EventRecord], dict[str, object]], **more: bool) -> Case:
    """Return a case in which columns of one event are changed."""
    return Case(
        f"{name} of {place}",
        lambda it: it.change(place, **change(it.record(place))),
        place,
        "changed",
        f"Event {place} is not the one that was signed",
        **more,
    )


def a_new_stream(it: Attacker, position: int, version: int = 1) -> None:
    """Insert an event of a deployment that there is not, which looks like the one in front of it."""
    record = it.record(position - 1)
    first = it.record(1)
    it.insert(
        first._replace(
            position=position,
            stream_id=stream(9_999).bytes,
            stream_version=version,
            event_id=uuid4().bytes,
            recorded_at=record.recorded_at,
        )
    )


def in_between(it: Attacker, position: int) -> None:
    it.renumber(position, 1)
    a_new_stream(it, position)


def without(it: Attacker, first: int, last: int) -> None:
    it.delete(first, last)
    it.renumber(last + 1, -(last + 1 - first))


def flipped(state: bytes, place: int) -> bytes:
    return state[:place] + bytes([state[place] ^ 1]) + state[place + 1 :]


HOUR = 3_600_000_000
PLACES = (1, 256, 257, 400, 512, 513, EVENTS)
"""The ends, and both sides of the borders of tiles and parts."""

CASES = [
    *(
        edit("a byte of the state", it, lambda it: {"state": flipped(it.state, 40)}, in_order=True)
        for it in PLACES
    ),
    edit("the last byte of the state", 400, lambda it: {"state": it.state + b" "}, in_order=True),
    edit("the topic", 400, lambda _: {"topic": "deployment.provisioned"}),
    edit("the topic, to one that is legal", 400, lambda _: {"topic": "deployment.cancelled"}),
    edit("the topic, to none", 400, lambda _: {"topic": "deployment.packed"}),
    edit("the actor", 400, lambda _: {"actor": "bob"}, in_order=True),
    edit("the actor, to nobody", 400, lambda _: {"actor": None}, in_order=True),
    edit("the time, later", 400, lambda it: {"recorded_at": it.recorded_at + HOUR}),
    edit("the time, earlier", 400, lambda it: {"recorded_at": it.recorded_at - HOUR}),
    edit(
        "the time of the last, by a microsecond",
        EVENTS,
        lambda it: {"recorded_at": it.recorded_at + 1},
        in_order=True,
    ),
    edit("the correlation id", 400, lambda _: {"correlation_id": uuid4().bytes}, in_order=True),
    edit("the causation id", 400, lambda _: {"causation_id": uuid4().bytes}, in_order=True),
    edit("the event id", 400, lambda _: {"event_id": uuid4().bytes}, in_order=True),
    *(edit(f"the version, to {it}", 400, lambda _, to=it: {"originator_version": to}) for it in (2**40, 0)),
    edit("the stream", 400, lambda _: {"originator_id": stream(9_999).bytes}),
    Case("deleted", lambda it: it.delete(400, 400), 400, "missing", "Event 400 is missing."),
    Case(
        "deleted over a border",
        lambda it: it.delete(250, 530),
        250,
        "missing",
        "are missing.",
    ),
    Case("the first is deleted", lambda it: it.delete(1, 1), 1, "missing", "Event 1 is missing."),
    Case(
        "deleted and closed up",
        lambda it: without(it, 400, 400),
        400,
        "changed",
        "Event 400 is not the one that was signed",
    ),
    Case(
        "the last is deleted",
        lambda it: it.delete(EVENTS, EVENTS),
        EVENTS,
        "truncated",
        f"; kept-{EVENTS}) does not hold: It covers {EVENTS} events, and the log has {EVENTS - 1}: "
        "the log was truncated",
        in_order=True,
    ),
    Case(
        "the last hundred are deleted",
        lambda it: it.delete(EVENTS - 99, EVENTS),
        EVENTS - 99,
        "truncated",
        f"and the log has {EVENTS - 100}",
        in_order=True,
    ),
    *(
        Case(
            f"{it} and {it + 1} change places",
            lambda attacker, it=it: attacker.swap(it, it + 1),
            it,
            "changed",
            f"Event {it} is not the one that was signed",
            in_order=it == 400,  # what comes behind 512 was recorded later
        )
        for it in (400, 512)
    ),
    *(
        Case(
            f"inserted at {it}",
            lambda attacker, it=it: in_between(attacker, it),
            it,
            "changed",
            f"Event {it} is not the one that was signed",
            in_order=True,
        )
        for it in (256, 400, 513)
    ),
    *(
        Case(
            f"inserted at {it}",
            lambda attacker, it=it: attacker.insert(
                attacker.record(1)._replace(
                    position=it, stream_id=stream(9_999).bytes, event_id=uuid4().bytes
                )
            ),
            it,
            "order",
            f"An event has position {it}; the first one is 1.",
        )
        for it in (0, -1, -(2**62), -(2**63))
    ),
    Case(
        "added behind the end, illegally",
        lambda it: it.insert(
            it.record(EVENTS)._replace(position=EVENTS + 1, stream_version=5, event_id=uuid4().bytes)
        ),
        EVENTS + 1,
        "illegal",
        "(deployment.provisioned, number 5 of stream d0000000-0000-0000-0000-0000000000ae) cannot follow "
        "state active",
    ),
    Case(
        "added behind the end, with a gap in its stream",
        lambda it: a_new_stream(it, EVENTS + 1, version=2),
        EVENTS + 1,
        "version",
        "and does not follow: the one before is number 0",
    ),
    Case(
        "added behind the end, with a gap",
        lambda it: it.insert(
            it.record(1)._replace(
                position=EVENTS + 3, stream_id=stream(9_999).bytes, recorded_at=it.record(EVENTS).recorded_at
            )
        ),
        EVENTS + 1,
        "missing",
        f"Events {EVENTS + 1} to {EVENTS + 2} are missing.",
    ),
    Case(
        "added far behind the end",
        lambda it: it.insert(
            it.record(1)._replace(
                position=2**40, stream_id=stream(9_999).bytes, recorded_at=it.record(EVENTS).recorded_at
            )
        ),
        EVENTS + 1,
        "missing",
        f"Events {EVENTS + 1} to {2**40 - 1} are missing.",
    ),
    Case(
        "added behind the end, with an earlier time",
        lambda it: it.insert(it.record(1)._replace(position=EVENTS + 1, stream_id=stream(9_999).bytes)),
        EVENTS + 1,
        "order",
        "was recorded before the one in front of it",
    ),
    Case(
        "all are made anew by another actor",
        lambda it: it.rewrite(lambda record: record._replace(actor="mallory")),
        1,
        "changed",
        "Event 1 is not the one that was signed",
        in_order=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_change_of_the_log_is_found(victim: Victim, case: Case) -> None:
    case.attack(victim.attacker)

    audited = victim.audit(*SIZES)
    assert not audited.is_verified
    assert audited.problems[0].position == case.at
    assert case.says in message(audited, case.at, case.kind)
    assert case.kind != "missing" or (case.at, "changed") not in found(audited), (
        "what is missing is told once"
    )
    assert found(victim.audit(*SIZES, workers=3)) == found(audited)
    for since in (300, 512):
        later = victim.audit(*SIZES, since=since, workers=2)
        if case.at > since:
            assert not later.is_verified
            assert later.problems[0].position == case.at
            assert case.says in message(later, case.at, case.kind)
        elif case.at > 0:  # what was verified before is not read again, and that is said
            assert f"Events 1 to {since} were not read again" in later.limits[0]

    # Without any checkpoint the stored tree alone tells, which proves nothing by itself.
    victim.attacker.remove_checkpoints()
    alone = victim.audit()
    assert not alone.is_verified
    assert alone.problems[0].position == case.at
    assert found(victim.audit(workers=3)) == found(alone)
    assert (alone.covered, alone.covered_by_database) == (0, 0)
    assert any(it.startswith("Edits of events 1 to") for it in alone.limits)

    # Whoever also makes the tree anew is found out by what was kept elsewhere, and by nothing else.
    with suppress(LedgerError):  # a log with gaps has no tree
        victim.attacker.make_tree_again()
    alone = victim.audit()
    assert not alone.is_verified
    assert bool(alone.problems) is not case.in_order
    audited = victim.audit(*SIZES)
    assert not audited.is_verified
    assert audited.problems[0].position is not None
    assert audited.problems[0].position <= case.at


def test_an_untouched_log_is_verified(victim: Victim) -> None:
    for workers in (1, 2, 3):
        audited = victim.audit(*SIZES, workers=workers)
        assert audited.is_verified
        assert (audited.covered, audited.size, audited.streams) == (EVENTS, EVENTS, STREAMS)
        assert audited.root == victim.ledger.root()
        assert len(audited.limits) == 1
        for since in SIZES:
            audited = victim.audit(*SIZES, since=since, workers=workers)
            assert audited.is_verified
            assert (audited.after, audited.root) == (since, victim.ledger.root())


def test_several_workers_read_what_came_behind_a_checkpoint(victim: Victim) -> None:
    done: list[tuple[int, int]] = []

    def check(log: EventLog, store: LedgerStore, parts: Sequence[Part], progress: Any) -> list[CheckedPart]:
        done.extend((it.after, it.until) for it in parts)
        return check_elsewhere(log, store, parts, progress)

    ledger = Ledger(victim.ledger.log, victim.ledger.store, check=check)
    key = victim.signer.verifier
    assert ledger.verify([key], since=victim.kept[300], workers=2).is_verified
    ledger.verify([key], since=ledger.checkpoint(victim.signer).note, workers=2)
    made = Checkpoint(key.name, 100, ledger.root(100)).signed(victim.signer)
    assert ledger.verify([key], since=made, workers=2).is_verified
    assert done == [(512, EVENTS), (256, 512), (512, EVENTS)]


def test_the_first_changed_event_is_named_wherever_it_is(victim: Victim) -> None:
    for place in (1, 2, 255, 256, 257, 299, 300, 301, 511, 512, 513, 514, EVENTS - 1, EVENTS):
        actor = victim.attacker.record(place).actor
        victim.attacker.change(place, actor="mallory")
        for workers in (1, 3):
            audited = victim.audit(*SIZES, workers=workers)
            assert found(audited)[0] == (place, "changed")
            proved = [it.size for it in audited.checkpoints if it.holds and it.is_from_outside]
            assert proved == [it for it in SIZES if it < place]
            assert audited.covered == max(proved, default=0)
        victim.attacker.change(place, actor=actor)
    assert victim.audit(*SIZES).is_verified


def test_an_event_behind_the_last_checkpoint_is_said_to_be_unproved(victim: Victim) -> None:
    a_new_stream(victim.attacker, EVENTS + 1)
    audited = victim.audit(*SIZES)
    assert audited.problems == ()
    assert audited.limits[0] == (
        f"Edits of events {EVENTS + 1} to {EVENTS + 1} cannot be detected: no checkpoint covers them."
    )


# The whole log, made anew ----------------------------------------------------------------------------------


def made_anew(victim: Victim) -> None:
    victim.attacker.rewrite(lambda record: record._replace(actor="mallory"))
    victim.attacker.make_tree_again()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_rewritten_log_is_detected_by_the_stored_checkpoints(victim: Victim, workers: int) -> None:
    made_anew(victim)
    audited = victim.audit(workers=workers)
    assert not audited.is_verified
    assert "Events 1 to 300 are not all those that were signed" in message(audited, 1, "changed")
    with pytest.raises(LedgerError, match="an earlier checkpoint of its first 700 events"):
        victim.ledger.checkpoint()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_log_rewritten_with_its_checkpoints_is_detected_from_outside(victim: Victim, workers: int) -> None:
    made_anew(victim)
    victim.attacker.remove_checkpoints()
    audited = victim.audit(workers=workers)
    assert audited.problems == ()
    assert not audited.is_verified
    assert (
        audited.limits[0] == f"Edits of events 1 to {EVENTS} cannot be detected: no checkpoint covers them."
    )

    audited = victim.audit(512, workers=workers)
    assert not audited.is_verified
    assert "Events 1 to 512 are not all those" in message(audited, 1, "changed")
    assert message(audited, None, "checkpoint") == (
        f"The checkpoint of 512 events ({victim.signer.name}; kept-512) does not hold: "
        "The first 512 events differ from those that it signed."
    )
    assert not audited.is_contradicted
    with pytest.raises(LedgerError, match="does not lead to the checkpoint of 300"):
        victim.audit(since=300, workers=workers)


def test_a_checkpoint_of_another_log_is_said_to_be_perhaps_that(victim: Victim) -> None:
    of_another_log = Checkpoint(victim.signer.name, 300, bytes(32)).signed(victim.signer)
    audited = victim.audit(EVENTS, of_another_log)
    assert not audited.is_verified
    assert audited.is_contradicted
    assert audited.covered == EVENTS
    assert message(audited, 1, "changed") == (
        "Events 1 to 300 are not all those that were signed: that checkpoint is of another log, or this one "
        "was rewritten, and signed by the key's owner."
    )
    victim.attacker.remove_checkpoints()
    audited = victim.audit(of_another_log)
    assert "or that checkpoint is of another log." in message(audited, 1, "changed")


def test_a_log_that_was_made_anew_and_signed_by_another_key_is_found(victim: Victim) -> None:
    made_anew(victim)
    victim.attacker.remove_checkpoints()
    forger = Signer.parse(keys.generate(victim.signer.name)[0])
    victim.ledger.checkpoint(forger)
    audited = victim.audit(300)
    assert not audited.is_verified
    assert audited.covered_by_database == 0
    assert {it.error for it in audited.checkpoints if not it.is_from_outside} == {
        f"It is not signed by {victim.signer.name} ({victim.signer.verifier.key_id.hex()}), "
        f"but by {victim.signer.name}."
    }


# Checkpoints -----------------------------------------------------------------------------------------------


def forged(victim: Victim, size: int) -> str:
    forger = Signer.parse(keys.generate(victim.signer.name)[0])
    return Checkpoint(forger.name, size, victim.ledger.root(size)).signed(forger)


def same_key_other_name(victim: Victim, size: int) -> str:
    name = "example.com/other"
    other = Signer(Verifier(name, victim.signer.verifier.public), victim.signer.sign)
    return Checkpoint(name, size, victim.ledger.root(size)).signed(other)


def other_origin(victim: Victim, size: int) -> str:
    text = str(Checkpoint("example.com/other", size, victim.ledger.root(size)))
    return signed_notes.sign(text, victim.signer)


def with_other_line(number: int, line: str) -> Callable[[Victim, int], str]:
    def changed(victim: Victim, size: int) -> str:
        lines = victim.kept[size].split("\n")
        assert lines[number] != line
        return "\n".join([*lines[:number], line, *lines[number + 1 :]])

    return changed


def other_signature(victim: Victim, size: int) -> str:
    """Return the text of one checkpoint with the signature of another."""
    text = victim.kept[size].partition("\n\n")[0]
    return f"{text}\n\n{victim.kept[512].partition(chr(10) * 2)[2]}"


NOTES = {
    "by another key": (forged, "It is not signed by"),
    "by the same key under another name": (same_key_other_name, "but by example.com/other."),
    "of another origin": (other_origin, "of another origin: of example.com/other, not of"),
    "with another size": (with_other_line(1, "301"), "changed since, or forged"),
    "with another root": (with_other_line(2, "A" * 43 + "="), "changed since, or forged"),
    "with another origin": (with_other_line(0, "example.com/other"), "changed since, or forged"),
    "with the signature of another one": (other_signature, "changed since, or forged"),
    "without a signature": (lambda it, size: it.kept[size].partition("—")[0], "not a signed note"),
    "that is cut off": (lambda it, size: it.kept[size][:-9], "not a signed note"),
    "that is none": (lambda *_: "nonsense", "not a signed note"),
    "that is empty": (lambda *_: "", "not a signed note"),
}


@pytest.mark.parametrize("name", NOTES)
def test_a_checkpoint_that_was_changed_does_not_hold(victim: Victim, name: str) -> None:
    make, says = NOTES[name]
    bad = make(victim, 300)

    given = victim.audit(bad)
    assert not given.is_verified
    assert says in message(given, None, "unreadable")
    assert message(given, None, "unreadable").startswith("The checkpoint given proves nothing: ")
    assert (given.covered, given.covered_by_database) == (0, EVENTS)

    among_others = victim.audit(512, bad)  # as in a folder, after a key was replaced
    is_of_another_key = "signed by" in says or "but by" in says
    assert among_others.is_verified is is_of_another_key
    if is_of_another_key:
        assert "Checkpoints that were given and that none of the given keys signed prove nothing: 1." in (
            among_others.limits
        )

    with pytest.raises(ConfigurationError):
        victim.ledger.verify([victim.signer.verifier], since=bad)

    victim.attacker.change_checkpoint(300, note=bad)
    stored = victim.audit(512)
    if is_of_another_key:  # anybody can put those there: they say nothing
        assert stored.is_verified
        assert "none of the given keys signed prove nothing: 1." in " ".join(stored.limits)
    else:
        assert not stored.is_verified
        assert "The checkpoint in the database proves nothing: " in message(stored, None, "unreadable")
        assert says in message(stored, None, "unreadable")

    # Where it is the last one it is not taken for one: there is a new one, which holds.
    victim.attacker.remove_checkpoints(above=300)
    new = victim.ledger.checkpoint()
    assert open_checkpoint(new.note, [victim.signer.verifier]).size == EVENTS


def test_what_is_stored_beside_a_note_counts_for_nothing(victim: Victim) -> None:
    victim.attacker.change_checkpoint(EVENTS, size=1 << 40, root=bytes(32))
    assert victim.audit(EVENTS).is_verified
    assert victim.ledger.checkpoint().size == EVENTS


@pytest.mark.parametrize("outside", [True, False])
def test_a_checkpoint_of_a_longer_log_tells_that_this_one_was_truncated(
    victim: Victim, outside: bool
) -> None:
    victim.attacker.delete(512, EVENTS)
    if outside:
        victim.attacker.remove_checkpoints()
        victim.attacker.make_tree_again()
    audited = victim.audit(*SIZES) if outside else victim.audit()
    assert not audited.is_verified
    assert "It covers 700 events, and the log has 511: the log was truncated, or is another one." in (
        " ".join(it.message for it in audited.problems if (it.position, it.kind) == (512, "truncated"))
    )
    assert audited.covered_by_database == 300
    with pytest.raises(LedgerError, match="It covers 512 events, and the log has 511: the log was truncated"):
        victim.audit(since=512)


def test_a_truncation_with_checkpoints_is_detected_by_a_kept_one(victim: Victim) -> None:
    victim.attacker.delete(513, EVENTS)
    victim.attacker.remove_checkpoints(above=512)
    victim.attacker.make_tree_again()
    audited = victim.audit()
    assert audited.problems == ()  # nothing that is there shows it: that is said
    assert any(
        "if those are removed together with the events, it goes unnoticed" in it for it in audited.limits
    )
    audited = victim.audit(EVENTS)
    assert not audited.is_verified
    assert found(audited) == [(513, "truncated")]


def test_removed_checkpoints_prove_nothing_and_the_answer_says_so(victim: Victim) -> None:
    victim.attacker.remove_checkpoints(above=300)
    audited = victim.audit()
    assert (audited.covered, audited.covered_by_database) == (0, 300)
    assert audited.limits[:2] == (
        "Edits of events 301 to 700 cannot be detected: no checkpoint covers them.",
        "Events 1 to 300 are covered by checkpoints in the database alone: if those are removed together "
        "with the events, it goes unnoticed. Give checkpoints that were kept elsewhere.",
    )
    victim.attacker.remove_checkpoints()
    audited = victim.audit()
    assert not audited.is_verified
    assert audited.limits[0] == "Edits of events 1 to 700 cannot be detected: no checkpoint covers them."
    audited = victim.audit(300)
    assert audited.is_verified
    assert (audited.covered, audited.covered_by_database) == (300, 300)
    assert audited.limits[0] == "Edits of events 301 to 700 cannot be detected: no checkpoint covers them."


def test_without_a_key_checkpoints_are_not_passed_over(victim: Victim) -> None:
    with pytest.raises(ConfigurationError, match="no public key to verify their signatures"):
        victim.ledger.verify([])
    victim.attacker.remove_checkpoints()
    with pytest.raises(ConfigurationError, match="no public key to verify their signatures"):
        victim.ledger.verify([], [("kept", victim.kept[300])])
    assert not victim.ledger.verify([]).is_verified


def test_with_another_key_no_checkpoint_counts(victim: Victim) -> None:
    audited = victim.audit(*SIZES, keys=[Signer.parse(keys.generate("example.com/other")[0])])
    assert not audited.is_verified
    assert (audited.covered, audited.covered_by_database) == (0, 0)
    assert found(audited) == [(None, "unreadable")] * 3
    assert audited.is_in_order
    assert [it for it in audited.limits if "prove nothing" in it] == [
        "Checkpoints in the database that none of the given keys signed prove nothing: 3.",
        "Checkpoints that were given and that none of the given keys signed prove nothing: 3.",
    ]


# The stored tree, and proofs -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [1, 256, 257, 400, EVENTS])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_changed_tree_is_told_apart_from_a_changed_log(victim: Victim, place: int, workers: int) -> None:
    number, index = divmod(place - 1, 256)
    tile = victim.attacker.tile(0, number)
    victim.attacker.set_tile(0, number, flipped(tile, index * 32 + 5))
    audited = victim.audit(*SIZES, workers=workers)
    assert not audited.is_verified
    assert found(audited) == [(place, "tree")]
    assert "checkpoints prove the log: the tree was changed" in message(audited, place, "tree")
    assert audited.covered == EVENTS

    victim.attacker.remove_checkpoints()
    audited = victim.audit(workers=workers)  # then nobody can tell which of them it was
    assert not audited.is_verified
    assert message(audited, place, "changed").endswith(", or the tree was.")
    with pytest.raises(LedgerError):  # its neighbour's proof needs it
        victim.ledger.prove((place - 1 ^ 1) + 1)


DAMAGED_TREES: dict[str, tuple[Callable[[Attacker], None], int | None]] = {
    "a tile is shorter": (lambda it: it.set_tile(0, 1, it.tile(0, 1)[:-32]), 512),
    "a tile is empty": (lambda it: it.set_tile(0, 1, b""), 257),
    "a tile is gone": (lambda it: it.execute("DELETE FROM ledger_tiles WHERE level = 0 AND number = 2"), 513),
    "all are gone": (lambda it: it.execute("DELETE FROM ledger_tiles"), 1),
    "an upper tile is another one": (lambda it: it.set_tile(1, 0, flipped(it.tile(1, 0), 3)), None),
    "an upper tile is shorter": (lambda it: it.set_tile(1, 0, it.tile(1, 0)[:-32]), None),
    "an upper tile is gone": (lambda it: it.execute("DELETE FROM ledger_tiles WHERE level = 1"), None),
}


@pytest.mark.parametrize("name", DAMAGED_TREES)
def test_a_damaged_tree_is_told_though_the_log_is_proved(victim: Victim, name: str) -> None:
    damage, place = DAMAGED_TREES[name]
    damage(victim.attacker)
    for workers in (1, 3):
        audited = victim.audit(*SIZES, workers=workers)
        assert not audited.is_verified
        assert found(audited) == [(place, "tree")]
        assert audited.covered == EVENTS


def test_a_changed_tree_is_no_place_to_begin(victim: Victim) -> None:
    tile = victim.attacker.tile(1, 0)
    victim.attacker.set_tile(1, 0, flipped(tile, 3))
    with pytest.raises(LedgerError, match="The stored tree does not lead to the checkpoint of 300 events"):
        victim.audit(since=300)
    assert victim.audit(*SIZES).covered == EVENTS
    with pytest.raises(LedgerError):
        victim.ledger.checkpoint()


def test_a_changed_proof_does_not_hold(victim: Victim) -> None:
    for position in (1, 256, 257, 400, EVENTS):
        proof = victim.ledger.prove(position)
        assert proof.holds()
        changes: list[dict[str, Any]] = [
            {"position": position % EVENTS + 1},
            {"position": 0},
            {"position": EVENTS + 1},
            {"size": 1 << 20},
            {"size": position - 1},
            {"root": flipped(proof.root, 0)},
            {"leaf": flipped(proof.leaf, 1)},
            {"leaf": proof.leaf + b"\0"},
            {"path": proof.path[:-1]},
            {"path": proof.path[1:]},
            {"path": (*proof.path, proof.root)},
            {"path": proof.path[::-1]},
            *(
                {"path": (*proof.path[:it], flipped(proof.path[it], 31), *proof.path[it + 1 :])}
                for it in range(len(proof.path))
            ),
        ]
        for change in changes:
            assert not replace(proof, **change).holds(), change


def test_there_is_no_proof_of_an_event_that_was_changed(victim: Victim) -> None:
    victim.attacker.change(400, actor="mallory")
    with pytest.raises(LedgerError, match="Event 400 of the log is not the one that the ledger has there"):
        victim.ledger.prove(400)
    assert victim.ledger.prove(401).holds()
    victim.attacker.change(EVENTS, actor="mallory")
    with pytest.raises(LedgerError, match="Event 700 of the log is not the one that the ledger has there"):
        victim.ledger.checkpoint()


# What databases let be stored ------------------------------------------------------------------------------

DAMAGES = {
    "an id in capital letters": "originator_id = upper(originator_id)",
    "an id with spaces": "originator_id = substr(originator_id, 1, 16) || ' ' || substr(originator_id, 17)",
    "a shorter id": "originator_id = substr(originator_id, 1, 30)",
    "an event id with a line break": "event_id = event_id || char(10)",
    "an empty correlation id": "correlation_id = ''",
    "no id": "causation_id = 'nonsense'",
    "a time that is text": "recorded_at = 'soon'",
    "a time with a fraction": "recorded_at = recorded_at + 0.5",
    "a version that is text": "originator_version = 'three'",
    "an actor that is no text": "actor = x'616e6e'",
    "a topic that is no text": "topic = CAST(topic AS BLOB)",
    "a state that is text": "state = CAST(state AS TEXT)",
}


@pytest.mark.parametrize("victim", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_not_stored_as_it_was_is_damaged(victim: Victim, name: str) -> None:
    victim.attacker.execute(f"UPDATE events SET {DAMAGES[name]} WHERE position = 400")
    for workers in (1, 3):
        audited = victim.audit(*SIZES, workers=workers)
        assert not audited.is_verified
        assert audited.problems[0].position == 400
        assert "Event 400" in message(audited, 400, "damaged")
        assert {it for _, it in found(audited)} <= {"damaged", "changed", "unknown", "version", "checkpoint"}


@pytest.mark.parametrize("version", [-1, -(2**63)])
def test_a_number_that_no_leaf_has_is_damaged(victim: Victim, version: int) -> None:
    victim.attacker.change(400, originator_version=version)
    for workers in (1, 3):
        audited = victim.audit(*SIZES, workers=workers)
        assert not audited.is_verified
        assert "Event 400 is not stored as it was written" in message(audited, 400, "damaged")


@pytest.mark.parametrize("victim", ["postgres"], indirect=True)
@pytest.mark.parametrize("time", ["infinity", "-infinity", "0044-03-15 12:00:00 BC", "9999-12-31"])
def test_a_time_that_is_none_is_damaged(victim: Victim, time: str) -> None:
    victim.attacker.execute(f"UPDATE events SET recorded_at = '{time}' WHERE position = 400")
    for workers in (1, 3):
        audited = victim.audit(*SIZES, workers=workers)
        assert not audited.is_verified
        assert audited.problems[0].position == 400
        assert (400, "changed") in found(audited)


@pytest.mark.parametrize("victim", ["postgres"], indirect=True)
@pytest.mark.parametrize("end", [512, EVENTS])
def test_what_no_constraint_keeps_from_being_there_twice(victim: Victim, end: int) -> None:
    victim.attacker.execute("ALTER TABLE events DROP CONSTRAINT events_pkey")
    victim.attacker.execute("ALTER TABLE events DROP CONSTRAINT events_originator_id_originator_version_key")
    victim.attacker.delete(end + 1, EVENTS)
    kept = [it for it in SIZES if it <= end]
    first, last = victim.attacker.record(1), victim.attacker.record(end)
    victim.attacker.insert(first._replace(position=400, recorded_at=victim.attacker.record(400).recorded_at))
    for workers in (1, 3):
        audited = victim.audit(*kept, workers=workers)
        assert not audited.is_verified
        assert audited.problems[0].position == 400
        assert "Event 400 is there twice." in message(audited, 400, "order")

    victim.attacker.execute(
        "UPDATE events SET position = ? WHERE position = 400 AND topic = ?", -1, first.topic
    )
    victim.attacker.execute(
        "UPDATE events SET position = ?, recorded_at = ? WHERE position = -1",
        end + 1,
        datetime.fromtimestamp(last.recorded_at / 1e6 + 1, UTC),
    )
    for workers in (1, 3):
        audited = victim.audit(*kept, workers=workers)
        assert not audited.is_verified
        assert (end + 1, "version") in found(audited)


# Any edit ---------------------------------------------------------------------------------------------------

texts = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ids = st.binary(min_size=16, max_size=16)
EDITS: dict[str, st.SearchStrategy[Any]] = {
    "originator_id": ids,
    "originator_version": st.integers(1_000, 2**63 - 1) | st.integers(-(2**63), 0),
    "topic": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    "state": st.binary(max_size=300),
    "event_id": ids,
    "recorded_at": st.integers(0, 2**51),
    "actor": texts,
    "correlation_id": st.none() | ids,
    "causation_id": st.none() | ids,
}
LIVES = (SERVING, SERVING[:3], RUNNING_JOB, (*SERVING[:2], failed()), (*SERVING, deletion_requested()))


def test_no_edit_of_any_column_goes_unseen(
    log: DatabaseEventLog, ledger: Ledger, database_url: str, signer: Signer
) -> None:
    attacker = Attacker(database_url, log)
    in_parts = Ledger(log, ledger.store, check=check_elsewhere)

    def grow(lives: list[tuple[Happening, ...]]) -> None:
        left = [list(reversed(history(*life, stream=uuid4()))) for life in lives]
        while some := [it.pop() for it in left if it]:
            log.append(some)

    grow([SERVING] * 60)  # so that most edits are not in the last tile

    # The log only grows, so that no example can be tried again in a smaller way.
    @settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.generate])
    @example(lives=[SERVING], share=0.5, edit=("originator_version", 2**63 - 1), in_the_tree=False)
    @for_all(
        lives=st.lists(st.sampled_from(LIVES), min_size=1, max_size=8),
        share=st.floats(0, 1),
        edit=st.sampled_from(sorted(EDITS)).flatmap(lambda it: st.tuples(st.just(it), EDITS[it])),
        in_the_tree=st.booleans(),
    )
    def no_edit_goes_unseen(
        lives: list[tuple[Happening, ...]], share: float, edit: tuple[str, Any], in_the_tree: bool
    ) -> None:
        grow(lives)
        kept = [("kept", ledger.checkpoint(signer).note)]
        assert ledger.verify([signer.verifier], kept).is_verified
        place = 1 + round(share * (log.position() - 1))
        column, after = edit
        before = dict(zip(COLUMNS, attacker.record(place), strict=True))[column]
        if after == before:
            return
        attacker.change(place, **{column: after})
        if in_the_tree:
            attacker.remove_checkpoints()
            with suppress(ValueError):  # some numbers are in no leaf
                attacker.make_tree_again()
        for it, workers in ((ledger, 1), (in_parts, 2)):
            audited = it.verify([signer.verifier], kept, workers=workers)
            assert not audited.is_verified
            first = audited.problems[0]
            assert first.position is not None
            assert first.position <= place
            if not in_the_tree:
                assert first.position == place
                assert (place, "changed") in found(audited)
        attacker.change(place, **{column: before})
        attacker.make_tree_again()

    no_edit_goes_unseen()


# The database itself ----------------------------------------------------------------------------------------


def run(victim: Victim, *statements: str) -> None:
    """Do something to the database that its owner can do, and leave it so."""
    if victim.url.startswith("sqlite:///"):
        with closing(
            sqlite3.connect(victim.url.removeprefix("sqlite:///"), isolation_level=None)
        ) as database:
            for statement in statements:
                database.execute(statement)
        return
    with psycopg.connect(victim.url, autocommit=True) as session:
        session.execute("SET search_path TO deployledger")
        for statement in statements:
            session.execute(statement.encode())


def in_the_database(audited: LogCheck) -> list[str]:
    return [it.message for it in audited.problems if it.kind == log_check.IN_DATABASE]


SQLITE_OBJECTS = {
    "no trigger against updates": (
        ["DROP TRIGGER events_update"],
        "The trigger events_update, which refuses changes to table events, is missing",
    ),
    "no trigger against deletions": (["DROP TRIGGER events_delete"], "The trigger events_delete,"),
    "a trigger that refuses nothing": (
        [
            "DROP TRIGGER events_delete",
            "CREATE TRIGGER events_delete BEFORE DELETE ON events WHEN 0 BEGIN SELECT RAISE(ABORT, 'x'); END",
        ],
        "events_delete, which refuses changes to table events, was changed",
    ),
    "a trigger that changes what is stored": (
        [
            "CREATE TRIGGER forge AFTER INSERT ON idempotency_keys BEGIN "
            "UPDATE idempotency_keys SET version = 1 WHERE key = new.key; END"
        ],
        "The trigger forge on idempotency_keys was not created by deployledger",
    ),
    "a view": (
        [
            "ALTER TABLE events RENAME TO hidden",
            "CREATE VIEW events AS SELECT * FROM hidden WHERE position > 0",
        ],
        "events is a view, not the table that was created",
    ),
    "a column of another kind": (
        [
            "PRAGMA writable_schema = ON",
            "UPDATE sqlite_master SET sql = replace(sql, 'actor TEXT', 'actor TEXT COLLATE NOCASE') "
            "WHERE name = 'events'",
        ],
        "The table events no longer has the definition it was created with",
    ),
    "keys without their constraints": (
        ["ALTER TABLE idempotency_keys RENAME TO old", "CREATE TABLE idempotency_keys AS SELECT * FROM old"],
        "The table idempotency_keys no longer has the definition",
    ),
}
POSTGRES_OBJECTS = {
    "no trigger": (
        ["DROP TRIGGER refuse_change ON events"],
        "The trigger refuse_change, which refuses changes to deployledger.events, is missing",
    ),
    "a disabled trigger": (["ALTER TABLE events DISABLE TRIGGER refuse_change"], "is disabled"),
    "a trigger for replicas only": (
        ["ALTER TABLE events ENABLE REPLICA TRIGGER refuse_change"],
        "is disabled",
    ),
    "all triggers disabled": (["ALTER TABLE events DISABLE TRIGGER ALL"], "is disabled"),
    "a trigger that refuses only deletions": (
        [
            "CREATE OR REPLACE TRIGGER refuse_change BEFORE DELETE ON events "
            "FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_change()"
        ],
        "which refuses changes to deployledger.events, was changed",
    ),
    "a trigger that refuses nothing": (
        [
            "CREATE OR REPLACE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql "
            "AS 'BEGIN RETURN NULL; END'"
        ],
        "was changed: events may be changed or removed",
    ),
    "a trigger whose function runs with the rights of its owner": (
        ["ALTER FUNCTION events_refuse_change() SECURITY DEFINER"],
        "which refuses changes to deployledger.events, was changed",
    ),
    "a trigger whose function has settings": (
        ["ALTER FUNCTION events_refuse_change() SET search_path TO elsewhere, pg_catalog"],
        "which refuses changes to deployledger.events, was changed",
    ),
    "a trigger that changes what is stored": (
        [
            "CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            "CREATE TRIGGER forge BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION forge()",
        ],
        "The trigger forge on deployledger.events was not created by deployledger",
    ),
    "no trigger fires": (
        [
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', "
            "current_database()); END $$"
        ],
        "No trigger fires in sessions of this role",
    ),
    "a view": (
        ["ALTER TABLE events RENAME TO hidden", "CREATE VIEW events AS SELECT * FROM hidden"],
        "deployledger.events is a view, not the table that was created",
    ),
    "a view of the keys": (
        [
            "ALTER TABLE idempotency_keys RENAME TO hidden",
            "CREATE VIEW idempotency_keys AS SELECT * FROM hidden",
        ],
        "deployledger.idempotency_keys is a view",
    ),
    "a view of the checkpoints": (
        [
            "ALTER TABLE ledger_checkpoints RENAME TO hidden",
            "CREATE VIEW ledger_checkpoints AS SELECT * FROM hidden",
        ],
        "deployledger.ledger_checkpoints is a view",
    ),
    "a rule": (
        ["CREATE RULE keep AS ON INSERT TO idempotency_keys DO INSTEAD NOTHING"],
        "The rule keep on deployledger.idempotency_keys was not created by deployledger",
    ),
    "a child": (
        ["CREATE TABLE more () INHERITS (events)"],
        "Other tables inherit from deployledger.events, and their rows are shown as its own",
    ),
    "a parent": (
        [
            "CREATE TABLE parent AS SELECT * FROM events LIMIT 0",
            *(f"ALTER TABLE parent ALTER {name} SET NOT NULL" for name in COLUMNS[:7]),
            "ALTER TABLE events INHERIT parent",
        ],
        "inherits from, or is a partition of, deployledger.parent",
    ),
    "unlogged": (
        ["ALTER TABLE events SET UNLOGGED"],
        "The table deployledger.events is unlogged or temporary",
    ),
    "a column of another kind": (
        ["ALTER TABLE events ALTER actor SET DEFAULT 'nobody'"],
        "The table deployledger.events no longer has the columns it was created with: actor",
    ),
    "no unique key": (
        ["ALTER TABLE events DROP CONSTRAINT events_originator_id_originator_version_key"],
        "has lost its unique key (originator_id, originator_version)",
    ),
}


@pytest.mark.parametrize(
    ("victim", "statements", "says"),
    [
        pytest.param(database, *case, id=f"{database}-{name}")
        for database, cases in (("sqlite", SQLITE_OBJECTS), ("postgres", POSTGRES_OBJECTS))
        for name, case in cases.items()
    ],
    indirect=["victim"],
)
def test_a_log_whose_tables_are_not_as_they_were_created_is_not_verified(
    victim: Victim, statements: list[str], says: str
) -> None:
    assert victim.audit(EVENTS).is_verified
    run(victim, *statements)
    victim.reopen()
    for audited in (victim.audit(EVENTS), victim.audit(EVENTS, since=512, workers=3)):
        assert not audited.is_verified
        assert any(says in it for it in in_the_database(audited)), audited.problems


def test_missing_triggers_are_created_again(victim: Victim) -> None:
    name = "events_update" if victim.url.startswith("sqlite") else "refuse_change ON events"
    run(victim, f"DROP TRIGGER {name}")
    assert not victim.audit(EVENTS).is_verified
    victim.reopen().create_schema()
    assert victim.audit(EVENTS).is_verified


@pytest.mark.parametrize("victim", ["postgres"], indirect=True)
def test_row_security_is_never_obeyed_in_silence(victim: Victim) -> None:
    reader = f"reader_{uuid4().hex}"
    run(
        victim,
        f"CREATE ROLE {reader} LOGIN PASSWORD 'reader'",
        f"GRANT USAGE ON SCHEMA deployledger TO {reader}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA deployledger TO {reader}",
        "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY most ON events USING (position < 512)",
    )
    try:
        audited = victim.audit(EVENTS)
        assert audited.is_verified
        seen = [it.message for it in audited.findings if it.outcome == "warning"]
        assert any("Row security (most) is enabled on deployledger.events" in it for it in seen)
        victim.reopen(user=reader)
        with pytest.raises(EventLogError, match="row-level security policy"):
            victim.ledger.log.position()
        (hidden,) = [it for it in victim.ledger.log.findings() if it.is_problem]
        assert "Row security (most) hides rows of deployledger.events from this role." in hidden.message
        victim.reopen()
        run(victim, "DROP POLICY most ON events", "ALTER TABLE events DISABLE ROW LEVEL SECURITY")
        victim.reopen(user=reader)
        assert victim.audit(EVENTS).is_verified
    finally:
        victim.reopen()
        run(victim, f"DROP OWNED BY {reader}", f"DROP ROLE {reader}")


@pytest.mark.parametrize("victim", ["postgres"], indirect=True)
def test_functions_of_others_do_not_take_the_place_of_the_servers(victim: Victim) -> None:
    run(
        victim,
        "CREATE SCHEMA evil",
        "CREATE FUNCTION evil.uuid_send(uuid) RETURNS bytea LANGUAGE sql AS $$ SELECT '\\x00'::bytea $$",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = evil, pg_catalog', "
        "current_database()); END $$",
    )
    victim.reopen()
    audited = victim.audit(EVENTS)
    assert audited.is_verified
    assert any("puts evil before pg_catalog" in it.message for it in audited.findings)


@pytest.mark.parametrize("victim", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("file", "table"), [("", "sqlite_autoindex_events_1"), ("", "events"), (".ledger", "ledger_checkpoints")]
)
def test_a_zeroed_page_is_seen(victim: Victim, file: str, table: str) -> None:
    path = Path(f"{victim.url.removeprefix('sqlite:///')}{file}")
    with closing(sqlite3.connect(path)) as database:
        size = database.execute("PRAGMA page_size").fetchone()[0]
        page = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if not file:
        victim.attacker.execute("INSERT INTO idempotency_keys VALUES ('key', '0', ?, 1, 0)", stream(1).hex)
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as opened:
        opened.seek((page - 1) * size)
        opened.write(bytes(size))
    found = [*victim.reopen().findings(), *victim.ledger.store.findings()]
    assert [it.outcome for it in found if it.check == "integrity"].count("problem") == 1
    if table == "sqlite_autoindex_events_1":
        assert any(
            f"The SQLite file of the event log, {path}, is damaged" in it
            for it in in_the_database(victim.audit(EVENTS))
        )
