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
    """Return the problems that a replay found: a line each, with the reason below."""
    lines: list[RenderableType] = [Text(f"{'POSITION':>8}  {'EVENT':<17}  KIND", style="bold")]
    for problem in problems:
        event = event_name(problem.topic) if problem.topic else "-"
        lines.append(_line(f"{problem.position:>8}  {event:<17}  {problem.kind.value}", "red"))
        if problem.stream_id:
            lines.append(_below(f"stream {problem.stream_id}, version {problem.stream_version}"))
        lines.append(_below(problem.message))
    return Group(*lines)


def rule_difference_list(differences: "Sequence[RuleDifference]") -> Group:
    """Return the events that would go differently under another rule: a line each, with both outcomes."""
    lines: list[RenderableType] = [Text(f"{'POSITION':>8}  {'EVENT':<17}  DEPLOYMENT", style="bold")]
    for difference in differences:
        theirs = difference.theirs or f"refused{': ' if difference.reason else ''}{difference.reason}"
        lines += [
            _line(
                f"{difference.position:>8}  {event_name(difference.topic):<17}  {difference.deployment_name}"
            ),
            _below(f"ours:   {difference.state or 'nothing'} -> {difference.ours}"),
            _below(f"theirs: {theirs}"),
        ]
    return Group(*lines)


def _below(text: str) -> Padding:
    return Padding(_line(text), (0, 0, 0, _BELOW), expand=False)


def _line(text: str, style: str = "") -> Text:
    line = shown(text, style)
    line.overflow = "fold"
    return line
