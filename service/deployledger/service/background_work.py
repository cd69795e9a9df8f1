"""Background work of a service: jobs, leftovers of other processes, read models, checkpoints."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from threading import Event, Lock, Thread
from typing import TypeVar
from uuid import UUID

from deployledger.audit.checkpointing import keep_checkpoints
from deployledger.audit.ledger import Ledger
from deployledger.domain import topics
from deployledger.domain.deployment import Deployment
from deployledger.domain.events import CommandContext
from deployledger.domain.exceptions import (
    ConfigurationError,
    DatabaseUnavailableError,
    EventLogError,
    ExternalServiceError,
    LogDivergedError,
    ReadModelError,
    UndecodableEventError,
)
from deployledger.domain.logs import logger
from deployledger.projections.patience import pauses
from deployledger.projections.read_models import ReadModels
from deployledger.service.failures import described
from deployledger.service.outside_calls import Call
from deployledger.service.patient_threads import PatientThreads
from deployledger.service.pipeline import Pipeline
from deployledger.service.repository import Repository
from deployledger.service.unfinished_work import UnfinishedWork
from deployledger.service.watchers import Watchers
from deployledger.service.worker import StepProgress, Worker

LOGGER = logger()
CHECKPOINTS_LOGGER = logger("checkpoints")

PIPELINE_ACTOR = "deployledger"
"""The actor of the events that a job records."""

_READ_AT_ONCE = 1000
_FOLLOW_AGAIN_SECONDS = 1.0
_JOB_THREADS = 8
_LONGEST_PAUSE_SECONDS = 300.0

_T = TypeVar("_T")


class BackgroundWork:
    """Works on deployments, keeps the read models up to date, and makes checkpoints.

    Args:
        watchers: are notified of what changed.
        checkpoint_every: the events, and the seconds, after which a checkpoint is made with the ledger's key.
        run_jobs: whether this process does the work of deployments.
        resume: whether it also takes up what other processes leave, and does the rest.
        now: the clock; returns aware datetimes in UTC.
    """

    def __init__(
        self,
        repository: Repository,
        models: ReadModels,
        ledger: Ledger,
        pipeline: Pipeline,
        watchers: Watchers,
        *,
        checkpoint_every: tuple[int, float],
        run_jobs: bool,
        resume: bool,
        now: Callable[[], datetime],
    ) -> None:
        self._repository = repository
        self._log = repository.log
        self._models = models
        self._patience = models.patience
        self._ledger = ledger
        self._pipeline = pipeline
        self._is_simulated = not pipeline.clients.has_orchestrator
        self._watchers = watchers
        self._checkpoint_every = checkpoint_every
        self._run_jobs = run_jobs
        self._is_resumed = not resume
        self._now = now
        self.unfinished = UnfinishedWork(repository, models, pipeline.clients.orchestrator)
        # Jobs that wait for a database keep no question from its thread.
        self._executor = ThreadPoolExecutor(
            _JOB_THREADS, thread_name_prefix="deployledger-jobs", initializer=self._patience.try_once
        )
        self.worker: Worker | None = None
        self.has_written = False
        self._taking_up: Future[None] | None = None
        self._threads: list[Thread] = []
        self._closing = Event()
        self._opening = Lock()

    async def start(self, threads: PatientThreads) -> None:
        """Begin, if that was not done before.

        Args:
            threads: runs the queries that this takes.

        Raises:
            ExternalServiceError: if a database cannot be queried; the next call tries again.
        """
        with self._opening:
            if self._run_jobs and self.worker is None:
                self.worker = Worker(
                    self._repository,
                    self._pipeline,
                    self._executor,
                    patience=self._patience,
                    context=self._context,
                    on_change=self._watchers.notify,
                )
            resumes, self._is_resumed = self.worker is not None and not self._is_resumed, True
        if resumes and self.worker is not None:
            try:
                await threads.run(self._resume, self.worker)
            except ExternalServiceError:
                self._is_resumed = False
                raise

    def stop(self) -> None:
        """End everything; jobs in progress are resumed by the next service. Blocks."""
        if self._taking_up is not None:
            self._taking_up.cancel()
        if self.worker is not None:
            self.worker.close()
        self._closing.set()
        for thread in self._threads:
            thread.join()
        if self.has_written and not self._threads and self._ledger.signer is not None:
            try:
                self._ledger.checkpoint()
            except Exception as error:  # what signs, and the destination, may raise what they like
                self._report_waiting_checkpoint(error)
        self._executor.shutdown()
        self._pipeline.calls.close()

    def wake(self, deployment_id: UUID) -> None:
        """Make a deployment's job run; from any thread."""
        if self.worker is not None:
            self.worker.wake(deployment_id)
        self._watchers.notify(deployment_id)

    def is_working_on(self, deployment_id: UUID) -> bool:
        """Return whether this process works on a deployment, or is about to."""
        return self.worker is not None and self.worker.is_working_on(deployment_id)

    def progress(self, deployment_id: UUID) -> StepProgress | None:
        """Return how far the step is that this process does on a deployment, if it does one."""
        return self.worker.progress.get(deployment_id) if self.worker is not None else None

    def queue_position(self, deployment_id: UUID) -> int | None:
        """Return where in line for a slot the deployment is in this process; None if it does not wait."""
        return self.worker.queue_position(deployment_id) if self.worker is not None else None

    def _context(self, deployment: Deployment) -> CommandContext:
        self.has_written = True
        return CommandContext(
            PIPELINE_ACTOR, self._now(), deployment.correlation_id, deployment.last_event_id
        )

    # Taking up what is left -------------------------------------------------------------------------

    def _resume(self, worker: Worker) -> None:
        """Take up unfinished jobs, and make what runs what the log says; and go on so as commands come in."""
        position = self._log.position()
        for deployment_id in self._left():
            worker.wake(deployment_id)
        if not self._is_simulated:
            worker.run(self._wake_provisioned(worker))
        self._taking_up = worker.run(self._take_up(worker, position))
        self._threads.append(
            Thread(target=self._update_read_models, name="deployledger-read-models", daemon=True)
        )
        if self._ledger.signer is not None:
            self._threads.append(
                Thread(target=self._keep_checkpoints, name="deployledger-checkpoints", daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def _left(self) -> list[UUID]:
        """Return the deployments that have work to do, and those that an orchestrator has to serve."""
        return self.unfinished.in_progress() + ([] if self._is_simulated else self.unfinished.serving())

    async def _wake_provisioned(self, worker: Worker) -> None:
        calls, provisioned = self._pipeline.calls, self._pipeline.clients.orchestrator.provisioned
        for pause in pauses(_LONGEST_PAUSE_SECONDS):
            try:
                for deployment_id in await calls.call(Call.QUERY, None, provisioned):
                    worker.wake(deployment_id)
                return
            except Exception as error:  # an orchestrator raises what it likes
                self._patience.warn(
                    LOGGER, f"The orchestrator failed to list what it runs: {described(error)}"
                )
            await calls.sleep(pause)

    async def _take_up(self, worker: Worker, after: int) -> None:
        """Work on what is commanded behind a position, by whichever process."""
        while True:
            try:
                follow = partial(self._log.follow, after, topics=sorted(topics.COMMANDS))
                with await self._in_thread(follow) as follower:
                    # One follower for all errors: it knows which event it read last, and so finds out
                    # when the log that comes back is another.
                    while True:
                        try:
                            async for batch in follower:
                                for recorded in batch.events:
                                    worker.wake(recorded.event.originator_id)
                                after = batch.position
                            break  # the log was closed
                        except UndecodableEventError:
                            raise
                        except EventLogError as error:
                            self._report_waiting_commands(error)
                        await asyncio.sleep(_FOLLOW_AGAIN_SECONDS)
            except (LogDivergedError, ConfigurationError) as error:  # it may lack the position by now
                LOGGER.warning("%s Jobs start over from what the event log has now.", error.message)
                after = await self._start_over(worker)
            except UndecodableEventError:  # its deployment needs other software; the others do not
                after = await self._in_thread(partial(self._wake_undecoded, worker, after))
            except EventLogError as error:
                if not isinstance(error, DatabaseUnavailableError):  # which is reported where it is found
                    self._report_waiting_commands(error)
            await asyncio.sleep(_FOLLOW_AGAIN_SECONDS)

    async def _start_over(self, worker: Worker) -> int:
        """Take up the jobs of a log that went back, instead of those in progress.

        Returns:
            The position behind which commands have not been taken up.
        """
        while True:
            try:
                position = await self._in_thread(self._log.position)
                left = await self._in_thread(self._left)
                break
            except (EventLogError, ReadModelError) as error:
                if not isinstance(error, DatabaseUnavailableError):  # which is reported where it is found
                    self._patience.warn(LOGGER, f"Jobs are waiting for the event log: {error}")
                await asyncio.sleep(_FOLLOW_AGAIN_SECONDS)
        await worker.start_over(left)
        if not self._is_simulated:
            worker.run(self._wake_provisioned(worker))
        return position

    def _wake_undecoded(self, worker: Worker, after: int) -> int:
        """Wake the deployments of the next commands without decoding these; return up to where."""
        try:
            raws = next(self._log.records(after=after, limit=_READ_AT_ONCE), ())
        except EventLogError:
            return after
        for raw in raws:
            if raw.topic in topics.COMMANDS:
                with suppress(ValueError):  # SQLite lets anything be in a column
                    worker.wake(UUID(raw.stream))
        return raws[-1].position if raws else after

    def _in_thread(self, call: Callable[[], _T]) -> "asyncio.Future[_T]":
        return asyncio.get_running_loop().run_in_executor(self._executor, call)

    def _report_waiting_commands(self, error: EventLogError) -> None:
        self._patience.warn(LOGGER, f"Commands of other processes are not picked up: {error}")

    # Read models and checkpoints ----------------------------------------------------------------------

    def _update_read_models(self) -> None:
        """Keep the read models up to date, so that questions find little left to apply."""
        # Where they cannot be written, which is reported, questions apply what they need in memory.
        with suppress(ReadModelError):
            self._models.follow(
                self._closing,
                on_problem=lambda error: self._patience.warn(
                    LOGGER, f"The read models are not kept up to date: {error}"
                ),
            )

    def _keep_checkpoints(self) -> None:
        """Make checkpoints as events are added."""
        self._patience.try_once()  # this thread tries again by itself
        events_between, seconds_between = self._checkpoint_every
        keep_checkpoints(
            self._ledger,
            self._closing,
            every_events=events_between,
            every_seconds=seconds_between,
            on_problem=self._report_waiting_checkpoint,
        )

    def _report_waiting_checkpoint(self, error: Exception) -> None:
        """Report why a checkpoint was not signed or not published; the next one makes up for it."""
        if not isinstance(error, DatabaseUnavailableError):
            self._patience.warn(CHECKPOINTS_LOGGER, f"A checkpoint is delayed: {error}")
