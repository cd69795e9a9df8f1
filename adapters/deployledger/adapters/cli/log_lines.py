"""Events of the log as lines: for people at a terminal, and whole for programs and for `-o wide`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.layout import Labelled
from deployledger.adapters.cli.terminal import shown
from deployledger.domain.timestamps import rfc3339
from deployledger.domain.visible import visible
from deployledger.service.background_work import PIPELINE_ACTOR

if TYPE_CHECKING:
    from deployledger.domain.values import Failure
    from deployledger.service.log_reading import LoggedEvent

_POSITION = len("POSITION")
_TOPIC = len("deployment.deletion_requested")
_NAME = 16
_REASON = 120
"""How many characters of the reason of a failure are shown at a glance."""


def whole_line(logged: "LoggedEvent", *, is_wide: bool = False) -> str:
    """Return an event on one line of any length: its time to the microsecond, and its place in its stream.

    Args:
        is_wide: whether a failure has its hint, too.
    """
    recorded = logged.recorded
    event = recorded.event
    fields = [
        f"{recorded.position:>{_POSITION}}",
        rfc3339(recorded.recorded_at),
        f"{event.TOPIC:<32}",
        f"{visible(logged.deployment_name or '-'):<24}",
        f"{str(event.originator_id)[:8]} v{event.originator_version:<4}",
        visible(event.actor),
    ]
    failure: Failure | None = getattr(event, "failure", None)
    if failure is not None:
        fields.append(f"{failure.reason}: {_one_line(failure.message)}")
        if is_wide and failure.hint:
            fields[-1] += f" {_one_line(failure.hint)}"
    return "  ".join(fields)


class Glance:
    """Events as they come, a line each under one heading, at any width of a terminal.

    The actor is left out where it is the service itself, and a failure has its reason below.

    Args:
        clock: how moments are written.
    """

    def __init__(self, clock: units.Clock) -> None:
        self._clock = clock
        self._time = 0
        """How wide the times are; 0 before the first event."""

    def next(self, logged: "LoggedEvent") -> RenderableType:
        """Return the lines of the next event."""
        return Group(*self._lines(logged))

    def _lines(self, logged: "LoggedEvent") -> Iterator[RenderableType]:
        recorded = logged.recorded
        event, time = recorded.event, self._clock.time(recorded.recorded_at)
        if not self._time:
            heading = f"TIME ({self._clock.now.astimezone(self._clock.zone):%Z})"
            self._time = max(len(heading), len(time))
            headings = f"POSITION  {self._fields(heading, 'TOPIC', 'NAME', 'ACTOR')}"
            yield Text(headings, "bold", no_wrap=True, overflow="crop")
        actor = "" if event.actor == PIPELINE_ACTOR else visible(event.actor)
        fields = self._fields(time, event.TOPIC, visible(logged.deployment_name or "-"), actor)
        yield Labelled([(f"{recorded.position:>{_POSITION}}", Text(fields))], style="", width=_POSITION)
        failure: Failure | None = getattr(event, "failure", None)
        if failure is not None:
            reason = units.shortened(_one_line(failure.message), _REASON)
            yield Labelled(
                [("", marks.FAILED.before(shown(f"{failure.reason}: {reason}", marks.FAILED.style)))],
                width=_POSITION,
            )

    def _fields(self, time: str, topic: str, name: str, actor: str) -> str:
        return f"{time:<{self._time}}  {topic:<{_TOPIC}}  {name:<{_NAME}}  {actor}".rstrip()


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))
