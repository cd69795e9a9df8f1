"""Turning chunks of the input into chunks of the output, in this process or in several."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from deployledger.serving.batch_reading import CHUNK_BYTES, Chunk, Format, Rejected
from deployledger.serving.batch_scorer import Scorer
from deployledger.serving.batch_status import BatchError, input_invalid
from deployledger.serving.batch_table import InputColumn, RowProblem, RowsError
from deployledger.serving.batch_types import read_as
from deployledger.serving.batch_writing import Encoding
from deployledger.serving.model_files import ModelFiles

_MOST_ROWS = 65_536
_PROBED_ROWS = 1024
_MOST_BYTES = 64 << 20
_SMALLEST_CHUNK = 1 << 16


@dataclass(frozen=True)
class Plan:
    """All that a process needs to score any chunk.

    Attributes:
        model: an ONNX file, or an MLflow model's folder.
        threads: how many threads compute one prediction.
        files: what the model is checked against.
        reading: the input's format.
        encoding: the output's format.
        columns: the input's columns.
        null_values: the texts of missing cells, in CSV.
        types: the types that the user gives columns.
        misfit: what becomes of a prediction that does not fit the output's columns.
        skips: whether rows that cannot be scored are left out.
        decided: the types of the columns that neither the model nor the user decides.
        output: the columns of the predictions; None until they are known.
        most_rows: how many rows are scored at once, at most.
    """

    model: Path
    threads: int
    files: ModelFiles | None
    reading: Format
    encoding: Encoding
    columns: list[str]
    null_values: Sequence[str]
    types: dict[str, pa.DataType]
    misfit: Literal["fail", "null"]
    skips: bool
    decided: pa.Schema | None = None
    output: pa.Schema | None = None
    most_rows: int = _PROBED_ROWS


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
        self._scorer = Scorer(
            plan.model,
            plan.threads,
            plan.files,
            flat=plan.encoding.is_csv,
            misfit=plan.misfit,
            output=plan.output,
        )
        self._inputs = self._scorer.inputs(plan.columns)
        self._keeps_texts = plan.reading.is_text and plan.encoding.is_csv

    @property
    def undecided(self) -> list[str]:
        """The columns whose cells all have to be read before the first chunk is scored.

        They decide the type, where neither the model nor the user does, and whether a model that has no type
        for a column is to expect missing cells. Files of columns have types that hold for all their rows.
        """
        taken = {column.name for column in self._inputs if column.type is None}
        passed = set() if self._keeps_texts else set(self.plan.columns) - self.plan.types.keys()
        return [name for name in self.plan.columns if name in taken | passed]

    @property
    def needs_cells(self) -> bool:
        """Whether the cells decide, and not the types in the files."""
        return not self.plan.reading.has_schema or any(column.type is None for column in self._inputs)

    def decide(self, types: pa.Schema) -> None:
        """Adopt the types that the input decides; those of the user take precedence."""
        fields = [field.with_type(self.plan.types.get(field.name, field.type)) for field in types]
        self.plan = replace(self.plan, decided=pa.schema(fields))

    def probe(self, chunks: Iterable[Chunk]) -> int:
        """Let the first rows decide the columns of the predictions, and how many bytes a chunk has.

        Chunks are smaller where predictions are much larger than their rows.
        """
        for chunk in chunks:
            rows = self.plan.reading.rows(chunk)
            scored = self._score(chunk, rows.batch.slice(0, _PROBED_ROWS), rows.lines, [])
            if scored.rows:
                fitting = max(1, _MOST_BYTES * scored.rows // (2 * sum(map(len, scored.data))))
                self.plan = replace(self.plan, output=self._scorer.output, most_rows=min(_MOST_ROWS, fitting))
                row_bytes: int = max(1, chunk.size // rows.batch.num_rows)
                return max(_SMALLEST_CHUNK, min(CHUNK_BYTES, fitting * row_bytes))
        return CHUNK_BYTES

    def __call__(self, chunk: Chunk) -> Scored:
        """Score the rows of a chunk.

        Raises:
            BatchError: one of them cannot be scored, and such rows are not skipped.
        """
        rows = self.plan.reading.rows(chunk)
        if rows.rejected and not self.plan.skips:
            raise refusal(rows.rejected[0])
        return self._score(chunk, rows.batch, rows.lines, rows.rejected)

    def _score(
        self,
        chunk: Chunk,
        batch: pa.RecordBatch,
        lines: Callable[[], Sequence[int]],
        rejected: list[Rejected],
    ) -> Scored:
        """Score a batch, in parts that are not too large."""
        scored: list[pa.RecordBatch] = []
        for start in range(0, batch.num_rows, self.plan.most_rows):
            part = batch.slice(start, self.plan.most_rows)
            rows, problems = self._scored(part)
            if problems:
                refused = [
                    Rejected(chunk.file, lines()[start + row], problem)
                    for row, problem in sorted(problems.items())
                ]
                if not self.plan.skips:
                    raise refusal(refused[0])
                rejected = [*rejected, *refused]
            if rows is not None:
                scored.append(rows)
        return Scored(
            data=self.plan.encoding.encode(scored) if scored else [],
            rows=sum(rows.num_rows for rows in scored),
            schema=scored[0].schema if scored else None,
            rejected=sorted(rejected, key=lambda row: row.line),
            progress=chunk.progress,
        )

    def _scored(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch | None, dict[int, RowProblem]]:
        """Return the rows that can be scored with their predictions, and why the others cannot."""
        inputs, problems = self._columns(batch, self._inputs)
        passed = batch.select(self.plan.columns)  # files may have them in another order
        if not self._keeps_texts:
            passed, misfits = self._columns(batch, [InputColumn(name) for name in self.plan.columns])
            problems = misfits | problems
        is_kept = np.ones(batch.num_rows, dtype=bool)
        is_kept[[*problems]] = False
        while is_kept.any():
            is_whole = is_kept.all()
            rows = np.flatnonzero(is_kept)
            try:
                predictions = self._scorer.score(inputs if is_whole else inputs.take(pa.array(rows)))
            except RowsError as error:
                wrong = {int(rows[row]): problem for row, problem in error.problems.items()}
                problems |= wrong
                is_kept[[*wrong]] = False
                if self.plan.skips:
                    continue
                break
            kept = passed if is_whole else passed.take(pa.array(rows))
            columns = kept.columns + predictions.columns
            names = kept.schema.names + predictions.schema.names
            return pa.RecordBatch.from_arrays(columns, names=names), problems
        return None, problems

    def _typed(self, column: InputColumn) -> InputColumn:
        if column.type is not None:
            return column
        if self.plan.decided is None or column.name not in self.plan.decided.names:
            return replace(column, type=self.plan.types[column.name])
        decided = self.plan.decided.field(column.name)
        return replace(column, type=decided.type, nullable=decided.nullable)

    def _columns(
        self, batch: pa.RecordBatch, wanted: Sequence[InputColumn]
    ) -> tuple[pa.RecordBatch, dict[int, RowProblem]]:
        arrays, fields = [], []
        problems: dict[int, RowProblem] = {}
        null_values = self.plan.null_values if self.plan.reading.is_text else None
        for column in map(self._typed, wanted):
            cells, wrong = read_as(batch.column(column.name), column, null_values)
            problems = wrong | problems
            arrays.append(cells)
            fields.append(pa.field(column.name, cells.type, nullable=column.nullable))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields)), problems


def refusal(row: Rejected) -> BatchError:
    """Return the error for a row that cannot be scored."""
    problem = row.problem
    where = f"{row.file}, line {row.line}" + (f", column {problem.column!r}" if problem.column else "")
    what = problem.reason + (f": {problem.value}" if problem.column and problem.value else "")
    return input_invalid(
        f"{where}: {what}.", problem.hint or "Correct the row, or skip such rows (on_error)."
    )


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
