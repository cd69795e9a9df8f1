"""Compares serving with KServe, MLServer and BentoML, each in a virtual environment of its own.

    python -m benchmarks.peers --kserve PYTHON --mlserver PYTHON --bentoml PYTHON

Each has the same ONNX model with one thread of computation in one process that serves; ours has the gateway
before it. They take turns; each figure is the median of the rounds, in requests a second.
"""

import argparse
import json
import platform
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.endpoints import deployed, free_port, started
from benchmarks.load import Request, wrk
from benchmarks.serving import IRIS, SMALL

_PROGRAMS = {
    "kserve": "kserve_model.py",
    "mlserver": "mlserver_model.py",
    "bentoml": "bentoml_service.py",
}
_ROWS_OF_A_MEGABYTE = 62_500


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in _PROGRAMS:
        parser.add_argument(f"--{name}", type=Path, metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    with ExitStack() as stack:
        endpoint = stack.enter_context(deployed(IRIS, "iris"))
        urls = {"deployledger": endpoint.url}
        versions = {"deployledger": f"Python {platform.python_version()}"}
        port = free_port()
        fastapi = Path("benchmarks/baselines/fastapi_model.py")
        urls["FastAPI"] = stack.enter_context(started([sys.executable, fastapi, IRIS, str(port)], port))
        for name, program in _PROGRAMS.items():
            python: Path | None = getattr(options, name)
            if python is not None:
                port = free_port()
                command = [python.absolute(), program, IRIS.absolute(), str(port)]
                urls[name] = stack.enter_context(started(command, port, Path(__file__).parent))
                versions[name] = _version(python, name)
        print(" | ".join(f"{name} {version}" for name, version in versions.items()), flush=True)
        for connections in (1, 8, 64):
            print(_line(f"small JSON, {connections} connections", urls, False, connections, options))
        print(_line("1 MB of rows, binary, 1 connection", urls, True, 1, options))


def _line(
    what: str, urls: dict[str, str], is_binary: bool, connections: int, options: argparse.Namespace
) -> str:
    rates: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(options.rounds + 1):
        for name, measured in rates.items():
            request = _binary() if is_binary else _small(name)
            if is_binary and name not in ("deployledger", "kserve"):
                continue  # they have no binary tensors over HTTP
            seconds = options.seconds if number else 1
            load = wrk(urls[name], request, connections=connections, seconds=seconds)
            if number:  # the first warms up
                measured.append(load.rate)
    figures = [f"{name} {median(measured):,.0f}/s" for name, measured in rates.items() if measured]
    return " | ".join([what, *figures])


def _small(name: str) -> Request:
    if name != "bentoml":
        return SMALL
    body = json.dumps({"measurements": [[5.1, 3.5, 1.4, 0.2]]}).encode()
    return Request("/predict", body, {"Content-Type": "application/json"})


def _binary() -> Request:
    data = np.random.default_rng(7).random((_ROWS_OF_A_MEGABYTE, 4), dtype=np.float32).tobytes()
    described = {"name": "measurements", "shape": [_ROWS_OF_A_MEGABYTE, 4], "datatype": "FP32"}
    request = {
        "inputs": [{**described, "parameters": {"binary_data_size": len(data)}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(request).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return Request("/v2/models/iris/infer", head + data, headers)


def _version(python: Path, name: str) -> str:
    command = [python, "-c", f"import importlib.metadata; print(importlib.metadata.version({name!r}))"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
