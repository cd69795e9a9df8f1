"""A process that does one task: reads it, writes how many events were read now and then, and its result."""

import json
import os
import sys
import threading
from importlib import import_module
from typing import TextIO

from deployledger.adapters.workers import DONE, FAILED
from deployledger.domain.exceptions import MachineLearningServiceError

_TOLD_EVERY = 10_000


def main() -> None:
    """Do the task on standard input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the task's function prints is no answer of ours
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    module, _, name = told["function"].partition(":")
    untold = 0

    def tell(events: int) -> None:
        nonlocal untold
        untold += events
        if untold >= _TOLD_EVERY:
            _write(answers, str(untold))
            untold = 0

    try:
        result = getattr(import_module(module), name)(told["task"], tell)
        _write(answers, str(untold))
        _write(answers, DONE + json.dumps(result))
    except MachineLearningServiceError as error:
        failure = {
            "message": " ".join(error.message.split()),
            "hint": error.hint,
            "status_code": error.status_code,
        }
        _write(answers, FAILED + json.dumps(failure))
        sys.exit(1)


def _write(answers: TextIO, line: str) -> None:
    answers.write(f"{line}\n")
    answers.flush()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
