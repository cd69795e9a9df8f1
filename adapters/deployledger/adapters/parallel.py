"""Does tasks in several processes at once.

Each is a program of its own, given its task on its standard input: unlike a forked process it has no lock or
connection of this one, and unlike a spawned one it does not run the caller's main module.
"""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, NamedTuple, TypeVar, cast

from deployledger.adapters.garbage import collect_rarely
from deployledger.domain.exceptions import MachineLearningServiceError

_PROGRAM = f"from {__name__} import work; work()"
_END_SECONDS = 5
_PROGRESS_EVERY = 10_000

T = TypeVar("T")
R = TypeVar("R")

Tell = Callable[[int], None]
"""Reports how many more events were read."""


class _Done(NamedTuple):
    result: object


class _Failed(NamedTuple):
    message: str
    hint: str = "Try again."
    status_code: int | None = None


class _FailedElsewhereError(Exception):
    """A worker failed, so that the work done meanwhile is of no use."""


def run_in_workers(
    function: Callable[[T, Tell], R],
    tasks: Sequence[T],
    progress: Tell,
    meanwhile: Callable[[Tell], object] = lambda tell: None,
) -> list[R]:
    """Do each task in a process of its own, and return the results in the order of the tasks.

    If one fails, the others are ended, and so is what this process does meanwhile when it next reports
    progress.

    Args:
        function: does a task: a function of a module that can be imported, or a `functools.partial` of one.
            It, the tasks and the results are pickled.
        tasks: what the function is called with, one by one, together with a function that reports progress.
        progress: called with how many more events were read, by one thread at a time.
        meanwhile: what this process does itself; it reports progress as a task does.

    Raises:
        MachineLearningServiceError: if a task failed, with the hint and the status code of its error, or a
            process ended before it was done.
    """
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for task in tasks:
            workers.append(_start(pickle.dumps((function, task))))
        return cast("list[R]", _results(workers, progress, meanwhile))
    finally:
        for worker in workers:
            _end(worker)


def _start(task: bytes) -> "subprocess.Popen[bytes]":
    worker = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    # URLs may have passwords: they are on no command line.
    stdin = _pipe(worker.stdin)
    stdin.write(task)
    stdin.flush()  # it stays open: a worker ends when it is closed, as when this process dies
    return worker


def _results(
    workers: "Sequence[subprocess.Popen[bytes]]", progress: Tell, meanwhile: Callable[[Tell], object]
) -> list[object]:
    turn = threading.Lock()
    failures: list[_Failed] = []
    results: list[object] = [None] * len(workers)

    def tell(events: int) -> None:
        with turn:
            progress(events)

    def read(number: int, worker: "subprocess.Popen[bytes]") -> None:
        try:
            while isinstance(answer := pickle.load(_pipe(worker.stdout)), int):  # noqa: S301  # our own worker
                tell(answer)
            if isinstance(answer, _Done):  # nothing but this says that it did everything
                results[number] = answer.result
            else:
                failures.append(answer)
        except (EOFError, pickle.UnpicklingError):
            failures.append(_Failed("it ended too early"))
        except Exception as error:  # `progress` raises what it likes
            failures.append(_Failed(f"{type(error).__name__}: {error}"))
        if failures:
            for other in workers:
                other.terminate()

    threads = [threading.Thread(target=read, args=numbered) for numbered in enumerate(workers)]
    for thread in threads:
        thread.start()

    def tell_or_stop(events: int) -> None:
        if failures:
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
    if failures:
        message, hint, status_code = failures[0]
        raise MachineLearningServiceError(
            f"A worker failed: {message.rstrip('.')}.", hint=hint, status_code=status_code
        )
    return results


def _end(worker: "subprocess.Popen[bytes]") -> None:
    worker.terminate()
    try:
        worker.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    for stream in (worker.stdin, worker.stdout):
        _pipe(stream).close()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # noqa: S101  # it is a pipe
    return stream


def work() -> None:
    """Do the task on standard input, as a worker."""
    collect_rarely()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the task prints is not an answer
    function, task = pickle.load(sys.stdin.buffer)  # noqa: S301  # from the process that started this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    unreported = 0

    def answer(message: object) -> None:
        pickle.dump(message, answers)
        answers.flush()

    def tell(events: int) -> None:
        nonlocal unreported
        unreported += events
        if unreported >= _PROGRESS_EVERY:
            answer(unreported)
            unreported = 0

    try:
        result = function(task, tell)
        answer(unreported)
        answer(_Done(result))
    except MachineLearningServiceError as error:
        answer(_Failed(" ".join(error.message.split()), error.hint, error.status_code))
        sys.exit(1)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
