"""Opening and closing of a service."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from deployledger.audit.ledger import Ledger
from deployledger.domain.event_log import EventLog
from deployledger.domain.exceptions import ConfigurationError
from deployledger.domain.forks import HINT, OpeningProcess, opened_before
from deployledger.projections.read_models import ReadModels
from deployledger.service.background_work import BackgroundWork
from deployledger.service.patient_threads import PatientThreads

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Lifespan:
    """Opens a service when it is first used, in the process that made it, and closes it once."""

    def __init__(
        self,
        log: EventLog,
        models: ReadModels,
        ledger: Ledger,
        background: BackgroundWork,
        threads: PatientThreads,
    ) -> None:
        self._log = log
        self._models = models
        self._ledger = ledger
        self._background = background
        self._threads = threads
        self._process = OpeningProcess()
        self._is_open = False
        self._closed: asyncio.Future[None] | None = None

    @property
    def is_of_another_process(self) -> bool:
        """Whether another process made the service, and owns what is open."""
        return self._process.is_another

    async def opened(self) -> None:
        """Return when the service is open, and begin its background work if that was not done before.

        Raises:
            ConfigurationError: if the service is closed, or another process made it.
            ExternalServiceError: if a database cannot be asked what there is to do.
        """
        if self._is_open and not self._process.is_another:
            return
        if self._process.is_another:
            raise ConfigurationError(opened_before("The service"), hint=HINT)
        if self._closed is not None:
            raise ConfigurationError("The service is closed.", hint="Make a new one.")
        await self._background.start(self._threads)
        self._is_open = True

    async def blocking(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what a call returns that blocks, outside of the event loop."""
        await self.opened()
        return await self._threads.run(call, *args, **kwargs)

    async def close(self) -> None:
        """Close everything that the service uses, once."""
        if self._process.is_another:
            return
        if self._closed is None:
            self._is_open = False
            self._closed = asyncio.get_running_loop().run_in_executor(None, self._shut_down)
        if not self._closed.done() and self._closed.get_loop() is asyncio.get_running_loop():
            await asyncio.shield(self._closed)  # a caller that is cancelled leaves nothing half closed

    def _shut_down(self) -> None:
        self._models.patience.leave()  # nothing that closes waits for an unavailable database
        self._background.stop()
        self._threads.shutdown()
        self._models.store.close()
        self._ledger.store.close()
        self._log.close()
