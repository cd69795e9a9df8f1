"""The tables of a ledger, whatever database they are in."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime

from deployledger.adapters.dialect import Dialect, Statements
from deployledger.audit.ledger_store import StoredCheckpoint
from deployledger.domain.exceptions import EventLogError


class DatabaseLedgerStore(ABC):
    """The store of a ledger; see the port.

    Args:
        dialect: the SQL of the database.
        described_as: where the ledger is, for messages.
    """

    def __init__(self, dialect: Dialect, described_as: str) -> None:
        self._dialect = dialect
        self._described_as = described_as
        self._size, self._tiles, self._checkpoints = map(
            dialect.table, ("ledger", "ledger_tiles", "ledger_checkpoints")
        )

    @abstractmethod
    def _statements(self, *, writes: bool = False) -> AbstractContextManager[Statements | None]:
        """Enter with the tables, in a transaction to write; None if there are none, and we may not make them.

        Raises:
            EventLogError: on leaving, if the database cannot be used.
        """

    def size(self) -> int:
        """Return how many leaves the tree has."""
        with self._statements() as tables:
            rows = tables.query(f"SELECT size FROM {self._size}") if tables else []  # noqa: S608  # our name
            return int(rows[0][0]) if rows else 0

    def tiles(self, level: int, first: int, last: int) -> dict[int, bytes]:
        """Return the tiles of a level, by number, from the first to the last one, as far as there are any."""
        query = f"SELECT number, hashes FROM {self._tiles} WHERE level = ? AND number BETWEEN ? AND ?"  # noqa: S608
        with self._statements() as tables:
            rows = tables.query(query, (level, first, last)) if tables else []
        # SQLite accepts any value in a column; a tile that is not bytes of hashes counts as missing.
        return {number: hashes for number, hashes in rows if isinstance(hashes, bytes)}

    def extend(self, before: int, after: int, tiles: Mapping[tuple[int, int], bytes]) -> bool:
        """Store tiles, by level and number, of a tree that grew; False if it had not the size before."""
        with self._statements(writes=True) as tables:
            grown = f"UPDATE {self._size} SET size = ? WHERE size = ?"  # noqa: S608
            if tables is None or tables.execute(grown, (after, before)) != 1:
                return False
            tables.execute_many(
                f"INSERT INTO {self._tiles} (level, number, hashes) VALUES (?, ?, ?) "  # noqa: S608
                "ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes",
                [(level, number, hashes) for (level, number), hashes in tiles.items()],
            )
            return True

    def checkpoints(self, limit: int | None = None) -> list[StoredCheckpoint]:
        """Return the checkpoints, the smallest first; with a limit, only so many of the largest."""
        query = f"SELECT size, root, note, created_at FROM {self._checkpoints} ORDER BY size DESC, id DESC"  # noqa: S608
        if limit is not None:
            query += f" LIMIT {limit:d}"
        with self._statements() as tables:
            rows = tables.query(query) if tables else []
        try:
            return [
                StoredCheckpoint(size, root, note, self._dialect.decode(datetime, created_at))
                for size, root, note, created_at in reversed(rows)
            ]
        except (TypeError, OverflowError) as error:
            raise EventLogError(
                f"A checkpoint in {self._described_as} is damaged: {error}.",
                hint="Remove it; those that were published are not lost.",
            ) from error

    def add_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        """Store a checkpoint."""
        created_at = self._dialect.encode(datetime, checkpoint.created_at)
        values = (checkpoint.size, checkpoint.root, checkpoint.note, created_at)
        with self._statements(writes=True) as tables:
            if tables is not None:
                names = "(size, root, note, created_at)"
                tables.execute(f"INSERT INTO {self._checkpoints} {names} VALUES (?, ?, ?, ?)", values)  # noqa: S608
