"""The ledger in the PostgreSQL database of its event log."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import psycopg

from deployledger.adapters.dialect import POSTGRES, PostgresStatements, Statements
from deployledger.adapters.ledger.store import DatabaseLedgerStore
from deployledger.adapters.postgres import DENIED, PostgresDatabase, Session, advice, reason
from deployledger.adapters.relations import relations, strange
from deployledger.domain.exceptions import EventLogError, EventLogUnavailableError
from deployledger.domain.findings import Finding

_NAMES = ("ledger", "ledger_tiles", "ledger_checkpoints")
_TABLES = (
    "SELECT pg_advisory_xact_lock(hashtextextended('deployledger ledger', 0))",
    "CREATE TABLE IF NOT EXISTS deployledger.ledger (only_row boolean PRIMARY KEY DEFAULT true "
    "CHECK (only_row), size bigint NOT NULL)",
    "INSERT INTO deployledger.ledger (size) VALUES (0) ON CONFLICT DO NOTHING",
    "CREATE TABLE IF NOT EXISTS deployledger.ledger_tiles (level smallint, number bigint, "
    "hashes bytea NOT NULL, PRIMARY KEY (level, number))",
    # Hashes cannot be compressed: looking whether they can takes time.
    "ALTER TABLE deployledger.ledger_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL",
    "CREATE TABLE IF NOT EXISTS deployledger.ledger_checkpoints (id bigint GENERATED ALWAYS AS IDENTITY "
    "PRIMARY KEY, size bigint NOT NULL, root bytea NOT NULL, note text NOT NULL, "
    "created_at timestamptz NOT NULL)",
    "CREATE INDEX ON deployledger.ledger_checkpoints (size, id)",
)


class PostgresLedgerStore(DatabaseLedgerStore):
    """The store of a ledger; see the port.

    For a user who may read the database and not write it, the tree grows in memory from what is stored, so
    that there are roots and proofs of the newest events as well.

    Args:
        database: the database of the event log, which is open.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        super().__init__(POSTGRES, database.described_as)
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
                f"The ledger in {self._described_as} cannot be used: {reason(error)}.", hint=advice(error)
            ) from error

    @contextmanager
    def _statements(self, *, writes: bool = False) -> Iterator[Statements | None]:
        with self._session(writes=writes) as session:
            with session.transaction() if writes else nullcontext():
                yield PostgresStatements(session) if self._is_created else None

    def _create(self, session: Session) -> None:
        tables = PostgresStatements(session)
        if tables.query("SELECT to_regclass('deployledger.ledger_checkpoints')")[0][0] is None:
            with session.transaction():
                for statement in _TABLES:
                    tables.execute(statement)
        self._is_created = True

    def size(self) -> int:
        """Return how many leaves the tree has."""
        return super().size() if self._grown is None else self._grown

    def tiles(self, level: int, first: int, last: int) -> dict[int, bytes]:
        """Return the tiles of a level, by number, from the first to the last one, as far as there are any."""
        tiles = super().tiles(level, first, last)
        for number in range(first, last + 1) if self._grown_tiles else ():
            hashes = self._grown_tiles.get((level, number), b"")
            # Who may write may have made the stored tree larger meanwhile.
            if len(hashes) > len(tiles.get(number, b"")):
                tiles[number] = hashes
        return tiles

    def extend(self, before: int, after: int, tiles: Mapping[tuple[int, int], bytes]) -> bool:
        """Store tiles, by level and number, of a tree that grew; False if it had not the size before."""
        if self._grown is None:
            try:
                return super().extend(before, after, tiles)
            except EventLogError as error:
                if not isinstance(error.__cause__, DENIED):
                    raise
        self._grown = after
        self._grown_tiles.update(tiles)
        return True

    def findings(self, *, whole: bool = True) -> list[Finding]:  # pages are the server's
        """Check that the tables of the ledger, if there are any yet, are plain ones that show every row."""
        with self._session() as session:
            by_name = relations(session, _NAMES)
            return [finding for relation in by_name.values() for finding in strange(relation)]

    def close(self) -> None:
        """Do nothing: the event log closes its database."""
