"""Does tasks in several processes at once.

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

from deployledger.domain.exceptions import MachineLearningServiceError

_WORKER = "deployledger.adapters.worker"
_END_SECONDS = 5

DONE = "done: "
FAILED = "failed: "
"""What a worker's last line begins with; its result, or what went wrong, follows as JSON."""


class _FailedElsewhereError(Exception):
    """A worker failed, so that what is done meanwhile is of no use."""


def run_in_workers(
    function: str,
    tasks: Sequence[dict[str, Any]],
    progress: Callable[[int], None],
    meanwhile: Callable[[Callable[[int], None]], None] = lambda tell: None,
) -> list[Any]:
    """Do each task in a process of its own, and return the results in the order of the tasks.

    If one fails, the others are ended, and what this process does meanwhile when it next tells its progress.

    Args:
        function: what does a task, as ``package.module:name``. It is called with the task and with a
            function to tell how many more events were read; it returns the result.
        tasks: JSON values, as are the results; give bytes as base64.
        progress: is told how many more events were read, by one thread at a time.
        meanwhile: what this process does itself, which tells its progress as a task does.

    Raises:
        MachineLearningServiceError: if a task failed, with the hint and the status code of its error, or a
            process ended before it was done.
    """
    workers: list[subprocess.Popen[str]] = []
    try:
        for task in tasks:
            workers.append(_start(json.dumps({"function": function, "task": task})))
        return _results(workers, progress, meanwhile)
    finally:
        for worker in workers:
            _end(worker)


def _start(told: str) -> "subprocess.Popen[str]":
    worker = subprocess.Popen(
        [sys.executable, "-m", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert worker.stdin is not None  # noqa: S101  # it is a pipe
    # URLs may have passwords: they are on no command line.
    worker.stdin.write(told + "\n")
    worker.stdin.flush()  # it stays open: a worker ends when it is closed, as when this process dies
    return worker


def _results(
    workers: "Sequence[subprocess.Popen[str]]",
    progress: Callable[[int], None],
    meanwhile: Callable[[Callable[[int], None]], None],
) -> list[Any]:
    turn = threading.Lock()
    errors: list[dict[str, Any]] = []
    results: list[Any] = [None] * len(workers)

    def tell(events: int) -> None:
        with turn:
            progress(events)

    def read(number: int, worker: "subprocess.Popen[str]") -> None:
        last = ""
        try:
            assert worker.stdout is not None  # noqa: S101  # it is a pipe
            for line in worker.stdout:
                last = line.strip()
                if last.isdigit():
                    tell(int(last))
        except Exception as error:  # whoever is told of the progress raises what it likes
            errors.append({"message": f"{type(error).__name__}: {error}"})
        try:  # nothing but its own word says that it did all
            if last.startswith(DONE):
                results[number] = json.loads(last.removeprefix(DONE))
            elif last.startswith(FAILED):
                errors.append(json.loads(last.removeprefix(FAILED)))
            else:
                errors.append({"message": "it ended too early"})
        except ValueError:  # it ended in the middle of that word
            errors.append({"message": "it ended too early"})
        if errors:
            for other in workers:
                other.terminate()

    threads = [threading.Thread(target=read, args=it) for it in enumerate(workers)]
    for thread in threads:
        thread.start()

    def tell_or_stop(events: int) -> None:
        if errors:
            raise _FailedElsewhereError
        tell(events)

    try:
        meanwhile(tell_or_stop)
    except _FailedElsewhereError:
        pass
    except BaseException:
        for worker in workers:
            worker.terminate()
        raise
    finally:
        for thread in threads:
            thread.join()
    if errors:
        first = {"hint": "Try again.", "status_code": None, **errors[0]}
        raise MachineLearningServiceError(
            f"A worker failed: {first['message'].rstrip('.')}.",
            hint=first["hint"],
            status_code=first["status_code"],
        )
    return results


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
