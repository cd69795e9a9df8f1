"""Replay: how fast the whole log goes through the domain again."""

import os
import time

from benchmarks.baselines import library_reading
from benchmarks.databases import Database
from benchmarks.report import Report
from deployledger.adapters.event_log import open_event_log
from deployledger.audit.replaying import replay

CORES = os.cpu_count() or 1
_LIBRARY_EVENTS = 100_000


def replaying(report: Report, database: Database, rounds: int, url: str, events: int) -> None:
    """A replay beside the library's loop over the same events, which only reads and decodes them."""
    log = open_event_log(url)
    application = library_reading.Deployments(database.library_environment(2))
    library_reading.fill(application, _LIBRARY_EVENTS // 4)
    one, all_cores, library = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        assert library_reading.read(application) == _LIBRARY_EVENTS
        library.append(_LIBRARY_EVENTS / (time.perf_counter() - start))
        replayed = replay(log)
        assert replayed.events == events
        assert not replayed.problems
        one.append(events / replayed.seconds)
        all_of_them = replay(log, workers=CORES)
        assert all_of_them.digest == replayed.digest
        all_cores.append(events / all_of_them.seconds)
    log.close()
    application.close()
    name = f"{database.kind}: replay of {events:,} events"
    goal = 2.5 if database.kind == "PostgreSQL" else None
    report.add(f"{name}, 1 worker (library: read and decode)", one, "ev/s", baseline=library, at_least=goal)
    report.add(f"{name}, {CORES} workers (library: read and decode)", all_cores, "ev/s", baseline=library)
