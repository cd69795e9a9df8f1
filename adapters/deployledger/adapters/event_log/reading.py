"""The statements that read a log, written once for both databases."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from deployledger.adapters.dialect import Dialect

EVENTS_TABLE = "events"
KEYS_TABLE = "idempotency_keys"
READ_AT_ONCE = 200
"""The rows of a page."""

ID_COLUMNS = ("originator_id", "event_id", "correlation_id", "causation_id", "deployment_id")
_EVENT = ("position", "originator_id", "originator_version", "topic", "state")
_METADATA = ("event_id", "recorded_at", "actor", "correlation_id", "causation_id")
_KEY = ("key", "fingerprint", "deployment_id", "version", "recorded_at")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which events are read; see the port's ``records``.

    Attributes:
        topics: only those with these topics; all if there are none.
        with_last: also the event at the position behind which the others are, whatever else is selected.
    """

    after: int = 0
    until: int | None = None
    limit: int | None = None
    streams: Sequence[UUID] | None = None
    stream_range: tuple[UUID, UUID] | None = None
    topics: Sequence[str] = ()
    with_last: bool = False
    metadata: bool = False


@dataclass(frozen=True)
class Statements:
    """The statements of one database.

    Args:
        dialect: its SQL.
        id_value: how a value of a column of ids is given to it.
        id_column: how such a column is read, with ``{}`` for its name.
        time_column: how a column of times is read, in microseconds since 1970.
        binary_order: what orders texts by their bytes.
    """

    dialect: Dialect
    id_value: Any
    id_column: str
    time_column: str
    binary_order: str

    @cached_property
    def events(self) -> str:
        """The table of events."""
        return self.dialect.table(EVENTS_TABLE)

    @cached_property
    def keys(self) -> str:
        """The table of idempotency keys."""
        return self.dialect.table(KEYS_TABLE)

    def _columns(self, names: Sequence[str], table: str = "") -> str:
        return ", ".join(self._column(name, f"{table}{name}") for name in names)

    def _column(self, name: str, column: str) -> str:
        if name in ID_COLUMNS:
            return self.id_column.format(column)
        return self.time_column.format(column) if name == "recorded_at" else column

    def select_events(self, selection: Selection) -> tuple[str, list[Any]]:
        """Return the statement, and its values, that selects events in the order of the log."""
        conditions, values = ["position >= ?"], list[Any]([selection.after + 1])
        if selection.until is not None:
            # Of few streams, their own index is the one to use.
            conditions.append(f"{'+' * (selection.streams is not None)}position <= ?")
            values.append(selection.until)
        if selection.topics:
            conditions.append(self.dialect.is_any("topic"))
            values.append(self.dialect.array(selection.topics))
        order = "position"
        if selection.streams is not None and len(selection.streams) == 1:
            conditions.append("originator_id = ?")
            values.append(self.id_value(selection.streams[0]))
            order = order if selection.topics or selection.with_last else "originator_version"
        elif selection.streams is not None:
            conditions.append(self.dialect.is_any("originator_id"))
            values.append(self.dialect.array([self.id_value(stream) for stream in selection.streams]))
        if selection.stream_range is not None:
            conditions.append("originator_id BETWEEN ? AND ?")
            values.extend(map(self.id_value, selection.stream_range))
        condition = " AND ".join(conditions)
        if selection.with_last:
            condition = f"position >= ? AND (position = ? OR {condition})"
            values = [selection.after, selection.after, *values]
        limit = ""
        if selection.limit is not None:
            limit = " LIMIT ?"
            values.append(selection.limit)
        columns = self._columns(_EVENT + _METADATA if selection.metadata else _EVENT)
        return f"SELECT {columns} FROM {self.events} WHERE {condition} ORDER BY {order}{limit}", values  # noqa: S608

    @cached_property
    def select_all(self) -> str:
        """The statement that selects all events with their metadata."""
        return f"SELECT {self._columns(_EVENT + _METADATA)} FROM {self.events} ORDER BY position"  # noqa: S608

    @cached_property
    def select_last(self) -> str:
        """The statement that selects the last event, without metadata."""
        return f"SELECT {self._columns(_EVENT)} FROM {self.events} ORDER BY position DESC LIMIT 1"  # noqa: S608

    @cached_property
    def select_keys(self) -> str:
        """The statement that selects the keys behind one, up to a position, with their events."""
        # A key is stored with the events of its command, one of which it names.
        return (
            f"SELECT {self._columns(_KEY, 'k.')}, {self._columns(_EVENT + _METADATA, 'e.')} "  # noqa: S608
            f"FROM {self.keys} AS k LEFT JOIN {self.events} AS e "
            "ON e.originator_id = k.deployment_id AND e.originator_version = k.version "
            f"WHERE k.key{self.binary_order} > ? AND coalesce(e.position, 0) <= ? "
            f"ORDER BY k.key{self.binary_order}"
        )

    @cached_property
    def select_key(self) -> str:
        """The statement that selects what was stored with an idempotency key."""
        return f"SELECT {self._columns(_KEY[:4])} FROM {self.keys} WHERE key = ?"  # noqa: S608

    @cached_property
    def search_time(self) -> str:
        """The statement that returns the last of some positions that was recorded by a time, by halving.

        Its values are the time, the position before the first one, and the last one. If the first one was
        recorded later, it returns the position before it.
        """
        types = self.dialect.types
        return (
            "WITH RECURSIVE search (moment, low, high) AS ("  # noqa: S608
            f"SELECT CAST(? AS {types[datetime]}), CAST(? AS {types[int]}), CAST(? AS {types[int]}) "
            "UNION ALL "
            "SELECT moment, CASE WHEN recorded_at <= moment THEN (low + high + 1) / 2 ELSE low END, "
            "CASE WHEN recorded_at <= moment THEN high ELSE (low + high + 1) / 2 - 1 END "
            f"FROM search LEFT JOIN {self.events} ON position = (low + high + 1) / 2 WHERE low < high"
            ") SELECT low FROM search WHERE low = high"
        )
