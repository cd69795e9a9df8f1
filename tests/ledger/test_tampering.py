"""Whoever changes the log or its ledger is found out, and told where: the tamper matrix."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.ledger import open_ledger
from deployledger.domain.event_log import EventLog, EventRecord
from deployledger.domain.exceptions import LedgerError
from deployledger.projections.ledger import verifying
from deployledger.projections.ledger.checking import Checked, Part, check_here, check_part
from deployledger.projections.ledger.keys import Signer
from deployledger.projections.ledger.ledger import Ledger
from deployledger.projections.ledger.store import LedgerStore
from deployledger.projections.ledger.verifying import Audited, verify
from tests.domain.given import SERVING
from tests.ledger.tampering import Attacker

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
    ) -> Audited:
        """Verify with the checkpoints of these sizes, or other ones; with several workers in parts."""
        given = [(f"kept-{it}" if isinstance(it, int) else "given", self._note(it)) for it in outside]
        return verify(
            self.ledger,
            [it.verifier for it in keys or [self.signer]],
            given,
            since=None if since is None else self.kept[since],
            workers=workers,
            check=check_here if workers == 1 else check_elsewhere,
        )

    def _note(self, note: int | str) -> str:
        return self.kept[note] if isinstance(note, int) else note

    def close(self) -> None:
        self.ledger.store.close()
        self._log.close()


def check_elsewhere(
    log: EventLog, store: LedgerStore, parts: Sequence[Part], progress: Callable[[int], None]
) -> list[Checked]:
    """Check parts as other processes do: what each found comes back as JSON."""
    found = [json.dumps(check_part(log, store, part, progress).to_json()) for part in parts]
    return [Checked.from_json(json.loads(it)) for it in found]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a part be as small as a tile."""
    monkeypatch.setattr(verifying, "_LEAST_OF_A_PART", 256)


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


def found(audited: Audited) -> list[Found]:
    return [(it.position, it.kind) for it in audited.problems]


def first_found(audited: Audited) -> set[Found]:
    """Return everything that is wrong at the first position."""
    return {it for it in found(audited) if it[0] == audited.problems[0].position}


def message(audited: Audited, position: int | None, kind: str) -> str:
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
        f"The checkpoint of {EVENTS} events (kept-{EVENTS}) does not hold: It covers {EVENTS} events, and "
        f"the log has {EVENTS - 1}: the log was truncated",
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
        for it in (0, -1, -(2**62), -(2**63) + 1)
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
    assert first_found(victim.audit(*SIZES, workers=3)) == first_found(audited)
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
    assert first_found(victim.audit(workers=3)) == first_found(alone)
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
