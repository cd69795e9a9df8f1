"""Runs the jobs of deployments in the background, driven by what the event log says there is to do.

Jobs run on an event loop of their own, in one thread: they neither block the caller's loop nor end with
it. Over all processes that share a database, one worker at a time owns a deployment. A job reads the log,
does the next step, records it, and looks again; so a command given meanwhile, by whichever process, is
seen, and a job that died is taken up where the log shows it ended.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from uuid import UUID

from deployledger.domain.bounds import bounded
from deployledger.domain.deployment import Deployment
from deployledger.domain.event_log import version_of
from deployledger.domain.events import CommandContext
from deployledger.domain.exceptions import (
    ConcurrencyError,
    DatabaseUnavailableError,
    DeploymentError,
    EventLogError,
    MachineLearningServiceError,
    ResourceNotFoundError,
    UndecodableEventError,
)
from deployledger.domain.lifecycle import State
from deployledger.domain.logs import logger
from deployledger.domain.values import Step
from deployledger.projections.patience import Patience, pauses
from deployledger.service.failures import described, failure_of, traceback_of
from deployledger.service.files.staging import sweep
from deployledger.service.outside_calls import DeadlineError
from deployledger.service.pipeline import Pipeline, Record
from deployledger.service.repository import Repository
from deployledger.service.slots import Slots

LOGGER = logger("worker")

_T = TypeVar("_T")

_LOOK_AGAIN_SECONDS = 0.25
"""How often a job looks whether another process gave a command."""

_MOST_LOOKS_PER_SECOND = 500
"""How often all jobs together do that; with many jobs, each does it less often."""

_LONGEST_UNIT = 200

_LOOKING = "looking"
"""The slot of a job that reads what there is to do."""

_RECONCILING = "reconciling"
"""The slot of a job that reconciles what runs with the log."""

_CLOSING_SECONDS = 15.0
"""How long a worker that closes waits for its jobs to stop what no revision needs any more."""

_LONGEST_PAUSE_SECONDS = 5.0
"""How long a job waits at most before it tries again to use an unavailable database."""


_LONGEST_RECONCILE_PAUSE_SECONDS = 300.0
"""How long a job waits at most before it tries again to reconcile what runs with the log."""


@dataclass
class StepProgress:
    """How far the step is that a deployment's job is doing."""

    done: int
    total: int | None
    unit: str


class _Reports:
    """Reports of the progress of one attempt at a step; those that come after its end are ignored."""

    def __init__(self, progressed: Callable[[StepProgress], None]) -> None:
        self._progressed = progressed
        self._has_ended = False

    def report(self, done: int, total: int | None, unit: str) -> None:
        """Note how far the step is; from any thread."""
        is_valid = isinstance(done, int) and isinstance(total, int | None) and isinstance(unit, str)
        if is_valid and not self._has_ended:
            self._progressed(StepProgress(done, total, bounded(unit, _LONGEST_UNIT)))

    def end(self) -> None:
        """Ignore what is reported from now on."""
        self._has_ended = True


@dataclass
class _Job:
    """A job, the step that it is doing, and whether it has done any, which may leave servers to stop.

    Attributes:
        is_known: whether the log had the deployment when the job looked.
        is_late: whether a call of an earlier job was abandoned, and ended after all.
        slot: the kind of slot that it has.
        waits_for: the kind of slot that it needs to go on, and the state of the deployment that needs it.
    """

    task: "asyncio.Task[None]"
    is_known: bool
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    step: "asyncio.Task[Record] | None" = None
    has_worked: bool = False
    is_late: bool = False
    slot: Hashable = None
    waits_for: tuple[Hashable, Deployment] | None = None


class Worker:
    """Does the jobs that the event log shows, in the background.

    Args:
        context: makes the context of what a job records, from the deployment.
        executor: runs the calls that block, none of which waits for an unavailable database.
        patience: reports what keeps jobs waiting.
        on_change: called with a deployment's id after its job recorded something or advanced; any thread.
    """

    def __init__(
        self,
        repository: Repository,
        pipeline: Pipeline,
        executor: Executor,
        *,
        patience: Patience,
        context: Callable[[Deployment], CommandContext],
        on_change: Callable[[UUID], None],
    ) -> None:
        self._repository = repository
        self._pipeline = pipeline
        self._executor = executor
        self._patience = patience
        self._context = context
        self._on_change = on_change
        self._jobs: dict[UUID, _Job] = {}
        self._waking: list[UUID] = []
        self._calls = pipeline.calls
        self._calls.on_late = self._clean_up_after
        self._slots = Slots(self._calls.limits.concurrent_steps)
        self._late: set[UUID] = set()
        self._later: set[asyncio.Task[None]] = set()
        self._reconciled_again: dict[UUID, Iterator[float]] = {}
        self.progress: dict[UUID, StepProgress] = {}
        self._is_stopping = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="deployledger-worker", daemon=True
        )
        self._thread.start()

    def wake(self, deployment_id: UUID) -> None:
        """Make a deployment's job run and look at the log again; from any thread."""
        if not self._loop.is_closed():
            self._waking.append(deployment_id)
            self._loop.call_soon_threadsafe(self._wake_on_loop, deployment_id)

    def _wake_on_loop(self, deployment_id: UUID) -> None:
        self._wake(deployment_id)
        self._waking.remove(deployment_id)

    def queue_position(self, deployment_id: UUID) -> int | None:
        """Return where in line for a slot the deployment's job is, from 1 on; None if it does not wait."""
        return self._slots.position(deployment_id)

    def _clean_up_after(self, deployment_id: UUID) -> None:
        """Reconcile what runs with the log, once an abandoned call has ended after all."""
        self._late.add(deployment_id)
        self.wake(deployment_id)

    def run(self, coroutine: Coroutine[object, object, _T]) -> "Future[_T]":
        """Run a coroutine on the worker's loop; from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def is_working_on(self, deployment_id: UUID) -> bool:
        """Return whether a job of this worker is on the deployment, or is about to be."""
        # In this order: the other thread adds the job, and only then stops waking it.
        is_waking = deployment_id in self._waking and not self._is_stopping
        return is_waking or deployment_id in self._jobs

    def close(self) -> None:
        """Stop every job; the log shows where to go on. Blocks until the thread has ended.

        Steps are cancelled. What a job has already recorded is carried through: servers that an update, a
        rollback or a cancellation made superfluous are stopped, for `_CLOSING_SECONDS` at most.
        """
        if self._loop.is_closed():
            return
        self.run(self._stop()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._is_stopping = True
        tasks = [job.task for job in self._jobs.values()]
        for job in self._jobs.values():
            if not job.has_worked or job.slot is None:
                job.task.cancel()
            elif job.step is not None:
                job.step.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_CLOSING_SECONDS)
            for task in late:
                task.cancel()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others.difference(tasks):
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    async def start_over(self, unfinished: Iterable[UUID]) -> None:
        """End every job where it is, because the event log went back, and take up those that it has now.

        Runs on the worker's loop.
        """
        ended = await self._end_jobs()
        for deployment_id in {*ended, *unfinished}:
            self._wake(deployment_id, is_known=deployment_id in ended)

    async def _end_jobs(self) -> list[UUID]:
        """End every job where it is, and return which deployments had one."""
        jobs = dict(self._jobs)
        for job in jobs.values():
            job.task.cancel()
        await asyncio.gather(*(job.task for job in jobs.values()), return_exceptions=True)
        for deployment_id, job in jobs.items():
            if self._jobs.get(deployment_id) is job:  # it had not begun, and cannot tidy up
                del self._jobs[deployment_id]
        return list(jobs)

    def _wake(self, deployment_id: UUID, *, is_known: bool = False) -> None:
        if self._is_stopping:
            return
        job = self._jobs.get(deployment_id)
        if job is None:
            task = self._loop.create_task(self._work(deployment_id), name=f"deployment {deployment_id}")
            self._jobs[deployment_id] = _Job(task, is_known)
        else:
            job.woken.set()

    async def _work(self, deployment_id: UUID) -> None:
        """Work on one deployment until there is nothing to do, over all processes."""
        pause = pauses(_LONGEST_PAUSE_SECONDS)
        job = self._jobs[deployment_id]
        try:
            while not self._is_stopping:
                job.woken.clear()
                seconds = _LOOK_AGAIN_SECONDS
                try:
                    await self._take_slot(job, deployment_id)
                    async with self._owned(deployment_id) as is_owner:
                        if is_owner:
                            await self._settle(deployment_id)
                    if job.waits_for is not None:
                        continue
                    if is_owner and not job.woken.is_set() and deployment_id not in self._late:
                        return
                    deployment = await self._blocking(self._repository.deployment, deployment_id)
                    if not is_owner and deployment.next_step is None:
                        return
                    pause = pauses(_LONGEST_PAUSE_SECONDS)
                except ResourceNotFoundError:
                    if job.is_known:
                        LOGGER.warning(
                            "The job of deployment %s ended: the event log no longer has the deployment.",
                            deployment_id,
                        )
                    return
                except UndecodableEventError as error:  # which waiting does not fix
                    LOGGER.warning("The job of deployment %s stopped: %s", deployment_id, error)
                    return
                except EventLogError as error:
                    self._warn(error)
                    seconds = max(seconds, next(pause))
                except Exception:
                    LOGGER.exception(
                        "The job of deployment %s stopped; it continues when resumed.", deployment_id
                    )
                    return
                finally:
                    self._leave_slot(job)
                await asyncio.sleep(seconds)
        finally:
            del self._jobs[deployment_id]
            self._late.discard(deployment_id)
            self.progress.pop(deployment_id, None)
            self._on_change(deployment_id)

    async def _take_slot(self, job: _Job, deployment_id: UUID) -> None:
        """Wait for a slot of the kind that the job needs, or for a command that makes it need another."""
        if job.waits_for is not None:
            kind, deployment = job.waits_for
            job.waits_for = None
            if await self._unless_superseded(self._wait_for_slot(job, kind, deployment_id), deployment):
                return
        await self._wait_for_slot(job, _LOOKING, deployment_id)

    async def _wait_for_slot(self, job: _Job, kind: Hashable, deployment_id: UUID) -> None:
        await self._slots.wait(kind, deployment_id)
        job.slot = kind

    def _switch_slot(self, job: _Job, kind: Hashable, deployment: Deployment) -> bool:
        """Change to a slot of another kind; return False if the job has to wait for one."""
        if job.slot == kind:
            return True
        if not self._slots.take(kind):
            job.waits_for = kind, deployment
            return False
        self._leave_slot(job)
        job.slot = kind
        return True

    def _leave_slot(self, job: _Job) -> None:
        if job.slot is not None:
            self._slots.release(job.slot)
            job.slot = None

    def _warn(self, error: EventLogError) -> None:
        """Report what keeps jobs from using the event log; an outage is reported where it is found."""
        if not isinstance(error, DatabaseUnavailableError):
            self._patience.warn(LOGGER, f"Jobs are waiting for the event log: {error}")

    @asynccontextmanager
    async def _owned(self, deployment_id: UUID) -> AsyncIterator[bool]:
        ownership = self._repository.log.ownership(deployment_id)
        is_owner = await self._blocking(ownership.__enter__)
        try:
            yield is_owner
        finally:
            await asyncio.shield(self._blocking(ownership.__exit__, None, None, None))

    async def _settle(self, deployment_id: UUID) -> None:
        """Do the steps that the log shows until none is left."""
        while True:
            deployment = await self._blocking(self._repository.deployment, deployment_id)
            job = self._jobs[deployment_id]
            job.is_known = True
            job.is_late |= deployment_id in self._late
            self._late.discard(deployment_id)
            if deployment.orchestrator != self._pipeline.clients.orchestrator.name:
                return  # somebody else's
            step = deployment.next_step
            if step is None and not _is_unsettled(job, deployment):
                return
            kind = self._pipeline.kind_of_slot(step, deployment) if step else _RECONCILING
            if not self._switch_slot(job, kind, deployment):
                return
            if step is None:
                if not await self._unless_superseded(self._reconcile(job, deployment), deployment):
                    continue
                return
            if self._is_stopping:
                return
            record = await self._step_result(step, deployment)
            if record is not None:
                await self._record(step, deployment, record)

    async def _reconcile(self, job: _Job, deployment: Deployment) -> None:
        """Make what runs what the log says: the serving revision, and nothing else."""
        if job.is_late:
            job.is_late = False
            await asyncio.to_thread(sweep, self._pipeline.workspace)
        try:
            if not self._is_stopping:
                await self._pipeline.revive(deployment)
            await self._pipeline.tidy(deployment)
        except Exception as error:  # an orchestrator raises what it likes
            self._patience.warn(
                LOGGER, f"{deployment}: could not reconcile what runs with the log: {described(error)}"
            )
            again = self._reconciled_again.setdefault(deployment.id, pauses(_LONGEST_RECONCILE_PAUSE_SECONDS))
            self._later.add(task := asyncio.create_task(self._wake_later(deployment.id, next(again))))
            task.add_done_callback(self._later.discard)
        else:
            self._reconciled_again.pop(deployment.id, None)

    async def _wake_later(self, deployment_id: UUID, seconds: float) -> None:
        await self._calls.sleep(seconds)
        self._wake(deployment_id)

    async def _unless_superseded(
        self, work: Coroutine[object, object, _T], deployment: Deployment
    ) -> "asyncio.Task[_T] | None":
        """Return the work when it is done, or None if a command made it pointless and it was cancelled."""
        task = asyncio.create_task(work)
        superseded = asyncio.create_task(self._superseded(deployment))
        try:
            await asyncio.wait({task, superseded}, return_when=asyncio.FIRST_COMPLETED)
            return task if task.done() and not task.cancelled() else None
        finally:
            for each in (task, superseded):
                each.cancel()
            await asyncio.gather(task, superseded, return_exceptions=True)

    async def _step_result(self, step: Step, deployment: Deployment) -> Record | None:
        """Do one step; return how to record its result, or None if a command made it pointless."""
        job = self._jobs[deployment.id]
        job.has_worked = True
        try:
            done = await self._unless_superseded(self._attempt(job, step, deployment), deployment)
            return done.result() if done is not None else None
        finally:
            self.progress.pop(deployment.id, None)

    async def _attempt(self, job: _Job, step: Step, deployment: Deployment) -> Record | None:
        """Do one step within its deadline; return None if the service closes meanwhile."""
        deadline = self._calls.limits.steps[step]
        reports = _Reports(partial(self._progressed, deployment.id))
        work = job.step = asyncio.create_task(self._pipeline.run(step, deployment, reports.report))
        try:
            if not await self._calls.ends_within(deadline.total_seconds(), work):
                return self._failed(step, deployment, DeadlineError(step, f"Step {step}", deadline))
            return work.result()
        except asyncio.CancelledError:
            if work.cancelled() and not self._is_stopping:  # it cancelled itself
                return self._failed(step, deployment, RuntimeError("it was cancelled from within"))
            raise
        except Exception as error:  # whatever stops a step is its failure
            return self._failed(step, deployment, error)
        finally:
            reports.end()
            job.step = None
            work.cancel()
            await asyncio.wait({work})

    def _failed(self, step: Step, deployment: Deployment, error: BaseException) -> Record:
        failure = failure_of(step, error)
        # The event has the beginning and the end of a long message, and this is where the whole is.
        LOGGER.warning("%s: step %s failed: %s", deployment, step, described(error))
        if not isinstance(error, MachineLearningServiceError) or not isinstance(
            error.__cause__, Exception | None
        ):
            LOGGER.warning("Where it came from:\n%s", traceback_of(error))
        revision = deployment.revision.number
        return lambda current, by: current.fail(revision, failure, by=by)

    async def _superseded(self, deployment: Deployment) -> None:
        """Return when the deployment has an event that the job does not know, or lacks one that it knows."""
        woken = self._jobs[deployment.id].woken
        pause = pauses(_LONGEST_PAUSE_SECONDS)
        seconds = 0.0
        while True:
            seconds = max(_LOOK_AGAIN_SECONDS, len(self._jobs) / _MOST_LOOKS_PER_SECOND, seconds)
            with suppress(TimeoutError):
                # Not wait_for: where the event comes at the moment of being cancelled, it goes on.
                async with asyncio.timeout(seconds):
                    await woken.wait()
            was_woken, seconds = woken.is_set(), 0.0
            woken.clear()  # before it looks: whatever wakes it from now on makes it look again
            try:
                if (
                    await self._blocking(version_of, self._repository.log, deployment.id)
                    != deployment.version
                ):
                    return
                pause = pauses(_LONGEST_PAUSE_SECONDS)
            except asyncio.CancelledError:
                if was_woken:  # and nobody has looked
                    woken.set()
                raise
            except EventLogError as error:
                self._warn(error)
                seconds = next(pause)

    async def _record(self, step: Step, deployment: Deployment, record: Record) -> None:
        deployment_id = deployment.id

        def save(record: Record) -> None:
            current = self._repository.deployment(deployment_id)
            record(current, self._context(current))
            if current.state is State.DELETED:
                reservation = self._repository.reservation(current.name)
                reservation.release(current.id, by=self._context(current))
                self._repository.save(current, reservation)
            else:
                self._repository.save(current)

        pause = pauses(_LONGEST_PAUSE_SECONDS)
        while True:
            try:
                await self._blocking(save, record)
            except UndecodableEventError:
                raise
            except EventLogError as error:
                if self._is_stopping:
                    return  # the next process does the step again, and records it
                self._warn(error)
                await asyncio.sleep(max(_LOOK_AGAIN_SECONDS, next(pause)))
                continue
            except ConcurrencyError:
                return  # somebody gave a command just now: look at the log again
            except DeploymentError as error:  # a client's result that cannot be recorded
                record = self._failed(step, deployment, error)
                continue
            except MachineLearningServiceError as error:
                LOGGER.info("A result came too late: %s", error)
            except Exception as error:  # a malformed result of a client
                record = self._failed(step, deployment, error)
                continue
            self._on_change(deployment_id)
            return

    def _progressed(self, deployment_id: UUID, progress: StepProgress) -> None:
        self.progress[deployment_id] = progress
        self._on_change(deployment_id)

    def _blocking(self, call: Callable[..., _T], *args: object) -> "asyncio.Future[_T]":
        return self._loop.run_in_executor(self._executor, call, *args)


def _is_unsettled(job: _Job, deployment: Deployment) -> bool:
    """Return whether what runs may differ from the log."""
    if deployment.state is State.DELETED:  # nothing does, unless something was left to this job
        return job.is_late or not job.has_worked
    return deployment.state is not State.DELETE_FAILED
