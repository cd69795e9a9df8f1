"""Bulk commands: one command for all matching deployments, with a plan, a confirmation and outcomes."""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn
from uuid import UUID

import typer

from deployledger.adapters.cli import marks, streams, units
from deployledger.adapters.cli.background import resume_in_background, stop_leftovers
from deployledger.adapters.cli.options import DryRunOption
from deployledger.adapters.cli.session import ExitCode, Session
from deployledger.adapters.cli.status_commands import resume_if_left
from deployledger.adapters.cli.usage import UsageError

if TYPE_CHECKING:
    from deployledger.adapters.cli.filters import Filters
    from deployledger.domain.exceptions import MachineLearningServiceError
    from deployledger.domain.responses import DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService


class Command(StrEnum):
    """A command that may be sent to many deployments."""

    RETRY = "retry"
    CANCEL = "cancel"
    DELETE = "delete"

    @property
    def past(self) -> str:
        """What was done, as a participle."""
        return {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}[self]

    async def send(
        self, service: "DeploymentService", deployment_id: UUID, **options: Any
    ) -> "DeploymentStatusResponse":
        """Send it to one deployment."""
        methods = {
            Command.RETRY: service.retry_deployment,
            Command.CANCEL: service.cancel_deployment,
            Command.DELETE: service.delete_deployment,
        }
        return await methods[self](deployment_id, **options)


@dataclass(frozen=True, kw_only=True)
class Consent:
    """Whether a command to many deployments is only planned, or sent without being asked about."""

    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False
    dry_run: DryRunOption = False


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Whether to wait for the work, and how long; what is not waited for continues in the background."""

    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the operation is complete.")] = (
        True
    )
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Seconds to wait; the operation then continues in the background.",
            show_default="no limit",
        ),
    ] = None


_PAGE = 1000


class Outcome(StrEnum):
    """The outcome of the command for one deployment."""

    PLANNED = "planned"
    SKIPPED = "skipped"  # there is nothing to do in its state
    CHANGED = "changed"  # it changed after the plan was made
    REFUSED = "refused"
    NOT_TRIED = "not_tried"
    ACCEPTED = "accepted"  # its job is still running
    DONE = "done"
    FAILED = "failed"


_MARKS = {
    Outcome.PLANNED: marks.IN_PROGRESS,
    Outcome.SKIPPED: marks.OFF,
    Outcome.CHANGED: marks.WARNING,
    Outcome.ACCEPTED: marks.IN_PROGRESS,
    Outcome.DONE: marks.DONE,
}


@dataclass
class Item:
    """A matching deployment, and the outcome of the command for it.

    Attributes:
        deployment: its status when it was looked at last; the command is only given at this version.
        message: why there is another outcome than what was planned.
        hint: what to do about it.
    """

    deployment: "DeploymentStatusResponse"
    outcome: Outcome = Outcome.PLANNED
    message: str = ""
    hint: str = ""

    def end(self, outcome: Outcome, error: "MachineLearningServiceError | None" = None) -> None:
        """Record the outcome of the command."""
        self.outcome = outcome
        if error is not None:
            self.message, self.hint = error.message, error.hint


def at_once(
    reference: str | None, filters: "Filters", consent: Consent, of_one: dict[str, Any]
) -> str | None:
    """Return the deployment to which a command is sent at once; None if a plan comes first.

    There is a plan for all deployments that match filters, and for a dry run.

    Args:
        of_one: the values of options that are for a single command alone; None where not given.

    Raises:
        UsageError: if it is not clear which deployments are meant.
    """
    if reference is not None and filters.are_given:
        raise UsageError(
            "A deployment and filters contradict each other.",
            hint="Give a name or an id for one deployment, or filters for all that match.",
        )
    if reference is not None and not consent.dry_run:
        return reference
    if reference is None and not filters.are_given:
        raise UsageError(
            "Neither a deployment nor a filter was given.",
            hint="Give a name or an id, or filters, as in --status failed --since 12h.",
        )
    for parameter, value in of_one.items():
        if value is not None:
            raise UsageError(
                f"--{parameter.replace('_', '-')} is for a command to a single deployment.",
                hint="Omit it: a deployment that changed after the plan was made is skipped.",
            )
    return None


@dataclass
class Bulk:
    """One command for many deployments, or, to see what would be done, for one (``reference``)."""

    session: Session
    command: Command
    filters: "Filters"
    reference: str | None
    consent: Consent
    waiting: Waiting

    def run(self) -> None:
        """Plan, ask, send the commands, and exit with code 1 unless everything planned was done."""
        self.filters.arguments()  # refuses what is malformed before a database is opened
        self._items: list[Item] = []
        try:
            self.session.run(self._plan_all)
            planned = self._with(Outcome.PLANNED)
            if planned and not self.consent.dry_run and self._is_agreed(len(planned)):
                self.session.run(self._give_all)
        except KeyboardInterrupt:
            self._interrupted()
        has_failed = any(
            item.outcome not in (Outcome.PLANNED, Outcome.SKIPPED, Outcome.ACCEPTED, Outcome.DONE)
            for item in self._items
        )
        with self.session.reporting(ExitCode.FAILED if has_failed else ExitCode.DONE):
            if self.session.is_json:
                self.session.print_json(self._report())

    async def _plan_all(self, service: "DeploymentService") -> None:
        self._items = [Item(deployment) for deployment in await self._matching(service)]
        if not self._items:
            await self.session.note_if_empty(service.event_log)
            self.session.note("No deployment matches.")
            return
        for item in self._items:
            await self._try(service, item, dry_run=True)
            if item.outcome is Outcome.SKIPPED:  # it may be in progress without a worker
                await resume_if_left(self.session, service, item.deployment)
        self._print_plan(len(self._with(Outcome.PLANNED)))

    async def _give_all(self, service: "DeploymentService") -> None:
        planned = self._with(Outcome.PLANNED)
        await self._give(service, planned)
        await stop_leftovers(service)
        if self.waiting.wait:
            await self._wait(service)
        for item in self._with(Outcome.ACCEPTED):
            resume_in_background(item.deployment.deployment_id)
            self._print(item)
        self._print_summary(planned)

    async def _matching(self, service: "DeploymentService") -> "list[DeploymentStatusResponse]":
        if self.reference is not None:
            deployment_id = await service.find_deployment_id(self.reference, to_change=True)
            return [await service.get_deployment_status(deployment_id)]
        deployments: list[DeploymentStatusResponse] = []
        cursor: str | None = None
        while True:
            page = await service.list_deployments(_PAGE, cursor=cursor, **self.filters.arguments())
            deployments += page
            cursor = page.next_cursor
            if cursor is None:
                return deployments

    async def _try(
        self, service: "DeploymentService", item: Item, *, dry_run: bool = False
    ) -> "DeploymentStatusResponse | None":
        """Send the command for one deployment; return None if it was refused.

        Raises:
            EventLogError: if the event log cannot be used for any deployment.
        """
        from deployledger.domain.exceptions import (
            EventLogError,
            IllegalTransitionError,
            MachineLearningServiceError,
            StaleVersionError,
            UndecodableEventError,
        )

        try:
            return await self.command.send(
                service,
                item.deployment.deployment_id,
                expected_version=item.deployment.version,
                dry_run=dry_run,
            )
        except IllegalTransitionError as error:
            item.end(Outcome.SKIPPED, error)
            item.message = error.why
        except StaleVersionError as error:
            item.end(Outcome.CHANGED, error)
        except MachineLearningServiceError as error:
            if isinstance(error, EventLogError) and not isinstance(error, UndecodableEventError):
                raise
            item.end(Outcome.REFUSED, error)
        return None

    async def _give(self, service: "DeploymentService", planned: Sequence[Item]) -> None:
        from deployledger.domain.exceptions import EventLogError

        for number, item in enumerate(planned):
            try:
                accepted = await self._try(service, item)
            except EventLogError as error:
                item.end(Outcome.REFUSED, error)
                for other in planned[number + 1 :]:
                    other.end(Outcome.NOT_TRIED)
                self._print(item)
                return
            if accepted is None:
                self._print(item)
            else:
                item.deployment = accepted
                item.end(Outcome.ACCEPTED)

    async def _wait(self, service: "DeploymentService") -> None:
        async def ended(item: Item) -> None:
            await self._ended(service, item)
            self._print(item)

        try:
            async with asyncio.timeout(self.waiting.timeout):
                await asyncio.gather(*(ended(item) for item in self._with(Outcome.ACCEPTED)))
        except TimeoutError:
            for item in self._with(Outcome.ACCEPTED):
                item.end(Outcome.FAILED)
                item.message = (
                    f"still in progress after {self.waiting.timeout:g} seconds; "
                    "it continues in the background"
                )
                resume_in_background(item.deployment.deployment_id)
                self._print(item)

    async def _ended(self, service: "DeploymentService", item: Item) -> None:
        from deployledger.adapters.cli.waiting import outcome
        from deployledger.domain.exceptions import MachineLearningServiceError

        deployment_id = item.deployment.deployment_id
        try:
            if self.command is not Command.CANCEL:
                await service.wait_for_deployment(deployment_id)
            await service.settled(deployment_id)
            item.deployment = await service.get_deployment_status(deployment_id)
        except MachineLearningServiceError as error:
            item.end(Outcome.FAILED, error)
            return
        is_done = outcome(item.deployment, self.command) is ExitCode.DONE
        item.end(Outcome.DONE if is_done else Outcome.FAILED)
        if not is_done:
            failure = item.deployment.failure
            item.message = failure.message if failure else item.deployment.message
            item.hint = failure.hint if failure else ""

    def _with(self, outcome: Outcome) -> list[Item]:
        return [item for item in self._items if item.outcome is outcome]

    def _is_agreed(self, number: int) -> bool:
        if self.consent.yes:
            return True
        session = self.session
        what = f"{self.command} {units.number(number, 'deployment')}"
        has_terminal = sys.stdin is not None and sys.stdin.isatty() and streams.remarks().isatty()
        if session.is_json or not has_terminal:
            session.fail(
                f"Nothing was {self.command.past}: there is no terminal to ask whether to {what}.",
                f"Add --yes to {self.command} without being asked, or --dry-run to see only the plan.",
                ExitCode.USAGE,
                "confirmation_required",
            )
        try:
            if typer.confirm(f"{what.capitalize()}?", err=True):
                return True
        except typer.Abort:  # Ctrl-C, or the end of the input
            session.note("")
        for item in self._with(Outcome.PLANNED):
            item.end(Outcome.NOT_TRIED)
        session.note("Nothing was changed.")
        return False

    # What is printed ----------------------------------------------------------------------------------

    def _print_plan(self, number: int) -> None:
        if self.session.is_json:
            return
        from deployledger.adapters.cli.layout import table_of
        from deployledger.adapters.cli.terminal import shown

        table = table_of("NAME", "STATUS", "SINCE", "PLAN", wrapped=("NAME", "PLAN"))
        for item in self._items:
            deployment = item.deployment
            mark = marks.of_status(deployment)
            table.add_row(
                shown(deployment.deployment_name),
                mark.before(str(deployment.status), is_coloured=True),
                units.age(deployment.updated_at),
                shown(self._intent(item)),
            )
        self.session.show(table)
        if self.consent.dry_run:
            text = f"Would {self.command} {number:,} of {units.number(len(self._items), 'deployment')}."
        elif number == 0:
            text = f"There is nothing to {self.command}."
        else:
            return
        self.session.print_lines(text)

    def _intent(self, item: Item) -> str:
        deployment = item.deployment
        if item.outcome is not Outcome.PLANNED:
            return f"skip ({item.message})"
        if self.command is Command.DELETE:
            endpoint = deployment.endpoint_url
            return "delete" if endpoint is None else f"delete; it serves {endpoint}"
        serves = deployment.serving_revision
        keeps = f"; revision {serves} keeps serving" if serves is not None else ""
        reason = deployment.failure
        why = f" (it failed: {' '.join(reason.message.split())})" if reason and self.session.is_wide else ""
        return f"{self.command} revision {deployment.revision}{keeps}{why}"

    def _print(self, item: Item) -> None:
        """Print the outcome of the command for one deployment, on separate lines."""
        if self.session.is_json:
            return
        words = {
            Outcome.DONE: self.command.past,
            Outcome.ACCEPTED: "in progress in the background",
            Outcome.CHANGED: "skipped, because it changed after the plan was made",
        }
        mark = _MARKS.get(item.outcome, marks.FAILED)
        what = words.get(item.outcome) or f"not {self.command.past}"
        if item.outcome is Outcome.FAILED:
            what = item.deployment.status if item.deployment.failure else what
        details = f": {' '.join(item.message.split())}" if item.message else ""
        self.session.print_lines(f"{mark.sign} {item.deployment.deployment_name} {what}{details}")
        if item.hint:
            self.session.print_lines(f"  {item.hint}")

    def _print_summary(self, planned: Sequence[Item]) -> None:
        if self.session.is_json:
            return
        words = {
            Outcome.FAILED: "failed",
            Outcome.REFUSED: "refused",
            Outcome.CHANGED: "skipped",
            Outcome.NOT_TRIED: "not tried",
            Outcome.ACCEPTED: "in progress",
        }
        counts = Counter(item.outcome for item in planned)
        others = [f"{counts[outcome]:,} {word}" for outcome, word in words.items() if counts[outcome]]
        done = f"{counts[Outcome.DONE]:,} of {units.number(len(planned), 'deployment')} {self.command.past}"
        self.session.print_lines(f"{'; '.join([done, ', '.join(others)] if others else [done])}.")

    def _report(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "dry_run": self.consent.dry_run,
            "deployments": [
                {
                    "deployment_id": str(item.deployment.deployment_id),
                    "deployment_name": item.deployment.deployment_name,
                    "status": item.deployment.status,
                    "version": item.deployment.version,
                    "outcome": item.outcome,
                    "message": item.message,
                    "hint": item.hint,
                }
                for item in self._items
            ],
        }

    def _interrupted(self) -> NoReturn:
        attempted = [
            item for item in self._items if item.outcome in (Outcome.ACCEPTED, Outcome.DONE, Outcome.FAILED)
        ]
        if attempted:
            number = units.number(len(attempted), "deployment")
            self.session.note(
                f"Interrupted after {number}. `deployledger list` resumes what was in progress; run the same "
                "command again for the others."
            )
        raise SystemExit(int(ExitCode.INTERRUPTED))
