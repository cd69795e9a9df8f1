"""What a replay found, as people read it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from deployledger.adapters.cli.terminal import shown
from deployledger.projections.history import event_name

if TYPE_CHECKING:
    from deployledger.audit.replaying import ReplayProblem
    from deployledger.audit.what_if import RuleDifference

_BELOW = 10


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
