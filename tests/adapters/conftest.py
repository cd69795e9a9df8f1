"""Fixtures with real servers; each starts only for the tests that ask for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.ports import free_port

# Tests reach no server but their own.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

_START_SECONDS = 90


@dataclass(frozen=True)
class RegisteredIris:
    """Two versions of a registered model, and the run that logged the first.

    Attributes:
        tracking_uri: the server that has them.
        name: the registered model; its alias ``champion`` is version 1.
        run_id: the run that logged version 1 as ``model``, and the file ``notes/readme.txt``.
        model_id: the logged model that version 1 was registered from.
        onnx_name: a registered model of the ONNX flavour, with one version.
    """

    tracking_uri: str
    name: str
    run_id: str
    model_id: str
    onnx_name: str


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a real MLflow server with an SQLite database, and yield its address."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    # MLflow starts uvicorn by its bare name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    log = folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(server, address, log)
        yield address
    finally:
        _stop(server)


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urlopen(f"{address}/health", timeout=2) as response:
                if response.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"the MLflow server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop the server with its workers, which share its process group."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, kind)
        except ProcessLookupError:
            break
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
    server.wait(timeout=10)


@pytest.fixture(scope="session")
def registered_model(mlflow_server: str) -> RegisteredIris:
    """Log and register small real models with MLflow's own client."""
    import mlflow
    import mlflow.onnx
    import mlflow.sklearn
    from skl2onnx import to_onnx
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    measurements, species = load_iris(return_X_y=True)
    models = [LogisticRegression(C=c, max_iter=500).fit(measurements, species) for c in (1.0, 0.1)]
    onnx_model = to_onnx(models[0], measurements[:1].astype("float32"), options={"zipmap": False})
    runs = []
    # The environment, unlike mlflow.set_tracking_uri, leaves nothing behind for other tests.
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        for model in models:
            with mlflow.start_run() as run:
                info = mlflow.sklearn.log_model(
                    model, name="model", registered_model_name="iris", pip_requirements=["scikit-learn"]
                )
                mlflow.log_text("trained on iris", "notes/readme.txt")
            runs.append((run.info.run_id, info.model_id))
        with mlflow.start_run():
            mlflow.onnx.log_model(
                onnx_model, name="model", registered_model_name="iris-onnx", pip_requirements=["onnxruntime"]
            )
        mlflow.MlflowClient().set_registered_model_alias("iris", "champion", "1")
    return RegisteredIris(mlflow_server, "iris", *runs[0], onnx_name="iris-onnx")
