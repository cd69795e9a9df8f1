"""The status file by which a batch job says how far it is."""

import os
import time
from pathlib import Path
from typing import Any

from deployledger.service.files.writing import write_json

_SECONDS_BETWEEN_WRITES = 0.1


class BatchError(Exception):
    """A job that cannot be done.

    Attributes:
        reason: the value of the domain's FailureReason that fits.
        hint: what to do next.
    """

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint


def input_invalid(message: str, hint: str = "Correct the input, and retry.") -> BatchError:
    """Return the error for an input that cannot be scored as it is."""
    return BatchError("batch_input_invalid", message, hint)


class StatusFile:
    """Writes the job's status, each time as a whole: a reader never sees half of one.

    While the job runs: ``state`` "running", ``pid``, ``partial`` (the unfinished output), ``done`` and
    ``total`` rows. In the end ``state`` is "completed", with ``rows`` and ``output_uri``, or "failed", with
    ``reason``, ``message`` and ``hint``.
    """

    def __init__(self, path: Path, partial: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = {"pid": os.getpid(), "partial": str(partial), "done": 0, "total": None}
        self._written = 0.0

    def progress(self, done: int, total: int | None) -> None:
        """Record how many rows are done; not more often than is worth a look."""
        self._known.update(done=done, total=total)
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self._write(state="running")

    def completed(self, rows: int, output_uri: str) -> None:
        """Record that the output is complete."""
        self._known.update(done=rows, total=rows)
        self._write(state="completed", rows=rows, output_uri=output_uri)

    def failed(self, error: BatchError) -> None:
        """Record why there is no output."""
        self._write(state="failed", reason=error.reason, message=error.message, hint=error.hint)

    def _write(self, **more: object) -> None:
        write_json(self._path, {**self._known, **more})
        self._written = time.monotonic()
