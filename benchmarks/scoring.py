"""A batch job over a large file, beside a loop that is written by hand."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from benchmarks.report import Report

_MODEL = Path(__file__).parents[1] / "examples" / "models" / "iris-v2.onnx"
_COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


def scoring(report: Report, rounds: int, rows: int) -> None:
    """The whole job with the start of its process, and the memory that it takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, rows)
        for suffix in ("csv", "parquet"):
            source, output = folder / f"in.{suffix}", folder / f"out.{suffix}"
            files = ["--input", str(source), "--output", str(output), "--status", str(folder / "status.json")]
            job = ["-m", "deployledger.serving.batch", "--model", str(_MODEL), *files]
            job += ["--threads", str(os.cpu_count())]
            loop = ["-m", "benchmarks.baselines.scoring_loop", str(_MODEL), str(source), str(output)]
            ours, theirs = [], []
            for _ in range(rounds):
                theirs.append(_run(loop))
                ours.append(_run(job))
            what = f"batch job, {rows:,} rows, {suffix}"
            report.add(
                f"{what}: rows a second (baseline: a loop of pyarrow and onnxruntime)",
                [rows / seconds for seconds, _ in ours],
                "/s",
                baseline=[rows / seconds for seconds, _ in theirs],
                at_least=0.8,
            )
            report.add(
                f"{what}: memory", [peak for _, peak in ours], "MB", baseline=[peak for _, peak in theirs]
            )


def _write(folder: Path, rows: int) -> None:
    random = np.random.default_rng(0)
    table = pa.table({column: random.uniform(0.1, 8.0, rows).round(1) for column in _COLUMNS})
    pacsv.write_csv(table, folder / "in.csv")
    pq.write_table(table, folder / "in.parquet")


def _run(arguments: Sequence[str]) -> tuple[float, float]:
    """Return how long a process took, in seconds, and the most memory that it had, in megabytes."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return time.perf_counter() - began, usage.ru_maxrss / 1000
