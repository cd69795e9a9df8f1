"""Measures, beside the library as shipped, on the same databases in the same run, and prints a table.

    python -m benchmarks                 everything
    python -m benchmarks --rounds 3      fewer rounds
    python -m benchmarks --skip-million  with logs of a hundred thousand events instead of a million
    python -m benchmarks --only audit    one part; --help lists them

Every figure is the median of the rounds; within a round, ours and the baseline's take turns. A PostgreSQL
server is started for it, with fsync on; DEPLOYLEDGER_BENCH_POSTGRES_URL names another one.
"""

import argparse
import logging
import os
import platform

from benchmarks.appending import accepted_rates, heartbeat, latencies, million
from benchmarks.as_of import looking_back
from benchmarks.auditing import appending_with_checkpoints, auditing
from benchmarks.databases import databases
from benchmarks.filling import fill
from benchmarks.following import visibility
from benchmarks.moving import moving
from benchmarks.projecting import following, reading, rebuilding
from benchmarks.replaying import replaying
from benchmarks.report import Report
from benchmarks.scoring import scoring
from benchmarks.serving import serving
from benchmarks.serving_start import mlflow_start
from benchmarks.starting import starting
from deployledger.adapters.garbage import collect_rarely


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-million", action="store_true")
    parts = [
        "appending",
        "projecting",
        "past",
        "audit",
        "moving",
        "replaying",
        "scoring",
        "serving",
        "starting",
    ]
    parser.add_argument("--only", choices=parts)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    collect_rarely()  # as the command line does, for the baselines too
    report = Report()
    with databases() as available:
        print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {available.postgres_version},")
        print(f"SQLite {available.sqlite_version}\n")
        size = 100_000 if options.skip_million else 1_000_000
        if options.only in (None, "starting"):
            starting(report, options.rounds)
        if options.only in (None, "scoring"):
            scoring(report, options.rounds, 10 * size)
        if options.only in (None, "serving"):
            serving(report, options.rounds)
            mlflow_start(report, options.rounds)
        for database in available.all if options.only not in ("scoring", "serving", "starting") else ():
            if options.only in (None, "appending"):
                accepted_rates(report, database, options.rounds)
                latencies(report, database, options.rounds)
                visibility(report, database, options.rounds)
                heartbeat(report, database, options.rounds)
                if not options.skip_million:
                    million(report, database, options.rounds)
            if options.only in (None, "projecting"):
                rebuilding(report, database, options.rounds, size)
                following(report, database, options.rounds)
                reading(report, database, options.rounds, size)
            if options.only not in ("appending", "projecting"):
                url = database.fresh()
                fill(url, size // 4)  # one log for all that only read it
                if options.only in (None, "audit"):
                    auditing(report, database, options.rounds, url, size)
                    appending_with_checkpoints(report, database, options.rounds)
                if options.only in (None, "past"):
                    looking_back(report, database, options.rounds, url, size)
                if options.only in (None, "moving"):
                    moving(report, database, options.rounds, url, size)
                if options.only in (None, "replaying"):
                    replaying(report, database, options.rounds, url, size)
    report.print()


if __name__ == "__main__":
    main()
