"""Requests from `wrk`, a load generator in C that takes little of the processors that it shares."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Request:
    """A request that is sent again and again.

    Attributes:
        path: the path at the server.
        body: what is posted.
        headers: its header fields, but for the length.
    """

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """What came of a load.

    Attributes:
        rate: responses in a second.
        p50: the median latency in milliseconds.
        p95: the 95th percentile of the latency in milliseconds.
    """

    rate: float
    p50: float
    p95: float


def wrk(url: str, request: Request, *, connections: int, seconds: float) -> Load:
    """Keep a number of connections busy for a while.

    Raises:
        RuntimeError: wrk is not installed, or a request has failed.
    """
    program = shutil.which("wrk")
    if program is None:
        raise RuntimeError("wrk is not installed: apt-get install wrk")
    with tempfile.NamedTemporaryFile() as body:
        body.write(request.body)
        body.flush()
        command = [program, "--threads", "1", "--connections", str(connections)]
        command += ["--duration", f"{seconds:g}s", "--timeout", "60s"]
        command += ["--script", str(Path(__file__).with_name("load.lua")), f"{url}{request.path}"]
        command += ["--", body.name, *(part for header in request.headers.items() for part in header)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    if result["failed"] or not result["requests"]:
        raise RuntimeError(f"{result['failed']} requests to {url} failed, {result['requests']} in all")
    return Load(result["requests"] / result["seconds"], result["p50"], result["p95"])
