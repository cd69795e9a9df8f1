"""A deployment at a glance: the outcome of a command, and the status in groups.

What is left out here is in the card of ``-o wide`` and in JSON.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from deployledger.adapters.cli import marks, units
from deployledger.adapters.cli.layout import Labelled
from deployledger.adapters.cli.terminal import shown, shown_lines
from deployledger.domain.lifecycle import job_steps
from deployledger.domain.reasons import FailureReason
from deployledger.domain.values import Step

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from deployledger.adapters.cli.example_commands import ExampleCommands
    from deployledger.domain.ports import Observation
    from deployledger.domain.responses import DeploymentHistoryEntry, DeploymentStatusResponse
    from deployledger.domain.values import Failure, Progress

_INDENT = 2
_LABELS = len("Last failure")
_REQUESTS = {"Requested", "UpdateRequested"}
_COMMANDS = {*_REQUESTS, "RetryRequested", "DeletionRequested"}


@dataclass(frozen=True)
class Overview:
    """The status and history of one deployment at one moment.

    Attributes:
        history: its events by then.
        clock: how moments are written.
        observation: what its orchestrator sees, if it was asked.
        as_of: the moment of the past in words; None is now.
    """

    deployment: "DeploymentStatusResponse"
    history: "Sequence[DeploymentHistoryEntry]" = field(repr=False)
    clock: units.Clock
    observation: "Observation | None" = None
    as_of: str | None = None

    @property
    def name(self) -> str:
        """How commands refer to it: by its name, or by its id once the name has been released."""
        is_deleted = self.deployment.state == "deleted"
        return str(self.deployment.deployment_id) if is_deleted else self.deployment.deployment_name

    @property
    def recorded(self) -> tuple[datetime, datetime] | None:
        """When the first and the last event happened, by the log; moments of the past count by these."""
        return (_time(self.history[0]), _time(self.history[-1])) if self.history else None

    @property
    def since(self) -> datetime:
        """When it entered its current status."""
        times = [
            _time(entry)
            for entry in self.history
            if any(change.field == "status" for change in entry.changes)
        ]
        return times[-1] if times else self.deployment.updated_at

    @property
    def job(self) -> "Sequence[DeploymentHistoryEntry]":
        """The events of the newest job, from the command that started it."""
        begins = [number for number, entry in enumerate(self.history) if entry.event in _COMMANDS]
        return self.history[begins[-1] :] if begins else ()

    @property
    def failure(self) -> "DeploymentHistoryEntry | None":
        """The last event that records a failed job."""
        return next((entry for entry in reversed(self.history) if "failure" in entry.data), None)

    @property
    def cancelled(self) -> "DeploymentHistoryEntry | None":
        """The event that cancelled the newest revision, if that was the last thing that was done."""
        newest = self.history[-1] if self.history else None
        return newest if newest is not None and newest.event == "Cancelled" else None

    def request(self, revision: int) -> "DeploymentHistoryEntry | None":
        """Return the event that requested a revision; None if it cannot be read."""
        requests = (
            entry for entry in self.history if entry.event in _REQUESTS and entry.revision == revision
        )
        return next(requests, None)

    def models(self, revision: int) -> tuple[str, str]:
        """Return a revision's model as requested, and as pinned once its files were fetched."""
        deployment, request = self.deployment, self.request(revision)
        served_uri = deployment.model_uri
        if revision == deployment.serving_revision:
            served_uri = deployment.deployed_model_version or served_uri
        asked = request.data.get("model_uri", served_uri) if request else served_uri
        for entry in reversed(self.history):
            if entry.revision == revision and (uri := entry.data.get("artifact", {}).get("resolved_uri")):
                return asked, uri
        return asked, served_uri

    def usual(self, step: Step) -> float | None:
        """Return how many seconds a step took in earlier jobs of the deployment, as their median."""
        earlier = self.history[: len(self.history) - len(self.job)]
        took = [
            entry.duration
            for entry in earlier
            if entry.step == step and entry.duration and "failure" not in entry.data
        ]
        return median(took) if took else None

    def size(self, what: str, digest: str | None) -> str:
        """Return the size of a model's files or an image, after a comma; nothing if it is unknown."""
        for entry in reversed(self.history):
            if digest and (stored := entry.data.get(what, {})).get("digest") == digest:
                return f", {units.size(stored['size_bytes'])}" if stored["size_bytes"] else ""
        return ""


def outcome_lines(overview: Overview, examples: "ExampleCommands | None" = None) -> RenderableType:
    """Return the outcome of a command: what is active now, its digest, and what to do next.

    Args:
        examples: commands that query the model.
    """
    deployment = overview.deployment
    if deployment.failure is not None:
        return Group(
            *_heading(overview), _labelled([*_places(overview)]), *_failure(overview, deployment.failure)
        )
    shown_revision = _of_outcome(deployment)
    lines: list[tuple[str, Text]] = [
        *_places(overview),
        *_cancelled(overview),
        *_revision(overview, shown_revision),
        *_bytes(overview, shown_revision),
    ]
    if deployment.progress is None and (took := _took(overview)):
        lines.append(("Took", shown(took)))
    ask: list[RenderableType] = [Text(), Text("Query it:"), _Asking(examples)] if examples else []
    return Group(*_heading(overview), _labelled(lines), *ask, Text(), _labelled([*_next(overview)]))


class _Heading:
    """A name and its status: on one line, or on two if that is too narrow."""

    def __init__(self, name: Text, status: Text) -> None:
        self._name = name
        self._status = status

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        line = Text.assemble(self._name, "  ", self._status, no_wrap=True, overflow="ignore")
        if line.cell_len <= options.max_width:
            yield line
            return
        yield Text.assemble(self._name, no_wrap=True, overflow="ignore")
        yield Labelled([("", self._status)], indent=_INDENT, width=0)


class _Asking:
    """Commands to paste, at any width."""

    def __init__(self, examples: "ExampleCommands") -> None:
        self._examples = examples

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        commands = self._examples.lines(options.max_width - _INDENT)
        lines = [("", Text(line, "bold", no_wrap=True)) for line in commands]
        yield Labelled(lines, indent=_INDENT, width=0)


def status_lines(overview: Overview) -> RenderableType:
    """Return a status in groups: headline, serving revision, job in progress, and last failure."""
    return Group(*_status(overview))


def watched_line(deployment: "DeploymentStatusResponse", clock: units.Clock) -> RenderableType:
    """Return a status as one of the lines of a deployment that is being watched."""
    mark = marks.of_status(deployment)
    status = mark.before(Text(deployment.status, mark.style))
    line = Text.assemble(clock.time(deployment.updated_at), " ", status, ": ", shown(deployment.message))
    return Labelled([("", line)], width=0)


def _status(overview: Overview) -> Iterator[RenderableType]:
    deployment = overview.deployment
    yield from _heading(overview)
    lines = [*_places(overview)]
    if overview.as_of:
        lines.append(("As of", shown(overview.as_of)))
    lines += [*_cancelled(overview), *_deleted(overview)]
    if deployment.serving_revision is None and deployment.progress is None:
        lines += _bytes(overview, deployment.revision)
        lines += _asked(overview, deployment.revision)
    if deployment.failure is None and deployment.progress is None:
        lines += _past_failure(overview)
    if lines:
        yield _labelled(lines)
    if deployment.serving_revision is not None:
        yield Text()
        yield Text(f"Serving revision {deployment.serving_revision}", "bold")
        serving = deployment.serving_revision
        yield _labelled([*_bytes(overview, serving), *_asked(overview, serving)])
    if deployment.progress is not None:
        yield Text()
        yield from _in_progress(overview, deployment.progress)
    if deployment.failure is not None:
        yield Text()
        yield from _failure(overview, deployment.failure)
    elif deployment.state == "cancelled" and not overview.as_of:
        yield Text()
        yield _labelled([*_next(overview)])


def _heading(overview: Overview) -> Iterator[RenderableType]:
    deployment, clock = overview.deployment, overview.clock
    mark = marks.of_status(deployment)
    status: str = deployment.status
    if status == "inactive":
        status = f"inactive: {deployment.state}"
    passed = clock.age(overview.since)
    if deployment.status in ("failed", "delete_failed", "inactive"):
        since = clock.moment(overview.since)
    elif passed == "?":
        since = f"since {clock.time(overview.since)}"
    else:
        since = f"for {passed} (since {clock.zoned_time(overview.since)})"
    name = mark.before(Text(deployment.deployment_name, "bold"))
    yield _Heading(name, Text.assemble((status, mark.style), f" {since}"))
    if deployment.warning:
        yield Labelled([("!", shown_lines(deployment.warning, "red"))], style="red")


def _places(overview: Overview) -> Iterator[tuple[str, Text]]:
    deployment, observation = overview.deployment, overview.observation
    if deployment.endpoint_url:
        yield "Endpoint", shown(deployment.endpoint_url)
    if observation is not None:
        mark = marks.FAILED
        if observation.running:
            mark = marks.WARNING if observation.damaged else marks.DONE
        detail = observation.detail or ("yes" if observation.running else "no")
        yield "Running", mark.before(shown(detail))
    if deployment.state == "completed":
        yield "Scored", shown(_rows(overview) or "the whole input")
        yield "Output", shown(deployment.deployment_target_config.output_uri or "")
    if deployment.simulated:
        steps = ", ".join(entry.step or "" for entry in overview.job if entry.data.get("simulated"))
        yield "Simulated", marks.WARNING.before(shown(steps or "yes"))


def _rows(overview: Overview) -> str | None:
    for entry in reversed(overview.history):
        if entry.event == "Completed" and isinstance(rows := entry.data.get("rows"), int):
            return units.number(rows, "row")
    return None


def _bytes(overview: Overview, revision: int) -> Iterator[tuple[str, Text]]:
    """Yield the model of the newest or the serving revision, with its digest and size if known."""
    deployment = overview.deployment
    artifact, image = deployment.artifact_digest, deployment.image_digest
    if revision != deployment.revision:
        artifact, image = deployment.serving_artifact_digest, deployment.serving_image_digest
    asked, pinned = (units.model(uri) for uri in overview.models(revision))
    yield "Model", shown(pinned if asked == pinned else f"{pinned} (as {asked})")
    if artifact:
        yield "Files", shown(units.short_digests(artifact) + overview.size("artifact", artifact))
    if image:
        yield "Image", shown(units.short_digests(image) + overview.size("image", image))


def _asked(overview: Overview, revision: int) -> Iterator[tuple[str, Text]]:
    """Yield who requested a revision, and when."""
    if (entry := overview.request(revision)) is not None:
        back = entry.data.get("rollback_to")
        how = f", as a rollback to revision {back}" if back else ""
        yield "Requested", shown(f"{overview.clock.moment(_time(entry))} by {entry.actor}{how}")


def _deleted(overview: Overview) -> Iterator[tuple[str, Text]]:
    """Yield who asked for the deletion, and when."""
    requests = [entry for entry in overview.job if entry.event == "DeletionRequested"]
    if requests and overview.deployment.status in ("deleting", "delete_failed", "inactive"):
        moment = overview.clock.moment(_time(requests[-1]))
        yield "Deletion", shown(f"requested {moment} by {requests[-1].actor}")


def _revision(overview: Overview, revision: int) -> Iterator[tuple[str, Text]]:
    """Yield which revision the output is about, if there are several."""
    if overview.deployment.revision > 1:
        request = overview.request(revision)
        back = request.data.get("rollback_to") if request else None
        yield "Revision", shown(f"{revision} (rollback to revision {back})" if back else f"{revision}")


def _cancelled(overview: Overview) -> Iterator[tuple[str, Text]]:
    """Yield that an update was cancelled, and whose model it was."""
    deployment, entry = overview.deployment, overview.cancelled
    if entry is not None and deployment.serving_revision is not None:
        asked, _ = overview.models(deployment.revision)
        moment = overview.clock.moment(_time(entry))
        yield (
            "Cancelled",
            shown(f"revision {deployment.revision} ({units.model(asked)}), {moment} by {entry.actor}"),
        )


def _of_outcome(deployment: "DeploymentStatusResponse") -> int:
    """Return the revision that the outcome of a command is about: the serving one, unless an update runs."""
    is_updating = deployment.progress is not None and deployment.state != "deleting"
    return deployment.revision if is_updating else deployment.serving_revision or deployment.revision


def _in_progress(overview: Overview, progress: "Progress") -> Iterator[RenderableType]:
    """Yield the steps of the job: those done with the time they took, the others with their usual time."""
    deployment, job = overview.deployment, overview.job
    doing = {Step.DELETE: "Deleting", Step.RUN: "Running"}.get(progress.step, "Making")
    doing += "" if progress.step is Step.DELETE else f" revision {deployment.revision}"
    yield Text.assemble((doing, "bold"), f": step {progress.steps_done + 1} of {progress.steps_total}")
    lines: list[tuple[str, Text]] = []
    if progress.step is not Step.DELETE:
        lines += [*_bytes(overview, deployment.revision), *_asked(overview, deployment.revision)]
    done = {entry.step: entry.duration for entry in job if entry.step and "failure" not in entry.data}
    is_batch_job = deployment.deployment_target_config.is_batch_job
    for step in job_steps(progress.step, is_batch_job=is_batch_job):
        usual = overview.usual(step)
        usually = f"usually {units.duration(usual)}" if usual is not None else ""
        if step in done:
            lines.append((step.capitalize(), marks.DONE.before(units.duration(done[step] or 0))))
        elif step == progress.step:
            parts = [f"{units.duration(_so_far(overview))} so far", units.counted(progress), usually]
            lines.append((step.capitalize(), marks.IN_PROGRESS.before(", ".join(filter(None, parts)))))
        else:
            lines.append((step.capitalize(), marks.OFF.before(usually or "to come")))
    yield _labelled(lines)
    failed = overview.failure if progress.step is not Step.DELETE else None
    if failed is not None and _follows(overview, failed):
        yield Text()
        failure = failed.data["failure"]
        ago = overview.clock.ago(_time(failed))
        yield from _failure_of(failure, f"Last failure {ago}, in {failure['step']}")


def _follows(overview: Overview, failed: "DeploymentHistoryEntry") -> bool:
    """Return whether the job in progress is the first one after a failure."""
    before = overview.history[: len(overview.history) - len(overview.job)]
    return bool(before) and before[-1].version == failed.version


def _so_far(overview: Overview) -> float:
    return (overview.clock.now - _time(overview.job[-1])).total_seconds() if overview.job else 0.0


def _past_failure(overview: Overview) -> Iterator[tuple[str, Text]]:
    """Yield the last failure, if a later job has made up for it, on one line."""
    if (failed := overview.failure) is not None:
        failure = failed.data["failure"]
        moment = overview.clock.moment(_time(failed))
        yield (
            "Last failure",
            shown(f"{moment}: {failure['step']} of revision {failed.revision}, {failure['reason']}"),
        )


def _failure(overview: Overview, failure: "Failure") -> Iterator[RenderableType]:
    """Yield why the last job failed, how to fix it, and what can be done with the deployment."""
    deployment = overview.deployment
    name, serving = deployment.deployment_name, deployment.serving_revision
    is_update = serving not in (None, deployment.revision) and deployment.state != "delete_failed"
    who = f"Revision {deployment.revision} failed" if is_update else "Failed"
    yield from _failure_of(failure.model_dump(), f"{who} in {failure.step}")
    if is_update:
        revision = deployment.revision
        yield _labelled([*_bytes(overview, revision), *_asked(overview, revision)])
    if overview.as_of:
        return
    yield Text()
    if deployment.state == "delete_failed":
        yield Labelled([("", shown(f"It holds the name {name} until it is deleted. Next:"))], width=0)
        yield _labelled([("Once fixed", _command(f"deployledger delete {name}"))])
        return
    kept = (
        f"Revision {serving} keeps serving." if serving else f"It holds the name {name} until it is deleted."
    )
    yield Labelled([("", shown(f"{kept} Next:"))], width=0)
    steps = [("Once fixed", _command(f"deployledger retry {name}"))]
    if failure.reason is FailureReason.PORT_IN_USE:
        steps.append(("Other port", _command(f"deployledger update {name} --port PORT")))
    if serving:
        steps.append(("Go back", _command(f"deployledger rollback {name} --to-revision {serving}")))
    else:
        steps.append(("Other model", _command(f"deployledger update {name} --model-uri MODEL_URI")))
    steps.append(("Delete", _command(f"deployledger delete {name}")))
    yield _labelled(steps)


def _failure_of(failure: "dict[str, Any]", what: str) -> Iterator[RenderableType]:
    yield Labelled([("", Text(f"{what}: {failure['reason']}", marks.FAILED.style))], width=0)
    for text in (failure["message"], failure["hint"]):
        if text:
            yield Labelled([("", shown_lines(text))], indent=_INDENT, width=0)


def _next(overview: Overview) -> Iterator[tuple[str, Text]]:
    """Yield the commands to watch, inspect, retry or delete the deployment."""
    deployment, name = overview.deployment, overview.name
    if deployment.progress is not None:
        yield "Watch", _command(f"deployledger status {name} --watch")
        return
    if deployment.state == "cancelled":
        yield "Retry", _command(f"deployledger retry {name}")
        yield "Delete", _command(f"deployledger delete {name}")
    elif deployment.state == "active":
        yield "Inspect", _command(f"deployledger status {name}")
    yield "History", _command(f"deployledger history {name}")


def _took(overview: Overview) -> str | None:
    steps = [entry for entry in overview.job if entry.step and entry.duration is not None]
    if not steps or overview.cancelled:
        return None
    whole = units.duration(sum(entry.duration or 0 for entry in steps))
    parts = ", ".join(f"{entry.step} {units.duration(entry.duration or 0)}" for entry in steps)
    return f"{whole} ({parts})" if len(steps) > 1 else whole


def _labelled(lines: "Sequence[tuple[str, Text]]") -> Labelled:
    return Labelled(lines, indent=_INDENT, style="", width=_LABELS)


def _command(text: str) -> Text:
    return Text(text, "bold", no_wrap=True)


def _time(entry: "DeploymentHistoryEntry") -> datetime:
    return entry.happened_at or entry.recorded_at
