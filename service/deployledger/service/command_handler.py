"""Handles commands: decide, store, and answer; once, however often a command is repeated."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from deployledger.domain.commands import (
    Cancel,
    Command,
    Delete,
    Deploy,
    DeploymentCommand,
    Retry,
    Rollback,
    Update,
)
from deployledger.domain.credential_refusal import refuse_credentials
from deployledger.domain.deployment import Deployment
from deployledger.domain.event_log import CommandKey, RepeatedCommandError
from deployledger.domain.events import CommandContext, DeploymentEvent, Event
from deployledger.domain.exceptions import (
    ConcurrencyError,
    ConfigurationError,
    ConflictError,
    DatabaseUnavailableError,
    ExternalServiceError,
    MachineLearningServiceError,
    ResourceNotFoundError,
)
from deployledger.domain.ids import new_id
from deployledger.domain.names import NameReservation
from deployledger.domain.redaction import shown
from deployledger.domain.requests import DeploymentRequest, Text, problem_of
from deployledger.domain.responses import DeploymentStatusResponse
from deployledger.projections import status
from deployledger.service.clients import Clients
from deployledger.service.idempotency import checked_key, require_event, require_same
from deployledger.service.patient_threads import PatientThreads
from deployledger.service.repository import Repository
from deployledger.service.simulation import SIMULATED

_MOST_ATTEMPTS = 50
_LONGEST_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class Decision:
    """What a command came to, before it is stored.

    Attributes:
        deployment: the deployment, with its new events.
        history: its events before.
        reservations: the reservations of names that change with it.
    """

    deployment: Deployment
    history: list[DeploymentEvent] = field(default_factory=list)
    reservations: tuple[NameReservation, ...] = ()


class CommandHandler:
    """Decides commands on deployments and stores what they come to.

    Args:
        clients: what the commands may ask for; the orchestrator's deployments are commanded.
        actor: who gives the commands.
        threads: runs the calls that block.
    """

    def __init__(
        self,
        repository: Repository,
        clients: Clients,
        *,
        actor: str,
        now: Callable[[], datetime],
        threads: PatientThreads,
    ) -> None:
        self._repository = repository
        self._clients = clients
        with suppress(ExternalServiceError):  # a folder that it cannot write is in the way of commands alone
            _ = self._orchestrator_name
        self.actor = checked_actor(actor)
        self._now = now
        self._threads = threads

    @cached_property
    def _orchestrator_name(self) -> str:
        name = self._clients.orchestrator.name
        refuse_credentials("The orchestrator", {"name": name}, hint="Give it a name without a credential.")
        return name

    async def handle(
        self, command: Command, *, key: str | None, actor: str | None, dry_run: bool = False
    ) -> DeploymentStatusResponse:
        """Decide a command and store what it comes to; again if the same stream was changed concurrently.

        Args:
            key: the idempotency key, if it has one.
            actor: who gives the command, if not the handler's actor.
            dry_run: store nothing; return what the answer would be.
        """
        actor = self.actor if actor is None else checked_actor(actor)
        fingerprint = ""
        if key is not None:
            fingerprint = command.fingerprint
            first = await self._threads.run(self._repository.log.command, checked_key(key))
            if first is not None:
                return await self._first_answer(first, fingerprint, command)
        by = CommandContext(actor, self._now())
        attempt = 0
        while True:
            attempt += 1
            try:
                if isinstance(command, Deploy) and attempt == 1:
                    # Most names were never taken: that is tried first, without looking.
                    decision = self._deploy_as(NameReservation(command.request.deployment_name), command, by)
                else:
                    decision = await self._threads.run(self._decide, command, by)
            except DatabaseUnavailableError:
                raise
            except MachineLearningServiceError:
                # It may be refused because it was done: by the same command, repeated at the same time.
                first = await self._threads.run(self._repository.log.command, key) if key else None
                if first is not None:
                    return await self._first_answer(first, fingerprint, command)
                raise
            deployment = decision.deployment
            own = deployment.collect_events()
            if not dry_run:
                events: list[Event] = [*own]
                for reservation in decision.reservations:
                    events += reservation.collect_events()
                command_key = CommandKey(key, fingerprint, deployment.id, deployment.version) if key else None
                try:
                    await self._repository.log.append_async(events, command_key)
                except RepeatedCommandError as repeated:
                    return await self._first_answer(repeated.first, fingerprint, command)
                except ConcurrencyError:
                    if attempt == _MOST_ATTEMPTS:
                        raise
                    if attempt > 1:
                        await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311  # no secret
                    continue
            return status.respond(status.fold([*decision.history, *own]))

    def load(self, deployment_id: UUID, expected_version: int | None = None) -> Decision:
        """Return a deployment of our orchestrator, with its history and nothing decided yet.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
            ConflictError: if another orchestrator manages it.
            StaleVersionError: if it is not at the expected version.
        """
        if expected_version is not None and type(expected_version) is not int:
            raise ConfigurationError(f"An expected version must be an int, not {shown(expected_version)}.")
        history = self._repository.history(deployment_id)
        deployment = Deployment.replay(history)
        if deployment.orchestrator != self._orchestrator_name:
            is_simulated = deployment.orchestrator == SIMULATED
            remedy = (
                ": MLModelDeploymentService() without one"
                if is_simulated
                else "; an embedded one belongs to a home (DEPLOYLEDGER_HOME) on one machine"
            )
            raise ConflictError(
                f"{deployment} belongs to the orchestrator {deployment.orchestrator!r}, "
                f"and this service has {self._orchestrator_name!r}.",
                hint=f"Send the command through a service with that orchestrator{remedy}.",
            )
        deployment.expect_version(expected_version)
        return Decision(deployment, history)

    # One handler a command ---------------------------------------------------------------------------

    def _decide(self, command: Command, by: CommandContext) -> Decision:
        if isinstance(command, Deploy):
            return self._deploy(command, by)
        assert isinstance(command, DeploymentCommand)  # noqa: S101  # there are no others
        decision = self.load(command.deployment_id, command.expected_version)
        deployment = decision.deployment
        match command:
            case Update(request=request):
                return self._update(decision, request, by)
            case Rollback(to_revision=number):
                self._clients.check_revision(deployment, number)
                deployment.request_rollback(number, by=by)
            case Retry():
                self._clients.check_revision(deployment, deployment.revision.number)
                deployment.retry(by=by)
            case Cancel():
                deployment.cancel(by=by)
            case Delete():
                deployment.request_deletion(by=by)
        return decision

    def _deploy(self, command: Deploy, by: CommandContext) -> Decision:
        reservation = self._repository.reservation(command.request.deployment_name)
        if reservation.holder is not None and command.request.version_strategy == "update_existing":
            return self._update(self.load(reservation.holder), command.request, by)
        return self._deploy_as(reservation, command, by)

    def _deploy_as(self, reservation: NameReservation, command: Deploy, by: CommandContext) -> Decision:
        deployment = self._requested(command.request, by)
        reservation.reserve(deployment.id, by=by)
        return Decision(deployment, reservations=(reservation,))

    def _requested(self, request: DeploymentRequest, by: CommandContext) -> Deployment:
        return Deployment.request(new_id(), request, orchestrator=self._orchestrator_name, by=by)

    def _update(self, decision: Decision, request: DeploymentRequest, by: CommandContext) -> Decision:
        deployment = decision.deployment
        old_name = deployment.name
        deployment.request_update(request, by=by)
        if request.deployment_name == old_name:
            return decision
        taken = self._repository.reservation(request.deployment_name)
        taken.reserve(deployment.id, by=by)
        released = self._repository.reservation(old_name)
        released.release(deployment.id, by=by)
        return replace(decision, reservations=(taken, released))

    async def _first_answer(
        self, first: CommandKey, fingerprint: str, command: Command
    ) -> DeploymentStatusResponse:
        """Return what the first command with the key answered."""
        require_same(first, fingerprint)
        history: list[DeploymentEvent] = []
        with suppress(ResourceNotFoundError):
            history = await self._threads.run(self._repository.history, first.deployment_id)
        expected: DeploymentEvent | None = None
        if isinstance(command, Deploy | Update):
            by = CommandContext(self.actor, self._now())
            (expected,) = self._requested(command.request, by).collect_events()
        require_event(first, history, expected)
        return status.respond(status.fold(history[: first.version]))


_ACTOR_HINT = "Set DEPLOYLEDGER_ACTOR, or pass actor=…, to the name of a person or a program."


def checked_actor(actor: str) -> str:
    """Return who gives commands.

    Raises:
        ConfigurationError: if an event cannot have it.
    """
    try:
        checked = TypeAdapter(Text).validate_python(actor)
    except ValidationError as error:
        raise ConfigurationError(
            f"The actor is invalid: {problem_of(error.errors(include_url=False)[0])}.",
            hint=_ACTOR_HINT,
        ) from None
    refuse_credentials("The command", {"actor": checked}, hint=_ACTOR_HINT)
    return checked
