"""Batch jobs: formats, types that are decided once, rows that are refused, and jobs that are killed."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from mlflow.types import ColSpec
from onnx import TensorProto, helper

from deployledger.domain.requests import BatchOptions
from deployledger.serving import batch, batch_scoring, batch_writing
from deployledger.serving.batch import Result, run
from deployledger.serving.batch_scoring import BatchJob
from deployledger.serving.batch_status import BatchError, StatusFile
from tests.adapters.test_batch import row_maxima, save
from tests.serving.function_models import save as save_function

ROWS = pa.table({"a": [1.5, 2.0, -3.0], "b": [4.0, None, 6.25], "c": [7, 8, 9]})
MAXIMA = [7.0, 8.0, 9.0]
NAMES = [
    "rows.csv",
    "rows.csv.gz",
    "rows.jsonl",
    "rows.ndjson.zst",
    "rows.parquet",
    "rows.arrow",
    "rows.feather",
]


class Folder:
    """A folder with a model, in which jobs run in this process."""

    leaves_work = False  # if a test keeps it

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = row_maxima(path / "model.onnx")

    def run(self, source: str, output: str, model: Path | None = None, **options: Any) -> Result:
        job = BatchJob(
            model=model or self.model,
            source=source if "://" in source else str(self.path / source),
            output=output if "://" in output else f"{self.path}/{output}",
            work=self.path / "work",
            options=BatchOptions(**options),
        )
        try:
            return run(job, StatusFile(self.path / "status.json", job.work))
        finally:
            assert self.leaves_work or not job.work.exists(), "something unfinished was left behind"

    def refused(self, source: str, output: str = "out.csv", **options: Any) -> str:
        with pytest.raises(BatchError) as refused:
            self.run(source, output, **options)
        assert not (self.path / output).exists()
        return refused.value.message.removeprefix(f"{self.path}/")

    def write(self, name: str, text: str) -> str:
        (self.path / name).write_bytes(text.encode())
        return name

    def text(self, name: str) -> str:
        return (self.path / name).read_bytes().decode()

    def seen(self, source: str, *, signature: list[ColSpec] | None = None, **options: Any) -> list[Any]:
        """Return what a model sees of each row: names of types and values."""

        def echo(frame: Any) -> Any:
            return [
                " ".join(f"{type(value).__name__}:{value!r}" for value in row)
                for row in frame.itertuples(index=False)
            ]

        model = save_function(self.path / f"echo-{len(list(self.path.iterdir()))}", echo, inputs=signature)
        self.run(source, "seen.parquet", model, **options)
        return list(pq.read_table(self.path / "seen.parquet").column("prediction").to_pylist())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of some rows, each of them committed."""
    monkeypatch.setattr(batch, "CHUNK_BYTES", 64)
    monkeypatch.setattr(batch_scoring, "CHUNK_BYTES", 64)
    monkeypatch.setattr(batch_writing, "_COMMIT_BYTES", 1)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table with nothing of ours."""
    match path.name.split(".")[1:]:
        case ["csv"]:
            pacsv.write_csv(table, path)
        case ["csv", "gz"]:
            sink = pa.BufferOutputStream()
            pacsv.write_csv(table, sink)
            path.write_bytes(gzip.compress(bytes(sink.getvalue())))
        case ["jsonl"]:
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        case ["ndjson", "zst"]:
            text = "".join(json.dumps(row) + "\n" for row in table.to_pylist())
            path.write_bytes(pa.Codec("zstd").compress(text.encode(), asbytes=True))
        case ["parquet"]:
            pq.write_table(table, path)
        case ["arrow"]:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
        case ["feather"]:  # a stream
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a table with nothing of ours."""
    suffixes = path.name.split(".")[1:]
    stream: Any = path
    if suffixes[-1] in ("gz", "zst"):
        codec = {"gz": "gzip", "zst": "zstd"}[suffixes[-1]]
        stream = pa.BufferReader(pa.CompressedInputStream(str(path), codec).read())
    if suffixes[0] == "csv":
        return list(pacsv.read_csv(stream).to_pylist())
    if suffixes[0] in ("jsonl", "ndjson"):
        content = path.read_bytes() if stream is path else stream.read()
        return [json.loads(line) for line in content.splitlines()]
    return list(
        (pq.read_table(path) if suffixes[0] == "parquet" else pa.ipc.open_file(path).read_all()).to_pylist()
    )


@pytest.mark.parametrize("output", [name.replace("rows", "out") for name in NAMES])
@pytest.mark.parametrize("source", NAMES)
def test_every_format_becomes_every_other(source: str, output: str, folder: Folder) -> None:
    write_table(ROWS, folder.path / source)
    assert folder.run(source, output) == Result(3, 0)
    expected = [row | {"prediction": maximum} for row, maximum in zip(ROWS.to_pylist(), MAXIMA, strict=True)]
    assert read_rows(folder.path / output) == expected


# CSV ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
def test_csv_dialects_of_common_programs(folder: Folder) -> None:
    lines = [
        '\ufeffa,"b\n1",c,note',
        '1,2,3,"two\r\nlines, and ""quotes"""',
        "",
        '4,5,6,a 5" pipe',
        '"7",8,9,"a, ""b""\n"',
    ]
    folder.write("in.csv", "\r\n".join(lines + lines[1:] * 20))
    model = folder_model(folder, ["a", "b\n1", "c"])
    assert folder.run("in.csv", "out.jsonl", model) == Result(63, 0)
    rows = read_rows(folder.path / "out.jsonl")
    assert [row["note"] for row in rows[:3]] == ['two\r\nlines, and "quotes"', 'a 5" pipe', 'a, "b"\n']
    assert rows[3:] == rows[:3] * 20
    assert [row["prediction"] for row in rows[:3]] == [6, 15, 24]


def folder_model(folder: Folder, names: list[str]) -> Path:
    """A model that adds the numbers of some columns."""
    return save(
        folder.path / "sum.onnx",
        [helper.make_node("Sum", names, ["y"])],
        {name: (TensorProto.DOUBLE, ["rows"]) for name in names},
        {"y": (TensorProto.DOUBLE, ["rows"])},
    )


def test_csv_keeps_the_text_of_its_cells(folder: Folder) -> None:
    text = 'a,b,c\n1.50, 2 ,"3"\n02,+5,1e2\n'
    folder.run(folder.write("in.csv", text), "out.csv")
    assert folder.text("out.csv") == "a,b,c,prediction\n1.50, 2 ,3,3.0\n02,+5,1e2,100.0\n"


def test_a_cell_may_be_larger_than_any_block(folder: Folder) -> None:
    long = "x" * 9_000_000
    folder.write("in.csv", f'a,b,c,text\n1,2,3,"{long}"\n4,5,6,short\n')
    folder.run("in.csv", "out.csv", folder_model(folder, ["a", "b", "c"]))
    assert folder.text("out.csv") == f"a,b,c,text,prediction\n1,2,3,{long},6.0\n4,5,6,short,15.0\n"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"1\n",2,3\n' * 50 + "\n1,2\n", "in.csv, line 103: expected 3 values, got 2."),
        ("1,2,3\n" * 50 + "1,,3,4\n", "in.csv, line 52: expected 3 values, got 4."),
        ("1,2,3\n" * 50 + "1,\x00,3\n", "in.csv, line 52, column 'b': not a number (float): '\\x00'."),
        ("1,2,3\n" * 50 + '1,"2,3\n4,5,6\n', "in.csv, line 53: expected 3 values, got 2."),
        ("1,2,1e39\n", "in.csv, line 2, column 'c': out of the range of float: '1e39'."),
        ("0x10,2,3\n", "in.csv, line 2, column 'a': not a number (float): '0x10'."),
    ],
)
def test_a_wrong_record_is_named_with_its_line(text: str, said: str, folder: Folder) -> None:
    assert folder.refused(folder.write("in.csv", "a,b,c\n" + text)) == said


def test_text_of_another_encoding_is_refused_with_its_line(folder: Folder) -> None:
    (folder.path / "in.csv").write_bytes(b"a,b,c\n1,2,3\n1,2,\xff\n")
    with pytest.raises(BatchError) as refused:
        folder.run("in.csv", "out.csv")
    assert refused.value.message == f"{folder.path}/in.csv, line 3: not UTF-8."
    assert "Save the file as UTF-8" in refused.value.hint


# Types ----------------------------------------------------------------------------------------------


def test_a_column_has_one_type_in_all_chunks(folder: Folder, small_chunks: None) -> None:
    folder.write("in.csv", "zip,n\n" + "02134,1\n" * 100 + "10001,2.5\n")
    assert folder.seen("in.csv") == ["str:'02134' float:1.0"] * 100 + ["str:'10001' float:2.5"]


@pytest.mark.parametrize(
    ("cells", "seen"),
    [
        (["1", "-2"], ["int:1", "int:-2"]),
        (["1", "02"], ["str:'1'", "str:'02'"]),
        (["1", "+2"], ["str:'1'", "str:'+2'"]),
        (["1", "2.0"], ["float:1.0", "float:2.0"]),
        (["1", "1e3"], ["float:1.0", "float:1000.0"]),
        (["inf", "-Infinity"], ["float:inf", "float:-inf"]),
        (["true", "FALSE"], ["bool:True", "bool:False"]),
        (["true", "1"], ["str:'true'", "str:'1'"]),
        (["1", ""], ["float:1.0", "float:nan"]),
        (["", "NA"], ["float:nan", "float:nan"]),
        (["x", "NA"], ["str:'x'", "float:nan"]),
        (["18446744073709551615", "1"], ["int:18446744073709551615", "int:1"]),
        (["18446744073709551616", "1"], ["str:'18446744073709551616'", "str:'1'"]),
        (["2026-01-01", "2026-01-02"], ["str:'2026-01-01'", "str:'2026-01-02'"]),
    ],
)
def test_the_type_of_a_csv_column_without_another_rule(
    cells: list[str], seen: list[str], folder: Folder
) -> None:
    folder.write("in.csv", "".join(f"{line},x\n" for line in ["v", *cells]))
    assert [each.removesuffix(" str:'x'") for each in folder.seen("in.csv")] == seen


def test_csv_json_lines_and_parquet_give_a_model_the_same(folder: Folder) -> None:
    table = pa.table(
        {
            "i": [1, 2, 3],
            "n": [1, None, 3],
            "f": [1.0, 2.5, None],
            "t": ["x", None, "z"],
            "b": [True, False, True],
            "u": pa.array([2**64 - 1, 1, 2], pa.uint64()),
        }
    )
    seen = []
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        write_table(table, folder.path / name)
        seen.append(folder.seen(name))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][0] == "int:1 float:1.0 float:1.0 str:'x' bool:True int:18446744073709551615"


SIGNATURE = [
    ColSpec("boolean", "flag"),
    ColSpec("long", "n"),
    ColSpec("string", "zip"),
    ColSpec("datetime", "t"),
]


def test_a_signature_decides_what_csv_means(folder: Folder) -> None:
    folder.write(
        "in.csv",
        "flag,n,zip,t\nfalse,1,02134,2026-01-01\nTRUE, 2,7,2026-03-29T01:30:00\n"
        "0,3.0,x,2026-03-29T01:30:00+02:00\n",
    )
    assert folder.seen("in.csv", signature=SIGNATURE) == [
        "bool:False int:1 str:'02134' Timestamp:Timestamp('2026-01-01 00:00:00')",
        "bool:True int:2 str:'7' Timestamp:Timestamp('2026-03-29 01:30:00')",
        "bool:False int:3 str:'x' Timestamp:Timestamp('2026-03-28 23:30:00')",
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("yes,1,x,2026-01-01", "column 'flag': not a boolean (true, false, 1 or 0): 'yes'."),
        ("0,1.5,x,2026-01-01", "column 'n': not an integer (int64): '1.5'."),
        (
            "0,9223372036854775808,x,2026-01-01",
            "column 'n': out of the range of int64: '9223372036854775808'.",
        ),
        ("0,NA,x,2026-01-01", "column 'n': missing value: 'NA'."),
        ("0,1,x,01/02/2026", "column 't': not a value of type timestamp"),
    ],
)
def test_a_cell_that_is_not_what_a_signature_says_is_refused(row: str, said: str, folder: Folder) -> None:
    model = save_function(folder.path / "model", lambda frame: [0] * len(frame), inputs=SIGNATURE)
    source = folder.write("in.csv", f"flag,n,zip,t\n1,1,x,2026-01-01\n{row}\n")
    assert f"in.csv, line 3, {said}" in folder.refused(source, model=model)


def test_the_user_decides_types_and_words_of_missing_cells(folder: Folder) -> None:
    folder.write("in.csv", "a,b,c\n1,NA,?\n2,x,5\n")
    assert folder.seen("in.csv", column_types={"a": "string"}, null_values=["?"]) == [
        "str:'1' str:'NA' float:nan",
        "str:'2' str:'x' float:5.0",
    ]
    with pytest.raises(BatchError, match=r"unknown type 'strange'"):
        folder.run("in.csv", "out.csv", column_types={"a": "strange"})
    with pytest.raises(BatchError, match=r"has the column 'z', but the input does not"):
        folder.run("in.csv", "out.csv", column_types={"z": "string"})


def test_missing_numbers_are_nan_to_a_model_of_floats(folder: Folder) -> None:
    model = save(
        folder.path / "mixed.onnx",
        [helper.make_node("IsNaN", ["age"], ["unknown"]), helper.make_node("Identity", ["sex"], ["who"])],
        {"age": (TensorProto.FLOAT, ["rows"]), "sex": (TensorProto.STRING, ["rows"])},
        {"unknown": (TensorProto.BOOL, ["rows"]), "who": (TensorProto.STRING, ["rows"])},
    )
    folder.run(folder.write("in.csv", "age,sex\n22,male\n,female\n"), "out.csv", model)
    assert folder.text("out.csv").splitlines()[1:] == ["22,male,false,male", ",female,true,female"]
    said = folder.refused(folder.write("in.csv", "age,sex\n22,male\n40,\n"), "other.csv", model=model)
    assert said == "in.csv, line 3, column 'sex': missing value."


def test_types_of_parquet_come_back_as_they_were(folder: Folder) -> None:
    table = pa.table(
        {
            "v": [1.0, 2.0],
            "when": pa.array([0, None], pa.timestamp("us", "Europe/Berlin")),
            "day": pa.array([1, 2], pa.date32()),
            "price": [Decimal("1.10"), Decimal("2.20")],
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "list": [[1, 2], []],
            "blob": [b"\x00\xff", None],
            "kinds": pa.array([["x"], ["y"]], pa.large_list(pa.dictionary(pa.int32(), pa.large_string()))),
        }
    )
    pq.write_table(table, folder.path / "in.parquet")
    model = folder_model(folder, ["v"])
    for name in ("out.parquet", "out.arrow"):
        folder.run("in.parquet", name, model)
        rows = read_rows(folder.path / name)
        assert [{key: row[key] for key in table.schema.names} for row in rows] == table.to_pylist()
    folder.run("in.parquet", "out.csv", model)
    assert folder.text("out.csv") == (
        "v,when,day,price,kind,list,blob,kinds,prediction\n"
        '1.0,1970-01-01T01:00:00+0100,1970-01-02,1.10,x,"[1, 2]",AP8=,"[""x""]",1.0\n'
        '2.0,,1970-01-03,2.20,y,[],,"[""y""]",2.0\n'
    )


def test_times_and_durations_keep_their_digits(folder: Folder) -> None:
    durations = pa.array([1, -86_400 * 10**9, None], pa.duration("ns"))
    times = pa.array([0, 1_500, 1_000_000_000], pa.timestamp("ns"))
    pq.write_table(pa.table({"d": durations, "t": times, "v": [1.0, 2.0, 3.0]}), folder.path / "in.parquet")
    folder.run("in.parquet", "out.csv", folder_model(folder, ["v"]))
    assert folder.text("out.csv").splitlines()[1:] == [
        "P0DT0.000000001S,1970-01-01T00:00:00,1.0,1.0",
        "-P1DT0S,1970-01-01T00:00:00.0000015,2.0,2.0",
        ",1970-01-01T00:00:01,3.0,3.0",
    ]


# Rows that are refused ------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("workers", [1, 2])
def test_skipped_rows_are_listed_and_the_others_keep_their_order(workers: int, folder: Folder) -> None:
    rows = [["0", "0", str(row)] for row in range(200)] + [["1", "x", "3"], ["1", "2"], ["4", "5", "6"]]
    folder.write("in.csv", "a,b,c\n" + "".join(",".join(row) + "\n" for row in [*rows, ["1", "2", ""]]))
    errors = folder.path / "errors.csv"
    result = folder.run("in.csv", "out.csv", on_error="skip", errors_uri=str(errors), workers=workers)
    assert result == Result(202, 2)
    assert [row["prediction"] for row in read_rows(folder.path / "out.csv")] == [*range(200), 6, 2]
    assert errors.read_text().splitlines() == [
        "file,line,column,value,reason",
        f"{folder.path}/in.csv,202,b,x,not a number (float)",
        f"""{folder.path}/in.csv,203,,"1,2","expected 3 values, got 2\"""",
    ]


def test_a_job_whose_rows_are_all_refused_fails(folder: Folder) -> None:
    source = folder.write("in.jsonl", '{"a": "x", "b": 2, "c": 3}\n')
    assert (
        folder.refused(source, on_error="skip")
        == "in.jsonl has no rows that can be scored: all 1 were rejected."
    )


def test_a_quotation_mark_that_is_not_closed_is_refused(folder: Folder) -> None:
    folder.write("in.csv", 'a,b,c,text\n1,2,3,x\n4,5,6,"y\n7,8,9,z\n')
    model = folder_model(folder, ["a", "b", "c"])
    for options in ({}, {"on_error": "skip"}):
        said = folder.refused("in.csv", model=model, **options)
        assert said == "in.csv, line 3: a quotation mark is not closed."


def test_a_first_line_that_is_no_row_is_skipped_like_others(folder: Folder) -> None:
    folder.write("in.jsonl", 'oops\n\n{"a": NaN}\n{"a": 1, "b": 2, "c": 3}\n')
    assert "in.jsonl, line 1: not JSON" in folder.refused("in.jsonl")
    assert folder.run("in.jsonl", "out.csv", on_error="skip") == Result(1, 2)
    said = folder.refused(folder.write("none.jsonl", "oops\n"), "none.csv")
    assert "none.jsonl, line 1: not JSON" in said


def test_the_words_of_missing_cells_may_have_blanks_around_them(folder: Folder) -> None:
    source = folder.write("in.csv", "a,b,c\n 1.5, NA ,2\nbad,0,0\n")
    assert folder.run(source, "out.csv", on_error="skip") == Result(1, 1)


@pytest.mark.parametrize(
    ("output", "errors", "said"),
    [
        ("in/in.csv", None, "in.csv would be written, but is part of the input"),
        ("link.csv", None, "in.csv would be written, but is part of the input"),
        ("in/out.csv", None, "out.csv would be written, but is part of the input"),
        ("in/", None, "in would be written, but is part of the input"),
        ("out.csv", "in/in.csv", "in.csv would be written, but is part of the input"),
        ("out.csv", "link/../out.csv", "both the output and the rejected rows"),
        ("out.csv", "folder.csv", "folder.csv cannot be written: it is a folder"),
        ("folder.csv", None, "folder.csv cannot be written: it is a folder"),
        ("in.csv/", None, "in.csv/ cannot be written: Not a directory"),
    ],
)
def test_a_target_that_may_not_be_replaced_is_refused_first(
    output: str, errors: str | None, said: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("in", "link", "folder.csv"):
        (folder.path / name).mkdir()
    text = "a,b,c\n1,2,3\n"
    folder.write("in/in.csv", text)
    folder.write("in.csv", text)
    (folder.path / "link.csv").symlink_to(folder.path / "in" / "in.csv")
    monkeypatch.setattr(batch, "_scoring", lambda *_: pytest.fail("scored before it was refused"))
    options = {} if errors is None else {"on_error": "skip", "errors_uri": f"{folder.path}/{errors}"}
    with pytest.raises(BatchError, match=said):
        folder.run("in", output, **options)
    assert folder.text("in/in.csv") == text


def test_empty_files_of_a_folder_have_any_columns(folder: Folder) -> None:
    (folder.path / "in").mkdir()
    for name, text in (
        ("1", ""),
        ("2", '{"a": 1, "b": 2, "c": 3}\n'),
        ("3", "\n"),
        ("4", '{"a": 1, "b": 2, "c": 4}'),
    ):
        folder.write(f"in/{name}.jsonl", text)
    assert folder.run("in", "out.parquet") == Result(2, 0)
    assert [row["prediction"] for row in read_rows(folder.path / "out.parquet")] == [3, 4]
    assert folder.refused("in/[13].jsonl") == "in/1.jsonl has no rows."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_named_and_leaves_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    full = partial(os.open, "/dev/full", os.O_WRONLY)
    monkeypatch.setattr(batch_writing, "_opened", lambda path, size: os.fdopen(full(), "wb"))
    assert (
        folder.refused(folder.write("in.csv", "a,b,c\n1,2,3\n"))
        == "out.csv cannot be written: No space left on device."
    )


def test_unfinished_output_of_earlier_versions_is_replaced(folder: Folder) -> None:
    (folder.path / "work").write_text("half a fi")
    assert folder.run(folder.write("in.csv", "a,b,c\n1,2,3\n"), "out.csv") == Result(1, 0)


# Folders and object stores --------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
def test_a_folder_becomes_a_folder(folder: Folder) -> None:
    (folder.path / "in").mkdir()
    for name, columns in (("1.csv", "a,b,c"), ("2.csv", "c,a,b"), ("_SUCCESS", "")):
        folder.write(f"in/{name}", f"{columns}\n1,2,3\n" + "4,5,6\n" * 20)
    assert folder.run("in", "out/") == Result(42, 0)
    assert folder.run("in/[12].csv", "out/") == Result(42, 0)  # in the place of the earlier one
    parts = sorted((folder.path / "out").iterdir())
    assert [part.name for part in parts] == [f"part-{index:05}.csv" for index in range(len(parts))]
    rows = [row for part in parts for row in read_rows(part)]
    assert [tuple(row.values()) for row in rows[:2] + rows[21:23]] == [
        (1, 2, 3, 3.0),
        (4, 5, 6, 6.0),
        (2, 3, 1, 3.0),
        (5, 6, 4, 6.0),
    ]
    (folder.path / "out" / "notes.txt").touch()
    with pytest.raises(BatchError, match="files other than those of an earlier output"):
        folder.run("in", "out/")
    assert (folder.path / "out" / "notes.txt").exists()


def test_a_folder_may_name_its_format(folder: Folder) -> None:
    folder.run(folder.write("in.csv", "a,b,c\n1,2,3\n"), "out.parquet/")
    assert pq.read_table(folder.path / "out.parquet").column("prediction").to_pylist() == [3.0]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of an S3 server."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "only-for-the-test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("models")
        yield "s3://models"
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.mark.parametrize("suffix", [".csv.gz", ".parquet"])
def test_files_in_an_object_store(suffix: str, bucket: str, folder: Folder) -> None:
    import fsspec

    store = fsspec.filesystem("s3")
    write_table(ROWS, folder.path / f"rows{suffix}")
    store.put_file(str(folder.path / f"rows{suffix}"), f"models/in{suffix}/rows{suffix}")
    assert folder.run(f"{bucket}/in{suffix}/*{suffix}", f"{bucket}/out{suffix}") == Result(3, 0)
    store.get_file(f"models/out{suffix}", str(folder.path / f"out{suffix}"))
    assert [row["prediction"] for row in read_rows(folder.path / f"out{suffix}")] == MAXIMA
    folder.run(f"{bucket}/in{suffix}", f"{bucket}/parts{suffix}/")
    assert sorted(store.ls(f"models/parts{suffix}", detail=False, refresh=True)) == [
        f"models/parts{suffix}/_SUCCESS",
        f"models/parts{suffix}/part-00000{suffix}",
    ]
    with pytest.raises(BatchError, match="does not exist"):
        folder.run(f"{bucket}/nothing{suffix}", "out.csv")


# Jobs that are killed -------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from deployledger.serving import batch, batch_scoring, batch_writing
batch.CHUNK_BYTES = batch_scoring.CHUNK_BYTES = 64
batch_writing._COMMIT_BYTES = 1
commit, commits = batch_writing.Output._commit, []
def commit_and_die(self):
    commit(self)
    commits.append(self)
    if len(commits) == 3:
        self._data.write(b"begun, not committed")
        self._data.flush()
        os.kill(os.getpid(), signal.SIGKILL)
batch_writing.Output._commit = commit_and_die
batch.main(sys.argv[1:])
"""


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_killed_job_continues_after_the_last_commit(
    suffix: str, folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a job that was killed
    table = pa.table({name: [float(row) for row in range(200)] for name in "abc"})
    write_table(table, folder.path / f"in{suffix}")
    source, output = folder.path / f"in{suffix}", folder.path / f"out{suffix}"
    arguments = ["--model", str(folder.model), "--input", str(source), "--output", str(output)]
    arguments += ["--status", str(folder.path / "status.json")]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    (work,) = folder.path.glob(".out.*.partial")
    manifest = json.loads((work / "manifest.json").read_text())
    # when it is started again
    scored: list[Any] = []
    score = batch_scoring.Scoring.__call__
    monkeypatch.setattr(
        batch_scoring.Scoring, "__call__", lambda self, chunk: scored.append(chunk) or score(self, chunk)
    )
    assert batch.main(arguments) == 0
    # then it scores the rest, and the output is whole
    assert scored[0].before == manifest["rows"] + (suffix == ".csv")
    assert 0 < manifest["rows"] < 200
    assert f"Continuing after {manifest['rows']} rows." in capsys.readouterr().out
    rows = read_rows(output)
    assert [row["prediction"] for row in rows] == table.column("a").to_pylist()
    assert not work.exists()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("output", ["out.csv", "out.jsonl", "out.parquet", "out/"])
def test_a_job_killed_after_publishing_leaves_the_same(
    output: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write("in.csv", "a,b,c\n" + "".join(f"1,2,{row}\n" for row in range(200)) + "x,x,x\n")
    options = {"on_error": "skip", "errors_uri": str(folder.path / "errors.csv")}
    folder.run("in.csv", output, **options)  # an earlier output

    def contents() -> list[bytes]:
        files = [folder.path / "errors.csv", *sorted(folder.path.glob(f"{output.rstrip('/')}/part-*"))]
        return [file.read_bytes() for file in [*files, folder.path / output] if file.is_file()]

    written = contents()
    with monkeypatch.context() as killed:
        killed.setattr(batch_writing.Output, "discard", lambda self: None)
        killed.setattr(Folder, "leaves_work", True)
        folder.run("in.csv", output, **options)
    assert folder.run("in.csv", output, **options) == Result(200, 1)
    assert contents() == written


@pytest.mark.usefixtures("small_chunks")
def test_a_changed_input_starts_over(folder: Folder) -> None:
    source, output = folder.path / "in.csv", folder.path / "out.csv"
    source.write_text("a,b,c\n" + "1,2,3\n" * 200)
    arguments = ["--model", str(folder.model), "--input", str(source), "--output", str(output)]
    arguments += ["--status", str(folder.path / "status.json")]
    subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False, timeout=60)
    assert list(folder.path.glob(".out.*.partial"))
    source.write_text("a,b,c\n" + "1,2,4\n" * 200)
    os.utime(source, (1, 1))
    assert batch.main(arguments) == 0
    assert {row["prediction"] for row in read_rows(output)} == {4.0}


def test_a_status_has_rate_and_time_left(tmp_path: Path) -> None:
    status = StatusFile(tmp_path / "status.json", tmp_path / "work")
    status.progress(0, 0.0)
    status._written = 0.0  # a moment ago
    status.progress(100, 0.25)
    known = json.loads((tmp_path / "status.json").read_text())
    assert (known["done"], known["part"], known["total"]) == (100, 0.25, None)
    assert known["rate"] > 0
    assert known["seconds_left"] == pytest.approx(3 * 100 / known["rate"])
