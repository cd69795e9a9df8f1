"""The batch job process: ``python -m deployledger.serving.batch``.

The output has the input's columns and ``prediction`` (or ``prediction_<output>``, if the model has several
outputs; in CSV with a column for every element, ``prediction_<output>_<index or class>``). It appears under
its name when it is complete and on disk, or not at all.
"""

import argparse
import hashlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from deployledger.serving.batch_rows import Row, RowFormat, chunks, format_of
from deployledger.serving.batch_status import BatchError, StatusFile, input_invalid
from deployledger.serving.model_files import ModelDamagedError, ModelFiles

_DAMAGED_HINT = "Retry to extract the model from its image again, and check the disk."


class Scorer(Protocol):
    """Scores chunks of rows with one model."""

    def score(self, rows: list[Row]) -> list[dict[str, Any]]:
        """Return the predictions for each row."""
        ...


def run(
    model: Path,
    source: Path,
    output: Path,
    partial: Path,
    status: StatusFile,
    threads: int,
    files: ModelFiles | None = None,
) -> int:
    """Score every row of ``source`` into ``output``, and return how many there were.

    Raises:
        ModelDamagedError: a file of the model is not what ``files`` says; nothing was scored.
        BatchError: that could not be done; nothing was written under the output's name.
    """
    reader, writer_format = format_of(source), format_of(output)
    total = sum(1 for _ in reader.read(source))
    if total == 0:
        raise input_invalid(f"{source} has no rows.")
    status.progress(0, total)
    scorer = _scorer(model, threads, files)
    with _replacing(output, partial) as file:
        return _score_all(scorer, reader, source, writer_format, file, status, total)


def _score_all(
    scorer: Scorer,
    reader: RowFormat,
    source: Path,
    writer_format: RowFormat,
    file: TextIO,
    status: StatusFile,
    total: int,
) -> int:
    writer = writer_format.write(file)
    done = 0
    for rows in chunks(reader.read(source)):
        predictions = scorer.score(rows)
        taken = predictions[0].keys() & rows[0].values.keys()
        if taken:
            raise input_invalid(
                f"The input has a column {sorted(taken)[0]!r} already.", hint="Rename that column."
            )
        for row, prediction in zip(rows, predictions, strict=True):
            writer.write(row.values, prediction)
        done += len(rows)
        status.progress(done, total)
    return done


def _scorer(model: Path, threads: int, files: ModelFiles | None) -> Scorer:
    # Here, because either import takes a while, and the other one's library may not be installed.
    if model.is_dir():
        from deployledger.serving.batch_mlflow import MlflowScorer

        return MlflowScorer(model, files)
    from deployledger.serving.batch_onnx import OnnxScorer

    return OnnxScorer(model, threads, files)


@contextmanager
def _replacing(output: Path, partial: Path) -> Iterator[TextIO]:
    """Write to ``partial``, and give it the output's name when it is complete and on disk."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(output)
        folder = os.open(output.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise BatchError(
            "batch_failed",
            f"{output} cannot be written: {error.strerror or error}.",
            "Check the folder's permissions and free space, and retry.",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def main() -> int:
    """Run the job; the status file says how it ended, and so does the exit status: 0 or 1."""
    parser = argparse.ArgumentParser(prog="deployledger.serving.batch")
    parser.add_argument("--model", type=Path, required=True, help="an ONNX file, or an MLflow model's folder")
    parser.add_argument("--input", type=Path, required=True, help="a .csv, .jsonl or .ndjson file")
    parser.add_argument("--output", type=Path, required=True, help="likewise")
    parser.add_argument("--output-uri", help="what the output is called in the result; its path by default")
    parser.add_argument("--status", type=Path, required=True, help="where to report progress")
    parser.add_argument("--threads", type=int, default=1, help="threads within one prediction")
    ModelFiles.add_arguments(parser)
    arguments = parser.parse_args()

    output: Path = arguments.output
    job = hashlib.sha256(os.fsencode(arguments.status.absolute())).hexdigest()[:12]
    partial = output.with_name(f".{output.name}.{job}.partial")
    status = StatusFile(arguments.status, partial)
    status.progress(0, None)
    try:
        files = ModelFiles.from_arguments(arguments)
        rows = run(arguments.model, arguments.input, output, partial, status, arguments.threads, files)
    except ModelDamagedError as error:
        return _fail(status, BatchError("artifact_damaged", str(error), _DAMAGED_HINT))
    except BatchError as error:
        return _fail(status, error)
    except Exception as error:  # the outermost frame: whatever it was, the status file has to say so
        traceback.print_exc()
        status.failed(BatchError("batch_failed", f"The job failed: {type(error).__name__}: {error}"))
        return 1
    # The status comes last: whoever reads that the job is complete finds its log complete too.
    sys.stdout.write(f"{rows} rows scored into {output}\n")
    sys.stdout.flush()
    status.completed(rows, arguments.output_uri or str(output))
    return 0


def _fail(status: StatusFile, error: BatchError) -> int:
    sys.stdout.write(f"{error.message}\n")
    sys.stdout.flush()
    status.failed(error)
    return 1


if __name__ == "__main__":
    sys.exit(main())
