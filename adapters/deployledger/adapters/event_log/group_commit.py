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
from deployledger.domain.exceptions import EventLogError, EventLogUnavailableError
from deployledger.domain.logs import logger
from deployledger.domain.redaction import without_credentials
from deployledger.projections.patience import Patience, pauses

LOGGER = logger("event_log")

MOST_ROWS = 1024
"""How many events one transaction stores at most."""

MOST_WAITING = 10_000
"""How many commands may wait; further ones wait to be allowed to wait."""

_MOST_CONFLICTS = 5
_LOOK_SECONDS = 0.02


class DatabaseAwayError(Exception):
    """The database cannot be used just now; trying again may help.

    Attributes:
        is_sent: whether the commands were on their way to it: whether they are stored is then not known.
    """

    def __init__(self, message: str, *, is_sent: bool = False) -> None:
        super().__init__(message)
        self.is_sent = is_sent


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

    def interrupt(self) -> bool:
        """End a wait for the database, from another thread; return False where no wait is endless.

        What is waited for may be stored, or not.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """A command, and who waits for its outcome.

    Attributes:
        since: when it began to wait (monotonic seconds).
        is_sending: whether the writer is storing it right now.
        is_sent: whether it has tried to before, and may have succeeded.
        is_given_up: whether nobody waits any more: it is not stored then.
    """

    command: Command
    future: "Future[Outcome] | asyncio.Future[Outcome]"
    loop: asyncio.AbstractEventLoop | None
    since: float
    is_sending: bool = False
    is_sent: bool = False
    is_given_up: bool = False


class GroupCommit:
    """Lets coroutines and threads store commands through one writer.

    Args:
        on_stored: called after each transaction that stored something.
        patience: how long a command waits for an unavailable database before it fails.
        described_as: the database, for messages.
    """

    def __init__(
        self, writer: BatchWriter, on_stored: Callable[[], None], *, patience: Patience, described_as: str
    ) -> None:
        self._writer = writer
        self._on_stored = on_stored
        self._patience = patience
        self._described_as = described_as
        self._answered = 0.0
        """When the database last answered (monotonic seconds)."""
        self._problem = ""
        """Why the database could not be used when it was last tried, if it could not."""
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
        waiting = _Waiting(command, future, None, time.monotonic())
        with self._condition:
            while len(self._waiting) >= MOST_WAITING and not self._closing:
                self._has_blocked_threads = True
                self._condition.wait()
            self._enqueue(waiting)
        left = self._patience.seconds
        while True:
            try:
                return future.result(left)
            except TimeoutError:
                left = self._time_left(waiting)
                if left <= 0 and (error := self._given_up(waiting)):
                    raise error from None

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
        waiting = _Waiting(command, future, loop, time.monotonic())
        with self._condition:
            self._enqueue(waiting)
        # Not asyncio.timeout, which takes ten times as long.
        timer = loop.call_later(self._patience.seconds, self._look_at, waiting, loop)
        try:
            return await future
        finally:
            timer.cancel()

    def _look_at(self, waiting: _Waiting, loop: asyncio.AbstractEventLoop) -> None:
        """Fail a command of an event loop if its patience is over; else look again later."""
        if waiting.future.done():
            return
        left = self._time_left(waiting)
        if left > 0:
            loop.call_later(left, self._look_at, waiting, loop)
        elif error := self._given_up(waiting):
            waiting.future.set_exception(error)

    def _time_left(self, waiting: _Waiting) -> float:
        """Return how many seconds a command has yet to wait, which count from the database's last answer."""
        left = max(waiting.since, self._answered) + self._patience.seconds - time.monotonic()
        if left <= 0 and not self._writer.interrupt() and (waiting.is_sending or not self._problem):
            return self._patience.seconds  # it is being worked on, for which there is a limit of its own
        return left

    def _given_up(self, waiting: _Waiting) -> EventLogError | None:
        """Return the error of a command for which nobody waits any more; None if it is answered by now."""
        with self._condition:
            if waiting.future.done():
                return None
            waiting.is_given_up = True
            may_be_stored = waiting.is_sent or waiting.is_sending
            problem = self._problem or f"the database has not answered for {self._patience.seconds:g} s"
        return _failure(self._described_as, problem, may_be_stored=may_be_stored)

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
                await asyncio.sleep(_LOOK_SECONDS)
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
            self._thread.join(self._patience.seconds)
            if self._thread.is_alive():
                self._writer.interrupt()
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
                    if _is_wanted(waiting):
                        waiting.is_sending = True
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
                error = _failure(self._described_as, _reason(error), error=error)
            _answer([(batch[0], error)])  # the writer knows more about one of ours
            return
        for waiting in batch:
            self._commit([waiting])

    def _stored(self, batch: list[_Waiting], outcomes: list[Outcome]) -> None:
        self._answered = time.monotonic()
        if self._problem:
            self._problem = ""
            self._patience.back(self._described_as)
        self._on_stored()
        _answer(list(zip(batch, outcomes, strict=True)))

    def _commit_checked(self, batch: list[_Waiting], away: DatabaseAwayError | None = None) -> None:
        conflicts = 0
        pause = pauses()
        if away is not None:  # it may have been this connection alone: say nothing before it is tried again
            self._problem = _reason(away)
            self._put_back(batch, away)
            batch = self._still_wanted(batch)
        while batch:
            try:
                outcomes = self._writer.write_checked([waiting.command for waiting in batch])
            except DatabaseAwayError as error:
                self._problem = _reason(error)
                self._patience.away(self._described_as, self._problem)
                self._put_back(batch, error)
                if self._closing or self._patience.has_ended:
                    _answer([(waiting, self._failure_of(waiting)) for waiting in batch])
                    return
                time.sleep(next(pause))
                batch = self._still_wanted(batch)
            except BatchConflictError as error:  # the database saw what the look did not: look again
                conflicts += 1
                if conflicts > _MOST_CONFLICTS:
                    self._fail(batch, error)
                    return
            except Exception as error:
                self._fail(batch, error)
                return
            else:
                self._stored(batch, outcomes)
                return

    def _put_back(self, batch: list[_Waiting], away: DatabaseAwayError) -> None:
        """Note that commands are no longer on their way, and whether they may have got there."""
        with self._condition:
            for waiting in batch:
                waiting.is_sending = False
                waiting.is_sent = waiting.is_sent or away.is_sent

    def _still_wanted(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Return the commands that are to be tried again; fail those whose patience is over."""
        latest = time.monotonic() - self._patience.seconds
        over = [
            waiting
            for waiting in batch
            if max(waiting.since, self._answered) <= latest and not waiting.future.done()
        ]
        _answer([(waiting, self._failure_of(waiting)) for waiting in over])
        with self._condition:
            wanted = [waiting for waiting in batch if waiting not in over and _is_wanted(waiting)]
            for waiting in wanted:
                waiting.is_sending = True
        return wanted

    def _failure_of(self, waiting: _Waiting) -> EventLogError:
        return _failure(self._described_as, self._problem, may_be_stored=waiting.is_sent)


def _is_wanted(waiting: _Waiting) -> bool:
    return not (waiting.is_given_up or waiting.future.done())


def _fits(batch: list[_Waiting], rows: int, waiting: _Waiting) -> bool:
    """Return whether a command can share a transaction: one that corrects the clock is recorded alone."""
    if batch[-1].command.corrects_clock or waiting.command.corrects_clock:
        return False
    return rows + len(waiting.command.rows) <= MOST_ROWS


def _reason(error: Exception) -> str:
    return " ".join(without_credentials(str(error)).split()).rstrip(".")


def _failure(
    described_as: str, problem: str, *, may_be_stored: bool = False, error: Exception | None = None
) -> EventLogError:
    """Return the error of a command that was not acknowledged.

    Args:
        error: what keeps it from being stored, if that is not the database's being away.
    """
    kind = EventLogUnavailableError if error is None else EventLogError
    if may_be_stored:
        return kind(
            f"The event log in {described_as} could not be written: {problem}. "
            "Whether the command took effect is not known.",
            hint="Check that the database exists and is reachable and writable. Then check whether the "
            "command took effect, and repeat it if it did not.",
        )
    return kind(
        f"The event log in {described_as} could not be written: {problem}. Nothing was stored.",
        hint="Check that the database exists and is reachable and writable, and repeat the command.",
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
