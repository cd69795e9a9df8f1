"""Compares the tables and triggers of a PostgreSQL event log with those that were created."""

import re
from collections.abc import Iterator
from typing import Any

from psycopg.rows import dict_row, tuple_row

from deployledger.adapters.event_log.postgres.recorders import EVENT_COLUMNS, REFUSE_CHANGE
from deployledger.adapters.event_log.postgres.schema import EVENTS, KEY_COLUMNS
from deployledger.adapters.event_log.reading import EVENTS_TABLE, KEYS_TABLE
from deployledger.adapters.postgres import SCHEMA, Session
from deployledger.adapters.relations import TABLES, relations, strange
from deployledger.domain.findings import Finding, Outcome

TRIGGERS = "triggers"
"""The name of the check of what refuses changes to events."""

_RESTORE = "Find out who changed it; `deployledger db init` restores it."
_LEAVE = (
    "Find out who changed it; `deployledger audit verify` with checkpoints kept elsewhere shows what is "
    "intact."
)
_VERSION_TABLE = "schema_version"
_UNIQUE = {EVENTS_TABLE: (["position"], ["originator_id", "originator_version"]), KEYS_TABLE: (["key"],)}
_BEFORE_STATEMENT = 2 | 8 | 16 | 32
"""The type of a trigger before UPDATE, DELETE and TRUNCATE, for each statement (pg_trigger.h)."""

_COLUMNS = """
    SELECT attname::text, pg_catalog.format_type(atttypid, atttypmod)
           || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
           || CASE WHEN attgenerated <> '' THEN ' GENERATED' WHEN attidentity <> '' THEN ' IDENTITY'
                   WHEN atthasdef THEN ' DEFAULT' ELSE '' END
    FROM pg_catalog.pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_UNIQUE_COLUMNS = """
    SELECT ARRAY(SELECT attname::text
                 FROM pg_catalog.unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place)
                 JOIN pg_catalog.pg_attribute ON attrelid = indrelid AND attnum = k.number ORDER BY k.place)
    FROM pg_catalog.pg_index
    WHERE indrelid = %s AND indisunique AND indisvalid AND indpred IS NULL AND indexprs IS NULL
"""
_TRIGGERS = """
    SELECT tgname::text AS name, tgenabled::text AS enabled, tgtype::int AS type,
           tgqual IS NULL AND tgattr::text = '' AS is_unconditional, proname::text AS function,
           nspname::text AS schema, prosrc AS source, proconfig IS NOT NULL OR prosecdef AS is_other
    FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_proc p ON p.oid = tgfoid
    JOIN pg_catalog.pg_namespace n ON n.oid = pronamespace
    WHERE tgrelid = %s AND NOT tgisinternal ORDER BY tgname
"""
_SETTINGS = """
    SELECT pg_catalog.current_setting('session_replication_role') AS replication_role,
           pg_catalog.current_setting('data_checksums') AS checksums,
           (SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'search_path') AS search_path
"""
_FUNCTION = """
    SELECT p.oid::regprocedure::text AS name, prosrc AS source, proconfig AS settings,
           prosecdef OR lanname <> 'plpgsql' AS is_other
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = pronamespace
    JOIN pg_catalog.pg_language l ON l.oid = prolang
    WHERE nspname = %s AND proname = %s ORDER BY p.oid
"""
_APPEND_SETTINGS = ["enable_seqscan=off"]


def objects(session: Session, described_as: str) -> Iterator[Finding]:
    """Yield where a table, a trigger or a setting may make the log show or store something else."""
    findings = [*_tables(session), *_triggers(session)]
    for check, what in ((TABLES, "tables"), (TRIGGERS, "triggers")):
        if not any(finding.check == check for finding in findings):
            message = f"The {what} of {described_as} are as they were created."
            findings.append(Finding(check, Outcome.OK, message))
    yield from findings
    yield from _settings(session)


def has_changed_triggers(session: Session) -> bool:
    """Return whether what refuses changes, or appends events, is not what was created."""
    return any(True for _ in _triggers(session))


def _tables(session: Session) -> Iterator[Finding]:
    there = relations(session, [EVENTS_TABLE, KEYS_TABLE, _VERSION_TABLE])
    for name in (EVENTS_TABLE, KEYS_TABLE):
        if name not in there:
            yield Finding(TABLES, Outcome.PROBLEM, f"The table {SCHEMA}.{name} is missing.", _LEAVE)
    for name, relation in sorted(there.items()):
        yield from strange(relation)
        if name in _UNIQUE and relation["kind"] == "r":
            yield from _definition(session, relation)


def _definition(session: Session, relation: dict[str, Any]) -> Iterator[Finding]:
    name, expected = relation["name"], EVENT_COLUMNS if relation["name"] == EVENTS_TABLE else KEY_COLUMNS
    with session.cursor(row_factory=tuple_row) as cursor:
        columns: dict[str, str] = dict(cursor.execute(_COLUMNS, (relation["oid"],)).fetchall())
        unique = [row[0] for row in cursor.execute(_UNIQUE_COLUMNS, (relation["oid"],)).fetchall()]
    changed = [column for column in (*expected, *columns) if columns.get(column) != expected.get(column)]
    if changed:
        message = f"The table {SCHEMA}.{name} no longer has the columns it was created with: {changed[0]}."
        yield Finding(TABLES, Outcome.PROBLEM, message, _LEAVE)
    for key in _UNIQUE[name]:
        if key not in unique:
            message = f"The table {SCHEMA}.{name} has lost its unique key ({', '.join(key)})."
            hint = f"Remove duplicate rows, then: ALTER TABLE {SCHEMA}.{name} ADD UNIQUE ({', '.join(key)})."
            yield Finding(TABLES, Outcome.PROBLEM, message, hint)


def _triggers(session: Session) -> Iterator[Finding]:
    table = f"{SCHEMA}.{EVENTS_TABLE}"
    relation = relations(session, [EVENTS_TABLE]).get(EVENTS_TABLE)
    with session.cursor(row_factory=dict_row) as cursor:
        triggers = cursor.execute(_TRIGGERS, (relation["oid"] if relation else 0,)).fetchall()
        append = cursor.execute(_FUNCTION, (SCHEMA, f"{EVENTS_TABLE}_append")).fetchall()
    ours = next((trigger for trigger in triggers if trigger["name"] == REFUSE_CHANGE), None)
    what = f"The trigger {REFUSE_CHANGE}, which refuses changes to {table},"
    if ours is None:
        message = f"{what} is missing: events can be changed and removed."
        yield Finding(TRIGGERS, Outcome.PROBLEM, message, _RESTORE)
    elif ours["enabled"] not in ("O", "A"):
        message = f"{what} is disabled: events can be changed and removed."
        yield Finding(TRIGGERS, Outcome.PROBLEM, message, _RESTORE)
    elif (
        ours["type"] != _BEFORE_STATEMENT
        or not ours["is_unconditional"]
        or (ours["schema"], ours["function"]) != (SCHEMA, f"{EVENTS_TABLE}_refuse_change")
        or _plain(ours["source"]) != _plain(EVENTS.refuse_body)
        or ours["is_other"]
    ):
        message = f"{what} was changed: events may be changed or removed."
        yield Finding(TRIGGERS, Outcome.PROBLEM, message, _RESTORE)
    for trigger in triggers:
        if trigger is not ours:
            yield Finding(
                TRIGGERS,
                Outcome.PROBLEM,
                f"The trigger {trigger['name']} on {table} was not created by deployledger: "
                "it may change what is stored.",
                f"Inspect it, then remove it: DROP TRIGGER {trigger['name']} ON {table}.",
            )
    expected = _plain(EVENTS.create_append_function().as_string(session))
    is_ours = [
        _plain(function["source"]) in expected
        and function["settings"] == _APPEND_SETTINGS
        and not function["is_other"]
        for function in append
    ]
    if not any(is_ours):
        message = (
            f"The function {SCHEMA}.{EVENTS_TABLE}_append, which stores events, is not that of this version."
        )
        yield Finding(TRIGGERS, Outcome.WARNING, message, "`deployledger db init` restores it.")
    elif not all(is_ours):
        name = append[is_ours.index(False)]["name"]
        yield Finding(
            TRIGGERS,
            Outcome.WARNING,
            f"The function {name} was not created by deployledger: it may be called instead of the one that "
            "stores events.",
            f"Inspect it, then remove it: DROP FUNCTION {name}.",
        )


def _settings(session: Session) -> Iterator[Finding]:
    with session.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_SETTINGS).fetchone()
    if row is None:
        return
    if row["replication_role"] != "origin":
        yield Finding(
            TRIGGERS,
            Outcome.PROBLEM,
            "No trigger fires in sessions of this role: session_replication_role is "
            f"{row['replication_role']}.",
            "Reset it where it is set: ALTER ROLE … or ALTER DATABASE … RESET session_replication_role.",
        )
    path = [schema.strip().strip('"') for schema in (row["search_path"] or "").split(",")]
    if "pg_catalog" in path[1:]:
        yield Finding(
            TABLES,
            Outcome.WARNING,
            f"The search_path of this role puts {path[0]} before pg_catalog: functions there take the place "
            "of the server's own. Sessions of deployledger do not use them; other readers of its tables may.",
            "Reset it where it is set: ALTER ROLE … or ALTER DATABASE … RESET search_path.",
        )
    if row["checksums"] == "on":
        message = "The server checks its pages whenever it reads them (data_checksums is on)."
        yield Finding("checksums", Outcome.OK, message)
    else:
        yield Finding(
            "checksums",
            Outcome.WARNING,
            "The server does not check its pages for damage: data_checksums is off.",
            "Enable them while the server is stopped: pg_checksums --enable.",
        )


def _plain(source: str) -> str:
    return re.sub(r"\s+", " ", source).strip()
