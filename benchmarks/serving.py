"""Serving: small and large requests through the gateway, beside a model served by hand with FastAPI."""

import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import numpy as np
import onnx
import onnxruntime
import orjson
from onnx import TensorProto, helper

from benchmarks.endpoints import Endpoint, deployed, free_port, started
from benchmarks.load import Request, wrk
from benchmarks.report import Report

IRIS = Path("examples/models/iris-v2.onnx")
_FASTAPI = Path("benchmarks/baselines/fastapi_model.py")
_SECONDS = 3.0
_REPEATS = 20
_MEGABYTE = 1_000_000

SMALL = Request(
    "/v2/models/iris/infer",
    json.dumps(
        {
            "inputs": [
                {"name": "measurements", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}
            ]
        }
    ).encode(),
    {"Content-Type": "application/json"},
)


def serving(report: Report, rounds: int) -> None:
    """Add the rows of serving."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = mean_model(folder / "mean.onnx")
        small_requests(report, rounds)
        port = free_port()
        baseline = stack.enter_context(started([sys.executable, _FASTAPI, model, str(port)], port))
        endpoint = stack.enter_context(deployed(model, "mean"))
        large_binary(report, rounds, endpoint, baseline)
        large_json(report, rounds, endpoint, model)
        memory(report, model)
    fairness(report, rounds)


def small_requests(report: Report, rounds: int) -> None:
    """Add the rows of small requests: 64, 8 and 1 connections."""
    port = free_port()
    with (
        deployed(IRIS, "iris") as ours,
        started([sys.executable, _FASTAPI, IRIS, str(port)], port) as fastapi,
    ):
        for connections in (64, 8, 1):
            rates: dict[str, list[float]] = {ours.url: [], fastapi: []}
            for number in range(rounds + 1):
                for url, measured in rates.items():
                    load = wrk(url, SMALL, connections=connections, seconds=_SECONDS if number else 1)
                    if number:  # the first warms up
                        measured.append(load.rate)
            report.add(
                f"Serving: small requests, {connections} connections, 1 replica"
                " (baseline: FastAPI on uvloop and httptools, without a gateway)",
                rates[ours.url],
                "/s",
                baseline=rates[fastapi],
                at_least=0.9 if connections == 64 else None,
            )


def large_binary(report: Report, rounds: int, endpoint: Endpoint, baseline: str) -> None:
    """Add the rows of binary tensors, beside an application that reads as many bytes."""
    for megabytes in (1, 10):
        request = binary_request(megabytes)
        reading = Request("/bytes", request.body)
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(latency(endpoint.url, request))
            theirs.append(latency(baseline, reading))
        report.add(
            f"Serving: tensor of {megabytes} MB, binary (baseline: FastAPI reads the bytes)",
            ours,
            "ms",
            baseline=theirs,
            at_most=1.5 if megabytes == 1 else None,
        )


def large_json(report: Report, rounds: int, endpoint: Endpoint, model: Path) -> None:
    """Add the rows of tensors in JSON, beside orjson, numpy and ONNX Runtime in one function."""
    session = onnxruntime.InferenceSession(model)

    def alone(body: bytes) -> bytes:
        (tensor,) = orjson.loads(body)["inputs"]
        array = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        (output,) = session.run(None, {"x": array})
        return orjson.dumps({"outputs": [{"data": output}]}, option=orjson.OPT_SERIALIZE_NUMPY)

    for megabytes in (1, 10):
        request = json_request(megabytes)
        ours, theirs = [], []
        for _ in range(rounds):
            repeats = max(3, _REPEATS // megabytes)
            ours.append(latency(endpoint.url, request, repeats))
            theirs.append(median(timed(lambda body=request.body: alone(body)) for _ in range(repeats)))
        report.add(
            f"Serving: tensor of {megabytes} MB, JSON (baseline: orjson, numpy and ONNX Runtime alone)",
            ours,
            "ms",
            baseline=theirs,
            at_most=1.3,
        )


def memory(report: Report, model: Path) -> None:
    """Add the rows of the most memory of a server that has just started, in tensors of 10 MB."""
    for kind, request, goal in (("binary", binary_request(10), 4.0), ("JSON", json_request(10), None)):
        with deployed(model, "mean") as endpoint:
            (server,) = endpoint.servers()
            latency(endpoint.url, json_request(0))
            before = peak_bytes(server)
            latency(endpoint.url, request)
            report.add(
                f"Serving: memory that a server takes over tensors of 10 MB, {kind}",
                [(peak_bytes(server) - before) / (10 * _MEGABYTE)],
                "tensors",
                at_most=goal,
            )


def fairness(report: Report, rounds: int) -> None:
    """Add the rows of small requests beside one client that sends tensors of 10 MB, with two replicas."""
    with tempfile.TemporaryDirectory() as folder:
        model = mean_model(Path(folder) / "mean.onnx")
        small = json_request(0)
        with deployed(model, "mean", replicas=2) as endpoint:
            quiet: list[float] = []
            beside: dict[str, list[float]] = {"binary": [], "JSON": []}
            for _ in range(rounds):
                quiet.append(wrk(endpoint.url, small, connections=4, seconds=_SECONDS).p95)
                for kind, large in (("binary", binary_request(10)), ("JSON", json_request(10))):
                    with sending(endpoint.url, large):
                        beside[kind].append(wrk(endpoint.url, small, connections=4, seconds=_SECONDS).p95)
    for kind, goal in (("binary", 5), ("JSON", 20)):
        report.add(
            f"Serving: p95 of small requests beside a client of 10 MB tensors, {kind}, 2 replicas"
            " (baseline: without it)",
            beside[kind],
            "ms",
            baseline=quiet,
            at_most=goal,
        )


def mean_model(path: Path) -> Path:
    """Save a model that answers the mean of a vector: what it computes is small beside what is sent."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=1)],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def json_request(megabytes: int) -> Request:
    """Return a request with a tensor of this many megabytes; of four numbers for none."""
    tensor = _tensor(megabytes)
    described = {"name": "x", "shape": [len(tensor)], "datatype": "FP32"}
    body = orjson.dumps({"inputs": [{**described, "data": tensor}]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Request("/v2/models/mean/infer", body, {"Content-Type": "application/json"})


def binary_request(megabytes: int) -> Request:
    """Return the same in the binary tensor extension."""
    data = _tensor(megabytes).tobytes()
    described = {"name": "x", "shape": [len(data) // 4], "datatype": "FP32"}
    head = orjson.dumps({"inputs": [{**described, "parameters": {"binary_data_size": len(data)}}]})
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }
    return Request("/v2/models/mean/infer", head + data, headers)


def _tensor(megabytes: int) -> np.ndarray:
    size = megabytes * _MEGABYTE // 4 or 4
    return np.random.default_rng(7).random(size, dtype=np.float32)


def latency(url: str, request: Request, repeats: int = _REPEATS) -> float:
    """Return the median time of one request after the other on one connection, in milliseconds."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def send() -> None:
        connection.request("POST", request.path, request.body, dict(request.headers))
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {response.read()!r}")
        response.read()

    try:
        send()
        return median(timed(send) for _ in range(repeats))
    finally:
        connection.close()


def timed(function: Callable[[], object]) -> float:
    """Return how long a call takes, in milliseconds."""
    begun = time.perf_counter()
    function()
    return (time.perf_counter() - begun) * 1000


@contextmanager
def sending(url: str, request: Request) -> Iterator[None]:
    """Send one request after the other, in a thread, meanwhile."""
    stopped = threading.Event()

    def send() -> None:
        while not stopped.is_set():
            latency(url, request, repeats=1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def peak_bytes(process: int) -> int:
    """Return the most memory that a process has had resident since its count was reset."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
