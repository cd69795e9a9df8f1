"""Waiting for a deployment's job, with its steps shown live on standard error."""

from typing import TYPE_CHECKING

from deployledger.adapters.cli.session import ExitCode, Session, escaped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as ProgressBar
    from rich.progress import TaskID

    from deployledger.domain.schemas import DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

_DOING = {
    "fetch": "Fetching artifacts",
    "package": "Packaging the image",
    "provision": "Provisioning",
    "run": "Scoring",
    "delete": "Deleting",
}
_DONE = {
    "fetch": "Artifacts fetched",
    "package": "Image packaged",
    "provision": "Provisioned",
    "run": "Scored",
    "delete": "Deleted",
}
_STEPS = list(_DOING)


async def wait(
    session: Session, service: "DeploymentService", accepted: "DeploymentStatusResponse"
) -> "DeploymentStatusResponse":
    """Show the job's steps, from the answer to a command on, and return the status when none is left."""
    current = accepted
    with Steps(session) as steps:
        steps.show(accepted)
        async for current in service.watch_deployment(accepted.deployment_id):
            steps.show(current)
            if current.progress is None:
                break
    return current


def outcome(deployment: "DeploymentStatusResponse", *, deleting: bool = False) -> ExitCode:
    """Return whether a job ended as was asked."""
    wanted = ("deleted",) if deleting else ("active", "completed")
    return ExitCode.DONE if deployment.state in wanted else ExitCode.FAILED


class Steps:
    """The steps of a job: done ones as lines, the one being done with a spinner or a bar.

    On a terminal they are live, elsewhere each is a line as it is done; with JSON output nothing is shown.
    """

    def __init__(self, session: Session) -> None:
        self._silent = session.is_json
        self._console: Console = session.stderr
        self._bar: ProgressBar | None = None
        self._task: TaskID | None = None
        self._step: str | None = None

    def __enter__(self) -> "Steps":
        if not self._silent and self._console.is_terminal:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )

            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, deployment: "DeploymentStatusResponse") -> None:
        """Show how far the job is."""
        progress = deployment.progress
        step = progress.step if progress else None
        if step != self._step:
            self._finish(deployment, step)
            self._step = step
            if self._bar and step:
                self._task = self._bar.add_task(_DOING[step], total=None)
        if self._bar and self._task is not None and progress:
            self._bar.update(self._task, completed=progress.done or 0, total=progress.total)

    def _finish(self, deployment: "DeploymentStatusResponse", following: str | None) -> None:
        if self._bar and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        if self._silent or self._step is None:
            return
        if following is None and deployment.failure is not None:
            step = deployment.failure.step if deployment.failure else self._step
            self._console.print(f"[red]✗[/] {_DOING[step]}", highlight=False)
            return
        last = _STEPS.index(following) if following else _STEPS.index(self._step) + 1
        for step in _STEPS[_STEPS.index(self._step) : max(last, _STEPS.index(self._step) + 1)]:
            self._console.print(f"[green]✓[/] {_DONE[step]}{_detail(step, deployment)}", highlight=False)


def _detail(step: str, deployment: "DeploymentStatusResponse") -> str:
    match step:
        case "fetch":
            detail = deployment.artifact_digest
        case "package":
            detail = deployment.image_digest
        case "provision":
            detail = deployment.endpoint_url
        case _:
            detail = None
    return f" [dim]{escaped(detail)}[/]" if detail else ""
