"""The ledger in the PostgreSQL database of its event log."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg.rows import tuple_row
from psycopg.sql import SQL, Identifier

from deployledger.adapters.postgres import DENIED, SCHEMA, PostgresDatabase, Session, advice, reason
from deployledger.adapters.relations import relations, strange
from deployledger.audit.ledger_store import StoredCheckpoint
from deployledger.domain.exceptions import EventLogError, EventLogUnavailableError
from deployledger.domain.findings import Finding

_NAMES = ("ledger", "ledger_tiles", "ledger_checkpoints")
_SIZE, _TILES, _CHECKPOINTS = (Identifier(SCHEMA, name) for name in _NAMES)


class PostgresLedgerStore:
    """The store of a ledger; see the port.

    For a user who may read the database and not write it, the tree grows in memory from what is stored, so
    that roots and proofs can be had of the newest events as well.

    Args:
        database: the database of the event log, which is open.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._is_created = False
        self._grown: int | None = None
        self._grown_tiles: dict[tuple[int, int], bytes] = {}
        """How large the tree is in memory, if we may not store it, and the tiles that it has there."""

    @contextmanager
    def _session(self, *, writes: bool = False) -> Iterator[Session]:
        try:
            with self._database.pooled() as session:
                if not self._is_created:
                    try:
                        self._create(session)
                    except DENIED:
                        if writes:
                            raise
                yield session
        except psycopg.Error as error:
            self._is_created = False  # somebody may have removed it: look again
            kind = EventLogUnavailableError if self._database.is_outage(error) else EventLogError
            raise kind(
                f"The ledger in {self._database.described_as} cannot be used: {reason(error)}.",
                hint=advice(error),
            ) from error

    def _create(self, session: Session) -> None:
        with session.cursor(row_factory=tuple_row) as cursor:
            row = cursor.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.ledger_checkpoints",)).fetchone()
        if row is None or row[0] is None:
            with session.transaction():
                session.execute("SELECT pg_advisory_xact_lock(hashtextextended('deployledger ledger', 0))")
                session.execute(
                    SQL(
                        "CREATE TABLE IF NOT EXISTS {} (only_row boolean PRIMARY KEY DEFAULT true "
                        "CHECK (only_row), size bigint NOT NULL)"
                    ).format(_SIZE)
                )
                session.execute(SQL("INSERT INTO {} (size) VALUES (0) ON CONFLICT DO NOTHING").format(_SIZE))
                session.execute(
                    SQL(
                        "CREATE TABLE IF NOT EXISTS {} (level smallint, number bigint, "
                        "hashes bytea NOT NULL, PRIMARY KEY (level, number))"
                    ).format(_TILES)
                )
                # Hashes cannot be compressed: looking whether they can takes time.
                session.execute(SQL("ALTER TABLE {} ALTER COLUMN hashes SET STORAGE EXTERNAL").format(_TILES))
                session.execute(
                    SQL(
                        "CREATE TABLE IF NOT EXISTS {} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
                        "size bigint NOT NULL, root bytea NOT NULL, note text NOT NULL, "
                        "created_at timestamptz NOT NULL)"
                    ).format(_CHECKPOINTS)
                )
                session.execute(SQL("CREATE INDEX ON {} (size, id)").format(_CHECKPOINTS))
        self._is_created = True

    def size(self) -> int:
        """Return how many leaves the tree has."""
        if self._grown is not None:
            return self._grown
        with self._session() as session, session.cursor(row_factory=tuple_row) as cursor:
            if not self._is_created:
                return 0
            row = cursor.execute(SQL("SELECT size FROM {}").format(_SIZE), prepare=True).fetchone()
            return int(row[0]) if row else 0

    def tiles(self, level: int, first: int, last: int) -> dict[int, bytes]:
        """Return the tiles of a level, by number, from the first to the last one, as far as there are any."""
        query = SQL("SELECT number, hashes FROM {} WHERE level = %s AND number BETWEEN %s AND %s").format(
            _TILES
        )
        found: dict[int, bytes] = {}
        with self._session() as session, session.cursor(binary=True, row_factory=tuple_row) as cursor:
            if self._is_created:
                found = dict(cursor.execute(query, (level, first, last), prepare=True).fetchall())
        for number in range(first, last + 1) if self._grown_tiles else ():
            hashes = self._grown_tiles.get((level, number), b"")
            # Who may write may have made the stored tree larger meanwhile.
            if len(hashes) > len(found.get(number, b"")):
                found[number] = hashes
        return found

    def extend(self, before: int, after: int, tiles: Mapping[tuple[int, int], bytes]) -> bool:
        """Store tiles, by level and number, of a tree that grew; False if it had not the size before."""
        if self._grown is None:
            try:
                return self._store(before, after, tiles)
            except EventLogError as error:
                if not isinstance(error.__cause__, DENIED):
                    raise
        self._grown = after
        self._grown_tiles.update(tiles)
        return True

    def _store(self, before: int, after: int, tiles: Mapping[tuple[int, int], bytes]) -> bool:
        with self._session(writes=True) as session, session.transaction():
            grown = session.execute(
                SQL("UPDATE {} SET size = %s WHERE size = %s").format(_SIZE), (after, before)
            )
            if grown.rowcount != 1:
                return False
            with session.cursor() as cursor:
                cursor.executemany(
                    SQL(
                        "INSERT INTO {} VALUES (%b, %b, %b) "
                        "ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes"
                    ).format(_TILES),
                    [(level, number, hashes) for (level, number), hashes in tiles.items()],
                )
            return True

    def checkpoints(self, limit: int | None = None) -> list[StoredCheckpoint]:
        """Return the checkpoints, the smallest first; with a limit, only so many of the largest."""
        query = SQL(
            "SELECT size, root, note, created_at FROM {} ORDER BY size DESC, id DESC LIMIT %s"
        ).format(_CHECKPOINTS)
        with self._session() as session, session.cursor(binary=True, row_factory=tuple_row) as cursor:
            if not self._is_created:
                return []
            return [StoredCheckpoint(*row) for row in cursor.execute(query, (limit,)).fetchall()][::-1]

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Store a checkpoint."""
        with self._session(writes=True) as session:
            session.execute(
                SQL("INSERT INTO {} (size, root, note, created_at) VALUES (%s, %s, %s, %s)").format(
                    _CHECKPOINTS
                ),
                (checkpoint.size, checkpoint.root, checkpoint.note, checkpoint.created_at),
            )

    def findings(self, *, whole: bool = True) -> list[Finding]:  # pages are the server's
        """Check that the tables of the ledger, if there are any yet, are plain ones that show every row."""
        with self._session() as session:
            found = relations(session, _NAMES)
            return [finding for relation in found.values() for finding in strange(relation)]

    def close(self) -> None:
        """Do nothing: the event log closes its database."""
