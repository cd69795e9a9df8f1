"""The demonstration: a real model's whole life, in a minute."""

import json
import os
import shutil
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployledger.adapters.cli import units
from deployledger.adapters.cli.session import ExitCode, Session

if TYPE_CHECKING:
    from deployledger.domain.requests import DeploymentRequest
    from deployledger.domain.responses import DeploymentStatusResponse
    from deployledger.service.deployment_service import DeploymentService

_NAME = "iris"
_FLOWER = [5.1, 3.5, 1.4, 0.2]
_SPECIES = ("setosa", "versicolor", "virginica")
_REPOSITORY = Path(__file__).parents[4] / "examples" / "models"
_INSTALLED = Path(__file__).parent / "demo_models"


def run_demo(session: Session, *, keep: bool) -> None:
    """Deploy, predict, update under load, list, show the history, delete; in a home of its own."""
    home = tempfile.mkdtemp(prefix="deployledger-demo-")
    os.environ["DEPLOYLEDGER_HOME"] = home
    for setting in ("DEPLOYLEDGER_DATABASE_URL", "DEPLOYLEDGER_READ_MODELS_URL"):
        os.environ.pop(setting, None)
    try:
        session.run(lambda service: _demonstrate(session, service, keep=keep))
    finally:
        if not keep:
            shutil.rmtree(home, ignore_errors=True)
    if keep:
        session.print_lines(
            "\nIt keeps serving. To inspect it and to delete it:\n"
            f"  export DEPLOYLEDGER_HOME={home}\n"
            f"  deployledger status {_NAME}\n"
            f"  deployledger delete {_NAME}"
        )


async def _demonstrate(session: Session, service: "DeploymentService", *, keep: bool) -> None:
    try:
        await _live(session, service)
    finally:  # also when standard output was closed
        if not keep:
            for deployment in await service.list_deployments(name_contains=_NAME):
                _title(session, "Deleting it")
                await _done(session, service, await service.delete_deployment(deployment.deployment_id))


async def _live(session: Session, service: "DeploymentService") -> None:
    from deployledger.adapters.cli.fleet_table import DeploymentTable
    from deployledger.adapters.cli.timeline import timeline

    _title(session, "Deploying version 1 of a model that classifies irises")
    first = await _done(session, service, await service.deploy_model(_request("iris-v1.onnx")))

    _title(session, "Querying it about a flower")
    session.say(f"POST {first.endpoint_url}/v2/models/{_NAME}/infer  {_FLOWER}")
    session.say(_species(_predict(first)))

    _title(session, "Updating to version 2, under continuous requests")
    with _Load(first) as load:
        second = await service.update_deployment(first.deployment_id, _request("iris-v2.onnx"))
        second = await _done(session, service, second)
        await service.settled(second.deployment_id)
    session.say(f"{load.answered} requests answered, {load.unanswered} unanswered")
    session.say(_species(_predict(second)))

    _title(session, "What is deployed")
    session.show(DeploymentTable(await service.list_deployments()))
    _title(session, "Its history")
    history = await service.get_deployment_history(first.deployment_id)
    session.show(timeline(history, units.Clock.of(session.stdout)))
    if load.unanswered:
        session.fail(f"{load.unanswered} requests were not answered during the update.", "", ExitCode.FAILED)


async def _done(
    session: Session, service: "DeploymentService", accepted: "DeploymentStatusResponse"
) -> "DeploymentStatusResponse":
    from deployledger.adapters.cli.waiting import outcome, wait

    answer = await wait(session, service, accepted)
    if outcome(answer, "delete" if accepted.status == "deleting" else None) is ExitCode.FAILED:
        session.fail(answer.message, "", ExitCode.FAILED)
    return answer


def _request(model: str) -> "DeploymentRequest":
    from deployledger.domain.requests import DeploymentRequest, DeploymentTargetConfig

    folder = _INSTALLED if _INSTALLED.exists() else _REPOSITORY
    return DeploymentRequest(
        model_uri=str(folder / model),
        deployment_name=_NAME,
        deployment_target_config=DeploymentTargetConfig(type="api_service"),
    )


def _predict(deployment: "DeploymentStatusResponse") -> dict[str, Any]:
    """Send an inference request of the Open Inference Protocol, version 2, and return the answer."""
    url = f"{deployment.endpoint_url}/v2/models/{_NAME}/infer"
    tensor = {"name": "measurements", "shape": [1, 4], "datatype": "FP32", "data": _FLOWER}
    body = json.dumps({"inputs": [tensor]}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310  # our own endpoint
        answer: dict[str, Any] = json.load(response)
    return answer


def _species(answer: dict[str, Any]) -> str:
    outputs = {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}
    number = int(outputs["label"][0])
    return f"It is an Iris {_SPECIES[number]} (probability {outputs['probabilities'][number]:.3f})"


def _title(session: Session, text: str) -> None:
    session.print_lines("")
    session.say((text, "bold"))


class _Load:
    """Sends one request after the other from another thread, and counts the answers."""

    def __init__(self, deployment: "DeploymentStatusResponse") -> None:
        self.answered = 0
        self.unanswered = 0
        self._deployment = deployment
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> "_Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._stop.is_set():
            try:
                _predict(self._deployment)
                self.answered += 1
            except OSError:
                self.unanswered += 1
            time.sleep(0.002)
