"""Makes checkpoints while events are added: every so many events, or seconds after one that has none."""

import threading
import time
from collections.abc import Callable
from uuid import UUID

from deployledger.audit.ledger import Ledger
from deployledger.domain.exceptions import ConfigurationError

_KEEPER = UUID("5d0f2f0a-6a1e-5c43-9d5e-2f1f0a3c7b60")
"""Who owns this is the one that makes checkpoints."""

_STANDBY_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 0.5
_AGAIN_SECONDS = 5.0


def keep_checkpoints(
    ledger: Ledger,
    stopping: threading.Event,
    *,
    every_events: int,
    every_seconds: float,
    on_problem: Callable[[Exception], None] = lambda _: None,
) -> None:
    """Make checkpoints until told to stop, and one more then, if there are events without.

    Any number of processes may do so on the same database: one makes them.

    Args:
        every_events: as soon as so many events have no checkpoint.
        every_seconds: as soon as an event has had none for so long.
        on_problem: called with the reason why a checkpoint could not be made or published; it is retried.

    Raises:
        ConfigurationError: if either is out of range.
    """
    if every_events < 1 or every_seconds <= 0:
        raise ConfigurationError(
            f"A checkpoint every {every_events} events or {every_seconds:g} seconds is out of range.",
            hint="Use 1 event or more, and more than 0 seconds.",
        )
    stops = False
    while not stops:
        stops = stopping.is_set()  # after which it is tried once more
        again_after = _STANDBY_SECONDS
        try:
            with ledger.log.ownership(_KEEPER) as is_keeper:
                if is_keeper:
                    _keep(ledger, stopping, every_events, every_seconds)
                    return
        except Exception as error:  # what signs, and the place, may raise what they like
            on_problem(error)
            again_after = _AGAIN_SECONDS
        stopping.wait(again_after)


def _keep(ledger: Ledger, stopping: threading.Event, every_events: int, every_seconds: float) -> None:
    # One that another process could not publish before it died is published now.
    size = ledger.checkpoint().size if ledger.log.position() else 0
    waiting_since: float | None = None
    while True:
        stops = stopping.is_set()
        end = ledger.log.position()
        if end != size:  # also where the log went back, which is reported
            waiting_since = waiting_since or time.monotonic()
            is_due = time.monotonic() - waiting_since >= every_seconds
            if stops or is_due or abs(end - size) >= every_events:
                size, waiting_since = ledger.checkpoint().size, None
        if stops:
            return
        # Not with every append: the log may grow a thousand times a second.
        stopping.wait(min(_LOOK_AGAIN_SECONDS, every_seconds))
