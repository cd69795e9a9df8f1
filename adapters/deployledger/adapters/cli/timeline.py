"""A deployment's past as people read it: its history as a timeline, and what differs between two moments."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deployledger.domain.moments import written
from deployledger.domain.visible import visible

if TYPE_CHECKING:
    from datetime import date
    from uuid import UUID

    from rich.console import Console, ConsoleOptions, RenderResult

    from deployledger.domain.schemas import (
        Change,
        DeploymentDifference,
        DeploymentHistoryEntry,
        PastMoment,
    )

_INDENT = 6
_LONGEST_VALUE = 300
_LONGEST_IN_TABLE = 60
"""A digest that is shortened, and most paths, are shorter."""
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")
_HEADINGS = ("#", "POSITION", "TIME (UTC)", "EVENT", "REV", "TOOK")
_RIGHT = {"#", "POSITION", "REV", "TOOK"}
_BAD = {"Failed", "DeletionFailed"}


def timeline(history: "Sequence[DeploymentHistoryEntry]") -> Group:
    """Return the events, oldest first, with what each changed; those of one command are together."""
    return Group(*_timeline(history))


def _timeline(history: "Sequence[DeploymentHistoryEntry]") -> Iterator[RenderableType]:
    rows = [_columns(entry) for entry in history]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    yield _Row(_aligned(_HEADINGS, widths), "ACTOR", "bold")
    command: tuple[UUID | None, date] | None = None
    for entry, row in zip(history, rows, strict=True):
        day = (entry.happened_at or entry.recorded_at).date()
        group = (entry.correlation_id, day)
        if group != command:
            yield Text()
            name = f"command {str(entry.correlation_id)[:8]}" if entry.correlation_id else "no command"
            yield Text(f"{day:%Y-%m-%d}  {name}", style="dim")
            command = group
        colour = "red" if entry.error or entry.event in _BAD else ""
        yield _Row(_aligned(row, widths), _who(entry), colour)
        for line in _lines(entry):
            yield Padding(_hanging(line), (0, 0, 0, _INDENT), expand=False)
    if any(entry.happened_at for entry in history):
        yield Text()
        yield Text("~ The clock was wrong when this was recorded; it happened by this time at the latest.")


class _Row:
    """A line of the timeline; on a narrow terminal the actor goes below it, indented."""

    def __init__(self, columns: str, actor: str, style: str) -> None:
        self._columns = columns
        self._actor = actor
        self._style = style

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        line = Text(f"{self._columns}  {self._actor}", style=self._style)
        if line.cell_len <= options.max_width:
            yield line
            return
        yield _hanging(Text(self._columns.rstrip(), style=self._style))
        yield Padding(_hanging(Text(self._actor, style=self._style)), (0, 0, 0, _INDENT), expand=False)


def _columns(entry: "DeploymentHistoryEntry") -> tuple[str, ...]:
    return (
        f"{entry.version}",
        f"{entry.position}",
        f"{entry.happened_at or entry.recorded_at:%H:%M:%S.%f}{'~' if entry.happened_at else ''}",
        _cleaned(entry.event),
        f"{entry.revision}",
        _took(entry.duration),
    )


def _aligned(columns: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        text.rjust(width) if heading in _RIGHT else text.ljust(width)
        for heading, text, width in zip(_HEADINGS, columns, widths, strict=True)
    )


def _took(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"+{seconds:.2f}s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"+{hours}h{minutes:02}m" if hours else f"+{minutes}m{seconds:02}s"


def _who(entry: "DeploymentHistoryEntry") -> str:
    notes = [f"attempt {entry.attempt}"] if entry.attempt > 1 else []
    if entry.cause is not None and entry.cause != entry.version - 1:
        notes.append(f"after #{entry.cause}")
    return " ".join([_shown(entry.actor), *(f"({note})" for note in notes)])


def _lines(entry: "DeploymentHistoryEntry") -> Iterator[Text]:
    if entry.error:
        yield Text(_cleaned(entry.error), style="red")
    if detail := _detail(entry.data):
        yield Text(detail, style="dim")
    for change in entry.changes:
        values = f"{_shown(change.before)} -> {_shown(change.after)}"
        yield Text.assemble((f"{_cleaned(change.field)}: ", "cyan"), values)


def _detail(data: dict[str, Any]) -> str:
    """Return what an event says that is not in the status, in words."""
    match data:
        case {"artifact": {"resolved_uri": uri, "size_bytes": size, "file_count": files}}:
            return f"{_cleaned(uri)}: {size:,} bytes in {files:,} file{'s' if files != 1 else ''}"
        case {"image": {"reference": reference, "size_bytes": size}}:
            return f"{_cleaned(reference)}: {size:,} bytes"
        case {"output_uri": uri, "rows": rows}:
            return f"{rows:,} rows into {_cleaned(uri)}"
        case {"rollback_to": int(revision)}:
            return f"back to revision {revision}"
        case _:
            return ""


def _hanging(text: Text) -> Text:
    text.overflow = "fold"
    return text


def _shown(value: Any) -> str:
    """Return a JSON value on one line, with digests and what is very long shortened."""
    match value:
        case None | "":
            return "-"
        case str():
            text = value
        case {"step": step, "reason": reason, "message": message, "hint": hint}:
            return _cleaned(f"{step}: {reason}: {message} {hint}".rstrip())  # whose end says what to do
        case _:
            text = json.dumps(value, ensure_ascii=False)
    return _cleaned(text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…")


def _cleaned(text: str) -> str:
    """Return a text on one line, with short digests."""
    return _DIGEST.sub(r"\1", visible(text))


def difference_title(difference: "DeploymentDifference") -> str:
    """Return which moments of which deployment are compared, a line each."""
    name = visible(difference.deployment_name)
    return f"{name}: {_moment(difference.before)}\n{'->':>{len(name) + 1}} {_moment(difference.after)}"


def _moment(moment: "PastMoment") -> str:
    position = f"position {moment.position}"
    where = "" if moment.asked_for == position else f"{position}, "
    return f"{moment.asked_for} ({where}last event {written(moment.recorded_at)})"


def changes_table(changes: "Sequence[Change]") -> Group:
    """Return a table with one row a field that differs; values that are too long for it are below it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("FIELD", "BEFORE", "AFTER"):
        table.add_column(heading, overflow="fold")
    below: list[RenderableType] = []
    for change in changes:
        field, *values = (_cleaned(change.field), _shown(change.before), _shown(change.after))
        if max(map(len, values)) <= _LONGEST_IN_TABLE:
            table.add_row(*(Text(text) for text in (field, *values)))
            continue
        below.append(Text(field, style="cyan"))
        for label, value in zip(("before", "after"), values, strict=True):
            below.append(Padding(_hanging(Text(f"{label}: {value}")), (0, 0, 0, _INDENT), expand=False))
    return Group(*([table] if table.row_count else []), *below)
