"""The deployment service: its commands and queries."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self
from uuid import UUID

from deployledger.audit.ledger import Ledger
from deployledger.audit.replaying import Replayed, replay
from deployledger.domain.commands import Cancel, Command, Delete, Deploy, Retry, Rollback, Update
from deployledger.domain.event_log import EventLog
from deployledger.domain.exceptions import (
    ConfigurationError,
    DatabaseUnavailableError,
    LogDivergedError,
    ReadModelError,
    ResourceNotFoundError,
    WaitTimeoutError,
)
from deployledger.domain.findings import Finding
from deployledger.domain.lifecycle import State
from deployledger.domain.logs import logger
from deployledger.domain.moments import AsOf
from deployledger.domain.ports import Observation
from deployledger.domain.redaction import storable
from deployledger.domain.requests import DeploymentRequest
from deployledger.domain.responses import (
    DeploymentDifference,
    DeploymentHistoryEntry,
    DeploymentPage,
    DeploymentStatus,
    DeploymentStatusResponse,
)
from deployledger.domain.sentences import ordinal
from deployledger.projections.history import parked_hint
from deployledger.projections.partitioning import Progress
from deployledger.projections.projection import Consistency
from deployledger.projections.read_models import ReadModels
from deployledger.projections.status import DEPLOYMENT_STATUS
from deployledger.service.background_work import BackgroundWork
from deployledger.service.clients import Clients
from deployledger.service.clock_corrector import ClockCorrection, ClockCorrector
from deployledger.service.command_handler import CommandHandler, checked_actor
from deployledger.service.disk_usage import DiskUsage, measure
from deployledger.service.empty_logs import EmptyLogs, explain_empty_logs
from deployledger.service.failures import described
from deployledger.service.files.staging import sweep
from deployledger.service.freeing import Freed, Freeing, KeepRules, log_id
from deployledger.service.lifespan import Lifespan
from deployledger.service.listing import Filters, Listing, answer, is_text, list_page, page_as_of
from deployledger.service.log_reading import LoggedEvent, LogQuery, LogReader
from deployledger.service.lookup import find, find_id, find_to_change, warn_if_ambiguous
from deployledger.service.outside_calls import Call, CallLimits, OutsideCalls, Sleep
from deployledger.service.past import Past
from deployledger.service.patient_threads import PatientThreads
from deployledger.service.pipeline import Pipeline
from deployledger.service.repository import Repository, check_id
from deployledger.service.stored_files import (
    Recorded,
    StoredFiles,
    contradictions,
    findings,
    missing,
    stored_files,
)
from deployledger.service.watchers import Watchers

LOGGER = logger()


class DeploymentService:
    """Deploys models, and records the history of every deployment.

    Commands record what was asked for and return at once; the work is done in the background, by this
    process or by another one on the same event log. Questions are answered from the event log, and see
    everything that was acknowledged before they were asked. No method blocks the event loop, and a
    service may be used from one event loop after another.

    Args:
        log: where events are stored.
        read_models: what questions are answered from.
        clients: the outside; missing clients are simulated.
        ledger: proves that the log was not edited.
        checkpoint_every: so many events, or seconds, after which a process that resumes makes a checkpoint,
            if the ledger has a key.
        workspace: a folder for what is being downloaded, in the home.
        largest_model: how many bytes a model may have; None sets no limit.
        keep: which stored files are not freed, besides those that are in use.
        actor: who gives the commands, recorded with each event.
        run_jobs: whether this process does the work of deployments, or leaves that to others.
        resume: whether it also takes up what other processes leave: unfinished jobs, on opening, and the
            commands that they give later.
        now: the clock; returns aware datetimes in UTC.
        limits: how long calls to the clients may take.
        sleep: waits for so many seconds; deadlines are measured by it, not by the clock.
    """

    def __init__(
        self,
        log: EventLog,
        read_models: ReadModels,
        clients: Clients,
        *,
        ledger: Ledger,
        checkpoint_every: tuple[int, float] = (1000, 60.0),
        workspace: Path,
        largest_model: int | None = None,
        keep: KeepRules = KeepRules(),  # noqa: B008  # it is immutable
        actor: str,
        run_jobs: bool = True,
        resume: bool = True,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        limits: CallLimits = CallLimits(),  # noqa: B008  # it is immutable
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._log = log
        self._clients = clients
        self._orchestrator = clients.orchestrator
        self._repository = Repository(log)
        self._models = read_models
        self._ledger = ledger
        self._past = Past(log, read_models.largest_row, now)
        self._clock = ClockCorrector(log, now)
        self._keep = keep
        self._now = now
        self._calls = OutsideCalls(limits, sleep=sleep)
        self._pipeline = Pipeline(
            clients, self._calls, workspace, partial(log_id, log), largest_model=largest_model
        )
        self._watchers = Watchers()
        self._threads = PatientThreads(read_models.patience)
        self._commands = CommandHandler(
            self._repository, clients, actor=actor, now=now, threads=self._threads
        )
        self._background = BackgroundWork(
            self._repository,
            read_models,
            ledger,
            self._pipeline,
            self._watchers,
            checkpoint_every=checkpoint_every,
            run_jobs=run_jobs,
            resume=resume,
            now=now,
        )
        self._lifespan = Lifespan(log, read_models, ledger, self._background, self._threads)
        self._blocking = self._lifespan.blocking
        if clients.simulated:
            LOGGER.warning(
                "Placeholder mode: no %s was given; its work is simulated.",
                ", no ".join(clients.simulated),
            )

    # Commands ---------------------------------------------------------------------------------------

    async def deploy_model(
        self, request: DeploymentRequest, *, idempotency_key: str | None = None, actor: str | None = None
    ) -> DeploymentStatusResponse:
        """Deploy a model under a new name; returns at once, with status ``creating``.

        With ``version_strategy="update_existing"`` a name in use makes it an update of that deployment.

        Args:
            idempotency_key: a name for this command, 1 to 255 characters; repeated with the same body it
                takes effect once and gives the first answer. All commands take one.
            actor: who gives this command, recorded with its events; the default is the service's actor. For
                servers that act for many users. All commands take one.

        Raises:
            ConfigurationError: if the request is not one that this service can serve.
            NameInUseError: if another deployment has the name.
            IdempotencyKeyReusedError: if the key was used before, with another body.
        """
        command = Deploy(request=self._clients.accepted(request))
        return await self._handle(command, idempotency_key, actor)

    async def update_deployment(
        self,
        deployment_id: UUID,
        request: DeploymentRequest,
        *,
        idempotency_key: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> DeploymentStatusResponse:
        """Make a new revision of a deployment; returns at once, typically with status ``updating``.

        The revision that serves keeps serving until the new one is ready, and for good if that fails.
        An update in progress is superseded. Another ``deployment_name`` renames the deployment.

        Args:
            expected_version: the ``version`` of the status that the caller looked at; if something
                happened since, the command is refused. All commands on a deployment take one.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
            ConfigurationError: if the request is not one that this service can serve.
            IllegalTransitionError: if it is being deleted, or was.
            StaleVersionError: if it is not at the expected version.
        """
        request = self._clients.accepted(request)
        command = Update(deployment_id=deployment_id, expected_version=expected_version, request=request)
        return await self._handle(command, idempotency_key, actor)

    async def rollback_deployment(
        self,
        deployment_id: UUID,
        to_revision: int,
        *,
        idempotency_key: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
    ) -> DeploymentStatusResponse:
        """Make a new revision that repeats an earlier one, from the very same bytes.

        Raises:
            ResourceNotFoundError: if there is no such deployment or revision.
            ConflictError: if that revision is the newest one, or was never fetched.
            ConfigurationError: if the orchestrator does not serve such targets (any more).
        """
        command = Rollback(
            deployment_id=deployment_id, expected_version=expected_version, to_revision=to_revision
        )
        return await self._handle(command, idempotency_key, actor)

    async def retry_deployment(
        self,
        deployment_id: UUID,
        *,
        idempotency_key: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
        dry_run: bool = False,
    ) -> DeploymentStatusResponse:
        """Try the newest revision again after it failed or was cancelled.

        Args:
            dry_run: change nothing; return what the answer would be, or raise why there is none.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
            IllegalTransitionError: if it neither failed nor was cancelled.
            ConfigurationError: if the orchestrator does not serve such targets (any more).
        """
        command = Retry(deployment_id=deployment_id, expected_version=expected_version)
        return await self._handle(command, idempotency_key, actor, dry_run=dry_run)

    async def cancel_deployment(
        self,
        deployment_id: UUID,
        *,
        idempotency_key: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
        dry_run: bool = False,
    ) -> DeploymentStatusResponse:
        """Cancel a deployment or an update in progress; the revision that served before keeps serving.

        Args:
            dry_run: as for `retry_deployment`.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
            IllegalTransitionError: if nothing is in progress.
        """
        command = Cancel(deployment_id=deployment_id, expected_version=expected_version)
        return await self._handle(command, idempotency_key, actor, dry_run=dry_run)

    async def delete_deployment(
        self,
        deployment_id: UUID,
        *,
        idempotency_key: str | None = None,
        expected_version: int | None = None,
        actor: str | None = None,
        dry_run: bool = False,
    ) -> DeploymentStatusResponse:
        """Stop a deployment and delete it; returns at once, with status ``deleting``.

        Args:
            dry_run: as for `retry_deployment`.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
            IllegalTransitionError: if it is being deleted, or was.
        """
        command = Delete(deployment_id=deployment_id, expected_version=expected_version)
        return await self._handle(command, idempotency_key, actor, dry_run=dry_run)

    async def _handle(
        self, command: Command, key: str | None, actor: str | None, *, dry_run: bool = False
    ) -> DeploymentStatusResponse:
        await self._lifespan.opened()
        if dry_run:
            return await self._commands.handle(command, key=key, actor=actor, dry_run=True)
        self._background.has_written = True
        accepted = await self._commands.handle(command, key=key, actor=actor)
        self._background.wake(accepted.deployment_id)
        return accepted

    # Questions --------------------------------------------------------------------------------------

    async def get_deployment_status(
        self,
        deployment_id: UUID,
        *,
        consistency: Consistency | str = Consistency.CURRENT,
        as_of: AsOf | str | None = None,
    ) -> DeploymentStatusResponse:
        """Return the complete status of a deployment, now or at a moment of the past.

        Args:
            consistency: ``current`` shows everything that was acknowledged before; ``eventual`` answers at
                once from what is available, with the ``position`` of the log up to which that is true.
            as_of: the moment: a time with its zone, to which all events belong that the log recorded then
                or before; a position of the log; or ``AtRevision(n)``, the last moment at which that was
                the newest revision. A text is read as `deployledger.domain.moments.parse` says.

        Raises:
            ResourceNotFoundError: if there is no such deployment; NotYetRequestedError if it did not exist
                at that moment; RevisionNotFoundError if it has no such revision.
            ConfigurationError: if the moment is invalid, has no time zone, or is in the future.
        """
        return await self._blocking(self._status, deployment_id, consistency, as_of)

    def _status(
        self,
        deployment_id: UUID,
        consistency: Consistency | str = Consistency.CURRENT,
        as_of: AsOf | str | None = None,
    ) -> DeploymentStatusResponse:
        if as_of is not None:
            if consistency != Consistency.CURRENT:
                raise ConfigurationError(
                    f"consistency={str(consistency)!r} and a moment of the past contradict each other: "
                    "the past does not change."
                )
            return self._past.status(deployment_id, as_of)
        check_id(deployment_id)
        stored = self._models.find(DEPLOYMENT_STATUS, str(deployment_id), consistency)
        if stored.row is None:
            raise ResourceNotFoundError("Deployment", deployment_id)
        status = answer(self._models, stored.row)
        if consistency != Consistency.CURRENT:
            status = status.model_copy(update={"position": stored.position})
        line = self._background.queue_position(deployment_id)
        if line is not None and status.progress is not None:
            return status.model_copy(
                update={
                    "message": f"{status.message} Waiting for a slot: {ordinal(line)}.",
                    "progress": status.progress.model_copy(update={"queue_position": line}),
                }
            )
        step = self._background.progress(deployment_id)
        if step is None or status.progress is None:
            return status
        progress = status.progress.model_copy(
            update={"done": step.done, "total": step.total, "unit": step.unit}
        )
        return status.model_copy(update={"progress": progress})

    async def list_deployments(
        self,
        limit: int = 100,
        offset: int = 0,
        *,
        status: DeploymentStatus | str | None = None,
        name_contains: str | None = None,
        tags: dict[str, Any] | None = None,
        model_uri_prefix: str | None = None,
        target_type: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        updated_after: datetime | None = None,
        updated_before: datetime | None = None,
        include_deleted: bool = False,
        sort: str = "created_at",
        descending: bool = False,
        cursor: str | None = None,
        consistency: Consistency | str = Consistency.CURRENT,
        as_of: AsOf | str | None = None,
    ) -> DeploymentPage:
        """Return a page of deployments: a list, which also knows the total and the next page's cursor.

        All filters must hold. The order is stable: equals are in the order in which they were requested.

        Args:
            limit: how many at most, 1 to 1000.
            offset: how many to skip.
            status: only those with this status.
            name_contains: only those whose name contains this (case-insensitive).
            tags: only those with these tags; a value of None means any value.
            model_uri_prefix: only those whose model URI begins so.
            target_type: only those with this type of target.
            created_after: only those that were requested then or later; ``created_before``: earlier.
            updated_after: only those whose last event was then or later; ``updated_before``: earlier.
            include_deleted: whether deployments that were deleted are in the list.
            sort: ``created_at``, ``updated_at``, ``name`` or ``status``.
            descending: in descending order.
            cursor: the ``next_cursor`` of the previous page, instead of an offset: nothing is skipped or
                seen twice, whatever is requested or deleted in between.
            consistency: as for `get_deployment_status`.
            as_of: a moment of the past: a datetime with its zone, a position of the event log, or either of
                them as a text. The list is then as it was: what it has, in which order, and what is said of
                each. Filters and orders are by what was so then; ``position`` says which position it was.

        Raises:
            ConfigurationError: if a filter is malformed, filters contradict each other, limit or offset are
                out of range, the cursor is not one of this list, or ``as_of`` is not a moment of the past.
        """
        listing = Listing(
            limit=limit,
            offset=offset,
            cursor=cursor,
            sort=sort,
            descending=descending,
            filters=Filters(
                status=status,
                name_contains=name_contains,
                tags=tags,
                model_uri_prefix=model_uri_prefix,
                target_type=target_type,
                created_after=created_after,
                created_before=created_before,
                updated_after=updated_after,
                updated_before=updated_before,
                include_deleted=include_deleted,
            ),
        )
        if as_of is None:
            return await self._blocking(list_page, self._models, listing, consistency)
        if consistency != Consistency.CURRENT:
            raise ConfigurationError(
                f"consistency={str(consistency)!r} and as_of contradict each other: "
                "the past does not change.",
                hint="Leave consistency out.",
            )
        return await self._blocking(page_as_of, self._models, self._past, listing, as_of)

    async def find_deployment(
        self, reference: str, *, as_of: AsOf | str | None = None
    ) -> DeploymentStatusResponse:
        """Return the deployment that a name, an id or a unique prefix of an id means.

        A name that is free again means the deployment that had it last.

        Args:
            as_of: a moment of the past, as for `get_deployment_status`. A name means the deployment that
                had it then; if none had it by then, the one that it means now.

        Raises:
            ResourceNotFoundError: if none is meant, or it did not exist at that moment.
            ConfigurationError: if the prefix is ambiguous, or the moment invalid.
        """

        def find_and_look() -> DeploymentStatusResponse:
            if as_of is None or not is_text(reference):
                meant = find(reference, self._repository, self._models)
            else:
                then = find_id(reference, self._repository) or self._past.holder(reference, as_of)
                if then is not None:
                    warn_if_ambiguous(reference, then, self._models)
                meant = then or find(reference, self._repository, self._models)
            return self._status(meant, as_of=as_of)

        return await self._blocking(find_and_look)

    async def find_deployment_id(self, reference: str, *, to_change: bool = False) -> UUID:
        """Return the id of the deployment that a name, an id or a unique prefix of an id means.

        Unlike `find_deployment` it reads nothing else, so it finds one whose status cannot be shown. An
        id is taken as it is, also if no deployment uses it.

        Args:
            to_change: whether a command is to be given to it. A name that the deployment no longer has, and
                what is the name of one and the beginning of the id of another, is then refused.

        Raises:
            ResourceNotFoundError: if none is meant.
            ConfigurationError: if the prefix fits several.
        """
        finding = find_to_change if to_change else find
        return await self._blocking(finding, reference, self._repository, self._models)

    async def get_deployment_history(self, deployment_id: UUID) -> list[DeploymentHistoryEntry]:
        """Return every event of a deployment, oldest first, with what it changed and how long it took.

        An event that does not decode, or that the lifecycle does not allow, is among them and says so.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
        """
        return await self._blocking(self._past.history, deployment_id)

    async def diff_deployment(
        self, deployment_id: UUID, from_: AsOf | str | None = None, to: AsOf | str | None = None
    ) -> DeploymentDifference:
        """Return the differences in a deployment between two moments.

        Args:
            from_: the first moment, as for `get_deployment_status`; the default is the revision before the
                one that is the newest at the second moment.
            to: the second moment; the default is now.

        Raises:
            ResourceNotFoundError: as `get_deployment_status`.
            ConfigurationError: as `get_deployment_status`, or if there is no revision before.
        """
        return await self._blocking(self._past.difference, deployment_id, from_, to)

    async def position_at(self, as_of: AsOf | str, *, deployment_id: UUID | None = None) -> int:
        """Return the position of the last event that had happened at a moment; 0 if none had.

        Args:
            as_of: the moment, as for `get_deployment_status`.
            deployment_id: the deployment that a revision is of.

        Raises:
            ConfigurationError: if the moment is invalid, in the future, or a revision without a deployment.
            ResourceNotFoundError: if there is no such deployment or revision.
        """
        return await self._blocking(self._past.position, as_of, deployment_id)

    async def replay(
        self,
        *,
        deployment_id: UUID | None = None,
        until: AsOf | str | None = None,
        workers: int = 1,
        against: object = None,
        progress: Progress = lambda done, total: None,
    ) -> Replayed:
        """Run the log through the domain again; see `deployledger.audit.replaying.replay`.

        Args:
            deployment_id: only this deployment.
            until: up to this moment, as for `get_deployment_status`; the default is the end of the log.

        Raises:
            ConfigurationError: as `replay` and `position_at`.
            ResourceNotFoundError: if there is no such deployment.
        """
        if deployment_id is not None:
            check_id(deployment_id)
        position = None if until is None else await self.position_at(until, deployment_id=deployment_id)
        return await self._blocking(
            replay,
            self._log,
            until=position,
            deployment_id=deployment_id,
            workers=workers,
            against=against,
            progress=progress,
        )

    async def read_log(
        self,
        *,
        after: int | None = None,
        last: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        topics: Sequence[str] = (),
        deployment_id: UUID | None = None,
        actor: str | None = None,
        name_contains: str | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LoggedEvent]:
        """Yield events of the log in its order, each with the name of the deployment that it is about.

        All filters must hold. Without ``after``, ``since`` and ``last`` it begins with the first event.

        Args:
            after: only those after this position.
            last: without ``after`` and ``since``: no more of what is there than the last so many.
            since: only those that happened then or later; ``until``: earlier.
            topics: only those of these topics.
            deployment_id: only those of this deployment.
            actor: only those that this actor caused; what a job records is caused by ``deployledger``.
            name_contains: only those of deployments (and of names) that then had this in their name, in upper
                or lower case.
            follow: go on as events are added, by any process, until the moment ``until``.

        Raises:
            ConfigurationError: if there is no such position or topic, a time has no zone, ``since`` is in the
                future, or filters contradict each other.
            UndecodableEventError: if one of the events cannot be read; those before it were yielded.
        """
        query = LogQuery(
            after=after,
            last=last,
            since=since,
            until=until,
            topics=topics,
            deployment_id=deployment_id,
            actor=actor,
            name_contains=name_contains,
        )
        await self._lifespan.opened()
        reader = LogReader(self._log, self._past, query, self._now, self._threads)
        async for logged in reader.read(follow=follow):
            yield logged

    async def correct_clock(
        self, *, withdraw: bool = False, dry_run: bool = False, actor: str | None = None
    ) -> ClockCorrection:
        """Record that the log's last times have not come yet: the clock was ahead when they were recorded.

        The times that were recorded stay in the log. What happens from now on is recorded by the clock as it
        is, which must be right by now; when the events before happened is taken from what else is known.

        Args:
            withdraw: take the last correction back, because the clock was behind when it was made.
            dry_run: record nothing; return what would be.

        Returns:
            What was recorded. If the log has no such times, nothing is recorded, and its ``wrong`` is None.

        Raises:
            ConflictError: if there is no correction to withdraw, or it cannot be withdrawn yet, this
                machine's clock and that of the database server disagree, or another process corrects the
                clock at the same time.
        """
        return await self._blocking(
            self._clock.correct,
            self._commands.actor if actor is None else checked_actor(actor),
            withdraw=withdraw,
            dry_run=dry_run,
        )

    async def watch_deployment(self, deployment_id: UUID) -> AsyncIterator[DeploymentStatusResponse]:
        """Yield the status now, and again whenever it changes, until the deployment is deleted.

        While a database is unavailable, it keeps waiting.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
            LogDivergedError: if there no longer is, because the event log went back to an earlier state.
        """
        last: DeploymentStatusResponse | None = None
        with self._watchers.watch(deployment_id) as changed:
            while True:
                try:
                    current = await self.get_deployment_status(deployment_id)
                except DatabaseUnavailableError:  # which is reported where it is found
                    await changed()
                    continue
                except ResourceNotFoundError as error:
                    if last is None:
                        raise
                    # Deployments are never removed from the log: it is another one, or an earlier state.
                    raise LogDivergedError(self._log.described_as, deployment_id=deployment_id) from error
                if current != last:
                    yield current
                    last = current
                if current.state == State.DELETED:
                    return
                await changed()

    async def wait_for_deployment(
        self,
        deployment_id: UUID,
        timeout: float | None = None,  # noqa: ASYNC109  # the error says more than asyncio.timeout's
    ) -> DeploymentStatusResponse:
        """Return the status once no job is in progress: it serves, completed, failed or was deleted.

        Args:
            timeout: how many seconds to wait; None waits as long as it takes.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
            LogDivergedError: if there no longer is, because the event log went back to an earlier state.
            WaitTimeoutError: if a job is still in progress after that time; it continues.
            ReadModelError: if the status is not current, because events could not be applied.
        """
        current: DeploymentStatusResponse | None = None
        try:
            async with asyncio.timeout(timeout):
                async for current in self.watch_deployment(deployment_id):
                    if current.warning:  # a job may have ended, and the status would never say so
                        raise ReadModelError(
                            f"Cannot tell whether the job of deployment {deployment_id} has ended. "
                            f"{current.message}",
                            hint=parked_hint(DEPLOYMENT_STATUS.name),
                        )
                    if current.progress is None:
                        return current
        except TimeoutError:
            seen = f"{current.status}: {current.message}" if current else "not looked at yet"
            raise WaitTimeoutError(
                f"Deployment {deployment_id} was still in progress after {timeout:g} seconds ({seen}).",
                hint="It continues; wait again.",
            ) from None
        return await self.get_deployment_status(deployment_id)

    async def observe_deployment(self, deployment_id: UUID) -> Observation:
        """Return the state of a deployment as the orchestrator observes it now.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
        """
        await self._blocking(self._commands.load, deployment_id)
        observed = await self._calls.call(Call.QUERY, None, self._orchestrator.observe, deployment_id)
        return replace(observed, detail=storable(observed.detail))

    async def deployment_logs(self, deployment_id: UUID, *, follow: bool = False) -> AsyncIterator[str]:
        """Yield the log lines of what runs the newest revision, without credentials.

        With ``follow``, go on until the deployment is deleted. `empty_logs` tells why there are none.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
        """
        deployment = (await self._blocking(self._commands.load, deployment_id)).deployment
        follow = follow and deployment.state is not State.DELETED
        lines = self._calls.lines(Call.QUERY, self._orchestrator.logs, deployment_id, follow=follow)
        async with aclosing(lines):
            async for line in lines:
                yield storable(line)

    async def empty_logs(self, deployment_id: UUID) -> EmptyLogs:
        """Return why `deployment_logs` has no lines, assuming that it has none.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
        """
        deployment = await self.get_deployment_status(deployment_id)
        return explain_empty_logs(deployment, await self.observe_deployment(deployment_id))

    # Stored files -----------------------------------------------------------------------------------

    async def list_artifacts(self) -> list[StoredFiles]:
        """Return the models and images stored on this machine, and the revisions that they belong to.

        Clients that keep files on this machine report them: those that are
        `deployledger.domain.stored.KeepsFiles`. Damage is only reported where names and sizes show it.

        Raises:
            MachineLearningServiceError: if something cannot be read.
        """
        recorded = await self._blocking(Recorded.read, self._log)
        return await stored_files(self._calls, self._keepers, recorded, read=False)

    async def verify_artifacts(self) -> list[Finding]:
        """Read everything that `list_artifacts` returns, and compare it with its digests and with the log.

        Nothing is changed, and deployments go on meanwhile. It takes as long as reading all files.

        Raises:
            MachineLearningServiceError: if something cannot be read.
        """
        recorded = await self._blocking(Recorded.read, self._log)
        files = await stored_files(self._calls, self._keepers, recorded, read=True)
        absent = missing(recorded, files, self._orchestrator.name) if self._clients.artifacts else ()
        return [*findings(files, recorded), *contradictions(recorded), *absent]

    async def free_artifacts(self, *, dry_run: bool = False) -> Freed:
        """Free stored files on this machine that no revision needs, not even for a rollback.

        Deployments go on meanwhile, in any process: what a step just stored is not freed. Models that other
        event logs use, or that are not in this one, are left alone.

        Args:
            dry_run: whether nothing is freed.

        Raises:
            MachineLearningServiceError: if something cannot be read or removed.
        """
        user = await self._blocking(self._pipeline.log_id)
        freeing = Freeing(self._log, self._calls, rules=self._keep, user=user, now=self._now)
        freed = await freeing.run(self._keepers, self._orchestrator, dry_run=dry_run)
        if not dry_run:
            await self._threads.run(sweep, self._pipeline.workspace)
            for each in freed.freed:
                LOGGER.info("Freed %s: %s.", each.files.stored.path, each.reason)
        return freed

    async def disk_usage(self) -> DiskUsage:
        """Return the disk usage of the home by kind and by deployment, and how much of it can be freed.

        Raises:
            MachineLearningServiceError: if something cannot be read.
        """
        freeable = await self.free_artifacts(dry_run=True)
        home = self._pipeline.workspace.parent
        return await self._blocking(measure, home, freeable, self._log)

    @property
    def _keepers(self) -> list[object]:
        return [self._clients.artifacts, self._clients.container_registry, self._clients.orchestrator]

    # Background work --------------------------------------------------------------------------------

    async def resume_deployment(self, deployment_id: UUID) -> DeploymentStatusResponse:
        """Resume the job of a deployment; does nothing if there is none, or a process is working on it.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
        """
        await self._blocking(self._commands.load, deployment_id)
        self._background.wake(deployment_id)
        return await self.get_deployment_status(deployment_id)

    async def settled(self, deployment_id: UUID) -> None:
        """Return once this process has finished all work on the deployment, cleanup included."""
        with self._watchers.watch(deployment_id) as changed:
            while not self._lifespan.is_of_another_process and self._background.is_working_on(deployment_id):
                await changed()

    @property
    def event_log(self) -> EventLog:
        """The event log: to read, follow and upgrade. Its methods block."""
        return self._log

    @property
    def read_models(self) -> ReadModels:
        """The read models: to read, follow, rebuild and verify. Their methods block."""
        return self._models

    @property
    def ledger(self) -> Ledger:
        """The ledger: checkpoints, proofs, and verifying the log. Its methods block."""
        return self._ledger

    async def unfinished_deployments(self) -> list[UUID]:
        """Return the deployments that have work to do, whichever process does it."""
        return await self._blocking(self._background.unfinished.in_progress)

    async def is_left(self, deployment_id: UUID) -> bool:
        """Return whether a deployment of this orchestrator has work to do that no process is doing.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
        """
        return await self._blocking(self._background.unfinished.is_left, deployment_id)

    async def leftovers(self) -> list[UUID]:
        """Return the deployments with running servers that should be stopped, and no process working on them.

        A process that is killed after an update became active, and before it has stopped the servers of the
        revision before, leaves such; so does one that closes right after it has requested a deletion.
        `resume_deployment` continues with them.
        """
        try:
            provisioned = await self._calls.call(Call.QUERY, None, self._orchestrator.provisioned)
            if not provisioned:
                return []
            return await self._blocking(self._background.unfinished.leftovers, provisioned)
        except Exception as error:  # an orchestrator raises what it likes
            LOGGER.warning("The orchestrator failed to list what it runs: %s", described(error))
            return []

    async def __aenter__(self) -> Self:
        try:
            await self._lifespan.opened()
        except asyncio.CancelledError:  # as by Ctrl-C: nobody else closes it
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop working and close the event log; jobs in progress are resumed by the next service.

        Servers that a job of this process has just replaced or made superfluous are stopped first: requests
        that are on their way get some seconds to finish. That takes 15 seconds at most.
        """
        await self._lifespan.close()
