"""Threads for calls that block, in which they wait for a database that is unavailable."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from deployledger.projections.patience import Patience

_THREADS = 8

_P = ParamSpec("_P")
_T = TypeVar("_T")


class PatientThreads:
    """Runs calls that block outside of the event loop; time in a queue counts as waiting for the database."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="deployledger")

    def run(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> "asyncio.Future[_T]":
        """Return what the call returns, as a future of the running event loop."""
        work = partial(self._patience.call, partial(call, *args, **kwargs), since=time.monotonic())
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def shutdown(self) -> None:
        """Wait for the calls that are running, and take no more."""
        self._executor.shutdown()
