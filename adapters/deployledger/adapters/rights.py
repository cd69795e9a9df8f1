"""The rights of a PostgreSQL user on deployledger's objects, and the GRANTs that are missing."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from psycopg.rows import tuple_row
from psycopg.sql import SQL, Identifier

from deployledger.adapters.postgres import SCHEMA, Session
from deployledger.domain.findings import Finding, Outcome

PAGE = "docs/database.md lists the rights of every role."
"""What every hint about rights ends with."""

_READ: tuple[str, ...] = ("SELECT",)
_ADD: tuple[str, ...] = ("SELECT", "INSERT")
_CHANGE: tuple[str, ...] = ("SELECT", "INSERT", "UPDATE", "DELETE")
_LOG = {"schema_version": _READ, "events": _ADD, "idempotency_keys": _ADD}
_LEDGER = dict.fromkeys(("ledger", "ledger_tiles", "ledger_checkpoints"), _CHANGE[:3])
_READ_MODELS = dict.fromkeys(("read_models", "read_model_tables", "read_model_parked"), _CHANGE)
_APPEND = "events_append"
_SUFFIXES = ("_past",)
_ROWS = re.compile(rf"(\w+_v\d+_\d+)({'|'.join(_SUFFIXES)})?")

_HELD = """
    SELECT c.relname::text,
           ARRAY(SELECT p FROM pg_catalog.unnest(%s::text[]) AS p
                 WHERE pg_catalog.has_table_privilege(c.oid, p))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_SCHEMA_RIGHTS = """
    SELECT current_user::text, n.oid IS NOT NULL,
           coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false),
           coalesce(pg_catalog.has_schema_privilege(n.oid, 'CREATE'), false),
           pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
           (SELECT coalesce(pg_catalog.bool_and(pg_catalog.has_function_privilege(p.oid, 'EXECUTE')), true)
            FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid AND p.proname = %s)
    FROM (SELECT %s::text AS name) AS ours LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = ours.name
"""
_READ_NOW = """
    SELECT DISTINCT ON (name) name || '_v' || version || '_' || generation
    FROM {} WHERE generation IS NOT NULL ORDER BY name, version DESC
"""


@dataclass(frozen=True)
class Rights:
    """The rights of the user of a session, in one database.

    Attributes:
        user: the user.
        has_schema: whether our schema is there.
        may_use: whether the user may use it.
        may_create: whether the user may create tables in it.
        may_create_schema: whether the user may create schemas in this database.
        may_append: whether the user may call the function that appends events.
        tables: the rights on each table of the schema.
        read_models: the tables of rows that are read now; all, if the user may not know which.
    """

    user: str
    has_schema: bool
    may_use: bool
    may_create: bool
    may_create_schema: bool
    may_append: bool
    tables: dict[str, frozenset[str]]
    read_models: tuple[str, ...]

    @property
    def has_log(self) -> bool:
        """Whether the tables of the log are there, readable or not."""
        return bool(_LOG.keys() & self.tables.keys())

    @property
    def only_reads(self) -> bool:
        """Whether the user may read everything and change nothing, as an auditor's role does."""
        held = frozenset[str]().union(*self.tables.values())
        return held == {"SELECT"} and not self.may_create

    def to_create(self) -> list[str]:
        """Return what an administrator must run so that this user can create our tables."""
        if not self.has_schema:
            if self.may_create_schema:
                return []
            return [f"CREATE SCHEMA {SCHEMA}", *self._on_schema("USAGE", "CREATE")]
        held = {"USAGE": self.may_use, "CREATE": self.may_create}
        return self._on_schema(*(right for right in held if not held[right]))

    def to_read(self) -> list[str]:
        """Return the GRANTs that are missing to read the log."""
        usage = [] if self.may_use else ["USAGE"]
        return [*self._on_schema(*usage), *self._on_tables(dict.fromkeys(_LOG, _READ))]

    def to_serve(self, *, keeps_read_models: bool) -> list[str]:
        """Return the GRANTs that are missing to store commands and to answer questions.

        Args:
            keeps_read_models: whether the read models are in this database, too.
        """
        append = f"GRANT EXECUTE ON FUNCTION {SCHEMA}.{_APPEND} TO {self._grantee}"
        return [
            *self._missing({**_LOG, **_LEDGER}, keeps_read_models=keeps_read_models),
            *([] if self.may_append else [append]),
        ]

    def to_keep_read_models(self) -> list[str]:
        """Return what is missing to keep the read models in a database without the log."""
        if not self.has_schema:
            return self.to_create()
        return self._missing({}, keeps_read_models=True)

    def _missing(self, wanted: dict[str, tuple[str, ...]], *, keeps_read_models: bool) -> list[str]:
        on_schema = [] if self.may_use else ["USAGE"]
        if keeps_read_models:
            rows = [table + suffix for table in self.read_models for suffix in ("", *_SUFFIXES)]
            wanted |= {**_READ_MODELS, **dict.fromkeys(rows, _CHANGE)}
            if not (_READ_MODELS.keys() <= self.tables.keys() or self.may_create):
                on_schema.append("CREATE")
        return [*self._on_schema(*on_schema), *self._on_tables(wanted)]

    @property
    def _grantee(self) -> str:
        return Identifier(self.user).as_string()

    def _on_schema(self, *rights: str) -> list[str]:
        return [f"GRANT {', '.join(rights)} ON SCHEMA {SCHEMA} TO {self._grantee}"] if rights else []

    def _on_tables(self, wanted: Mapping[str, tuple[str, ...]]) -> list[str]:
        """Return the GRANTs, one for each set of rights that is missing."""
        lacking: dict[tuple[str, ...], list[str]] = {}
        for name, rights in sorted(wanted.items()):
            if name not in self.tables:
                continue
            if missing := tuple(right for right in rights if right not in self.tables[name]):
                lacking.setdefault(missing, []).append(f"{SCHEMA}.{name}")
        return [
            f"GRANT {', '.join(rights)} ON {', '.join(names)} TO {self._grantee}"
            for rights, names in lacking.items()
        ]


def rights_of(session: Session) -> Rights:
    """Return the rights of the user of a session."""
    with session.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(_SCHEMA_RIGHTS, (_APPEND, SCHEMA)).fetchall()
        user, has_schema, may_use, may_create, may_create_schema, may_append = rows[0]
        held = cursor.execute(_HELD, (list(_CHANGE), SCHEMA)).fetchall()
        tables = {name: frozenset(rights) for name, rights in held}
        read_models = [match[1] for name in tables if (match := _ROWS.fullmatch(name))]
        if may_use and "SELECT" in tables.get("read_models", ()):  # else all that there are
            query = SQL(_READ_NOW).format(Identifier(SCHEMA, "read_models"))
            read_models = [name for (name,) in cursor.execute(query).fetchall()]
    return Rights(
        user, has_schema, may_use, may_create, may_create_schema, may_append, tables, tuple(read_models)
    )


def hint(grants: Iterable[str]) -> str:
    """Return what to do about missing rights, and where it is explained."""
    return f"Have the owner of the schema, or an administrator, run: {'; '.join(grants)}. {PAGE}"


def hint_to_write(rights: Rights, missing: Iterable[str]) -> str:
    """Return what to do about missing rights to write; a role that only reads is not to be given any."""
    if rights.only_reads:
        return f"This role only reads: connect as the role of the service to give commands. {PAGE}"
    return hint(missing)


def findings(rights: Rights, described_as: str, *, keeps_read_models: bool) -> Iterator[Finding]:
    """Yield whether the user of a session may do what a service does, or only read.

    Args:
        described_as: the database.
        keeps_read_models: whether the read models are in this database, too.
    """
    missing = rights.to_serve(keeps_read_models=keeps_read_models)
    if not missing:
        message = f"The user {rights.user!r} has every right in {described_as} that a service needs."
        yield Finding("rights", Outcome.OK, message)
    elif rights.only_reads:
        message = f"The user {rights.user!r} may read the event log in {described_as}, but not add to it."
        yield Finding("rights", Outcome.OK, message)
    else:
        message = f"The user {rights.user!r} lacks rights in {described_as} that a service needs."
        yield Finding("rights", Outcome.PROBLEM, message, hint(missing))
