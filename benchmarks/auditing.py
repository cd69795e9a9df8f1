"""The ledger: how fast a log is verified, how quickly an event is proven, and what appending pays for it."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from random import randint

from eventsourcing.persistence import ApplicationRecorder

from benchmarks.appending import deploy
from benchmarks.databases import Database
from benchmarks.report import Report
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.ledger.opening import open_ledger
from deployledger.audit import keys
from deployledger.audit.checkpointing import keep_checkpoints
from deployledger.audit.keys import Signer

CORES = os.cpu_count() or 1
_READ_AT_ONCE = 5_000
_PROOFS = 300
_CALLERS = 64
_EACH = 40


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _read_all(recorder: ApplicationRecorder) -> None:
    """Read all events as the library does: no more than reading."""
    start = 1
    while page := recorder.select_notifications(start, _READ_AT_ONCE):
        start = page[-1].id + 1


def auditing(report: Report, database: Database, rounds: int, url: str, events: int) -> None:
    """Verify a filled log, beside the library's reading of the same rows; and prove events of it."""
    log = open_event_log(url)
    log.position()
    signer = Signer.parse(keys.generate("example.com/bench")[0])
    ledger = open_ledger(log, signer=signer)
    integrated = events / _timed(ledger.integrate)
    kept = [("kept", ledger.checkpoint().note)]
    recorder = log._recorder
    library, one, all_cores, proofs = [], [], [], []
    for _ in range(rounds):
        library.append(events / _timed(lambda: _read_all(recorder)))
        one.append(events / _timed(lambda: ledger.verify([signer.verifier], kept)))
        all_cores.append(events / _timed(lambda: ledger.verify([signer.verifier], kept, workers=CORES)))
        times = sorted(_timed(lambda: ledger.prove(randint(1, events))) for _ in range(_PROOFS))
        proofs.append(times[len(times) // 2] * 1e3)
    assert ledger.verify([signer.verifier], kept).is_verified
    ledger.store.close()
    log.close()
    name = f"{database.kind}: audit verify of {events:,} events"
    beside = "(library: select_notifications of the same rows)"
    has_goal = database.kind == "PostgreSQL"
    report.add(
        f"{name}, 1 worker {beside}", one, "ev/s", baseline=library, at_least=1.2 if has_goal else None
    )
    report.add(
        f"{name}, {CORES} workers {beside}",
        all_cores,
        "ev/s",
        baseline=library,
        at_least=2 if has_goal else None,
    )
    report.add(f"{database.kind}: the tree of {events:,} events made from nothing", [integrated], "ev/s")
    report.add(f"{database.kind}: inclusion proof at {events:,} events, p50", proofs, "ms", at_most=5)


def appending_with_checkpoints(report: Report, database: Database, rounds: int) -> None:
    """Deployments accepted a second while a thread makes checkpoints, beside those without it."""
    with_ledger, without = [], []
    signer = Signer.parse(keys.generate("example.com/bench")[0])
    for _ in range(rounds):
        without.append(asyncio.run(deploy(database.fresh(), _CALLERS, _EACH)).rate)
        url = database.fresh()
        log = open_event_log(url, create=True)
        log.position()
        stopping = threading.Event()
        keeper = threading.Thread(
            target=lambda log=log, stopping=stopping: keep_checkpoints(
                open_ledger(log, signer=signer), stopping, every_events=1000, every_seconds=1.0
            )
        )
        keeper.start()
        with_ledger.append(asyncio.run(deploy(url, _CALLERS, _EACH)).rate)
        stopping.set()
        keeper.join()
        log.close()
    report.add(
        f"{database.kind}: deployments accepted, {_CALLERS} callers, with checkpoints every 1,000 events "
        "(baseline: without)",
        with_ledger,
        "/s",
        baseline=without,
        at_least=0.9,
    )
