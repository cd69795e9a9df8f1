"""Answers as people read them: tables of deployments, one deployment, its history, the lifecycle."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.layout import Labelled
from deployledger.adapters.cli.terminal import shown, shown_lines
from deployledger.domain.timestamps import rfc3339
from deployledger.projections.history import event_name

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console, ConsoleOptions, RenderResult

    from deployledger.audit.replaying import ReplayProblem
    from deployledger.audit.what_if import RuleDifference
    from deployledger.domain.event_log import RawEvent
    from deployledger.domain.ports import Observation
    from deployledger.domain.schemas import DeploymentStatusResponse
    from deployledger.projections.read_models import ReadModelStatus
    from deployledger.projections.reports import Difference
    from deployledger.projections.store import ParkedEvent
    from deployledger.service.stored_files import StoredFiles

_ANY_WIDTH = 10_000
_BELOW = 10
_DIGEST_LETTERS = 12
_LEAST_DETAILS = 22
_MOST_DIFFERENCES = 100
_LONGEST_VALUE = 60
_LONGEST_ERROR = 200


def deployment_card(
    deployment: "DeploymentStatusResponse",
    observation: "Observation | None" = None,
    *,
    as_of: str | None = None,
    recorded: "tuple[datetime, datetime] | None" = None,
) -> RenderableType:
    """Return everything about one deployment, a line each; what is not known is left out.

    Args:
        as_of: the moment of the past, in words, if it is not how things are now.
        recorded: when the log recorded its first and its last event, by which moments of the past count.
    """
    created, updated = recorded or (deployment.created_at, deployment.updated_at)
    target = deployment.deployment_target_config
    resources = deployment.resource_allocation
    failure = deployment.failure
    serves_another = deployment.serving_revision not in (None, deployment.revision)
    lines: list[tuple[str, Any]] = [
        ("Name", deployment.deployment_name),
        ("Id", deployment.deployment_id),
        ("As of", as_of),
        ("Status", shown(deployment.status, marks.of_status(deployment).style)),
        ("Warning", shown_lines(deployment.warning, "red") if deployment.warning else None),
        ("Failed", failure and f"in {failure.step}: {failure.reason}"),
        ("Failed at", deployment.failed_at and rfc3339(deployment.failed_at)),
        ("Message", shown_lines(deployment.message) if deployment.message else None),
        ("Failure", deployment.failure and f"{deployment.failure.step}: {deployment.failure.reason}"),
        ("Failed", deployment.failed_at and rfc3339(deployment.failed_at)),
        ("Running", _running(observation)),
        ("Endpoint", deployment.endpoint_url),
        ("Revision", _revision(deployment)),
        ("Requested by", deployment.requested_by),
        ("Model", deployment.model_uri),
        ("Version", deployment.version),
        ("Deployed model", None if serves_another else deployment.deployed_model_version),
        ("Artifact", deployment.artifact_digest),
        ("Image", deployment.image_digest),
        ("Serving requested by", deployment.serving_requested_by if serves_another else None),
        ("Serving model", deployment.deployed_model_version if serves_another else None),
        ("Serving artifact", deployment.serving_artifact_digest if serves_another else None),
        ("Serving image", deployment.serving_image_digest if serves_another else None),
        ("Target", f"{target.type}, {target.replicas} replica{'s' if target.replicas != 1 else ''}"),
        ("Port", target.port),
        ("Container image", target.serving_image),
        ("Input", target.input_uri),
        ("Output", target.output_uri),
        ("CPU", resources and resources.cpu_request),
        ("Memory", resources and resources.memory_request),
        ("GPU", resources and resources.gpu_request),
        ("Tags", ", ".join(f"{_tag(key, is_key=True)}={_tag(it)}" for key, it in deployment.tags.items())),
        ("Created", rfc3339(created)),
        ("Updated", rfc3339(updated)),
        ("Simulated", "yes" if deployment.simulated else None),
    ]
    return Labelled(
        [
            (label, value if isinstance(value, Text) else shown(value))
            for label, value in lines
            if value is not None and value != ""
        ]
    )


def _tag(value: Any, *, is_key: bool = False) -> str:
    """Return a tag's key or value; as JSON if it is not text, or reads like several tags."""
    signs = ',="' if is_key else ',"'
    if isinstance(value, str) and value and value == value.strip() and not set(signs).intersection(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _running(observation: "Observation | None") -> str | None:
    if observation is None:
        return None
    return (
        f"{'yes' if observation.running else 'NO'}{f' ({observation.detail})' if observation.detail else ''}"
    )


def _revision(deployment: "DeploymentStatusResponse") -> str:
    serving = deployment.serving_revision
    if serving is not None and serving != deployment.revision:
        return f"{deployment.revision} (revision {serving} serves)"
    return str(deployment.revision)


def read_models_table(statuses: "Sequence[ReadModelStatus]") -> RenderableType:
    """Return a table with one row a read model; no name is cut."""
    return _ReadModels(statuses)


class _ReadModels:
    """A table of read models: where there is no room for versions and numbers of rows, they are left out."""

    def __init__(self, statuses: "Sequence[ReadModelStatus]") -> None:
        self._statuses = statuses

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        whole = self._table(is_brief=False)
        width = console.measure(whole, options=options.update(max_width=_ANY_WIDTH)).maximum
        yield whole if width <= options.max_width else self._table(is_brief=True)

    def _table(self, *, is_brief: bool) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("NAME", overflow="fold")
        numbers = ["POSITION", "LAG", "PARKED", "REBUILT"]
        if not is_brief:
            numbers = ["VERSION", "POSITION", "LAG", "ROWS", "PARKED", "REBUILT"]
        for heading in numbers:
            table.add_column(heading, no_wrap=True, justify="right")
        for it in self._statuses:
            values: dict[str, str | Text] = {
                "VERSION": f"{it.version}",
                "POSITION": f"{it.position:,}",
                "LAG": f"{it.lag_events:,} ({units.duration(it.lag_seconds)})" if it.lag_events else "0",
                "ROWS": f"{it.rows:,}",
                "PARKED": Text(f"{it.parked:,}", style="red" if it.parked else ""),
                "REBUILT": "now"
                if it.is_being_rebuilt
                else f"{units.age(it.rebuilt_at)} ago"
                if it.rebuilt_at
                else "-",
            }
            row = [values[heading] for heading in numbers]
            table.add_row(shown(it.name if it.is_current else f"{it.name} (not read)"), *row)
        return table


def stored_files_table(files: "Sequence[StoredFiles]") -> Group:
    """Return a table with one row for everything that is stored; damage that shows already is red.

    What has neither a digest nor a deployment is known by its path alone: those are below, in one piece each.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("KIND", "DIGEST"):
        table.add_column(heading, no_wrap=True)
    table.add_column("SIZE", no_wrap=True, justify="right")
    table.add_column("USED BY")
    for it in files:
        table.add_row(
            it.stored.kind.replace("_", " "),
            it.stored.digest.removeprefix("sha256:")[:_DIGEST_LETTERS] or "-",
            units.size(it.stored.size_bytes),
            Text("path below") if _has_path_alone(it) else used_by(it),
            style="red" if it.stored.damage else None,
        )
    paths = [
        Text.assemble(
            f"{it.stored.kind.replace('_', ' ')}: ", shown(it.stored.path), no_wrap=True, overflow="ignore"
        )
        for it in files
        if _has_path_alone(it)
    ]
    return Group(table, *paths)


def _has_path_alone(files: "StoredFiles") -> bool:
    return files.stored.digest == "" and files.stored.deployment_id is None


def used_by(files: "StoredFiles") -> Text:
    """Return which revisions use something that is stored."""
    uses = [
        f"{use.deployment_name} r{use.revision}{' (serves)' if use.serves else ''}"
        for use in files.used_by
        if not use.deleted
    ]
    if uses:
        return shown(", ".join(uses))
    deleted = ", ".join(f"{use.deployment_name} r{use.revision}" for use in files.used_by)
    return shown(f"unused (deleted: {deleted})" if deleted else "unused")


def differences_table(differences: "Sequence[Difference]") -> Table:
    """Return a table with one row a difference, of the first hundred."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("KEY", "FIELD", "EXPECTED", "FOUND"):
        table.add_column(heading, overflow="fold")
    for it in differences[:_MOST_DIFFERENCES]:
        nothing = "-" if it.field else "no row"
        values = (_as_text(value, nothing) for value in (it.expected, it.found))
        table.add_row(shown(it.key), shown(it.field or "(the row)"), *map(shown, values))
    if len(differences) > _MOST_DIFFERENCES:
        table.add_row(f"and {len(differences) - _MOST_DIFFERENCES:,} more", "", "", "")
    return table


def problem_list(problems: "Sequence[ReplayProblem]") -> Group:
    """Return the problems that a replay found: a line each, and below it what is wrong."""
    lines: list[RenderableType] = [Text(f"{'POSITION':>8}  {'EVENT':<17}  KIND", style="bold")]
    for it in problems:
        event = event_name(it.topic) if it.topic else "-"
        lines.append(_line(f"{it.position:>8}  {event:<17}  {it.kind.value}", "red"))
        if it.stream_id:
            lines.append(_below(f"stream {it.stream_id}, version {it.stream_version}"))
        lines.append(_below(it.message))
    return Group(*lines)


def rule_difference_list(differences: "Sequence[RuleDifference]") -> Group:
    """Return the events that would go differently under another rule: a line each, and how below it."""
    lines: list[RenderableType] = [Text(f"{'POSITION':>8}  {'EVENT':<17}  DEPLOYMENT", style="bold")]
    for it in differences:
        theirs = it.theirs or f"refused{': ' if it.reason else ''}{it.reason}"
        lines += [
            _line(f"{it.position:>8}  {event_name(it.topic):<17}  {it.deployment_name}"),
            _below(f"ours:   {it.state or 'nothing'} -> {it.ours}"),
            _below(f"theirs: {theirs}"),
        ]
    return Group(*lines)


def _below(text: str) -> Padding:
    return Padding(_line(text), (0, 0, 0, _BELOW), expand=False)


def _line(text: str, style: str = "") -> Text:
    line = shown(text, style)
    line.overflow = "fold"
    return line


def _as_text(value: Any, nothing: str) -> str:
    if value is None:
        return nothing
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return _shortened(text, _LONGEST_VALUE)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def parked_rows_table(parked: "Sequence[tuple[str, ParkedEvent]]") -> Table:
    """Return a table of the rows that have parked events: how many, which, and why the first is parked."""
    rows: dict[tuple[str, str], list[ParkedEvent]] = {}
    for name, it in parked:
        rows.setdefault((name, it.key), []).append(it)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("PROJECTION", "ROW", "EVENTS", "POSITIONS", "PARKED"):
        table.add_column(
            heading,
            no_wrap=heading not in ("PROJECTION", "ROW"),
            overflow="fold",
            justify="right" if heading == "EVENTS" else "left",
        )
    table.add_column("REASON", overflow="fold", min_width=_LEAST_DETAILS)
    for (name, _), events in rows.items():
        first, last = events[0], events[-1]
        why = _shortened(" ".join(_why(first).split()), _LONGEST_ERROR)
        table.add_row(
            shown(name),
            shown(_row_key(first)),
            f"{len(events):,}",
            f"{first.position}" if first is last else f"{first.position} to {last.position}",
            f"{units.age(first.parked_at)} ago",
            shown(f"{event_name(first.topic)}: {why}"),
        )
    return table


def _row_key(parked: "ParkedEvent") -> str:
    return parked.key[:8] if parked.key == parked.stream_id else parked.key


def parked_table(parked: "Sequence[tuple[str, ParkedEvent]]") -> Table:
    """Return a table with one row a parked event."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("POSITION", "PROJECTION", "KEY", "EVENT"):
        table.add_column(heading, no_wrap=heading != "EVENT", overflow="fold")
    table.add_column("ERROR", overflow="fold", min_width=_LEAST_DETAILS)
    for name, it in parked:
        why = _shortened(" ".join(_why(it).split()), _LONGEST_ERROR)
        event = f"{it.topic.rpartition('.')[2]}, {units.age(it.parked_at)} ago"
        table.add_row(f"{it.position}", *map(shown, (name, _row_key(it), event, why)))
    return table


def parked_card(raw: "RawEvent", parked: "Sequence[tuple[str, ParkedEvent]]") -> Table:
    """Return where a parked event is, and why it is parked."""
    lines = [
        ("Position", f"{raw.position}"),
        ("Event", raw.topic),
        ("Stream", f"{raw.stream_id}, version {raw.stream_version}"),
        *((name, f"row {it.key}: {_why(it)}") for name, it in parked),
    ]
    card = Table(box=None, show_header=False, pad_edge=False)
    card.add_column(style="bold")
    card.add_column(overflow="fold")
    for label, value in lines:
        card.add_row(shown(label), shown_lines(value))
    return card


def _why(parked: "ParkedEvent") -> str:
    return parked.error or "an earlier event of the row is parked"
