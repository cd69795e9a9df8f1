"""The status file in which a batch job reports its progress."""

import os
import time
from pathlib import Path
from typing import Any

from deployledger.service.files.writing import write_json

_SECONDS_BETWEEN_WRITES = 0.1


class BatchError(Exception):
    """The failure of a batch job.

    Attributes:
        reason: the value of the domain's FailureReason that fits.
        hint: what to do next.
    """

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(reason, message, hint)  # these arguments are pickled between processes
        self.reason = reason
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


def input_invalid(message: str, hint: str = "Correct the input, and retry.") -> BatchError:
    """Return the error for an input that cannot be scored as it is."""
    return BatchError("batch_input_invalid", message, hint)


class StatusFile:
    """Writes the job's status, each time as a whole: a reader never sees half of one.

    While the job runs: ``state`` "running", ``pid``, ``partial`` (the folder of the unfinished output),
    ``done`` rows, ``part`` (of the input, from 0 to 1), ``rate`` (rows a second) and ``seconds_left``. In the
    end ``state`` is "completed", with ``rows``, ``rejected`` and ``output_uri``, or "failed", with
    ``reason``, ``message`` and ``hint``. ``total`` rows are known in the end alone.
    """

    def __init__(self, path: Path, partial: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {"pid": os.getpid(), "partial": str(partial), "done": 0, "total": None}
        self._written = 0.0
        self._begun: tuple[float, int, float] | None = None

    def progress(self, done: int, part: float) -> None:
        """Record how many rows, and what part of the input, are done; at most ten times a second."""
        now = time.monotonic()
        self._known.update(done=done, part=part)
        if self._begun is None:
            self._begun = now, done, part
        started, done_before, part_before = self._begun
        if now > started and part > part_before:
            self._known["rate"] = (done - done_before) / (now - started)
            self._known["seconds_left"] = (now - started) * (1 - part) / (part - part_before)
        if now - self._written > _SECONDS_BETWEEN_WRITES:
            self._write(state="running")

    def completed(self, rows: int, rejected: int, output_uri: str) -> None:
        """Record that the output is complete."""
        self._known.update(done=rows, total=rows)
        self._write(state="completed", rows=rows, rejected=rejected, output_uri=output_uri)

    def failed(self, error: BatchError) -> None:
        """Record why there is no output."""
        self._write(state="failed", reason=error.reason, message=error.message, hint=error.hint)

    def _write(self, **more: object) -> None:
        write_json(self._path, {**self._known, **more})
        self._written = time.monotonic()
