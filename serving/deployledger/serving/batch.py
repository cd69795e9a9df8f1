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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from deployledger.domain.requests import BatchOptions
from deployledger.serving.batch_files import InputFile, input_files, place_of
from deployledger.serving.batch_reading import CHUNK_BYTES, Chunk, Format, format_of
from deployledger.serving.batch_scoring import BatchJob, Plan, Scoring, in_order
from deployledger.serving.batch_status import BatchError, StatusFile, input_invalid
from deployledger.serving.batch_types import schema_of
from deployledger.serving.batch_writing import Committed, Output, encoding_of, schema_from, schema_text
from deployledger.serving.model_files import ModelDamagedError, ModelFiles

_DAMAGED_HINT = "Retry to extract the model from its image again, and check the disk."
_ELSEWHERE = "Choose another path."
_VERSION = 1
"""The version of chunks and work folders: a job that another version began starts over."""


@dataclass(frozen=True)
class Result:
    """How many rows a job scored, and how many it skipped."""

    rows: int
    rejected: int


def run(job: BatchJob, status: StatusFile) -> Result:
    """Score every row of the input into the output.

    Raises:
        ModelDamagedError: a file of the model is not what it should be; nothing was scored.
        BatchError: the job failed; nothing was written under the output's name.
    """
    files = input_files(job.source)
    _check_places(job, files)
    encoding = encoding_of(job.output, files[0].name)
    reading = format_of(files[0].name)
    columns = _columns(reading, files)
    plan = Plan(job, reading, encoding, columns, schema_of(job.options.column_types or {}, columns))
    output = Output(job.output, encoding, job.options.errors_uri, job.work, _identity(job, files))
    try:
        scoring = _scoring(plan, files, output.committed)
        committed = output.committed
        if committed.chunks:
            sys.stdout.write(f"Continuing after {committed.rows} rows.\n")
        chunks = islice(_chunks(reading, files, committed.chunk_bytes), committed.chunks, None)
        for scored in in_order(scoring, chunks, job.options.workers):
            output.append(scored.data, scored.rows, scored.schema, scored.rejected)
            status.progress(committed.rows + committed.rejected, scored.progress)
        if not committed.rows:
            rejected = f": all {committed.rejected} were rejected" if committed.rejected else ""
            raise input_invalid(
                f"{job.source} has no rows{' that can be scored' * bool(rejected)}{rejected}."
            )
        output.publish()
    finally:
        output.discard()
    return Result(committed.rows, committed.rejected)


def _check_places(job: BatchJob, files: Sequence[InputFile]) -> None:
    """Refuse to replace a file that is read, to write where a next run reads, or two files in one place."""
    source = place_of(job.source).real
    written = [place_of(uri).real for uri in (job.output, job.options.errors_uri) if uri]
    for path in written:
        if path.is_relative_to(source) or any(file.place.real.is_relative_to(path) for file in files):
            raise input_invalid(f"{path} would be written, but is part of the input.", _ELSEWHERE)
    if len(set(written)) < len(written):
        raise input_invalid(f"{written[0]} would hold both the output and the rejected rows.", _ELSEWHERE)


def _columns(reading: Format, files: Sequence[InputFile]) -> list[str]:
    """Return the columns of the first file; the others must have the same, in any order."""
    columns: list[str] = []
    for file in files:
        if format_of(file.name) is not reading:
            raise input_invalid(f"{file.name} and {files[0].name} have different formats.")
        found = next(reading.chunks(file, CHUNK_BYTES)).columns
        if found and sorted(found) != sorted(columns or found):  # an empty file of JSON lines has none
            raise input_invalid(
                f"{file.name} has the columns {', '.join(found)}, "
                f"but {files[0].name} has {', '.join(columns)}."
            )
        columns = columns or found
    if not columns:
        raise input_invalid(f"{files[0].name} has no rows.")
    return columns


def _scoring(plan: Plan, files: Sequence[InputFile], committed: Committed) -> Scoring:
    """Return the loaded model, with everything that is decided once for the job."""
    if committed.chunk_bytes:
        types, output = schema_from(committed.types), schema_from(committed.output)
        return Scoring(replace(plan, types=types, output=output))
    scoring = Scoring(plan)
    scoring.decide(_chunks(plan.reading, files, CHUNK_BYTES))
    committed.chunk_bytes = scoring.probe(_chunks(plan.reading, files, CHUNK_BYTES))
    committed.types = schema_text(scoring.plan.types)
    committed.output = schema_text(scoring.plan.output or pa.schema([]))
    return scoring


def _chunks(reading: Format, files: Sequence[InputFile], size: int) -> Iterator[Chunk]:
    total = max(1, sum(file.size for file in files))
    before = 0
    for file in files:
        for chunk in reading.chunks(file, size):
            yield replace(chunk, progress=(before + chunk.progress * file.size) / total)
        before += file.size


def _identity(job: BatchJob, files: Sequence[InputFile]) -> dict[str, Any]:
    """Return what the output depends on, as JSON has it."""
    return {
        "version": _VERSION,
        "input": [[file.name, file.size, file.version] for file in files],
        "model": job.files.digest if job.files else [str(job.model), job.model.stat().st_mtime],
        "output": job.output,
        "options": job.options.model_dump(mode="json", exclude={"workers"}),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; the status file says how it ended, and so does the exit status: 0 or 1."""
    parser = argparse.ArgumentParser(prog="deployledger.serving.batch")
    parser.add_argument("--model", type=Path, required=True, help="an ONNX file, or an MLflow model's folder")
    parser.add_argument("--input", required=True, help="a file, a folder or a pattern: a path or a URI")
    parser.add_argument(
        "--output", required=True, help="a file, or a folder if it ends with /: a path or a URI"
    )
    parser.add_argument("--output-uri", help="the output's name in the result; its path by default")
    parser.add_argument("--status", type=Path, required=True, help="where to report progress")
    parser.add_argument("--threads", type=int, default=1, help="threads within one prediction")
    parser.add_argument(
        "--options", type=BatchOptions.model_validate_json, default=BatchOptions(), help="as JSON"
    )
    ModelFiles.add_arguments(parser)
    arguments = parser.parse_args(argv)

    work = _work_folder(arguments.output, arguments.status)
    status = StatusFile(arguments.status, work)
    status.progress(0, 0.0)
    try:
        job = BatchJob(
            model=arguments.model,
            source=arguments.input,
            output=arguments.output,
            work=work,
            threads=arguments.threads,
            files=ModelFiles.from_arguments(arguments),
            options=arguments.options,
        )
        result = run(job, status)
    except ModelDamagedError as error:
        return _fail(status, BatchError("artifact_damaged", str(error), _DAMAGED_HINT))
    except BatchError as error:
        return _fail(status, error)
    except Exception as error:  # the outermost frame: whatever it was, the status file has to say so
        traceback.print_exc()
        status.failed(BatchError("batch_failed", f"The job failed: {type(error).__name__}: {error}"))
        return 1
    # The status comes last: when it says that the job is complete, so is the log.
    left_out = f", {result.rejected} skipped" if result.rejected else ""
    sys.stdout.write(f"{result.rows} rows scored into {arguments.output}{left_out}\n")
    sys.stdout.flush()
    status.completed(result.rows, result.rejected, arguments.output_uri or arguments.output)
    return 0


def _work_folder(output: str, status: Path) -> Path:
    """Return where the output grows: beside it, so that it can be renamed, or with the job's own files."""
    job = hashlib.sha256(os.fsencode(status.absolute())).hexdigest()[:12]
    if not place_of(output).is_local:
        return status.absolute().with_name("output.partial")
    path = Path(output).absolute()
    return path.with_name(f".{path.name}.{job}.partial")


def _fail(status: StatusFile, error: BatchError) -> int:
    sys.stdout.write(f"{error.message}\n")
    sys.stdout.flush()
    status.failed(error)
    return 1


if __name__ == "__main__":
    sys.exit(main())
