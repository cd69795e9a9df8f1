"""Where requests are computed: in the event loop, or in threads."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_INLINE_BYTES = 16 * 1024
_INLINE_SECONDS = 0.0005
_LARGE_BYTES = 1024 * 1024
_SECONDS_OF_AN_UNKNOWN_MODEL = 0.01
_DECAY = 0.95


class RequestExecutor:
    """Computes requests so that small ones are fast, and the server stays responsive during large ones.

    A small request of a fast model is computed in the event loop: handing it to a thread and back takes some
    0.1 ms, as much as the request itself. How slow the model is, is the processor time of its slowest small
    request, which counts less with each later one. All others are computed in threads; those with large
    bodies one after the other in a thread of their own, so that no small one ever waits behind them.

    Args:
        is_work_bounded: whether a small request is never much slower than the one before.
    """

    def __init__(self, *, is_work_bounded: bool) -> None:
        self._pool = ThreadPoolExecutor(max(4, os.cpu_count() or 1), "compute")
        self._pool_for_large = ThreadPoolExecutor(1, "compute-large")
        self._is_work_bounded = is_work_bounded
        self._seconds = _SECONDS_OF_AN_UNKNOWN_MODEL

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """Return what ``work`` returns, for a request with a body of ``size`` bytes."""
        if size <= _INLINE_BYTES:
            if self._is_work_bounded and self._seconds < _INLINE_SECONDS:
                return self._measured(work)
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._measured, work)
        pool = self._pool_for_large if size > _LARGE_BYTES else self._pool
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def _measured(self, work: Callable[[], T]) -> T:
        # The thread's own time: the time on a clock would grow with the number of requests at the same time.
        began = time.thread_time()
        try:
            return work()
        finally:
            self._seconds = max(time.thread_time() - began, _DECAY * self._seconds)
