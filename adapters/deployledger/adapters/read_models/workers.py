"""Fills tables by several processes at once, each for a range of streams.

Each is a program of its own (``worker.py``), told what to do on its standard input: unlike a forked process
it has no lock or connection of this one, and unlike a spawned one it does not run the caller's main module.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from deployledger.adapters.read_models import BUILT_IN
from deployledger.domain.exceptions import ConfigurationError, ReadModelError
from deployledger.projections.projection import Projection
from deployledger.projections.read_models import Fill, ReadModels
from deployledger.projections.rebuilding import fill_here
from deployledger.projections.reports import Task

_WORKER = "deployledger.adapters.read_models.worker"
_END_SECONDS = 5

DONE = "done"
FAILED = "failed: "
"""What a worker's last line is, or begins with."""


def fill_with_workers(log_url: str, read_models_url: str | None) -> Fill:
    """Return what does tasks in processes of their own, if there are several.

    Args:
        log_url: the database of the event log.
        read_models_url: the database of the read models; None is the one of the log.
    """

    def fill(models: ReadModels, tasks: Sequence[Task], progress: Callable[[int], None]) -> None:
        if len(tasks) == 1 or "sqlite://" in (log_url, read_models_url):  # no other process sees memory
            fill_here(models, tasks, progress)
            return
        told = [_told(log_url, read_models_url, models.largest_row, task) for task in tasks]
        workers = [_start(it) for it in told]
        try:
            _wait(workers, progress)
        finally:
            for worker in workers:
                _end(worker)

    return fill


def _told(log_url: str, read_models_url: str | None, largest_row: int, task: Task) -> str:
    """Return a task as the worker reads it. URLs may have passwords: they are on no command line."""
    return json.dumps(
        {
            "log_url": log_url,
            "read_models_url": read_models_url,
            "largest_row": largest_row,
            "tables": [[_reference(projection), generation] for projection, generation in task.tables],
            "until": task.until,
            "streams": [str(it) for it in task.streams] if task.streams else None,
        }
    )


def _reference(projection: Projection[Any]) -> str:
    """Return where another process finds a projection: ``package.module:NAME``."""
    if projection in BUILT_IN:
        return projection.name
    module = sys.modules.get(projection.apply.__module__)
    for name, value in vars(module).items() if module is not None else ():
        if value is projection and module is not None and module.__name__ != "__main__":
            return f"{module.__name__}:{name}"
    raise ConfigurationError(
        f"Projection {projection.name} cannot be given to several workers: other processes do not find it.",
        hint="Define it, and its fold, in a module that can be imported, under a name; or use one worker.",
    )


def _start(told: str) -> "subprocess.Popen[str]":
    worker = subprocess.Popen(
        [sys.executable, "-m", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert worker.stdin is not None  # noqa: S101  # it is a pipe
    worker.stdin.write(told + "\n")
    worker.stdin.flush()  # it stays open: a worker ends when it is closed, as when this process dies
    return worker


def _wait(workers: "Sequence[subprocess.Popen[str]]", progress: Callable[[int], None]) -> None:
    turn = threading.Lock()
    errors: list[str] = []

    def read(worker: "subprocess.Popen[str]") -> None:
        last = ""
        try:
            assert worker.stdout is not None  # noqa: S101  # it is a pipe
            for line in worker.stdout:
                last = line.strip()
                if last.isdigit():
                    with turn:
                        progress(int(last))
        except Exception as error:  # whoever is told of the progress raises what it likes
            errors.append(f"{type(error).__name__}: {error}")
        if last != DONE:  # nothing but its own word says that it did all
            errors.append(last.removeprefix(FAILED) if last.startswith(FAILED) else "it ended too early")
        if errors:
            for other in workers:
                other.terminate()

    threads = [threading.Thread(target=read, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise ReadModelError(
            f"A worker failed: {errors[0]}.", hint="What is read has not changed. Try again."
        )


def _end(worker: "subprocess.Popen[str]") -> None:
    worker.terminate()
    try:
        worker.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            stream.close()
