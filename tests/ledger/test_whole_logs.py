"""Logs that grow, are long, or are worked on by processes that die: their ledgers stay right."""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from uuid import UUID, uuid4

import pytest

from deployledger.adapters.event_log import DatabaseEventLog, open_event_log
from deployledger.adapters.event_log.commands import Command, EventRow
from deployledger.adapters.event_log.mapper import EventMapper
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit import ledger as growing
from deployledger.audit import merkle
from deployledger.audit.checkpoints import open_checkpoint
from deployledger.audit.keys import Signer
from deployledger.audit.leaf import encode_leaf
from deployledger.audit.ledger import Ledger
from deployledger.domain.event_records import undamaged
from tests.domain.given import SERVING
from tests.faults.workers import PROCESSES, Signal, start

_AT_ONCE = 250
_MAPPER = EventMapper()
_STATES = [(it.TOPIC, _MAPPER.encode(it)) for it in (happening(uuid4(), 1) for happening in SERVING)]


def fill(log: DatabaseEventLog, streams: int) -> None:
    """Add streams of four events, below the log's own append, which encodes each event."""
    log.position()
    commits = log._commits

    def add(number: int) -> None:
        ids = [UUID(int=random.getrandbits(128)) for _ in range(number)]
        commits.store(
            Command(
                [
                    EventRow(stream, version, topic, state, uuid4(), "ann", stream, None)
                    for version, (topic, state) in enumerate(_STATES, start=1)
                    for stream in ids
                ]
            )
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add, [_AT_ONCE] * (streams // _AT_ONCE)))


def root_of(log: DatabaseEventLog, size: int) -> bytes:
    """Return the root of a log's first events, by nothing but the definition."""
    return merkle.root_of(
        [
            merkle.leaf_hash(encode_leaf(*record))
            for page in undamaged(log.records(until=size, metadata=True))
            for record in page
        ]
    )


def test_an_untouched_log_of_100_000_events_is_verified(
    log: DatabaseEventLog, ledger: Ledger, signer: Signer
) -> None:
    fill(log, 12_500)
    middle = ledger.checkpoint(signer).note
    fill(log, 12_500)
    end = ledger.checkpoint(signer).note
    told: list[tuple[int, int]] = []
    audited = ledger.verify(
        [signer.verifier], [("one", middle), ("two", end)], progress=lambda *it: told.append(it)
    )
    assert audited.is_verified
    assert (audited.size, audited.covered, audited.streams) == (100_000, 100_000, 25_000)
    assert audited.root == ledger.root() == root_of(log, 100_000)
    assert len(audited.limits) == 1
    assert told[0] == (0, 100_000)
    assert told[-1] == (100_000, 100_000)
    later = ledger.verify([signer.verifier], [("two", end)], since=middle, workers=2)
    assert later.is_verified
    assert later.root == audited.root


# Processes that die, and that are many ---------------------------------------------------------------------


def integrate_in_small_steps(url: str, begun: Signal) -> None:
    growing._INTEGRATED_AT_ONCE = 256  # so that it is killed between and within many transactions
    with closing(open_event_log(url)) as log:
        ledger = open_ledger(log)
        begun.set()
        ledger.integrate()


def checkpoint_again_and_again(url: str, key: str, times: int, begun: Signal) -> None:
    signer = Signer.parse(key)
    with closing(open_event_log(url)) as log:
        ledger = open_ledger(log, signer=signer)
        begun.wait(60)
        for _ in range(times):
            ledger.checkpoint()


def test_killed_while_the_tree_grows_it_is_right_afterwards(database_url: str, log: DatabaseEventLog) -> None:
    fill(log, 2_500)
    ledger = open_ledger(log)
    sizes: set[int] = set()
    for number in range(12):
        begun = PROCESSES.Event()
        process = start(integrate_in_small_steps, database_url, begun)
        assert begun.wait(60)
        time.sleep(random.uniform(0, 0.04))
        process.kill()
        process.join()
        size = ledger.size()
        assert sizes == set() or size >= max(sizes)
        sizes.add(size)
        if number % 4 == 3:  # the log grows meanwhile
            fill(log, _AT_ONCE)
    ledger.integrate()
    assert ledger.size() == log.position() == 13_000
    assert ledger.root() == root_of(log, 13_000)
    for size in (1, 4_095, 4_096, 4_097, 12_999, *sizes):
        assert ledger.root(size) == root_of(log, size)


def test_many_make_the_tree_grow_while_events_are_added(database_url: str, log: DatabaseEventLog) -> None:
    fill(log, _AT_ONCE)
    ledger = open_ledger(log)
    begun = [PROCESSES.Event() for _ in range(3)]
    processes = []
    for _ in range(2):
        processes += [start(integrate_in_small_steps, database_url, it) for it in begun]
        fill(log, 4 * _AT_ONCE)
        ledger.integrate()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    end = log.position()
    assert ledger.root() == root_of(log, end)
    assert ledger.size() == end == 9_000


def test_two_processes_make_checkpoints_at_the_same_time(
    database_url: str, log: DatabaseEventLog, signer_text: str
) -> None:
    signer = Signer.parse(signer_text)
    fill(log, _AT_ONCE)
    ledger = open_ledger(log)
    begun = PROCESSES.Event()
    processes = [start(checkpoint_again_and_again, database_url, signer_text, 20, begun) for _ in range(2)]
    begun.set()
    fill(log, 8 * _AT_ONCE)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    ledger.checkpoint(signer)
    audited = ledger.verify([signer.verifier])
    assert audited.is_verified
    assert audited.covered_by_database == log.position() == 9_000
    for it in islice(ledger.checkpoints(), 10):
        assert open_checkpoint(it.note, [signer.verifier]).root == root_of(log, it.size)


@pytest.fixture
def signer_text() -> str:
    from deployledger.audit import keys

    return keys.generate("example.com/deployments")[0]
