"""A process that fills tables from the log: reads its task, writes how many events it read, a line a page."""

import json
import os
import sys
import threading
from typing import Any, TextIO
from uuid import UUID

from deployledger.adapters.event_log import open_event_log
from deployledger.adapters.read_models import BUILT_IN, load_projections, open_read_models
from deployledger.adapters.read_models.workers import DONE, FAILED
from deployledger.domain.exceptions import MachineLearningServiceError
from deployledger.projections.garbage import rare_collections
from deployledger.projections.rebuilding import fill
from deployledger.projections.reports import Task

_TOLD_EVERY = 10_000


def main() -> None:
    """Do the task on standard input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a fold prints is no answer of ours
    try:
        _work(json.loads(sys.stdin.readline()), answers)
        _write(answers, DONE)
    except MachineLearningServiceError as error:
        _write(answers, FAILED + " ".join(error.message.split()))
        sys.exit(1)


def _work(task: dict[str, Any], answers: TextIO) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    built_in = {projection.name: projection for projection in BUILT_IN}
    given = [load_projections(name)[0] for name, _ in task["tables"] if name not in built_in]
    by_name = iter(given)
    tables = tuple((built_in.get(name) or next(by_name), generation) for name, generation in task["tables"])
    streams = task["streams"] and (UUID(task["streams"][0]), UUID(task["streams"][1]))
    log = open_event_log(task["log_url"])
    models = open_read_models(
        log, url=task["read_models_url"], projections=given, largest_row=task["largest_row"]
    )
    models.log.position()
    models.store.prepare([])
    untold = 0

    def tell(events: int) -> None:
        nonlocal untold
        untold += events
        if untold >= _TOLD_EVERY:
            _write(answers, str(untold))
            untold = 0

    with rare_collections:
        fill(models, Task(tables, task["until"], streams), tell)
    _write(answers, str(untold))
    models.store.close()
    log.close()


def _write(answers: TextIO, line: str) -> None:
    answers.write(f"{line}\n")
    answers.flush()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
