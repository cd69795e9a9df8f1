"""What commands share that read the whole log: how many processes do it, and a progress bar."""

import os
import time
from typing import TYPE_CHECKING, Self

from deployledger.adapters.cli.session import Session

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from deployledger.domain.event_log import EventLog

_SMALL_LOG = 20_000
_LINE_SECONDS = 5.0


def workers_for(log: "EventLog", wanted: int | None) -> int:
    """Return how many processes do the work."""
    if wanted is not None:
        return wanted
    from deployledger.projections.partitioning import MOST_WORKERS

    return min(os.cpu_count() or 1, MOST_WORKERS) if log.position() >= _SMALL_LOG else 1


class Reading:
    """Shows how far the log is read: a bar on a terminal, else a line now and then; with JSON nothing."""

    def __init__(self, session: Session, doing: str) -> None:
        self._is_silent = session.is_json
        self._console = session.stderr
        self._doing = doing
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._begin = self._printed_at = time.monotonic()

    def __enter__(self) -> Self:
        if not self._is_silent and self._console.is_terminal:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:,} of {task.total:,} events"),
                TextColumn("{task.fields[rate]:,.0f}/s"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self._doing, total=0, rate=0.0)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show it; ``done`` of ``total`` events are read."""
        now = time.monotonic()
        rate = done / max(now - self._begin, 1e-9)
        if self._bar and self._task is not None:
            doing = self._doing if done < total else f"{self._doing}: completing"
            self._bar.update(self._task, description=doing, completed=done, total=total, rate=rate)
        elif not self._is_silent and now - self._printed_at >= _LINE_SECONDS:
            self._printed_at = now
            left = f"{(total - done) / rate:,.0f} s left" if done else "just begun"
            self._console.print(f"{self._doing}: {done:,} of {total:,} events, {rate:,.0f}/s, {left}.")
