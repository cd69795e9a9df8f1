"""Reading the rows of a batch job: CSV, JSON lines, Parquet and Arrow IPC, in chunks that stand alone.

A chunk of a text file is some bytes that end where a record ends, so that chunks can be parsed by different
processes, and again after a restart; its lines are counted, so that every row has one.
"""

import csv
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from deployledger.domain.redaction import storable
from deployledger.serving.batch_files import InputFile, split_suffixes
from deployledger.serving.batch_status import input_invalid
from deployledger.serving.batch_table import RowProblem
from deployledger.serving.batch_types import Cells, plain

CHUNK_BYTES = 4 << 20
"""The usual size of a chunk of the input."""

FEATURES = "features"
"""The name of the only column of rows that are JSON arrays."""

MOST_ROWS = 65_536
"""The most rows of a chunk, and of what a model scores at once."""

_LARGEST_RECORD = 1 << 30
# A quoted field, which may have line breaks; a quote elsewhere in a field is a character like any other.
_QUOTED = re.compile(rb'"(?<=[,\r\n]")[^"]*+(?:""[^"]*+)*+("|\Z)')
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # as surrogateescape has it

_NOT_UTF8_HINT = "Save the file as UTF-8, and retry."

csv.field_size_limit(sys.maxsize)


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file, as they are stored.

    Attributes:
        file: the file's name.
        columns: the file's columns, in their order.
        before: how many lines of the file are before it (rows, where a file has no lines).
        data: the rows.
        progress: the fraction of the file that has been read after it, from 0 to 1.
    """

    file: str
    columns: list[str]
    before: int
    data: Any
    progress: float

    @property
    def size(self) -> int:
        """The bytes of its rows."""
        return len(self.data) if isinstance(self.data, bytes) else int(self.data.nbytes)


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be scored.

    Attributes:
        file: the file's name.
        line: the line where it ends, counted from 1; the row's number in files without lines.
        problem: why.
    """

    file: str
    line: int
    problem: RowProblem


@dataclass(frozen=True)
class Rows:
    """The rows of a chunk.

    Attributes:
        cells: their cells by column; texts, if the format has no types.
        lines: returns the line of each row.
        rejected: records that are not valid rows.
    """

    cells: Mapping[str, Cells]
    lines: Callable[[], Sequence[int]]
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(next(iter(self.cells.values()), ()))


class _Lines:
    """What formats of text have in common: chunks that end with a line."""

    has_schema = False

    def _blocks(
        self, file: InputFile, chunk_bytes: int, end: Callable[[bytes], int]
    ) -> Iterator[tuple[bytes, float]]:
        _, codec = split_suffixes(file.name)
        with file.open() as raw, ExitStack() as stack:
            stream = stack.enter_context(pa.CompressedInputStream(raw, codec)) if codec else raw
            rest = _read(stream, chunk_bytes, file).removeprefix(b"\xef\xbb\xbf")
            while block := _read(stream, max(chunk_bytes, len(rest)), file):
                cut = end(rest)
                if cut:
                    yield rest[:cut], min(1.0, raw.tell() / max(1, file.size))
                elif len(rest) > _LARGEST_RECORD:
                    raise input_invalid(
                        f"{file.name}: a record is larger than {_LARGEST_RECORD} bytes.",
                        "Look for an unclosed quotation mark.",
                    )
                rest = rest[cut:] + block
            yield rest, 1.0


def _read(stream: Any, size: int, file: InputFile) -> bytes:
    try:
        return bytes(stream.read(size))
    except OSError as error:
        raise input_invalid(f"{file.name} cannot be decompressed: {error}.") from error


class Csv(_Lines):
    """Comma-separated values; the first line names the columns."""

    is_text = True

    def chunks(self, file: InputFile, size: int) -> Iterator[Chunk]:
        """Yield blocks of whole records."""
        columns: list[str] | None = None
        before, body = 0, b""
        for block, progress in self._blocks(file, size, _end_of_records):
            body = block
            if columns is None:
                columns, header_bytes, before = _header(block, file.name)
                body = block[header_bytes:]
            yield Chunk(file.name, columns, before, body, progress)
            before += body.count(b"\n")
        for quoted in _QUOTED.finditer(b"\n" + body):
            if not quoted[1]:
                line = before - body.count(b"\n", quoted.start()) + 1
                raise input_invalid(f"{file.name}, line {line}: a quotation mark is not closed.")

    def rows(self, chunk: Chunk) -> Rows:
        """Return the cells as texts."""
        texts = {name: pa.string() for name in chunk.columns}
        try:
            table = pacsv.read_csv(
                pa.BufferReader(chunk.data),
                # One block, because a record that is in two of them is an error.
                pacsv.ReadOptions(column_names=chunk.columns, block_size=len(chunk.data) + 1),
                pacsv.ParseOptions(newlines_in_values=True),
                pacsv.ConvertOptions(column_types=texts, strings_can_be_null=False),
            )
        except pa.ArrowInvalid:
            return _one_by_one(chunk)
        cells = {
            name: column.combine_chunks() for name, column in zip(chunk.columns, table.columns, strict=True)
        }
        return Rows(cells, lambda: [line for line, _ in _records(chunk)])


def _end_of_records(block: bytes) -> int:
    """Return where the last record ends that certainly does."""
    if b'"' not in block:
        return block.rfind(b"\n") + 1
    # A field may begin with the block, as it does after a line break.
    return _QUOTED.sub(lambda quoted: b"x" * len(quoted[0]), b"\n" + block).rfind(b"\n")


def _header(block: bytes, name: str) -> tuple[list[str], int, int]:
    """Return the columns, and how many bytes and lines name them."""
    taken: list[bytes] = []

    def lines() -> Iterator[str]:
        for line in _LINE.finditer(block):
            taken.append(line[0])
            yield _decoded(line[0], name, len(taken))

    for columns in csv.reader(lines()):
        if not columns:
            continue
        if len(set(columns)) != len(columns):
            raise input_invalid(f"{name}, line {len(taken)}: two columns have the same name.")
        return columns, sum(map(len, taken)), len(taken)
    raise input_invalid(f"{name} is empty: it has no header.")


def _decoded(line: bytes, name: str, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise input_invalid(f"{name}, line {number}: not UTF-8: {error}.", _NOT_UTF8_HINT) from error


def _records(chunk: Chunk) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the cells of each record, as Python's own reader finds them."""
    reader = csv.reader(io.StringIO(chunk.data.decode(errors="surrogateescape"), newline=""))
    for record in reader:
        if record:  # not an empty line
            yield chunk.before + reader.line_num, record


def _one_by_one(chunk: Chunk) -> Rows:
    """Return the rows of a chunk in which some record is wrong."""
    rejected, rows = [], {}
    for line, record in _records(chunk):
        if len(record) != len(chunk.columns):
            reason = f"expected {len(chunk.columns)} values, got {len(record)}"
        elif any(map(_NOT_UTF8.search, record)):
            reason = "not UTF-8"
        else:
            rows[line] = record
            continue
        hint = _NOT_UTF8_HINT if reason == "not UTF-8" else ""
        rejected.append(Rejected(chunk.file, line, RowProblem("", storable(",".join(record)), reason, hint)))
    columns = enumerate(chunk.columns)
    cells = {name: pa.array([row[i] for row in rows.values()], pa.string()) for i, name in columns}
    return Rows(cells, lambda: [*rows], rejected)


class JsonLines(_Lines):
    """One JSON object or array a line; an array is a row with the one column ``features``."""

    is_text = False

    def chunks(self, file: InputFile, size: int) -> Iterator[Chunk]:
        """Yield blocks of whole lines."""
        columns: list[str] = []
        before = 0
        for block, progress in self._blocks(file, size, lambda each: each.rfind(b"\n") + 1):
            if not columns:  # those of the first row that is one
                rows = (_row(line)[0] for line in block.split(b"\n") if line.strip())
                columns = list(next(filter(None, rows), ()))
                if not columns and block.strip():
                    first = self.rows(Chunk(file.name, [], before, block, 0.0)).rejected[0]
                    raise input_invalid(f"{file.name}, line {first.line}: {first.problem.reason}.")
            yield Chunk(file.name, columns, before, block, progress)
            before += block.count(b"\n")

    def rows(self, chunk: Chunk) -> Rows:
        """Return the values with the types that they have in JSON."""
        rows, rejected = {}, []
        keys = set(chunk.columns)
        for number, line in enumerate(chunk.data.split(b"\n"), start=chunk.before + 1):
            if not line.strip():
                continue
            row, reason = _row(line)
            if row is not None and row.keys() != keys:
                row, reason = None, f"expected the keys {_names(keys)}, got {_names(row)}"
            if row is None:
                text = line.decode(errors="replace")
                rejected.append(Rejected(chunk.file, number, RowProblem("", storable(text), reason)))
            else:
                rows[number] = row
        cells = {name: [row[name] for row in rows.values()] for name in chunk.columns}
        return Rows(cells, lambda: [*rows], rejected)


_decode = msgspec.json.Decoder().decode


def _row(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """Return the row of a line; None and a reason if it is not a row."""
    try:
        value = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None, f"not JSON: {error}"
    if isinstance(value, list):
        return {FEATURES: value}, ""
    if not isinstance(value, dict) or not value:
        return None, "neither a non-empty object nor an array"
    return value, ""


def _names(names: Any) -> str:
    return ", ".join(repr(name) for name in sorted(names))


class _Batches:
    """What formats of columns have in common: batches that need no parsing."""

    is_text = False
    has_schema = True

    def rows(self, chunk: Chunk) -> Rows:
        """Return the batch itself."""
        cells = dict(zip(chunk.columns, chunk.data.columns, strict=True))
        return Rows(cells, lambda: range(chunk.before + 1, chunk.before + 1 + chunk.data.num_rows))


class Parquet(_Batches):
    """Apache Parquet."""

    def chunks(self, file: InputFile, size: int) -> Iterator[Chunk]:
        """Yield batches of rows, fewer of them where rows are large."""
        with file.open() as raw, _of_format(file, "Parquet"):
            parquet = pq.ParquetFile(raw)
            metadata = parquet.metadata
            groups = [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]
            row_bytes = 1 + sum(groups) // max(1, metadata.num_rows)
            most = max(1, min(MOST_ROWS, 8 * size // row_bytes))
            yield from _batches(file, parquet.schema_arrow, parquet.iter_batches(most), metadata.num_rows)


class ArrowIpc(_Batches):
    """Arrow IPC, as a file or as a stream."""

    def chunks(self, file: InputFile, size: int) -> Iterator[Chunk]:
        """Yield batches of rows, large ones in parts."""
        with file.open() as raw, _of_format(file, "Arrow IPC"):
            try:
                whole = pa.ipc.open_file(raw)
                batches = (whole.get_batch(index) for index in range(whole.num_record_batches))
                schema = whole.schema
            except pa.ArrowInvalid:
                raw.seek(0)
                batches = pa.ipc.open_stream(raw)
                schema = batches.schema
            parts = (
                batch.slice(start, most)
                for batch in batches
                for most in [max(1, min(MOST_ROWS, 8 * size * batch.num_rows // (1 + batch.nbytes)))]
                for start in range(0, batch.num_rows, most)
            )
            yield from _batches(file, schema, parts, None)


@contextmanager
def _of_format(file: InputFile, name: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise input_invalid(f"{file.name} is not a readable {name} file: {error}.") from error


def _batches(
    file: InputFile, schema: pa.Schema, batches: Iterator[pa.RecordBatch], total: int | None
) -> Iterator[Chunk]:
    names = list(schema.names)
    if len(set(names)) != len(names):
        raise input_invalid(f"{file.name}: two columns have the same name.")
    empty = schema.empty_table()
    yield Chunk(file.name, names, 0, _plain(empty.columns, names), 0.0)
    before = 0
    for batch in batches:
        progress = (before + batch.num_rows) / total if total else 0.0
        yield Chunk(file.name, names, before, _plain(batch.columns, names), progress)
        before += batch.num_rows


def _plain(columns: Sequence[Any], names: list[str]) -> pa.RecordBatch:
    arrays = [each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each for each in columns]
    return pa.RecordBatch.from_arrays([plain(each) for each in arrays], names=names)


Format: TypeAlias = Csv | JsonLines | Parquet | ArrowIpc
"""A file format of rows: its ``chunks`` have about so many bytes, and ``rows`` returns the rows of one.

``is_text``: cells are texts, without types; ``has_schema``: the first chunk of a file has the types of all of
them, and no rows.
"""

FORMATS: dict[str, Format] = {
    ".csv": Csv(),
    ".jsonl": JsonLines(),
    ".ndjson": JsonLines(),
    ".parquet": Parquet(),
    ".arrow": ArrowIpc(),
    ".feather": ArrowIpc(),
}


def format_of(name: str) -> Format:
    """Return the format for a file's suffix.

    Raises:
        BatchError: there is none.
    """
    suffix, codec = split_suffixes(name)
    if suffix not in FORMATS:
        raise input_invalid(f"{name} has the suffix {suffix!r}.", f"Use one of {', '.join(FORMATS)}.")
    if codec and isinstance(FORMATS[suffix], _Batches):
        raise input_invalid(
            f"{name} is compressed as a whole.", f"Use the compression within {suffix} files instead."
        )
    return FORMATS[suffix]
