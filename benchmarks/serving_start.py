"""Starting an MLflow model: time to the first response and memory, beside ``mlflow models serve``."""

import json
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.endpoints import deployed, free_port, started
from benchmarks.report import Report

_MEGABYTE = 1_000_000


def mlflow_start(report: Report, rounds: int) -> None:
    """Add the rows of starting to serve a scikit-learn model, as MLflow saves it by default."""
    seconds: dict[str, list[float]] = {"": [], ", `mlflow models serve`": []}
    megabytes: dict[str, list[float]] = {"": [], ", `mlflow models serve`": []}
    with tempfile.TemporaryDirectory() as folder:
        model = _scikit_learn_model(Path(folder) / "model")
        for _ in range(rounds):
            for server in seconds:
                port = free_port()
                began = time.perf_counter()
                with started(_mlflow(model, port), port) if server else deployed(model, "iris") as endpoint:
                    _ask(endpoint if isinstance(endpoint, str) else endpoint.url)
                    seconds[server].append(time.perf_counter() - began)
                    servers = _processes_with(f"{port}") if isinstance(endpoint, str) else endpoint.servers()
                    megabytes[server].append(sum(map(_resident_bytes, servers)) / _MEGABYTE)
    for server in seconds:
        start = f"Serving: MLflow scikit-learn model, from deploying to the first response{server}"
        report.add(start, seconds[server], "s", at_most=None if server else 3)
        memory = f"Serving: memory of an MLflow scikit-learn model{server}"
        report.add(memory, megabytes[server], "MB", at_most=None if server else 250)


def _scikit_learn_model(path: Path) -> Path:
    import mlflow.sklearn
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))
    mlflow.sklearn.save_model(model, path, pip_requirements=["scikit-learn"])
    return path


def _mlflow(model: Path, port: int) -> list[str]:
    # It looks for uvicorn by its name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    command = ["env", f"PATH={path}", sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model)]
    return [*command, "--env-manager", "local", "-h", "127.0.0.1", "-p", f"{port}", "-w", "1"]


def _ask(url: str) -> None:
    body = json.dumps({"inputs": [[5.1, 3.5, 1.4, 0.2]]}).encode()
    request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert json.load(response) == {"predictions": [0]}


def _processes_with(argument: str) -> list[int]:
    """Return the processes whose command lines have an argument."""
    return [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if argument.encode() in (process / "cmdline").read_bytes().split(b"\0")
    ]


def _resident_bytes(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024
