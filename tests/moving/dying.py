"""Exports and imports that are killed, in processes of their own."""

import os
import signal
import time
from pathlib import Path

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.export import export_log, exporting, import_log, importing


def die(*_: object) -> None:
    """End this process at once, without any cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


def small_steps() -> None:
    """Make members and reports of progress so small that there are many."""
    exporting._LINES_PER_MEMBER = 10
    importing._TOLD_EVERY = 1


def export_until(url: str, file: Path, events: int) -> None:
    """Export, and die when so many events are through."""
    small_steps()
    log = open_event_log(url)

    def tell(doing: str, done: int, total: int, /) -> None:
        if done >= events:
            die()

    export_log(log, file, progress=tell)
    log.close()


def import_until(url: str, file: Path, place: str, events: int) -> None:
    """Import, and die at a place: when so many events are through with something, or around the commit."""
    small_steps()
    log = open_event_log(url, create=True)

    def tell(doing: str, done: int, total: int, /) -> None:
        if doing == place and done >= events:
            die()

    if place == "before the commit":
        run = importing._Import.run
        importing._Import.run = lambda import_: die(run(import_))  # type: ignore[method-assign, return-value, assignment]
    import_log(log, file, progress=tell)
    die()


def import_slowly(url: str, file: Path) -> None:
    """Import, with time to be killed at any moment."""
    small_steps()
    log = open_event_log(url, create=True)
    import_log(log, file, progress=lambda *_: time.sleep(0.001))
    log.close()
