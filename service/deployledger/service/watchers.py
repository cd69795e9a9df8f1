"""Notifies coroutines, on any event loop, that a deployment changed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from uuid import UUID

_LOOK_AGAIN_SECONDS = 0.2
"""How long a change that another process made may go unseen."""


class Watchers:
    """The coroutines that wait for changes, by deployment."""

    def __init__(self) -> None:
        self._waiting: dict[UUID, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}
        self._lock = Lock()

    def notify(self, deployment_id: UUID) -> None:
        """Wake everyone who watches the deployment; from any thread."""
        if not self._waiting:  # who begins to watch right now has not looked yet
            return
        with self._lock:
            watching = list(self._waiting.get(deployment_id, ()))
        for loop, event in watching:
            with suppress(RuntimeError):  # that loop was closed
                loop.call_soon_threadsafe(event.set)

    @contextmanager
    def watch(self, deployment_id: UUID) -> Iterator[Callable[[], Awaitable[None]]]:
        """Enter with a coroutine function that returns when the deployment may have changed."""
        event = asyncio.Event()
        entry = (asyncio.get_running_loop(), event)
        with self._lock:
            self._waiting.setdefault(deployment_id, set()).add(entry)

        async def changed() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    _LOOK_AGAIN_SECONDS
                ):  # not wait_for, which may miss being cancelled
                    await event.wait()
            event.clear()

        try:
            yield changed
        finally:
            with self._lock:
                self._waiting[deployment_id].discard(entry)
                if not self._waiting[deployment_id]:
                    del self._waiting[deployment_id]
