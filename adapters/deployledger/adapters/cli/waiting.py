"""Waiting for a deployment's job, with its steps shown live on standard error."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.event_words import sentence
from deployledger.adapters.cli.session import ExitCode, Session

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as ProgressBar
    from rich.progress import TaskID
    from rich.text import Text

    from deployledger.domain.responses import DeploymentHistoryEntry, DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

_DOING = {
    "fetch": "Fetching artifacts",
    "package": "Packaging the image",
    "provision": "Provisioning",
    "run": "Scoring",
    "delete": "Deleting",
}


async def wait(
    session: Session, service: "DeploymentService", accepted: "DeploymentStatusResponse"
) -> "DeploymentStatusResponse":
    """Show the job's steps, from the answer to a command on, and return the status when none is left."""
    from deployledger.domain.exceptions import DatabaseUnavailableError

    current = accepted
    with Steps(session, accepted) as steps:
        async for current in service.watch_deployment(accepted.deployment_id):
            # Several steps may be done between two looks; the history has them all.
            if steps.is_behind(current):
                with suppress(DatabaseUnavailableError):  # they are shown with the next ones
                    steps.finish(await service.get_deployment_history(accepted.deployment_id))
            steps.show(current)
            if current.progress is None or current.warning:  # a status that is not current shows no end
                break
    return current


def outcome(deployment: "DeploymentStatusResponse", command: str | None = None) -> ExitCode:
    """Return whether a job ended as was asked; ``delete`` and ``cancel`` end otherwise than others."""
    wanted = ("deleted",) if command == "delete" else ("active", "completed")
    return ExitCode.DONE if command == "cancel" or deployment.state in wanted else ExitCode.FAILED


class Steps:
    """The steps of a job: done ones as lines, the one being done with a spinner.

    On a terminal they are live, elsewhere each is a line as it is done; with JSON output nothing is shown.
    """

    def __init__(self, session: Session, accepted: "DeploymentStatusResponse") -> None:
        self._silent = session.is_json
        self._console: Console = session.stderr
        self._bar: ProgressBar | None = None
        self._task: TaskID | None = None
        self._step: str | None = None
        self._accepted = accepted.version
        self._seen = accepted.version

    def __enter__(self) -> "Steps":
        if not self._silent and self._console.is_terminal:
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                SpinnerColumn("dots" if self._console.encoding.startswith("utf") else "line"),
                TextColumn("{task.description}"),
                TextColumn("{task.fields[counted]}"),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def is_behind(self, deployment: "DeploymentStatusResponse") -> bool:
        """Return whether there is more in the deployment's history than was shown."""
        return not self._silent and deployment.version > self._seen

    def finish(self, history: "Sequence[DeploymentHistoryEntry]") -> None:
        """Show the steps that are done, of the job that the command set off and not yet shown."""
        command = next(entry.correlation_id for entry in history if entry.version == self._accepted)
        for entry in history:
            if entry.version > self._seen and entry.correlation_id == command and entry.step:
                self._console.print(_step(entry), soft_wrap=True)
        self._seen = history[-1].version

    def show(self, deployment: "DeploymentStatusResponse") -> None:
        """Show how far the step is that is being done."""
        progress = deployment.progress
        step = progress.step if progress else None
        if self._bar is None:
            return
        if step != self._step:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(_DOING[step], total=None, counted="") if step else None
            self._step = step
        if self._task is not None and progress:
            self._bar.update(self._task, counted=units.counted(progress))


def _step(entry: "DeploymentHistoryEntry") -> "Text":
    """Return a step that is done in the words of the history; of one that failed, the answer says why."""
    if "failure" in entry.data:
        return marks.FAILED.before(_DOING[entry.step or ""])
    return marks.DONE.before(sentence(entry.topic, entry.data, seconds=entry.duration))
