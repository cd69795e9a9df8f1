"""Turning chunks of the input into chunks of the output, in this process or in several."""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import pyarrow as pa

from deployledger.domain.redaction import shown
from deployledger.domain.requests import BatchOptions
from deployledger.serving.batch_reading import CHUNK_BYTES, MOST_ROWS, Chunk, Format, Rejected, Rows
from deployledger.serving.batch_scorer import Scorer
from deployledger.serving.batch_status import BatchError, input_invalid
from deployledger.serving.batch_table import InputColumn, RowProblem, RowsError
from deployledger.serving.batch_types import NULL_VALUES, Cells, ColumnTypes, read_as
from deployledger.serving.batch_writing import Encoding
from deployledger.serving.model_files import ModelFiles

_PROBED_ROWS = 1024
_MOST_BYTES = 32 << 20


@dataclass(frozen=True)
class BatchJob:
    """A batch job.

    Attributes:
        model: an ONNX file, or an MLflow model's folder.
        source: the input: a file, a folder or a pattern, as a path or a URI.
        output: a file, or a folder if it ends with ``/``.
        work: the folder in which the output grows.
        threads: how many threads compute predictions.
        files: what the model is checked against.
        options: how it is read and written.
    """

    model: Path
    source: str
    output: str
    work: Path
    threads: int = 1
    files: ModelFiles | None = None
    options: BatchOptions = field(default_factory=BatchOptions)


@dataclass(frozen=True)
class Plan:
    """All that a process needs to score any chunk.

    Attributes:
        job: what is to be done.
        reading: the input's format.
        encoding: the output's format.
        columns: the input's columns.
        types: the types of the columns of which the model does not decide it.
        output: the columns of the predictions; None until they are known.
    """

    job: BatchJob
    reading: Format
    encoding: Encoding
    columns: list[str]
    types: pa.Schema
    output: pa.Schema | None = None


@dataclass(frozen=True)
class Scored:
    """A scored chunk.

    Attributes:
        data: its rows as they are written, in parts.
        rows: how many these are.
        schema: their columns; None if there are none.
        rejected: the rows that were left out.
        progress: the fraction of the input that is done after it.
    """

    data: list[bytes]
    rows: int
    schema: pa.Schema | None
    rejected: list[Rejected]
    progress: float


class Scoring:
    """Scores chunks with one loaded model.

    Attributes:
        plan: what is known of the job; it grows by what the first rows decide.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        job = plan.job
        self._skips = job.options.on_error == "skip"
        self._scorer = Scorer(
            job.model,
            max(1, job.threads // job.options.workers),
            job.files,
            flat=plan.encoding.is_csv,
            misfit=job.options.misfit,
            output=plan.output,
        )
        self._inputs = self._scorer.inputs(plan.columns)
        self._keeps_texts = plan.reading.is_text and plan.encoding.is_csv
        null_values = job.options.null_values
        self._null_values = NULL_VALUES if null_values is None else null_values

    def decide(self, chunks: Iterable[Chunk]) -> None:
        """Decide the types of columns by all their cells.

        That is, where neither the model nor the user does; and whether a model that has no type for a column
        is to expect missing cells. Files of columns have types that hold for all their rows.
        """
        plan = self.plan
        taken = {column.name for column in self._inputs if column.type is None}
        passed = set() if self._keeps_texts else set(plan.columns) - set(plan.types.names)
        if not taken | passed:
            return
        seen = ColumnTypes(is_text=plan.reading.is_text, null_values=self._null_values)
        for chunk in chunks:
            if taken or not plan.reading.has_schema or not chunk.before:
                cells = self._rows(chunk).cells
                seen.see({name: cells[name] for name in taken | passed if name in cells})
        types = {each.name: each for each in seen.schema()}
        for each in plan.types:  # the user's
            types[each.name] = types.get(each.name, each).with_type(each.type)
        self.plan = replace(plan, types=pa.schema(list(types.values())))

    def probe(self, chunks: Iterable[Chunk]) -> int:
        """Let the first rows decide the columns of the predictions, and how many bytes a chunk has.

        Chunks are smaller where predictions are much larger than their rows.
        """
        for chunk in chunks:
            rows = self._rows(chunk)
            first = {name: cells[:_PROBED_ROWS] for name, cells in rows.cells.items()}
            scored = self._score(chunk, replace(rows, cells=first, rejected=[]))
            if scored.rows:
                self.plan = replace(self.plan, output=self._scorer.output)
                fitting = max(1, _MOST_BYTES * scored.rows // sum(map(len, scored.data)))
                return min(CHUNK_BYTES, fitting * max(1, chunk.size // rows.count))
        return CHUNK_BYTES

    def __call__(self, chunk: Chunk) -> Scored:
        """Score the rows of a chunk.

        Raises:
            BatchError: one of them cannot be scored, and such rows are not skipped.
        """
        return self._score(chunk, self._rows(chunk))

    def _rows(self, chunk: Chunk) -> Rows:
        rows = self.plan.reading.rows(chunk)
        if rows.rejected and not self._skips:
            raise refusal(rows.rejected[0])
        return rows

    def _score(self, chunk: Chunk, rows: Rows) -> Scored:
        scored: list[pa.RecordBatch] = []
        rejected = rows.rejected
        for start in range(0, rows.count, MOST_ROWS):
            part = {name: cells[start : start + MOST_ROWS] for name, cells in rows.cells.items()}
            batch, problems = self._predicted(part)
            if problems:
                lines = rows.lines()
                refused = [
                    Rejected(chunk.file, lines[start + row], problem)
                    for row, problem in sorted(problems.items())
                ]
                if not self._skips:
                    raise refusal(refused[0])
                rejected = [*rejected, *refused]
            if batch is not None:
                scored.append(batch)
        return Scored(
            data=[self.plan.encoding.encode(batch) for batch in scored],
            rows=sum(batch.num_rows for batch in scored),
            schema=scored[0].schema if scored else None,
            rejected=sorted(rejected, key=lambda row: row.line),
            progress=chunk.progress,
        )

    def _predicted(self, cells: Mapping[str, Cells]) -> tuple[pa.RecordBatch | None, dict[int, RowProblem]]:
        """Return the rows that can be scored with their predictions, and why the others cannot."""
        names = self.plan.columns
        inputs, problems = self._columns(cells, self._inputs)
        if self._keeps_texts:
            passed = pa.RecordBatch.from_arrays([cells[name] for name in names], names=names)
        else:
            passed, misfits = self._columns(cells, [InputColumn(name) for name in names])
            problems = misfits | problems
        while not problems or (self._skips and len(problems) < passed.num_rows):
            kept = np.delete(np.arange(passed.num_rows), [*problems])
            try:
                predictions = self._scorer.score(inputs.take(pa.array(kept)) if problems else inputs)
            except RowsError as error:
                problems |= {int(kept[row]): problem for row, problem in error.problems.items()}
                continue
            rows = passed.take(pa.array(kept)) if problems else passed
            columns = rows.columns + predictions.columns
            return pa.RecordBatch.from_arrays(columns, names=names + predictions.schema.names), problems
        return None, problems

    def _columns(
        self, cells: Mapping[str, Cells], wanted: Iterable[InputColumn]
    ) -> tuple[pa.RecordBatch, dict[int, RowProblem]]:
        arrays, fields = [], []
        problems: dict[int, RowProblem] = {}
        null_values = self._null_values if self.plan.reading.is_text else None
        for column in wanted:
            if column.type is None:
                decided = self.plan.types.field(column.name)
                column = replace(column, type=decided.type, nullable=decided.nullable)
            array, wrong = read_as(cells[column.name], column, null_values)
            problems = wrong | problems
            arrays.append(array)
            fields.append(pa.field(column.name, array.type, nullable=column.nullable))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)), problems


def refusal(row: Rejected) -> BatchError:
    """Return the error for a row that cannot be scored."""
    problem = row.problem
    where = f"{row.file}, line {row.line}" + (f", column {problem.column!r}" if problem.column else "")
    what = problem.reason + (f": {shown(problem.value)}" if problem.column and problem.value else "")
    end = "" if what.endswith("…") else "."
    hint = "Correct the row, or skip such rows: `--on-error skip --errors FILE`."
    return input_invalid(f"{where}: {what}{end}", problem.hint or hint)


def in_order(scoring: Scoring, chunks: Iterable[Chunk], workers: int) -> Iterator[Scored]:
    """Yield the scored chunks, in order.

    Raises:
        BatchError: a row cannot be scored, or a process was killed.
    """
    if workers == 1:
        yield from map(scoring, chunks)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (scoring.plan,))
    waiting: deque[Future[Scored]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_score, chunk))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise BatchError(
            "batch_failed",
            "A worker process of the batch job was killed or ran out of memory.",
            "Retry with fewer workers.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(plan: Plan) -> None:
    """Load the model in a worker, which ends with the process that started it."""
    global _scoring
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _scoring = Scoring(plan)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(chunk: Chunk) -> Scored:
    return _scoring(chunk)


_scoring: Scoring
