"""Compares serving with KServe, MLServer and BentoML, each in a virtual environment of its own.

    python -m benchmarks.peers --kserve PYTHON --mlserver PYTHON --bentoml PYTHON

Each has the same ONNX model with one thread of computation in one process that serves; ours has the gateway
before it. They take turns; each figure is the median of the rounds, in requests a second.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.endpoints import deployed, free_port, started
from benchmarks.load import Request, wrk
from benchmarks.serving import IRIS, SMALL, binary_request, mean_model

_PROGRAMS = {
    "kserve": "kserve_model.py",
    "mlserver": "mlserver_model.py",
    "bentoml": "bentoml_service.py",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in _PROGRAMS:
        parser.add_argument(f"--{name}", type=Path, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    pythons = {name: python for name in _PROGRAMS if (python := getattr(options, name)) is not None}
    print(" | ".join(f"{name} {_version(python, name)}" for name, python in pythons.items()), flush=True)
    with _servers(IRIS, pythons) as urls:
        for connections in (1, 8, 64):
            requests = {name: _small(name) for name in urls}
            _measure(f"small JSON, {connections} connections", urls, requests, connections, options)
    with TemporaryDirectory() as folder:
        # Of the others only KServe has binary tensors over HTTP.
        model = mean_model(Path(folder) / "mean.onnx")
        kserve = {name: python for name, python in pythons.items() if name == "kserve"}
        with _servers(model, kserve) as urls:
            del urls["FastAPI"]
            request = replace(binary_request(1), path=SMALL.path)
            _measure("1 MB binary, 1 connection", urls, dict.fromkeys(urls, request), 1, options)


@contextmanager
def _servers(model: Path, pythons: Mapping[str, Path]) -> Iterator[dict[str, str]]:
    """Start all servers with a model that they call iris, and yield their URLs."""
    with ExitStack() as stack:
        urls = {"deployledger": stack.enter_context(deployed(model, "iris")).url}
        programs = {"FastAPI": [sys.executable, Path("benchmarks/baselines/fastapi_model.py").absolute()]}
        programs |= {name: [python.absolute(), _PROGRAMS[name]] for name, python in pythons.items()}
        for name, program in programs.items():
            port = free_port()
            command = [*program, model.absolute(), str(port)]
            urls[name] = stack.enter_context(started(command, port, Path(__file__).parent))
        yield urls


def _measure(
    what: str,
    urls: Mapping[str, str],
    requests: Mapping[str, Request],
    connections: int,
    options: argparse.Namespace,
) -> None:
    rates: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(options.rounds + 1):
        for name, url in urls.items():
            seconds = options.seconds if number else 1
            load = wrk(url, requests[name], connections=connections, seconds=seconds)
            if number:  # the first warms up
                rates[name].append(load.rate)
    figures = [f"{name} {median(measured):,.0f}/s" for name, measured in rates.items()]
    print(" | ".join([what, *figures]), flush=True)


def _small(name: str) -> Request:
    if name != "bentoml":
        return SMALL
    body = json.dumps({"measurements": [[5.1, 3.5, 1.4, 0.2]]}).encode()
    return Request("/predict", body, {"Content-Type": "application/json"})


def _version(python: Path, name: str) -> str:
    command = [python, "-c", f"import importlib.metadata; print(importlib.metadata.version({name!r}))"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
