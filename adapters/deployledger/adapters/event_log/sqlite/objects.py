"""Compares the tables and triggers of an SQLite event log with those that were created."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from deployledger.adapters.event_log.reading import EVENTS_TABLE, KEYS_TABLE
from deployledger.adapters.event_log.sqlite.schema import create
from deployledger.domain.findings import Finding, Outcome

TRIGGERS = "triggers"
"""The name of the check of what refuses changes to events."""

_TABLES = "tables"
_LEAVE = (
    "Find out who changed it; `deployledger audit verify` with checkpoints kept elsewhere shows what is "
    "intact."
)
_QUERY = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE tbl_name COLLATE NOCASE IN (?, ?) "
    "AND sql IS NOT NULL"
)
_NOISE = re.compile(r"[\s\"`\[\]]+")


class _Object(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str


def objects(connection: sqlite3.Connection, described_as: str) -> Iterator[Finding]:
    """Yield where a table, or a trigger on it, is not the one that this software creates.

    Indexes of others do no harm: SQLite keeps them in agreement with the table.
    """
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as reference:
        create(reference)
        expected = _objects(reference)
    actual = _objects(connection)
    problems = [*_changed(expected, actual), *_foreign(expected, actual)]
    for check, message, hint in problems:
        yield Finding(check, Outcome.PROBLEM, message, hint)
    for check in (_TABLES, TRIGGERS):
        if not any(check == problem[0] for problem in problems):
            yield Finding(check, Outcome.OK, f"The {check} of {described_as} are as they were created.")


def _objects(connection: sqlite3.Connection) -> dict[str, _Object]:
    rows = connection.execute(_QUERY, (EVENTS_TABLE, KEYS_TABLE))
    return {
        name: _Object(kind, name, table, _plain(sql)) for kind, name, table, sql in rows if kind != "index"
    }


def _plain(sql: str) -> str:
    """Return a statement without the spaces and quotes that SQLite or we may write in other ways."""
    return _NOISE.sub(" ", sql).strip()


def _changed(expected: dict[str, _Object], actual: dict[str, _Object]) -> Iterator[tuple[str, str, str]]:
    for name, wanted in expected.items():
        there = actual.get(name)
        if wanted.kind == "trigger":
            restore = "Find out who changed it; `deployledger db init` restores it."
            what = f"The trigger {name}, which refuses changes to table {wanted.table},"
            if there is None:
                yield TRIGGERS, f"{what} is missing: events can be changed and removed.", restore
            elif there.sql != wanted.sql:
                yield TRIGGERS, f"{what} was changed: events may be changed or removed.", restore
        elif there is None or there.kind != wanted.kind:
            kind = f"a {there.kind}" if there is not None else "missing"
            yield (
                _TABLES,
                f"{name} is {kind}, not the table that was created: it may show anything as the log.",
                _LEAVE,
            )
        elif there.sql != wanted.sql:
            yield _TABLES, f"The table {name} no longer has the definition it was created with.", _LEAVE


def _foreign(expected: dict[str, _Object], actual: dict[str, _Object]) -> Iterator[tuple[str, str, str]]:
    for name in sorted(actual.keys() - expected.keys()):
        trigger = actual[name]
        yield (
            TRIGGERS,
            f"The trigger {name} on {trigger.table} was not created by deployledger: "
            "it may change what is stored.",
            f"Inspect it, then remove it: DROP TRIGGER {name}.",
        )
