"""Bulk commands: one command for all matching deployments, with a plan, a confirmation and outcomes."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from deployledger.adapters.cli import marks, streams, units
from deployledger.adapters.cli.background import resume_in_background, stop_leftovers
from deployledger.adapters.cli.session import ExitCode, Session
from deployledger.adapters.cli.status_commands import resume_if_left
from deployledger.adapters.cli.usage import UsageError

if TYPE_CHECKING:
    from deployledger.adapters.cli.listing import Filters
    from deployledger.domain.exceptions import MachineLearningServiceError
    from deployledger.domain.schemas import DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan, and change nothing.")]

Command = Literal["retry", "cancel", "delete"]

_PAGE = 1000
_PAST = {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}


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


def at_once(reference: str | None, filters: "Filters", *, dry_run: bool, **of_one: object) -> str | None:
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
    if reference is not None and not dry_run:
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
    """One command for many deployments.

    Args:
        reference: the only deployment, to see what would be done.
        wait: whether to wait for the work; else it is left to processes in the background.
        timeout: seconds to wait; None waits as long as it takes.
    """

    session: Session
    command: Command
    filters: "Filters"
    reference: str | None = None
    yes: bool = False
    dry_run: bool = False
    wait: bool = True
    timeout: float | None = None

    def run(self) -> None:
        """Plan, ask, send the commands, and exit with code 1 unless everything planned was done."""
        self.filters.arguments()  # refuses what is malformed before a database is opened
        self._items: list[Item] = []
        try:
            self.session.run(self._plan_all)
            planned = self._with(Outcome.PLANNED)
            if planned and not self.dry_run and self._is_agreed(len(planned)):
                self.session.run(self._give_all)
        except KeyboardInterrupt:
            self._interrupted()
        has_failed = any(
            it.outcome not in (Outcome.PLANNED, Outcome.SKIPPED, Outcome.ACCEPTED, Outcome.DONE)
            for it in self._items
        )
        with self.session.reporting(ExitCode.FAILED if has_failed else ExitCode.DONE):
            if self.session.is_json:
                self.session.print_json(self._report())

    async def _plan_all(self, service: "DeploymentService") -> None:
        self._items = [Item(it) for it in await self._matching(service)]
        if not self._items:
            await self.session.say_if_empty(service.event_log)
            self.session.stderr.print("No deployment matches.")
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
        if self.wait:
            await self._wait(service)
        for item in self._with(Outcome.ACCEPTED):
            resume_in_background(item.deployment.deployment_id)
            self._print(item)
        self._print_summary(planned)

    async def _matching(self, service: "DeploymentService") -> "list[DeploymentStatusResponse]":
        if self.reference is not None:
            found = await service.find_deployment_id(self.reference, to_change=True)
            return [await service.get_deployment_status(found)]
        deployments: list[DeploymentStatusResponse] = []
        cursor: str | None = None
        while True:
            page = await service.list_deployments(_PAGE, cursor=cursor, **self.filters.arguments())
            deployments += page
            cursor = page.next_cursor
            if cursor is None:
                return deployments

    async def _call(
        self, service: "DeploymentService", item: Item, *, dry_run: bool = False
    ) -> "DeploymentStatusResponse":
        calls = {
            "retry": service.retry_deployment,
            "cancel": service.cancel_deployment,
            "delete": service.delete_deployment,
        }
        deployment = item.deployment
        return await calls[self.command](
            deployment.deployment_id, expected_version=deployment.version, dry_run=dry_run
        )

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
            return await self._call(service, item, dry_run=dry_run)
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
            async with asyncio.timeout(self.timeout):
                await asyncio.gather(*(ended(it) for it in self._with(Outcome.ACCEPTED)))
        except TimeoutError:
            for item in self._with(Outcome.ACCEPTED):
                item.end(Outcome.FAILED)
                item.message = (
                    f"still in progress after {self.timeout:g} seconds; it continues in the background"
                )
                resume_in_background(item.deployment.deployment_id)
                self._print(item)

    async def _ended(self, service: "DeploymentService", item: Item) -> None:
        from deployledger.adapters.cli.waiting import outcome
        from deployledger.domain.exceptions import MachineLearningServiceError

        deployment_id = item.deployment.deployment_id
        try:
            if self.command != "cancel":
                await service.wait_for_deployment(deployment_id)
            await service.settled(deployment_id)
            item.deployment = await service.get_deployment_status(deployment_id)
        except MachineLearningServiceError as error:
            item.end(Outcome.FAILED, error)
            return
        is_done = self.command == "cancel" or (
            outcome(item.deployment, deleting=self.command == "delete") is ExitCode.DONE
        )
        item.end(Outcome.DONE if is_done else Outcome.FAILED)
        if not is_done:
            failure = item.deployment.failure
            item.message = failure.message if failure else item.deployment.message
            item.hint = failure.hint if failure else ""

    def _with(self, outcome: Outcome) -> list[Item]:
        return [it for it in self._items if it.outcome is outcome]

    def _is_agreed(self, number: int) -> bool:
        if self.yes:
            return True
        session = self.session
        what = f"{self.command} {_deployments(number)}"
        has_terminal = sys.stdin is not None and sys.stdin.isatty() and streams.remarks().isatty()
        if session.is_json or not has_terminal:
            session.fail(
                f"Nothing was {_PAST[self.command]}: there is no terminal to ask whether to {what}.",
                f"Add --yes to {self.command} without being asked, or --dry-run to see only the plan.",
                ExitCode.USAGE,
                "confirmation_required",
            )
        try:
            if typer.confirm(f"{what.capitalize()}?", err=True):
                return True
        except typer.Abort:  # Ctrl-C, or the end of the input
            session.stderr.print()
        for item in self._with(Outcome.PLANNED):
            item.end(Outcome.NOT_TRIED)
        session.stderr.print("Nothing was changed.")
        return False

    # What is printed ----------------------------------------------------------------------------------

    def _print_plan(self, number: int) -> None:
        if self.session.is_json:
            return
        from rich import box
        from rich.table import Table

        from deployledger.adapters.cli.terminal import shown

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in ("NAME", "STATUS", "SINCE", "PLAN"):
            table.add_column(heading, no_wrap=heading in ("STATUS", "SINCE"), overflow="fold")
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
        if self.dry_run:
            text = f"Would {self.command} {number:,} of {_deployments(len(self._items))}."
        elif number == 0:
            text = f"There is nothing to {self.command}."
        else:
            return
        self.session.print_lines(text)

    def _intent(self, item: Item) -> str:
        deployment = item.deployment
        if item.outcome is not Outcome.PLANNED:
            return f"skip ({item.message})"
        if self.command == "delete":
            return (
                "delete"
                if deployment.endpoint_url is None
                else f"delete; it serves {deployment.endpoint_url}"
            )
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
            Outcome.DONE: _PAST[self.command],
            Outcome.ACCEPTED: "in progress in the background",
            Outcome.CHANGED: "skipped, because it changed after the plan was made",
        }
        mark = _MARKS.get(item.outcome, marks.FAILED)
        what = words.get(item.outcome) or f"not {_PAST[self.command]}"
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
        counts = Counter(it.outcome for it in planned)
        others = [f"{counts[outcome]:,} {word}" for outcome, word in words.items() if counts[outcome]]
        done = f"{counts[Outcome.DONE]:,} of {_deployments(len(planned))} {_PAST[self.command]}"
        self.session.print_lines(f"{'; '.join([done, ', '.join(others)] if others else [done])}.")

    def _report(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "dry_run": self.dry_run,
            "deployments": [
                {
                    "deployment_id": str(it.deployment.deployment_id),
                    "deployment_name": it.deployment.deployment_name,
                    "status": it.deployment.status,
                    "version": it.deployment.version,
                    "outcome": it.outcome,
                    "message": it.message,
                    "hint": it.hint,
                }
                for it in self._items
            ],
        }

    def _interrupted(self) -> NoReturn:
        given = [it for it in self._items if it.outcome in (Outcome.ACCEPTED, Outcome.DONE, Outcome.FAILED)]
        if given:
            self.session.stderr.print(
                f"Interrupted after {_deployments(len(given))}. `deployledger list` resumes what was in "
                "progress; run the same command again for the others.",
                highlight=False,
                soft_wrap=True,
            )
        raise SystemExit(128 + signal.SIGINT)


def _deployments(number: int) -> str:
    return f"{number:,} deployment{'s' if number != 1 else ''}"
