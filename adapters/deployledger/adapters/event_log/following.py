"""Following a log: who waits is woken when something was added, by whichever process."""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Self

from deployledger.domain.event_log import EventBatch
from deployledger.domain.event_records import Mark
from deployledger.domain.exceptions import EventLogError, EventLogUnavailableError
from deployledger.domain.forks import HINT, OpeningProcess, opened_before
from deployledger.projections.patience import Patience, pauses

SAFETY_POLL_SECONDS = 1.0
"""How long a follower waits before it looks even though nothing was announced."""


class Tail(ABC):
    """Knows when something may have been added to a log, and wakes who waits for it.

    A thread watches the database while anybody follows; what this process adds is announced at once.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._changes = 0
        self._async_waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._followers = 0
        self._thread: threading.Thread | None = None
        self._changing = threading.RLock()  # one begins or ends to follow at a time
        self._ended = False
        self._stopping = threading.Event()
        self._watching = threading.Event()

    @abstractmethod
    def _watch(self) -> None:
        """Call `announce` when the database changes, until `_stopping` is set.

        Sets `_watching` as soon as no change can be missed any more.
        """

    def _wake_watcher(self) -> None:
        """Make `_watch` see that `_stopping` is set, if it does not by itself."""
        return

    def announce(self) -> None:
        """Say that something may have been added; from any thread."""
        with self._condition:
            self._changes += 1
            self._condition.notify_all()
            waiters = list(self._async_waiters)
        for loop, event in waiters:
            try:
                loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # that loop was closed
                self._async_waiters.discard((loop, event))

    @property
    def has_ended(self) -> bool:
        """Whether the log was closed."""
        return self._ended

    @property
    def changes(self) -> int:
        """How many announcements there were; taken before a read, it tells what the read may miss."""
        return self._changes

    def join(self) -> None:
        """Begin to follow; returns when no later change can be missed, or the database is unavailable."""
        with self._changing:
            self._followers += 1
            if self._thread is None and not self._ended:
                self._stopping.clear()
                self._watching.clear()
                self._thread = threading.Thread(target=self._watch, name="deployledger-tail", daemon=True)
                self._thread.start()
        self._watching.wait(SAFETY_POLL_SECONDS)

    def leave(self) -> None:
        """End following; the last one ends the thread."""
        with self._changing:
            self._followers -= 1
            if self._followers == 0:
                self._end_thread()

    def end(self) -> None:
        """End the thread and every follower's iteration, because the log is closed."""
        with self._changing:
            self._ended = True
            self._end_thread()
        self.announce()

    def _end_thread(self) -> None:
        if self._thread is not None:
            self._stopping.set()
            self._wake_watcher()
            self._thread.join()
            self._thread = None

    def wait(self, seen: int, timeout: float) -> None:
        """Block until there is an announcement after the ``seen``-th one, or ``timeout`` seconds passed."""
        with self._condition:
            self._condition.wait_for(lambda: self._changes != seen, timeout)

    async def wait_async(self, seen: int, seconds: float) -> None:
        """Do the same without blocking the event loop."""
        event = asyncio.Event()
        waiter = (asyncio.get_running_loop(), event)
        with self._condition:
            if self._changes != seen:
                return
            self._async_waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        finally:
            with self._condition:
                self._async_waiters.discard(waiter)


class TailWatch:
    """Tells when something was added since it last told, from its beginning on."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail
        self._seen = tail.changes

    def wait(self, timeout: float) -> None:
        """Return once something was added since the last return, or after ``timeout`` seconds."""
        self._tail.wait(self._seen, timeout)
        self._seen = self._tail.changes


class LogFollower:
    """An endless iterator over a log's events, which outlives any outage of the database; see the port.

    Args:
        read: returns the next batch behind a mark, and the mark that it leads to.
        tail: says when it is worth reading again.
        after: up to where the log counts as read.
        patience: is not the follower's own, which waits for as long as it takes.
    """

    def __init__(
        self,
        read: Callable[[Mark], tuple[EventBatch, Mark]],
        tail: Tail,
        after: Mark,
        patience: Patience,
    ) -> None:
        self._read = read
        self._patience = patience
        self._tail = tail
        self._last = after
        self._lock = threading.Lock()
        self._closed = False
        self._process = OpeningProcess()
        tail.join()

    @property
    def position(self) -> int:
        """The position that it has reached."""
        return self._last.position

    def _next(self) -> EventBatch | None:
        batch, mark = self._read(self._last)
        if mark == self._last:
            return None
        self._last = mark
        return batch

    def next_batch(self, timeout: float | None = None) -> EventBatch | None:
        """Return the next batch, or None if there is none within ``timeout`` seconds, or it was closed.

        Raises:
            EventLogUnavailableError: if the database is unavailable when the time is over.
        """
        if self._process.is_another:  # a lock may be held there by a thread that is not here
            raise EventLogError(opened_before("The subscription to the event log"), hint=HINT)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = pauses(SAFETY_POLL_SECONDS)
        with self._lock:
            while not (self._closed or self._tail.has_ended):
                seen = self._tail.changes
                try:
                    batch = (self._patience.call if timeout is not None else self._patience.attempt)(
                        self._next
                    )
                except EventLogUnavailableError:
                    if deadline is not None and time.monotonic() >= deadline:
                        raise
                    self._tail.wait(seen, next(pause))
                    continue
                if batch is not None:
                    return batch
                pause = pauses(SAFETY_POLL_SECONDS)
                left = SAFETY_POLL_SECONDS if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return None
                self._tail.wait(seen, min(left, SAFETY_POLL_SECONDS))
        return None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> EventBatch:
        batch = self.next_batch()
        if batch is None:
            raise StopIteration
        return batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventBatch:
        loop = asyncio.get_running_loop()
        pause = pauses(SAFETY_POLL_SECONDS)
        while not (self._closed or self._tail.has_ended):
            seen = self._tail.changes
            read = partial(self._read, self._last)
            # The position moves here, not in the thread: a caller that is cancelled meanwhile loses nothing.
            try:
                batch, mark = await loop.run_in_executor(None, self._patience.attempt, read)
            except EventLogUnavailableError:
                await self._tail.wait_async(seen, next(pause))
                continue
            if mark != self._last:
                self._last = mark
                return batch
            await self._tail.wait_async(seen, SAFETY_POLL_SECONDS)
        raise StopAsyncIteration

    def close(self) -> None:
        """End the iteration."""
        if not self._closed and not self._process.is_another:
            self._closed = True
            self._tail.announce()
            self._tail.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
