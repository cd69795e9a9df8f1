"""A deployment's past for people: its history in words, and the changes between two moments."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.event_words import sentence
from deployledger.domain.visible import visible
from deployledger.service.background_work import PIPELINE_ACTOR

if TYPE_CHECKING:
    from deployledger.domain.responses import Change, DeploymentDifference, DeploymentHistoryEntry, PastMoment

_LONGEST_VALUE = 300
_TAKEN_APART = ("deployment_target_config.", "resource_allocation.")
"""What a field of a status is within, where its own name is enough."""


def timeline(
    history: "Sequence[DeploymentHistoryEntry]",
    clock: units.Clock,
    *,
    has_changes: bool = False,
    is_wide: bool = False,
) -> RenderableType:
    """Return the events, oldest first, one line each; those that a command caused are below it.

    Args:
        clock: how moments are written.
        has_changes: whether the fields that an event changed are below it.
        is_wide: whether positions and revisions are shown.
    """
    table = Table.grid(padding=(0, 2, 0, 0))
    zone = f"{clock.now.astimezone(clock.zone):%Z}"
    headings = [*(["POSITION", "REV"] if is_wide else []), "AGE", f"TIME ({zone})", "", "EVENT"]
    for heading in headings[:-1]:
        table.add_column(no_wrap=True, justify="right" if heading in ("POSITION", "REV") else "left")
    table.add_column(overflow="fold")
    table.add_row(*(Text(heading, "bold") for heading in headings))
    command = None
    for entry in history:
        if command is not None and entry.correlation_id != command.correlation_id:
            table.add_row()
        command = entry
        event = _event(entry)
        wide = [f"{entry.position}", f"{entry.revision}"] if is_wide else []
        table.add_row(*wide, *_time(entry, clock), *event)
        for change in entry.changes if has_changes else []:
            table.add_row(*[""] * (len(headings) - 1), change_line(change))
    if not any(entry.happened_at for entry in history):
        return table
    note = Text("~ The clock was wrong when this was recorded; it happened by this time at the latest.")
    return Group(table, Text(), note)


def _time(entry: "DeploymentHistoryEntry", clock: units.Clock) -> tuple[str, str]:
    moment = entry.happened_at or entry.recorded_at
    return clock.age(moment), clock.time(moment) + ("~" if entry.happened_at else "")


def _event(entry: "DeploymentHistoryEntry") -> tuple[Text, Text]:
    """Return the mark of an event, and what happened."""
    is_command = entry.duration is None
    actor = entry.actor if is_command or entry.actor != PIPELINE_ACTOR else ""
    data = {**entry.data, "revision": entry.revision}
    words = sentence(entry.topic, data, actor=actor, seconds=entry.duration, attempt=entry.attempt)
    if entry.error:
        text = f"{words}. This event could not be applied: {visible(entry.error)}"
        return Text(marks.FAILED.sign, marks.FAILED.style), Text(text, marks.FAILED.style)
    if "failure" in entry.data:
        return Text(marks.FAILED.sign, marks.FAILED.style), Text(words, marks.FAILED.style)
    if is_command:
        return Text(), Text(words, "bold")
    return Text(marks.DONE.sign, marks.DONE.style), Text(words)


def change_line(change: "Change") -> Text:
    """Return what became of a field: ``replicas 1 → 2``, ``+ tags.team flowers``, ``− tags.team fauna``."""
    field = change.field
    for prefix in _TAKEN_APART:
        field = field.removeprefix(prefix)
    before, after = (None if value is None else _shown(value) for value in (change.before, change.after))
    name = (units.short_digests(visible(field)), "cyan")
    if before is None:
        return Text.assemble(("+ ", "green"), name, f" {after}")
    if after is None:
        return Text.assemble(("− ", "red"), name, f" {before}")
    return Text.assemble("  ", name, f" {before} → {after}")


def _shown(value: Any) -> str:
    """Return a JSON value on one line, with digests and what is very long shortened."""
    match value:
        case str() if value:
            text = value
        case {"step": step, "reason": reason, "message": message, "hint": hint}:
            return units.short_digests(visible(f"{step}: {reason}: {message} {hint}".rstrip()))
        case _:
            text = json.dumps(value, ensure_ascii=False)
    return units.short_digests(visible(units.shortened(text, _LONGEST_VALUE)))


def difference(compared: "DeploymentDifference", clock: units.Clock) -> RenderableType:
    """Return which moments of which deployment are compared, and a line for each field that changed."""
    moments = Table.grid(padding=(0, 2, 0, 0))
    for moment in (compared.before, compared.after):
        moments.add_row(f"  {moment.asked_for}", Text(_moment(moment, clock), overflow="fold"))
    title = f"{visible(compared.deployment_name)}: {compared.before.asked_for} → {compared.after.asked_for}"
    return Group(Text(title, "bold"), moments, Text(), *_changes(compared))


def _moment(moment: "PastMoment", clock: units.Clock) -> str:
    position = f"position {moment.position}"
    where = "" if moment.asked_for == position else f"{position}, "
    return f"{where}last event {clock.moment(moment.recorded_at)}"


def _changes(compared: "DeploymentDifference") -> Iterator[RenderableType]:
    for change in compared.changes:
        line = change_line(change)
        line.overflow = "fold"
        yield line
    if not compared.changes:
        yield Text("No difference.")
