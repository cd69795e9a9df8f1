"""Writing the rows of a batch job, so that a file appears when it is complete, or not at all.

The output grows in a work folder: beside it, or for an object store in the job's own. A manifest there says
how much of it is committed, so that a job that was killed goes on after the last committed chunk.
"""

import base64
import csv
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from deployledger.service.files.staging import remove
from deployledger.service.files.writing import read_json, sync, write_json
from deployledger.serving.batch_files import CODECS, Place, place_of, split_suffixes
from deployledger.serving.batch_reading import Rejected, format_of
from deployledger.serving.batch_status import BatchError
from deployledger.serving.batch_text import cell_texts, json_values

pc: Any = import_module("pyarrow.compute")  # its functions are made when it is imported

_GROUP_BYTES = 32 << 20
_COMMIT_BYTES = 16 << 20
_MANIFEST = "manifest.json"
_REJECTED_COLUMNS = ("file", "line", "column", "value", "reason")


@dataclass(frozen=True)
class Encoding:
    """How rows are written.

    Attributes:
        suffix: the format.
        codec: what compresses files of text; None if nothing does.
    """

    suffix: str
    codec: str | None

    @property
    def is_csv(self) -> bool:
        """Whether cells can only be texts."""
        return self.suffix == ".csv"

    @property
    def is_text(self) -> bool:
        """Whether a file is the sequence of its chunks."""
        return self.suffix in (".csv", ".jsonl", ".ndjson")

    @property
    def ending(self) -> str:
        """What the names of files end with."""
        return self.suffix + next((each for each, codec in CODECS.items() if codec == self.codec), "")

    def head(self, schema: pa.Schema) -> bytes:
        """Return what comes before the rows."""
        if self.is_text:
            return self._packed(csv_line(schema.names) if self.is_csv else b"")
        return bytes(schema.serialize())

    def encode(self, rows: pa.RecordBatch) -> bytes:
        """Return rows as bytes to append to a file."""
        if self.is_csv:
            return self._packed(_csv(rows))
        if self.is_text:
            columns = [json_values(column) for column in rows.columns]
            lines = [dict(zip(rows.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
            return self._packed(msgspec.json.Encoder().encode_lines(lines))
        return bytes(rows.serialize())

    def _packed(self, content: bytes) -> bytes:
        return pa.Codec(self.codec).compress(content, asbytes=True) if self.codec and content else content

    def whole(self, data: Path) -> Path:
        """Return the complete file that some appended chunks are: for columns, one made of them."""
        if self.is_text:
            return data
        target = data.with_name("whole")
        make: Any = pq.ParquetWriter if self.suffix == ".parquet" else pa.ipc.new_file
        with pa.OSFile(str(data)) as source, pa.ipc.open_stream(source) as batches:
            with make(str(target), batches.schema) as writer:
                for group in _groups(batches):
                    writer.write_table(pa.Table.from_batches(group))
        return target


def encoding_of(output: str, source: str) -> Encoding:
    """Return how an output is written: as its suffix says, a folder without one as the input is.

    Raises:
        BatchError: there is no such format.
    """
    name = output if split_suffixes(output)[0] or not output.endswith("/") else source
    format_of(name)
    return Encoding(*split_suffixes(name))


def _groups(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield batches that make a row group together."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if sum(each.nbytes for each in group) >= _GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


def csv_line(cells: Sequence[str]) -> bytes:
    """Return one line of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _csv(rows: pa.RecordBatch) -> bytes:
    texts = [_quoted(cell_texts(column)) for column in rows.columns]
    cells = pc.binary_join_element_wise(*texts, ",", null_handling="replace", null_replacement="")
    lines = pc.binary_join_element_wise(cells, "", "\n")
    return bytes(lines.buffers()[2] or b"")


def _quoted(texts: pa.Array) -> pa.Array:
    content = memoryview(texts.buffers()[2] or b"").tobytes()
    if not any(each in content for each in (b'"', b",", b"\n", b"\r")):
        return texts
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(texts, '"', '""'), '"', "")
    return pc.if_else(pc.match_substring_regex(texts, '[",\r\n]'), quoted, texts)


@dataclass
class Committed:
    """How much of the output is committed.

    Attributes:
        chunks: how many chunks of the input are done.
        parts: how many files are complete, if the output is a folder.
        rows: how many rows were scored.
        rejected: how many were not.
        size: the bytes of the data file.
        rejected_size: the bytes of the file with the rejected rows.
        chunk_bytes: how large chunks are; 0 before this, and all that follows, is decided.
        types: the types decided for the job, and
        output: the columns of the predictions: schemas in Arrow's own form, as base64.
    """

    chunks: int = 0
    parts: int = 0
    rows: int = 0
    rejected: int = 0
    size: int = 0
    rejected_size: int = 0
    chunk_bytes: int = 0
    types: str = ""
    output: str = ""


def schema_text(schema: pa.Schema) -> str:
    """Return a schema as `Committed` stores it."""
    return base64.b64encode(schema.serialize()).decode()


def schema_from(text: str) -> pa.Schema:
    """Return the schema that `schema_text` stored."""
    return pa.ipc.read_schema(pa.BufferReader(base64.b64decode(text)))


class Output:
    """The output of a job while it grows.

    Args:
        uri: where it appears.
        encoding: how it is written.
        errors_uri: where the rejected rows appear; None drops them.
        work: the folder in which it grows.
        identity: all that the output depends on: if it has changed, the contents of the folder are discarded.
    """

    def __init__(
        self, uri: str, encoding: Encoding, errors_uri: str | None, work: Path, identity: dict[str, Any]
    ) -> None:
        self._place = place_of(uri)
        self._errors = place_of(errors_uri) if errors_uri else None
        self._encoding = encoding
        self._is_folder = uri.endswith("/")
        self._work = work
        self._identity = identity
        for place, is_folder in ((self._place, self._is_folder), (self._errors, False)):
            if place is not None:
                with _blaming(place):
                    _check(place, is_folder)
        with _blaming(self._place):
            begun = read_json(work / _MANIFEST) or {}
            is_same = begun.pop("identity", None) == identity
            self.committed = Committed(**begun) if is_same else Committed()
            if not is_same or not self._is_there():
                self.committed = Committed()
                remove(work)
            (work / "parts").mkdir(parents=True, exist_ok=True)
            self._data = _opened(work / "data", self.committed.size)
            self._rejected = _opened(work / "rejected.csv", self.committed.rejected_size)
        self._next_commit = self._data.tell() + self._rejected.tell() + _COMMIT_BYTES

    def _is_there(self) -> bool:
        """Whether what was committed is in the work folder: a job may be killed when some has its name."""
        sizes = {path.name: path.stat().st_size for path in self._work.iterdir()}
        return (
            sizes.get("data", 0) >= self.committed.size
            and sizes.get("rejected.csv", 0) >= self.committed.rejected_size
            and len([*self._work.glob("parts/*")]) >= self.committed.parts
        )

    def append(
        self, data: Sequence[bytes], rows: int, schema: pa.Schema | None, rejected: Sequence[Rejected]
    ) -> None:
        """Append a scored chunk, and commit if enough was appended."""
        committed = self.committed
        with _blaming(self._place):
            if data:
                self._data.writelines([b"" if self._data.tell() else self._encoding.head(schema), *data])
            if self._errors is not None and rejected:
                if not self._rejected.tell():
                    self._rejected.write(csv_line(_REJECTED_COLUMNS))
                for row in rejected:
                    problem = row.problem
                    cells = (row.file, str(row.line), problem.column, problem.value, problem.reason)
                    self._rejected.write(csv_line(cells))
            committed.chunks += 1
            committed.rows += rows
            committed.rejected += len(rejected)
            if self._data.tell() + self._rejected.tell() >= self._next_commit:
                self._commit()

    def _commit(self) -> None:
        for file in (self._data, self._rejected):
            file.flush()
            os.fdatasync(file.fileno())
        if self._is_folder:
            self._end_part()
        self.committed.size, self.committed.rejected_size = self._data.tell(), self._rejected.tell()
        write_json(self._work / _MANIFEST, {"identity": self._identity, **asdict(self.committed)})
        self._next_commit = self.committed.size + self.committed.rejected_size + _COMMIT_BYTES

    def _end_part(self) -> None:
        """Make a file of what there is, and begin the next one."""
        if not self._data.tell():
            return
        self._data.close()
        part = self._encoding.whole(self._work / "data")
        sync(part)
        part.replace(self._work / "parts" / f"part-{self.committed.parts:05}{self._encoding.ending}")
        self.committed.parts += 1
        self._data = _opened(self._work / "data", 0)

    def publish(self) -> None:
        """Give the complete output its name; the rejected rows first."""
        with _blaming(self._place):
            if self._is_folder:
                self._end_part()
            self._data.close()
            self._rejected.close()
            if self._errors is not None:
                if not (self._work / "rejected.csv").stat().st_size:
                    (self._work / "rejected.csv").write_bytes(csv_line(_REJECTED_COLUMNS))
                with _blaming(self._errors):
                    _publish_file(self._work / "rejected.csv", self._errors)
            if self._is_folder:
                _publish_folder(self._work / "parts", self._place)
            else:
                _publish_file(self._encoding.whole(self._work / "data"), self._place)

    def discard(self) -> None:
        """Remove what is unfinished."""
        for file in (self._data, self._rejected):
            with suppress(OSError):  # the disk is full, which has been reported
                file.close()
        remove(self._work)


@contextmanager
def _blaming(place: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BatchError(
            "batch_failed",
            f"{place.path} cannot be written: {error.strerror or error}.",
            "Check the folder's permissions and free space, and retry.",
        ) from error


def _check(place: Place, is_folder: bool) -> None:
    """Refuse a target that an output may not replace."""
    if not place.is_local:
        return
    target = Path(place.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_folder and target.is_dir():
        raise IsADirectoryError(0, "it is a folder; write its name with a / at the end")
    if is_folder and target.exists() and any(not each.name.startswith("part-") for each in target.iterdir()):
        raise FileExistsError(0, "the folder contains files other than those of an earlier output")


def _opened(path: Path, size: int) -> Any:
    """Open a file for appending after its first ``size`` bytes."""
    file = path.open("ab")
    file.truncate(size)
    file.seek(size)
    return file


def _publish_file(file: Path, place: Place) -> None:
    if not place.is_local:
        place.files.put_file(str(file), place.path)
        return
    target = Path(place.path)
    if file.stat().st_dev != target.parent.stat().st_dev:
        copy = target.with_name(f".{target.name}.{file.parent.name}")
        try:
            shutil.copyfile(file, copy)
        except OSError:
            copy.unlink(missing_ok=True)
            raise
        file = copy
    sync(file)
    file.replace(target)
    sync(target.parent)


def _publish_folder(parts: Path, place: Place) -> None:
    if not place.is_local:
        for part in sorted(parts.iterdir()):
            place.files.put_file(str(part), f"{place.path.rstrip('/')}/{part.name}")
        place.files.pipe_file(f"{place.path.rstrip('/')}/_SUCCESS", b"")  # as Hadoop has it: it is complete
        return
    target = Path(place.path)
    sync(parts)
    _check(place, True)
    if target.exists():
        target.rename(parts.with_name("earlier"))
    parts.rename(target)
    sync(target.parent)
