"""Tables of read models, of differences from the log, and of parked events."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from deployledger.adapters.cli import units
from deployledger.adapters.cli.layout import Labelled, table_of
from deployledger.adapters.cli.terminal import shown, shown_lines
from deployledger.projections.history import event_name

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from deployledger.domain.event_records import EventRecord
    from deployledger.projections.read_model_status import ReadModelStatus
    from deployledger.projections.rows import ParkedEvent
    from deployledger.projections.verifying import Difference

    _Parked = Sequence[tuple[str, ParkedEvent]]

_ANY_WIDTH = 10_000
_LEAST_DETAILS = 22
_MOST_DIFFERENCES = 100
_LONGEST_VALUE = 60
_LONGEST_ERROR = 200


class ReadModelTable:
    """One row a read model, whose name is never cut; versions and numbers of rows need room."""

    def __init__(self, statuses: "Sequence[ReadModelStatus]") -> None:
        self._statuses = statuses

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        whole = self._table("VERSION", "POSITION", "LAG", "ROWS", "PARKED", "REBUILT")
        width = console.measure(whole, options=options.update(max_width=_ANY_WIDTH)).maximum
        yield whole if width <= options.max_width else self._table("POSITION", "LAG", "PARKED", "REBUILT")

    def _table(self, *numbers: str) -> Table:
        table = table_of("NAME", *numbers, wrapped=("NAME",), right=numbers)
        for status in self._statuses:
            rebuilt = f"{units.age(status.rebuilt_at)} ago" if status.rebuilt_at else "-"
            values: dict[str, str | Text] = {
                "VERSION": f"{status.version}",
                "POSITION": f"{status.position:,}",
                "LAG": f"{status.lag_events:,} ({units.duration(status.lag_seconds)})"
                if status.lag_events
                else "0",
                "ROWS": f"{status.rows:,}",
                "PARKED": Text(f"{status.parked:,}", style="red" if status.parked else ""),
                "REBUILT": "now" if status.is_being_rebuilt else rebuilt,
            }
            name = shown(status.name if status.is_current else f"{status.name} (not used)")
            table.add_row(name, *(values[heading] for heading in numbers))
        return table


def differences_table(differences: "Sequence[Difference]") -> Table:
    """Return a table with one row a difference, of the first hundred."""
    headings = ("KEY", "FIELD", "EXPECTED", "FOUND")
    table = table_of(*headings, wrapped=headings)
    for difference in differences[:_MOST_DIFFERENCES]:
        nothing = "-" if difference.field else "no row"
        values = (_as_text(value, nothing) for value in (difference.expected, difference.found))
        table.add_row(shown(difference.key), shown(difference.field or "(the row)"), *map(shown, values))
    if len(differences) > _MOST_DIFFERENCES:
        table.add_row(f"and {len(differences) - _MOST_DIFFERENCES:,} more", "", "", "")
    return table


def _as_text(value: Any, nothing: str) -> str:
    if value is None:
        return nothing
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return units.shortened(text, _LONGEST_VALUE)


def parked_rows_table(parked: "_Parked") -> Table:
    """Return a table of the rows that have parked events: how many, which, and why the first is parked."""
    rows: dict[tuple[str, str], list[ParkedEvent]] = {}
    for name, event in parked:
        rows.setdefault((name, event.key), []).append(event)
    headings = ("PROJECTION", "ROW", "EVENTS", "POSITIONS", "PARKED", "REASON")
    table = table_of(
        *headings, wrapped=("PROJECTION", "ROW", "REASON"), right=("EVENTS",), least=_LEAST_DETAILS
    )
    for (name, _), events in rows.items():
        first, last = events[0], events[-1]
        table.add_row(
            shown(name),
            shown(_row_key(first)),
            f"{len(events):,}",
            f"{first.position}" if first is last else f"{first.position} to {last.position}",
            f"{units.age(first.parked_at)} ago",
            shown(f"{event_name(first.topic)}: {_short_reason(first)}"),
        )
    return table


def parked_table(parked: "_Parked") -> Table:
    """Return a table with one row a parked event."""
    headings = ("POSITION", "PROJECTION", "KEY", "EVENT", "ERROR")
    table = table_of(*headings, wrapped=("EVENT", "ERROR"), least=_LEAST_DETAILS)
    for name, parked_event in parked:
        event = f"{parked_event.topic.rpartition('.')[2]}, {units.age(parked_event.parked_at)} ago"
        table.add_row(
            f"{parked_event.position}",
            *map(shown, (name, _row_key(parked_event), event, _short_reason(parked_event))),
        )
    return table


def parked_card(raw: "EventRecord", parked: "_Parked") -> Labelled:
    """Return where a parked event is, and why it is parked."""
    lines = [
        ("Position", f"{raw.position}"),
        ("Event", raw.topic),
        ("Stream", f"{raw.stream}, version {raw.stream_version}"),
        *((name, f"row {event.key}: {_reason(event)}") for name, event in parked),
    ]
    return Labelled([(label, shown_lines(value)) for label, value in lines])


def _row_key(parked: "ParkedEvent") -> str:
    return parked.key[:8] if parked.key == parked.stream_id else parked.key


def _short_reason(parked: "ParkedEvent") -> str:
    return units.shortened(" ".join(_reason(parked).split()), _LONGEST_ERROR)


def _reason(parked: "ParkedEvent") -> str:
    return parked.error or "an earlier event of the row is parked"
