"""Calls to clients: each ends with its result, at its deadline, or by being abandoned.

Clients are written by others: a call may never return, may ignore cancellation, or may block the event loop
that it runs on. So calls run on event loops of their own, one for each client. The caller waits no longer
than its deadline, and no longer than `CallLimits.grace` after cancelling it. A call that has not ended by
then is abandoned: its result is discarded, and what it leaves behind is cleaned up once it ends.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from functools import partial
from math import inf
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from deployledger.domain.exceptions import ExternalServiceError
from deployledger.domain.lifecycle import DEADLINES
from deployledger.domain.logs import logger
from deployledger.domain.reasons import FailureReason
from deployledger.domain.values import Step
from deployledger.service.failures import described

LOGGER = logger("outside")

_LINES_AT_ONCE = 1000
_FIRST_THREADS = 16
_THREAD_AFTER_SECONDS = 1.0

_P = ParamSpec("_P")
_T = TypeVar("_T")

Sleep = Callable[[float], Awaitable[None]]
"""Waits for so many seconds of a clock that never goes back."""


class Call(Enum):
    """The kinds of calls to clients: the client that is called, and what it does."""

    FETCH = ("model registry", "fetch")
    PACKAGE = ("container registry", "package")
    PROVISION = ("orchestrator", "provision")
    RUN = ("orchestrator", "run")
    PRUNE = ("orchestrator", "prune")
    QUERY = ("orchestrator", "query")
    STORE = ("artifact store", "store")
    STORED_FILES = ("client that keeps files", "list or free")

    @property
    def client(self) -> str:
        """The client that is called."""
        return self.value[0]


METHODS = {
    "download_artifacts": Call.FETCH,
    "resolve_model": Call.FETCH,
    "add": Call.STORE,
    "path_of": Call.STORE,
    "set_aside_damaged": Call.STORE,
    "build_and_push": Call.PACKAGE,
    "unpack": Call.PACKAGE,
    "provision": Call.PROVISION,
    "wait_for_completion": Call.RUN,
    "prune": Call.PRUNE,
    "provisioned": Call.QUERY,
    "observe": Call.QUERY,
    "logs": Call.QUERY,
    "stored": Call.STORED_FILES,
    "free": Call.STORED_FILES,
}
"""The kind of each method of the ports that does I/O."""


@dataclass(frozen=True)
class CallLimits:
    """How long calls to clients may take, and how many deployments may make them at once.

    Attributes:
        steps: the deadline of each step, and of a call that does its work.
        query: the deadline of a query to the orchestrator, and of the next lines of a log.
        stored_files: the deadline of listing, reading or freeing everything that a client keeps.
        grace: how long a call may take to end after it was cancelled.
        concurrent_steps: how many deployments may do the same step with the same client at once.
    """

    steps: Mapping[Step, timedelta] = field(default_factory=lambda: dict(DEADLINES))
    query: timedelta = timedelta(seconds=30)
    stored_files: timedelta = timedelta(days=1)
    grace: timedelta = timedelta(seconds=2)
    concurrent_steps: int = 128

    def deadline(self, call: Call) -> timedelta:
        """Return the deadline of a call."""
        match call:
            case Call.FETCH | Call.STORE:
                return self.steps[Step.FETCH]
            case Call.PACKAGE:
                return self.steps[Step.PACKAGE]
            case Call.PROVISION:
                return self.steps[Step.PROVISION]
            case Call.RUN:
                return self.steps[Step.RUN]
            case Call.PRUNE:
                return self.steps[Step.DELETE]
            case Call.QUERY:
                return self.query
            case Call.STORED_FILES:
                return self.stored_files


class DeadlineError(ExternalServiceError):
    """A call or a step took longer than its deadline."""

    default_reason = FailureReason.DEADLINE_EXCEEDED

    def __init__(self, client: str, what: str, deadline: timedelta) -> None:
        super().__init__(
            client, f"{what} took longer than {deadline}.", hint="Retry, or find out why it is slow."
        )


class OutsideCalls:
    """Calls clients, within limits.

    Attributes:
        on_late: called with the deployment of an abandoned call that ended after all; any thread.

    Args:
        sleep: waits; the default counts the seconds of the event loop's monotonic clock.
    """

    def __init__(self, limits: CallLimits, *, sleep: Sleep = asyncio.sleep) -> None:
        self.limits = limits
        self.sleep = sleep
        self.on_late: Callable[[UUID], None] = lambda deployment_id: None
        self._loops: dict[str, _ClientLoop] = {}
        self._lock = threading.Lock()

    async def call(
        self,
        call: Call,
        deployment_id: UUID | None,
        method: Callable[_P, Awaitable[_T]],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Return what a client's method returns.

        Being cancelled cancels the call, and takes effect when that has ended, or was abandoned.

        Args:
            deployment_id: the deployment that the call may change something for; None if it changes nothing.

        Raises:
            DeadlineError: if it took too long.
            ExternalServiceError: if it raised something other than an `Exception`, such as ``SystemExit``, or
                was cancelled from within.
            Exception: whatever the method raises.
        """
        return await self._result(
            call, deployment_id, self.limits.deadline(call), partial(method, *args, **kwargs)
        )

    async def lines(
        self, call: Call, method: Callable[_P, AsyncIterator[str]], *args: _P.args, **kwargs: _P.kwargs
    ) -> AsyncGenerator[str, None]:
        """Yield the lines that a client's method yields, each within the deadline unless it follows a log.

        Raises:
            DeadlineError: if the next line took too long.
            Exception: whatever the method raises.
        """
        deadline = None if kwargs.get("follow") else self.limits.deadline(call)
        reading = _Reading(partial(method, *args, **kwargs))
        try:
            while lines := await self._result(call, None, deadline, reading.next_lines):
                for line in lines:
                    yield line
        finally:
            reading.stop()

    def close(self) -> None:
        """End the event loops, each once the last of its calls has ended."""
        with self._lock:
            loops, self._loops = list(self._loops.values()), {}
        for loop in loops:
            loop.retire()

    async def _result(
        self,
        call: Call,
        deployment_id: UUID | None,
        deadline: timedelta | None,
        work: Callable[[], Awaitable[_T]],
    ) -> _T:
        running = _Running(work)
        ended = asyncio.wrap_future(running.ended)
        grace = self.limits.grace.total_seconds()
        seconds = deadline.total_seconds() if deadline else inf
        loop = self._loop_of(call)
        loop.start(running)
        try:
            if not await self.ends_within(min(grace, seconds), ended):
                if not running.has_begun:  # another call blocks the event loop
                    self._replace(call, loop)
                    self._loop_of(call).start(running)
                await self.ends_within(seconds - grace, ended)
        finally:
            if not running.ended.done():
                await self._call_off(call, deployment_id, running, ended)
        if running.is_called_off:
            assert deadline is not None  # noqa: S101  # it is over
            raise DeadlineError(call.client, f"The {call.client}", deadline)
        result: _T
        result, error = running.ended.result()
        if error is None:
            return result
        if isinstance(error, Exception):
            raise error
        raise ExternalServiceError(
            call.client, f"The {call.client} raised {described(error)}.", hint="This is a bug in the client."
        ) from error

    async def ends_within(self, seconds: float, work: "asyncio.Future[Any]") -> bool:
        """Wait for work, and return whether it ended in time; it goes on if it did not."""
        if self.sleep is asyncio.sleep or seconds == inf:  # which costs no task
            await asyncio.wait({work}, timeout=None if seconds == inf else max(seconds, 0))
            return work.done()
        timer = asyncio.ensure_future(self.sleep(max(seconds, 0)))
        try:
            await asyncio.wait({work, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        return work.done()

    async def _call_off(
        self, call: Call, deployment_id: UUID | None, running: "_Running", ended: "asyncio.Future[Any]"
    ) -> None:
        """Cancel a call, and return when it has ended; one that does not end is abandoned."""
        running.call_off()
        try:
            await self.ends_within(self.limits.grace.total_seconds(), ended)
        finally:
            if not running.ended.done():
                LOGGER.warning(
                    "The %s ignores cancellation (%s%s); the call was abandoned.",
                    call.client,
                    call.value[1],
                    f" for deployment {deployment_id}" if deployment_id else "",
                )
                ended.cancel()
                if deployment_id is not None:
                    running.ended.add_done_callback(lambda _: self.on_late(deployment_id))

    def _loop_of(self, call: Call) -> "_ClientLoop":
        with self._lock:
            loop = self._loops.get(call.client)
            if loop is None:
                loop = self._loops[call.client] = _ClientLoop(call.client)
            return loop

    def _replace(self, call: Call, blocked: "_ClientLoop") -> None:
        with self._lock:
            if self._loops.get(call.client) is not blocked:
                return
            del self._loops[call.client]
        LOGGER.warning("The %s blocks its event loop; further calls run on another one.", call.client)
        blocked.retire()


class _Running:
    """A call: on its way to an event loop, running, or ended.

    Attributes:
        ended: what it returned, and what it raised.
        has_begun: whether an event loop runs it.
        is_called_off: whether nobody waits for its result any longer.
    """

    def __init__(self, work: Callable[[], Awaitable[Any]]) -> None:
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self.ended: Future[tuple[Any, BaseException | None]] = Future()
        self.ended.set_running_or_notify_cancel()  # whoever stops waiting for it does not end it
        self.is_called_off = False

    @property
    def has_begun(self) -> bool:
        return self._task is not None

    def begin(self) -> "asyncio.Task[None] | None":
        """Begin, on the running event loop, unless it has begun or was called off."""
        with self._lock:
            if self.has_begun or self.is_called_off:
                return None
            self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(lambda _: self._end(None, asyncio.CancelledError()))
        return self._task

    def call_off(self) -> None:
        """Cancel it; from any thread."""
        with self._lock:
            self.is_called_off = True
        if self._task is None:
            self._end(None, asyncio.CancelledError())
            return
        with suppress(RuntimeError):  # it has ended, and so has the loop
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        try:
            self._end(await self._work(), None)
        except BaseException as error:  # a client raises what it likes
            self._end(None, error)

    def _end(self, value: Any, error: BaseException | None) -> None:
        if not self.ended.done():
            self.ended.set_result((value, error))


class _ClientLoop:
    """An event loop in a daemon thread of its own."""

    def __init__(self, client: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_DaemonThreads(f"deployledger-{client}"))
        self._calls: set[asyncio.Task[None]] = set()
        self._is_retired = False
        threading.Thread(target=self._run, name=f"deployledger-{client}", daemon=True).start()

    def start(self, running: _Running) -> None:
        """Run a call; from any thread."""
        self._loop.call_soon_threadsafe(self._begin, running)

    def retire(self) -> None:
        """End once the last call has ended; from any thread."""
        self._loop.call_soon_threadsafe(self._retire)

    def _begin(self, running: _Running) -> None:
        task = running.begin()
        if task is not None:
            self._calls.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._calls.discard(task)
        self._stop_if_over()

    def _retire(self) -> None:
        self._is_retired = True
        self._stop_if_over()

    def _stop_if_over(self) -> None:
        if self._is_retired and not self._calls:
            self._loop.stop()

    def _run(self) -> None:
        while not (self._is_retired and not self._calls):
            try:
                self._loop.run_forever()
            except BaseException as error:  # from a task that a client left running
                LOGGER.warning("A task of a client raised %s.", described(error))
        self._loop.close()


class _DaemonThreads(ThreadPoolExecutor):
    """Threads of an event loop: some at first, and one more for each call that has waited for a second.

    So hanging calls do not delay others. The threads are daemons: the process does not wait for them at exit.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._unfinished = 0
        self._started = 0

    def submit(self, call: Callable[..., _T], /, *args: Any, **kwargs: Any) -> "Future[_T]":
        """Run a call in a thread, at once or as soon as there is one; called on the event loop."""
        future: Future[_T] = Future()
        self._calls.put((future, partial(call, *args, **kwargs)))
        with self._lock:
            self._unfinished += 1
        if self._started < _FIRST_THREADS:
            self._start_if_needed()
        elif self._unfinished > self._started:
            asyncio.get_running_loop().call_later(_THREAD_AFTER_SECONDS, self._start_if_needed)
        return future

    def _start_if_needed(self) -> None:
        if self._unfinished > self._started:
            self._started += 1
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads, each once its call has ended."""
        self._calls.put(None)

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            future, call = work
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # whoever waits for it decides
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del work, future, call  # an idle thread keeps no result
            with self._lock:
                self._unfinished -= 1
        self._calls.put(None)  # for the next thread


class _Reading:
    """Lines that a client yields, read ahead on its event loop.

    A task reads them, so that a deadline that passes between two lines does not end the client's iteration.
    """

    def __init__(self, open_lines: Callable[[], AsyncIterator[str]]) -> None:
        self._open = open_lines
        self._lines: list[str] = []
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._running = _Running(self._read)
        self._running.ended.add_done_callback(lambda _: self._changed.set())

    async def next_lines(self) -> list[str]:
        """Wait for the next lines; an empty list is the end."""
        self._running.begin()
        while not self._lines and not self._running.ended.done():
            self._changed.clear()
            await self._changed.wait()
        lines, self._lines = self._lines, []
        self._has_room.set()
        if not lines:
            _, error = self._running.ended.result()
            if error is not None:
                raise error
        return lines

    def stop(self) -> None:
        """Stop reading; from any thread."""
        if not self._running.ended.done():
            self._running.call_off()

    async def _read(self) -> None:
        async for line in self._open():
            self._lines.append(line)
            self._changed.set()
            if len(self._lines) >= _LINES_AT_ONCE:
                self._has_room.clear()
                await self._has_room.wait()
