"""Giving commands: decide, store, and answer; once, however often a command is repeated."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from deployledger.domain.credentials.refusing import refuse_credentials
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
from deployledger.domain.fingerprints import fingerprint
from deployledger.domain.names import NameReservation
from deployledger.domain.redaction import shown
from deployledger.domain.schemas import DeploymentRequest, DeploymentStatusResponse, Text, problem_of
from deployledger.projections import status
from deployledger.service.clients import SIMULATED
from deployledger.service.idempotency import checked_key, require_event, require_same
from deployledger.service.repository import Repository

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


Decide = Callable[[CommandContext], Decision]


class RunBlocking(Protocol):
    """Runs a call that blocks, outside of the event loop."""

    def __call__(self, call: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Return what the call returns."""
        ...


class Commands:
    """Decides commands on deployments and stores what they come to.

    Args:
        orchestrator: returns the name of the orchestrator whose deployments are commanded. One that keeps it
            in a folder that it cannot write is in the way of commands alone.
        actor: who gives the commands.
        blocking: runs the calls that block.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        orchestrator: Callable[[], str],
        actor: str,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        blocking: RunBlocking,
    ) -> None:
        self._repository = repository
        self._name_orchestrator = orchestrator
        with suppress(ExternalServiceError):
            _ = self._orchestrator
        self.actor = checked_actor(actor)
        self._now = now
        self._new_id = new_id
        self._blocking = blocking

    @cached_property
    def _orchestrator(self) -> str:
        name = self._name_orchestrator()
        refuse_credentials("The orchestrator", {"name": name}, hint="Give it a name without a credential.")
        return name

    async def deploy(
        self, request: DeploymentRequest, key: str | None, actor: str | None
    ) -> DeploymentStatusResponse:
        """Request a new deployment, or an update if the name is in use and the request says so."""
        name = request.deployment_name

        def decide(by: CommandContext, reservation: NameReservation) -> Decision:
            deployment = Deployment.request(self._new_id(), request, orchestrator=self._orchestrator, by=by)
            reservation.reserve(deployment.id, by=by)
            return Decision(deployment, reservations=(reservation,))

        def look_and_decide(by: CommandContext) -> Decision:
            reservation = self._repository.reservation(name)
            if reservation.holder is not None and request.version_strategy == "update_existing":
                return self._update(reservation.holder, request, by, None)
            return decide(by, reservation)

        # Most names were never taken: that is tried first, without looking.
        return await self._give(
            look_and_decide,
            key,
            lambda: fingerprint("deploy", request=request),
            actor,
            request=request,
            without_looking=lambda by: decide(by, NameReservation(name)),
        )

    async def update(
        self,
        deployment_id: UUID,
        request: DeploymentRequest,
        key: str | None,
        expected_version: int | None,
        actor: str | None,
    ) -> DeploymentStatusResponse:
        """Request a new revision; another name renames the deployment."""
        return await self._give(
            lambda by: self._update(deployment_id, request, by, expected_version),
            key,
            lambda: fingerprint("update", deployment_id, request=request, expected_version=expected_version),
            actor,
            request=request,
        )

    async def on(
        self,
        deployment_id: UUID,
        name: str,
        command: Callable[[Deployment, CommandContext], None],
        key: str | None,
        expected_version: int | None,
        actor: str | None,
        *,
        dry_run: bool = False,
        **body: int | None,
    ) -> DeploymentStatusResponse:
        """Give a command that concerns the deployment alone; ``name`` and ``body`` tell it from others."""

        def decide(by: CommandContext) -> Decision:
            deployment, history = self.load(deployment_id, expected_version)
            command(deployment, by)
            return Decision(deployment, history)

        return await self._give(
            decide,
            key,
            lambda: fingerprint(name, deployment_id, expected_version=expected_version, **body),
            actor,
            dry_run=dry_run,
        )

    def load(
        self, deployment_id: UUID, expected_version: int | None = None
    ) -> tuple[Deployment, list[DeploymentEvent]]:
        """Return a deployment of our orchestrator, and its history.

        Raises:
            ResourceNotFoundError: if there is no such deployment.
            ConflictError: if another orchestrator looks after it.
            StaleVersionError: if it is not at the expected version.
        """
        if expected_version is not None and type(expected_version) is not int:
            raise ConfigurationError(f"An expected version is an int, not {shown(expected_version)}.")
        history = self._repository.history(deployment_id)
        deployment = Deployment.replay(history)
        if deployment.orchestrator != self._orchestrator:
            is_simulated = deployment.orchestrator == SIMULATED
            remedy = (
                ": MLModelDeploymentService() without one"
                if is_simulated
                else "; an embedded one belongs to a home (DEPLOYLEDGER_HOME) on one machine"
            )
            raise ConflictError(
                f"{deployment} is looked after by the orchestrator {deployment.orchestrator!r}, "
                f"and this service has {self._orchestrator!r}.",
                hint=f"Give the command through a service with that orchestrator{remedy}.",
            )
        deployment.expect_version(expected_version)
        return deployment, history

    def _update(
        self, deployment_id: UUID, request: DeploymentRequest, by: CommandContext, expected: int | None
    ) -> Decision:
        deployment, history = self.load(deployment_id, expected)
        old_name = deployment.name
        deployment.request_update(request, by=by)
        if request.deployment_name == old_name:
            return Decision(deployment, history)
        taken = self._repository.reservation(request.deployment_name)
        taken.reserve(deployment.id, by=by)
        released = self._repository.reservation(old_name)
        released.release(deployment.id, by=by)
        return Decision(deployment, history, (taken, released))

    async def _give(
        self,
        decide: Decide,
        key: str | None,
        digest_of: Callable[[], str],
        actor: str | None,
        *,
        request: DeploymentRequest | None = None,
        without_looking: Decide | None = None,
        dry_run: bool = False,
    ) -> DeploymentStatusResponse:
        """Decide and store, again if somebody else changed the same stream meanwhile."""
        actor = self.actor if actor is None else checked_actor(actor)
        digest = ""
        if key is not None:
            digest = digest_of()
            first = await self._blocking(self._repository.log.command, checked_key(key))
            if first is not None:
                return await self._first_answer(first, digest, request)
        by = CommandContext(actor=actor, at=self._now(), new_id=self._new_id, correlation_id=self._new_id())
        attempts_left = _MOST_ATTEMPTS
        while True:
            try:
                if without_looking is not None:
                    decision, without_looking = without_looking(by), None
                else:
                    decision = await self._blocking(decide, by)
            except DatabaseUnavailableError:
                raise
            except MachineLearningServiceError:
                # It may be refused because it was done: by the same command, repeated at the same time.
                first = key and await self._blocking(self._repository.log.command, key)
                if first:
                    return await self._first_answer(first, digest, request)
                raise
            deployment = decision.deployment
            own = deployment.collect_events()
            if dry_run:
                return status.respond(status.fold([*decision.history, *own]))
            events: list[Event] = [
                *own,
                *(event for reservation in decision.reservations for event in reservation.collect_events()),
            ]
            command_key = CommandKey(key, digest, deployment.id, deployment.version) if key else None
            try:
                await self._repository.log.append_async(events, command_key)
                return status.respond(status.fold([*decision.history, *own]))
            except RepeatedCommandError as repeated:
                return await self._first_answer(repeated.first, digest, request)
            except ConcurrencyError:
                attempts_left -= 1
                if not attempts_left:
                    raise
                if attempts_left < _MOST_ATTEMPTS - 1:
                    await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311  # no secret

    async def _first_answer(
        self, first: CommandKey, digest: str, request: DeploymentRequest | None
    ) -> DeploymentStatusResponse:
        """Return what the first command with the key answered."""
        require_same(first, digest)
        history: list[DeploymentEvent] = []
        with suppress(ResourceNotFoundError):
            history = await self._blocking(self._repository.history, first.deployment_id)
        expected: DeploymentEvent | None = None
        if request is not None:
            by = CommandContext(self.actor, self._now(), self._new_id, correlation_id=self._new_id())
            deployment = Deployment.request(self._new_id(), request, orchestrator=self._orchestrator, by=by)
            (expected,) = deployment.collect_events()
        require_event(first, history, expected)
        return status.respond(status.fold(history[: first.version]))


_ACTOR_HINT = "Set DEPLOYLEDGER_ACTOR, or pass actor=…, to the name of a person or a program."


def checked_actor(actor: str) -> str:
    """Return who gives commands.

    Raises:
        ConfigurationError: if it is no text that an event can have.
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
