"""Draws what commands print, as the pictures of the documentation: the same content at several widths."""

import io
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from rich.console import Console, RenderableType

from deployledger.adapters.cli.example_commands import ExampleCommands
from deployledger.adapters.cli.fleet_table import DeploymentTable
from deployledger.adapters.cli.overview import Overview, outcome_lines, status_lines
from deployledger.adapters.cli.timeline import timeline
from deployledger.adapters.cli.units import Clock
from deployledger.domain import events, topics
from deployledger.domain.event_records import EventRecord
from deployledger.domain.events import DeploymentEvent
from deployledger.domain.ports import Observation
from deployledger.domain.reasons import FailureReason
from deployledger.domain.requests import DeploymentTargetConfig
from deployledger.domain.timestamps import to_microseconds
from deployledger.domain.values import Artifact, Failure, Image, Step
from deployledger.projections.history import apply_all, entries, past_status
from deployledger.serving import ModelDescription

WIDTHS = (60, 80, 120)

_NOW = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
_HOUR = 3_600
_IDS = UUID("68a00851-7079-4dee-b164-49e23e26e1d7")
_ROW_BYTES = 1_000_000
_FONT_FROM_ELSEWHERE = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
_SERVICE = DeploymentTargetConfig(type="api_service")
_V1, _V2 = "/home/ann/models/iris-v1.onnx", "/home/ann/models/iris-v2.onnx"
_FILES = {
    _V1: "sha256:9466656531ef1160aa477dea48f2bc6307494f7761e6320e064e86e2a703872a",
    _V2: "sha256:1bf2660bac2497ae10dc9b4e608fc2514da2b0887cffad4be31508daf8a83677",
}
_IMAGES = {
    _V1: "sha256:213b5c10b28aa59d219fc8eaf0dd03e3d826c872042aa1b003c58477da7594d2",
    _V2: "sha256:3b109cda348660b4831595b19df3483e912997526e50f29c889ba91b129b7264",
}
_NOT_FOUND = Failure(
    step=Step.FETCH,
    reason=FailureReason.MODEL_NOT_FOUND,
    message="The MLflow registry has no version 7 of the model 'churn'.",
    hint="Deploy a version that it has, or register this one and retry.",
)


def pictures() -> dict[str, str]:
    """Return the pictures by their file names, as SVG."""
    return {
        f"{name}-{width}.svg": _svg(command, answer, width)
        for name, command, answer in _answers()
        for width in WIDTHS
    }


def _answers() -> Sequence[tuple[str, str, RenderableType]]:
    """Return the pictures' names, the commands they show, and what those print."""
    iris = _Story("iris")
    iris.happens(3 * _HOUR, "ann", events.Requested, **iris.specified(_V1), orchestrator="local")
    iris.builds(_V1)
    deployed = iris.overview(3 * _HOUR - 2)
    takes = [{"name": "measurements", "datatype": "FP32", "shape": [-1, 4]}]
    model = ModelDescription.of_metadata({"name": "iris", "inputs": takes, "outputs": []})
    examples = ExampleCommands("iris", "http://127.0.0.1:41527", model)

    iris.revision = 2
    replicas = _SERVICE.model_copy(update={"replicas": 2})
    iris.happens(4, "ben", events.UpdateRequested, **iris.specified(_V2, target=replicas))
    iris.fetches(_V2)
    seen = Observation(running=True, revision=1, detail="1 of 1 replicas ready, 0 restarts")
    updating = iris.overview(0, seen)

    churn = _Story("churn")
    churn.happens(125, "ben", events.Requested, **churn.specified("models:/churn/7"), orchestrator="local")
    churn.happens(124.6, "deployledger", events.Failed, failure=_NOT_FOUND)
    failed = churn.overview(0)

    scores = _Story("scores")
    target = DeploymentTargetConfig(type="batch_inference_job", input_uri="in.csv", output_uri="out.csv")
    job = scores.specified("models:/wine/2", target=target)
    scores.happens(26 * _HOUR, "night", events.Requested, **job, orchestrator="local")
    scores.builds(_V1, endpoint_url=None)
    scores.happens(25.9 * _HOUR, "deployledger", events.Completed, output_uri="out.csv", rows=150_000)

    listed = [overview.deployment for overview in (updating, failed, scores.overview(0))]
    return [
        ("deploy", "deploy iris-v1.onnx --name iris", outcome_lines(deployed, examples)),
        ("status", "status iris", status_lines(updating)),
        ("list", "list", DeploymentTable(listed, _NOW)),
        ("failure", "deploy models:/churn/7 --name churn", outcome_lines(failed)),
        ("history", "history iris", timeline(updating.history, updating.clock)),
    ]


class _Story:
    """A deployment whose events happened at fixed moments; what is shown of it is what they fold into."""

    def __init__(self, name: str) -> None:
        self.revision = 1
        self._name = name
        self._id = uuid5(_IDS, name)
        self._events: list[DeploymentEvent] = []
        self._seconds = 0.0

    def specified(self, model: str, target: DeploymentTargetConfig = _SERVICE) -> dict[str, Any]:
        return {"name": self._name, "model_uri": model, "target": target, "tags": {}}

    def happens(self, seconds: float, actor: str, event: type[DeploymentEvent], **fields: Any) -> None:
        """Add an event of so many seconds ago."""
        version = len(self._events) + 1
        is_command = event.TOPIC in topics.COMMANDS
        before = self._events[-1].correlation_id if self._events else _IDS
        self._events.append(
            event(
                originator_id=self._id,
                originator_version=version,
                timestamp=_NOW - timedelta(seconds=seconds),
                event_id=uuid5(self._id, f"{version}"),
                actor=actor,
                correlation_id=uuid5(self._id, f"command {version}") if is_command else before,
                revision=self.revision,
                **fields,
            )
        )
        self._seconds = seconds

    def fetches(self, model: str) -> None:
        artifact = Artifact(digest=_FILES[model], size_bytes=523, file_count=1, resolved_uri=model)
        self.happens(self._seconds - 0.03, "deployledger", events.ArtifactsFetched, artifact=artifact)

    def builds(self, model: str, endpoint_url: str | None = "http://127.0.0.1:41527") -> None:
        self.fetches(model)
        digest = _IMAGES[model]
        image = Image(reference=f"images@{digest}", digest=digest, size_bytes=3_741)
        self.happens(self._seconds - 0.12, "deployledger", events.Packaged, image=image)
        self.happens(self._seconds - 1.7, "deployledger", events.Provisioned, endpoint_url=endpoint_url)

    def overview(self, seconds: float, seen: Observation | None = None) -> Overview:
        """Return what is shown of it so many seconds ago."""
        records = [
            EventRecord(
                event.originator_version,
                self._id.bytes,
                event.originator_version,
                event.TOPIC,
                b"",
                event.event_id.bytes,
                to_microseconds(event.timestamp),
                event.actor,
                event.correlation_id.bytes,
            )
            for event in self._events
        ]
        past = [*apply_all(records, lambda raw: self._events[raw.position - 1], largest_row=_ROW_BYTES)]
        status = past_status(past, len(past))
        if status is None:
            raise ValueError(f"The events of {self._name} are in an impossible order.")
        clock = Clock(_NOW - timedelta(seconds=seconds), UTC)
        return Overview(status, entries(past), clock, seen)


def _svg(command: str, answer: RenderableType, width: int) -> str:
    console = Console(
        record=True,
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system="standard",
        emoji=False,
    )
    console.print(answer, crop=False)
    name = re.sub(r"\W+", "-", f"{command} {width}")
    drawn = console.export_svg(title=f"deployledger {command}", unique_id=name)
    return _FONT_FROM_ELSEWHERE.sub("", drawn).rstrip() + "\n"
