"""Group commit: commands that wait at the same time share one transaction.

One thread writes. It takes everything that waits, stores it in one transaction, and answers; meanwhile the
next commands gather. There is no timer: a command that waits alone is stored at once.

A batch is first stored in the hope that nothing is in conflict, which costs one round trip. If something
is, or the connection broke, the batch is stored again with a look at what is there, and each command gets
the answer that it would have got alone.
"""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from deployledger.adapters.event_log.commands import Command, Outcome
from deployledger.domain.exceptions import EventLogError
from deployledger.domain.logs import logger

LOGGER = logger("event_log")

MOST_ROWS = 1024
"""How many events one transaction stores at most."""

MOST_WAITING = 10_000
"""How many commands may wait; further ones wait to be allowed to wait."""

_MOST_CONFLICTS = 5
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0


class DatabaseAwayError(Exception):
    """The database cannot be used just now; trying again may help."""


class DatabaseLostError(Exception):
    """The database is not the one that was opened; trying again does not help."""


class BatchConflictError(Exception):
    """Something in the batch is in conflict; nothing of it was stored."""


class BatchWriter(ABC):
    """Stores batches of commands in a database; used by one thread at a time."""

    @abstractmethod
    def write(self, commands: Sequence[Command]) -> list[Outcome]:
        """Store all the commands in one transaction, without looking.

        Raises:
            BatchConflictError: if any is in conflict; nothing was stored.
            DatabaseAwayError: if the database cannot be used; what was stored is not known.
        """

    @abstractmethod
    def write_checked(self, commands: Sequence[Command]) -> list[Outcome]:
        """Look what is there, and store in one transaction the commands that are not in conflict.

        Raises:
            DatabaseAwayError: if the database cannot be used; what was stored is not known.
        """

    def rest(self) -> None:
        """Do what is better done while nobody waits; called after a command that waited alone."""
        return

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""


@dataclass(eq=False, slots=True)
class _Waiting:
    command: Command
    future: "Future[Outcome] | asyncio.Future[Outcome]"
    loop: asyncio.AbstractEventLoop | None
    since: float


class GroupCommit:
    """Lets coroutines and threads store commands through one writer.

    Args:
        on_stored: called after each transaction that stored something.
        patience: how many seconds a command waits for a database that is away, before it fails.
        described_as: the database, for messages.
    """

    def __init__(
        self, writer: BatchWriter, on_stored: Callable[[], None], *, patience: float, described_as: str
    ) -> None:
        self._writer = writer
        self._on_stored = on_stored
        self._patience = patience
        self._described_as = described_as
        self._waiting: deque[_Waiting] = deque()
        self._condition = threading.Condition()
        self._entrances: dict[asyncio.AbstractEventLoop, deque[object]] = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self._is_idle = False
        self._has_blocked_threads = False

    def store(self, command: Command) -> Outcome:
        """Store a command from a thread; blocks until it is answered.

        Raises:
            EventLogError: if the database was away for longer than the patience.
        """
        future: Future[Outcome] = Future()
        with self._condition:
            while len(self._waiting) >= MOST_WAITING and not self._closing:
                self._has_blocked_threads = True
                self._condition.wait()
            self._enqueue(_Waiting(command, future, None, time.monotonic()))
        return future.result()

    async def store_async(self, command: Command) -> Outcome:
        """Store a command from a coroutine.

        A caller that is cancelled while the command waits takes it back; one that is cancelled later
        may find it stored, and whole.

        Raises:
            EventLogError: if the database was away for longer than the patience.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        if loop in self._entrances or len(self._waiting) >= MOST_WAITING:
            await self._enter(loop)
        with self._condition:
            self._enqueue(_Waiting(command, future, loop, time.monotonic()))
        return await future

    async def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until there is room; callers of an event loop come in in the order of asking."""
        entrance = self._entrances.setdefault(loop, deque())
        turn = object()
        entrance.append(turn)
        try:
            # Room is made by a thread, and the turn of who is first ends without being told.
            while (  # noqa: ASYNC110
                entrance[0] is not turn or len(self._waiting) >= MOST_WAITING
            ) and not self._closing:
                await asyncio.sleep(_FIRST_PAUSE_SECONDS)
        finally:
            entrance.remove(turn)
            if not entrance:
                del self._entrances[loop]

    def _enqueue(self, waiting: _Waiting) -> None:
        if self._closing:
            raise EventLogError("The event log is closed.", hint="Open it again.")
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="deployledger-writer", daemon=True)
            self._thread.start()
        self._waiting.append(waiting)
        if self._is_idle:
            self._is_idle = False
            self._condition.notify_all()

    def close(self) -> None:
        """Store what waits, and stop. Blocks until the writing thread has ended."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._writer.close()

    def _work(self) -> None:
        while batch := self._next_batch():
            self._commit(batch)
            if len(batch) == 1 and not self._waiting:  # after many at once, the next ones are on their way
                self._writer.rest()

    def _next_batch(self) -> list[_Waiting]:
        """Return what waits, as far as one transaction goes; nothing when closed and done."""
        batch: list[_Waiting] = []
        with self._condition:
            while not batch and (self._waiting or not self._closing):  # all that waited may be cancelled
                while not self._waiting and not self._closing:
                    self._is_idle = True
                    self._condition.wait()
                rows = 0
                while self._waiting and (not batch or _fits(batch, rows, self._waiting[0])):
                    waiting = self._waiting.popleft()
                    if not waiting.future.cancelled():
                        batch.append(waiting)
                        rows += len(waiting.command.rows)
                if self._has_blocked_threads:
                    self._has_blocked_threads = False
                    self._condition.notify_all()
        return batch

    def _commit(self, batch: list[_Waiting]) -> None:
        try:
            outcomes = self._writer.write([waiting.command for waiting in batch])
        except BatchConflictError:
            self._commit_checked(batch)
        except DatabaseAwayError as error:
            self._commit_checked(batch, error)
        except Exception as error:
            self._fail(batch, error)
        else:
            self._stored(batch, outcomes)

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        """Fail a command that cannot be stored; of several, find out which it is."""
        if len(batch) == 1:
            if not isinstance(error, EventLogError):
                LOGGER.error("A command could not be stored", exc_info=error)
            _answer([(batch[0], _failure(self._described_as, error))])
            return
        for waiting in batch:
            self._commit([waiting])

    def _stored(self, batch: list[_Waiting], outcomes: list[Outcome]) -> None:
        self._on_stored()
        _answer(list(zip(batch, outcomes, strict=True)))

    def _commit_checked(self, batch: list[_Waiting], away: DatabaseAwayError | None = None) -> None:
        pause = _FIRST_PAUSE_SECONDS
        conflicts = 0
        while batch:
            try:
                if away is None:
                    outcomes = self._writer.write_checked([waiting.command for waiting in batch])
                    self._stored(batch, outcomes)
                    return
            except DatabaseAwayError as error:
                away = error
            except BatchConflictError as error:  # the database saw what the look did not: look again
                conflicts += 1
                if conflicts > _MOST_CONFLICTS:
                    self._fail(batch, error)
                    return
                continue
            except Exception as error:
                self._fail(batch, error)
                return
            batch = self._give_up_on_the_impatient(batch, away)
            if batch:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                away = None

    def _give_up_on_the_impatient(
        self, batch: list[_Waiting], error: DatabaseAwayError | None
    ) -> list[_Waiting]:
        """Fail the commands that have waited for longer than the patience, and return the others."""
        latest = time.monotonic() - self._patience
        gone = {waiting for waiting in batch if waiting.since < latest or self._closing}
        _answer([(waiting, _failure(self._described_as, error)) for waiting in batch if waiting in gone])
        return [waiting for waiting in batch if waiting not in gone]


def _fits(batch: list[_Waiting], rows: int, waiting: _Waiting) -> bool:
    """Return whether a command can share a transaction: one that corrects the clock is recorded alone."""
    if batch[-1].command.corrects_clock or waiting.command.corrects_clock:
        return False
    return rows + len(waiting.command.rows) <= MOST_ROWS


def _failure(described_as: str, error: Exception | None) -> EventLogError:
    from deployledger.domain.redaction import without_credentials

    if isinstance(error, EventLogError):  # the writer knows more about it
        return error
    reason = " ".join(without_credentials(str(error)).split()).rstrip(".")
    return EventLogError(
        f"The event log in {described_as} could not be written: {reason}.",
        hint="Check that the database is there, reachable and writable, look whether the command took "
        "effect, and give it again if it did not.",
    )


def _answer(answers: list[tuple[_Waiting, Outcome | EventLogError]]) -> None:
    """Give the answers: to threads directly, to coroutines with one wake-up an event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiting, Outcome | EventLogError]]] = {}
    for waiting, answer in answers:
        if waiting.loop is not None:
            by_loop.setdefault(waiting.loop, []).append((waiting, answer))
        elif isinstance(answer, EventLogError):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)
    for loop, of_loop in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_all, of_loop)
        except RuntimeError:  # the loop was closed: nobody waits any more
            LOGGER.debug("An event loop ended before its commands were answered")


def _set_all(answers: list[tuple[_Waiting, Outcome | EventLogError]]) -> None:
    for waiting, answer in answers:
        if waiting.future.done():
            continue
        if isinstance(answer, EventLogError):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)
