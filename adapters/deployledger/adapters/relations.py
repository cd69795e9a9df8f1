"""Looks at tables of a PostgreSQL database: whether they are plain tables that show this role every row."""

from collections.abc import Iterator, Sequence
from typing import Any

from psycopg.rows import dict_row

from deployledger.adapters.postgres import SCHEMA, Session
from deployledger.domain.findings import Finding, Outcome

TABLES = "tables"
"""The name of the check."""

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "p": "a partitioned table",
    "S": "a sequence",
}
_LEAVE = (
    "Find out who changed it; `deployledger audit verify` with checkpoints kept elsewhere shows what is "
    "intact."
)
_QUERY = """
    SELECT c.oid, c.relname AS name, c.relkind::text AS kind, c.relpersistence::text AS persistence,
           c.relrowsecurity AS has_row_security, pg_catalog.row_security_active(c.oid) AS hides_rows,
           ARRAY(SELECT polname::text FROM pg_catalog.pg_policy
                 WHERE polrelid = c.oid ORDER BY 1) AS policies,
           ARRAY(SELECT rulename::text FROM pg_catalog.pg_rewrite
                 WHERE ev_class = c.oid AND rulename <> '_RETURN' ORDER BY 1) AS rules,
           ARRAY(SELECT inhrelid::regclass::text FROM pg_catalog.pg_inherits
                 WHERE inhparent = c.oid ORDER BY 1) AS children,
           ARRAY(SELECT inhparent::regclass::text FROM pg_catalog.pg_inherits
                 WHERE inhrelid = c.oid ORDER BY 1) AS parents
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = ANY(%s)
"""


def relations(session: Session, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what the server's catalog says of the tables with these names, by name."""
    with session.cursor(row_factory=dict_row) as cursor:
        return {row["name"]: row for row in cursor.execute(_QUERY, (SCHEMA, list(names))).fetchall()}


def strange(relation: dict[str, Any], what_next: str = _LEAVE) -> Iterator[Finding]:
    """Yield why a relation may show this role other rows than those that were stored in it.

    Args:
        what_next: the hint where nothing of this relation can be trusted.
    """
    name = f"{SCHEMA}.{relation['name']}"

    def problem(message: str, hint: str = what_next) -> Finding:
        return Finding(TABLES, Outcome.PROBLEM, message, hint)

    if relation["kind"] != "r":
        kind = _KINDS.get(relation["kind"], "something else")
        yield problem(f"{name} is {kind}, not the table that was created: it may show anything as its rows.")
    if relation["persistence"] != "p":
        yield problem(
            f"The table {name} is unlogged or temporary: the server empties it after a crash.",
            f"Make it permanent: ALTER TABLE {name} SET LOGGED.",
        )
    policies = f" ({', '.join(relation['policies'])})" if relation["policies"] else ""
    if relation["hides_rows"]:
        yield problem(
            f"Row security{policies} hides rows of {name} from this role.",
            "Use a role with BYPASSRLS, or have the owner of the table disable row security on it.",
        )
    elif relation["has_row_security"]:
        yield Finding(
            TABLES,
            Outcome.WARNING,
            f"Row security{policies} is enabled on {name}: this role sees every row, others may not.",
            f"Disable it unless you know what it is for: ALTER TABLE {name} DISABLE ROW LEVEL SECURITY.",
        )
    for rule in relation["rules"]:
        yield problem(
            f"The rule {rule} on {name} was not created by deployledger: it changes what statements do.",
            f"Inspect it, then remove it: DROP RULE {rule} ON {name}.",
        )
    if relation["children"]:
        yield problem(
            f"Other tables inherit from {name}, and their rows are shown as its own: "
            f"{', '.join(relation['children'])}.",
        )
    if relation["parents"]:
        yield problem(
            f"{name} inherits from, or is a partition of, {', '.join(relation['parents'])}: "
            "rows can be added, moved and removed there.",
        )
