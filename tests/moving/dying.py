"""Exports and imports that are killed, in processes of their own."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.event_log.moving import exporting, importing
from deployledger.adapters.event_log.postgres.staging import PostgresStaging
from deployledger.adapters.event_log.sqlite.staging import SQLiteStaging


def die() -> None:
    """End this process at once, without any cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


def small_steps() -> None:
    """Make members and transactions so small that there are many."""
    exporting._LINES_PER_MEMBER = 10
    importing._EVENTS_AT_ONCE = 20
    importing._KEYS_AT_ONCE = 7
    importing._TOLD_EVERY = 1


def export_until(url: str, file: Path, events: int) -> None:
    """Export, and die when so many events are through."""
    small_steps()
    log = open_event_log(url)

    def tell(doing: str, done: int, total: int, /) -> None:
        if done >= events:
            die()

    log.export_to(file, progress=tell)
    log.close()


def import_until(url: str, file: Path, place: str, events: int) -> None:
    """Import, and die at a place: when so many events are through with something, or in a method."""
    small_steps()
    log = open_event_log(url, create=True)

    def tell(doing: str, done: int, total: int, /) -> None:
        if doing == place and done >= events:
            die()

    def die_in(staging: Any, expected: Any) -> None:
        if place == "the transaction":
            for inner in ("discard", "_drop"):  # the last thing but COMMIT
                setattr(type(staging), inner, lambda _: die())
            published(staging, expected)
        elif place == "before it":
            die()
        published(staging, expected)
        die()

    if place in ("before it", "the transaction", "behind it"):
        staging: Any = PostgresStaging if url.startswith("postgres") else SQLiteStaging
        published = staging.publish
        staging.publish = die_in
    log.import_from(file, progress=tell)
    log.close()


def import_slowly(url: str, file: Path) -> None:
    """Import, with time to be killed at any moment."""
    small_steps()
    log = open_event_log(url, create=True)
    log.import_from(file, progress=lambda *_: time.sleep(0.001))
    log.close()
